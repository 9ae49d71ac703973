"""Networks by their shapes, configs and data that do not fit, what a report shows."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.data.toy.grids import GridEpisodes, GridImages
from jaxcog.errors import CheckpointError, ConfigError
from jaxcog.optim import Optimizer
from jaxcog.show import Gallery, Histogram, Table
from jaxcog.systems.cwt import figures, ops, torch_names
from jaxcog.systems.cwt.model import Encoder, PSPNet, output_size
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
