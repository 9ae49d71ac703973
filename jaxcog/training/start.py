"""How a run begins: mesh and program, a restored or fresh state, the batches from there."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcog.config import Experiment, steps
from jaxcog.data import pipeline
from jaxcog.data.device_normalise import (
    common_normalises,
    normalises_of,
    without_normalise,
)
from jaxcog.data.types import Experience, Splits
from jaxcog.errors import CheckpointError, ConfigError
from jaxcog.task import State
from jaxcog.training import checkpoint, experience, sharding
from jaxcog.training.checkpoint import Checkpoints
from jaxcog.training.program import Program, assemble, evaluation_batch
from jaxcog.training.progress import Reporter
from jaxcog.training.workdir import read_experiment
from jaxcog.trees import by_path, path_name


@dataclasses.dataclass(frozen=True)
class Begun:
    """Where a run stands. `meta` is what a checkpoint holds beside the state."""

    state: State
    step: int
    meta: dict[str, Any]
    restored: bool


def shares_of(splits: Splits) -> dict[str, int]:
    """Batch share of each named stream; empty for a single one."""
    if not isinstance(splits.train, Mapping):
        return {}
    return {name: stream.batch_share for name, stream in splits.train.items()}


def assemble_for(
    experiment: Experiment,
    splits: Splits,
    devices: Sequence[jax.Device] | None = None,
    *,
    trains: bool = True,
) -> Program:
    """The program of an experiment on loaded data, on all devices unless some are given."""
    train = experiment.train
    return assemble(
        experiment,
        splits.info,
        sharding.make_mesh(experiment.mesh, devices),
        steps_per_epoch=pipeline.steps_per_epoch(splits, train.batch_size, train.seed),
        shares=shares_of(splits),
        trains=trains,
        normalises=normalises_of(splits.train),
        eval_normalises=common_normalises(splits.evaluation.values()),
    )


def fresh_meta(program: Program, splits: Splits) -> dict[str, Any]:
    """What a checkpoint holds beside the state, at step 0."""
    train = program.experiment.train
    return {
        "step": 0,
        "elapsed": 0.0,
        "finished": False,
        "best": None,
        "evaluations_without_better": 0,
        "data": pipeline.fingerprint(splits.train, seed=train.seed, batch_size=train.batch_size),
        "classes": list(splits.info.class_names),
        "facts": {name: splits.info.facts[name] for name in splits.info.kept},
    }


def begin(program: Program, splits: Splits, checkpoints: Checkpoints, reporter: Reporter) -> Begun:
    """The newest checkpoint's state, or a fresh one (from `train.start_from`, if set).

    Raises:
      CheckpointError: the checkpoint does not fit the model or the data.
    """
    meta = fresh_meta(program, splits)
    if checkpoints.latest() is not None:
        # Before anything is restored: another vocabulary would only show as another shape there.
        check_facts(checkpoints.meta(), splits)
        state, saved = checkpoints.restore(None, _target(program))
        if saved["data"] is None:
            raise CheckpointError(
                f"{checkpoints.directory} was imported, not trained: to train on from it, choose "
                "another --workdir and set --train.start-from to this one"
            )
        pipeline.check_fingerprint(saved["data"], meta["data"])
        check_classes(saved, splits)
        reporter.say(f"going on from step {saved['step']} of {program.setting.steps}")
        return Begun(state, saved["step"], {**meta, **saved}, restored=True)
    state = program.init(program.root_key())
    origin = program.experiment.train.start_from
    if origin is None:
        program.task.check_origin(None)
    else:
        state = start_from(program, state, origin, reporter)
    return Begun(state, 0, meta, restored=False)


def check_classes(meta: Mapping[str, Any], splits: Splits) -> None:
    """Raises CheckpointError when the checkpoint was trained on other classes, or another order."""
    saved, now = list(meta.get("classes", [])), list(splits.info.class_names)
    if saved and saved != now:
        first = next((i for i, pair in enumerate(zip(saved, now, strict=False))
                      if pair[0] != pair[1]), min(len(saved), len(now)))  # fmt: skip
        raise CheckpointError(
            f"the checkpoint was trained on {len(saved)} classes and the data has {len(now)}; they "
            f"differ from class {first} on ({saved[first : first + 1]} there, "
            f"{now[first : first + 1]} here): use the same data, or train anew"
        )


def check_facts(meta: Mapping[str, Any], splits: Splits) -> None:
    """Raises CheckpointError when a kept fact, such as the vocabulary, differs from the data's."""
    for name, saved in meta.get("facts", {}).items():
        now = splits.info.facts.get(name)
        if json.dumps(saved) == json.dumps(now):
            continue
        where = ""
        if isinstance(saved, list) and isinstance(now, list):
            pairs = enumerate(zip(saved, now, strict=False))
            first = next((i for i, (a, b) in pairs if a != b), min(len(saved), len(now)))
            there, here = (x[first] if first < len(x) else "nothing" for x in (saved, now))
            where = f", entry {first} is {there!r} there and {here!r} here"
            saved, now = f"{len(saved)} entries", f"{len(now)}"
        raise CheckpointError(
            f"the checkpoint was trained with another {name} than the data has ({saved} there, "
            f"{now} here{where}): use the data it was trained on, or train anew"
        )


