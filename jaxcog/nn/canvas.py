"""Images of any shape on a square canvas, with OpenCV's conventions. NumPy, on the host."""

from __future__ import annotations

from typing import overload

import numpy as np

from jaxcog.errors import DataError

IGNORE = 255
_STRIDE = 8  # sides are cut to a multiple of it, as networks of this stride were trained


def fitted(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width when the longer side becomes `size`, both cut to a multiple of 8."""
    ratio = size / max(height, width)
    sides = (size if n == max(height, width) else int(n * ratio) for n in (height, width))
    high, wide = (n // _STRIDE * _STRIDE for n in sides)
    if not (high and wide):
        raise DataError(
            f"an image of {height} x {width} becomes thinner than {_STRIDE} pixels when its longer "
            f"side is made {size}: leave it out, or choose a larger size"
        )
    return high, wide


def resize_linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, half-pixel centres, no antialiasing: [H, W, C] -> float32 [height, width, C].

    As cv2.resize(image.astype(float32), interpolation=INTER_LINEAR).
    """
    y, v = _linear_axis(height, image.shape[0])
    x, w = _linear_axis(width, image.shape[1])
    image = np.asarray(image, np.float32)
    right = np.minimum(x + 1, image.shape[1] - 1)
    wide = image[:, x] * (1 - w)[None, :, None] + image[:, right] * w[None, :, None]
    low = np.minimum(y + 1, image.shape[0] - 1)
    return wide[y] * (1 - v)[:, None, None] + wide[low] * v[:, None, None]


def _linear_axis(out: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(first sample, float32 weight of the next one) of each output."""
    position = ((np.arange(out) + 0.5) * (size / out) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    weight = np.where((first < 0) | (first >= size - 1), 0, position - first.astype(np.float32))
    return np.clip(first, 0, size - 1), weight.astype(np.float32)


def resize_nearest(label: np.ndarray, height: int, width: int) -> np.ndarray:
    """The sample at floor(i * scale): [H, W] -> [height, width], as cv2's INTER_NEAREST."""
    rows, columns = (
        np.minimum(np.floor(np.arange(out) * (1 / (out / size))).astype(int), size - 1)
        for out, size in zip((height, width), label.shape, strict=True)
    )
    return label[rows[:, None], columns]


@overload
def resize_pad_square(image: np.ndarray, mask: None, size: int) -> tuple[np.ndarray, None]: ...


@overload
def resize_pad_square(
    image: np.ndarray, mask: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]: ...


def resize_pad_square(
    image: np.ndarray, mask: np.ndarray | None, size: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """An image and its mask fitted into the top left of a square.

    Args:
      image: [H, W, C], 0..255. mask: [H, W] uint8, or None.
      size: side of the square; the content fills it but for cutting to a multiple of 8.

    Returns:
      image float32 [size, size, C], 0 outside the content; mask uint8 [size, size], 255 outside.

    Raises:
      DataError: image and mask differ in size, or the image is too thin to be shown.
    """
    if mask is not None and image.shape[:2] != mask.shape:
        raise DataError(
            f"an image of {image.shape[0]} x {image.shape[1]} with a mask of {mask.shape[0]} x "
            f"{mask.shape[1]} (height x width): they must have one size; is it another image's?"
        )
    height, width = fitted(image.shape[0], image.shape[1], size)
    canvas = np.zeros((size, size, image.shape[2]), np.float32)
    canvas[:height, :width] = resize_linear(image, height, width)
    if mask is None:
        return canvas, None
    labels = np.full((size, size), IGNORE, np.uint8)
    labels[:height, :width] = resize_nearest(mask, height, width)
    return canvas, labels
