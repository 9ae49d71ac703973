"""What a training step needs on a TPU slice, found without having one.

With the TPU compiler (the extra `jaxcog[tpu]`, which needs no TPU) the real train step is compiled
for the slice. Without it the step is only lowered, and what follows from shapes is reported.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax

from jaxcog.config import Experiment
from jaxcog.planning import costs, topology
from jaxcog.planning.flops import program_flops
from jaxcog.planning.hardware import size_text
from jaxcog.planning.memory import compiled_bytes
from jaxcog.training import sharding
from jaxcog.training.program import Program, assemble

_WITHOUT_COMPILER = (
    "no TPU compiler is installed: memory is what state and batch take, without activations, "
    "and time and traffic are unknown. `pip install 'jaxcog[tpu]'` (no TPU needed) adds them"
)
_NO_TEXT = (
    "the compiled program cannot be read ({}). Memory is the compiler's; FLOPs are those of matrix "
    "products and convolutions as written; time and traffic are unknown"
)
_UNKNOWN: dict[str, Any] = {
    "estimated_step_seconds": None,
    "estimated_mfu": None,
    "collective_bytes": None,
}
_CONVOLVES = re.compile(r" convolution\([^\n]*window=\{size=\d+x\d")
_TIME = (
    "estimated_step_seconds: the compiler's cycles over the clock, plus the collectives that "
    "nothing overlaps at the links' full rate (or the state's way through memory, if longer); it "
    "contains no input pipeline, no latency of collectives and no asynchronous copies, so take it "
    "as a lower bound"
)


@dataclasses.dataclass(frozen=True)
class PlanReport:
    """A plan; bytes, FLOPs and seconds are per chip and training step.

    fits: None where only a lower bound of the memory is known and it does not exceed the capacity.
    hbm_bytes_per_chip: arguments, results, temporaries and code of the compiled step (method
      "tpu-aot"), or a lower bound (method "abstract").
    hbm_capacity_bytes: what a program may use of a chip's memory.
    flops_per_chip: of the compiled step, loops counted as often as they run ("tpu-aot"); of the
      matrix products and convolutions of the step as written over the chips ("abstract").
    estimated_mfu: flops_per_chip over what the chip could do in estimated_step_seconds (bfloat16).
    collective_bytes: kind -> payload; the larger of what a chip puts in and what it gets.
    parameters: elements under "params" of the state. notes: what a reader must know of the figures.
    """

    config: str
    topology: str
    method: str
    fits: bool | None
    chips: int
    hbm_bytes_per_chip: int | None
    hbm_capacity_bytes: int
    flops_per_chip: float
    estimated_step_seconds: float | None
    estimated_mfu: float | None
    collective_bytes: dict[str, int] | None
    parameters: int
    parameter_bytes_per_chip: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the names of the fields."""
        return {**dataclasses.asdict(self), "notes": list(self.notes)}

    def text(self) -> str:
        """The same for a person: one line a figure, then the notes."""
        answer = {True: "yes", False: "NO", None: "not known (lower bound only)"}
        memory = "not known"
        if self.hbm_bytes_per_chip is not None:
            least = "at least " if self.method == "abstract" else ""
            share = self.hbm_bytes_per_chip / self.hbm_capacity_bytes
            memory = f"{least}{size_text(self.hbm_bytes_per_chip)}, {share:.1%} of "
            memory += size_text(self.hbm_capacity_bytes)
        rows = [
            ("slice", f"{self.topology}, {self.chips} chips"),
            ("method", self.method),
            ("fits", answer[self.fits]),
            ("memory per chip", memory),
            (
                "parameters",
                f"{self.parameters:,} ({size_text(self.parameter_bytes_per_chip)} per chip)",
            ),
            ("FLOPs per chip and step", f"{self.flops_per_chip:.4g}"),
            ("estimated step time", _or_unknown(self.estimated_step_seconds, _milliseconds)),
            ("estimated MFU", _or_unknown(self.estimated_mfu, "{:.1%}".format)),
            ("collectives per chip", _or_unknown(self.collective_bytes, _traffic)),
        ]
        width = max(len(name) for name, _ in rows)
        lines = [f"plan of {self.config}", *(f"  {name:<{width}}  {value}" for name, value in rows)]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def plan(experiment: Experiment, topology_name: str, *, name: str | None = None) -> PlanReport:
    """Compiles the train step of `experiment` for a TPU slice and reports what it takes.

    Args:
      topology_name: such as "v5e:4x4" or "v5p:2x2x2".
      name: of the experiment, in the report; its system by default.

    Raises:
      ConfigError: no such slice, or mesh and batch do not divide over its chips.
    """
    slice_ = topology.parse(topology_name)
    name = name or experiment.system
    if not topology.can_compile():
        shape = sharding.abstract_mesh(experiment.mesh, slice_.chips)
        return abstract_plan(assemble(experiment, experiment.data.describe(), shape), slice_, name)
    mesh = sharding.make_mesh(experiment.mesh, topology.devices(slice_))
    return compiled_plan(assemble(experiment, experiment.data.describe(), mesh), slice_, name)


def abstract_plan(program: Program, slice_: topology.Topology, config: str) -> PlanReport:
    """What follows from lowering `program` (on an abstract mesh) for TPU, without its compiler."""
    program.lower_train_step("tpu")
    least = _bytes_per_chip(program.state_struct, program.state_shardings)
    least += _bytes_per_chip(program.batch_struct, program.batch_shardings)
    return PlanReport(
        method="abstract",
        fits=False if least > slice_.chip.hbm_bytes else None,
        hbm_bytes_per_chip=least,
        flops_per_chip=_written_flops(program) / slice_.chips,
        **_UNKNOWN,
        notes=(_WITHOUT_COMPILER,),
        **_common(program, slice_, config),
    )


