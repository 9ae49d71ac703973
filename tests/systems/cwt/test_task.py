"""Networks by their shapes, configs and data that do not fit, what a report shows."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.data.toy.grids import GridEpisodes, GridImages
from jaxcog.errors import CheckpointError, ConfigError
from jaxcog.nn.canvas import resize_linear
from jaxcog.optim import Optimizer
from jaxcog.show import Gallery, Histogram, Table
from jaxcog.systems.cwt import figures, judging, ops, torch_names
from jaxcog.systems.cwt.model import Encoded, Encoder, PSPNet, output_size
from jaxcog.systems.cwt.task import BaseTraining, EncoderConfig, InnerLoop, MetaTraining
from jaxcog.task import Setting

CELLS = EncoderConfig("cells", width=64)


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "millions", "side"), [("resnet50", 46.71, 60), ("vgg16", 19.71, 30)]
)
def test_networks_have_the_published_size_and_names(name, millions, side):
    net = PSPNet(Encoder(name), 2)
    images = jax.ShapeDtypeStruct((1, 473, 473, 3), jnp.float32)
    params, stats = jax.eval_shape(lambda x: net.init(jax.random.key(0), x), images)
    assert count(params) / 1e6 == pytest.approx(millions, abs=0.005)
    features = jax.eval_shape(
        lambda p, s, x: net.encoder(p["encoder"], s["encoder"], x).features, params, stats, images
    )
    assert features.shape == (1, side, side, 512)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), (params, stats))
    table = torch_names.table_for(name)
    torch = table.to_torch({"params": zeros[0], "batch_stats": zeros[1]})
    back = table.to_ours({f"{key}": value for key, value in torch.items()})
    assert jax.tree.structure(back["params"]) == jax.tree.structure(zeros[0])
    assert output_size(473, 417) == (473, 417)


def setting(data, **options) -> Setting:
    return Setting(data.describe(), steps=4, steps_per_epoch=2, batch_size=8, **options)


def shapes(task, data, batch=8):
    element = data.describe().element
    structs = {k: jax.ShapeDtypeStruct((batch, *v.shape), v.dtype) for k, v in element.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(task.init, key)
    return jax.eval_shape(task.train_step, state, structs, key)


def test_options_of_both_stages():
    data = GridImages(pixels="rgb")
    encoder = EncoderConfig("tiny", width=8, bins=(1, 2))
    state, scalars = shapes(BaseTraining(encoder, mixup=0.2).build(setting(data)), data)
    assert "encoder" in state["batch_stats"]
    assert "loss" in scalars
    episodes = GridEpisodes(pixels="rgb", shot=2)
    for updates in ("sequential", "mean"):
        config = MetaTraining(
            encoder,
            share_qkv=False,
            inner=InnerLoop(steps=2, normalize=True),
            updates=updates,
            skip_empty=True,
        )
        state, _ = shapes(config.build(setting(episodes)), episodes)
        assert set(state["params"]["transformer"]) == {"q", "k", "v", "out", "out_bias", "norm"}
        assert "encoder" not in str(jax.tree.structure(state["opt"]))


class CentredCells:
    """An encoder that centres the pixels of cells: by the batch's mean in training mode."""

    def init(self, key, images):
        return {}, {"mean": jnp.full(64, 0.5)}

    def __call__(self, params, stats, images, *, train=False, key=None):
        cells = images.reshape(-1, 8, 8, 8, 8).swapaxes(2, 3).reshape(-1, 8, 8, 64)
        if not train:
            return Encoded(cells - stats["mean"], stats)
        assert key is not None
        mean = jnp.mean(cells, axis=(0, 1, 2))
        running = 0.9 * stats["mean"] + 0.1 * mean + 0.01 * len(images)
        return Encoded(cells - mean, {"mean": running})


def test_the_first_support_of_an_epoch_in_training_mode(monkeypatch):
    """As the released code: two epochs of two steps; a single support counts as two images."""
    monkeypatch.setattr(EncoderConfig, "make", lambda self, dtype: CentredCells())
    data = GridEpisodes()
    config = MetaTraining(CELLS, inner=InnerLoop(steps=2), reproduce_first_step_train_mode=True)
    task = config.build(setting(data))
    arrays = data.load().train.source.take(np.arange(2))
    key = jax.random.key(0)
    step = jax.jit(task.train_step)

    def mean(state):
        return state["batch_stats"]["encoder"]["mean"]

    states = [task.init(key)]
    for _ in range(3):
        states.append(step(states[-1], arrays, key)[0])
    cells = arrays["support"][0].reshape(8, 8, 8, 8).swapaxes(1, 2).reshape(64, 64)
    expected = 0.9 * 0.5 + 0.1 * cells.mean(0) + 0.02
    np.testing.assert_allclose(mean(states[1]), expected, rtol=1e-5)
    np.testing.assert_array_equal(mean(states[2]), mean(states[1]))
    expected = 0.9 * expected + 0.1 * cells.mean(0) + 0.02
    np.testing.assert_allclose(mean(states[3]), expected, rtol=1e-5)


