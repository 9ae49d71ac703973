from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.errors import ConfigError
from jaxcog.interop.names import flattened
from jaxcog.systems.mixstyle import MixStyle, Network
from jaxcog.systems.mixstyle.model import split_official_name, stages_of
from jaxcog.systems.mixstyle.torch_names import IMAGENET, NAMES


def variables_of(network, size=32):
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), (size, size, 3)))
    return {"params": shapes[0], "batch_stats": shapes[1]}


# Counted by the official code
@pytest.mark.parametrize(
    ("network", "total"),
    [
        (Network("resnet18", 7), 11_180_103),
        (Network("cnn_digitsdg", 10), 115_146),
        (Network("resnet101", 12, hidden=(1024, 1024)), 45_664_332),
    ],
)
def test_parameter_counts_are_the_official_ones(network, total):
    leaves = jax.tree.leaves(variables_of(network)["params"])
    assert sum(int(np.prod(leaf.shape)) for leaf in leaves) == total


@pytest.mark.parametrize(
    "network",
    [
        Network("resnet18", 7),
        Network("resnet50", 5, hidden=(16, 8, 4)),
        Network("cnn_digitsdg", 10),
        Network("cnn_toy", 10),
    ],
)
def test_names_lead_to_torch_and_back(network):
    shapes = variables_of(network)
    tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    tensors = NAMES.to_torch(tree)
    assert all(key.startswith(("backbone.", "head.", "classifier.")) for key in tensors)
    back = dict(flattened(NAMES.to_ours(tensors)))
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in flattened(shapes)}


def test_imagenet_files_fill_the_backbone_and_nothing_else():
    tree = {k: {"backbone": v["backbone"]} for k, v in variables_of(Network("resnet18", 7)).items()}
    wanted = {k: v.shape for k, v in flattened(tree)}
    tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), tree)
    tensors = {k.removeprefix("backbone."): v for k, v in NAMES.to_torch(tree).items()}
    tensors["fc.weight"] = np.zeros((1000, 512))
    for names in (IMAGENET, NAMES):
        found, report = names.convert(tensors)
        assert report.ok
        assert report.ignored == ("fc.weight",)
        assert {k: v.shape for k, v in flattened(found)} == wanted


def test_official_names():
    assert split_official_name("resnet18") == ("resnet18", ())
    assert split_official_name("resnet101_ms_l12") == ("resnet101", ("layer1", "layer2"))
    assert split_official_name("cnn_digitsdg") == ("cnn_digitsdg", ())
    with pytest.raises(ConfigError, match="resnet18"):
        stages_of("resnet19")


@pytest.fixture(scope="module")
def toy():
    network = Network("cnn_toy", 4, hidden=(8,))
    params, stats = jax.jit(lambda: network.init(jax.random.key(0), (16, 16, 3)))()
    images = jnp.asarray(np.random.default_rng(0).normal(size=(6, 16, 16, 3)), jnp.float32)
    apply = jax.jit(network.apply, static_argnames=("train", "norm_train"))
    return apply, params, stats, images


def test_draws_act_in_training_only(toy):
    apply, params, stats, images = toy
    layer = MixStyle(p=1.0, alpha=1.0, after=("conv1", "conv2"))
    draws = jax.jit(lambda key: layer.draws(key, 6))(jax.random.key(1))
    key = jax.random.key(2)

    def logits(train, draws):
        return apply(params, stats, images, train=train, draws=draws, key=key).logits

    np.testing.assert_array_equal(logits(False, draws), logits(False, None))
    assert np.abs(logits(True, draws) - logits(True, None)).max() > 1e-3


def test_evaluation_needs_no_key_and_changes_no_statistics(toy):
    apply, params, stats, images = toy
    out = apply(params, stats, images, train=False)
    jax.tree.map(np.testing.assert_array_equal, out.batch_stats, stats)
    trained = apply(params, stats, images, train=True, draws=None, key=jax.random.key(0))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), trained.batch_stats, stats)
    assert all(jax.tree.leaves(changed))


def test_frozen_norms_keep_their_statistics_while_training(toy):
    apply, params, stats, images = toy
    out = apply(params, stats, images, train=True, norm_train=False, key=jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, out.batch_stats, stats)


def test_bfloat16_arithmetic_keeps_float32_parameters_and_logits(toy):
    images = toy[-1]
    network = Network("cnn_toy", 4, dtype=jnp.bfloat16)

    def run(key):
        params, stats = network.init(key, (16, 16, 3))
        return params, stats, network.apply(params, stats, images, train=True)

    params, stats, out = jax.eval_shape(run, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype("float32")}
    assert (out.logits.dtype, out.features.dtype) == (jnp.float32, jnp.bfloat16)
