"""The networks of DLFS (ICCV 2021), of its predecessor LATS, and their discriminator (NHWC).

No batch norm and no dropout: training and evaluation behave alike. The pure functions at the end
are the door: parameters in, arrays out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.nn.forward import forward
from jaxcog.nn.precision import at_least_float32
from jaxcog.systems.dlfs import ops
from jaxcog.systems.dlfs.layers import (
    DiscriminatorBlock,
    EqualConv,
    MappingNetwork,
    ModulatedConv,
    PixelNormResBlock,
    Style,
    StyledBlock,
    normalize,
)

Features = dict[str, jax.Array]
"""What an encoder gives: "identity" [B, h, w, C]; of DLFS also "shape" and "texture" [B, D]."""

GeneratorKind = Literal["dlfs", "lats"]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of generator and discriminator; the defaults are the official ones for 256 x 256.

    generator: "dlfs", or "lats": one identity feature, decoded as it is.
    width: channels at full resolution; doubled by each of `downsamples` stages.
    stem: kernel of the first convolution. blocks: residual blocks behind the stages.
    identity_features: channels of the identity feature (DLFS). texture_features: of the strided
      convolutions before the texture vector. age_features: of the age encoder's convolutions, each
      but the first strided.
    latent: length of the mapping network's output and of the texture vector; `mapping` layers.
    styled_blocks: modulated blocks of the decoder before it enlarges.
    shape_transform, texture_transform: off for ablations: the shape as it is, and the texture
      vector scaled to unit length only.
    num_classes, dims_per_class: of the age code.
    discriminator_width, discriminator_layers: channels of its first layer, and halvings: log2(size
      / 4); channels double up to eight times the first. logit_activation: leaky ReLU on the logits,
      as in the official code. stddev_group: see `ops.minibatch_stddev`.
    encoder_norm: "pixel" or "instance". remat: recompute blocks in the backward pass.
    """

    generator: GeneratorKind = "dlfs"
    width: int = 64
    downsamples: int = 2
    stem: int = 7
    blocks: int = 4
    identity_features: int = 512
    texture_features: tuple[int, ...] = (512, 1024)
    age_features: tuple[int, ...] = (64, 128, 256, 512, 1024)
    latent: int = 256
    mapping: int = 8
    styled_blocks: int = 4
    shape_transform: bool = True
    texture_transform: bool = True
    num_classes: int = 6
    dims_per_class: int = 50
    discriminator_width: int = 64
    discriminator_layers: int = 6
    logit_activation: bool = True
    stddev_group: int | None = None
    encoder_norm: Literal["pixel", "instance"] = "pixel"
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def code_length(self) -> int:
        return self.num_classes * self.dims_per_class


def _remat(module: Any, arch: Architecture) -> Any:
    return nn.remat(module) if arch.remat else module


