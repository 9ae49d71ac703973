from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.errors import ConfigError
from jaxcog.systems.gald import (
    Aggregation,
    GALDBlock,
    GlobalMean,
    LocalDistribution,
    NonLocal,
    gald_block,
)
from jaxcog.systems.gald import aggregation as ga


def maps(height=17, width=19, channels=8, seed=0):
    return jax.random.normal(jax.random.key(seed), (2, height, width, channels))


def run(module, x):
    """(variables, result) in evaluation."""
    init = jax.jit(functools.partial(module.init_with_output, train=False))
    out, variables = init(jax.random.key(1), x)
    return variables, out


def test_the_mask_of_the_released_code_cannot_close():
    x = maps()
    variables, (out, mask) = run(LocalDistribution(return_mask=True), x)
    assert 0.5 <= float(mask.min()) < float(mask.max()) < 1
    np.testing.assert_allclose(out, x + x * mask, rtol=1e-6)
    _, free = LocalDistribution(mask_relu=False, return_mask=True).apply(variables, x, train=False)
    assert float(free.min()) < 0.5
    np.testing.assert_allclose(jnp.maximum(free, 0.5).mean(), mask.mean(), rtol=0.05)


def test_an_even_mask_is_the_average_of_each_channel():
    x = maps()
    variables, (_, mask) = run(LocalDistribution(return_mask=True), x)
    even = LocalDistribution(return_mask=True, even=True)
    _, flat = even.apply(variables, x, train=False)
    np.testing.assert_allclose(flat[:, 0, 0], mask.mean((1, 2)), rtol=1e-5)
    assert float(flat.std(axis=(1, 2)).max()) < 1e-6


@pytest.mark.parametrize("size", [(14, 20), (20, 14)])
def test_too_small_a_map_is_named_with_the_remedy(size):
    with pytest.raises(
        ConfigError, match=r"at least 15 x 15, got 14|at least 15 x 15, got 20.*crops"
    ):
        run(LocalDistribution(), maps(*size))


def test_the_two_residuals():
    """u (2 + m) as in the released code, u (1 + m) as in the paper, u alone without the mask."""
    x = maps()
    block = GALDBlock(lambda name: GlobalMean(name=name))
    variables, twice = run(block, x)
    once = dataclasses.replace(block, block_residual=False).apply(variables, x, train=False)
    alone = dataclasses.replace(block, distribute=False).apply(variables, x, train=False)
    np.testing.assert_allclose(twice - once, alone, atol=1e-5)
    mask = once / alone - 1
    assert 0.49 < float(jnp.median(mask)) < 1


def test_aggregating_at_full_size_needs_no_convolution():
    x = maps()
    variables, _ = run(gald_block(8, Aggregation("mean"), downsample=False), x)
    assert set(variables["params"]) == {"long_relation", "local_attention"}


@pytest.mark.parametrize(
    "name", ["none", "mean", "cgnl", "non_local", "psp", "a2", "em", "criss_cross", "oc", "se"]
)
def test_every_aggregation_keeps_the_map_and_plugs_into_another_network(name):
    class Mine(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.Conv(16, (3, 3), name="mine")(x)
            return gald_block(16, Aggregation(name), name="context")(x, train=train)

    x = jax.ShapeDtypeStruct((1, 17, 19, 3), jnp.float32)
    out, variables = jax.eval_shape(
        lambda x: Mine().init_with_output(jax.random.key(0), x, train=False), x
    )
    assert out.shape == (1, 17, 19, 16)
    assert set(variables["params"]) == {"mine", "context"}


def reaches_the_far_corner(module):
    x = maps(7, 9, 16)
    changed = x.at[:, 0, 0].add(3.0)

    def difference(key):
        variables = module.init(key, x, train=False)
        variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)  # gamma starts at 0
        one, two = (module.apply(variables, y, train=False) for y in (x, changed))
        return jnp.abs(one - two)[:, -1, -1].max()

    return float(jax.jit(difference)(jax.random.key(0))) > 1e-5


def test_what_gathers_sees_the_whole_image():
    """Criss-cross attention takes two rounds to reach what is in neither its row nor column."""
    assert reaches_the_far_corner(NonLocal(8, block=10))
    assert reaches_the_far_corner(ga.CrissCrossAttention(2))
    assert not reaches_the_far_corner(ga.CrissCrossAttention(1))


def test_the_scalar_of_cgnl_cancels():
    """Why another aggregation is recommended: other p and g change nothing but signs of groups."""
    x = maps(9, 9, 32)
    module = ga.SpatialCGNL(16, groups=4)
    variables = module.init(jax.random.key(0), x, train=False)
    params = dict(variables["params"])
    params["g"] = {"kernel": 3.7 * params["g"]["kernel"]}
    one, two = (module.apply({"params": p}, x, train=False) for p in (variables["params"], params))
    np.testing.assert_allclose(one, two, atol=2e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "cgnl", "planes": 12}, "12 planes must divide"),
        ({"block": 0}, "block=0"),
        ({"recurrence": 0}, "recurrence=0"),
    ],
)
def test_bad_aggregations_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        Aggregation(**changes).make(16)
