"""Contrastive losses whose logits are computed a block of columns at a time.

Every loss here returns one value per row and leaves averaging to the caller. Inside `shard_map` or
`pmap`, `axis_name` names the axis (or axes) whose devices share one batch: rows are then those of
the device, and the values are the same as on one device. No matrix of all rows against all columns
is ever held: blocks are reduced as they come, and computed again for the gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxcog.nn.precision import at_least_float32

AxisName = str | tuple[str, ...] | None
Scalar = float | jax.Array

_FLOOR = -1e30  # instead of -inf, whose differences are NaN


def unit(x: jax.Array, eps: float = 1e-12) -> jax.Array:
    """x / max(||x||, eps) over the last axis, at least float32; the gradient at 0 is finite."""
    x = at_least_float32(x)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, eps * eps))


def blockwise_logsumexp(
    query: jax.Array,
    keys: jax.Array,
    scale: Scalar = 1.0,
    *,
    where: jax.Array | None = None,
    query_ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    block: int = 4096,
) -> jax.Array:
    """log sum_j exp(scale * <query_i, keys_j>), with temporaries of [B, block] both ways.

    Args:
      query: [B, D] float.
      keys: [K, D] float.
      scale: inverse temperature.
      where: [K] bool, the columns that count; None: all.
      query_ids, key_ids: [B] and [K] integers; a column of the row's own id does not count.
      block: columns at once; the last block is padded and masked.

    Returns:
      [B] float32 (or wider); about -1e30 for rows where no column counts.
    """
    _check_pair("blockwise_logsumexp", query, keys, same_rows=False)
    if (query_ids is None) != (key_ids is None):
        raise ValueError("blockwise_logsumexp: give both of query_ids and key_ids, or neither")
    count = keys.shape[0]
    block = min(block, count)
    keep = jnp.ones(count, bool) if where is None else where
    columns = [keys, keep] if key_ids is None else [keys, keep, key_ids]

    @jax.checkpoint
    def step(carry: Any, item: Any) -> tuple[Any, None]:
        top, total = carry
        scores = scale * _products(query, item[0])
        counted = item[1]
        if query_ids is not None:
            counted = counted & (query_ids[:, None] != item[2])
        scores = jnp.where(counted, scores, _FLOOR)
        # The maximum only keeps the exponentials in range; no gradient passes through it.
        new_top = jax.lax.stop_gradient(jnp.maximum(top, jnp.max(scores, axis=1)))
        weights = jnp.where(counted, jnp.exp(scores - new_top[:, None]), 0.0)
        return (new_top, total * jnp.exp(top - new_top) + jnp.sum(weights, axis=1)), None

    first = _products(query, keys[:1])[:, 0]  # of the right type, and varying as the rows do
    start = (jnp.full_like(first, _FLOOR), jnp.zeros_like(first))
    if count == block:
        (top, total), _ = step(start, columns)
    else:
        (top, total), _ = jax.lax.scan(step, start, [_blocks(x, block) for x in columns])
    return jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1.0)), _FLOOR)


def info_nce(
    image: jax.Array,
    text: jax.Array,
    *,
    scale: Scalar,
    ids: jax.Array | None = None,
    where: jax.Array | None = None,
    block: int = 4096,
    axis_name: AxisName = None,
) -> jax.Array:
    """Symmetric InfoNCE in the batch (CLIP): row i of both is the positive pair.

    Args:
      image, text: [B, D] float, of unit norm.
      scale: inverse temperature, fixed or learned.
      ids: [B] integers; two rows of one id (duplicates) are not each other's negatives.
      where: [B] bool, False for padding rows.
      block: columns at once.
      axis_name: see the module.

    Returns:
      [B] float32, the mean of both directions, 0 where masked.

    Raises:
      ValueError: shapes differ or are not [B, D].
    """
    _check_pair("info_nce", image, text)
    keep = jnp.ones(image.shape[0], bool) if where is None else where
    # Every row is its own id unless told otherwise, so that its positive is added only once.
    ids = row_numbers(image.shape[0], axis_name) if ids is None else ids
    images, texts, keeps, all_ids = gathered((image, text, keep, ids), axis_name)
    positive = scale * _paired(image, text)

    def one_way(query: jax.Array, keys: jax.Array) -> jax.Array:
        others = blockwise_logsumexp(
            query, keys, scale, where=keeps, query_ids=ids, key_ids=all_ids, block=block
        )
        return jnp.logaddexp(positive, others) - positive

    return jnp.where(keep, 0.5 * (one_way(image, texts) + one_way(text, images)), 0.0)


def queue_info_nce(
    query: jax.Array,
    positive: jax.Array,
    queue: jax.Array,
    *,
    scale: Scalar,
    where: jax.Array | None = None,
    ids: jax.Array | None = None,
    queue_ids: jax.Array | None = None,
    includes_positive: bool = False,
    block: int = 4096,
    axis_name: AxisName = None,
) -> jax.Array:
    """InfoNCE of one positive key against a queue of negatives (MoCo), in one direction.

    With `axis_name` the queue is split over the devices. Queries are gathered (their gradient is
    scattered back), every device scores all of them against its own part of the queue, and only the
    sums are combined: N * D numbers travel, not K * D. For a replicated queue leave it out.

    Args:
      query, positive: [B, D] float, of unit norm; pass keys through `stop_gradient`.
      queue: [K, D], or the device's rows of it.
      scale: inverse temperature.
      where: [K] bool, the entries that count as negatives.
      ids, queue_ids: [B] and [K] integers; entries of the row's own id are no negatives.
      includes_positive: the queue holds the positives already (they were enqueued first), so they
        are not added to the denominator again. With `ids` they are found by their id.
      block: entries at once.
      axis_name: see above.

    Returns:
      [B] float32, -log of the positive's share of the softmax.
    """
    _check_pair("queue_info_nce", query, positive)
    rows = query.shape[0]
    everyone, every_id = gathered((query, ids), axis_name)
    total = blockwise_logsumexp(
        everyone,
        queue,
        scale,
        where=where,
        query_ids=every_id,
        key_ids=None if ids is None else queue_ids,
        block=block,
    )
    if axis_name is not None:
        top = jax.lax.stop_gradient(jax.lax.pmax(jax.lax.stop_gradient(total), axis_name))
        total = top + jnp.log(jax.lax.psum(jnp.exp(total - top), axis_name))
        total = jax.lax.dynamic_slice_in_dim(total, axis_index(axis_name) * rows, rows)
    own = scale * _paired(query, positive)
    if includes_positive and ids is None:
        return total - own
    return jnp.logaddexp(own, total) - own


def sigmoid_loss(
    image: jax.Array,
    text: jax.Array,
    *,
    scale: Scalar,
    bias: Scalar,
    ids: jax.Array | None = None,
    block: int = 4096,
    axis_name: AxisName = None,
) -> jax.Array:
    """Pairwise sigmoid loss (SigLIP): every pair is a decision of its own, match or no match.

    No softmax joins the columns, so under `axis_name` texts travel around the ring of devices, and
    a device holds no more than two parts of them.

    Args:
      image, text: [B, D] float, of unit norm; row i of both match.
      scale, bias: of the logits scale * <x_i, y_j> + bias, usually learned (from 10 and -10).
      ids: [B] integers; pairs of one id off the diagonal are left out.
      block: columns at once.
      axis_name: see the module.

    Returns:
      [B] float32: for each image the sum over all texts of -log sigmoid(+-logit).
    """
    _check_pair("sigmoid_loss", image, text)
    ids = row_numbers(image.shape[0], axis_name) if ids is None else ids
    block = min(block, image.shape[0])
    keep = jnp.ones_like(ids, bool)

    def against(texts: jax.Array, text_ids: jax.Array) -> jax.Array:
        """Sum over these texts of -log sigmoid(-logit), where ids differ: [B]."""

        @jax.checkpoint
        def step(total: jax.Array, item: Any) -> tuple[jax.Array, None]:
            logits = scale * _products(image, item[0]) + bias
            counted = item[2] & (ids[:, None] != item[1])
            return total + jnp.sum(jnp.where(counted, jax.nn.softplus(logits), 0.0), axis=1), None

        start = jnp.zeros_like(_paired(image, image))
        items = [_blocks(x, block) for x in (texts, text_ids, keep)]
        return jax.lax.scan(step, start, items)[0]

    total = against(text, ids)
    if axis_name is not None:
        size = jax.lax.axis_size(axis_name)
        ring = [(i, (i + 1) % size) for i in range(size)]

        def turn(carry: Any, _: None) -> tuple[Any, None]:
            total, parts = carry
            parts = jax.tree.map(lambda x: jax.lax.ppermute(x, axis_name, ring), parts)
            return (total + against(*parts), parts), None

        (total, _), _ = jax.lax.scan(turn, (total, (text, ids)), length=size - 1)
    return total + jax.nn.softplus(-(scale * _paired(image, text) + bias))


def gathered(tree: Any, axis_name: AxisName) -> Any:
    """Every array's rows from all devices of the axis, in order; the tree itself without one."""
    if axis_name is None:
        return tree
    gather = functools.partial(jax.lax.all_gather, axis_name=axis_name, tiled=True)
    return jax.tree.map(gather, tree)


