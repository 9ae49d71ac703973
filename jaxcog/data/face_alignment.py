"""Cutting an aligned face out of a photo, as FFHQ-Aging was made (a larger crop than FFHQ's)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from jaxcog.errors import DataError


def align_face(
    image: np.ndarray,
    landmarks: np.ndarray,
    size: int = 256,
    crop_factor: float = 2.2,
    transform_size: int = 4096,
) -> np.ndarray:
    """The face upright, eyes and mouth in their usual places.

    Args:
      image: uint8 [H, W, 3].
      landmarks: [68, 2] (x, y) of one face, in dlib's order, from any detector.
      size: of the result.
      crop_factor: how many eye-to-mouth distances the crop is wide, at least; FFHQ has 1.8.
      transform_size: resolution of the first, bilinear cut, which is then reduced.

    Returns:
      uint8 [size, size, 3]; where the photo ends too early it is mirrored and blurred.

    Raises:
      DataError: there are not 68 landmarks, such as where no face was found.
    """
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.shape != (68, 2):
        raise DataError(
            f"a face is aligned by 68 landmarks (x, y), here are {list(landmarks.shape)}: was a "
            "face found in the photo?"
        )
    quad, width = _quad(landmarks, crop_factor)
    picture = Image.fromarray(image)
    picture, quad, width = _shrunk(picture, quad, width, size)
    picture, quad = _cropped(picture, quad, width)
    picture, quad = _padded(picture, quad, width)
    cut = picture.transform(
        (transform_size, transform_size),
        Image.Transform.QUAD,
        tuple((quad + 0.5).ravel()),
        Image.Resampling.BILINEAR,
    )
    if size < transform_size:
        cut = cut.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(cut)


def _quad(landmarks: np.ndarray, crop_factor: float) -> tuple[np.ndarray, float]:
    """(corners [4, 2]: upper left, lower left, lower right, upper right; side length)."""
    left, right = landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)
    eyes, centre = right - left, (left + right) / 2
    mouth = (landmarks[48] + landmarks[54]) / 2 - centre
    x = eyes - mouth[::-1] * (-1, 1)
    x = x / np.hypot(*x) * max(2.0 * np.hypot(*eyes), crop_factor * np.hypot(*mouth))
    y = x[::-1] * (-1, 1)
    middle = centre + 0.1 * mouth
    corners = np.stack([middle - x - y, middle - x + y, middle + x + y, middle + x - y])
    return corners, 2 * float(np.hypot(*x))


def _shrunk(
    picture: Image.Image, quad: np.ndarray, width: float, size: int
) -> tuple[Image.Image, np.ndarray, float]:
    factor = int(np.floor(width / size / 2))
    if factor <= 1:
        return picture, quad, width
    smaller = (int(np.rint(picture.width / factor)), int(np.rint(picture.height / factor)))
    return picture.resize(smaller, Image.Resampling.LANCZOS), quad / factor, width / factor


def _box(quad: np.ndarray) -> np.ndarray:
    low, high = np.floor(quad.min(axis=0)), np.ceil(quad.max(axis=0))
    return np.concatenate([low, high]).astype(int)


def _cropped(
    picture: Image.Image, quad: np.ndarray, width: float
) -> tuple[Image.Image, np.ndarray]:
    border = max(int(np.rint(0.1 * width)), 3)
    left, top, right, bottom = _box(quad)
    left, top = max(left - border, 0), max(top - border, 0)
    right, bottom = min(right + border, picture.width), min(bottom + border, picture.height)
    if right - left < picture.width or bottom - top < picture.height:
        picture = picture.crop((left, top, right, bottom))
        quad = quad - (left, top)
    return picture, quad


def _padded(picture: Image.Image, quad: np.ndarray, width: float) -> tuple[Image.Image, np.ndarray]:
    """Mirrors what lies outside, and lets it fade into a blur and the median colour."""
    from scipy.ndimage import gaussian_filter

    border = max(int(np.rint(0.1 * width)), 3)
    left, top, right, bottom = _box(quad)
    outside = (-left, -top, right - picture.width, bottom - picture.height)
    needed = np.maximum(np.array(outside) + border, 0)
    if needed.max() <= border - 4:
        return picture, quad
    pad = np.maximum(needed, int(np.rint(0.3 * width)))
    pixels = np.asarray(picture, np.float32)
    pixels = np.pad(pixels, ((pad[1], pad[3]), (pad[0], pad[2]), (0, 0)), "reflect")
    rows = np.arange(pixels.shape[0], dtype=np.float32)
    columns = np.arange(pixels.shape[1], dtype=np.float32)
    across = np.minimum(columns / pad[0], (len(columns) - 1 - columns) / pad[2])
    down = np.minimum(rows / pad[1], (len(rows) - 1 - rows) / pad[3])
    depth = np.maximum(1 - across[None, :], 1 - down[:, None])[..., None]
    sigma = 0.02 * width
    blurred = gaussian_filter(pixels, (sigma, sigma, 0))
    pixels = pixels + (blurred - pixels) * np.clip(3 * depth + 1, 0, 1)
    pixels = pixels + (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(depth, 0, 1)
    padded = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return Image.fromarray(padded), quad + pad[:2]
