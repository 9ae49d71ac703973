"""What every config must fulfil. Finds them by itself: a new one is tested by being there."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcog import experiments
from jaxcog.config import Experiment, from_json, override, to_json
from jaxcog.training import checkpoint, loop, sharding
from jaxcog.training.program import Program, assemble
from jaxcog.training.progress import Silent
from jaxcog.training.writers import read_metrics

CONFIGS = experiments.names()
GOLDEN = Path(__file__).parent / "configs"
SHORT = {
    "train.duration": "4 steps",
    "train.checkpoint_every": "2 steps",
    "train.evaluate_every": "4 steps",
    "train.keep_last": 3,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_resolved_config_is_the_golden_text(name: str, request: pytest.FixtureRequest):
    """A change of any default shows up here. Accept it with: launch/test --update-configs"""
    entry = experiments.load(name)
    text = json.dumps(to_json(entry.experiment()), indent=1) + "\n"
    path = GOLDEN / f"{name.replace('/', '__')}.json"
    if request.config.getoption("--update-configs"):
        path.write_text(text)
    assert path.is_file(), f"{path.name} is missing: launch/test --update-configs writes it"
    assert text == path.read_text()
    assert from_json(json.loads(text)) == entry.experiment()
    assert entry.summary
    assert entry.needs
    assert f"jaxcog train {name}" in entry.module.__doc__, "a config begins with its command"


def test_no_golden_text_without_a_config():
    assert {p.stem for p in GOLDEN.glob("*.json")} == {n.replace("/", "__") for n in CONFIGS}


def tiny_of(name: str) -> Experiment:
    return override(experiments.load(name).experiment(tiny=True), SHORT)


def different(names: list[str]) -> list[str]:
    """One name of each tiny experiment: configs that share one need no second run of it."""
    return list({json.dumps(to_json(tiny_of(name))): name for name in reversed(names)}.values())


TINY = sorted(different(CONFIGS))


@pytest.mark.parametrize("name", TINY)
def test_tiny_trains_and_resumes_bitwise(name: str, tmp_path: Path):
    experiment = tiny_of(name)
    one = jax.devices()[:1]
    whole = loop.train(experiment, tmp_path, name, Silent(), one)
    assert whole.status == "finished"
    assert all(math.isfinite(value) for value in whole.metrics.values()), whole.metrics
    assert whole.program.task.headline in whole.metrics
    want = jax.tree.map(np.asarray, jax.device_get(whole.state))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in lines if row["kind"] == "train"] == [1, 2, 3, 4]

    shutil.rmtree(tmp_path / "checkpoints" / "4")
    again = loop.train(experiment, tmp_path, name, Silent(), one)
    got = jax.device_get(again.state)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b)), want, got)
    relined = read_metrics(tmp_path / "metrics.jsonl")
    untimed = [{k: v for k, v in row.items() if k != "time"} for row in lines]
    assert untimed == [{k: v for k, v in row.items() if k != "time"} for row in relined]
    assert checkpoint.read_meta(tmp_path)["finished"]


def assembled(name: str) -> Program:
    """The program at the paper's size, on as many chips as the batch allows up to 64."""
    experiment = experiments.load(name).experiment()
    chips = math.gcd(experiment.train.batch_size, 64)
    mesh = sharding.abstract_mesh(dataclasses.replace(experiment.mesh, data=-1), chips)
    return assemble(experiment, experiment.data.describe(), mesh)


LARGEST = [name for name in CONFIGS if experiments.load(name).slice is not None]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in LARGEST])
def test_full_size_assembles(name: str):
    """Model, data, optimizer and mesh fit each other at the paper's size."""
    program = assembled(name)
    assert program.state_struct["params"]


@pytest.mark.parametrize(
    "name",
    [n if n in LARGEST else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS],
)
def test_full_size_lowers_for_tpu(name: str):
    """The whole step, without a TPU."""
    lowered = assembled(name).lower_train_step("tpu")
    assert "sharding" in lowered.as_text()


@pytest.mark.parametrize("name", TINY)
def test_described_and_loaded_data_agree(name: str):
    """`plan` compiles what `describe` says; training feeds what `load` gives."""
    data = experiments.load(name).experiment(tiny=True).data
    described, splits = data.describe(), data.load()
    loaded = splits.info
    assert described.element == loaded.element
    assert described.num_classes == loaded.num_classes
