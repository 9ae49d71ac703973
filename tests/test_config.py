"""Durations, JSON round trips, dotted overrides, and errors that name the key."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jaxcog.config import (
    Experiment,
    Mesh,
    Train,
    differences,
    from_json,
    override,
    steps,
    to_json,
)
from jaxcog.errors import ConfigError
from jaxcog.optim import Optimizer, Rule


@pytest.mark.parametrize(
    ("text", "count"), [("7 steps", 7), ("1 step", 1), ("2.5 epochs", 25), ("65 examples", 9)]
)
def test_durations(text: str, count: int):
    assert steps(text, steps_per_epoch=10, batch_size=8) == count


@pytest.mark.parametrize("text", ["", "ten steps", "5", "5 hours", "-1 steps"])
def test_a_duration_that_does_not_parse_names_the_key(text: str):
    with pytest.raises(ConfigError, match=r"train\.duration"):
        Train(duration=text)


def test_values_out_of_range_name_the_key():
    with pytest.raises(ConfigError, match=r"train\.batch_size=0"):
        Train(batch_size=0)
    with pytest.raises(ConfigError, match="at most one"):
        Mesh(data=-1, fsdp=-1)


def test_json_round_trip():
    experiment = Experiment("x", Optimizer(rules=(Rule("a"), Rule("b", lr=2.0))), None, Train())
    again = from_json(json.loads(json.dumps(to_json(experiment))))
    assert again == experiment


def test_json_of_another_version_or_origin_is_refused():
    body = to_json(Train())
    with pytest.raises(ConfigError, match="another version"):
        from_json({**body, "sped": 1})
    with pytest.raises(ConfigError, match="not one of jaxcog's"):
        from_json({"type": "os.system"})


def test_differences_are_named_by_their_path():
    a, b = to_json(Train()), to_json(dataclasses.replace(Train(), seed=3))
    assert differences({"train": a}, {"train": b}) == {"train.seed": (0, 3)}


def test_override_reaches_inside_and_names_typos():
    experiment = Experiment("x", Optimizer(), None)
    assert override(experiment, {"task.schedule.gamma": 0.5}).task.schedule.gamma == 0.5
    with pytest.raises(ConfigError, match="perhaps you meant seed"):
        override(experiment, {"train.sed": 1})
