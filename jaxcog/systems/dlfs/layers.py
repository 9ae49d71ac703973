"""Flax layers of the DLFS networks. Stored weights are unscaled, as in official checkpoints."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.norm import instance_norm
from jaxcog.nn.precision import at_least_float32
from jaxcog.systems.dlfs import ops

_NORMAL = nn.initializers.normal(1.0)
_ZEROS = nn.initializers.zeros_init()
_GAIN = 2.0**0.5


class EqualConv(nn.Module):
    """Equalised convolution behind reflection padding of k // 2 pixels (none if `valid`).

    halve: means over 2 x 2 behind it, see `ops.halving_conv2d`; instead of `stride` and `valid`.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    valid: bool = False
    halve: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", _NORMAL, shape)
        bias = self.param("bias", _ZEROS, (self.features,))
        scaled = kernel * ops.equalized_scale(shape)
        x = x.astype(self.dtype)
        if self.halve:
            y = ops.halving_conv2d(x, scaled)
        else:
            x = ops.reflect_pad(x, 0 if self.valid else self.kernel // 2)
            y = ops.conv2d(x, scaled.astype(self.dtype), self.stride)
        return y + bias.astype(self.dtype)


class EqualDense(nn.Module):
    """Equalised linear layer; float32, since it maps codes and styles."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", _NORMAL, shape)
        bias = self.param("bias", _ZEROS, (self.features,))
        return at_least_float32(x) @ (kernel * ops.equalized_scale(shape)) + bias


class Style(nn.Module):
    """Channel scales from a latent vector: 1 + (pixel-normalised) affine map. [B, D] -> [B, C]."""

    features: int
    normalize: bool = True

    @nn.compact
    def __call__(self, latent: jax.Array) -> jax.Array:
        affine = EqualDense(self.features, name="affine")(latent)
        return 1 + (ops.pixel_norm(affine) if self.normalize else affine)


class ModulatedConv(nn.Module):
    """See `ops.modulated_conv2d`; the style comes from a latent vector [B, D]."""

    features: int
    kernel: int = 3
    up: bool = False
    down: bool = False
    normalize_style: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, latent: jax.Array) -> jax.Array:
        style = Style(x.shape[-1], self.normalize_style, name="style")(latent)
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        return ops.modulated_conv2d(
            x.astype(self.dtype),
            self.param("kernel", _NORMAL, shape),
            self.param("bias", _ZEROS, (self.features,)),
            style,
            up=self.up,
            down=self.down,
            demodulate=self.kernel > 1,
        )


class StyledBlock(nn.Module):
    """Two modulated convolutions, each with leaky ReLU times sqrt(2) and pixel norm."""

    features: int
    up: bool = False
    normalize_style: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, latent: jax.Array) -> jax.Array:
        for name, up in (("conv0", self.up), ("conv1", False)):
            conv = ModulatedConv(
                self.features,
                up=up,
                normalize_style=self.normalize_style,
                dtype=self.dtype,
                name=name,
            )
            x = ops.pixel_norm(_GAIN * ops.leaky_relu(conv(x, latent)))
        return x


class DiscriminatorBlock(nn.Module):
    """Convolve, blur, convolve, halve: [B, H, W, C] -> [B, H // 2, W // 2, features]."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ops.leaky_relu(EqualConv(self.features, dtype=self.dtype, name="conv0")(x))
        conv1 = EqualConv(self.features, halve=True, dtype=self.dtype, name="conv1")
        return ops.leaky_relu(conv1(ops.binomial_blur(x)))


class PixelNormResBlock(nn.Module):
    """x + conv, norm, ReLU, conv, norm of x; nothing behind the sum."""

    norm: str = "pixel"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        y = EqualConv(features, dtype=self.dtype, name="conv0")(x)
        y = nn.relu(normalize(y, self.norm))
        y = normalize(EqualConv(features, dtype=self.dtype, name="conv1")(y), self.norm)
        return x + y


class MappingNetwork(nn.Module):
    """Age code [B, D] -> latent [B, features]; pixel norms, leaky ReLUs between linear layers."""

    features: int = 256
    layers: int = 8
    hidden: int | None = None
    normalize: bool = True

    @nn.compact
    def __call__(self, code: jax.Array) -> jax.Array:
        norm = ops.pixel_norm if self.normalize else lambda x: x
        x = norm(at_least_float32(code))
        for index in range(self.layers - 1):
            dense = EqualDense(self.hidden or self.features, name=f"dense{index}")
            x = norm(ops.leaky_relu(dense(x)))
        return norm(EqualDense(self.features, name=f"dense{self.layers - 1}")(x))


def normalize(x: jax.Array, kind: str) -> jax.Array:
    """ "pixel" norm, or "instance": each channel of each example to mean 0 and variance 1."""
    if kind == "pixel":
        return ops.pixel_norm(x)
    return instance_norm(x, ops.EPS)
