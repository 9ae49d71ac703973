from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.config import Mesh
from jaxcog.data.samples import sample_arrays
from jaxcog.data.toy.scenes import Scenes
from jaxcog.errors import ConfigError
from jaxcog.optim import Optimizer
from jaxcog.show import Gallery, Matrix, Table
from jaxcog.systems.gald import Aggregation
from jaxcog.systems.gald.figures import overlay, palette
from jaxcog.systems.gald.pixels import normalise
from jaxcog.systems.gald.task import Loss, Parsing, Protocol
from jaxcog.task import DataInfo, Setting
from jaxcog.training import sharding

BATCH, SIZE = 8, 48
DATA = Scenes(size=SIZE, train=4 * BATCH, test=BATCH)
SMALL = Parsing(
    trunk="pixels",
    head="light",
    aggregation=Aggregation("mean"),
    downsample=False,
    block_residual=False,
    mask_relu=False,
    auxiliary=False,
    remat=False,
    pixels="raw",
    loss=Loss(min_kept=2000, rows=10),
    optimizer=Optimizer(lr=0.2, momentum=0.9),
)


def setting(**changes):
    return dataclasses.replace(Setting(DATA.describe(), 20, 10, BATCH), **changes)


@pytest.fixture(scope="module")
def arrays():
    splits = DATA.load()
    train = sample_arrays(splits.train, 4 * BATCH)
    return train, sample_arrays(splits.evaluation["test"], BATCH)


def part(arrays, i):
    return {name: value[i * BATCH : (i + 1) * BATCH] for name, value in arrays.items()}


@pytest.fixture(scope="module")
def trained(arrays):
    task, key = SMALL.build(setting()), jax.random.key(0)
    state, step, losses = jax.jit(task.init)(key), jax.jit(task.train_step), []
    for i in range(16):
        state, scalars = step(state, part(arrays[0], i % 4), key)
        losses.append(float(scalars["loss"]))
    return task, state, losses


def test_it_learns(trained):
    _, state, losses = trained
    assert int(state["step"]) == 16
    assert losses[-1] < 0.7 * losses[0]


def test_rows_that_only_pad_do_not_count(trained, arrays):
    task, state, _ = trained
    mask = np.arange(BATCH) < 5
    padded = {**arrays[1], "image": arrays[1]["image"].copy(), "mask": mask}
    padded["image"][5:] = np.nan
    counts = task.eval_step(state, padded)["confusion"].compute()
    assert counts.sum() == 5 * SIZE * SIZE
    rest = {**arrays[1], "mask": ~mask}
    both = counts + task.eval_step(state, rest)["confusion"].compute()
    whole = task.eval_step(state, {**arrays[1], "mask": mask | True})["confusion"].compute()
    np.testing.assert_array_equal(both, whole)
    summary = task.summarize({"test": {"confusion": task.eval_step(state, rest)["confusion"]}})
    assert set(summary) == {"miou", "pixel_accuracy", "mean_accuracy"}


def test_splits_after_the_first_carry_their_name(trained, arrays):
    task, state, _ = trained
    results = task.eval_step(state, {**arrays[1], "mask": np.ones(BATCH, bool)})
    summary = task.summarize({"val": results, "test": results})
    assert summary["test/miou"] == summary["miou"]


def assert_same_on(config, axes, data, batch):
    """One step and one evaluation on a mesh give the numbers of one device."""
    found, key = [], jax.random.key(0)
    for mesh in (None, sharding.make_mesh(axes)):
        task = config.build(setting(data=data, mesh=mesh))
        state, placed = jax.jit(task.init)(key), batch
        if mesh is not None:
            struct = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
            places = sharding.batch_shardings(struct, mesh, task.batch_partition)
            rows = batch["image"].shape[1] // axes.space
            assert places["image"].shard_shape(batch["image"].shape)[1] == rows
            placed = jax.device_put(batch, places)
            state = jax.device_put(state, sharding.state_shardings(state, mesh, task.partition))
        new, scalars = jax.jit(task.train_step)(state, placed, key)
        counts = jax.jit(task.eval_step)(state, placed)
        found.append((new["params"], new["batch_stats"], scalars, counts))
    one, many = (jax.device_get(x) for x in found)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), one, many)


def test_a_split_height_changes_no_number(arrays):
    """Batch over `data`, rows over `space`; attention in blocks; losses in pieces of rows."""
    config = dataclasses.replace(SMALL, aggregation=Aggregation("non_local", block=500))
    assert_same_on(config, Mesh(data=2, space=4), DATA.describe(), part(arrays[0], 0))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["gald", "dgcnet", "psp"])
