"""How requirements of a claim are judged."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from jaxcog import experiments, reproduce
from jaxcog.claim import Claim, Margin, Wins
from jaxcog.config import Experiment, override
from jaxcog.training.progress import Silent

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


def test_what_data_can_compute_names_no_program():
    keys = set()
    for seed in (0, 1):
        experiment = override(experiments.load("brivl/digits").experiment(), {"data.seed": seed})
        keys.add(reproduce._program_key(experiment, experiment.data.load().info))
    assert len(keys) == 1


def test_variants_share_their_data():
    reused = reproduce._Reused()
    base = experiments.load("mixstyle/digits").experiment()
    first = reused.load(base)
    assert reused.load(override(base, {"task.mixstyle.p": 0.0})) is first
    assert reused.load(override(base, {"data.target": "c"})) is not first


def test_claims_share_equal_runs(monkeypatch: pytest.MonkeyPatch):
    made = []

    def result(experiment: Experiment, reused: Any, with_figures: bool, earlier: None) -> Any:
        made.append((experiment.task.mixstyle.p, experiment.train.seed))
        return {"accuracy": float(len(made))}, ["a picture"] if with_figures else []

    monkeypatch.setattr(reproduce, "_result", result)
    off, weak = ({"task.mixstyle.p": p} for p in (0.0, 0.1))
    first = Claim("one", "mixstyle/digits", {"off": off, "on": {}}, ("accuracy",), seeds=2)
    second = dataclasses.replace(first, variants={"weak": weak, "on": {}}, shown="weak")
    third = dataclasses.replace(first, variants={"on": {}, "weak": weak, "off": off})
    reused = reproduce._Reused()
    one, two, three = (reproduce._run(x, Silent(), True, reused) for x in (first, second, third))
    assert len(made) == len({*made}) + 1 == 7  # "off" of seed 0 once more, for its pictures
    np.testing.assert_array_equal(one.values["on"]["accuracy"], two.values["on"]["accuracy"])
    assert one.figures == two.figures == three.figures == ["a picture"]
