"""Running a paper's claim: method on against method off, over seeds, on data that ships."""

from __future__ import annotations

import dataclasses
import importlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcog import experiments
from jaxcog.claim import AtLeast, AtMost, Claim, Ratio, Requirement, Wins
from jaxcog.config import Experiment, override, to_json
from jaxcog.data.types import Splits
from jaxcog.errors import ConfigError
from jaxcog.show import Figure, Table
from jaxcog.task import DataInfo, State
from jaxcog.training import evaluation, loop, start
from jaxcog.training.program import Program
from jaxcog.training.progress import Reporter, Silent
from jaxcog.training.writers import StepLog
from jaxcog.trees import fingerprint


@dataclasses.dataclass(frozen=True)
class ClaimResult:
    """values: variant -> metric -> [cells, seeds]; checks: (what was required, figure, held).

    figures: what the task shows of the first run of `claim.shown`, where they were asked for.
    """

    claim: Claim
    values: Mapping[str, Mapping[str, np.ndarray]]
    checks: tuple[tuple[str, float, bool], ...]
    seconds: float
    figures: Sequence[Figure] = ()

    @property
    def held(self) -> bool:
        return all(held for _, _, held in self.checks)

    def table(self) -> Table:
        """Mean and spread of each variant, then what was required."""
        claim = self.claim
        rows = [
            [name, *(_spread(metrics[metric]) for metric in claim.metrics)]
            for name, metrics in self.values.items()
        ]
        lines = [
            f"required: {text}; measured {value:.4g}: {'held' if ok else 'NOT HELD'}"
            for text, value, ok in self.checks
        ]
        if not self.checks:
            lines = ["shown for its limits; nothing is required here"]
        cells = [name for name in claim.cells if name]
        over = f"{len(cells)} settings ({', '.join(cells)}) x " if cells else ""
        note = [f"mean ± standard deviation over {over}{claim.seeds} seeds", *lines]
        return Table(
            title=claim.title,
            header=["variant", *claim.metrics],
            rows=rows,
            note="\n".join([*note, claim.note] if claim.note else note),
        )

    def to_json(self) -> dict[str, Any]:
        values = {
            name: {
                metric: {
                    "mean": float(array.mean()),
                    "std": float(array.std()),
                    "runs": {
                        cell or "all": [float(x) for x in row]
                        for cell, row in zip(self.claim.cells, array, strict=True)
                    },
                }
                for metric, array in metrics.items()
            }
            for name, metrics in self.values.items()
        }
        checks = [
            {"required": text, "measured": value, "held": ok} for text, value, ok in self.checks
        ]
        return {
            "title": self.claim.title,
            "config": self.claim.config,
            "seeds": self.claim.seeds,
            "held": self.held,
            "seconds": round(self.seconds, 1),
            "values": values,
            "checks": checks,
        }


def kept(claim: Claim, found: Mapping[str, Any]) -> ClaimResult | None:
    """The result that `ClaimResult.to_json` made, without figures; its numbers are judged anew.

    None where it is of another claim: other variants, cells, metrics, or another number of runs.
    """
    if (found["title"], found["config"]) != (claim.title, claim.config):
        return None
    values = {
        variant: {
            metric: np.array([found_metric["runs"].get(cell or "all", []) for cell in claim.cells])
            for metric, found_metric in metrics.items()
        }
        for variant, metrics in found["values"].items()
    }
    shape = (len(claim.cells), claim.seeds)
    fits = values.keys() == claim.variants.keys() and all(
        set(metrics) == set(claim.metrics) and all(x.shape == shape for x in metrics.values())
        for metrics in values.values()
    )
    if not fits:
        return None
    checks = tuple(_check(requirement, values) for requirement in claim.requirements)
    return ClaimResult(claim, values, checks, found["seconds"])


def with_seeds(claims: Sequence[Claim], seeds: int | None) -> tuple[Claim, ...]:
    """The claims with another number of runs per variant and cell, if one is given."""
    if seeds is None:
        return tuple(claims)
    return tuple(dataclasses.replace(claim, seeds=seeds) for claim in claims)


def _spread(values: np.ndarray) -> str:
    mean, std = values.mean(), values.std()
    return f"{mean:.4g} ± {std if std > 1e-9 * abs(mean) else 0:.2g}"  # no noise of summing


def systems() -> list[str]:
    """Every system that has configs, sorted."""
    return sorted({name.split("/")[0] for name in experiments.names()})


