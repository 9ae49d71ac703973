"""Device memory of a compiled program, by what it is for."""

from __future__ import annotations

from typing import Any

from jaxcog.planning.hardware import size_text


def compiled_bytes(compiled: Any) -> int:
    """Device memory of one compiled step: arguments, results, temporaries and code, in bytes."""
    return sum(_parts(compiled).values())


def memory_line(compiled: Any) -> str:
    """The same for a person: "memory per device 1.2 GiB: arguments 0.9 GiB, ..."."""
    parts = _parts(compiled)
    shown = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items() if size > 0)
    return f"memory per device {size_text(sum(parts.values()))}: {shown}"


def _parts(compiled: Any) -> dict[str, int]:
    memory = compiled.memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