def axis_index(axis_name: AxisName) -> jax.Array | int:
    """This device's place along the axis (or axes, the first varying slowest); 0 without one."""
    return 0 if axis_name is None else jax.lax.axis_index(axis_name)


def row_numbers(rows: int, axis_name: AxisName) -> jax.Array:
    """[rows] int32: which rows of the whole batch this device holds."""
    return axis_index(axis_name) * rows + jnp.arange(rows, dtype=jnp.int32)


def _products(query: jax.Array, keys: jax.Array) -> jax.Array:
    wide = jnp.promote_types(query.dtype, jnp.float32)
    return jnp.einsum("bd,kd->bk", query, keys, preferred_element_type=wide)


def _paired(x: jax.Array, y: jax.Array) -> jax.Array:
    """[B]: products of corresponding rows."""
    return jnp.sum(at_least_float32(x) * at_least_float32(y), axis=1)


def _blocks(x: jax.Array, block: int) -> jax.Array:
    """[K, ...] -> [blocks, block, ...], padded with zeros (False)."""
    count = -(-x.shape[0] // block)
    x = jnp.pad(x, [(0, count * block - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(count, block, *x.shape[1:])


def _check_pair(what: str, a: jax.Array, b: jax.Array, same_rows: bool = True) -> None:
    fits = a.shape == b.shape if same_rows else a.shape[1:] == b.shape[1:]
    if a.ndim != 2 or b.ndim != 2 or not fits:
        kind = "both be [B, D]" if same_rows else "be [B, D] and [K, D]"
        raise ValueError(f"{what}: the arrays must {kind}, got {a.shape} and {b.shape}")
