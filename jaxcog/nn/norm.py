"""Normalisations with PyTorch's semantics: official checkpoints and curves carry over."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.initializers import Initializer, ones, zeros
from jaxcog.nn.precision import at_least_float32


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last: [N, ..., C] -> the same shape.

    Training normalises with the biased variance of the batch and updates the running variance with
    the unbiased one (Ioffe and Szegedy 2015, as in PyTorch; Flax keeps the biased one). Statistics
    are float32 whatever the activations. Parameters `scale`, `bias`; batch_stats `mean`, `var`.

    Under jit over a sharded batch the statistics are those of the global batch (synchronised). In
    `shard_map` or `pmap` they are those of the device, or of all devices with `axis_name`.

    Attributes:
      use_running_average: normalise with the running statistics, and leave them as they are.
      eps: added to the variance.
      momentum: share of the old running value that is kept (1 - PyTorch's momentum).
      dtype: of the result; None means that of the input. Parameters are float32.
      use_scale, use_bias: whether there is a learned scale, and a learned bias.
      axis_name: mapped axis (or axes) over which statistics are averaged.
    """

    use_running_average: bool
    eps: float = 1e-5
    momentum: float = 0.9
    dtype: Any = None
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = ones
    bias_init: Initializer = zeros
    axis_name: str | tuple[str, ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        x32 = at_least_float32(x)

        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            axis_name = None if self.is_initializing() else self.axis_name
            mean, var, count = _moments(x32, running_mean.value, axis_name)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased

        factor = jax.lax.rsqrt(var + self.eps)
        if self.use_scale:
            factor = factor * self.param("scale", self.scale_init, shape, jnp.float32)
        y = (x32 - mean) * factor
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, shape, jnp.float32)
        return y.astype(x.dtype if self.dtype is None else self.dtype)


def instance_norm(x: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Each channel of each sample to mean 0 and (biased) variance 1 over its positions.

    [N, ..., C] -> the same shape and dtype, computed in float32 at least; no parameters.
    """
    wide = at_least_float32(x)
    axes = tuple(range(1, x.ndim - 1))
    mean = jnp.mean(wide, axes, keepdims=True)
    factor = jax.lax.rsqrt(jnp.var(wide, axes, keepdims=True) + eps)
    return ((wide - mean) * factor).astype(x.dtype)


class InstanceNorm(nn.Module):
    """Each channel of each sample over its positions: [N, ..., C] -> the same shape.

    Biased variance, learned `scale` and `bias`, no running statistics, as PyTorch's InstanceNorm
    with affine=True. Statistics are float32 whatever the activations.

    Attributes: as of BatchNorm.
    """

    eps: float = 1e-5
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        y = instance_norm(at_least_float32(x), self.eps) * scale + bias
        return y.astype(x.dtype if self.dtype is None else self.dtype)


def _moments(
    x: jax.Array, near_mean: jax.Array, axis_name: str | tuple[str, ...] | None
) -> tuple[jax.Array, jax.Array, int]:
    """Mean and biased variance per channel of float32 `x`, and over how many values they are.

    One pass and one all-reduce. The difference E[x^2] - E[x]^2 would cancel where the mean is much
    larger than the deviation, so the values are first shifted by the running mean, which changes
    nothing in exact arithmetic.
    """
    near_mean = jax.lax.stop_gradient(near_mean)
    axes = tuple(range(x.ndim - 1))
    shifted = x - near_mean
    mean, square = jnp.mean(shifted, axes), jnp.mean(jnp.square(shifted), axes)
    count = x.size // x.shape[-1]
    if axis_name is not None:
        mean, square = jax.lax.pmean((mean, square), axis_name)
        count = count * jax.lax.axis_size(axis_name)
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    return mean + near_mean, var, count
