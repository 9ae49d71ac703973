from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxcog.data.toy.cameras import Cameras
from jaxcog.errors import ConfigError, DataError
from jaxcog.metrics.state import Concat
from jaxcog.optim import Optimizer
from jaxcog.show import Gallery, Lines
from jaxcog.systems.mixstyle import MixStyle
from jaxcog.systems.mixstyle.reid.task import ReID, summarize
from jaxcog.task import Setting

DATA = Cameras(persons=4, cameras=2, images=3, size=8, sampler="persons")


def config(**changes):
    style = MixStyle(p=1.0, mix="crossdomain", after=("conv1",))
    optimizer = Optimizer(lr=0.05)
    options = {"network": "cnn_toy", "mixstyle": style, "features": 8, "optimizer": optimizer}
    return ReID(**{**options, "triplet": 1.0, **changes})


@pytest.fixture(scope="module")
def trained():
    splits = DATA.load()
    task = config().build(Setting(splits.info, 8, 2, 8))
    key = jax.random.key(0)
    state, step = jax.jit(task.init)(key), jax.jit(task.train_step)
    rows, losses = splits.train.source, []
    for _ in range(8):
        state, scalars = step(state, rows.take(np.arange(0, 24, 3)), key)
        losses.append(float(scalars["loss"]))
    samples = {n: dict(s.source.arrays) for n, s in splits.evaluation.items()}
    results = {n: task.eval_step(state, arrays) for n, arrays in samples.items()}
    return task, state, losses, samples, results


def test_it_learns(trained):
    _, _, losses, *_ = trained
    assert losses[-1] < losses[0]


def test_the_toy_has_what_the_protocol_needs():
    splits = DATA.load()
    query, gallery = (splits.evaluation[n].source.arrays for n in ("query", "gallery"))
    assert len(query["person"]) == 8
    assert len(gallery["person"]) == 16
    assert splits.train.source.arrays["image"].shape == (24, 16, 8, 3)
    assert DATA.load().info == DATA.describe()


def test_summary_is_the_paper_s(trained):
    *_, results = trained
    summary = summarize(results)
    assert summary["queries"] == 8
    assert {"mAP", "rank-1", "rank-5", "rank-10", "rank-20"} <= set(summary)
    assert 0 < summary["mAP"] <= 100
    assert summary["rank-20"] == 100


def test_padding_rows_do_not_count(trained):
    task, state, _, samples, _ = trained
    query = {name: value[:4] for name, value in samples["query"].items()}
    padded = {name: np.concatenate([value, value]) for name, value in query.items()}
    mask = np.arange(8) < 4
    rows = task.eval_step(state, {**padded, "mask": mask})["rows"]
    assert isinstance(rows, Concat)
    assert len(rows.compute()["person"]) == 4


def test_report_shows_ranked_galleries_and_the_curve(trained):
    task, state, _, samples, results = trained
    gallery, curve = task.figures(state, samples, results)
    assert isinstance(gallery, Gallery)
    assert len(gallery.rows) == 8
    label, pictures = gallery.rows[0]
    assert label == "person 0, camera 1"
    assert {picture.border for picture in pictures[1:]} == {"good", "bad"}
    assert len([p for p in pictures if p.border == "good"]) == 2
    assert isinstance(curve, Lines)
    assert curve.series["CMC"][1][-1] == 100


def test_prediction_ranks_images_among_each_other(trained):
    task, state, *_ = trained
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (40, 20, 3), np.uint8) for _ in range(3)]
    (gallery,) = task.predict(state, images, ["a/1.jpg", "a/2.jpg", "b/3.jpg"])
    assert [label for label, _ in gallery.rows] == ["1.jpg", "2.jpg", "3.jpg"]
    assert all(len(pictures) == 3 for _, pictures in gallery.rows)
    with pytest.raises(DataError, match="at least two"):
        task.predict(state, images[:1], ["1.jpg"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "pcb"}, "unknown; choose"),
        ({"features": 0}, r"task\.features"),
        ({"label_smoothing": 1.0}, r"task\.label_smoothing"),
        ({"triplet": -1.0}, r"task\.triplet"),
        ({"mixstyle": MixStyle(after=("conv3",))}, "last stage"),
    ],
)
def test_bad_configs_name_their_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_data_without_persons_is_refused():
    info = dataclasses.replace(DATA.describe(), class_names=())
    with pytest.raises(ConfigError, match="at least 2 persons"):
        config().build(Setting(info, 8, 2, 8))
