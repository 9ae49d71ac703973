"""CLIP's text tower (Radford et al. 2021): a causal pre-norm transformer read at its end token.

Variables: token_embedding, positional_embedding, block{i}/{ln_1,ln_2}/{scale,bias},
block{i}/attn/{in_proj,out_proj}/{kernel,bias}, block{i}/{c_fc,c_proj}/{kernel,bias}, ln_final,
text_projection.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.precision import at_least_float32

_LAYER_NORM_EPS = 1e-5


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and those before it: [B, T, C]."""

    heads: int
    in_std: float
    out_std: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, steps, width = x.shape
        fused = nn.Dense(
            3 * width,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(self.in_std),
            name="in_proj",
        )(x)
        q, k, v = jnp.moveaxis(fused.reshape(batch, steps, 3, self.heads, -1), 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q * (width // self.heads) ** -0.5, k)
        seen = jnp.tril(jnp.ones((steps, steps), bool))
        scores = jnp.where(seen, at_least_float32(scores), -jnp.inf)
        attention = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        gathered = jnp.einsum("bhqk,bkhd->bqhd", attention, v).reshape(batch, steps, width)
        init = nn.initializers.normal(self.out_std)
        return nn.Dense(width, dtype=self.dtype, kernel_init=init, name="out_proj")(gathered)


class _Block(nn.Module):
    heads: int
    layers: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        in_std, out_std = width**-0.5, (2 * self.layers * width) ** -0.5
        x = x + CausalAttention(self.heads, in_std, out_std, self.dtype, name="attn")(
            _layer_norm(self.dtype, "ln_1")(x)
        )
        y = nn.Dense(
            4 * width,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal((2 * width) ** -0.5),
            name="c_fc",
        )(_layer_norm(self.dtype, "ln_2")(x))
        init = nn.initializers.normal(out_std)
        y = nn.Dense(width, dtype=self.dtype, kernel_init=init, name="c_proj")(quick_gelu(y))
        return x + y


def _layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=_LAYER_NORM_EPS, dtype=dtype, use_fast_variance=False, name=name)


class ClipTextTransformer(nn.Module):
    """Tokens of a sentence to its feature.

    Attributes:
      width, heads, layers: 512, 8, 12 beside CLIP's RN50, RN101 and ViT-B.
      out_dim: of the joint space.
      vocabulary, context: rows of the two embeddings.
    """

    width: int = 512
    heads: int = 8
    layers: int = 12
    out_dim: int = 1024
    vocabulary: int = 49408
    context: int = 77
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, *, all_tokens: bool = False) -> jax.Array:
        """Features.

        Padding needs no mask: what follows the end token cannot reach it.

        Args:
          tokens: int [B, T], T at most `context`; the end token has the largest id.
          all_tokens: every token's feature instead of that at the end token.

        Returns:
          [B, out_dim], or [B, T, out_dim], float32.

        Raises:
          ValueError: more tokens than positions.
        """
        if tokens.shape[1] > self.context:
            raise ValueError(f"{tokens.shape[1]} tokens, but only {self.context} positions")
        table = self.param(
            "token_embedding",
            nn.initializers.normal(0.02),
            (self.vocabulary, self.width),
            jnp.float32,
        )
        positions = self.param(
            "positional_embedding",
            nn.initializers.normal(0.01),
            (self.context, self.width),
            jnp.float32,
        )
        x = (table[tokens] + positions[: tokens.shape[1]]).astype(self.dtype)
        for index in range(self.layers):
            x = _Block(self.heads, self.layers, self.dtype, name=f"block{index}")(x)
        x = at_least_float32(_layer_norm(self.dtype, "ln_final")(x))
        projection = self.param(
            "text_projection",
            nn.initializers.normal(self.width**-0.5),
            (self.width, self.out_dim),
            jnp.float32,
        )
        if all_tokens:
            return x @ projection
        end = jnp.argmax(tokens, axis=-1)
        return jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0] @ projection
