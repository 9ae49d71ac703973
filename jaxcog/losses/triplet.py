"""Triplet losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcog.losses.contrastive import AxisName, gathered, row_numbers
from jaxcog.nn.extremes import largest, smallest
from jaxcog.nn.precision import at_least_float32


def batch_hard_triplet(
    features: jax.Array, ids: jax.Array, *, margin: float = 0.3, axis_name: AxisName = None
) -> jax.Array:
    """Mean over all rows of max(0, margin + farthest positive - nearest negative).

    Hermans et al. 2017, with Euclidean distances of features as they are.

    Args:
      features: [B, D] float; the device's part of the batch if `axis_name` is given.
      ids: [B] int; rows of one id are each other's positives. Each id should occur twice or more,
        and there must be two ids.
      margin: > 0.
      axis_name: mapped axis whose devices share one batch (pmap, shard_map).

    Returns:
      float32 scalar, the same on all devices.

    Raises:
      ValueError: shapes do not fit.
    """
    if features.ndim != 2 or ids.shape != features.shape[:1]:
        raise ValueError(
            f"batch_hard_triplet: features must be [B, D] and ids [B], got {features.shape} and "
            f"{ids.shape}"
        )
    features = at_least_float32(features)
    everyone, every_id = gathered((features, ids), axis_name)
    products = features @ everyone.T
    squares = jnp.sum(features**2, axis=1)[:, None] + jnp.sum(everyone**2, axis=1)[None, :]
    # A row's distance to itself is 0 only up to rounding, and its root would have a huge gradient.
    own = row_numbers(len(ids), axis_name)[:, None] == jnp.arange(len(every_id))[None, :]
    distances = jnp.sqrt(jnp.maximum(jnp.where(own, 0.0, squares - 2 * products), 1e-12))
    same = ids[:, None] == every_id[None, :]
    positive = largest(jnp.where(same, distances, -jnp.inf), axis=1)
    negative = smallest(jnp.where(same, jnp.inf, distances), axis=1)
    loss = jnp.mean(jnp.maximum(0.0, margin + positive - negative))
    return loss if axis_name is None else jax.lax.pmean(loss, axis_name)


def triplet_margin_loss(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    margin: float = 0.2,
    eps: float = 1e-6,
    axis_name: AxisName = None,
) -> jax.Array:
    """Mean of max(0, d(anchor, positive) - d(anchor, negative) + margin).

    d(a, b) = || a - b + eps ||, with eps added to each component: PyTorch's TripletMarginLoss,
    whose gradient is finite where two features are equal.

    Args:
      anchor, positive, negative: [..., D] float, of shapes that broadcast; the device's part of the
        batch if `axis_name` is given.

    Returns:
      float32 scalar, the same on all devices.
    """
    anchor, positive, negative = map(at_least_float32, (anchor, positive, negative))

    def distance(other: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(jnp.square(anchor - other + eps), axis=-1))

    loss = jnp.mean(jnp.maximum(distance(positive) - distance(negative) + margin, 0.0))
    return loss if axis_name is None else jax.lax.pmean(loss, axis_name)
