from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.nn.loop_convolution import same_convolution


@pytest.mark.parametrize("sides", [(3, 3), (1, 5)])
def test_value_and_gradients_are_those_of_the_library(sides):
    keys = jax.random.split(jax.random.key(0), 3)
    x, w = jax.random.normal(keys[0], (2, 5, 6, 3)), jax.random.normal(keys[1], (*sides, 3, 4))

    def reference(x, w):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dimensions)

    ours, back = jax.vjp(same_convolution, x, w)
    theirs, their_back = jax.vjp(reference, x, w)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    cotangent = jax.random.normal(keys[2], ours.shape)
    for mine, other in zip(back(cotangent), their_back(cotangent), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="odd"):
        same_convolution(jnp.zeros((1, 4, 4, 1)), jnp.zeros((2, 3, 1, 1)))