def test_queries_are_judged_as_they_were_annotated():
    """Squares of 17 with contents of 16 x 8 and 8 x 16, judged at 30 x 20 and 12 x 24."""
    truth = np.full((2, 32, 32), 255, np.uint8)
    truth[0, :30, :20] = np.arange(20) >= 10
    truth[1, :12, :24] = (np.arange(12) >= 6)[:, None]
    logits = np.zeros((2, 17, 17, 2), np.float32)
    logits[0, ..., 1] = np.arange(17) - 3.5
    logits[1, ..., 1] = np.arange(17)[:, None] - 3.5
    content, size = np.array([[16, 8], [8, 16]]), np.array([[30, 20], [12, 24]])
    large = judging.at_original(logits, content, size, 32)
    resized = resize_linear(logits[0, :16, :8], 30, 20)
    np.testing.assert_allclose(large[0, :30, :20], resized, atol=1e-5)
    both, either = judging.overlap(jnp.argmax(large, axis=-1), truth)
    np.testing.assert_array_equal(both, [[300, 300], [144, 144]])
    np.testing.assert_array_equal(both, either)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: EncoderConfig(dropout=1.0), r"task.encoder.dropout"),
        (lambda: EncoderConfig(bins=()), r"task.encoder: width"),
        (lambda: BaseTraining(smoothing=1.0), r"task.smoothing"),
        (lambda: BaseTraining(mixup=-1.0), r"task.mixup"),
        (lambda: InnerLoop(steps=0), r"task.inner"),
        (lambda: MetaTraining(heads=0), r"task.heads"),
        (lambda: MetaTraining(dropout=1.0), r"task.dropout"),
        (lambda: MetaTraining(optimizer=Optimizer(ema=0.9)), r"task.optimizer.ema"),
        (lambda: MetaTraining(CELLS).build(setting(GridImages())), "choose data of episodes"),
        (lambda: BaseTraining(CELLS).build(setting(GridEpisodes())), "choose data of base classes"),
    ],
)
def test_bad_configs(make, problem):
    with pytest.raises(ConfigError, match=problem):
        make()


def test_which_first_stages_are_accepted():
    data = GridEpisodes()
    check = MetaTraining(CELLS).build(setting(data)).check_origin
    check(GridImages().describe())
    with pytest.raises(CheckpointError, match="novel classes here: it belongs to another fold"):
        check(GridImages(fold=1).describe())
    info = GridImages().describe()
    fewer = dataclasses.replace(info, class_names=info.class_names[8:])
    with pytest.raises(CheckpointError, match="never saw the base classes 0"):
        check(fewer)
    with pytest.raises(ConfigError, match=r"--train\.start-from"):
        check(None)
    MetaTraining(CELLS, pretrained=False).build(setting(data)).check_origin(None)


def test_report_of_made_up_results():
    data = GridEpisodes(episodes=3)
    arrays = next(iter(data.load().evaluation.values())).source.arrays
    truth = jnp.asarray(arrays["query_mask"])

    def segment(state, batch):
        logits = jax.nn.one_hot(batch["query_mask"], 2) * 4
        return ops.Segmented(
            -logits, logits, lambda: logits, lambda: jnp.ones((1, 2, 2, 8, 8)) / 64
        )

    both = jnp.stack([jnp.sum(truth == c, axis=(1, 2)) for c in (0, 1)], axis=1)
    rows = {"class": arrays["class"], "run": arrays["run"]}
    for name, hit in (("adapted", both), ("support", 0 * both)):
        rows |= {f"{name}/both": np.asarray(hit), f"{name}/either": np.full_like(both, 64)}

    class Results:
        def compute(self):
            return rows

    shown = figures.report(data.describe(), segment)(
        {}, {"novel": arrays}, {"novel": {"episodes": Results()}}
    )
    table, histogram, helped, hurt = shown
    assert isinstance(table, Table)
    assert table.rows[-1][:2] == ["mean", 3]
    assert isinstance(histogram, Histogram)
    assert "better in 3 of 3" in histogram.note
    assert isinstance(helped, Gallery)
    label, pictures = helped.rows[0]
    assert [p.caption for p in pictures[2:4]] == ["support only, IoU 0", "transformer, IoU 100"]
    assert pictures[3].border == "good"
    assert all(p.rgb.shape == (64, 64, 3) for p in pictures)
    assert label.startswith(("0: ", "1: ", "2: "))
    assert len(hurt.rows) == 3


@pytest.mark.parametrize(
    ("encoder", "keys"),
    [
        (
            "resnet50",
            {
                "conv3.weight": "params/encoder/trunk/conv3/kernel",
                "bn2.running_var": "batch_stats/encoder/trunk/bn2/var",
                "layer3.0.downsample.1.bias": "params/encoder/trunk/layer3_0/downsample_bn/bias",
                "fc.weight": None,
            },
        ),
        (
            "vgg16",
            {
                "features.3.weight": "params/encoder/trunk/conv1_2/kernel",
                "features.41.running_mean": "batch_stats/encoder/trunk/bn5_3/mean",
                "classifier.6.bias": None,
            },
        ),
    ],
)
def test_imagenet_names(encoder, keys):
    table = torch_names.imagenet_table_for(encoder)
    for key, path in keys.items():
        rule = table.rule(key)
        assert rule is not None, key
        assert path is None or rule.paths(key) == (path,)
