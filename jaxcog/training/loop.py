"""The one training loop. It knows nothing about papers: a Task gives it pure functions.

What fits without touching this file:

* Two optimizers (GANs), momentum encoders and queues, inner loops, episodes: a bigger State and
  another `train_step` (see jaxcog.task). The loop only passes the State on.
* Labelled and unlabelled data, or any other mixture: named streams (see jaxcog.data.types).
* Several stages: several configs; the later one sets `train.start_from`.
* Data that depends on the state (reinforcement learning): an Experience (see jaxcog.data.types).

From the command line to the gradient: cli.train -> loop.train -> task.train_step -> the loss.

What is promised: the state after update s is a function of the experiment alone, however often the
run was stopped or killed in between (bitwise on the same mesh, to rounding on another); every
step's metrics are on disk before any checkpoint of that step; no host work stands between two
updates but placing the next batch. (Environments act between updates, and begin anew after a stop
that is no regular checkpoint: see Experience.)
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from jaxcog.config import Experiment
from jaxcog.data import pipeline
from jaxcog.data.types import Splits
from jaxcog.errors import UserError
from jaxcog.planning.memory import memory_line
from jaxcog.task import State
from jaxcog.training import evaluation, sharding, start
from jaxcog.training.checkpoint import Checkpoints
from jaxcog.training.preemption import StopSignal
from jaxcog.training.profile import Profile
from jaxcog.training.program import Program
from jaxcog.training.progress import Reporter
from jaxcog.training.watchdog import Watchdog
from jaxcog.training.workdir import CHECKPOINTS, claim
from jaxcog.training.writers import MetricsWriter, StepLog


class NonFiniteError(UserError):
    """A scalar of a step is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a session of a run ended.

    status: "finished", "patience" (no better evaluation for `train.patience`), or "stopped" (by a
      signal, after saving; the same command goes on).
    metrics, results: the paper's metrics and the merged metric states of the last evaluation;
      empty when stopped.
    exit_status: what a scheduler should be told (see jaxcog.training.preemption).
    """

    status: Literal["finished", "patience", "stopped"]
    step: int
    state: State
    program: Program
    splits: Splits
    metrics: dict[str, float]
    results: dict[str, Any]
    exit_status: int = 0


def updates(
    program: Program,
    state: State,
    batches: start.Batches,
    key: jax.Array,
    log: StepLog,
    watchdog: Watchdog | None = None,
) -> Iterator[tuple[int, State]]:
    """Runs one update per batch; yields (updates done, state). The hot path of every run.

    The yielded state is donated to the next update: do not keep it.
    """
    if callable(batches):
        batches = batches(lambda: state)
    for batch in batches:
        arrays = sharding.place(batch.arrays, program.batch_shardings, program.batch_struct)
        state, scalars = program.train_step(state, arrays, key)
        log.push(batch.step + 1, scalars, batch)
        if watchdog is not None:
            watchdog.beat(batch.step + 1)
        yield batch.step + 1, state


def _traced(profile: Profile, batches: start.Batches) -> start.Batches:
    if not callable(batches):
        return profile.starting_in(batches)
    made = batches
    return lambda newest: profile.starting_in(made(newest))


def train(
    experiment: Experiment,
    workdir: Path,
    name: str,
    reporter: Reporter,
    devices: Sequence[jax.Device] | None = None,
    profile: Profile | None = None,
) -> Outcome:
    """Trains `experiment` in `workdir`, going on where a checkpoint there stopped.

    Args:
      name: of the config, for config.json.
      devices: all of them by default.
      profile: updates to trace.

    Raises:
      UserError: bad input of any kind, or a step that is not finite; checkpoints stay as they are.
    """
    workdir = Path(workdir)
    splits = experiment.data.load()
    program = start.assemble_for(experiment, splits, devices)
    claim(workdir, name, experiment)
    better: Literal["max", "min"] = "max" if program.task.higher_is_better else "min"
    checkpoints = Checkpoints(
        workdir / CHECKPOINTS,
        keep_last=experiment.train.keep_last,
        best=better if experiment.train.keep_best else None,
        report=reporter.say,
    )
    try:
        begun = start.begin(program, splits, checkpoints, reporter)
        splits = start.embedded(program, begun.state, splits)
        return _Session(program, splits, workdir, checkpoints, reporter, begun, profile).run()
    finally:
        reporter.stop()
        checkpoints.close()


class _Session:
    """One process's time with a run: from where it stands to its end, or to a signal."""

    def __init__(
        self,
        program: Program,
        splits: Splits,
        workdir: Path,
        checkpoints: Checkpoints,
        reporter: Reporter,
        begun: start.Begun,
        profile: Profile | None,
    ):
        self.program = program
        self.splits = splits
        self.checkpoints = checkpoints
        self.reporter = reporter
        self.profile = profile
        self.state = begun.state
        self.step = begun.step
        self.meta = begun.meta
        self.started = time.monotonic() - begun.meta["elapsed"]
        self.writer = MetricsWriter(
            workdir, resume_step=begun.step, active=jax.process_index() == 0
        )
        self.log = StepLog(program.scalar_names, self._record)
        self.metrics: dict[str, float] = {}
        self.results: dict[str, Any] = {}
        self.saved_step = begun.step if begun.restored else -1

    def run(self) -> Outcome:
        train = self.program.experiment.train
        with StopSignal(self.reporter.say) as stop, Watchdog(train.watchdog_seconds) as watchdog:
            try:
                status = self._train(stop, watchdog)
            finally:
                self.writer.close()
                if self.profile is not None:
                    self.profile.close()
            self.checkpoints.wait()
            return Outcome(
                status=status,
                step=self.step,
                state=self.state,
                program=self.program,
                splits=self.splits,
                metrics=self.metrics,
                results=self.results,
                exit_status=stop.exit_status if status == "stopped" else 0,
            )

    def _train(
        self, stop: StopSignal, watchdog: Watchdog
    ) -> Literal["finished", "patience", "stopped"]:
        total = self.program.setting.steps
        if self.meta["finished"] or self.step >= total:
            self._evaluate(watchdog)
            return "finished"
        train = self.program.experiment.train
        evaluate_every = start.every(self.program, train.evaluate_every)
        checkpoint_every = start.every(self.program, train.checkpoint_every)
        self.program, seconds = self.program.compiled()
        self.reporter.say(f"compiled in {seconds:.1f} s; {memory_line(self.program.train_step)}")
        self.reporter.start(self.step, total)
        batches = start.batches(self.program, self.splits, self.step, self.reporter)
        key = self.program.root_key()
        if self.profile is not None:
            batches = _traced(self.profile, batches)
        for step, state in updates(self.program, self.state, batches, key, self.log, watchdog):
            self.step, self.state = step, state
            if self.profile is not None:
                self.profile.after(step, state, self.reporter.say)
            last = step == total
            if last or step % evaluate_every == 0:
                if self._evaluate(watchdog) and not last:
                    self._save(finished=False)
                if self._out_of_patience():
                    self._save(finished=True)
                    return "patience"
            if last or step % checkpoint_every == 0:
                self._save(finished=last)
            if not last and stop.agreed(step):
                self._save(finished=False)
                return "stopped"
        return "finished"

    def _elapsed(self) -> float:
        return time.monotonic() - self.started

    def _record(self, step: int, values: dict[str, float], batch: pipeline.LocalBatch) -> None:
        if not math.isfinite(sum(values.values())):
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            shown = ", ".join(batch.ids[:16]) + (" ..." if len(batch.ids) > 16 else "")
            raise NonFiniteError(
                f"step {step}: {', '.join(bad)} not finite. Records of this batch: {shown}. The "
                "last checkpoint is from before this step; look at these records, lower the "
                "learning rate, or set --task.optimizer.clip-norm"
            )
        self.writer.write(step, "train", self._elapsed(), values)
        self.reporter.update(step, values)

    def _evaluate(self, watchdog: Watchdog) -> bool:
        """Evaluates now; returns whether the headline metric is the best so far."""
        self.log.flush()
        self.metrics, self.results = evaluation.evaluate(
            self.program, self.state, self.splits, on_batch=lambda: watchdog.beat(self.step)
        )
        if self.step == self.saved_step:  # evaluated again at the end of a finished run
            return False
        self.writer.write(self.step, "eval", self._elapsed(), self.metrics)
        value = evaluation.headline_of(self.program, self.metrics)
        shown = [name for name in self.metrics if "/" not in name][:5]
        text = "  ".join(f"{name} {self.metrics[name]:.4g}" for name in shown)
        self.reporter.say(f"step {self.step}: {text}")
        best = self.meta["best"]
        sign = 1 if self.program.task.higher_is_better else -1
        better = best is None or sign * value > sign * best["value"]
        if better:
            self.meta["best"] = {"step": self.step, "value": value}
        self.meta["evaluations_without_better"] = (
            0 if better else self.meta["evaluations_without_better"] + 1
        )
        self.evaluated = (self.step, value)
        return better and self.program.experiment.train.keep_best

    evaluated: tuple[int, float] = (-1, math.nan)

    def _out_of_patience(self) -> bool:
        patience = self.program.experiment.train.patience
        return patience is not None and self.meta["evaluations_without_better"] >= patience

    def _save(self, *, finished: bool) -> None:
        if self.saved_step == self.step and not finished:
            return
        self.log.flush()
        self.writer.flush()
        self.meta |= {"step": self.step, "elapsed": self._elapsed(), "finished": finished}
        metric = self.evaluated[1] if self.evaluated[0] == self.step else None
        self.checkpoints.save(self.step, self.state, dict(self.meta), metric)
        self.saved_step = self.step
