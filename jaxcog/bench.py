"""How fast a configuration trains on the devices there are, and what holds it back."""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcog.config import Experiment, override
from jaxcog.data.pipeline import LocalBatch
from jaxcog.data.types import Splits
from jaxcog.errors import ConfigError
from jaxcog.planning.flops import program_flops
from jaxcog.planning.hardware import peak_flops, size_text
from jaxcog.planning.memory import compiled_bytes
from jaxcog.task import State
from jaxcog.training import evaluation, loop, sharding, start
from jaxcog.training.program import Program, assemble
from jaxcog.training.progress import Silent
from jaxcog.training.writers import MetricsWriter, StepLog

_WARM_UP = 3  # the first batches and steps, not timed; later measurements reuse these batches
_LEAST_SECONDS = 0.3  # of reading batches, so that a fast pipeline is not timed by its first ones
_MAX_BATCHES = 10_000


@dataclasses.dataclass(frozen=True)
class EvaluationRate:
    """Examples evaluated per second: in batches, and one at a time (one a device, on several).

    Both go through the same examples in alternating blocks; ratio is the median of their ratios,
    ratio_range the smallest and largest.
    """

    batch_size: int
    examples_per_second: float
    one_at_a_time_per_second: float
    ratio: float
    ratio_range: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.ratio_range
        return (
            f"{self.examples_per_second:.1f} examples/s in batches of {self.batch_size}, "
            f"{self.one_at_a_time_per_second:.1f} one at a time: {self.ratio:.2f} times "
            f"({low:.2f} to {high:.2f})"
        )


