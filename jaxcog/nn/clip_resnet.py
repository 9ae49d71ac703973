"""CLIP's "modified" ResNet (Radford et al. 2021): three-convolution stem, average pools instead of
strides, attention pooling instead of the average.

Variables: conv{1..3}, bn{1..3}, layer{1..4}_{i}/{conv,bn}{1..3}, layer{k}_0/downsample_{conv,bn},
attnpool/{positional_embedding, {q,k,v,c}_proj/{kernel,bias}}.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.nn.initializers import torch_default_bias, torch_default_kernel
from jaxcog.nn.norm import BatchNorm
from jaxcog.nn.precision import at_least_float32
from jaxcog.nn.resize import average_pool

AxisName = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class ClipSize:
    """blocks of each stage, width of the stem's output, width of the joint space.

    heads: of the attention pool; None: as many as are 64 wide.
    """

    blocks: tuple[int, int, int, int]
    width: int
    output: int
    heads: int | None = None

    @property
    def pool_heads(self) -> int:
        return self.heads or self.width * 32 // 64


SIZES = {
    "RN50": ClipSize((3, 4, 6, 3), 64, 1024),
    "RN101": ClipSize((3, 4, 23, 3), 64, 512),
    "RN50x4": ClipSize((4, 6, 10, 6), 80, 640),
    "RN50x16": ClipSize((6, 8, 18, 8), 96, 768),
    "RN50x64": ClipSize((3, 15, 36, 10), 128, 1024),
}
"""The published family."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's input pixels in [0, 1]."""


