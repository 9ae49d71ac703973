"""The bench of a small stand-in task: what is counted, and that nothing is left behind."""

from __future__ import annotations

import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.bench import bench
from jaxcog.config import Experiment, Mesh, Train
from jaxcog.data.types import ArraySource, Splits, Stream
from jaxcog.errors import ConfigError, DataError
from jaxcog.task import DataInfo, Task

KEYS = {
    "config",
    "device",
    "devices",
    "batch_size",
    "steps",
    "compile_seconds",
    "step_seconds",
    "step_seconds_p10",
    "step_seconds_p90",
    "examples_per_second",
    "flops_per_step",
    "mfu",
    "input_batches_per_second",
    "input_examples_per_second",
    "peak_memory_bytes",
    "peak_memory_source",
    "loop_over_bare_step",
    "loop_over_bare_step_range",
    "notes",
    "evaluation",
}


@dataclasses.dataclass(frozen=True)
class Linear:
    """Least squares of y on x [B, 8] by gradient descent."""

    def build(self, setting):
        def init(key):
            return {"step": jnp.int32(0), "params": {"kernel": jax.random.normal(key, (8, 3))}}

        def loss(params, batch):
            return jnp.mean(jnp.square(batch["x"] @ params["kernel"] - batch["y"]))

        def train_step(state, batch, key):
            value, gradients = jax.value_and_grad(loss)(state["params"], batch)
            params = jax.tree.map(lambda p, g: p - 0.01 * g, state["params"], gradients)
            return {"step": state["step"] + 1, "params": params}, {"loss": value}

        return Task(
            init=init,
            train_step=train_step,
            eval_step=lambda state, batch: {"loss": loss(state["params"], batch)},
            summarize=dict,
            headline="loss",
        )


@dataclasses.dataclass(frozen=True)
class Rows:
    """64 rows; `delay` seconds to read each of them."""

    delay: float = 0.0

    def describe(self):
        element = {
            "x": jax.ShapeDtypeStruct((8,), np.float32),
            "y": jax.ShapeDtypeStruct((3,), np.float32),
        }
        return DataInfo(element, num_examples=64)

    def load(self):
        rng = np.random.default_rng(0)
        arrays = {"x": rng.normal(size=(64, 8)), "y": rng.normal(size=(64, 3))}
        source = ArraySource({name: value.astype(np.float32) for name, value in arrays.items()})

        def slow(record, rng):
            time.sleep(self.delay)
            return record

        stream = Stream(source, transform=slow if self.delay else None)
        return Splits(train=stream, evaluation={"test": stream}, info=self.describe())


def experiment(**data):
    # A run of two updates: the bench is not bound by the run's length.
    train = Train(batch_size=16, duration="2 steps")
    return Experiment("standin", Linear(), Rows(**data), train, Mesh())


def test_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = bench(experiment(), name="standin/rows", steps=7, repeats=3)
    found = report.to_json()
    assert set(found) == KEYS
    assert json.loads(json.dumps(found)) == found
    assert (found["config"], found["batch_size"], found["steps"]) == ("standin/rows", 16, 7)
    assert found["devices"] == jax.device_count()
    assert found["flops_per_step"] == 2 * (2 * 16 * 8 * 3)  # forward, and the weights' gradient
    assert found["step_seconds_p10"] <= found["step_seconds"] <= found["step_seconds_p90"]
    assert found["examples_per_second"] == pytest.approx(16 / found["step_seconds"])
    low, high = found["loop_over_bare_step_range"]
    assert 0 < low <= found["loop_over_bare_step"] <= high
    assert found["mfu"] is None
    assert found["peak_memory_bytes"] > 0
    assert "standin/rows" in report.text()
    assert list(tmp_path.iterdir()) == []


def test_evaluation_in_batches_and_one_at_a_time():
    report = bench(experiment(), steps=2, repeats=3, with_evaluation=True)
    rate = report.evaluation
    assert rate.batch_size == 256  # the default of train.eval_batch_size
    assert rate.ratio_range[0] <= rate.ratio <= rate.ratio_range[1]
    assert rate.examples_per_second > 0
    assert "one at a time" in report.text()


def test_made_up_batches_need_no_data(monkeypatch):
    def missing(self):
        raise DataError("not there")

    monkeypatch.setattr(Rows, "load", missing)
    report = bench(experiment(), steps=2, repeats=1, synthetic=True)
    assert report.flops_per_step == 2 * (2 * 16 * 8 * 3)
    assert report.input_batches_per_second is report.input_examples_per_second is None
    assert "made-up" in report.text()
    assert "bytes" in report.notes[0]
    with pytest.raises(ConfigError, match="--synthetic"):
        bench(experiment(), synthetic=True, with_evaluation=True)


def test_a_slow_pipeline_is_named():
    report = bench(experiment(delay=0.02), steps=2, repeats=1)
    assert "input pipeline" in report.notes[0]
    assert report.notes[0] in report.text()


def test_bad_input():
    with pytest.raises(ConfigError, match="at least 1"):
        bench(experiment(), steps=0)
