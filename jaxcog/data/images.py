"""Images on the host: decoding and the usual transforms, with Pillow and NumPy only.

An image is uint8 [H, W, 3] until `normalise` makes it float32. The functions are pure; the frozen
dataclasses are the same as steps of a transform, `step(image, random) -> image`, and can be sent to
worker processes. Sizes, offsets and rounding are those of torchvision on Pillow images, since the
papers' numbers were made with them.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from PIL import Image, ImageEnhance

from jaxcog.data.types import BadRecord, Record

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

Array = TypeVar("Array", np.ndarray, jax.Array)
Step = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def decode(data: bytes) -> np.ndarray:
    """An encoded image as uint8 [H, W, 3]; EXIF orientation is ignored, as torchvision does.

    Raises BadRecord where the bytes are not a complete image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadRecord(f"not a readable image ({error})".replace("\n", " ")) from error


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, antialiased, to exactly [height, width], whatever the aspect."""
    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def resize_shorter(image: np.ndarray, size: int) -> np.ndarray:
    """Shorter edge to `size`, aspect kept (the longer edge is rounded down)."""
    height, width = image.shape[:2]
    if height <= width:
        return resize(image, size, int(size * width / height))
    return resize(image, int(size * height / width), size)


def crop(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """The part that starts at (top, left). Raises BadRecord where it does not lie inside."""
    if not (0 <= top <= image.shape[0] - height and 0 <= left <= image.shape[1] - width):
        raise BadRecord(
            f"image of {image.shape[0]}x{image.shape[1]} is too small for a crop of "
            f"{height}x{width}"
        )
    return image[top : top + height, left : left + width]


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The middle [size, size]. Raises BadRecord where the image is smaller."""
    height, width = image.shape[:2]
    return crop(image, round((height - size) / 2), round((width - size) / 2), size, size)


def random_crop(image: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """[size, size] at a uniform place. Raises BadRecord where the image is smaller."""
    top = random.integers(max(image.shape[0] - size, 0) + 1)
    left = random.integers(max(image.shape[1] - size, 0) + 1)
    return crop(image, int(top), int(left), size, size)


def random_resized_crop(
    image: np.ndarray,
    size: int,
    random: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """A part of random area and aspect (log-uniform), resized to [size, size].

    After ten draws that do not fit: the largest centred part whose aspect is within `ratio`.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            return resize(crop(image, int(top), int(left), h, w), size, size)
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return resize(crop(image, (height - h) // 2, (width - w) // 2, h, w), size, size)


def colour_jitter(
    image: np.ndarray,
    random: np.random.Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
) -> np.ndarray:
    """Each property times a factor from [max(0, 1 - x), 1 + x], in random order."""
    strengths = (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    )
    picture = Image.fromarray(image)
    for place in random.permutation(len(strengths)):
        enhance, strength = strengths[place]
        if strength > 0:
            picture = enhance(picture).enhance(random.uniform(max(0, 1 - strength), 1 + strength))
    return np.asarray(picture)


def normalise(
    image: Array,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Array:
    """uint8 [..., C] -> float32, (image / 255 - mean) / std; of NumPy or of JAX."""
    offset, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return image * (1 / (255 * scale)) - offset / scale


@dataclasses.dataclass(frozen=True)
class Resize:
    """To [size, size], or [size, width], whatever the aspect."""

    size: int
    width: int | None = None

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return resize(image, self.size, self.width or self.size)


@dataclasses.dataclass(frozen=True)
class ResizeShorter:
    """Shorter edge to `size`."""

    size: int

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return resize_shorter(image, self.size)


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """The middle [size, size]."""

    size: int

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return centre_crop(image, self.size)


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """[size, size] at a uniform place."""

    size: int

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return random_crop(image, self.size, random)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A part of random area and aspect, resized to [size, size]."""

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return random_resized_crop(image, self.size, random, scale=self.scale, ratio=self.ratio)


@dataclasses.dataclass(frozen=True)
class EnlargeAndCrop:
    """With probability p: enlarged by `factor`, then cropped back to its size somewhere."""

    factor: float = 1.125
    p: float = 0.5

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        if random.random() > self.p:
            return image
        height, width = image.shape[:2]
        larger = resize(image, round(height * self.factor), round(width * self.factor))
        # The rounded uniform of the reference gives both ends half the weight of the others.
        top = round(random.uniform(0, larger.shape[0] - height))
        left = round(random.uniform(0, larger.shape[1] - width))
        return crop(larger, top, left, height, width)


@dataclasses.dataclass(frozen=True)
class Flip:
    """Mirrored left to right with probability p."""

    p: float = 0.5

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return image[:, ::-1] if random.random() < self.p else image


@dataclasses.dataclass(frozen=True)
class ColourJitter:
    """Each property times a factor from [max(0, 1 - x), 1 + x], in random order."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return colour_jitter(
            image,
            random,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
        )


@dataclasses.dataclass(frozen=True)
class Normalise:
    """uint8 -> float32, (image / 255 - mean) / std; always the last step."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __call__(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return normalise(image, self.mean, self.std)


@dataclasses.dataclass(frozen=True)
class Views:
    """A record's encoded "image" becomes one array per view; other entries stay.

    views: (name of the array, steps) in order; all views start from the same decoded image.
    """

    views: tuple[tuple[str, tuple[Step, ...]], ...]

    def __call__(self, record: Record, random: np.random.Generator) -> Record:
        original = decode(record["image"])
        arrays = {name: value for name, value in record.items() if name != "image"}
        for name, steps in self.views:
            image = original
            for step in steps:
                image = step(image, random)
            arrays[name] = np.ascontiguousarray(image)
        return arrays


def single_view(*steps: Step) -> Views:
    """The transform of records with one image."""
    return Views((("image", steps),))
