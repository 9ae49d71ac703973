"""VQGAN (Esser et al. 2021): images to a grid of codes and back; a prior for generation.

Images are NHWC float32 in [-1, 1]. Parameters lie under the official names: {"encoder", "decoder",
"quant_conv", "post_quant_conv", "codebook"}.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.errors import ConfigError, DataError
from jaxcog.nn.conv_norm import Conv
from jaxcog.nn.forward import forward
from jaxcog.nn.precision import at_least_float32
from jaxcog.trees import by_path

Tree = Any

_SIZES = "vqgan_config"


@dataclasses.dataclass(frozen=True)
class VQGANConfig:
    """Sizes; the defaults are the official f16 model with 1024 codes (72.1 M parameters).

    multipliers: channels of each level, times `channels`; every level but the last halves the size.
    attention_at: sides of the map, for images of `resolution`, at which there is attention.
    groups: of the group norms.
    beta: weight of the codebook term (the official order of terms puts it there).
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    attention_at: tuple[int, ...] = (16,)
    resolution: int = 256
    z_channels: int = 256
    codes: int = 1024
    code_width: int = 256
    groups: int = 32
    beta: float = 0.25

    def __post_init__(self) -> None:
        if self.channels % self.groups:
            raise ConfigError(
                f"vqgan.groups={self.groups} does not divide vqgan.channels={self.channels}"
            )

    @property
    def factor(self) -> int:
        """Pixels a side of one code."""
        return 2 ** (len(self.multipliers) - 1)

    def attends(self, level: int) -> bool:
        return self.resolution // 2**level in self.attention_at


def _norm(config: VQGANConfig, name: str) -> nn.GroupNorm:
    return nn.GroupNorm(config.groups, epsilon=1e-6, name=name)


class _ResBlock(nn.Module):
    """Norm, swish, 3x3, norm, swish, 3x3, and the input beside it: [..., C] -> [..., features]."""

    config: VQGANConfig
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Conv(self.features, 3, name="conv1")(nn.swish(_norm(self.config, "norm1")(x)))
        y = Conv(self.features, 3, name="conv2")(nn.swish(_norm(self.config, "norm2")(y)))
        if x.shape[-1] != self.features:
            x = Conv(self.features, name="nin_shortcut")(x)
        return x + y


class _Attention(nn.Module):
    """One head over all positions, and the input beside it."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y, width = _norm(self.config, "norm")(x), x.shape[-1]
        query, key, value = (
            Conv(width, name=name)(y).reshape(x.shape[0], -1, width) for name in ("q", "k", "v")
        )
        weights = jax.nn.softmax(jnp.einsum("bnc,bmc->bnm", query, key) * width**-0.5, axis=-1)
        mixed = jnp.einsum("bnm,bmc->bnc", weights, value).reshape(x.shape)
        return x + Conv(width, name="proj_out")(mixed)


class _Encoder(nn.Module):
    """[B, H, W, 3] -> [B, H/f, W/f, z_channels]."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.config
        x = Conv(config.channels, 3, name="conv_in")(x)
        for level, multiplier in enumerate(config.multipliers):
            for block in range(config.blocks):
                width = config.channels * multiplier
                x = _ResBlock(config, width, name=f"down_{level}_block_{block}")(x)
                if config.attends(level):
                    x = _Attention(config, name=f"down_{level}_attn_{block}")(x)
            if level < len(config.multipliers) - 1:
                # Official: zeros to the right and below, then a valid convolution.
                x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
                x = Conv(x.shape[-1], 3, stride=2, pad=0, name=f"down_{level}_downsample")(x)
        x = _middle(config, x)
        return Conv(config.z_channels, 3, name="conv_out")(nn.swish(_norm(config, "norm_out")(x)))


