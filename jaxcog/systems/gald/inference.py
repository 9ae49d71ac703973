"""Logits for whole images: at once, by sliding windows, over several scales and mirrored."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.nn.resize import Size, resize_bilinear_align_corners

Apply = Callable[[jax.Array], jax.Array]
"""Normalised images [N, H, W, 3] -> logits [N, h, w, K] at any stride."""


def tile_starts(size: int, tile: int, stride: int) -> tuple[int, ...]:
    """Where windows of `tile` start along `size` pixels; the last ones are shifted back inside."""
    count = max(math.ceil((size - tile) / stride), 0) + 1
    return tuple(max(min(i * stride, size - tile), 0) for i in range(count))


def whole_logits(apply: Apply, images: jax.Array, size: Size | None = None) -> jax.Array:
    """[N, H, W, 3] -> [N, *size, K], resized with aligned corners; to the images' size if None."""
    return resize_bilinear_align_corners(apply(images), size or images.shape[1:3])


def sliding_window_logits(
    apply: Apply,
    image: jax.Array,
    tile: int | tuple[int, int],
    overlap: float = 1 / 3,
    flip: bool = False,
) -> jax.Array:
    """Logits averaged over overlapping windows.

    Windows start ceil(tile_height * (1 - overlap)) pixels apart in both directions, the last ones
    are moved back inside, and an image smaller than the window is padded with zeros. One window
    at a time runs through the network, so that it is compiled once and memory is that of a window.

    Args:
      apply: see Apply.
      image: [H, W, 3], or a batch [N, H, W, 3], normalised.
      tile: side, or (height, width), of the window.
      overlap: share of a window that the next one covers again.
      flip: average with the mirrored window.

    Returns:
      [H, W, K] float32, or [N, H, W, K].

    Raises:
      ValueError: overlap is not in [0, 1).
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"sliding_window_logits: overlap={overlap} must lie in [0, 1)")
    images = image if image.ndim == 4 else image[None]
    height, width = images.shape[1:3]
    tall, wide = (tile, tile) if isinstance(tile, int) else tile
    # In whole pixels of the official code: 832 * 2 / 3 rounded up.
    stride = math.ceil(round(tall * (1 - overlap), 6))
    pad = (max(tall - height, 0), max(wide - width, 0))
    images = jnp.pad(images, ((0, 0), (0, pad[0]), (0, pad[1]), (0, 0)))
    size = images.shape[1:3]
    places = [
        (y, x)
        for y in tile_starts(size[0], tall, stride)
        for x in tile_starts(size[1], wide, stride)
    ]
    counts = np.zeros((*size, 1), np.float32)
    for y, x in places:
        counts[y : y + tall, x : x + wide] += 1
    run = _runner(apply, None, flip)
    window = (images.shape[0], tall, wide, images.shape[3])
    shape = jax.eval_shape(run, jax.ShapeDtypeStruct(window, images.dtype))

    def add(total: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
        corner = (0, place[0], place[1], 0)
        logits = run(jax.lax.dynamic_slice(images, corner, window)).astype(jnp.float32)
        part = jax.lax.dynamic_slice(total, corner, logits.shape)
        return jax.lax.dynamic_update_slice(total, part + logits, corner), None

    total = jnp.zeros((images.shape[0], *size, shape.shape[-1]), jnp.float32)
    total, _ = jax.lax.scan(add, total, jnp.asarray(places, jnp.int32))
    mean = (total / counts)[:, :height, :width]
    return mean if image.ndim == 4 else mean[0]


def multiscale_logits(
    apply: Apply,
    image: jax.Array,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    *,
    tile: int | tuple[int, int] | None = None,
    overlap: float = 1 / 3,
) -> jax.Array:
    """Logits averaged over scales (and mirroring), each resized back to the image's size.

    Args:
      apply, overlap, flip: as in `sliding_window_logits`.
      image: [H, W, 3], or a batch [N, H, W, 3], normalised.
      scales: factors on the size (rounded), bilinear with aligned corners.
      tile: slide a window over each scaled image; None: whole images.

    Returns:
      [H, W, K] float32, or [N, H, W, K].

    Raises:
      ValueError: no scale.
    """
    images = image if image.ndim == 4 else image[None]
    size = images.shape[1:3]
    total = None
    for scale in scales:
        scaled = resize_bilinear_align_corners(images, tuple(round(n * scale) for n in size))
        if tile is None:
            # Straight to the full size: not over the scaled one, which would smooth twice.
            logits = _runner(apply, size, flip)(scaled)
        else:
            logits = sliding_window_logits(apply, scaled, tile, overlap, flip)
        logits = resize_bilinear_align_corners(logits.astype(jnp.float32), size)
        total = logits if total is None else total + logits
    if total is None:
        raise ValueError("multiscale_logits: name at least one scale")
    mean = total / len(scales)
    return mean if image.ndim == 4 else mean[0]


def _runner(apply: Apply, size: Size | None, flip: bool) -> Apply:
    """`whole_logits` of one size; with `flip` averaged with those of the mirrored images."""

    def plain(x: jax.Array) -> jax.Array:
        return whole_logits(apply, x, size)

    def averaged(x: jax.Array) -> jax.Array:
        return 0.5 * (plain(x) + plain(x[:, :, ::-1])[:, :, ::-1])

    return averaged if flip else plain
