"""The largest and the smallest entry, with a gradient that goes to exactly one entry.

The gradient of `jnp.max` asks which entries equal the maximum. A compiler may compute the entries
once more for that question and round them otherwise (a fused multiply-add, wider registers than
bfloat16): then none is equal, and the gradient is 0/0. Here the place is chosen, and
no value is looked for.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def largest(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.max(x, axis)`; the gradient goes to the first of equal entries, as in PyTorch."""
    return _at(x, jnp.argmax(x, axis, keepdims=True), axis)


def smallest(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.min(x, axis)`; the gradient goes to the first of equal entries, as in PyTorch."""
    return _at(x, jnp.argmin(x, axis, keepdims=True), axis)


def larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.maximum(a, b)`; the gradient goes to one of them, to `a` where they are equal."""
    return jnp.where(b > a, b, a)


def _at(x: jax.Array, place: jax.Array, axis: int) -> jax.Array:
    here = jax.lax.broadcasted_iota(place.dtype, x.shape, axis % x.ndim) == place
    return jnp.sum(jnp.where(here, x, 0), axis)