class _Stem(nn.Module):
    """Convolutions down to the shape feature's resolution: [B, H, W, 3] -> [B, H/4, W/4, C]."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        arch = self.arch
        for index in range(arch.downsamples + 1):
            conv = EqualConv(
                arch.width * 2**index,
                kernel=3 if index else arch.stem,
                stride=2 if index else 1,
                dtype=arch.dtype,
                name=f"conv{index}",
            )
            x = nn.relu(normalize(conv(x), arch.encoder_norm))
        return x


class DLFSEncoder(nn.Module):
    """Image [B, H, W, 3] -> the features of a face.

    "identity" [B, H/8, W/8, 512], "shape" [B, H/4, W/4, 256], "texture" [B, 256] float32.
    Sides must be divisible by 4 (of the official size), and at least 32.
    """

    arch: Architecture = Architecture()

    @nn.compact
    def __call__(self, x: jax.Array) -> Features:
        arch = self.arch
        block = _remat(PixelNormResBlock, arch)
        options = {"norm": arch.encoder_norm, "dtype": arch.dtype}
        stem = _Stem(arch, name="stem")(x)
        shape = block(**options, name="shape_block")(stem)
        deep = stem
        for index in range(arch.blocks - 1):
            deep = block(**options, name=f"block{index}")(deep)
        identity = block(**options, name="identity_block")(deep)
        conv = EqualConv(arch.identity_features, stride=2, dtype=arch.dtype, name="identity_conv")
        identity = nn.relu(normalize(conv(identity), arch.encoder_norm))
        return {"identity": identity, "shape": shape, "texture": self._texture(deep)}

    def _texture(self, x: jax.Array) -> jax.Array:
        arch = self.arch
        for index, features in enumerate(arch.texture_features):
            conv = EqualConv(features, stride=2, dtype=arch.dtype, name=f"texture_conv{index}")
            x = nn.relu(normalize(conv(x), arch.encoder_norm))
        x = jnp.mean(at_least_float32(x), axis=(1, 2), keepdims=True)
        out = EqualConv(arch.latent, kernel=1, dtype=x.dtype, name="texture_out")
        return out(x)[:, 0, 0]


class LATSEncoder(nn.Module):
    """Image [B, H, W, 3] -> {"identity": [B, H/4, W/4, 256]}."""

    arch: Architecture = Architecture(generator="lats")

    @nn.compact
    def __call__(self, x: jax.Array) -> Features:
        arch = self.arch
        block = _remat(PixelNormResBlock, arch)
        x = _Stem(arch, name="stem")(x)
        for index in range(arch.blocks):
            x = block(norm=arch.encoder_norm, dtype=arch.dtype, name=f"block{index}")(x)
        return {"identity": x}


class AgeEncoder(nn.Module):
    """Image [B, H, W, 3] -> estimated age code [B, num_classes * dims_per_class] float32."""

    arch: Architecture = Architecture()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        arch = self.arch
        for index, features in enumerate(arch.age_features):
            conv = EqualConv(
                features,
                kernel=3 if index else arch.stem,
                stride=2 if index else 1,
                dtype=arch.dtype,
                name=f"conv{index}",
            )
            x = ops.leaky_relu(conv(x))
        x = EqualConv(arch.code_length, kernel=1, dtype=arch.dtype, name="out")(x)
        return jnp.mean(at_least_float32(x), axis=(1, 2))


class DLFSDecoder(nn.Module):
    """Features and an age code (or a latent vector) -> image [B, H, W, 3] in (-1, 1).

    Serves LATS too, whose styled blocks read the latent vector and decode the identity feature.
    """

    arch: Architecture = Architecture()

    def setup(self) -> None:
        arch = self.arch
        self.mlp = MappingNetwork(arch.latent, layers=arch.mapping)
        if arch.generator == "dlfs":
            self.shape_modulation = ModulatedConv(_deepest(arch), dtype=arch.dtype)
            self.texture_style = Style(arch.latent)
        block = _remat(StyledBlock, arch)
        self.blocks = [block(_deepest(arch), dtype=arch.dtype) for _ in range(arch.styled_blocks)]
        self.ups = [
            block(_deepest(arch) // 2 ** (index + 1), up=True, dtype=arch.dtype)
            for index in range(arch.downsamples)
        ]
        self.to_rgb = EqualConv(3, kernel=1, dtype=arch.dtype)

    def map(self, code: jax.Array) -> jax.Array:
        """Age code [B, num_classes * dims_per_class] -> latent vector w [B, latent]."""
        return self.mlp(code)

    def transform(self, features: Features, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Shape and texture at the age that w stands for. LATS: identity feature and w."""
        arch = self.arch
        if arch.generator == "lats":
            return features["identity"], w
        shape, texture = features["shape"], features["texture"]
        if arch.shape_transform:
            shape = self.shape_modulation(shape, w)
        style = self.texture_style(w)
        if not arch.texture_transform:
            style = jnp.ones_like(style)
        return shape, ops.modulate_vector(texture, style)

    def render(self, shape: jax.Array, texture: jax.Array) -> jax.Array:
        """The image before tanh, float32."""
        x = shape
        for block in (*self.blocks, *self.ups):
            x = block(x, texture)
        return at_least_float32(self.to_rgb(x))

    def decode_w(self, features: Features, w: jax.Array) -> jax.Array:
        """The image for a latent vector, such as one between two ages."""
        return jnp.tanh(self.render(*self.transform(features, w)))

    def __call__(self, features: Features, code: jax.Array | None = None) -> jax.Array:
        """The image for an age code; without one, for shape and texture as they are (DLFS)."""
        if code is None:
            return jnp.tanh(self.render(features["shape"], features["texture"]))
        return self.decode_w(features, self.map(code))


def _deepest(arch: Architecture) -> int:
    return arch.width * 2**arch.downsamples


