"""What a paper claims, as data: runs to make, numbers to compare. `jaxcog reproduce` runs it.

A room's `claims.py` holds `CLAIMS: tuple[Claim, ...]`; jaxcog.reproduce trains every variant on
every cell with every seed and judges the means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Overrides = Mapping[str, Any]
"""Dotted config keys and their values: {"task.mixstyle.p": 0.0}."""


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """The mean of `metric` under `variant` must reach `value`."""

    variant: str
    metric: str
    value: float


@dataclasses.dataclass(frozen=True)
class AtMost:
    """The mean of `metric` under `variant` must not exceed `value`."""

    variant: str
    metric: str
    value: float


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The mean of `metric` under `better` must be `value` times that under `worse`."""

    better: str
    worse: str
    metric: str
    value: float


@dataclasses.dataclass(frozen=True)
class Margin:
    """The mean of `metric` under `better` must exceed that under `worse` by `value`.

    worse_metric: what is compared with under `worse`, where it has another name there.
    """

    better: str
    worse: str
    metric: str
    value: float
    worse_metric: str | None = None


@dataclasses.dataclass(frozen=True)
class Wins:
    """`metric` under `better` must exceed that under `worse` in at least `runs` runs.

    Runs of the same cell and seed are compared; ask for fewer seeds, and all of them must win.
    """

    better: str
    worse: str
    metric: str
    runs: int


Requirement = AtLeast | AtMost | Margin | Ratio | Wins


@dataclasses.dataclass(frozen=True)
class Claim:
    """One comparison.

    title: the claim in a sentence.
    config: the experiment that all runs start from.
    variants: name -> what is different; the method on, off, ablated.
    cells: name -> what is different; settings averaged over (target domains, folds).
    common: what is different in all runs.
    after: config of an earlier stage. It is trained once a seed, as it stands, and every run of
      that seed starts from its weights.
    seeds: runs per variant and cell; seed s sets train.seed, and data.seed where there is one.
    metrics: columns of the table, as in the task's `summarize`.
    requirements: what must hold; empty for a limit: a setting where no effect is expected, which
      is shown beside the claim and not judged.
    note: what a reader must know to read the table rightly.
    shown: the variant whose pictures are shown; None: the last one.
    """

    title: str
    config: str
    variants: Mapping[str, Overrides]
    metrics: tuple[str, ...]
    cells: Mapping[str, Overrides] = dataclasses.field(default_factory=lambda: {"": {}})
    common: Overrides = dataclasses.field(default_factory=dict)
    after: str | None = None
    seeds: int = 5
    requirements: tuple[Requirement, ...] = ()
    note: str = ""
    shown: str | None = None
