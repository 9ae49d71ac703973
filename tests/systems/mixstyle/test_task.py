from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog.errors import ConfigError
from jaxcog.metrics.state import merge
from jaxcog.optim import Optimizer
from jaxcog.show import Gallery, Matrix
from jaxcog.systems.mixstyle import MixStyle
from jaxcog.systems.mixstyle.figures import fit
from jaxcog.systems.mixstyle.task import Classification
from jaxcog.task import DataInfo, Setting

BATCH, SIZE, CLASSES = 16, 16, ("a", "b", "c")


def setting(**changes):
    element = {
        "image": jax.ShapeDtypeStruct((SIZE, SIZE, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((), jnp.int32),
        "domain": jax.ShapeDtypeStruct((), jnp.int32),
    }
    data = DataInfo(element, 160, CLASSES, facts={"domains": ("paper", "ink"), "mean": 0.4})
    return dataclasses.replace(Setting(data, 20, 10, BATCH), **changes)


def config(**changes):
    default = Classification(
        network="cnn_toy",
        mixstyle=MixStyle(p=1.0, alpha=1.0, mix="crossdomain", after=("conv1", "conv2")),
        optimizer=Optimizer(lr=0.05),
    )
    return dataclasses.replace(default, **changes)


def batch(seed=0):
    """Images whose texture is their class and whose colour is their domain."""
    rng = np.random.default_rng(seed)
    label, domain = rng.integers(3, size=BATCH), np.arange(BATCH) % 2
    wave = np.sin(np.arange(SIZE)[:, None] * (label + 1.0)[:, None, None])[..., None]
    image = wave + domain[:, None, None, None] + 0.1 * rng.normal(size=(BATCH, SIZE, SIZE, 3))
    return {
        "image": jnp.asarray(image, jnp.float32),
        "label": jnp.asarray(label, jnp.int32),
        "domain": jnp.asarray(domain, jnp.int32),
    }


@pytest.fixture(scope="module")
def compiled():
    """The task, its functions compiled once for all tests."""
    task = config().build(setting())
    names = ("init", "train_step", "eval_step")
    return dataclasses.replace(task, **{name: jax.jit(getattr(task, name)) for name in names})


@pytest.fixture(scope="module")
def trained(compiled):
    task, key = compiled, jax.random.key(0)
    state, step = task.init(key), task.train_step
    losses = []
    for i in range(12):
        state, scalars = step(state, batch(i), key)
        losses.append(float(scalars["loss"]))
    return task, state, losses


def test_it_learns(trained):
    _, state, losses = trained
    assert int(state["step"]) == 12
    assert losses[-1] < 0.5 * losses[0]


def test_sharded_step_equals_one_device(compiled):
    task, key = compiled, jax.random.key(0)
    state, images = task.init(key), batch()
    one, scalars = task.train_step(state, images, key)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(images, NamedSharding(mesh, P("data")))
    many, many_scalars = task.train_step(state, sharded, key)
    assert float(many_scalars["loss"]) == pytest.approx(float(scalars["loss"]), rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        one["batch_stats"],
        many["batch_stats"],
    )


def test_padding_rows_do_not_count(trained):
    task, state, _ = trained
    rows = batch(99)
    mask = jnp.arange(BATCH) < 10
    padded = {**rows, "image": rows["image"].at[10:].set(jnp.nan), "mask": mask}
    part = {name: value[:10] for name, value in rows.items()}
    part["mask"] = jnp.ones(10, bool)
    summaries = [task.summarize({"test": task.eval_step(state, rows)}) for rows in (padded, part)]
    assert summaries[0] == pytest.approx(summaries[1])


def test_summary_of_several_splits(trained):
    task, state, _ = trained
    first, second = (jax.device_get(task.eval_step(state, batch(i))) for i in (50, 51))
    summary = task.summarize({"train": first, "test": merge(first, second)})
    counts = merge(first, second)["confusion"].compute()
    assert counts.sum() == 2 * BATCH
    assert summary[task.headline] == pytest.approx(100 * np.trace(counts) / counts.sum())
    assert summary["train/accuracy"] + summary["train/error_rate"] == pytest.approx(100)
    assert task.summarize({"val": first})["accuracy"] == summary["train/accuracy"]


def test_figures_show_domains_styles_and_confusions(trained):
    task, state, _ = trained
    samples = {name: jax.device_get(batch(i)) for i, name in enumerate(("train", "test"))}
    results = {name: jax.device_get(task.eval_step(state, batch(1))) for name in samples}
    shown = task.figures(state, samples, results)
    assert [type(figure) for figure in shown] == [Gallery, Gallery, Gallery, Matrix, Matrix]
    assert [label for label, _ in shown[0].rows] == ["paper", "ink"]
    for gallery in shown[:3]:
        for _, pictures in gallery.rows:
            assert all(picture.rgb.dtype == np.uint8 for picture in pictures)
            assert all(picture.rgb.shape == (SIZE, SIZE, 3) for picture in pictures)


def test_prediction_of_images_of_any_size(trained):
    task, state, _ = trained
    rng = np.random.default_rng(0)
    images = [rng.integers(256, size=(h, w, 3), dtype=np.uint8) for h, w in [(16, 16), (9, 40)]]
    (gallery,) = task.predict(state, images, ["x.png", "y.png"])
    assert [name for name, _ in gallery.rows] == ["x.png", "y.png"]
    assert all("%" in pictures[0].caption for _, pictures in gallery.rows)


def test_fit_keeps_the_aspect_and_crops_the_centre():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255
    np.testing.assert_allclose(fit(image, (10, 10)), np.ones((10, 10, 3)), atol=0.15)
    np.testing.assert_array_equal(fit(image, (20, 60)), image / np.float32(255))


def test_an_average_of_the_weights_is_what_is_evaluated():
    task = config(optimizer=Optimizer(lr=0.05, ema=0.5)).build(setting())
    state = jax.jit(task.init)(jax.random.key(0))
    broken = {**state, "params": jax.tree.map(lambda x: x * jnp.nan, state["params"])}
    results = {"test": jax.jit(task.eval_step)(broken, batch())}
    assert np.isfinite(task.summarize(results)["loss"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet19"}, 'network="resnet19"'),
        ({"mixstyle": MixStyle(after=("conv1", "conv3"))}, "conv3 is the last stage"),
        ({"mixstyle": MixStyle()}, "mixstyle.after.*conv1, conv2"),
        ({"hidden": (0,)}, "task.hidden"),
        ({"dropout": 1.0}, "task.dropout"),
        ({"headline": "loss"}, "task.headline"),
    ],
)
def test_bad_configs_name_their_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_layer4_is_forbidden():
    with pytest.raises(ConfigError, match="layer4 is the last stage"):
        Classification(mixstyle=MixStyle(after=("layer1", "layer4")))


def test_data_without_classes_or_images_is_refused():
    data = setting().data
    with pytest.raises(ConfigError, match="class names"):
        config().build(setting(data=dataclasses.replace(data, class_names=())))
    with pytest.raises(ConfigError, match='"image"'):
        config().build(setting(data=dataclasses.replace(data, element={"text": None})))
