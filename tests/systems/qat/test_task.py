from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog import experiments
from jaxcog.data.pipeline import train_batches
from jaxcog.data.snippets import Snippets
from jaxcog.data.toy.events import EventEpisodes, EventVideos
from jaxcog.errors import ConfigError, DataError
from jaxcog.show import File, Gallery, Table
from jaxcog.systems.qat.base import BaseStage
from jaxcog.systems.qat.task import FewShot, outer_loss
from jaxcog.task import DataInfo, Setting
from jaxcog.training import evaluation, start
from tests.systems.qat.worlds import NETWORK, raw_experiment


@pytest.fixture(scope="module")
def run():
    """(program, state after some updates, splits) of episodes of raw features."""
    experiment = raw_experiment()
    splits = experiment.data.load()
    program = start.assemble_for(experiment, splits, jax.devices()[:1])
    key = program.root_key()
    state = program.init(key)
    before = jax.device_get(state["params"])
    splits = start.embedded(program, state, splits)
    batches = train_batches(splits, batch_size=4, seed=0, start_step=0, stop_step=2)
    for batch in batches:
        state, scalars = program.train_step(state, batch.arrays, key)
    assert np.isfinite(scalars).all()
    return program, state, splits, before


def test_only_the_transformer_learns(run):
    _, state, _, before = run
    for name, part in before.items():
        moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), part, state["params"][name])
        assert all(jax.tree.leaves(moved)) if name == "transformer" else not any(
            jax.tree.leaves(moved)
        )  # fmt: skip


def test_results_stand_beside_fixed_boxes(run):
    program, state, splits, _ = run
    metrics, results = evaluation.evaluate(program, state, splits)
    assert {"mAP", "mAP@0.5", "frame_ap", "whole_video/mAP", "five_boxes/mAP@0.75"} <= set(metrics)
    assert program.task.headline in metrics
    table, gallery = program.task.figures(state, {}, results)
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["this run", "whole video", "two boxes", "five boxes"]
    assert isinstance(gallery, Gallery)
    assert gallery.rows[0][1][0].rgb.dtype == np.uint8


def video(seed: int, annotated: bool = True, length: int = 21, channels: int = 8) -> Snippets:
    features = np.random.default_rng(seed).standard_normal((length, channels))
    segments = np.array([[3.0, 12.0]]) if annotated else None
    return Snippets(features.astype(np.float32), 30.0, segments)


def test_predict_takes_supports_then_queries(run):
    program, state, *_ = run
    predict = program.task.predict
    names = ["support.npy", "a.npy", "b.npy"]
    gallery, file = predict(state, [video(0), video(1), video(2, annotated=False)], names)
    assert [name for name, _ in gallery.rows] == names[1:]
    assert isinstance(file, File)
    found = json.loads(file.data)
    assert set(found) == set(names[1:])
    for segment in found["a.npy"]:
        assert 0 <= segment["start"] < segment["end"] <= 30

    with pytest.raises(DataError, match="needs 1 annotated support"):
        predict(state, [video(0)], names[:1])
    with pytest.raises(DataError, match=r"support\.npy is one of the 1 supports and has no annot"):
        predict(state, [video(0, annotated=False), video(1)], names[:2])
    with pytest.raises(DataError, match=r"a\.npy: 5 channels, this run was trained on 8"):
        predict(state, [video(0), video(1, channels=5)], names[:2])
    short = dataclasses.replace(video(0), segments=np.array([[3.0, 3.01]]))
    with pytest.raises(DataError, match="shorter than a snippet"):
        predict(state, [short, video(1)], names[:2])


def test_what_the_prototype_is_adapted_to_decides():
    """Without dropout, training and evaluation see the same curve; the controls see others."""
    data = EventEpisodes(length=16, channels=16, base_classes=3, novel_classes=2,
                         videos_per_class=4, queries_per_class=4)  # fmt: skip
    setting = Setting(data.describe(), 4, 4, 8)
    batch = data.load().evaluation["novel"].source.take(np.arange(8))
    curves = {}
    for adapt in ("query", "off", "other_query"):
        task = FewShot(adapt=adapt, inner_steps=2, dropout=(0.0, 0.0)).build(setting)
        state = jax.jit(task.init)(jax.random.key(0))
        rows = jax.jit(task.eval_step)(state, batch)["rows"].compute()
        curves[adapt] = rows["prob"]
    assert np.abs(curves["query"] - curves["off"]).max() > 1e-3
    assert np.abs(curves["query"] - curves["other_query"]).max() > 1e-4


def test_the_loss_and_its_gradient_are_the_same_on_many_devices():
    config = FewShot(inner_steps=3, dropout=(0.0, 0.0))
    data = EventEpisodes(length=12, channels=8, base_classes=3, novel_classes=2,
                         videos_per_class=4, queries_per_class=4)  # fmt: skip
    batch = data.load().train.source.take(np.arange(8))
    params = {"transformer": config.transformer(8).init(jax.random.key(0), 8)}

    @jax.jit
    def grad(params, batch):
        return jax.value_and_grad(lambda p: outer_loss(config, p, batch, jax.random.key(0))[0])(
            params
        )

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    spread = jax.device_put(batch, NamedSharding(mesh, P("data")))
    for one, many in zip(*map(jax.tree.leaves, (grad(params, batch), grad(params, spread))),
                         strict=True):  # fmt: skip
        np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-6)


def test_base_stage_predicts_proposals():
    experiment = experiments.load("qat/activitynet_base").experiment(tiny=True)
    task = experiment.task.build(Setting(experiment.data.describe(), 4, 4, 8))
    state = jax.jit(task.init)(jax.random.key(0))
    gallery, file = task.predict(state, [video(0, channels=16)], ["v"])
    assert len(gallery.rows) == 1
    found = json.loads(file.data)["v"]
    assert found[0]["score"] == max(segment["score"] for segment in found)


def test_values_that_make_no_sense_are_named():
    for options, message in (
        ({"temperature": 0.0}, "temperature"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"dropout": (1.0, 0.0)}, "dropout"),
        ({"num_heads": 0}, "num_heads"),
    ):
        with pytest.raises(ConfigError, match=message):
            FewShot(**options)


def test_data_that_does_not_fit_is_named():
    images = DataInfo({"image": jax.ShapeDtypeStruct((8, 8, 3), np.float32)}, 8)
    episodes = raw_experiment(embedded=12).data.describe()
    videos = EventVideos(length=10, channels=6).describe()
    for task, info, message in (
        (FewShot(), images, "learns from episodes"),
        (FewShot(network=NETWORK), episodes, "expects embeddings of 12 numbers"),
        (BaseStage(), episodes, "base stage needs"),
        (BaseStage(network=dataclasses.replace(NETWORK, max_duration=4)), videos, "max_duration=4"),
        (BaseStage(), videos, "6 channels"),
    ):
        with pytest.raises(ConfigError, match=message):
            task.build(Setting(info, 4, 4, 4))
    with pytest.raises(ConfigError, match=r"data\.shots=4"):
        EventEpisodes(shots=4, videos_per_class=4)
