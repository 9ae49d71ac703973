"""How figures become HTML and pictures; `jaxcog.report` is the door."""