def claims_of(system: str) -> tuple[Claim, ...]:
    """The claims of one room.

    Raises:
      ConfigError: there is no such system.
    """
    if system not in systems():
        raise ConfigError(f'there is no system "{system}": there are {", ".join(systems())}')
    return importlib.import_module(f"jaxcog.systems.{system}.claims").CLAIMS


def reproduce(
    system: str, reporter: Reporter, *, seeds: int | None = None, figures: bool = False
) -> list[ClaimResult]:
    """Runs all claims of a system.

    Args:
      seeds: overrides the number of runs per variant and cell.
      figures: whether to keep what the task shows of one run of each claim.
    """
    reused = _Reused()
    claims = with_seeds(claims_of(system), seeds)
    return [_run(claim, reporter, figures, reused) for claim in claims]


@dataclasses.dataclass
class _Reused:
    """What a system's runs have from one another: compiled programs, and the last run's data.

    results: of whole runs, since two claims may compare with the same one.
    """

    programs: dict[str, Program] = dataclasses.field(default_factory=dict)
    results: dict[str, tuple[dict[str, float], list[Figure]]] = dataclasses.field(
        default_factory=dict
    )
    data: tuple[Any, Splits] | None = None

    def load(self, experiment: Experiment) -> Splits:
        """Variants follow one another, and mostly learn from the same data."""
        if self.data is None or self.data[0] != experiment.data:
            self.data = None  # before the next is there, not after
            self.data = experiment.data, experiment.data.load()
        return self.data[1]

    def program(self, experiment: Experiment, splits: Splits) -> Program:
        """The program of this run; what was compiled for an equal one is not compiled again."""
        key = _program_key(experiment, splits.info)
        if key not in self.programs:
            self.programs[key] = start.assemble_for(experiment, splits)
        return dataclasses.replace(self.programs[key], experiment=experiment)


def _run(claim: Claim, reporter: Reporter, with_figures: bool, reused: _Reused) -> ClaimResult:
    begun = time.monotonic()
    base = override(experiments.load(claim.config).experiment(), claim.common)
    reporter.say(claim.title)
    total = len(claim.variants) * len(claim.cells) * claim.seeds
    reporter.start(0, total)
    values = {
        variant: {metric: np.zeros((len(claim.cells), claim.seeds)) for metric in claim.metrics}
        for variant in claim.variants
    }
    shown = claim.shown or list(claim.variants)[-1]
    figures: list[Figure] = []
    done = 0
    try:
        for seed in range(claim.seeds):
            earlier = _earlier_stage(claim, seed, reused)
            for row, cell in enumerate(claim.cells.values()):
                for variant, changes in claim.variants.items():
                    experiment = _seeded(override(base, {**cell, **changes}), seed)
                    want = with_figures and variant == shown and not figures
                    metrics, drawn = _final_metrics(experiment, reused, want, earlier)
                    figures += drawn
                    for metric in claim.metrics:
                        values[variant][metric][row, seed] = metrics[metric]
                    done += 1
                    reporter.update(done, {})
    finally:
        reporter.stop()
    checks = tuple(_check(requirement, values) for requirement in claim.requirements)
    return ClaimResult(claim, values, checks, time.monotonic() - begun, figures)


def _seeded(experiment: Experiment, seed: int) -> Experiment:
    changes: dict[str, Any] = {"train.seed": seed}
    if hasattr(experiment.data, "seed"):
        changes["data.seed"] = seed
    return override(experiment, changes)


@dataclasses.dataclass(frozen=True)
class _Stage:
    """A trained earlier stage: its config, what it was trained on, its final state."""

    name: str
    info: DataInfo
    state: State


def _earlier_stage(claim: Claim, seed: int, reused: _Reused) -> _Stage | None:
    if claim.after is None:
        return None
    experiment = _seeded(experiments.load(claim.after).experiment(), seed)
    splits = experiment.data.load()
    program, state, _ = _trained(experiment, splits, reused, None)
    return _Stage(claim.after, program.setting.data, jax.device_get(state))


def _trained(
    experiment: Experiment,
    splits: Splits,
    reused: _Reused,
    earlier: _Stage | None,
) -> tuple[Program, State, Splits]:
    """Trains in memory, to the end; also the data as it was seen."""
    program = reused.program(experiment, splits)
    root = program.root_key()
    state = program.init(root)
    if earlier is not None:
        program.task.check_origin(earlier.info)
        state = start.adopt(program, state, earlier.state, earlier.name)
    splits = start.embedded(program, state, splits)
    log = StepLog(program.scalar_names, lambda step, values, batch: None)
    batches = start.batches(program, splits, 0, Silent())
    for _, updated in loop.updates(program, state, batches, root, log):
        state = updated
    return program, state, splits


