"""Weight initialisation under PyTorch's names, for Flax layouts (kernels HWIO and [in, out])."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]
"""(key, shape, dtype) -> array."""

kaiming_normal_fan_in: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
kaiming_normal_fan_out: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

torch_default_kernel: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Default of PyTorch's linear and convolution layers: uniform in +-1/sqrt(fan_in)."""


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """All 0; `key` is not used."""
    return jnp.zeros(shape, dtype)


def ones(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """All 1; `key` is not used."""
    return jnp.ones(shape, dtype)


def torch_default_bias(fan_in: int) -> Initializer:
    """Default bias of PyTorch's linear and convolution layers: uniform in +-1/sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """Affine map of the last axis, initialised as PyTorch's: [..., in] -> [..., features].

    Parameters `kernel` [in, out] and `bias` [out], float32; `dtype` is that of the arithmetic.
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in = x.shape[-1]
        kernel = self.param("kernel", torch_default_kernel, (fan_in, self.features), jnp.float32)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", torch_default_bias(fan_in), (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        return y
