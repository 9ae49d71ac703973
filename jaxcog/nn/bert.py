"""BERT and RoBERTa (Devlin et al. 2019, Liu et al. 2019) as pure functions over named variables."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxcog.nn.forward import forward
from jaxcog.nn.transformer import LayerConfig, LayerNorm, init_layers, run_layers

Params = Any


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes; the defaults are those of BERT-base with the Chinese vocabulary.

    pad_id: its word vector gets no gradient.
    """

    vocab: int = 21128
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: int = 512
    types: int = 2
    dropout: float = 0.1
    eps: float = 1e-12
    pad_id: int = 0

    @property
    def layer(self) -> LayerConfig:
        return LayerConfig(self.heads, self.hidden, "gelu", self.eps, self.dropout)


def init_bert(key: jax.Array, config: BertConfig) -> Params:
    """{"embeddings": {"word", "position", "type", "norm"}, "layer_0": ..., ...}, float32."""
    keys = jax.random.split(key, 4)
    sizes = {"word": config.vocab, "position": config.positions, "type": config.types}
    tables = {
        name: 0.02 * jax.random.normal(k, (size, config.width), jnp.float32)
        for k, (name, size) in zip(keys[:3], sizes.items(), strict=True)
    }
    norm = {"scale": jnp.ones(config.width), "bias": jnp.zeros(config.width)}
    layers = init_layers(keys[3], config.layers, config.width, config.layer)
    return {"embeddings": {**tables, "norm": norm}, **layers}


def embed(
    params: Params,
    ids: jax.Array,
    config: BertConfig,
    *,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Word, position and type vectors (all of type 0), normalised: [B, L] -> [B, L, D].

    key: for dropout; None: no dropout.
    """
    tables = params["embeddings"]
    if ids.shape[1] > config.positions:
        raise ValueError(f"bert: {ids.shape[1]} tokens, the model has {config.positions} positions")
    words = jnp.take(tables["word"], ids, axis=0)
    words = jnp.where((ids == config.pad_id)[..., None], jax.lax.stop_gradient(words), words)
    x = words + tables["position"][: ids.shape[1]] + tables["type"][0]
    x = forward(LayerNorm(config.eps, dtype), tables["norm"], x)
    if key is None or not config.dropout:
        return x
    keep = jax.random.bernoulli(key, 1 - config.dropout, x.shape)
    return jnp.where(keep, x / (1 - config.dropout), 0)


def bert(
    params: Params,
    ids: jax.Array,
    config: BertConfig,
    *,
    mask: jax.Array | None = None,
    key: jax.Array | None = None,
    frozen: int = 0,
    scan: bool = False,
    remat: bool = False,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Last hidden states: ids [B, L] int32 -> [B, L, D].

    Args:
      mask: [B, L] bool, False where keys are not attended to; None attends to padding too.
      key: for dropout; None: no dropout.
      frozen: so many layers, and the embeddings, get no gradient, and nothing is kept for one.
      scan, remat: see `jaxcog.nn.layers.fold_layers`.
      dtype: of the arithmetic; norms and softmax are float32.
    """
    x = bert_trunk(params, ids, config, mask=mask, key=key, layers=frozen, scan=scan, dtype=dtype)
    x = jax.lax.stop_gradient(x) if frozen else x
    return bert_head(
        params, x, config, mask=mask, key=key, first=frozen, scan=scan, remat=remat, dtype=dtype
    )


def bert_trunk(
    params: Params,
    ids: jax.Array,
    config: BertConfig,
    *,
    layers: int,
    mask: jax.Array | None = None,
    key: jax.Array | None = None,
    scan: bool = False,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Embeddings and the first `layers` layers: [B, L] -> [B, L, D]. Arguments as in `bert`."""
    word_key = None if key is None else jax.random.fold_in(key, config.layers)
    x = embed(params, ids, config, key=word_key, dtype=dtype)
    return run_layers(
        params,
        x,
        config.layer,
        mask=mask,
        key=key,
        span=range(layers),
        scan=scan,
        dtype=dtype,
    )


def bert_head(
    params: Params,
    x: jax.Array,
    config: BertConfig,
    *,
    first: int,
    mask: jax.Array | None = None,
    key: jax.Array | None = None,
    scan: bool = False,
    remat: bool = False,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Layers first, first + 1, ...: [B, L, D] -> [B, L, D]. Arguments as in `bert`."""
    return run_layers(
        params,
        x,
        config.layer,
        mask=mask,
        key=key,
        span=range(first, config.layers),
        scan=scan,
        remat=remat,
        dtype=dtype,
    )
