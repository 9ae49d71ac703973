"""Adapters: for each family of golden files, how our implementation computes what they hold.

`tests/parity/adapters/<anything>.py` is found by itself. A function

    @adapter("mixstyle", r"op_(random|crossdomain.*)")
    def op(golden: Golden) -> None: ...

serves every file of that system whose component the expression matches in full.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
import re
import traceback
from collections.abc import Callable

from tests.parity.golden import Golden
from tests.parity.weights import GoldenError

Run = Callable[[Golden], None]


@dataclasses.dataclass(frozen=True)
class Adapter:
    system: str
    component: re.Pattern[str]
    run: Run


_REGISTERED: list[Adapter] = []


def adapter(system: str, component: str) -> Callable[[Run], Run]:
    """Registers a function for `<system>__<component>.npz`; `component` is a regular expression."""

    def register(run: Run) -> Run:
        _REGISTERED.append(Adapter(system, re.compile(component), run))
        return run

    return register


@functools.cache
def broken_modules() -> dict[str, str]:
    """Imports every adapter module once; module name -> traceback of those that failed.

    One system's broken module must not hide the results of the others.
    """
    broken = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        try:
            importlib.import_module(module.name)
        except Exception:
            broken[module.name] = traceback.format_exc()
    return broken


def adapter_for(golden: Golden) -> Adapter:
    """The one adapter of a file. Raises GoldenError where there is none, or more than one."""
    broken = broken_modules()
    system, _, component = golden.path.stem.partition("__")
    for name in dict.fromkeys((golden.meta.get("component", component), component)):
        found = [
            entry
            for entry in _REGISTERED
            if entry.system == golden.meta.get("system", system) and entry.component.fullmatch(name)
        ]
        if len(found) > 1:
            names = ", ".join(entry.component.pattern for entry in found)
            raise GoldenError(f"{golden.path.name}: several adapters match: {names}")
        if found:
            return found[0]
    raise GoldenError(
        "\n".join(
            [
                f"{golden.path.name}: no adapter for system {system!r}, component {component!r}:",
                "write one in tests/parity/adapters with @adapter(system, component_regex)",
                *(f"{name} could not be imported:\n{text}" for name, text in broken.items()),
            ]
        )
    )
