"""Backbones for toy worlds: two convolutions for images, word and position vectors for texts."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.bert import BertConfig
from jaxcog.nn.conv_norm import Conv
from jaxcog.nn.forward import forward

Tree = Any

SMALL_FEATURES = 64


class _Convs(nn.Module):
    """Two 3x3 convolutions with ReLU, nothing pooled: [B, H, W, 3] -> [B, H, W, 64]."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(Conv(SMALL_FEATURES // 2, 3, dtype=self.dtype, name="conv1")(x))
        return nn.relu(Conv(SMALL_FEATURES, 3, dtype=self.dtype, name="conv2")(x))


def init_small_convs(key: jax.Array) -> Tree:
    """{"conv1", "conv2"}."""
    return _Convs().init(key, jnp.zeros((1, 8, 8, 3)))["params"]


def small_convs(params: Tree, images: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """[B, H, W, 3] -> [B, H, W, 64]."""
    return forward(_Convs(dtype), params, images)


def init_word_vectors(key: jax.Array, config: BertConfig) -> Tree:
    """{"embeddings": {"word", "position"}}: words standard normal, positions small beside them."""
    keys = jax.random.split(key)
    word = jax.random.normal(keys[0], (config.vocab, config.width), jnp.float32)
    position = 0.02 * jax.random.normal(keys[1], (config.positions, config.width), jnp.float32)
    return {"embeddings": {"word": word, "position": position}}


def word_vectors(params: Tree, ids: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """[B, L] -> [B, L, width]."""
    tables = params["embeddings"]
    x = jnp.take(tables["word"], ids, axis=0) + tables["position"][: ids.shape[1]]
    return x.astype(dtype)