def test_a_split_height_changes_no_number_of_a_dilated_network(head):
    """Maps of 17 rows, which do not divide, and parameters split over `fsdp`."""
    scenes = Scenes(size=128, train=4, test=1)
    config = Parsing(
        trunk="tiny",
        head=head,
        aggregation=Aggregation("non_local", block=50),
        width=32,
        dropout=0.0,
        pixels="raw",
        loss=Loss(min_kept=3000, rows=20),
        optimizer=Optimizer(lr=0.1, momentum=0.9),
    )
    batch = sample_arrays(scenes.load().train, 4)
    assert_same_on(config, Mesh(data=2, fsdp=2, space=2), scenes.describe(), batch)


def test_the_report_shows_best_worst_and_where_distribution_decides(trained, arrays):
    task, state, _ = trained
    results = {"test": task.eval_step(state, {**arrays[1], "mask": np.ones(BATCH, bool)})}
    shown = task.figures(state, {"test": arrays[1]}, jax.device_get(results))
    assert [type(figure) for figure in shown] == [Table, Matrix, Gallery, Gallery, Gallery]
    worst, best, changed = shown[2:]
    assert "Worst" in worst.title
    assert "Best" in best.title
    assert "local distribution changed" in changed.title
    scores = [float(row[1][2].caption.split()[-1]) for row in (*worst.rows, *best.rows[::-1])]
    assert scores == sorted(scores)
    for _, pictures in worst.rows:
        assert [picture.rgb.shape for picture in pictures] == [(SIZE, SIZE, 3)] * 4


def test_predictions_stand_beside_their_images(trained):
    task, state, _ = trained
    images = [np.full((40, 60, 3), 90, np.uint8), np.full((30, 20, 3), 200, np.uint8)]
    scenes, legend = task.predict(state, images, ["a.png", "b.png"])
    assert [name for name, _ in scenes.rows] == ["a.png", "b.png"]
    for image, (_, pictures) in zip(images, scenes.rows, strict=True):
        assert all(picture.rgb.shape == image.shape for picture in pictures)
        np.testing.assert_array_equal(pictures[0].rgb, image)
    names = [picture.caption for _, row in legend.rows for picture in row]
    assert names == list(DATA.describe().class_names)


def test_overlays_are_in_the_datasets_colours():
    colours = palette(DATA.describe())
    classes = np.arange(7).reshape(1, 7)
    mixed = overlay(np.zeros((1, 7, 3), np.uint8), classes, colours, share=1.0)
    np.testing.assert_array_equal(mixed[0], DATA.describe().facts["colours"])
    without = palette(DataInfo({}, 1, ("a", "b")))
    assert (without[0] != without[1]).any()
    assert not without[2:].any()


def test_pixels_outside_the_window_are_zero_after_normalising():
    images = jnp.full((1, 4, 5, 3), 128, jnp.uint8)
    window = jnp.asarray([[0, 3, 1, 5]])
    for pixels, inside in (
        ("rgb", (128 / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])),
        ("bgr", 128 - np.array([104.00698793, 116.66876762, 122.67891434])),
        ("raw", np.full(3, 128.0)),
    ):
        x = normalise(images, window, pixels)
        np.testing.assert_allclose(x[0, 0, 1], inside, rtol=1e-5)
        assert not np.asarray(x)[0, 3].any()
        assert not np.asarray(x)[0, :, 0].any()


def element(height, width, label=None):
    return {
        "image": jax.ShapeDtypeStruct((height, width, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct(label or (height, width), jnp.uint8),
    }


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({}, {"element": element(48, 48, (48, 40))}, "must have one size"),
        ({}, {"element": {"image": element(48, 48)["image"]}}, "scene-parsing dataset"),
        ({}, {"element": element(14, 48)}, "needs 15 pixels a side.*larger data.crop"),
        ({"protocol": Protocol(tile=14)}, {}, "protocol.tile=14 is too small.*or None"),
        ({}, {"class_names": ("a",)}, "names 1 classes"),
        ({"loss": Loss(class_weights="cityscapes")}, {}, "is for 19 classes, the data has 7"),
        ({"loss": Loss(per_images=3)}, {}, "per_images=3 does not divide"),
    ],
)
def test_data_that_does_not_fit_is_named(changes, data, message):
    info = dataclasses.replace(DATA.describe(), **data)
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes).build(setting(data=info))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Loss(thresh=2), "task.loss.thresh=2"),
        (lambda: Loss(min_kept=-1), "min_kept=-1"),
        (lambda: Loss(rows=0), "task.loss.rows=0"),
        (lambda: Protocol(scales=()), r"protocol.scales=\(\)"),
        (lambda: Protocol(overlap=1.0), "protocol.overlap"),
        (lambda: Protocol(tile=0), "protocol.tile=0"),
        (lambda: Parsing(dropout=1.0), "task.dropout"),
        (lambda: Parsing(width=0), "task.width"),
        (lambda: Parsing(width=20), "divide by groups=8"),
        (lambda: dataclasses.replace(SMALL, auxiliary=True), "no auxiliary head"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