class _Decoder(nn.Module):
    """[B, h, w, z_channels] -> [B, h*f, w*f, 3]."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        config = self.config
        x = Conv(config.channels * config.multipliers[-1], 3, name="conv_in")(z)
        x = _middle(config, x)
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for block in range(config.blocks + 1):
                width = config.channels * multiplier
                x = _ResBlock(config, width, name=f"up_{level}_block_{block}")(x)
                if config.attends(level):
                    x = _Attention(config, name=f"up_{level}_attn_{block}")(x)
            if level:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = Conv(x.shape[-1], 3, name=f"up_{level}_upsample")(x)
        return Conv(3, 3, name="conv_out")(nn.swish(_norm(config, "norm_out")(x)))


def _middle(config: VQGANConfig, x: jax.Array) -> jax.Array:
    x = _ResBlock(config, x.shape[-1], name="mid_block_1")(x)
    x = _Attention(config, name="mid_attn_1")(x)
    return _ResBlock(config, x.shape[-1], name="mid_block_2")(x)


def init_vqgan(key: jax.Array, config: VQGANConfig) -> Tree:
    """Parameters, float32."""
    keys = jax.random.split(key, 5)
    side = config.factor
    bound = 1 / config.codes
    latent = jnp.zeros((1, 1, 1, config.z_channels))
    code = jnp.zeros((1, 1, 1, config.code_width))
    return {
        "encoder": _Encoder(config).init(keys[0], jnp.zeros((1, side, side, 3)))["params"],
        "decoder": _Decoder(config).init(keys[1], latent)["params"],
        "quant_conv": Conv(config.code_width).init(keys[2], latent)["params"],
        "post_quant_conv": Conv(config.z_channels).init(keys[3], code)["params"],
        "codebook": jax.random.uniform(
            keys[4], (config.codes, config.code_width), jnp.float32, -bound, bound
        ),
    }


def encode(params: Tree, images: jax.Array, config: VQGANConfig) -> jax.Array:
    """[B, H, W, 3] -> latents [B, H/f, W/f, code_width], before they become codes."""
    hidden = forward(_Encoder(config), params["encoder"], images)
    return forward(Conv(config.code_width), params["quant_conv"], hidden)


def nearest_code(codebook: jax.Array, latents: jax.Array) -> jax.Array:
    """[..., D] -> [...] int32, the nearest of the codes [K, D] in squared distance."""
    flat = at_least_float32(latents.reshape(-1, latents.shape[-1]))
    distance = (
        jnp.sum(flat**2, axis=1, keepdims=True)
        + jnp.sum(codebook**2, axis=1)
        - 2 * flat @ codebook.T
    )
    return jnp.argmin(distance, axis=1).astype(jnp.int32).reshape(latents.shape[:-1])


def quantise(
    codebook: jax.Array, latents: jax.Array, beta: float = 0.25
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Latents [B, h, w, D] -> (codes in their places, scalar loss, indices [B, h, w]).

    The gradient of the codes goes straight to the latents.
    """
    indices = nearest_code(codebook, latents)
    codes = jnp.take(codebook, indices, axis=0)
    commitment = jnp.mean(jnp.square(jax.lax.stop_gradient(codes) - latents))
    moving = jnp.mean(jnp.square(codes - jax.lax.stop_gradient(latents)))
    straight = latents + jax.lax.stop_gradient(codes - latents)
    return straight, commitment + beta * moving, indices


def decode(params: Tree, codes: jax.Array, config: VQGANConfig) -> jax.Array:
    """Codes [B, h, w, code_width] -> images [B, h*f, w*f, 3]."""
    hidden = forward(Conv(config.z_channels), params["post_quant_conv"], codes)
    return forward(_Decoder(config), params["decoder"], hidden)


def random_latents(key: jax.Array, codebook: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """[B, h, w, D]: a random code in every place, where generation starts."""
    return jnp.take(codebook, jax.random.randint(key, shape, 0, codebook.shape[0]), axis=0)


def to_arrays(params: Tree, config: VQGANConfig) -> dict[str, Any]:
    """Everything that generation needs, as the arrays of one .npz file."""
    sizes = json.dumps(dataclasses.asdict(config))
    return {**{name: np.asarray(x) for name, x in by_path(params).items()}, _SIZES: np.array(sizes)}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[Tree, VQGANConfig]:
    """The inverse of `to_arrays`. Raises DataError where the arrays are something else."""
    if _SIZES not in arrays:
        raise DataError(
            "the .npz holds no VQGAN: give the prior.npz that `jaxcog predict` writes for a run of "
            "brivl/vqgan"
        )
    sizes: dict[str, Any] = json.loads(str(arrays[_SIZES]))
    fields: dict[str, Any] = {
        name: tuple(x) if isinstance(x, list) else x for name, x in sizes.items()
    }
    config = VQGANConfig(**fields)
    params: dict[str, Any] = {}
    for name, value in arrays.items():
        if name == _SIZES:
            continue
        *parents, last = name.split("/")
        node = params
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = jnp.asarray(value)
    return params, config
