"""From pixels to what a network was trained on; the choice belongs to the checkpoint."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

Pixels = Literal["rgb", "bgr", "raw"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (104.00698793, 116.66876762, 122.67891434)


def normalise(images: Any, window: Any | None, pixels: Pixels) -> jax.Array:
    """Images as a network sees them, zero outside their windows.

    Args:
      images: [N, H, W, 3], RGB 0..255; with "raw" anything.
      window: int [N, 4]: top, bottom, left, right of what is no padding; None: all of it.
      pixels: "rgb": (x / 255 - mean) / std (DGCNet's scripts, torchvision's weights). "bgr": blue
        first, minus the mean, not scaled (GALD's scripts, Caffe-style weights). "raw": as they are.

    Returns:
      [N, H, W, 3] float32.
    """
    x = jnp.asarray(images, jnp.float32)
    if pixels == "rgb":
        x = (x / 255 - jnp.asarray(_MEAN, x.dtype)) / jnp.asarray(_STD, x.dtype)
    elif pixels == "bgr":
        x = x[..., ::-1] - jnp.asarray(_CAFFE_MEAN, x.dtype)
    if window is None:
        return x
    top, bottom, left, right = (jnp.asarray(window)[:, i, None, None, None] for i in range(4))
    row = jnp.arange(x.shape[1])[None, :, None, None]
    column = jnp.arange(x.shape[2])[None, None, :, None]
    inside = (row >= top) & (row < bottom) & (column >= left) & (column < right)
    return jnp.where(inside, x, 0)