@dataclasses.dataclass(frozen=True)
class BenchReport:
    """Measurements of one configuration on one process's devices.

    compile_seconds: from the traced step to an executable.
    step_seconds, step_seconds_p10, step_seconds_p90: of one update on a batch that is already on
      the devices, each waited for.
    examples_per_second: the global batch over step_seconds.
    flops_per_step: of the matrix products and convolutions of the step as written, all devices.
    mfu: of the devices' published bfloat16 peak; None where it is not known.
    input_batches_per_second: the pipeline alone, without placing batches on devices; None (as is
      input_examples_per_second) on made-up batches.
    peak_memory_bytes: of the fullest device; peak_memory_source says whether the device counted it
      or it is what the compiler reserves for the step.
    loop_over_bare_step: the training loop's time per update (placing batches, reading and writing
      metrics) over that of the jitted step in a bare Python loop; median of interleaved blocks.
    loop_over_bare_step_range: the smallest and largest of these ratios.
    evaluation: of the first evaluation split; None where it was not asked for.
    """

    config: str
    device: str
    devices: int
    batch_size: int
    steps: int
    compile_seconds: float
    step_seconds: float
    step_seconds_p10: float
    step_seconds_p90: float
    examples_per_second: float
    flops_per_step: int
    mfu: float | None
    input_batches_per_second: float | None
    input_examples_per_second: float | None
    peak_memory_bytes: int
    peak_memory_source: str
    loop_over_bare_step: float
    loop_over_bare_step_range: tuple[float, float]
    notes: tuple[str, ...] = ()
    evaluation: EvaluationRate | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the names of the fields."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def text(self) -> str:
        """The same for a person: one line a figure, then the notes."""
        low, high = self.loop_over_bare_step_range
        read = "not measured: made-up batches"
        if self.input_batches_per_second is not None:
            read = f"{self.input_batches_per_second:.2f} batches/s, "
            read += f"{self.input_examples_per_second:.1f} examples/s"
        rows = [
            ("devices", f"{self.devices} x {self.device}"),
            ("batch size", f"{self.batch_size} (global)"),
            ("compile time", f"{self.compile_seconds:.2f} s"),
            (
                "step time",
                f"{self.step_seconds * 1e3:.3f} ms (10%: {self.step_seconds_p10 * 1e3:.3f}, "
                f"90%: {self.step_seconds_p90 * 1e3:.3f}; {self.steps} steps)",
            ),
            ("examples per second", f"{self.examples_per_second:.1f}"),
            ("FLOPs per step", f"{self.flops_per_step:.4g}"),
            ("MFU", "peak not known" if self.mfu is None else f"{self.mfu:.1%}"),
            ("input pipeline", read),
            ("peak memory", f"{size_text(self.peak_memory_bytes)} ({self.peak_memory_source})"),
            ("loop / bare step", f"{self.loop_over_bare_step:.3f} ({low:.3f} to {high:.3f})"),
        ]
        if self.evaluation is not None:
            rows.append(("evaluation", str(self.evaluation)))
        width = max(len(name) for name, _ in rows)
        lines = [
            f"bench of {self.config}",
            *(f"  {name:<{width}}  {value}" for name, value in rows),
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def bench(
    experiment: Experiment,
    *,
    name: str | None = None,
    steps: int = 30,
    repeats: int = 5,
    with_evaluation: bool = False,
    synthetic: bool = False,
) -> BenchReport:
    """Measures `experiment` from a fresh state; leaves nothing behind.

    Args:
      name: of the experiment, in the report; its system by default.
      steps: updates to time one by one, and batches to time the pipeline with.
      repeats: pairs of blocks of `steps` updates that compare the loop with the bare step.
      with_evaluation: whether to compare evaluation in batches with one example at a time.
      synthetic: whether to time the step on made-up batches of the data's shapes, so that no data
        need be there: noise, and class 0 and token 0 throughout. Images are numbers then, also
        where training sends them as bytes.

    Raises:
      ConfigError: fewer than one step or repeat, or evaluation of made-up batches.
      UserError: as training would.
    """
    if steps < 1 or repeats < 1:
        raise ConfigError(f"steps={steps}, repeats={repeats}: both must be at least 1")
    if synthetic and with_evaluation:
        raise ConfigError("evaluation needs data: leave out either --synthetic or --evaluation")
    splits: Splits | None = None
    if synthetic:
        mesh = sharding.make_mesh(experiment.mesh)
        program = assemble(experiment, experiment.data.describe(), mesh)
    else:
        splits = experiment.data.load()
        program = start.assemble_for(experiment, splits)
    key = program.root_key()
    flops = program_flops(program.train_step.trace(*_structs(program)).jaxpr)
    program, compile_seconds = program.compiled()
    rate = batches_per_second = None
    if splits is None:
        held = [_made_up(program)]
    else:
        splits = start.embedded(program, program.init(key), splits)
        held, batches_per_second = _input_pipeline(program, splits, steps)
        rate = _evaluation_rate(program, splits, repeats) if with_evaluation else None

    state, times = _step_times(program, program.init(key), held, key, steps)
    ratios = _loop_ratios(program, state, held, key, steps, repeats)
    seconds = statistics.median(times)
    device = program.mesh.devices.flat[0]
    peak = peak_flops(device.device_kind)
    memory, source = _peak_memory(program)
    batch_size = experiment.train.batch_size
    return BenchReport(
        config=name or experiment.system,
        device=device.device_kind,
        devices=program.mesh.size,
        batch_size=batch_size,
        steps=steps,
        compile_seconds=compile_seconds,
        step_seconds=seconds,
        step_seconds_p10=float(np.quantile(times, 0.1)),
        step_seconds_p90=float(np.quantile(times, 0.9)),
        examples_per_second=batch_size / seconds,
        flops_per_step=flops,
        mfu=flops / (seconds * peak * program.mesh.size) if peak else None,
        input_batches_per_second=batches_per_second,
        input_examples_per_second=batches_per_second and batches_per_second * batch_size,
        peak_memory_bytes=memory,
        peak_memory_source=source,
        loop_over_bare_step=statistics.median(ratios),
        loop_over_bare_step_range=(min(ratios), max(ratios)),
        notes=_notes(program, batches_per_second, seconds),
        evaluation=rate,
    )


def _structs(program: Program) -> tuple[Any, Any, Any]:
    return program.state_struct, program.batch_struct, jax.eval_shape(lambda: jax.random.key(0))


def _input_pipeline(program: Program, splits: Splits, steps: int) -> tuple[list[LocalBatch], float]:
    """(a few batches, batches per second of the pipeline alone)."""
    # The pipeline may run past the end of a short run: a batch is a function of its step alone.
    longer = dataclasses.replace(program.setting, steps=_WARM_UP + _MAX_BATCHES)
    batches = start.batches(dataclasses.replace(program, setting=longer), splits, 0, Silent())
    if callable(batches):
        state = program.init(program.root_key())
        batches = batches(lambda: state)
    try:
        held = list(islice(batches, _WARM_UP))
        began = time.perf_counter()
        for count in range(1, _MAX_BATCHES + 1):
            next(batches)
            seconds = time.perf_counter() - began
            if count >= steps and seconds > _LEAST_SECONDS:
                break
    finally:
        batches.close()
    return held, count / seconds


def _made_up(program: Program) -> LocalBatch:
    """A batch that no data set made, of the right shapes and types; this process's rows."""
    rng = np.random.default_rng(0)

    def draw(wanted: jax.ShapeDtypeStruct, where: jax.sharding.Sharding) -> np.ndarray:
        shape = (len(sharding.local_rows(where, wanted.shape)), *wanted.shape[1:])
        if wanted.dtype == np.uint8:
            return rng.integers(0, 256, shape, np.uint8)
        if np.issubdtype(wanted.dtype, np.floating):
            return rng.random(shape, np.float32).astype(wanted.dtype)
        return np.zeros(shape, wanted.dtype)  # valid as an index wherever anything is

    arrays = jax.tree.map(draw, program.batch_struct, program.batch_shardings)
    return LocalBatch(arrays, step=0, indices={}, sources={})


def _step_times(
    program: Program, state: State, held: Sequence[LocalBatch], key: jax.Array, steps: int
) -> tuple[State, list[float]]:
    """(state, seconds of every single update, each waited for), after warming up."""
    placed = _place(program, held)
    times = []
    for arrays in islice(cycle(placed), _WARM_UP + steps):
        began = time.perf_counter()
        state, scalars = program.train_step(state, arrays, key)
        jax.block_until_ready((state, scalars))
        times.append(time.perf_counter() - began)
    return state, times[_WARM_UP:]


def _loop_ratios(
    program: Program,
    state: State,
    held: Sequence[LocalBatch],
    key: jax.Array,
    steps: int,
    repeats: int,
) -> list[float]:
    """The loop's time over the bare step's, one ratio for each pair of neighbouring blocks."""
    placed = _place(program, held)

    def bare(state: State) -> State:
        for arrays in islice(cycle(placed), steps):
            state, scalars = program.train_step(state, arrays, key)
        return jax.block_until_ready((state, scalars))[0]

    with tempfile.TemporaryDirectory() as folder:
        writer = MetricsWriter(Path(folder), resume_step=0)
        began = time.monotonic()

        def record(step: int, values: dict[str, float], _: Any) -> None:
            writer.write(step, "train", time.monotonic() - began, values)

        def looped(state: State) -> State:
            log = StepLog(program.scalar_names, record)
            for _, updated in loop.updates(program, state, _numbered(held, steps), key, log):
                state = updated
            log.flush()
            return jax.block_until_ready(state)

        ratios = []
        for repeat in range(repeats):
            # Alternating which goes first keeps a drift of the machine out of the ratio.
            order = (bare, looped) if repeat % 2 == 0 else (looped, bare)
            seconds = {}
            for block in order:
                state, seconds[block] = _timed(block, state)
            ratios.append(seconds[looped] / seconds[bare])
        writer.close()
    return ratios


def _timed(block: Callable[[State], State], state: State) -> tuple[State, float]:
    began = time.perf_counter()
    state = block(state)
    return state, time.perf_counter() - began


def _evaluation_rate(program: Program, splits: Splits, repeats: int) -> EvaluationRate:
    state = program.init(program.root_key())
    stream = next(iter(splits.evaluation.values()))
    arrays = next(iter(evaluation.batches(program, state, stream))).arrays
    one = override(program.experiment, {"train.eval_batch_size": 1})
    single = start.assemble_for(one, splits, list(program.mesh.devices.flat))
    count, size = len(arrays["mask"]), single.eval_struct["mask"].shape[0]

    def through(chosen: Program, size: int) -> Callable[[], None]:
        parts = [
            {name: arrays[name][first : first + size] for name in chosen.eval_struct}
            for first in range(0, count - count % size, size)
        ]
        placed = [sharding.place(p, chosen.eval_shardings, chosen.eval_struct) for p in parts]

        def run() -> None:
            for part in placed:
                jax.block_until_ready(chosen.eval_step(state, part))

        return run

    blocks = through(program, count), through(single, size)
    for block in blocks:
        block()
    times = np.zeros((repeats, 2))
    for repeat in range(repeats):
        for which in (0, 1) if repeat % 2 == 0 else (1, 0):
            began = time.perf_counter()
            blocks[which]()
            times[repeat, which] = time.perf_counter() - began
    ratios = times[:, 1] / times[:, 0]
    whole, each = np.median(times, axis=0)
    return EvaluationRate(
        batch_size=count,
        examples_per_second=count / float(whole),
        one_at_a_time_per_second=count / float(each),
        ratio=float(np.median(ratios)),
        ratio_range=(float(ratios.min()), float(ratios.max())),
    )


def _numbered(held: Sequence[LocalBatch], steps: int) -> Generator[LocalBatch, None, None]:
    for step, batch in enumerate(islice(cycle(held), steps)):
        yield dataclasses.replace(batch, step=step)


def _place(program: Program, held: Sequence[LocalBatch]) -> list[Any]:
    shapes = jax.tree.map(lambda leaf: leaf.shape, program.batch_struct)
    return [sharding.place(batch.arrays, program.batch_shardings, shapes) for batch in held]


def _peak_memory(program: Program) -> tuple[int, str]:
    counted = [device.memory_stats() or {} for device in program.mesh.local_devices]
    peaks = [stats["peak_bytes_in_use"] for stats in counted if "peak_bytes_in_use" in stats]
    if peaks:
        return max(peaks), "counted by the device"
    return compiled_bytes(program.train_step), "reserved by the compiled step"


def _notes(program: Program, batches_per_second: float | None, seconds: float) -> tuple[str, ...]:
    notes = []
    if batches_per_second is None:
        notes.append(
            "made-up images travel as numbers; where training sends them as bytes (see "
            "jaxcog.data.device_normalise), its loop / bare step is lower"
        )
    if batches_per_second is not None and batches_per_second * seconds < 1:
        notes.append(
            f"the input pipeline ({batches_per_second:.2f} batches/s) is slower than the step "
            f"({1 / seconds:.2f}/s): training will wait for it; raise train.workers"
        )
    if program.experiment.train.dtype == "float32" and peak_flops(
        program.mesh.devices.flat[0].device_kind
    ):
        notes.append("the step computes in float32 and MFU is of the bfloat16 peak")
    return tuple(notes)
