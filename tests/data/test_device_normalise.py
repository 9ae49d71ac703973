"""Normalisation on the devices instead of the host: same numbers, a quarter of the bytes."""

from __future__ import annotations

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcog.config import Experiment, Mesh, Train
from jaxcog.data import images
from jaxcog.data.device_normalise import (
    common_normalises,
    normalised,
    normalises_of,
    without_normalise,
)
from jaxcog.data.types import ArraySource, Splits, Stream
from jaxcog.task import DataInfo, Task
from jaxcog.training import evaluation, loop, start
from jaxcog.training.progress import Silent
from jaxcog.training.writers import StepLog

HALVED = images.Normalise(images.HALF, images.HALF)
WHOLE = images.single_view(images.Flip(), images.Normalise())


def pictures(count: int = 16) -> ArraySource:
    rng = np.random.default_rng(0)

    def encoded() -> bytes:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).save(file, "png")
        return file.getvalue()

    return ArraySource({"image": np.array([encoded() for _ in range(count)], object)})


def record(stream: Stream, index: int = 3) -> dict:
    return stream.transform(stream.source[index], np.random.default_rng(7))


def test_the_device_finishes_what_the_host_left():
    stream = Stream(pictures(), transform=WHOLE)
    raw, whole = record(without_normalise(stream)), record(stream)
    assert raw["image"].dtype == np.uint8
    done = jax.jit(lambda x: normalised(x, normalises_of(stream)))(raw)
    assert done["image"].dtype == jnp.float32
    np.testing.assert_allclose(done["image"], whole["image"], atol=1e-6)


def test_views_and_streams_keep_their_own():
    two = images.Views((("weak", (HALVED,)), ("strong", (images.Flip(),))))
    streams = {"a": Stream(pictures(), transform=two), "b": Stream(pictures())}
    assert normalises_of(streams) == {"a": {"weak": HALVED}}
    batch = {"a": record(without_normalise(streams["a"])), "b": {"image": np.float32(0.5)}}
    done = normalised(batch, normalises_of(streams))
    np.testing.assert_allclose(done["a"]["weak"], record(streams["a"])["weak"], atol=1e-6)
    assert done["a"]["strong"].dtype == np.uint8
    assert done["b"]["image"] == np.float32(0.5)


def test_evaluation_streams_that_differ_stay_whole():
    one, other = (Stream(pictures(), transform=images.single_view(x)) for x in (HALVED, WHOLE))
    assert common_normalises([one, one]) == {"image": HALVED}
    assert common_normalises([one, other]) == common_normalises([]) == {}


@dataclasses.dataclass(frozen=True)
class Brightness:
    """Learns the mean of the images; refuses any that are not normalised."""

    def build(self, setting):
        def loss(params, batch):
            assert batch["image"].dtype == jnp.float32
            return jnp.mean(jnp.square(batch["image"] - params["mean"]))

        def train_step(state, batch, key):
            value, slope = jax.value_and_grad(loss)(state["params"], batch)
            params = jax.tree.map(lambda p, g: p - g, state["params"], slope)
            return {"step": state["step"] + 1, "params": params}, {"loss": value}

        return Task(
            init=lambda key: {"step": jnp.int32(0), "params": {"mean": jnp.zeros(3)}},
            train_step=train_step,
            eval_step=lambda state, batch: {"loss": loss(state["params"], batch)},
            summarize=lambda found: {"loss": float(found["test"]["loss"])},
            headline="loss",
        )


@dataclasses.dataclass(frozen=True)
class Pictures:
    def describe(self):
        image = jax.ShapeDtypeStruct((6, 5, 3), np.float32)
        return DataInfo({"image": image}, num_examples=16)

    def load(self):
        stream = Stream(pictures(), transform=WHOLE)
        return Splits(train=stream, evaluation={"test": stream}, info=self.describe())


def test_a_run_on_bytes_is_the_run_on_numbers():
    train = Train(batch_size=8, eval_batch_size=16, duration="4 steps")
    experiment = Experiment("standin", Brightness(), Pictures(), train, Mesh())
    splits = experiment.data.load()
    by_bytes = start.assemble_for(experiment, splits)
    whole = start.assemble(experiment, splits.info, by_bytes.mesh)  # as `plan` sees it
    losses = []
    for program, dtype in ((by_bytes, np.uint8), (whole, np.float32)):
        assert program.batch_struct["image"].dtype == program.eval_struct["image"].dtype == dtype
        key = program.root_key()
        log = StepLog(program.scalar_names, lambda *_: None)
        batches = start.batches(program, splits, 0, Silent())
        *_, (_, state) = loop.updates(program, program.init(key), batches, key, log)
        losses.append(evaluation.evaluate(program, state, splits)[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
