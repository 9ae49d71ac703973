"""Pixels and boxes: preprocessing, augmentation, patch grids and pooling over them (sheet 2.2-3.3).

Images are NHWC float32 in [0, 1] until they are normalised. Boxes are [x1, y1, x2, y2] in pixels of
the resized, square image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_LUMA = (0.2989, 0.587, 0.114)

Convention = Literal["official", "aligned", "area"]


def resize(images: jax.Array, size: int, antialias: bool = False) -> jax.Array:
    """[..., H, W, 3] -> [..., size, size, 3] float32: bilinear, the aspect ratio ignored.

    antialias: False as the official features were made; True is better for new training.
    """
    shape = (*images.shape[:-3], size, size, images.shape[-1])
    return jax.image.resize(
        jnp.asarray(images, jnp.float32), shape, "bilinear", antialias=antialias
    )


def to_float(images: jax.Array) -> jax.Array:
    """uint8 [0, 255] -> float32 [0, 1]; floats pass as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    return images


def normalise(images: jax.Array) -> jax.Array:
    """[0, 1] -> mean 0, deviation 1 per channel of ImageNet."""
    return (images - jnp.asarray(MEAN, images.dtype)) / jnp.asarray(STD, images.dtype)


def denormalise(images: jax.Array) -> jax.Array:
    """The inverse of `normalise`."""
    return images * jnp.asarray(STD, images.dtype) + jnp.asarray(MEAN, images.dtype)


def add_noise(key: jax.Array, images: jax.Array, deviation: jax.Array | float) -> jax.Array:
    """Normalised [..., H, W, 3] with noise of brightness, alike in all channels.

    deviation: in [0, 1] as pixels are before they are normalised; broadcast against the images.
    """
    drawn = jax.random.normal(key, (*images.shape[:-1], 1), images.dtype)
    return images + deviation * drawn / jnp.asarray(STD, images.dtype)


def preprocess_image(image: jax.Array, size: int, antialias: bool = False) -> jax.Array:
    """uint8 [..., H, W, 3] -> normalised float32 [..., size, size, 3], as for evaluation."""
    return normalise(resize(to_float(jnp.asarray(image)), size, antialias))


def grayscale(x: jax.Array) -> jax.Array:
    """[..., 3] -> the luma in all three channels."""
    luma = jnp.sum(x * jnp.asarray(_LUMA, x.dtype), axis=-1, keepdims=True)
    return jnp.broadcast_to(luma, x.shape)


def adjust_brightness(x: jax.Array, factor: jax.Array) -> jax.Array:
    """[H, W, 3] times the factor."""
    return jnp.clip(factor * x, 0, 1)


def adjust_contrast(x: jax.Array, factor: jax.Array) -> jax.Array:
    """[H, W, 3] blended with the image's mean grey."""
    return jnp.clip(factor * x + (1 - factor) * jnp.mean(grayscale(x)), 0, 1)


def adjust_saturation(x: jax.Array, factor: jax.Array) -> jax.Array:
    """[H, W, 3] blended with its grey version."""
    return jnp.clip(factor * x + (1 - factor) * grayscale(x), 0, 1)


def adjust_hue(x: jax.Array, turns: jax.Array) -> jax.Array:
    """[H, W, 3] with the hue shifted by so many turns of the colour circle."""
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    top, low = jnp.max(x, axis=-1), jnp.min(x, axis=-1)
    span = top - low
    flat = span == 0
    saturation = span / jnp.where(flat, 1, top)
    divisor = jnp.where(flat, 1, span)
    rc, gc, bc = (top - red) / divisor, (top - green) / divisor, (top - blue) / divisor
    hue = jnp.where(
        top == red,
        bc - gc,
        jnp.where(top == green, 2 + rc - bc, 4 + gc - rc),
    )
    hue = jnp.mod(hue / 6 + 1, 1.0)
    hue = jnp.mod(hue + turns, 1.0)
    sector = jnp.floor(6 * hue)
    part = 6 * hue - sector
    p = jnp.clip(top * (1 - saturation), 0, 1)
    q = jnp.clip(top * (1 - saturation * part), 0, 1)
    t = jnp.clip(top * (1 - saturation * (1 - part)), 0, 1)
    rows = ((top, t, p), (q, top, p), (p, top, t), (p, q, top), (t, p, top), (top, p, q))
    choices = jnp.stack([jnp.stack(row, axis=-1) for row in rows])
    index = jnp.mod(sector.astype(jnp.int32), 6)
    return jnp.take_along_axis(choices, index[None, ..., None], axis=0)[0]


