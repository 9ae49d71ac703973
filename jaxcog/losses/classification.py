"""Softmax cross-entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcog.nn.precision import at_least_float32


def cross_entropy_per_example(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
    """-log softmax(logits)[label], example by example.

    Args:
      logits: [..., K] float.
      labels: [...] int, 0 <= label < K.
      label_smoothing: e; the target is (1 - e) onehot + e / K (Szegedy et al. 2016).

    Returns:
      [...] float32.

    Raises:
      ValueError: shapes do not fit, or label_smoothing is outside [0, 1].
    """
    _check_shapes(logits, labels)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing={label_smoothing} is outside [0, 1]")
    log_p = jax.nn.log_softmax(at_least_float32(logits))
    loss = -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * jnp.mean(log_p, axis=-1)
    return loss


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float = 0.0,
    mask: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """Mean softmax cross-entropy over the examples that count.

    Args:
      logits: [..., K] float; the device's part of the batch if `axis_name` is given.
      labels: [...] int, 0 <= label < K where `mask` is True (anything elsewhere).
      label_smoothing: see `cross_entropy_per_example`.
      mask: [...] bool, False for examples that do not count; None means all do.
      axis_name: mapped axis whose devices share one batch (pmap, shard_map); None under plain jit.
        Under pmap average gradients over the devices, as for any replicated loss.

    Returns:
      float32 scalar, the same on all devices; 0 if no example counts.

    Raises:
      ValueError: shapes do not fit, or label_smoothing is outside [0, 1].
    """
    _check_shapes(logits, labels)
    if mask is None:
        mask = jnp.ones(labels.shape, bool)
    elif mask.shape != labels.shape:
        raise ValueError(f"cross_entropy: mask {mask.shape} and labels {labels.shape} differ")
    # Masked examples may hold NaN, whose gradient a later multiplication by 0 would not remove.
    logits = jnp.where(mask[..., None], logits, 0)
    loss = cross_entropy_per_example(
        logits, jnp.where(mask, labels, 0), label_smoothing=label_smoothing
    )
    total, count = jnp.sum(loss, where=mask), jnp.sum(mask, dtype=jnp.float32)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1)


def _check_shapes(logits: jax.Array, labels: jax.Array) -> None:
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"cross_entropy: logits {logits.shape} need labels {logits.shape[:-1]}, "
            f"got {labels.shape}"
        )
