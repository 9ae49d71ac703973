"""The one loss of OrthoHash (paper, section 3), and what tells how good continuous codes are.

v [B, K] are continuous codes, O [C, K] is the codebook of +-1, u [B, C] = cos(v, O) are the logits.
All arithmetic is float32.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

MarginType = Literal["cos", "arc"]
MultiLabelLoss = Literal["label_smoothing", "bce", "imbalance"]
QuantizationKind = Literal["cs", "l1", "l2"]

_TINY_NORM = 1e-12
_ARC_LIMIT = 0.99999


def unit(x: jax.Array) -> jax.Array:
    """Rows of `x` scaled to length 1, in float32; a zero row stays zero, with zero gradient."""
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    zero = square <= _TINY_NORM**2
    return jnp.where(zero, 0.0, x * jax.lax.rsqrt(jnp.where(zero, 1.0, square)))


def cosine_logits(codes: jax.Array, codebook: jax.Array) -> jax.Array:
    """Cosine similarities of codes and codebook rows.

    Args:
      codes: [B, K] float, continuous codes.
      codebook: [C, K], constant (int8 or float).

    Returns:
      [B, C] float32 in [-1, 1].

    Raises:
      ValueError: codes and codebook have different numbers of bits.
    """
    if codes.ndim != 2 or codebook.ndim != 2 or codes.shape[1] != codebook.shape[1]:
        raise ValueError(
            f"cosine_logits: codes [B, K] and codebook [C, K] needed, got {codes.shape} and "
            f"{codebook.shape}"
        )
    rows = unit(jax.lax.stop_gradient(codebook))
    # The margin loss works on differences of cosines that reduced-precision products would blur.
    return jnp.dot(unit(codes), rows.T, precision=jax.lax.Precision.HIGHEST)


def _mean(values: jax.Array, where: jax.Array | None, axis_name: str | None) -> jax.Array:
    """Mean of values [B] over unmasked rows (of all devices); 0 if there are none."""
    keep = jnp.ones(values.shape, bool) if where is None else where
    total, count = jnp.sum(values, where=keep), jnp.sum(keep, dtype=jnp.float32)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1.0)


def _is_target(labels: jax.Array, shape: tuple[int, ...], multi_label: bool) -> jax.Array:
    """Bool [B, C]: where the margin applies."""
    if multi_label:
        if labels.shape != shape:
            raise ValueError(
                f"orthohash_loss: multi-hot labels must be {list(shape)}, got {labels.shape}"
            )
        return labels > 0
    if labels.shape != shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"orthohash_loss: labels must be integers [{shape[0]}] (multi_label=True for "
            f"multi-hot ones), got {labels.dtype}{list(labels.shape)}"
        )
    return labels[:, None] == jnp.arange(shape[1])


def margin_logits(
    cos_logits: jax.Array,
    target: jax.Array,
    *,
    scale: float,
    margin: float,
    margin_type: MarginType,
) -> jax.Array:
    """scale * (u - margin) at targets for "cos"; scale * cos(arccos(u) + margin) for "arc".

    cos_logits: [B, C]; target: bool [B, C]. Returns float32 [B, C]. "arc" first clips u to
    +-0.99999, for all classes: arccos has no finite slope at +-1.
    """
    if margin_type == "cos":
        return scale * (cos_logits - margin * target)
    if margin_type != "arc":
        raise ValueError(f'margin_type="{margin_type}": "cos" or "arc"')
    u = jnp.clip(cos_logits, -_ARC_LIMIT, _ARC_LIMIT)
    # cos(arccos(u) + m) by the addition theorem: no inverse function, and exact for m = 0.
    turned = u * jnp.cos(margin) - jnp.sqrt(1 - jnp.square(u)) * jnp.sin(margin)
    return scale * jnp.where(target, turned, u)


def orthohash_loss(
    cos_logits: jax.Array,
    labels: jax.Array,
    *,
    scale: float,
    margin: float,
    margin_type: MarginType = "cos",
    multi_label: bool = False,
    multi_label_loss: MultiLabelLoss = "label_smoothing",
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Softmax cross-entropy over scaled cosines with a margin at the target (paper, eq. 6 to 8).

    Args:
      cos_logits: [B, C] from `cosine_logits`.
      labels: int [B], or with `multi_label` multi-hot [B, C] with at least one 1 per row.
      scale: s > 0; sqrt(K) in the paper.
      margin: m; on the cosine ("cos", CosFace) or on the angle in radians ("arc", ArcFace).
      multi_label_loss: "label_smoothing" is the paper's (the target distribution is uniform over
        the positive classes); "bce" and "imbalance" are its ablations with sigmoids.
      where: [B] bool, False for rows that do not count.
      axis_name: mapped axis over which the batch is split (pmap, shard_map).

    Returns:
      Scalar, the mean over the (global) batch. NaN if a label lies outside 0..C-1: a wrong label
      shall not pass for a sample without a class.

    Raises:
      ValueError: shapes or dtypes that do not fit, or an unknown name.
    """
    target = _is_target(labels, cos_logits.shape, multi_label)
    u = cos_logits.astype(jnp.float32)
    t = margin_logits(u, target, scale=scale, margin=margin, margin_type=margin_type)
    if not multi_label or multi_label_loss == "label_smoothing":
        positives = jnp.sum(target, axis=1)
        wanted = jnp.sum(t, axis=1, where=target) / positives
        rows = jax.nn.logsumexp(t, axis=1) - jnp.where(positives > 0, wanted, jnp.nan)
        return _mean(rows, where, axis_name)
    entries = jax.nn.softplus(t) - t * target
    if multi_label_loss == "bce":
        return _mean(jnp.mean(entries, axis=1), where, axis_name)
    if multi_label_loss != "imbalance":
        raise ValueError(
            f'multi_label_loss="{multi_label_loss}": "label_smoothing", "bce" or "imbalance"'
        )
    wrong = (jax.nn.sigmoid(jax.lax.stop_gradient(t)) >= 0.7) != target
    weight = jnp.where(target | wrong, 1.0, 1.0 / t.shape[1])
    keep = jnp.ones(t.shape[0], bool) if where is None else where
    sums = (
        jnp.sum(entries * weight, where=keep[:, None]),
        jnp.sum(weight, where=keep[:, None]),
    )
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    return sums[0] / (sums[1] + 1e-7)