_ADJUST = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def color_jitter(x: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """[H, W, 3] through four adjustments.

    factors: [4] of brightness, contrast, saturation and hue (in turns).
    order: [4] permutation of 0..3, which of them comes first, second, ...
    """
    for place in range(4):
        branches = [lambda x, i=i, f=f: f(x, factors[i]) for i, f in enumerate(_ADJUST)]
        x = jax.lax.switch(order[place], branches, x)
    return x


def augment_image(
    key: jax.Array,
    x: jax.Array,
    jitter: Sequence[float] = (0.4, 0.4, 0.4, 0.1),
    p_jitter: float = 0.8,
    p_gray: float = 0.2,
) -> jax.Array:
    """One image [H, W, 3] in [0, 1], its colours jittered and its colour removed by chance."""
    keys = jax.random.split(key, 5)
    spread = jnp.asarray(jitter, x.dtype)
    centre = jnp.asarray([1, 1, 1, 0], x.dtype)
    factors = centre + spread * jax.random.uniform(keys[0], (4,), x.dtype, -1, 1)
    order = jax.random.permutation(keys[1], 4)
    jittered = color_jitter(x, factors, order)
    x = jnp.where(jax.random.bernoulli(keys[2], p_jitter), jittered, x)
    return jnp.where(jax.random.bernoulli(keys[3], p_gray), grayscale(x), x)


def grid_boxes(size: int, grids: Sequence[int]) -> np.ndarray:
    """float32 [R, 4]: the cells of a g x g grid (down the first column, then the next) for each g.

    The paper's code has grids (6, 1), the later video model (1, 5).
    """
    boxes = []
    for grid in grids:
        cell = size / grid
        boxes += [
            (i * cell, j * cell, (i + 1) * cell, (j + 1) * cell)
            for i in range(grid)
            for j in range(grid)
        ]
    return np.asarray(boxes, np.float32)


def scale_boxes(
    boxes: np.ndarray, width: int, height: int, size: int, max_rois: int
) -> tuple[np.ndarray, np.ndarray]:
    """A detector's boxes for a resized image, then the whole image, then zero boxes.

    Args:
      boxes: [n, 4] in original pixels, the best first; those that do not fit are dropped.
      width, height: of the original.

    Returns:
      (float32 [max_rois, 4], bool [max_rois], True for real boxes).
    """
    factors = np.asarray([size / width, size / height] * 2, np.float32)
    kept = np.asarray(boxes, np.float32)[: max_rois - 1] * factors
    whole = np.asarray([[0, 0, size, size]], np.float32)
    count = len(kept) + 1
    padding = np.zeros((max_rois - count, 4), np.float32)
    return np.concatenate([kept, whole, padding]), np.arange(max_rois) < count


def roi_axis_weights(
    low: jax.Array,
    high: jax.Array,
    cells: int,
    samples: int = 4,
    convention: Convention = "official",
) -> jax.Array:
    """How much each cell of one axis of a feature map counts in a box: [...] -> [..., cells].

    Args:
      low, high: [...] edges of the boxes in units of cells.
      samples: points along the box, of which bilinear samples are averaged (zero outside).
      convention: "official" stretches the points as the official code does, which maps boxes with
        one convention of coordinates and samples with another; "aligned" keeps them inside the box;
        "area" averages each cell by its overlap with the box.
    """
    if convention == "area":
        edges = jnp.arange(cells, dtype=low.dtype)
        overlap = jnp.minimum(high[..., None], edges + 1) - jnp.maximum(low[..., None], edges)
        return jnp.maximum(overlap, 0) / jnp.maximum(high - low, 1e-6)[..., None]
    steps = (2 * jnp.arange(samples, dtype=low.dtype) + 1) / samples - 1
    low, high = low[..., None], high[..., None]
    if convention == "official":
        at = (high - low) / (cells - 1) * steps + (low + high - cells + 1) / (cells - 1)
        points = ((at + 1) * cells - 1) / 2
    else:
        points = (low + high + (high - low) * steps - 1) / 2
    near = 1 - jnp.abs(points[..., None] - jnp.arange(cells, dtype=low.dtype))
    return jnp.mean(jnp.maximum(near, 0), axis=-2)


def roi_pool(
    features: jax.Array,
    boxes: jax.Array,
    image_size: int,
    samples: int = 4,
    convention: Convention = "official",
) -> jax.Array:
    """Mean of `samples` x `samples` bilinear samples of each box: one token a box.

    Sampling and averaging are linear and separate over the axes, so that both are two small matrix
    products; a 1x1 convolution that the official code applies to every sample can follow instead.

    Args:
      features: [B, H, W, C].
      boxes: [B, R, 4] or [1, R, 4] in pixels of an image of `image_size`.

    Returns:
      [B, R, C], in the type of `features`; weights are float32 (or wider).
    """
    height, width = features.shape[1:3]
    scaled = jnp.asarray(boxes, jnp.promote_types(features.dtype, jnp.float32)) / image_size
    across = roi_axis_weights(
        width * scaled[..., 0], width * scaled[..., 2], width, samples, convention
    )
    down = roi_axis_weights(
        height * scaled[..., 1], height * scaled[..., 3], height, samples, convention
    )
    batch = features.shape[0]
    across = jnp.broadcast_to(across, (batch, *across.shape[1:])).astype(features.dtype)
    down = jnp.broadcast_to(down, (batch, *down.shape[1:])).astype(features.dtype)
    return jnp.einsum("brh,brw,bhwc->brc", down, across, features)
