"""Resizing and pooling to a given size with PyTorch's conventions, as products with matrices.

A matrix product maps well to accelerators, its transpose is its gradient, and the compiler knows
how to split it over devices, none of which holds for a gather.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.nn.precision import at_least_float32

Size = Sequence[int]
"""(height, width)."""


def align_corners_matrix(out_size: int, in_size: int) -> np.ndarray:
    """float64 [out, in]: linear interpolation where first and last samples coincide.

    Row i holds the two weights of source position i * (in - 1) / (out - 1); an output of one
    sample takes the first one.
    """
    step = (in_size - 1) / (out_size - 1) if out_size > 1 else 0.0
    source = np.arange(out_size) * step
    low = np.clip(np.floor(source).astype(int), 0, in_size - 1)
    high = np.minimum(low + 1, in_size - 1)
    fraction = source - low
    matrix = np.zeros((out_size, in_size), np.float64)
    rows = np.arange(out_size)
    np.add.at(matrix, (rows, low), 1 - fraction)
    np.add.at(matrix, (rows, high), fraction)
    return matrix


def adaptive_average_matrix(bins: int, in_size: int) -> np.ndarray:
    """float64 [bins, in]: bin i averages samples floor(i in/bins) .. ceil((i+1) in/bins) - 1."""
    matrix = np.zeros((bins, in_size), np.float64)
    for i in range(bins):
        start, stop = (i * in_size) // bins, -(-((i + 1) * in_size) // bins)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def resize_bilinear_align_corners(x: jax.Array, size: Size) -> jax.Array:
    """Bilinear resize, `F.interpolate(mode="bilinear", align_corners=True)` of PyTorch.

    Args:
      x: [..., H, W, C] float.
      size: (height, width) of the result.

    Returns:
      [..., height, width, C] in the dtype of `x`, interpolated in float32.
    """
    height, width = x.shape[-3:-1]
    if (height, width) == tuple(size):
        return x
    return _apply(x, align_corners_matrix(size[0], height), align_corners_matrix(size[1], width))


def adaptive_avg_pool(x: jax.Array, size: Size) -> jax.Array:
    """Average of size[0] x size[1] windows that cover the map, as `F.adaptive_avg_pool2d`.

    Args:
      x: [..., H, W, C] float.
      size: number of windows along height and width; neighbours overlap where it does not divide.

    Returns:
      [..., size[0], size[1], C] in the dtype of `x`, averaged in float32.
    """
    height, width = x.shape[-3:-1]
    return _apply(
        x, adaptive_average_matrix(size[0], height), adaptive_average_matrix(size[1], width)
    )


def average_pool(x: jax.Array, window: int) -> jax.Array:
    """Means over windows of side `window`, summed in float32; what does not fill one is left out.

    [B, H, W, C] -> [B, H // window, W // window, C]. As a window: with two more axes, and a mean
    over these, it takes a TPU five times the cycles.
    """
    if window == 1:
        return x
    sides = (1, window, window, 1)
    total = jax.lax.reduce_window(at_least_float32(x), 0.0, jax.lax.add, sides, sides, "VALID")
    return (total / window**2).astype(x.dtype)


def max_pool_ceil(x: jax.Array, window: int = 3, stride: int = 2, pad: int = 1) -> jax.Array:
    """Max pooling with `ceil_mode=True`: a window that only partly lies on the map counts too.

    x: [N, H, W, C]; the result has ceil((n + 2 pad - window) / stride) + 1 rows and columns, but
    no window that would start in the padding on the far side (PyTorch's rule).
    """

    def far_side(n: int) -> int:
        out = -(-(n + 2 * pad - window) // stride) + 1
        if (out - 1) * stride >= n + pad:
            out -= 1
        return max((out - 1) * stride + window - n - pad, 0)

    padding = tuple((pad, far_side(n)) for n in x.shape[1:3])
    return nn.max_pool(x, (window, window), (stride, stride), padding)


def _apply(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    # Full precision: the weights are differences of positions, and rounding them to bfloat16 would
    # shift the map. Columns first or rows first, whichever handles less data.
    y = at_least_float32(x)
    precision = jax.lax.Precision.HIGHEST

    def along_rows(y: jax.Array) -> jax.Array:
        return jnp.einsum("oh,...hwc->...owc", rows.astype(y.dtype), y, precision=precision)

    def along_columns(y: jax.Array) -> jax.Array:
        return jnp.einsum("ow,...hwc->...hoc", columns.astype(y.dtype), y, precision=precision)

    if rows.shape[0] * columns.shape[1] <= rows.shape[1] * columns.shape[0]:
        y = along_columns(along_rows(y))
    else:
        y = along_rows(along_columns(y))
    return y.astype(x.dtype)
