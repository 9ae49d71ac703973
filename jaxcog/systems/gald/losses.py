"""The loss of a main and an auxiliary head."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcog.losses.segmentation import (
    IGNORE,
    AxisName,
    hard_pixels,
    upsampled_cross_entropy,
    weighted_mean,
)


def segmentation_loss(
    main: jax.Array,
    auxiliary: jax.Array | None,
    labels: jax.Array,
    *,
    auxiliary_weight: float = 0.4,
    ohem: bool = True,
    thresh: float = 0.7,
    min_kept: int = 100_000,
    per_images: int | None = None,
    class_weights: Sequence[float] | jax.Array | None = None,
    ignore: int = IGNORE,
    rows: int | None = None,
    shards: int = 1,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """OHEM cross-entropy of the main head + auxiliary_weight * cross-entropy of the auxiliary one.

    Args:
      main, auxiliary: [N, h, w, K] float at the trunk's stride; resized to the labels' size here.
      labels: [N, H, W] int, 0..K-1 or `ignore`.
      ohem: whether the main head's mean is over hard pixels only; see `hard_pixels`.
      thresh, min_kept: of the selection.
      per_images: select, and average, over so many images at a time, then average the groups; the
        official code does both on each GPU, which holds 1 image, so that 1 gives its numbers on any
        mesh. None: over the whole batch.
      class_weights: [K], for both heads.
      rows, shards: see `upsampled_cross_entropy`.
      axis_name: mapped axis whose devices share one batch; with it `per_images` must be None.

    Returns:
      float32 scalar.

    Raises:
      ValueError: `per_images` does not divide N, or is combined with `axis_name`.
    """
    n = labels.shape[0]
    size = n if per_images is None else per_images
    if n % size or (per_images is not None and axis_name is not None):
        raise ValueError(
            f"segmentation_loss: per_images={per_images} must divide the batch of {n}, and be None "
            "under axis_name"
        )

    def mean(logits: jax.Array, mine: bool) -> jax.Array:
        losses = upsampled_cross_entropy(logits, labels, ignore=ignore, rows=rows, shards=shards)

        def group(losses: jax.Array, labels: jax.Array) -> jax.Array:
            if mine:
                kept = hard_pixels(
                    losses,
                    labels,
                    thresh=thresh,
                    min_kept=min_kept,
                    ignore=ignore,
                    axis_name=axis_name,
                )
                labels = jnp.where(kept, labels, ignore)
            return weighted_mean(
                losses, labels, ignore=ignore, class_weights=class_weights, axis_name=axis_name
            )

        if size == n:
            return group(losses, labels)
        grouped = [x.reshape(n // size, size, *x.shape[1:]) for x in (losses, labels)]
        return jnp.mean(jax.vmap(group)(*grouped))

    loss = mean(main, ohem)
    if auxiliary is not None:
        loss = loss + auxiliary_weight * mean(auxiliary, False)
    return loss
