"""What the verbs of the command line do with a run: train and report, evaluate, predict, import."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcog import report
from jaxcog.config import Experiment, to_json
from jaxcog.data import inputs
from jaxcog.data.types import Splits
from jaxcog.errors import CheckpointError, ConfigError
from jaxcog.interop import importer, read
from jaxcog.show import Figure, Table
from jaxcog.task import State
from jaxcog.training import checkpoint, evaluation, experience, loop, sharding, start
from jaxcog.training.checkpoint import Checkpoints
from jaxcog.training.profile import Profile
from jaxcog.training.program import Program, assemble
from jaxcog.training.progress import Reporter, Silent
from jaxcog.training.workdir import CHECKPOINTS, REPORT_FILE, claim, read_experiment
from jaxcog.training.writers import METRICS_FILE
from jaxcog.trees import by_path, path_name


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint on this machine's mesh, with its program and, if asked for, its data."""

    name: str
    workdir: Path
    step: int
    program: Program
    splits: Splits | None
    state: State
    meta: dict[str, Any]


def metrics_table(title: str, metrics: dict[str, float]) -> Table:
    """The paper's metrics as a table."""
    rows = [[name, f"{value:.4g}"] for name, value in metrics.items()]
    return Table(title=title, header=["metric", "value"], rows=rows)


def train(
    experiment: Experiment,
    workdir: Path,
    name: str,
    reporter: Reporter,
    profile: Profile | None = None,
) -> tuple[loop.Outcome, Table]:
    """Trains, then writes report.html (process 0); returns how it ended and the final table."""
    outcome = loop.train(experiment, workdir, name, reporter, profile=profile)
    table = metrics_table(f"{name}, step {outcome.step}", outcome.metrics)
    if outcome.status != "stopped":
        write_report(outcome, workdir, name, table)
    return outcome, table


def write_report(outcome: loop.Outcome, workdir: Path, name: str, table: Table) -> None:
    """report.html of a finished run. Every process computes the figures; the first one writes."""
    program = outcome.program
    shown = evaluation.examples(program, outcome.state, outcome.splits)
    figures = program.task.figures(outcome.state, shown, outcome.results)
    if jax.process_index() != 0:
        return
    setting = program.setting
    summary = {
        "updates": f"{outcome.step} of {setting.steps} ({setting.steps_per_epoch} an epoch)",
        "global batch": str(setting.batch_size),
        "training examples": str(setting.data.num_examples),
        "devices": f"{jax.device_count()} ({jax.devices()[0].device_kind})",
        "mesh": ", ".join(f"{axis} {size}" for axis, size in program.mesh.shape.items()),
        "ended by": {"finished": "the end of the run", "patience": "train.patience"}[
            outcome.status
        ],
    }
    report.write_report(
        workdir / REPORT_FILE,
        title=name,
        subtitle=f"system {program.experiment.system}",
        config=to_json(program.experiment),
        metrics_file=workdir / METRICS_FILE,
        table=table,
        figures=figures,
        summary=summary,
    )


def restore(
    path: Path,
    reporter: Reporter,
    *,
    best: bool = False,
    change: Any = None,
    with_data: bool = True,
) -> Restored:
    """The run at `path` (a workdir, its checkpoints/, or one checkpoint) on this machine's devices.

    Args:
      best: the checkpoint with the best headline metric instead of the newest.
      change: a function of the experiment, for overrides such as another data root.

    Raises:
      CheckpointError, DataError, ConfigError: see the message.
    """
    found, newest = checkpoint.resolve(path)
    workdir = Path(found)
    # Of a run, and not of one step, a damaged newest checkpoint is passed over.
    step = newest if Path(path).name == str(newest) else None
    name, experiment = read_experiment(workdir)
    if change is not None:
        experiment = change(experiment)
    checkpoints = Checkpoints(
        workdir / CHECKPOINTS,
        keep_last=experiment.train.keep_last,
        best="max" if experiment.train.keep_best else None,
        report=reporter.say,
    )
    try:
        splits = experiment.data.load() if with_data else None
        if splits is not None:
            start.check_facts(checkpoints.meta(step), splits)
            program = start.assemble_for(experiment, splits, trains=False)
        else:
            info = described(experiment, checkpoints.meta(step))
            mesh = sharding.make_mesh(experiment.mesh)
            program = assemble(experiment, info, mesh, trains=False)
        if best:
            step = checkpoints.best()
            if step is None:
                raise CheckpointError(f"{workdir}: no checkpoint was evaluated; leave out --best")
        state, meta = start.restore_state(program, checkpoints, step)
        if splits is not None:
            start.check_classes(meta, splits)
            splits = start.embedded(program, state, splits)
    finally:
        checkpoints.close()
    return Restored(name, workdir, meta["step"], program, splits, state, meta)


