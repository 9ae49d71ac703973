"""What `plan` and `bench` count with: chips, slices, compiled programs and their arithmetic."""
