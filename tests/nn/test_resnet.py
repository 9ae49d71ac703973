from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.nn.resnet import DEPTHS, ResNet, feature_size, max_pool


def shapes(depth, size=64, **options):
    """Variables and output of a ResNet as shapes, nothing computed."""
    net = ResNet(depth, **options)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), images)
    return variables, images, functools.partial(net.apply, train=False)


# torchvision's published parameter counts, less their 1000-class classifier
@pytest.mark.parametrize(
    ("depth", "total"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_parameter_counts_are_the_published_ones(depth, total):
    variables, _, _ = shapes(depth)
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert count + 1000 * feature_size(depth) + 1000 == total


def test_stage_sizes_at_224():
    variables, images, apply = shapes(18, size=224)
    seen = {}

    def between(name, x):
        seen[name] = x.shape[1:]
        return x

    out = jax.eval_shape(lambda v, x: apply(v, x, between=between), variables, images)
    assert out.shape == (2, 512)
    assert seen == {
        "layer1": (56, 56, 64),
        "layer2": (28, 28, 128),
        "layer3": (14, 14, 256),
        "layer4": (7, 7, 512),
    }


def test_last_stride_one_doubles_the_last_map():
    variables, images, apply = shapes(50, size=64, last_stride=1)
    out = jax.eval_shape(lambda v, x: apply(v, x, pool=False), variables, images)
    assert out.shape == (2, 4, 4, 2048)


def test_norm_train_false_keeps_statistics_and_evaluation_behaviour():
    net = ResNet(18)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    variables = jax.jit(lambda: net.init(jax.random.key(0), x, train=False))()
    kept, new = net.apply(variables, x, train=True, norm_train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])
    np.testing.assert_array_equal(kept, net.apply(variables, x, train=False))


def test_unknown_depth_names_the_known_ones():
    with pytest.raises(ValueError, match=str(DEPTHS[0])):
        shapes(20)


def test_max_pool_pads_with_minus_infinity():
    pooled = max_pool(jnp.full((1, 4, 4, 1), -3.0))
    np.testing.assert_array_equal(pooled, np.full((1, 2, 2, 1), -3.0))