def described(experiment: Experiment, meta: Mapping[str, Any]) -> Any:
    """DataInfo without the data, with the classes and kept facts of a run's checkpoint."""
    info = experiment.data.describe()
    classes, facts = meta.get("classes"), meta.get("facts", {})
    if classes:
        info = dataclasses.replace(info, class_names=tuple(classes))
    return dataclasses.replace(info, facts={**info.facts, **facts})


def evaluate(restored: Restored) -> dict[str, float]:
    """The paper's metrics of a run that was restored with its data."""
    if restored.splits is None:
        raise ValueError("evaluate: restore the run with its data")
    return evaluation.evaluate(restored.program, restored.state, restored.splits)[0]


def predict(restored: Restored, paths: Sequence[Path], out: Path) -> list[Path]:
    """Predictions for files or folders, written to `out` as pictures and an index.html.

    Raises:
      ConfigError: this system predicts nothing from files.
      DataError: a file is missing or cannot be read.
    """
    task = restored.program.task
    if task.predict is None:
        raise ConfigError(f"{restored.name} has no prediction from files; use `jaxcog eval`")
    values, names = inputs.read_inputs(task.reads, paths)
    if task.act is not None:
        values, names = _played(restored, values)
    figures: list[Figure] = task.predict(restored.state, values, names)
    out.mkdir(parents=True, exist_ok=True)
    return report.save_figures(figures, out)


def _played(restored: Restored, files: Sequence[Sequence[int]]) -> tuple[list[Any], list[str]]:
    """(an episode in each level that the files name, what to call it)."""
    splits = restored.program.experiment.data.load()
    source = next(iter(splits.evaluation.values()))
    levels = [level for file in files for level in file]
    episodes = [
        experience.recorded(restored.program, restored.state, source, level=level)
        for level in levels
    ]
    return episodes, [f"level {level}" for level in levels]


def import_torch(
    experiment: Experiment,
    name: str,
    file: Path,
    out: Path,
    *,
    allow_missing: Sequence[str] = (),
) -> importer.Report:
    """An official PyTorch checkpoint as a run's folder that every other verb understands.

    A checkpoint of a later stage is laid over the weights of `train.start_from`.

    Raises:
      CheckpointError: keys are unused, missing or of another shape; nothing is written then.
      ConfigError: `out` already holds a run.
    """
    if (out / CHECKPOINTS).exists():
        raise ConfigError(f"--out {out} already holds a run: choose another folder")
    mesh = sharding.make_mesh(experiment.mesh)
    program = assemble(experiment, experiment.data.describe(), mesh, trains=False)
    if program.task.import_names is None:
        raise ConfigError(f"{name} has no table of official names: nothing can be imported")
    tensors = read.read_checkpoint(file)  # before a large state is made
    state = program.init(program.root_key())
    origin = experiment.train.start_from
    if origin is None:
        program.task.check_origin(None)
    else:
        state = start.start_from(program, state, origin, Silent())
    weights = {part: state[part] for part in program.task.import_parts if part in state}
    tables = program.task.import_names
    tables = tables if isinstance(tables, tuple) else (tables,)
    table = importer.choose_table(tensors, tables, weights)
    kept = (*program.task.import_kept, *allow_missing)
    imported, found = importer.import_checkpoint(tensors, table, weights, kept)
    values = by_path(imported)

    def pick(path: Any, leaf: jax.Array, place: Any) -> jax.Array:
        value = values.get(path_name(path))
        return leaf if value is None else jax.device_put(value, place)

    state = jax.tree_util.tree_map_with_path(pick, state, program.state_shardings)
    state = program.task.after_import(state)
    claim(out, name, experiment)
    meta: dict[str, Any] = {
        "step": 0,
        "elapsed": 0.0,
        "finished": True,
        "best": None,
        "evaluations_without_better": 0,
        "data": None,
        "classes": [],
        "facts": {},
        "imported_from": file.name,
    }
    store = Checkpoints(out / CHECKPOINTS, keep_last=1, best=None)
    store.save(0, state, meta, None)
    store.close()
    (out / "imported.json").write_text(json.dumps(found.to_json(), indent=2) + "\n")
    return found