def _target(program: Program) -> Any:
    """The state's shapes with the places where they go."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        program.state_struct,
        program.state_shardings,
    )


def restore_state(program: Program, checkpoints: Checkpoints, step: int | None) -> Any:
    """(state on the program's mesh, meta) of one step, or of the newest."""
    return checkpoints.restore(step, _target(program))


def start_from(program: Program, state: State, origin: str, reporter: Reporter) -> State:
    """`state` with the parameters and statistics of another stage's checkpoint.

    Raises:
      CheckpointError: the task does not accept that stage, or variables do not fit (see `adopt`).
      ConfigError: a pattern of `train.start_fresh` matches nothing.
    """
    folder, _ = checkpoint.resolve(origin)
    _, earlier = read_experiment(Path(folder))
    program.task.check_origin(earlier.data.describe())
    saved = checkpoint.restore_tree(origin, only=_is_weight)
    state = adopt(program, state, saved, origin)
    reporter.say(f"starting from the weights of {origin}")
    return state


def adopt(program: Program, state: State, earlier: State, origin: str) -> State:
    """`state` with the parameters and statistics of `earlier`.

    Everything under "params" and "batch_stats" must be in `earlier` with the same shape, but for
    what `train.start_fresh` names; a moving average starts from the parameters.

    origin: what to call `earlier` in messages.

    Raises CheckpointError and ConfigError as `start_from` does.
    """
    saved = by_path(earlier)
    fresh = program.experiment.train.start_fresh
    names = [name for name in by_path(state) if _is_weight(name)]
    unused = [pattern for pattern in fresh if not any(re.search(pattern, n) for n in names)]
    if unused:
        raise ConfigError(f"train.start_fresh: {unused} match no variable, such as {names[:4]}")
    wrong = []

    def pick(path: Any, leaf: Any, place: Any) -> Any:
        name = path_name(path)
        if not _is_weight(name) or any(re.search(pattern, name) for pattern in fresh):
            return leaf
        other = saved.get(re.sub(r"^ema/", "params/", name))
        if other is None or other.shape != leaf.shape:
            there = "missing" if other is None else list(other.shape)
            wrong.append(f"  {name}: {there} there, {list(leaf.shape)} here")
            return leaf
        value = np.asarray(other, leaf.dtype)
        return jax.make_array_from_callback(value.shape, place, lambda index: value[index])

    state = jax.tree_util.tree_map_with_path(pick, state, program.state_shardings)
    if wrong:
        raise CheckpointError(
            "\n".join(
                [
                    f"train.start_from={origin} does not fit in {len(wrong)} variables:",
                    *wrong[:20],
                    "name those that shall keep their initial values in train.start_fresh, or "
                    "start from another checkpoint",
                ]
            )
        )
    return state


def embedded(program: Program, state: State, splits: Splits) -> Splits:
    """`splits` with what the task's frozen network makes of their inputs, in place of these.

    The inputs go through `Task.embed` once, in batches of one size that are spread over the mesh;
    splits without inputs, and tasks without such a network, are left as they are.

    Raises:
      ConfigError: the data has to be embedded, and the task has nothing that does it.
    """
    if splits.inputs is None or splits.rebuilt is None:
        return splits
    if program.task.embed is None:
        raise ConfigError(
            f"the data of {program.experiment.system} must go through a frozen network first, and "
            "this task has none: choose data that is embedded already"
        )
    size = evaluation_batch(program.experiment, program.mesh)
    struct = jax.ShapeDtypeStruct((size, *splits.inputs.shape[1:]), splits.inputs.dtype)
    split = sharding.batch_shardings({"inputs": struct}, program.mesh)["inputs"]
    apply = jax.jit(
        program.task.embed,
        in_shardings=(program.state_shardings, split),
        out_shardings=sharding.replicated(program.mesh),
    )
    rows = sharding.local_rows(split, struct.shape)
    count, parts = len(splits.inputs), []
    for first in range(0, count, size):
        # The last batch is filled up with its last record, so that nothing is compiled twice.
        local = splits.inputs[np.minimum(first + rows, count - 1)]
        parts.append(np.asarray(apply(state, sharding.place(local, split, struct))))
    return splits.rebuilt(np.concatenate(parts)[:count])


def _is_weight(name: str) -> bool:
    return name.startswith(("params/", "batch_stats/", "ema/"))


Batches = (
    Generator[pipeline.LocalBatch, None, None]
    | Callable[[Callable[[], State]], Generator[pipeline.LocalBatch, None, None]]
)
"""One batch an update; or, where a batch depends on the state before its update, a function that
makes them, given a function that returns the newest state."""


def every(program: Program, duration: str) -> int:
    """Updates between two events of a run, at least one."""
    setting = program.setting
    count = steps(duration, steps_per_epoch=setting.steps_per_epoch, batch_size=setting.batch_size)
    return max(count, 1)


def batches(program: Program, splits: Splits, start_step: int, reporter: Reporter) -> Batches:
    """This process's part of every batch from `start_step` to the end of the run."""
    train = program.experiment.train
    if isinstance(splits.train, Experience):
        restart = every(program, train.checkpoint_every)
        return partial(experience.rollouts, program, splits.train, start_step, restart)

    def rows(shardings: Any, structs: Any) -> Any:
        first = next(iter(structs))
        if isinstance(structs[first], Mapping):
            return {name: rows(shardings[name], structs[name]) for name in structs}
        return sharding.local_rows(shardings[first], structs[first].shape)

    return pipeline.train_batches(
        without_normalise(splits.train) if program.normalises else splits.train,
        batch_size=train.batch_size,
        seed=train.seed,
        start_step=start_step,
        stop_step=program.setting.steps,
        rows=rows(program.batch_shardings, program.batch_struct),
        workers=train.workers,
        corrupt_limit=train.corrupt_limit,
        on_bad=lambda name, reason: reporter.say(f"skipped {name}: {reason}"),
    )
