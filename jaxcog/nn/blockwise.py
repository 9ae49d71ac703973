"""Attention whose memory grows with the number of positions, not with its square."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxcog.nn.precision import at_least_float32

_FLOOR = -1e30  # instead of -inf, whose differences are NaN


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def blockwise_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, scale: float = 1.0, block: int = 1024
) -> jax.Array:
    """softmax(scale * query key^T) value, one block of keys at a time.

    The softmax is carried on as a running maximum and sum (Rabe and Staats 2021; Dao et al. 2022),
    and the gradient computes each block's weights again. Temporaries are [N, M, block] both ways.
    Queries keep their sharding; keys and values should be whole on every device.

    Args:
      query: [B, N, D] float.
      key: [B, M, D].
      value: [B, M, E].
      scale: factor on the products.
      block: keys per step; the last block is padded and masked.

    Returns:
      [B, N, E] in the dtype of `value`; products and softmax are float32.
    """
    return _forward(query, key, value, scale, block)[0]


def plain_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, scale: float = 1.0
) -> jax.Array:
    """The same value with the whole [B, N, M] matrix at once."""
    weights = jax.nn.softmax(_products(query, key, scale), axis=-1)
    out = jnp.einsum("bnm,bme->bne", weights, at_least_float32(value))
    return out.astype(value.dtype)


def _products(query: jax.Array, key: jax.Array, scale: float) -> jax.Array:
    wide = jnp.promote_types(query.dtype, jnp.float32)
    return scale * jnp.einsum("bnd,bmd->bnm", query, key, preferred_element_type=wide)


def _zero(*arrays: jax.Array) -> jax.Array:
    """0 that varies over devices where the arrays do, which shard_map asks of a loop's carry."""
    return functools.reduce(jnp.add, [jnp.sum(x[:, :0]) for x in arrays])


def _blocks(x: jax.Array, block: int) -> jax.Array:
    """[B, M, D] -> [blocks, B, block, D], zero-padded."""
    batch, m, depth = x.shape
    count = -(-m // block)
    x = jnp.pad(x, ((0, 0), (0, count * block - m), (0, 0)))
    return jnp.moveaxis(x.reshape(batch, count, block, depth), 1, 0)


def _masked(scores: jax.Array, index: jax.Array, m: int, block: int) -> jax.Array:
    inside = index * block + jnp.arange(block) < m
    return jnp.where(inside, scores, _FLOOR)


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, scale: float, block: int
) -> tuple[jax.Array, jax.Array]:
    batch, n, _ = query.shape
    m = key.shape[1]
    block = min(block, m)
    keys, values = _blocks(key, block), _blocks(value, block)

    def step(carry: Any, item: Any) -> tuple[Any, None]:
        top, total, out = carry
        index, k, v = item
        scores = _masked(_products(query, k, scale), index, m, block)
        new_top = jnp.maximum(top, jnp.max(scores, axis=-1))
        shrink = jnp.exp(top - new_top)
        weights = jnp.exp(scores - new_top[..., None])
        total = total * shrink + jnp.sum(weights, axis=-1)
        part = jnp.einsum("bnm,bme->bne", weights, at_least_float32(v))
        return (new_top, total, out * shrink[..., None] + part), None

    wide = jnp.promote_types(query.dtype, jnp.float32)
    zero = _zero(query, key, value).astype(wide)
    start = (
        jnp.full((batch, n), _FLOOR, wide) + zero,
        jnp.zeros((batch, n), wide) + zero,
        jnp.zeros((batch, n, value.shape[-1]), wide) + zero,
    )
    items = (jnp.arange(keys.shape[0]), keys, values)
    (top, total, out), _ = jax.lax.scan(step, start, items)
    return (out / total[..., None]).astype(value.dtype), top + jnp.log(total)


def _vjp_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, scale: float, block: int
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    out, log_total = _forward(query, key, value, scale, block)
    return out, (query, key, value, out, log_total)


def _vjp_backward(
    scale: float, block: int, saved: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    query, key, value, out, log_total = saved
    m = key.shape[1]
    block = min(block, m)
    keys, values = _blocks(key, block), _blocks(value, block)
    cotangent = at_least_float32(cotangent)
    # sum_m w_nm <dout_n, v_m> is <dout_n, out_n>: the softmax's own correction.
    correction = jnp.sum(cotangent * at_least_float32(out), axis=-1)
    query32 = at_least_float32(query)

    def step(d_query: jax.Array, item: Any) -> tuple[jax.Array, Any]:
        index, k, v = item
        scores = _masked(_products(query, k, scale), index, m, block)
        weights = jnp.exp(scores - log_total[..., None])
        d_value = jnp.einsum("bnm,bne->bme", weights, cotangent)
        d_weights = jnp.einsum("bne,bme->bnm", cotangent, at_least_float32(v))
        d_scores = scale * weights * (d_weights - correction[..., None])
        d_query = d_query + jnp.einsum("bnm,bmd->bnd", d_scores, at_least_float32(k))
        return d_query, (jnp.einsum("bnm,bnd->bmd", d_scores, query32), d_value)

    items = (jnp.arange(keys.shape[0]), keys, values)
    start = jnp.zeros_like(query32) + _zero(query, key, value).astype(query32.dtype)
    d_query, (d_keys, d_values) = jax.lax.scan(step, start, items)

    def whole(blocks: jax.Array, like: jax.Array) -> jax.Array:
        joined = jnp.moveaxis(blocks, 0, 1).reshape(like.shape[0], -1, like.shape[2])
        return joined[:, :m].astype(like.dtype)

    return d_query.astype(query.dtype), whole(d_keys, key), whole(d_values, value)


blockwise_attention.defvjp(_vjp_forward, _vjp_backward)
