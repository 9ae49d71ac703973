"""Losses over pixels: cross-entropy with an ignore label, online hard example mining (OHEM)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcog.nn.precision import at_least_float32
from jaxcog.nn.resize import align_corners_matrix

AxisName = str | tuple[str, ...]
IGNORE = 255


def pixel_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, ignore: int = IGNORE, label_smoothing: float = 0.0
) -> jax.Array:
    """-log softmax(logits)[label] at each pixel, 0 where the label is `ignore`.

    Args:
      logits: [..., K] float.
      labels: [...] int, 0 <= label < K or `ignore`.
      label_smoothing: e; the target is 1 - e on the true class and e / (K - 1) on each other one.

    Returns:
      [...] float32.

    Raises:
      ValueError: shapes do not fit, or label_smoothing is outside [0, 1).
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"pixel_cross_entropy: logits {logits.shape} need labels {logits.shape[:-1]}, got "
            f"{labels.shape}: resize the logits to the labels' size first"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"pixel_cross_entropy: label_smoothing={label_smoothing}: in [0, 1)")
    valid = labels != ignore
    index = jnp.where(valid, labels, 0).astype(jnp.int32)
    log_p = jax.nn.log_softmax(at_least_float32(logits))
    # A product with one-hot rows instead of a gather, whose gradient would be a scatter.
    own = jax.nn.one_hot(index, logits.shape[-1], dtype=log_p.dtype)
    loss = -jnp.sum(log_p * own, axis=-1)
    if label_smoothing:
        others = -(jnp.sum(log_p, axis=-1) + loss) / (logits.shape[-1] - 1)
        loss = (1 - label_smoothing) * loss + label_smoothing * others
    return jnp.where(valid, loss, 0)