def resize_pos_embed(embedding: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Positional embedding of a square grid for a grid of `grid` = (height, width) tokens.

    Token 0 stands for the mean and is copied. The rest is resized bilinearly: half-pixel centres,
    clamped at the edges, not antialiased, also where the grid shrinks.

    Args:
      embedding: [1 + g*g, C], row-major.

    Returns:
      [1 + height*width, C] in the dtype of `embedding`, computed in float32 or wider.

    Raises:
      ValueError: the tokens after the first are no square.
    """
    side = math.isqrt(len(embedding) - 1)
    if side * side != len(embedding) - 1:
        raise ValueError(f"resize_pos_embed: {len(embedding) - 1} tokens are no square grid")
    tokens = at_least_float32(jnp.asarray(embedding))
    channels = tokens.shape[1]
    table = tokens[1:].reshape(side, side, channels)
    resized = jax.image.resize(table, (*grid, channels), "bilinear", antialias=False)
    whole = jnp.concatenate([tokens[:1], resized.reshape(-1, channels)])
    return whole.astype(embedding.dtype)


class AttentionPool2d(nn.Module):
    """One attention query, the mean of the map, over all its positions: [B, h, w, C] -> [B, D].

    Only token 0 is ever used, so there is one query row. With one query, keys and values need not
    be projected at all positions: q.(K x) = (K'q).x, and the sum of a_n V x_n is V of the sum. That
    is exact, and needs 1/64 of the products. The bias of the keys shifts all scores of a head
    alike, which softmax ignores: it is kept for the checkpoints, and has no gradient.

    Attributes:
      heads: C must be a multiple of it.
      output_dim: D.
    """

    heads: int
    output_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        tokens = x.reshape(batch, height * width, channels).astype(self.dtype)
        mean = jnp.mean(at_least_float32(tokens), axis=1, keepdims=True).astype(self.dtype)
        tokens = jnp.concatenate([mean, tokens], axis=1)
        position = self.param(
            "positional_embedding",
            nn.initializers.normal(channels**-0.5),
            (tokens.shape[1], channels),
            jnp.float32,
        )
        tokens = tokens + position.astype(self.dtype)

        size = channels // self.heads
        kernels, biases = {}, {}
        for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
            features = self.output_dim if name == "c_proj" else channels
            kernels[name], biases[name] = _Affine(channels, features, name=name)()
        per_head = {
            name: kernels[name].astype(self.dtype).reshape(channels, self.heads, size)
            for name in ("q_proj", "k_proj", "v_proj")
        }
        query = jnp.einsum("bc,chd->bhd", tokens[:, 0], per_head["q_proj"])
        query = query + biases["q_proj"].astype(self.dtype).reshape(self.heads, size)
        query = query * size**-0.5
        seen = jnp.einsum("bhd,chd->bhc", query, per_head["k_proj"])
        scores = at_least_float32(jnp.einsum("bhc,bnc->bhn", seen, tokens))
        attention = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        gathered = jnp.einsum("bhn,bnc->bhc", attention, tokens)
        value = jnp.einsum("bhc,chd->bhd", gathered, per_head["v_proj"])
        value = value.reshape(batch, channels) + biases["v_proj"].astype(self.dtype)
        out = value @ kernels["c_proj"].astype(self.dtype)
        return out + biases["c_proj"].astype(self.dtype)


class _Affine(nn.Module):
    """The two parameters of a linear layer, for a product that is written out elsewhere."""

    fan_in: int
    features: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        shape = (self.fan_in, self.features)
        kernel = self.param("kernel", torch_default_kernel, shape, jnp.float32)
        bias_init = torch_default_bias(self.fan_in)
        return kernel, self.param("bias", bias_init, (self.features,), jnp.float32)


def _conv(features: int, kernel: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    pad = kernel // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        dtype=dtype,
        kernel_init=torch_default_kernel,
        name=name,
    )


class ClipBottleneck(nn.Module):
    """1x1, 3x3, average pool, 1x1 around a shortcut: [B, H, W, .] -> [B, H/s, W/s, 4 features]."""

    features: int
    stride: int = 1
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(BatchNorm, not train, dtype=self.dtype, axis_name=self.axis_name)
        out = 4 * self.features
        y = nn.relu(norm(name="bn1")(_conv(self.features, 1, 1, self.dtype, "conv1")(x)))
        y = nn.relu(norm(name="bn2")(_conv(self.features, 3, 1, self.dtype, "conv2")(y)))
        y = average_pool(y, self.stride)
        y = norm(name="bn3")(_conv(out, 1, 1, self.dtype, "conv3")(y))
        if self.stride > 1 or x.shape[-1] != out:
            x = average_pool(x, self.stride)
            x = _conv(out, 1, 1, self.dtype, "downsample_conv")(x)
            x = norm(name="downsample_bn")(x)
        return nn.relu(x + y)


class ClipResNet(nn.Module):
    """CLIP's image tower: [B, H, W, 3] normalised -> [B, output_dim].

    Attributes:
      blocks, width, heads, output_dim: see SIZES.
      last_stride: of layer4; CLIP's is 2, person search uses 1. The map before the pool has side
        H/32, or H/16 with 1; the positional embedding belongs to that grid.
      remat_stages: bottlenecks of the first so many stages compute their activations again in the
        backward pass. Those of layers 1 and 2 are most of the memory.
      dtype: of the arithmetic; parameters and statistics are float32.

    Intermediates (sown): "stem", "layer1" .. "layer4", the map after each.
    """

    blocks: tuple[int, ...] = SIZES["RN50"].blocks
    output_dim: int = 1024
    heads: int = 32
    width: int = 64
    last_stride: int = 2
    remat_stages: int = 0
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shared = {"dtype": self.dtype, "axis_name": self.axis_name}
        x = x.astype(self.dtype)
        half = self.width // 2
        for index, (features, stride) in enumerate(((half, 2), (half, 1), (self.width, 1)), 1):
            x = _conv(features, 3, stride, self.dtype, f"conv{index}")(x)
            x = nn.relu(BatchNorm(not train, name=f"bn{index}", **shared)(x))
        x = average_pool(x, 2)
        self.sow("intermediates", "stem", x)
        again = nn.remat(ClipBottleneck, static_argnums=2)
        for stage, count in enumerate(self.blocks):
            block = again if stage < self.remat_stages else ClipBottleneck
            for index in range(count):
                stride = 1 if index else (1, 2, 2, self.last_stride)[stage]
                name = f"layer{stage + 1}_{index}"
                x = block(self.width * 2**stage, stride, name=name, **shared)(x, train)
            self.sow("intermediates", f"layer{stage + 1}", x)
        return AttentionPool2d(self.heads, self.output_dim, self.dtype, name="attnpool")(x)


def grid_of(height: int, width: int, last_stride: int) -> tuple[int, int]:
    """(rows, columns) of the map that is pooled, for images of this size."""
    stride = 16 * last_stride
    return height // stride, width // stride


def resized_to(grid: tuple[int, int]) -> Any:
    """A function for import: a checkpoint's positional embedding for `grid`, whatever its own.

    One that has the right number of tokens already is left as it is.
    """

    def convert(embedding: np.ndarray) -> np.ndarray:
        if len(embedding) == 1 + grid[0] * grid[1]:
            return embedding
        return np.asarray(resize_pos_embed(jnp.asarray(embedding, jnp.float32), grid))

    return convert
