from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.nn.conv_norm import Conv, ConvNorm, depthwise, dropout2d


def grouped(x, kernel, stride, dilation, pad):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize(
    ("stride", "dilation", "pad"), [(1, 1, 1), (2, 1, 0), (2, 1, 1), (1, 3, 3)]
)
def test_shifted_products_are_a_depthwise_convolution(stride, dilation, pad):
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=(2, 9, 12, 4))),
        jnp.asarray(rng.normal(size=(3, 3, 1, 4))),
    )
    ours = depthwise(x, kernel, stride, dilation, pad)
    np.testing.assert_allclose(ours, grouped(x, kernel, stride, dilation, pad), atol=1e-5)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 12)])
def test_the_size_is_kept_at_stride_one(kernel, dilation):
    x = jnp.ones((1, 5, 6, 4))
    y, variables = ConvNorm(8, kernel, dilation=dilation).init_with_output(
        jax.random.key(0), x, train=False
    )
    assert y.shape == (1, 5, 6, 8)
    assert float(y.min()) >= 0
    assert set(variables["params"]) == {"conv", "bn"}


def test_initial_values_are_pytorchs():
    x = jnp.ones((1, 4, 4, 64))
    params = Conv(64, 3, groups=2).init(jax.random.key(0), x)["params"]
    bound = 1 / np.sqrt(3 * 3 * 32)
    for value in params.values():
        assert np.abs(value).max() <= bound
    assert np.abs(params["kernel"]).max() > 0.98 * bound


def test_dropout_takes_whole_channels():
    class Drop(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return dropout2d(x, 0.5, train=train)

    x = jnp.ones((4, 3, 3, 32))
    kept = Drop().apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    per_channel = np.asarray(kept).reshape(4, 9, 32)
    assert set(np.unique(kept)) == {0.0, 2.0}
    assert (per_channel == per_channel[:, :1]).all()
    np.testing.assert_array_equal(Drop().apply({}, x, train=False), x)


def test_several_maps_are_their_channels_side_by_side():
    keys = jax.random.split(jax.random.key(0), 3)
    maps = [jax.random.normal(k, (2, 5, 4, c)) for k, c in zip(keys, (3, 1, 4), strict=True)]
    layer = Conv(6, 3)
    variables = layer.init(jax.random.key(1), *maps)
    expected = layer.apply(variables, jnp.concatenate(maps, axis=-1))
    np.testing.assert_allclose(layer.apply(variables, *maps), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="groups"):
        Conv(6, 3, groups=2).init(jax.random.key(1), *maps)
