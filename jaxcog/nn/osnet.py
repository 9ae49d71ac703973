"""OSNet (Zhou et al., ICCV 2019): features of several scales for person re-identification."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.conv_norm import depthwise
from jaxcog.nn.initializers import kaiming_normal_fan_out
from jaxcog.nn.norm import BatchNorm, InstanceNorm
from jaxcog.nn.resize import average_pool
from jaxcog.nn.resnet import Between, conv, global_average_pool, max_pool

AxisName = str | tuple[str, ...] | None

STAGES = ("conv2", "conv3", "conv4")
CHANNELS = {
    1.0: (64, 256, 384, 512),
    0.75: (48, 192, 288, 384),
    0.5: (32, 128, 192, 256),
    0.25: (16, 64, 96, 128),
}
"""Width -> channels of conv1, conv2, conv3, and of conv4 and conv5."""

_SCALES = "abcd"
_GATE_REDUCTION = 16


class ConvNorm(nn.Module):
    """Convolution without bias, norm, ReLU: [B, H, W, .] -> [B, H', W', features].

    instance: an instance norm instead of a batch norm.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    relu: bool = True
    instance: bool = False
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, norm_train: bool) -> jax.Array:
        x = conv(self.features, self.kernel, stride=self.stride, dtype=self.dtype, name="conv")(x)
        if self.instance:
            x = InstanceNorm(dtype=self.dtype, name="bn")(x)
        else:
            x = BatchNorm(not norm_train, dtype=self.dtype, axis_name=self.axis_name, name="bn")(x)
        return nn.relu(x) if self.relu else x


class LightConv(nn.Module):
    """1x1 convolution, depthwise 3x3, batch norm, ReLU: [B, H, W, C] -> the same shape."""

    features: int
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, norm_train: bool) -> jax.Array:
        x = conv(self.features, 1, dtype=self.dtype, name="conv1")(x)
        shape = (3, 3, 1, self.features)
        kernel = self.param("conv2", kaiming_normal_fan_out, shape, jnp.float32)
        x = depthwise(x, kernel.astype(self.dtype), pad=1)
        x = BatchNorm(not norm_train, dtype=self.dtype, axis_name=self.axis_name, name="bn")(x)
        return nn.relu(x)


class ChannelGate(nn.Module):
    """Each channel of x [B, H, W, C] times a weight in (0, 1) that follows from all means."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=kaiming_normal_fan_out)
        weight = global_average_pool(x)
        weight = nn.relu(dense(self.features // _GATE_REDUCTION, name="fc1")(weight))
        weight = nn.sigmoid(dense(self.features, name="fc2")(weight))
        return x * weight[:, None, None, :]


class OSBlock(nn.Module):
    """Four streams of 1 to 4 light convolutions under one gate; result [B, H, W, features].

    instance: an instance norm of the sum, before the last ReLU.
    """

    features: int
    instance: bool = False
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, norm_train: bool) -> jax.Array:
        shared: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name}
        middle = self.features // 4
        narrow = ConvNorm(middle, name="conv1", **shared)(x, norm_train=norm_train)
        gate = ChannelGate(middle, self.dtype, name="gate")
        total = jnp.zeros_like(narrow)
        for length, scale in enumerate(_SCALES, 1):
            y = narrow
            for i in range(length):
                y = LightConv(middle, name=f"conv2{scale}_{i}", **shared)(y, norm_train=norm_train)
            total = total + gate(y)
        wide = functools.partial(ConvNorm, self.features, relu=False, **shared)
        y = wide(name="conv3")(total, norm_train=norm_train)
        if x.shape[-1] != self.features:
            x = wide(name="downsample")(x, norm_train=norm_train)
        x = x + y
        if self.instance:
            x = InstanceNorm(dtype=self.dtype, name="instance_norm")(x)
        return nn.relu(x)


class OSNet(nn.Module):
    """OSNet up to its pooled features; the layer "fc" behind them is the caller's.

    Variables: conv1, conv{2,3,4}_{0,1}, conv{2,3}_2 (before the pooling), conv5.

    Attributes:
      width: 1, 0.75, 0.5 or 0.25.
      instance_norm: OSNet-IBN: in place of conv1's batch norm, and in both blocks of conv2.
      dtype: of the arithmetic; parameters and statistics are float32.
      axis_name: see BatchNorm.
    """

    width: float = 1.0
    instance_norm: bool = False
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        between: Between | None = None,
        norm_train: bool | None = None,
        pool: bool = True,
    ) -> jax.Array:
        """Images [B, H, W, 3] to features [B, C], or the map [B, H/16, W/16, C] without `pool`.

        Args:
          train, norm_train: as in `ResNet`.
          between: called after each stage with its name ("conv2", "conv3", "conv4") and output.

        Raises:
          ValueError: a width without published channels.
        """
        if self.width not in CHANNELS:
            raise ValueError(f"OSNet width {self.width}: one of {', '.join(map(str, CHANNELS))}")
        norm_train = train if norm_train is None else norm_train
        shared: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name}
        first, *channels = CHANNELS[self.width]
        x = ConvNorm(first, 7, 2, instance=self.instance_norm, name="conv1", **shared)(
            x.astype(self.dtype), norm_train=norm_train
        )
        x = max_pool(x)
        for stage, features in zip(STAGES, channels, strict=True):
            instance = self.instance_norm and stage == STAGES[0]
            for i in range(2):
                block = OSBlock(features, instance, name=f"{stage}_{i}", **shared)
                x = block(x, norm_train=norm_train)
            if stage != STAGES[-1]:
                x = ConvNorm(features, name=f"{stage}_2", **shared)(x, norm_train=norm_train)
                x = average_pool(x, 2)
            if between is not None:
                x = between(stage, x)
        x = ConvNorm(channels[-1], name="conv5", **shared)(x, norm_train=norm_train)
        return global_average_pool(x) if pool else x
