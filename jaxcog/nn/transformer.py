"""The post-norm transformer layer, of BERT and of PyTorch's TransformerEncoder alike."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.forward import forward
from jaxcog.nn.initializers import Initializer, torch_default_bias, torch_default_kernel
from jaxcog.nn.layers import fold_layers, layer_keys
from jaxcog.nn.precision import at_least_float32

Params = Any


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """A layer's hyperparameters.

    heads: must divide the width. hidden: width inside the feed-forward part.
    activation: of that part; "gelu" is the exact one, with erf.
    eps: of both layer norms.
    dropout: of attention weights, and after attention and feed-forward part.
    inner_dropout: also behind the activation, as PyTorch's layer.
    init: "bert": all kernels normal(0.02), biases 0; "torch": PyTorch's TransformerEncoderLayer.
    """

    heads: int
    hidden: int
    activation: Literal["gelu", "relu"] = "gelu"
    eps: float = 1e-12
    dropout: float = 0.1
    inner_dropout: bool = False
    init: Literal["bert", "torch"] = "bert"


class LayerNorm(nn.Module):
    """Layer norm over the last axis, in float32 (or wider) whatever the activations."""

    eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        x = at_least_float32(x)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.eps) * scale + bias).astype(self.dtype)


class PostNormLayer(nn.Module):
    """x <- LN(x + attention(x)); x <- LN(x + W2 act(W1 x)): [B, T, D] -> [B, T, D].

    mask: [B, T] bool or None; keys where it is False get no attention. Random stream "dropout".
    """

    config: LayerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool) -> jax.Array:
        config, width = self.config, x.shape[-1]

        def drop(y: jax.Array) -> jax.Array:
            return nn.Dropout(config.dropout, deterministic=not train)(y)

        def dense(features: int, name: str) -> nn.Dense:
            kernel, bias = _initializers(config.init, name, width, config.hidden)
            return nn.Dense(
                features, dtype=self.dtype, kernel_init=kernel, bias_init=bias, name=name
            )

        def heads(name: str) -> jax.Array:
            y = dense(width, name)(x)
            return y.reshape(*y.shape[:2], config.heads, width // config.heads)

        query, key, value = heads("query"), heads("key"), heads("value")
        wide = jnp.promote_types(self.dtype, jnp.float32)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=wide)
        scores = scores / jnp.sqrt(jnp.asarray(query.shape[-1], wide))
        if mask is not None:
            scores = jnp.where(mask[:, None, None, :], scores, -1e30)
        weights = drop(jax.nn.softmax(scores, axis=-1).astype(self.dtype))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        x = LayerNorm(config.eps, self.dtype, name="norm1")(
            at_least_float32(x) + drop(dense(width, "out")(mixed))
        )
        hidden = dense(config.hidden, "linear1")(x)
        hidden = (
            nn.relu(hidden) if config.activation == "relu" else nn.gelu(hidden, approximate=False)
        )
        hidden = drop(hidden) if config.inner_dropout else hidden
        return LayerNorm(config.eps, self.dtype, name="norm2")(
            at_least_float32(x) + drop(dense(width, "linear2")(hidden))
        )


def init_layers(key: jax.Array, count: int, width: int, config: LayerConfig) -> dict[str, Params]:
    """{"layer_0": ..., ...}, each drawn by itself."""
    one = _initialiser(PostNormLayer(config), width)
    return {f"layer_{i}": one(jax.random.fold_in(key, i)) for i in range(count)}


@functools.cache
def _initialiser(module: PostNormLayer, width: int) -> Any:
    def draw(key: jax.Array) -> Params:
        return module.init(key, jnp.zeros((1, 1, width)), None, train=False)["params"]

    return jax.jit(draw)


@functools.cache
def _layer(module: PostNormLayer) -> Any:
    """(x, mask, params, key) -> x, jitted so that equal layers are traced once."""

    @jax.jit
    def apply(x: jax.Array, mask: Any, params: Params, key: Any) -> jax.Array:
        rngs = None if key is None else {"dropout": key}
        return forward(module, params, x, mask, train=rngs is not None, rngs=rngs)

    return apply


def run_layers(
    params: Mapping[str, Params],
    x: jax.Array,
    config: LayerConfig,
    *,
    mask: jax.Array | None = None,
    key: jax.Array | None = None,
    span: Sequence[int] | None = None,
    scan: bool = False,
    remat: bool = False,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """x [B, T, D] through the layers "layer_0", ... of `params`.

    Args:
      mask: [B, T] bool, False where a token is padding; None: all are real.
      key: for dropout; None: no dropout.
      span: which layers (consecutive numbers); None: all.
      scan, remat: see `fold_layers`.
      dtype: of the arithmetic; norms and softmax are float32.
    """
    span = range(sum(name.startswith("layer_") for name in params)) if span is None else span
    apply = _layer(PostNormLayer(config, dtype))

    def body(x: jax.Array, layer: Any) -> tuple[jax.Array, None]:
        return apply(x, mask, layer["params"], layer["key"]), None

    keys = layer_keys(key, span[0] if len(span) else 0, len(span))
    layers = [{"params": params[f"layer_{i}"], "key": k} for i, k in zip(span, keys, strict=True)]
    return fold_layers(body, x.astype(dtype), layers, scan=scan, remat=remat)[0]


def _initializers(kind: str, name: str, width: int, hidden: int) -> tuple[Initializer, Initializer]:
    zeros = nn.initializers.zeros
    if kind == "bert":
        return nn.initializers.normal(0.02), zeros
    if name in ("query", "key", "value"):  # cut from one Xavier-uniform matrix [3 D, D]
        bound = (6 / (4 * width)) ** 0.5
        return nn.initializers.uniform(2 * bound), zeros
    fan_in = hidden if name == "linear2" else width
    return torch_default_kernel, zeros if name == "out" else torch_default_bias(fan_in)
