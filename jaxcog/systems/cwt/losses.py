"""Losses of the two stages: label smoothing on base classes, balanced binary cross-entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcog.losses.segmentation import IGNORE, AxisName, pixel_cross_entropy, weighted_mean
from jaxcog.nn.precision import at_least_float32


def label_smoothed_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    eps: float = 0.1,
    ignore: int = IGNORE,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Stage 1: mean cross-entropy with 1 - eps on the true class and eps / (K - 1) on each other.

    logits [..., K] and labels [...] of one size; axis_name: mapped axis whose devices share one
    batch. Returns a float32 scalar.
    """
    losses = pixel_cross_entropy(logits, labels, ignore=ignore, label_smoothing=eps)
    return weighted_mean(losses, labels, ignore=ignore, axis_name=axis_name)


def foreground_weight(labels: jax.Array) -> jax.Array:
    """n0 / n1, background pixels per foreground pixel of all of `labels` (0, 1, others ignored).

    Without foreground n1 counts as 1; the weight is then applied to nothing.
    """
    background, foreground = (jnp.sum(labels == c, dtype=jnp.float32) for c in (0, 1))
    return background / jnp.maximum(foreground, 1)


def balanced_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, ignore: int = IGNORE
) -> jax.Array:
    """Two-way cross-entropy in which foreground and background weigh the same.

    Args:
      logits: [..., 2] float. labels: [...] int, 0, 1 or `ignore`: the pixels of one episode (all
        shots), among which the weights [1, n0 / n1] are counted.

    Returns:
      scalar, at least float32: sum(w l) / sum(w); 0 where no pixel counts.
    """
    losses = at_least_float32(pixel_cross_entropy(logits, labels, ignore=ignore))
    weights = jnp.stack([jnp.ones(()), foreground_weight(labels)])
    return weighted_mean(losses, labels, ignore=ignore, class_weights=weights)
