"""Evaluation: pure steps, metric states merged over batches, the paper's metrics at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from jaxcog.data import pipeline, samples
from jaxcog.data.device_normalise import without_normalise
from jaxcog.data.types import Experience, Splits, Stream
from jaxcog.metrics.state import merge
from jaxcog.task import State
from jaxcog.training import experience, sharding
from jaxcog.training.program import Program, evaluation_batch


def evaluate(
    program: Program,
    state: State,
    splits: Splits,
    *,
    on_batch: Callable[[], None] = lambda: None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """(the paper's metrics, the merged metric states of each split).

    An exception gains the split's name before it goes on.
    """
    merged = {}
    for name, stream in splits.evaluation.items():
        try:
            merged[name] = _evaluate_split(program, state, stream, on_batch)
        except Exception as error:
            error.add_note(f'while evaluating the split "{name}"')
            raise
    return program.task.summarize(merged), merged


def _evaluate_split(
    program: Program, state: State, stream: Stream | Experience, on_batch: Callable[[], None]
) -> Any:
    total = None
    pending = None
    for batch in batches(program, state, stream):
        arrays = {name: batch.arrays[name] for name in program.eval_struct}
        placed = sharding.place(arrays, program.eval_shardings, program.eval_struct)
        states = program.eval_step(state, placed)
        # One batch late: the device computes the next one while the host merges this one.
        total = _merge(total, pending)
        pending = states
        on_batch()
    return _merge(total, pending)


def batches(
    program: Program, state: State, stream: Stream | Experience
) -> Iterator[pipeline.LocalBatch]:
    """This process's part of every batch of a split."""
    if isinstance(stream, Experience):
        return experience.episodes(program, state, stream)
    size = evaluation_batch(program.experiment, program.mesh)
    rows = sharding.local_rows(program.eval_shardings["mask"], (size,))
    stream = without_normalise(stream) if program.eval_normalises else stream
    return pipeline.eval_batches(stream, batch_size=size, rows=rows)


def _merge(total: Any, states: Any) -> Any:
    if states is None:
        return total
    states = jax.device_get(states)
    return states if total is None else merge(total, states)


def examples(program: Program, state: State, splits: Splits) -> dict[str, dict[str, Any]]:
    """What `Task.figures` gets to see: a split's first examples, or an episode played in it."""
    return {
        name: experience.recorded(program, state, stream)
        if isinstance(stream, Experience)
        else samples.sample_arrays(stream, program.task.samples)
        for name, stream in splits.evaluation.items()
    }


def headline_of(program: Program, metrics: Mapping[str, float]) -> float:
    """The value by which the best checkpoint is chosen."""
    return float(metrics[program.task.headline])
