from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.interop.names import NameTable
from jaxcog.nn.vgg import (
    DEPTHS,
    STAGES,
    VGG,
    VGGClassifier,
    vgg_classifier_rules,
    vgg_rules,
    vgg_stage_rules,
)


def shapes(net, size=224, **options):
    """Variables and maps as shapes, nothing computed."""
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), images)
    return variables, jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, images)


def count(tree):
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# torchvision's published parameter counts
@pytest.mark.parametrize(
    ("depth", "batch_norm", "total"),
    [(11, False, 132_863_336), (13, True, 133_053_736), (16, False, 138_357_544),
     (16, True, 138_365_992), (19, False, 143_667_240)],
)  # fmt: skip
def test_parameter_counts_are_the_published_ones(depth, batch_norm, total):
    variables, maps = shapes(VGG(depth, batch_norm))
    head = VGGClassifier()
    rest = jax.eval_shape(lambda x: head.init(jax.random.key(0), x, train=False), maps["stage5"])
    assert count(variables["params"]) + count(rest["params"]) == total


def test_map_sizes():
    _, maps = shapes(VGG())
    assert [maps[name].shape[1:] for name in STAGES] == [
        (112, 112, 64), (56, 56, 128), (28, 28, 256), (14, 14, 512), (7, 7, 512)
    ]  # fmt: skip
    _, maps = shapes(VGG(batch_norm=True, last_pool=False, pool_ceil=True), size=473)
    assert [maps[name].shape[1] for name in STAGES] == [237, 119, 60, 30, 30]


def test_unknown_depth():
    with pytest.raises(ValueError, match="VGG depth 14: one of"):
        shapes(VGG(14))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("stages", [False, True])
def test_names_go_both_ways(depth, stages):
    net = VGG(depth, batch_norm=stages)
    variables, _ = shapes(net, size=32)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables)
    rules = vgg_stage_rules(depth=depth) if stages else vgg_rules(depth=depth)
    table = NameTable(rules)
    torch = table.to_torch(zeros)
    assert jax.tree.structure(table.to_ours(torch)) == jax.tree.structure(zeros)
    if depth == 16:
        last = "layer4.6.weight" if stages else "features.28.weight"
        assert torch[last].shape == (512, 512, 3, 3)


def test_classifier_reads_channels_first_like_torch():
    """The first linear layer of a file is over [C, 7, 7]."""
    random = np.random.default_rng(0)
    weights = {
        "classifier.0.weight": random.normal(size=(5, 2 * 49)),
        "classifier.3.weight": np.eye(5),
        "classifier.6.weight": np.eye(5),
        **{f"classifier.{i}.bias": np.zeros(5) for i in (0, 3, 6)},
    }
    params = NameTable(vgg_classifier_rules(channels=2)).to_ours(weights)["params"]
    x = random.normal(size=(3, 7, 7, 2)).astype(np.float32)
    ours = VGGClassifier(5, width=5).apply({"params": params}, x, train=False)
    want = np.maximum(x.transpose(0, 3, 1, 2).reshape(3, -1) @ weights["classifier.0.weight"].T, 0)
    np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-6)