def compiled_plan(program: Program, slice_: topology.Topology, config: str) -> PlanReport:
    """What the TPU compiler says of `program`, whose mesh is made of the slice's devices."""
    lowered = program.lower_train_step()
    written = _written_flops(program) / slice_.chips
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = out_of_memory(str(error))
        if needed is None:
            raise
        return PlanReport(
            method="tpu-aot",
            fits=False,
            hbm_bytes_per_chip=needed or None,
            flops_per_chip=written,
            **_UNKNOWN,
            notes=(
                f"the compiler ran out of memory: {str(error).splitlines()[0]}",
                "use more chips, a smaller batch, bfloat16, mesh.fsdp or accumulated gradients",
            ),
            **_common(program, slice_, config),
        )
    return _measured(program, slice_, config, compiled, written)


def out_of_memory(message: str) -> int | None:
    """Bytes per chip that XLA's message says the program needs; 0 where it gives no number.

    None: the message is not about the chip's main memory.
    """
    lowered = message.lower()
    if "resource_exhausted" not in lowered or "hbm" not in lowered:
        return None
    found = [
        re.search(pattern, message, re.IGNORECASE)
        for pattern in (
            r"total hbm usage >= ([\d.]+)([KMGT]?)",
            r"used ([\d.]+)([KMGT]?)i?B? of [\d.]+[KMGT]?i?B? hbm",
            r"memory required for HLO temporaries \(([\d.]+)([KMGT]?)",
        )
    ]
    match = next((one for one in found if one), None)
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " ")) if match else 0


def _measured(
    program: Program, slice_: topology.Topology, config: str, compiled: Any, written: float
) -> PlanReport:
    chip = slice_.chip
    memory = compiled_bytes(compiled)
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:  # an instruction that JAX does not know, perhaps
        return PlanReport(
            method="tpu-aot",
            fits=memory <= chip.hbm_bytes,
            hbm_bytes_per_chip=memory,
            flops_per_chip=written,
            **_UNKNOWN,
            notes=(_NO_TEXT.format(str(error).splitlines()[0]),),
            **_common(program, slice_, config),
        )
    found = costs.costs(text)
    # XLA's own count holds every operation, but a loop's body once.
    flops = compiled.cost_analysis()["flops"] + found.flops - found.flops_once
    alone = found.transfer_seconds(chip.ici_bandwidth, slice_.chips, overlapped=False)
    beside = found.transfer_seconds(chip.ici_bandwidth, slice_.chips, overlapped=True)
    sizes = compiled.memory_analysis()
    moved = (sizes.argument_size_in_bytes + sizes.output_size_in_bytes) / chip.hbm_bandwidth
    seconds = max(found.cycles / chip.clock_hz + alone, beside, moved)
    counts = ", ".join(f"{count} {kind}" for kind, count in found.collective_counts().items())
    notes = [_TIME, f"collectives per step: {counts or 'none'}"]
    if written and abs(flops / written - 1) > 0.05:
        notes.append(
            f"the step as written has {written:.4g} FLOPs per chip in matrix products and "
            "convolutions; the compiled one differs by elementwise work, by what the compiler "
            "repeats on every chip, and by what it saves"
        )
    if _CONVOLVES.search(text):
        notes.extend(_eights(program))
    if found.unknown_loops:
        notes.append(
            f"{found.unknown_loops} loops of unknown length are counted as one iteration each"
        )
    return PlanReport(
        method="tpu-aot",
        fits=memory <= chip.hbm_bytes,
        hbm_bytes_per_chip=memory,
        flops_per_chip=flops,
        estimated_step_seconds=seconds,
        estimated_mfu=flops / (seconds * chip.peak_flops) if seconds else None,
        collective_bytes=found.collective_bytes(),
        notes=tuple(notes),
        **_common(program, slice_, config),
    )


def _eights(program: Program) -> list[str]:
    """Advice where what a chip has of the batch is no multiple of eight."""
    shards = math.prod(program.mesh.shape[axis] for axis in sharding.BATCH_AXES)
    each = program.experiment.train.batch_size // shards
    if each % 8 == 0:
        return []
    return [
        f"{each} of the batch a chip: this compiler's convolutions are made for images by eights; "
        f"a batch of {-(-each // 8) * 8 * shards} may give more examples a second "
        "(jaxcog/docs/scale.md)"
    ]


def _common(program: Program, slice_: topology.Topology, config: str) -> dict[str, Any]:
    params = program.state_struct["params"]
    return {
        "config": config,
        "topology": str(slice_),
        "chips": slice_.chips,
        "hbm_capacity_bytes": slice_.chip.hbm_bytes,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
        "parameter_bytes_per_chip": _bytes_per_chip(params, program.state_shardings["params"]),
    }


def _written_flops(program: Program) -> int:
    key = jax.eval_shape(lambda: jax.random.key(0))
    traced = program.train_step.trace(program.state_struct, program.batch_struct, key)
    return program_flops(traced.jaxpr)


def _bytes_per_chip(struct: Any, shardings: Any) -> int:
    def one(leaf: Any, placed: Any) -> int:
        return math.prod(placed.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(jax.tree.leaves(jax.tree.map(one, struct, shardings)))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"


def _traffic(kinds: dict[str, int]) -> str:
    return ", ".join(f"{kind} {size_text(count)}" for kind, count in kinds.items()) or "none"


def _or_unknown(value: Any, write: Any) -> str:
    return "not known" if value is None else write(value)
