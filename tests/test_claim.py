"""How requirements of a claim are judged."""

from __future__ import annotations

import numpy as np

from jaxcog import experiments, reproduce
from jaxcog.claim import Margin, Wins
from jaxcog.config import override

VALUES = {"on": {"mAP": np.array([[3.0, 2.0, 5.0]])}, "off": {"mAP": np.array([[1.0, 2.5, 1.5]])}}


def test_wins_count_runs_of_the_same_seed():
    text, won, held = reproduce._check(Wins("on", "off", "mAP", 2), VALUES)
    assert (won, held) == (2, True)
    assert "in 2 of 3 runs" in text
    assert not reproduce._check(Wins("on", "off", "mAP", 3), VALUES)[2]


def test_with_fewer_seeds_all_must_win():
    one = {name: {"mAP": metrics["mAP"][:, :1]} for name, metrics in VALUES.items()}
    assert reproduce._check(Wins("on", "off", "mAP", 4), one)[1:] == (1, True)


def test_margins_are_of_the_means():
    _, measured, held = reproduce._check(Margin("on", "off", "mAP", 1.0), VALUES)
    np.testing.assert_allclose(measured, 5 / 3)
    assert held


def test_runs_share_a_program_unless_their_task_differs():
    base = experiments.load("mixstyle/digits").experiment()

    def key(changes):
        experiment = override(base, changes)
        return reproduce._program_key(experiment, experiment.data.describe())

    seeds_and_targets = {"train.seed": 3, "data.seed": 3, "data.target": "c"}
    assert key(seeds_and_targets) == key({"data.polarity": True}) == key({})
    others = {"task.mixstyle.p": 0.0}, {"train.batch_size": 32}, {"train.duration": "3 epochs"}
    assert len({key(changes) for changes in ({}, *others)}) == 4


def test_variants_share_their_data():
    reused = reproduce._Reused()
    base = experiments.load("mixstyle/digits").experiment()
    first = reused.load(base)
    assert reused.load(override(base, {"task.mixstyle.p": 0.0})) is first
    assert reused.load(override(base, {"data.target": "c"})) is not first
