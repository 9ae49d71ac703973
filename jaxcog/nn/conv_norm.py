"""Convolution, batch norm, ReLU as one named layer: the brick of segmentation heads."""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.nn.initializers import torch_default_bias, torch_default_kernel
from jaxcog.nn.norm import BatchNorm

AxisName = str | tuple[str, ...] | None


class Conv(nn.Module):
    """Convolution with PyTorch's padding and default initialisation.

    Parameters `kernel` HWIO and `bias`, as nn.Conv; [N, H, W, C] -> [N, H', W', features].

    Several maps are convolved as if their channels stood side by side, without being copied there:
    each one with its part of the kernel, and the results added (with broadcasting). For a TPU, 2048
    and 512 channels of 97 x 97 side by side took 1.6 times the cycles, gradients included.

    Attributes:
      kernel: side of the window.
      pad: rows and columns added on every side; None: what keeps the size at stride 1.
      groups: channels are split in as many independent convolutions.

    Raises:
      ValueError: several maps and several groups.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    pad: int | None = None
    groups: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    zero_init: bool = False

    @nn.compact
    def __call__(self, *maps: jax.Array) -> jax.Array:
        if len(maps) > 1 and self.groups > 1:
            raise ValueError("Conv: several maps and several groups cannot go together")
        pad = self.dilation * (self.kernel - 1) // 2 if self.pad is None else self.pad
        channels = sum(x.shape[-1] for x in maps)
        fan_in = math.prod((self.kernel, self.kernel, channels // self.groups))
        kernel_shape = (self.kernel, self.kernel, channels // self.groups, self.features)
        kernel_init = nn.initializers.zeros if self.zero_init else torch_default_kernel
        kernel = self.param("kernel", kernel_init, kernel_shape, jnp.float32)
        weights = kernel.astype(self.dtype)
        if self.groups == channels == self.features:
            y = depthwise(maps[0].astype(self.dtype), weights, self.stride, self.dilation, pad)
        else:
            ends = np.cumsum([x.shape[-1] // self.groups for x in maps])
            y = functools.reduce(
                jnp.add,
                (
                    jax.lax.conv_general_dilated(
                        x.astype(self.dtype),
                        part,
                        (self.stride, self.stride),
                        ((pad, pad), (pad, pad)),
                        rhs_dilation=(self.dilation, self.dilation),
                        dimension_numbers=("NHWC", "HWIO", "NHWC"),
                        feature_group_count=self.groups,
                    )
                    for x, part in zip(maps, jnp.split(weights, ends[:-1], axis=2), strict=True)
                ),
            )
        if self.use_bias:
            bias_init = nn.initializers.zeros if self.zero_init else torch_default_bias(fan_in)
            bias = self.param("bias", bias_init, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        return y


def depthwise(
    x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1, pad: int = 0
) -> jax.Array:
    """Convolution of each channel by itself: [N, H, W, C] and [k, k, 1, C] -> [N, H', W', C].

    A sum of k*k shifted products. There is nothing to multiply matrices with here, and as a grouped
    convolution its gradient took 20 times as long on a CPU.
    """
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    size = kernel.shape[0]
    height, width = ((n - dilation * (size - 1) - 1) // stride + 1 for n in x.shape[1:3])
    parts = []
    for i in range(size):
        for j in range(size):
            top, left = i * dilation, j * dilation
            rows = slice(top, top + (height - 1) * stride + 1, stride)
            columns = slice(left, left + (width - 1) * stride + 1, stride)
            parts.append(x[:, rows, columns] * kernel[i, j, 0])
    return functools.reduce(jnp.add, parts)


class ConvNorm(nn.Module):
    """`conv`, `bn`, and ReLU if asked for: [N, H, W, C] -> [N, H', W', features]; see Conv."""

    features: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    pad: int | None = None
    groups: int = 1
    use_bias: bool = False
    relu: bool = True
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, *maps: jax.Array, train: bool) -> jax.Array:
        y = Conv(
            self.features,
            self.kernel,
            self.stride,
            self.dilation,
            self.pad,
            self.groups,
            self.use_bias,
            self.dtype,
            name="conv",
        )(*maps)
        y = BatchNorm(not train, dtype=self.dtype, axis_name=self.axis_name, name="bn")(y)
        return nn.relu(y) if self.relu else y


def dropout2d(x: jax.Array, rate: float, *, train: bool) -> jax.Array:
    """Drops whole channels of [N, H, W, C], as PyTorch's Dropout2d; call it inside a module.

    The random stream is called "dropout".
    """
    return nn.Dropout(rate, broadcast_dims=(1, 2), deterministic=not train or rate == 0)(x)