def _program_key(experiment: Experiment, info: DataInfo) -> str:
    """Equal for runs that one compiled program serves, of one claim or of several.

    They may differ in the seed and in what the data holds, not in what a task is built from: its
    settings, shapes, and facts (of those that name things, as a target domain, the number only).
    """
    unseeded = override(experiment, {"train.seed": 0})
    kinds = [type(part).__qualname__ for part in (experiment.task, experiment.data)]
    shapes = [
        {name: str(leaf) for name, leaf in (element or {}).items()}
        for element in (info.element, info.eval_element)
    ]
    given = {name: x for name, x in info.facts.items() if isinstance(x, np.ndarray)}
    named = {name: _size_or_value(x) for name, x in info.facts.items() if name not in given}
    sizes = [info.num_examples, info.num_classes, named]
    settings = [to_json(unseeded.task), to_json(unseeded.train)]
    return json.dumps([kinds, settings, shapes, sizes, fingerprint(given)], sort_keys=True)


def _size_or_value(fact: Any) -> Any:
    """The length of collections of names, the name of a function, anything else as a text."""
    if callable(fact):  # bound to the data of one seed, perhaps
        return getattr(fact, "__qualname__", type(fact).__qualname__)
    numbers = isinstance(fact, tuple) and all(isinstance(x, int | float) for x in fact)
    sized = isinstance(fact, Collection) and not isinstance(fact, str) and not numbers
    return len(fact) if sized else str(fact)


def _final_metrics(
    experiment: Experiment,
    reused: _Reused,
    with_figures: bool,
    earlier: _Stage | None,
) -> tuple[dict[str, float], list[Figure]]:
    """Of a run that is trained to the end and evaluated once; an equal run is not made again."""
    key = json.dumps([to_json(experiment), earlier and earlier.name], sort_keys=True)
    metrics, figures = reused.results.get(key, ({}, []))
    if not metrics or (with_figures and not figures):
        metrics, figures = _result(experiment, reused, with_figures, earlier)
        reused.results[key] = metrics, figures
    return metrics, figures if with_figures else []


def _result(
    experiment: Experiment,
    reused: _Reused,
    with_figures: bool,
    earlier: _Stage | None,
) -> tuple[dict[str, float], list[Figure]]:
    """Trains to the end and evaluates once."""
    splits = reused.load(experiment)
    program, state, splits = _trained(experiment, splits, reused, earlier)
    metrics, results = evaluation.evaluate(program, state, splits)
    if not with_figures:
        return metrics, []
    seen = evaluation.examples(program, state, splits)
    return metrics, program.task.figures(state, seen, results)


def _check(
    requirement: Requirement, values: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[str, float, bool]:
    """(what is required, what was measured, whether it holds)."""
    metric = requirement.metric
    if isinstance(requirement, Wins):
        gain = values[requirement.better][metric] - values[requirement.worse][metric]
        wanted, won = min(requirement.runs, gain.size), float(np.sum(gain > 0))
        compared = f"{requirement.better} above {requirement.worse}"
        return f"{metric} of {compared} in {wanted} of {gain.size} runs", won, won >= wanted
    value = requirement.value

    def mean(variant: str) -> float:
        return float(values[variant][metric].mean())

    if isinstance(requirement, AtLeast | AtMost):
        measured = mean(requirement.variant)
        limit = "at least" if isinstance(requirement, AtLeast) else "at most"
        text = f"{metric} of {requirement.variant} {limit} {value:g}"
    elif isinstance(requirement, Ratio):
        worse = mean(requirement.worse)
        measured = mean(requirement.better) / worse if worse else float("inf")
        text = f"{metric} of {requirement.better} at least {value:g} times {requirement.worse}"
    else:
        other = requirement.worse_metric
        worse = float(values[requirement.worse][other or metric].mean())
        measured = mean(requirement.better) - worse
        name = requirement.worse if other is None else f"{other} of {requirement.worse}"
        text = f"{metric} of {requirement.better} above {name} by at least {value:g}"
    held = measured <= value if isinstance(requirement, AtMost) else measured >= value
    return text, measured, held
