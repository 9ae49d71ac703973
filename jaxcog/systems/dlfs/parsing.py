"""The face parser of FFHQ-Aging: DeepLabV3 on a ResNet with group norm and standardised weights.

Labels 0 to 18: background, skin, nose, glasses, left and right eye, left and right brow, left and
right ear, mouth, upper and lower lip, hair, hat, ear-ring, necklace, neck, cloth. Any other parser
with these labels does as well; this one reads the official checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxcog.interop.names import Ignore, NameTable, Rename, conv, layer_norm
from jaxcog.nn.forward import forward
from jaxcog.nn.resize import resize_bilinear_align_corners
from jaxcog.systems.dlfs.ops import conv2d

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_INPUT = 513


class _Conv(nn.Module):
    """Convolution whose kernels are brought to mean 0 and deviation 1; `same` zero padding."""

    features: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        centred = kernel - jnp.mean(kernel, axis=(0, 1, 2))
        kernel = centred / (jnp.std(centred, axis=(0, 1, 2), ddof=1) + 1e-5)
        pad = self.dilation * (self.kernel // 2)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            ((pad, pad), (pad, pad)),
            rhs_dilation=(self.dilation, self.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class _ConvNorm(nn.Module):
    """Convolution and group norm."""

    features: int
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _Conv(self.features, self.kernel, self.stride, self.dilation, name="conv")(x)
        return nn.GroupNorm(self.groups, epsilon=1e-5, name="norm")(x)


class _Bottleneck(nn.Module):
    features: int
    stride: int = 1
    dilation: int = 1
    groups: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, groups = self.features, self.groups
        y = nn.relu(_ConvNorm(width, groups=groups, name="conv1")(x))
        middle = _ConvNorm(width, 3, self.stride, self.dilation, groups, name="conv2")
        y = _ConvNorm(4 * width, groups=groups, name="conv3")(nn.relu(middle(y)))
        if x.shape[-1] != 4 * width or self.stride > 1:
            x = _ConvNorm(4 * width, stride=self.stride, groups=groups, name="shortcut")(x)
        return nn.relu(x + y)


class DeepLabV3(nn.Module):
    """Images [B, H, W, 3], ImageNet-normalised -> logits [B, H, W, num_classes]."""

    num_classes: int = 19
    layers: tuple[int, int, int, int] = (3, 4, 23, 3)
    groups: int = 32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = x.shape[1:3]
        x = nn.relu(_ConvNorm(64, 7, 2, groups=self.groups, name="stem")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.layers):
            for block in range(blocks):
                x = _Bottleneck(
                    64 * 2**stage,
                    stride=2 if block == 0 and stage in (1, 2) else 1,
                    dilation=2 if block > 0 and stage == 3 else 1,
                    groups=self.groups,
                    name=f"layer{stage + 1}_{block}",
                )(x)
        x = self._pyramid(x)
        kernel = self.param(
            "out_kernel", nn.initializers.he_normal(), (1, 1, 256, self.num_classes)
        )
        bias = self.param("out_bias", nn.initializers.zeros_init(), (self.num_classes,))
        return resize_bilinear_align_corners(conv2d(x, kernel) + bias, size)

    def _pyramid(self, x: jax.Array) -> jax.Array:
        parts = [_ConvNorm(256, groups=self.groups, name="aspp1")(x)]
        for index, rate in enumerate((6, 12, 18), 2):
            wide = _ConvNorm(256, 3, dilation=rate, groups=self.groups, name=f"aspp{index}")
            parts.append(wide(x))
        pooled = jnp.mean(x, axis=(1, 2), keepdims=True)
        pooled = nn.relu(_ConvNorm(256, groups=self.groups, name="aspp5")(pooled))
        parts = [nn.relu(part) for part in parts]
        parts.append(resize_bilinear_align_corners(pooled, x.shape[1:3]))
        joined = jnp.concatenate(parts, axis=-1)
        return nn.relu(_ConvNorm(256, groups=self.groups, name="join")(joined))


def _conv_norm(conv_key: str, norm_key: str, ours: str) -> tuple[Any, ...]:
    return (*conv(conv_key, f"{ours}/conv"), *layer_norm(norm_key, f"{ours}/norm"))


NAMES = NameTable(
    (
        *_conv_norm("conv1", "bn1", "stem"),
        *_conv_norm(
            r"layer(\d+)\.(\d+)\.conv(\d)", r"layer(\d+)\.(\d+)\.bn(\d)", r"layer\1_\2/conv\3"
        ),
        *_conv_norm(
            r"layer(\d+)\.(\d+)\.downsample\.0",
            r"layer(\d+)\.(\d+)\.downsample\.1",
            r"layer\1_\2/shortcut",
        ),
        *_conv_norm(r"aspp\.aspp(\d)", r"aspp\.aspp(\d)_bn", r"aspp\1"),
        *_conv_norm(r"aspp\.conv2", r"aspp\.bn2", "join"),
        Rename(r"aspp\.conv3\.weight", "params/out_kernel", "conv"),
        Rename(r"aspp\.conv3\.bias", "params/out_bias"),
        Ignore(r".*tracked.*"),
    )
)
"""Keys of the official checkpoint, without their prefix "module."."""


def parse(params: Mapping[str, Any], image: np.ndarray, size: int | None = None) -> np.ndarray:
    """The label map of one aligned face: uint8 [H, W, 3] -> uint8 [size, size] (default: H, W)."""
    picture = Image.fromarray(image).resize((_INPUT, _INPUT), Image.Resampling.BILINEAR)
    x = (np.asarray(picture, np.float32) / 255 - np.array(_MEAN, np.float32)) / np.array(
        _STD, np.float32
    )
    logits = _apply(params, jnp.asarray(x)[None])
    labels = Image.fromarray(np.asarray(jnp.argmax(logits[0], axis=-1), np.uint8))
    target = image.shape[1::-1] if size is None else (size, size)
    return np.asarray(labels.resize(target, Image.Resampling.NEAREST))


@jax.jit
def _apply(params: Mapping[str, Any], x: jax.Array) -> jax.Array:
    return forward(DeepLabV3(), params, x)