def upsampled_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    ignore: int = IGNORE,
    rows: int | None = None,
    shards: int = 1,
) -> jax.Array:
    """`pixel_cross_entropy` of logits resized bilinearly (aligned corners) to the labels' size.

    The logits at full size (405 MB for one 769 x 769 crop and 171 classes) exist only `rows` rows
    at a time, in the gradient too.

    Args:
      logits: [N, h, w, K] float.
      labels: [N, H, W] int.
      ignore: label that does not count.
      rows: rows of the labels (of each shard) at a time; None: all at once.
      shards: into how many equal parts a mesh splits the height, so that each block has rows of
        every part and no device waits for another.

    Returns:
      [N, H, W] float32.
    """
    n, height, width = labels.shape
    down, across = (align_corners_matrix(*sizes) for sizes in
                    ((height, logits.shape[1]), (width, logits.shape[2])))  # fmt: skip
    wide = at_least_float32(logits)
    precision = jax.lax.Precision.HIGHEST
    if width > logits.shape[2]:
        # Rows first: fewer products, and the width grows inside the block only.
        columns = None
    else:
        columns = jnp.einsum("vw,nhwk->nhvk", across.astype(wide.dtype), wide, precision=precision)

    @jax.checkpoint
    def block(args: tuple[jax.Array, jax.Array]) -> jax.Array:
        matrix, part = args
        if columns is None:
            y = jnp.einsum("rh,nhwk->nrwk", matrix, wide, precision=precision)
            y = jnp.einsum("vw,nrwk->nrvk", across.astype(wide.dtype), y, precision=precision)
        else:
            y = jnp.einsum("rh,nhvk->nrvk", matrix, columns, precision=precision)
        return pixel_cross_entropy(y, part, ignore=ignore)

    per_shard = -(-height // shards)
    if rows is None or rows >= per_shard:
        return block((jnp.asarray(down, wide.dtype), labels))
    count = -(-per_shard // rows)
    padded = shards * count * rows

    def split(x: jax.Array, axis: int, fill: int) -> jax.Array:
        """The rows of `axis` as [count, ..., shards * rows, ...]."""
        x = jnp.moveaxis(x, axis, 0)
        x = jnp.pad(x, [(0, padded - height)] + [(0, 0)] * (x.ndim - 1), constant_values=fill)
        x = x.reshape(shards, count, rows, *x.shape[1:]).swapaxes(0, 1)
        return jnp.moveaxis(x.reshape(count, shards * rows, *x.shape[3:]), 1, axis + 1)

    parts = split(jnp.asarray(down, wide.dtype), 0, 0), split(labels, 1, ignore)
    losses = jax.lax.map(block, parts).swapaxes(1, 2).reshape(count, shards, rows, n, width)
    losses = losses.swapaxes(0, 1).reshape(padded, n, width)[:height]
    return jnp.moveaxis(losses, 0, 1)


def weighted_mean(
    losses: jax.Array,
    labels: jax.Array,
    *,
    ignore: int = IGNORE,
    class_weights: Sequence[float] | jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """sum(w l) / sum(w) over the pixels that count, w being the weight of the pixel's class.

    losses, labels: [...]. class_weights: [K], None for 1. Returns a float32 scalar; 0 if none
    counts. axis_name: mapped axis whose devices share one batch.
    """
    weight = (labels != ignore).astype(losses.dtype)
    if class_weights is not None:
        table = jnp.asarray(class_weights, losses.dtype)
        weight = weight * table[jnp.where(labels != ignore, labels, 0)]
    total, count = jnp.sum(weight * losses), jnp.sum(weight)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.where(count > 0, count, 1)


def kth_smallest(
    values: jax.Array, k: jax.Array | int, axis_name: AxisName | None = None
) -> jax.Array:
    """The k-th smallest (k from 1) of float32 values >= 0, exactly, without sorting.

    The bits of such floats grow with their value, so 31 counts find it; counting splits over
    devices where sorting would not. values: any shape, of this device if `axis_name` is given.
    """
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)

    def narrow(i: jax.Array, found: jax.Array) -> jax.Array:
        trial = found | (jnp.int32(1) << (30 - i).astype(jnp.int32))
        below = jnp.sum(bits < trial, dtype=jnp.int32)
        if axis_name is not None:
            below = jax.lax.psum(below, axis_name)
        return jnp.where(below < k, trial, found)

    # A zero that varies over devices where the values do, which shard_map asks of a loop's carry.
    start = jnp.sum(bits & 0, dtype=jnp.int32)
    if axis_name is not None:
        start = jax.lax.psum(start, axis_name)
    found = jax.lax.fori_loop(0, 31, narrow, start)
    return jax.lax.bitcast_convert_type(found, jnp.float32)


def hard_pixels(
    losses: jax.Array,
    labels: jax.Array,
    *,
    thresh: float = 0.7,
    min_kept: int = 100_000,
    ignore: int = IGNORE,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Which pixels online hard example mining keeps.

    Those whose probability of the true class is at most max(thresh, the min_kept-th smallest); all
    that count where min_kept is 0 or exceeds their number.

    Args:
      losses: [...] cross-entropy per pixel, so that exp(-loss) is the probability.
      labels: [...] int.
      thresh: in [0, 1].
      min_kept: at least so many pixels of the whole batch stay.

    Returns:
      [...] bool, False where the label is `ignore`; nothing is differentiated through it.

    Raises:
      ValueError: thresh or min_kept is out of range.
    """
    if not 0 <= thresh <= 1 or min_kept < 0:
        raise ValueError(f"OHEM: thresh={thresh} must lie in [0, 1], min_kept={min_kept} be >= 0")
    valid = labels != ignore
    if min_kept == 0:
        return valid
    probability = jnp.exp(-jax.lax.stop_gradient(losses))
    probability = jnp.where(valid, probability, 1).astype(jnp.float32)
    count = jnp.sum(valid, dtype=jnp.int32)
    if axis_name is not None:
        count = jax.lax.psum(count, axis_name)
    threshold = jnp.maximum(thresh, kth_smallest(probability, min_kept, axis_name))
    return valid & ((probability <= threshold) | (min_kept > count))


def ohem_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    thresh: float = 0.7,
    min_kept: int = 100_000,
    ignore: int = IGNORE,
    class_weights: Sequence[float] | jax.Array | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Mean cross-entropy over the hard pixels of a batch (Shrivastava et al. 2016; see OCNet).

    logits [..., K] and labels [...] of one size; the rest as in `hard_pixels` and `weighted_mean`.
    Under `axis_name` the selection and the mean are those of all devices together; without it,
    inside shard_map or pmap, of this device (as the official code). Returns a float32 scalar.
    """
    losses = pixel_cross_entropy(logits, labels, ignore=ignore)
    kept = hard_pixels(
        losses, labels, thresh=thresh, min_kept=min_kept, ignore=ignore, axis_name=axis_name
    )
    return weighted_mean(
        losses,
        jnp.where(kept, labels, ignore),
        ignore=ignore,
        class_weights=class_weights,
        axis_name=axis_name,
    )


CITYSCAPES_WEIGHTS = (
    *(0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
    *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
)
"""Weights of the 19 Cityscapes classes in the official code (off by default there and here)."""
