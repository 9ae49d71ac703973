"""Inception-v3 (Szegedy et al. 2016) as in torchvision, without auxiliary head and classifier."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.interop.names import Ignore, Rename, Rule, batch_norm
from jaxcog.nn.initializers import kaiming_normal_fan_out
from jaxcog.nn.norm import BatchNorm
from jaxcog.nn.precision import at_least_float32
from jaxcog.nn.resnet import Between, global_average_pool, max_pool

FEATURES = 2048
SMALLEST = 75
"""Side of the smallest image of which something is left at the end."""

Size = tuple[int, int]
Convolution = tuple[str, int, Size]
"""(name, channels, window)."""

_ONE, _THREE, _FIVE, _WIDE, _TALL = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)

_STEM = (
    ("Conv2d_1a_3x3", 32, _THREE, 2, False, False),
    ("Conv2d_2a_3x3", 32, _THREE, 1, False, False),
    ("Conv2d_2b_3x3", 64, _THREE, 1, True, True),
    ("Conv2d_3b_1x1", 80, _ONE, 1, False, False),
    ("Conv2d_4a_3x3", 192, _THREE, 1, False, True),
)
"""(name, channels, window, stride, whether it is padded, whether a max pooling follows)."""
CHANNELS = {
    "Mixed_5b": 256,
    "Mixed_5c": 288,
    "Mixed_5d": 288,
    "Mixed_6a": 768,
    "Mixed_6b": 768,
    "Mixed_6c": 768,
    "Mixed_6d": 768,
    "Mixed_6e": 768,
    "Mixed_7a": 1280,
    "Mixed_7b": 2048,
    "Mixed_7c": 2048,
}
"""The blocks in order, and the channels of their outputs."""


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm with eps 1e-3, ReLU: [N, H, W, C] -> [N, H', W', .]."""

    features: int
    window: Size = _ONE
    stride: int = 1
    pad: bool = True
    dtype: Any = jnp.float32
    axis_name: str | tuple[str, ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        around = tuple((size // 2, size // 2) if self.pad else (0, 0) for size in self.window)
        x = nn.Conv(
            self.features,
            self.window,
            (self.stride, self.stride),
            padding=around,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=kaiming_normal_fan_out,
            name="conv",
        )(x)
        norm = BatchNorm(not train, eps=1e-3, dtype=self.dtype, axis_name=self.axis_name, name="bn")
        return nn.relu(norm(x))


def _average_pool(x: jax.Array) -> jax.Array:
    """3x3 at stride 1; the zeros around the map count."""
    pooled = nn.avg_pool(at_least_float32(x), _THREE, padding=((1, 1), (1, 1)))
    return pooled.astype(x.dtype)


class Block(nn.Module):
    """One of the eleven blocks, by name."""

    block: str
    dtype: Any = jnp.float32
    axis_name: str | tuple[str, ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def unit(
            x: jax.Array, name: str, features: int, window: Size = _ONE, *, halve: bool = False
        ) -> jax.Array:
            layer = ConvUnit(
                features,
                window,
                stride=2 if halve else 1,
                pad=not halve,
                dtype=self.dtype,
                axis_name=self.axis_name,
                name=f"branch{name}",
            )
            return layer(x, train=train)

        def chain(x: jax.Array, *layers: Convolution, halve: bool = False) -> jax.Array:
            for i, (name, features, window) in enumerate(layers):
                x = unit(x, name, features, window, halve=halve and i == len(layers) - 1)
            return x

        def fork(x: jax.Array, name: str) -> list[jax.Array]:
            return [unit(x, f"{name}a", 384, (1, 3)), unit(x, f"{name}b", 384, (3, 1))]

        kind = self.block.removeprefix("Mixed_")
        if kind[0] == "5":
            branches = [
                unit(x, "1x1", 64),
                chain(x, ("5x5_1", 48, _ONE), ("5x5_2", 64, _FIVE)),
                chain(x, ("3x3dbl_1", 64, _ONE), *_doubled(96)),
                unit(_average_pool(x), "_pool", 32 if kind == "5b" else 64),
            ]
        elif kind == "6a":
            branches = [
                unit(x, "3x3", 384, _THREE, halve=True),
                chain(x, ("3x3dbl_1", 64, _ONE), *_doubled(96), halve=True),
                max_pool(x, 3, 2, 0),
            ]
        elif kind[0] == "6":
            c = {"6b": 128, "6e": 192}.get(kind, 160)
            branches = [
                unit(x, "1x1", 192),
                chain(x, ("7x7_1", c, _ONE), ("7x7_2", c, _WIDE), ("7x7_3", 192, _TALL)),
                chain(
                    x,
                    ("7x7dbl_1", c, _ONE),
                    ("7x7dbl_2", c, _TALL),
                    ("7x7dbl_3", c, _WIDE),
                    ("7x7dbl_4", c, _TALL),
                    ("7x7dbl_5", 192, _WIDE),
                ),
                unit(_average_pool(x), "_pool", 192),
            ]
        elif kind == "7a":
            branches = [
                chain(x, ("3x3_1", 192, _ONE), ("3x3_2", 320, _THREE), halve=True),
                chain(
                    x,
                    ("7x7x3_1", 192, _ONE),
                    ("7x7x3_2", 192, _WIDE),
                    ("7x7x3_3", 192, _TALL),
                    ("7x7x3_4", 192, _THREE),
                    halve=True,
                ),
                max_pool(x, 3, 2, 0),
            ]
        else:
            branches = [
                unit(x, "1x1", 320),
                *fork(unit(x, "3x3_1", 384), "3x3_2"),
                *fork(
                    chain(x, ("3x3dbl_1", 448, _ONE), ("3x3dbl_2", 384, _THREE)),
                    "3x3dbl_3",
                ),
                unit(_average_pool(x), "_pool", 192),
            ]
        return jnp.concatenate(branches, axis=-1)


def _doubled(features: int) -> Sequence[Convolution]:
    return ("3x3dbl_2", features, _THREE), ("3x3dbl_3", features, _THREE)


class InceptionV3(nn.Module):
    """Images [N, H, W, 3] (published size 299; at least 75) -> features [N, 2048].

    Variables Conv2d_{1a,2a,2b,4a}_3x3, Conv2d_3b_1x1 and Mixed_{5b..7c}/branch..., each with conv
    and bn. torchvision's `transform_input` is not part of it: feed ImageNet-normalised images.

    Attributes:
      axis_name: see BatchNorm.
    """

    dtype: Any = jnp.float32
    axis_name: str | tuple[str, ...] | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, between: Between | None = None, pool: bool = True
    ) -> jax.Array:
        """train: batch norms use and update batch statistics.

        between: called after each of the eleven blocks. pool: False returns the map of the last
          block [N, h, w, 2048] instead of its average.

        Raises:
          ValueError: images that are too small.
        """
        if min(x.shape[1:3]) < SMALLEST:
            raise ValueError(f"Inception-v3 reads images from {SMALLEST} pixels up, got {x.shape}")
        x = x.astype(self.dtype)
        for name, features, window, stride, pad, halve in _STEM:
            layer = ConvUnit(features, window, stride, pad, self.dtype, self.axis_name, name=name)
            x = layer(x, train=train)
            x = max_pool(x, 3, 2, 0) if halve else x
        for name in CHANNELS:
            x = Block(name, self.dtype, self.axis_name, name=name)(x, train=train)
            if between is not None:
                x = between(name, x)
        return global_average_pool(x) if pool else x


def inception_rules(torch_prefix: str = "", our_prefix: str = "") -> tuple[Rule, ...]:
    """torchvision's key names, "Mixed_5b.branch1x1.conv.weight".

    The auxiliary head and the classifier are ignored.

    Args:
      torch_prefix: what stands before them in the file, with its dot.
      our_prefix: the module path of the network below "params", with its slash.
    """
    torch = re.escape(torch_prefix)
    rules: list[Rule] = []
    for found, ours in (
        (torch + r"(Conv2d_\w+)\.", our_prefix + r"\1/"),
        (torch + r"(Mixed_\w+)\.(branch\w+)\.", our_prefix + r"\1/\2/"),
    ):
        rules.append(Rename(found + r"conv\.weight", f"params/{ours}conv/kernel", "conv"))
        rules += batch_norm(found + "bn", f"{ours}bn")
    return (*rules, Ignore(torch + r"(AuxLogits|fc)\..*"))
