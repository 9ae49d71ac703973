"""TPU slices by name, such as "v5e:4x4", and their devices without having any."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from typing import Any

from jax.experimental import topologies

from jaxcog.errors import ConfigError
from jaxcog.planning.hardware import TPUS, TpuChip

_EXAMPLES = {
    "v4": "2x2x1, 2x2x2, 4x4x4",
    "v5e": "1x1, 2x2, 2x4, 4x4, 16x16",
    "v5p": "2x2x1, 2x2x2, 4x4x4",
    "v6e": "1x1, 2x2, 2x4, 4x4, 16x16",
}

# No chip is asked for: without these the library looks for one (on the network and in a lock file
# that admits one process), and a second plan on the same machine, or a stale lock, would fail.
_COMPILE_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any that exists; the slice is given by name
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A TPU slice: `shape` chips of one kind along each dimension of the torus."""

    chip: TpuChip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"


def parse(text: str) -> Topology:
    """The slice called `text`: generation, colon, chips along each dimension ("v5p:2x2x2").

    Raises:
      ConfigError: the generation or the shape does not exist; the message lists what does.
    """
    known = "; ".join(f"{name}: {_EXAMPLES[name]}" for name in TPUS)
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text.strip().lower())
    if match is None or match[1] not in TPUS:
        raise ConfigError(
            f'--topology "{text}": write a generation and the chips along each dimension, such as '
            f'"v5e:4x4". Known are {known}'
        )
    chip = TPUS[match[1]]
    shape = tuple(int(number) for number in match[2].split("x"))
    if len(shape) == 2 and chip.dimensions == 3:
        shape = (*shape, 1)
    problem = _problem(chip, shape)
    if problem:
        raise ConfigError(
            f'--topology "{text}": {problem}. Shapes of {chip.name} are for example '
            f"{_EXAMPLES[chip.name]} (known generations: {', '.join(TPUS)})"
        )
    return Topology(chip, shape)


def scaled(topology: Topology, times: int) -> Topology | None:
    """A slice of the same kind with `times` (a power of two) the chips; None: there is none.

    The shortest dimension is doubled first, so that the torus stays as even as it can be.
    """
    shape = list(topology.shape)
    while times > 1:
        shape[shape.index(min(shape))] *= 2
        times //= 2
    larger = Topology(topology.chip, tuple(sorted(shape)))
    return None if _problem(larger.chip, larger.shape) else larger


def can_compile() -> bool:
    """Whether the TPU compiler (libtpu, of the extra `jaxcog[tpu]`) is installed."""
    return importlib.util.find_spec("libtpu") is not None


def devices(topology: Topology) -> list[Any]:
    """The slice's devices, to compile for and not to run on; needs libtpu (see `can_compile`)."""
    options: dict[str, Any] = {"chip_config_name": topology.chip.config}
    if topology.chips < math.prod(topology.chip.host):
        options["chips_per_host_bounds"] = (*topology.shape, 1)[:3]
    with _environment(_COMPILE_ONLY):
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=str(topology), **options
        )
    return list(description.devices)


def _problem(chip: TpuChip, shape: tuple[int, ...]) -> str | None:
    if len(shape) != chip.dimensions:
        return f"{chip.name} slices have {chip.dimensions} dimensions"
    chips = math.prod(shape)
    if chips == 0 or chips > chip.max_chips:
        return f"{chips} chips; a slice has 1 to {chip.max_chips}"
    if chips > 1 and any(n % host for n, host in zip(shape, chip.host, strict=True)):
        unit = "x".join(map(str, chip.host))
        return f"a slice of several chips is made of hosts of {unit}, and this does not divide"
    return None


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Sets what the user has not set, and puts it back: the library reads it when it loads."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
