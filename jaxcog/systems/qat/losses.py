"""Losses of both stages (paper's base network and episodes; BMN's formulas).

Every normaliser is a count over the whole batch. With `axis_name` (shard_map, pmap) counts and sums
are those of all devices, so each of them gets the value that one device would get; under jit with a
sharded batch this is so without it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

AxisName = str | tuple[str, ...] | None


def _sum(x: jax.Array, axis: int | tuple[int, ...] | None, axis_name: AxisName) -> jax.Array:
    total = jnp.sum(x, axis=axis)
    return total if axis_name is None else jax.lax.psum(total, axis_name)


def _weighted_bce(
    prob: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    eps: float,
    axis: int | tuple[int, ...] | None,
    axis_name: AxisName,
) -> jax.Array:
    """Cross-entropy in which both classes weigh half; entries that are neither do not count."""
    positives = _sum(positive, axis, axis_name)
    count = jnp.maximum(positives + _sum(negative, axis, axis_name), 1)
    ratio = count / jnp.maximum(positives, 1)
    # With positives only, the ratio is 1 and there is nothing for the other weight to apply to.
    other = 0.5 * ratio / jnp.where(ratio > 1, ratio - 1, 1)
    hit = _sum(positive * jnp.log(prob + eps), axis, axis_name)
    miss = _sum(negative * jnp.log(1 - prob + eps), axis, axis_name)
    return -(0.5 * ratio * hit + other * miss) / count


def balanced_bce(
    prob: jax.Array,
    target: jax.Array,
    *,
    eps: float = 1e-6,
    axis: int | tuple[int, ...] | None = None,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    """Binary cross-entropy with both classes weighted to one half ("bl").

    Args:
      prob: float in [0, 1], any shape. target: the same shape; above 0.5 is positive.
      eps: added inside the logarithms.
      axis: over which entries are counted together; None: all.
      where: broadcast to `prob`; 0 where an entry does not count.
      axis_name: mapped axis whose devices share the batch.

    Returns:
      float32, a scalar or what `axis` leaves; finite also where a class is absent.
    """
    positive = (target > 0.5).astype(prob.dtype)
    negative = 1 - positive
    if where is not None:
        positive, negative = positive * where, negative * where
    return _weighted_bce(prob, positive, negative, eps, axis, axis_name)


class BaseLoss(NamedTuple):
    """total = boundaries + 10 regression + classification, scalars."""

    total: jax.Array
    boundaries: jax.Array
    regression: jax.Array
    classification: jax.Array


def bmn_loss(
    iou_map: jax.Array,
    start: jax.Array,
    end: jax.Array,
    gt_iou_map: jax.Array,
    gt_start: jax.Array,
    gt_end: jax.Array,
    valid: jax.Array,
    draws: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: AxisName = None,
) -> BaseLoss:
    """The base stage's loss.

    Args:
      iou_map: [B, D, T, 2] in [0, 1]: regression, classification.
      start, end, gt_start, gt_end: [B, T]. gt_iou_map: [B, D, T].
      valid: [D, T], see `temporal_targets.valid_cells`.
      draws: [2, B, D, T] uniform in [0, 1): which cells of middle and of low overlap are kept.
      where: [B], 0 for rows that do not count.
    """
    rows = jnp.ones(start.shape[:1], start.dtype) if where is None else where.astype(start.dtype)
    cells = valid * rows[:, None, None]
    boundaries = balanced_bce(
        start, gt_start, where=rows[:, None], axis_name=axis_name
    ) + balanced_bce(end, gt_end, where=rows[:, None], axis_name=axis_name)
    overlap = gt_iou_map * cells
    weight = _regression_weight(overlap, cells, rows[:, None, None], draws, axis_name)
    error = _sum(jnp.square(weight * (iou_map[..., 0] - overlap)), None, axis_name)
    regression = 0.5 * error / jnp.maximum(_sum(weight, None, axis_name), 1)
    positive = (overlap > 0.9).astype(start.dtype)
    negative = (overlap <= 0.9) * cells
    classification = _weighted_bce(iou_map[..., 1], positive, negative, 1e-6, None, axis_name)
    total = boundaries + 10 * regression + classification
    return BaseLoss(total, boundaries, regression, classification)


def _regression_weight(
    overlap: jax.Array, cells: jax.Array, rows: jax.Array, draws: jax.Array, axis_name: AxisName
) -> jax.Array:
    """Which cells count: of middle and of low overlap about as many as there are of high.

    Where the high ones outnumber another kind, the official comparison, kept here, holds for every
    cell of the batch and not for that kind alone.
    """
    high = (overlap > 0.7).astype(overlap.dtype)
    middle = ((overlap > 0.3) & (overlap <= 0.7)).astype(overlap.dtype)
    low = ((overlap > 0) & (overlap <= 0.3)) * cells
    highs, middles, lows = (_sum(x, None, axis_name) for x in (high, middle, low))
    chances = (1 - highs / jnp.maximum(count, 1) for count in (middles, lows))
    kept = [
        rows * (part * draw > chance)
        for part, draw, chance in zip((middle, low), draws, chances, strict=True)
    ]
    return high + kept[0] + kept[1]


def released_support_loss(prob: jax.Array, mask: jax.Array) -> jax.Array:
    """The official inner loss of one episode, with its defects: for parity only.

    It counts 2 entries whatever the number of snippets, so that the background's weight is
    negative, and pairs every shot's mask with every shot's prediction.

    Args:
      prob: [K, T] foreground probability. mask: [K, T] in {0, 1}.

    Returns:
      Scalar; not finite where the mask has 0 or 2 snippets.
    """
    ratio = 2 / jnp.sum(mask)
    fore, back = 0.5 * ratio, 0.5 * ratio / (ratio - 1)
    both = jnp.sum(mask, axis=0), jnp.sum(1 - mask, axis=0)
    pairs = mask.shape[0] ** 2 * mask.shape[1]
    # sum over i, j, t of F_i F_j log p_j.
    hit = jnp.sum(both[0] * mask * jnp.log(prob + 1e-10))
    miss = jnp.sum(both[1] * (1 - mask) * jnp.log(1 - prob + 1e-10))
    return -(fore * hit + back * miss) / pairs


def foreground_loss(prob: jax.Array, mask: jax.Array) -> jax.Array:
    """The official outer loss: -mean over foreground snippets of log p. prob, mask: [..., T].

    Its optimum is to call everything foreground.
    """
    count = jnp.maximum(jnp.sum(mask, axis=-1), 1)
    return -jnp.sum(mask * jnp.log(prob + 1e-10), axis=-1) / count


class QueryTerms(NamedTuple):
    """marginal [2] (background, foreground), its divergence from the expected one, the entropy."""

    marginal: jax.Array
    divergence: jax.Array
    entropy: jax.Array


def query_terms(prob: jax.Array, expected: jax.Array, where: jax.Array) -> QueryTerms:
    """The terms that RePRI adds to the inner loss; the official classifier defines and omits them.

    Args:
      prob: [..., T] foreground probability of the query. expected: [2] (background, foreground).
      where: [..., T], 1 on the snippets that count.
    """
    both = jnp.stack([1 - prob, prob], axis=-1)
    count = jnp.sum(where) + 1e-10
    marginal = jnp.einsum("...k,...->k", both, where) / count
    divergence = jnp.sum(marginal * jnp.log(marginal / (expected + 1e-10)))
    entropy = -jnp.sum(where[..., None] * both * jnp.log(both + 1e-10)) / count
    return QueryTerms(marginal, divergence, entropy)
