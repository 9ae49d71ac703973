"""ResNet v1 (He et al. 2016) as in torchvision: the stride of a bottleneck is on its 3x3."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.initializers import kaiming_normal_fan_out
from jaxcog.nn.norm import BatchNorm
from jaxcog.nn.precision import at_least_float32

Between = Callable[[str, jax.Array], jax.Array]
"""(stage name, its output [B, H, W, C]) -> what the next stage sees."""

STAGES = ("layer1", "layer2", "layer3", "layer4")
_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
DEPTHS = tuple(_BLOCKS)


def conv(
    features: int, kernel: int, *, stride: int = 1, dilation: int = 1, dtype: Any, name: str
) -> nn.Conv:
    """Convolution without bias and with PyTorch's padding (symmetric, also where it strides)."""
    pad = dilation * (kernel - 1) // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=((pad, pad), (pad, pad)),
        kernel_dilation=(dilation, dilation),
        use_bias=False,
        dtype=dtype,
        kernel_init=kaiming_normal_fan_out,
        name=name,
    )


def max_pool(x: jax.Array, window: int = 3, stride: int = 2, pad: int = 1) -> jax.Array:
    """Max pooling of [B, H, W, C] padded symmetrically with -inf, as PyTorch's."""
    return nn.max_pool(x, (window, window), (stride, stride), ((pad, pad), (pad, pad)))


def global_average_pool(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, C], summed in float32 whatever the dtype of `x`, which it keeps."""
    return jnp.mean(at_least_float32(x), axis=(1, 2)).astype(x.dtype)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (depth 18, 34); result [B, H, W, features]."""

    features: int
    stride: int = 1
    dilation: int = 1
    dtype: Any = jnp.float32
    axis_name: str | tuple[str, ...] | None = None
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, norm_train: bool) -> jax.Array:
        norm = functools.partial(
            BatchNorm, not norm_train, dtype=self.dtype, axis_name=self.axis_name
        )
        layer = functools.partial(conv, dilation=self.dilation, dtype=self.dtype)
        y = layer(self.features, 3, stride=self.stride, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = layer(self.features, 3, name="conv2")(y)
        y = norm(name="bn2")(y)
        return nn.relu(y + _shortcut(x, y.shape[-1], self.stride, norm, self.dtype))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut (ResNet-50 up): [B, H, W, .] -> [B, ., ., 4 * features]."""

    features: int
    stride: int = 1
    dilation: int = 1
    dtype: Any = jnp.float32
    axis_name: str | tuple[str, ...] | None = None
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, norm_train: bool) -> jax.Array:
        norm = functools.partial(
            BatchNorm, not norm_train, dtype=self.dtype, axis_name=self.axis_name
        )
        layer = functools.partial(conv, dtype=self.dtype)
        y = layer(self.features, 1, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = layer(self.features, 3, stride=self.stride, dilation=self.dilation, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        y = layer(self.features * self.expansion, 1, name="conv3")(y)
        y = norm(name="bn3")(y)
        return nn.relu(y + _shortcut(x, y.shape[-1], self.stride, norm, self.dtype))


def _shortcut(x: jax.Array, features: int, stride: int, norm: Any, dtype: Any) -> jax.Array:
    if x.shape[-1] == features and stride == 1:
        return x
    x = conv(features, 1, stride=stride, dtype=dtype, name="downsample_conv")(x)
    return norm(name="downsample_bn")(x)


class ResNet(nn.Module):
    """ResNet without its classifier.

    Variables: conv1, bn1, layer{1..4}_{i}/{conv,bn}{1..3}, layer{k}_0/downsample_{conv,bn}.

    Attributes:
      depth: one of 18, 34, 50, 101, 152.
      last_stride: stride of layer4; person re-identification uses 1.
      last_dilation: of the 3x3 in the first block of layer4, and in no other.
      dtype: of the arithmetic; parameters and statistics are float32.
      axis_name: see BatchNorm.
    """

    depth: int
    last_stride: int = 2
    last_dilation: int = 1
    dtype: Any = jnp.float32
    axis_name: str | tuple[str, ...] | None = None

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
        """Images to pooled features.

        Args:
          x: [B, H, W, 3] float, normalised.
          train: batch norms use and update batch statistics, unless `norm_train` says otherwise.
          between: called after each stage with its name ("layer1" .. "layer4") and output.
          norm_train: False keeps batch norms in evaluation behaviour while the rest trains.
          pool: False returns the map of layer4 instead of its average.

        Returns:
          [B, C], or [B, H/32, W/32, C] (H/16 for last_stride=1); C is 512, from depth 50 up 2048.
          Intermediates (sown): "stem", "layer1" .. "layer4", the map after each.

        Raises:
          ValueError: a depth without published layout.
        """
        if self.depth not in _BLOCKS:
            raise ValueError(f"ResNet depth {self.depth}: one of {DEPTHS}")
        norm_train = train if norm_train is None else norm_train
        shared = {"dtype": self.dtype, "axis_name": self.axis_name}
        block = BasicBlock if self.depth < 50 else Bottleneck

        x = conv(64, 7, stride=2, dtype=self.dtype, name="conv1")(x.astype(self.dtype))
        x = nn.relu(BatchNorm(not norm_train, name="bn1", **shared)(x))
        x = max_pool(x)
        self.sow("intermediates", "stem", x)
        strides = (1, 2, 2, self.last_stride)
        for stage, stage_name in enumerate(STAGES):
            for index in range(_BLOCKS[self.depth][stage]):
                stride = strides[stage] if index == 0 else 1
                dilation = self.last_dilation if (stage, index) == (3, 0) else 1
                name = f"{stage_name}_{index}"
                layer = block(64 * 2**stage, stride, dilation, name=name, **shared)
                x = layer(x, norm_train=norm_train)
            self.sow("intermediates", stage_name, x)
            if between is not None:
                x = between(stage_name, x)
        return global_average_pool(x) if pool else x


def feature_size(depth: int) -> int:
    """Channels of the pooled features of a ResNet."""
    return 512 if depth < 50 else 2048
