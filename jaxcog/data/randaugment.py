"""RandAugment as FixMatch uses it, and Cutout: steps on uint8 images [H, W, 3] of data.images."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_ENHANCE = {
    "Brightness": ImageEnhance.Brightness,
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Sharpness": ImageEnhance.Sharpness,
}
_ENHANCED = (0.05, 0.95)
_MOVED = (-0.3, 0.3)

FIXMATCH_OPS: dict[str, tuple[float, float]] = {
    "AutoContrast": (0, 1),
    "Brightness": _ENHANCED,
    "Color": _ENHANCED,
    "Contrast": _ENHANCED,
    "Equalize": (0, 1),
    "Identity": (0, 1),
    "Posterize": (4, 8),
    "Rotate": (-30, 30),
    "Sharpness": _ENHANCED,
    "ShearX": _MOVED,
    "ShearY": _MOVED,
    "Solarize": (0, 256),
    "TranslateX": _MOVED,
    "TranslateY": _MOVED,
}
"""Operation -> (lowest, highest) magnitude; those of three operations mean nothing."""

SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
"""Operations whose magnitude changes its sign with probability 1/2."""


def apply_op(image: np.ndarray, name: str, magnitude: float) -> np.ndarray:
    """One operation of FIXMATCH_OPS: uint8 [H, W, 3] -> the same shape.

    magnitude: factor of an enhancement (1 changes nothing), bits, threshold, degrees, shear, or
    part of the width or height. What moves in from outside is black; nearest neighbours.
    """
    picture = Image.fromarray(image)
    if name in _ENHANCE:
        return np.asarray(_ENHANCE[name](picture).enhance(magnitude))
    matrix = {
        "ShearX": (1, magnitude, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, magnitude, 1, 0),
        "TranslateX": (1, 0, magnitude * picture.width, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, magnitude * picture.height),
    }.get(name)
    if matrix is not None:
        moved = picture.transform(picture.size, Image.Transform.AFFINE, matrix)
        return np.asarray(moved)
    match name:
        case "AutoContrast":
            picture = ImageOps.autocontrast(picture)
        case "Equalize":
            picture = ImageOps.equalize(picture)
        case "Identity":
            return image
        case "Posterize":
            picture = ImageOps.posterize(picture, int(magnitude))
        case "Rotate":
            picture = picture.rotate(magnitude)
        case "Solarize":
            picture = ImageOps.solarize(picture, math.ceil(magnitude))
        case _:
            raise ValueError(f'apply_op: "{name}" is none of {", ".join(FIXMATCH_OPS)}')
    return np.asarray(picture)


def cutout(image: np.ndarray, row: int, column: int, size: int) -> np.ndarray:
    """A black square of `size`, centred at a pixel and clipped at the edges: uint8 [H, W, 3]."""
    top, left = max(row - size // 2, 0), max(column - size // 2, 0)
    result = image.copy()
    result[top : row - size // 2 + size, left : column - size // 2 + size] = 0
    return result


@dataclasses.dataclass(frozen=True)
class RandAugmentFixMatch:
    """`ops` operations drawn with replacement, each with a magnitude of its own, always applied."""

    ops: int = 2

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        names = list(FIXMATCH_OPS)
        for choice in random.integers(len(names), size=self.ops):
            name = names[choice]
            magnitude = random.uniform(*FIXMATCH_OPS[name])
            if name in SIGNED and random.random() > 0.5:
                magnitude = -magnitude
            image = apply_op(image, name, magnitude)
        return image


@dataclasses.dataclass(frozen=True)
class Cutout:
    """A black square of `size` whose centre is uniform over the pixels."""

    size: int = 16

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        row, column = int(random.integers(height)), int(random.integers(width))
        return cutout(image, row, column, self.size)