def sharded_orthohash_loss(
    codes: jax.Array,
    codebook_shard: jax.Array,
    labels: jax.Array,
    axis_name: str,
    *,
    scale: float,
    margin: float,
    margin_type: MarginType = "cos",
    batch_axis_name: str | None = None,
) -> jax.Array:
    """`orthohash_loss` of single labels with the codebook split over `axis_name` by classes.

    Device i holds rows i*C_i .. (i+1)*C_i - 1. Only its own [B, C_i] logits ever exist on a device;
    three numbers per row cross the axis. For use in `jax.shard_map`.

    Args:
      codes: [B, K], the same on all devices of the axis.
      codebook_shard: [C_i, K], this device's rows.
      labels: int [B], global class indices.
      batch_axis_name: axis over which the batch is split, if it is.

    Returns:
      Scalar, the same on all devices of the axis.
    """
    u = cosine_logits(codes, codebook_shard)
    first = jax.lax.axis_index(axis_name) * codebook_shard.shape[0]
    target = _is_target(labels - first, u.shape, multi_label=False)
    t = margin_logits(u, target, scale=scale, margin=margin, margin_type=margin_type)
    top = jax.lax.pmax(jax.lax.stop_gradient(jnp.max(t, axis=1)), axis_name)
    total, wanted, found = jax.lax.psum(
        (
            jnp.sum(jnp.exp(t - top[:, None]), axis=1),
            jnp.sum(t, axis=1, where=target),
            jnp.sum(target, axis=1),
        ),
        axis_name,
    )
    rows = top + jnp.log(total) - jnp.where(found > 0, wanted, jnp.nan)
    return _mean(rows, None, batch_axis_name)


def quantization_error(
    codes: jax.Array,
    kind: QuantizationKind = "cs",
    *,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean distance of continuous codes [B, K] from their own signs, which are held constant.

    kind: "cs" 1 - cos(v, sign v); "l1" |v - sign v|; "l2" its square. For ||v|| = sqrt(K) the
    squared distance is 2K times the first, so the loss of OrthoHash already lowers it.
    """
    v = codes.astype(jnp.float32)
    b = jax.lax.stop_gradient(jnp.sign(v))
    if kind == "cs":
        rows = 1 - jnp.sum(unit(v) * unit(b), axis=1)
    elif kind == "l1":
        rows = jnp.mean(jnp.abs(v - b), axis=1)
    elif kind == "l2":
        rows = jnp.mean(jnp.square(v - b), axis=1)
    else:
        raise ValueError(f'quantization_error kind="{kind}": "cs", "l1" or "l2"')
    return _mean(rows, where, axis_name)


def bit_balance(codes: jax.Array) -> jax.Array:
    """Mean over bits of |P(bit = 1) - 1/2| for codes [B, K]: 0 is balanced, 0.5 is constant."""
    return jnp.mean(jnp.abs(jnp.mean(codes > 0, axis=0) - 0.5))


def bit_correlation(codes: jax.Array) -> jax.Array:
    """Mean absolute correlation of different bits of binary codes [B, K]: 0 is decorrelated.

    A constant bit correlates with nothing.
    """
    b = jnp.where(codes > 0, 1.0, -1.0)
    b = b - jnp.mean(b, axis=0)
    b = unit(b.T)
    correlation = jnp.abs(b @ b.T)
    bits = codes.shape[1]
    return (jnp.sum(correlation) - jnp.trace(correlation)) / (bits * (bits - 1))


def codebook_similarity(codebook: jax.Array) -> jax.Array:
    """Share of equal bits of codebook rows [C, K] of +-1: [C, C], 1/2 where rows are orthogonal."""
    book = codebook.astype(jnp.float32)
    products = jnp.dot(book, book.T, precision=jax.lax.Precision.HIGHEST)
    return 0.5 + 0.5 * products / codebook.shape[1]