class Generator(nn.Module):
    """Encoder, age encoder and decoder of DLFS or LATS under one set of parameters."""

    arch: Architecture = Architecture()

    def setup(self) -> None:
        lats = self.arch.generator == "lats"
        self.encoder = (LATSEncoder if lats else DLFSEncoder)(self.arch)
        self.age_encoder = AgeEncoder(self.arch)
        self.decoder = DLFSDecoder(self.arch)

    def encode(self, x: jax.Array) -> Features:
        return self.encoder(x)

    def age(self, x: jax.Array) -> jax.Array:
        return self.age_encoder(x)

    def map(self, code: jax.Array) -> jax.Array:
        return self.decoder.map(code)

    def decode(self, features: Features, code: jax.Array | None) -> jax.Array:
        return self.decoder(features, code)

    def decode_w(self, features: Features, w: jax.Array) -> jax.Array:
        return self.decoder.decode_w(features, w)

    def __call__(self, x: jax.Array, code: jax.Array) -> jax.Array:
        self.age_encoder(x)  # so that its parameters are created
        return self.decoder(self.encoder(x), code)


class AgeDiscriminator(nn.Module):
    """Image [B, H, W, 3] -> one real-or-fake logit for each age class [B, h, w, K] float32."""

    arch: Architecture = Architecture()
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        arch = self.arch
        width = arch.discriminator_width
        block = _remat(DiscriminatorBlock, arch)
        conv = EqualConv(width, kernel=1, dtype=arch.dtype, name="stem")
        x = ops.leaky_relu(conv(x))
        for index in range(arch.discriminator_layers):
            features = min(2 ** (index + 1), 8) * width
            x = block(features, dtype=arch.dtype, name=f"block{index}")(x)
        self.sow("intermediates", "features", x)
        features = x.shape[-1]
        x = ops.minibatch_stddev(x, arch.stddev_group, axis_name=self.axis_name)
        x = ops.leaky_relu(EqualConv(features, dtype=arch.dtype, name="head")(x))
        out = EqualConv(arch.num_classes, kernel=4, valid=True, dtype=arch.dtype, name="out")
        logits = at_least_float32(out(x))
        return ops.leaky_relu(logits) if arch.logit_activation else logits


Params = Mapping[str, Any]


def init_generator(arch: Architecture, key: jax.Array, size: int) -> Params:
    """Fresh parameters for images [size, size, 3]."""
    code = jnp.zeros((1, arch.code_length))
    return _drawn(Generator(arch), key, jnp.zeros((1, size, size, 3)), code)


def init_discriminator(arch: Architecture, key: jax.Array, size: int) -> Params:
    """Fresh parameters for images [size, size, 3]."""
    return _drawn(AgeDiscriminator(arch), key, jnp.zeros((1, size, size, 3)))


def _drawn(module: nn.Module, key: jax.Array, *args: jax.Array) -> Params:
    """What `module.init` gives: weights N(0, 1), biases 0; but from one draw for all weights.

    A draw of its own for each of so many arrays takes longer to compile than the training step.
    """
    struct = jax.eval_shape(module.init, key, *args)["params"]
    leaves, tree = jax.tree_util.tree_flatten_with_path(struct)
    weights = [leaf.size for path, leaf in leaves if path[-1].key == "kernel"]
    drawn = iter(jnp.split(jax.random.normal(key, (sum(weights),)), np.cumsum(weights)[:-1]))
    fresh = [
        next(drawn).reshape(leaf.shape) if path[-1].key == "kernel" else jnp.zeros(leaf.shape)
        for path, leaf in leaves
    ]
    return jax.tree.unflatten(tree, fresh)


def encode(arch: Architecture, params: Params, x: jax.Array) -> Features:
    """Images [B, H, W, 3] in [-1, 1] -> features."""
    return forward(Generator(arch), params, x, method="encode")


def estimate_code(arch: Architecture, params: Params, x: jax.Array) -> jax.Array:
    """Images [B, H, W, 3] -> age codes [B, num_classes * dims_per_class]."""
    return forward(Generator(arch), params, x, method="age")


def map_code(arch: Architecture, params: Params, code: jax.Array) -> jax.Array:
    """Age codes -> latent vectors [B, latent]."""
    return forward(Generator(arch), params, code, method="map")


def decode(
    arch: Architecture, params: Params, features: Features, code: jax.Array | None
) -> jax.Array:
    """Features and age codes -> images [B, H, W, 3] in (-1, 1)."""
    return forward(Generator(arch), params, features, code, method="decode")


def decode_w(arch: Architecture, params: Params, features: Features, w: jax.Array) -> jax.Array:
    """Features and latent vectors -> images [B, H, W, 3] in (-1, 1)."""
    return forward(Generator(arch), params, features, w, method="decode_w")


def discriminate(
    arch: Architecture, params: Params, x: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Images [B, H, W, 3] -> logits [B, h, w, K]; `axis_name` as in `ops.minibatch_stddev`."""
    return forward(AgeDiscriminator(arch, axis_name), params, x)
