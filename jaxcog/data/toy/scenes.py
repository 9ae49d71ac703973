"""Generated scenes that need global aggregation, or local distribution, to be parsed."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import numpy as np

from jaxcog.data.types import ArraySource, Splits, Stream
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo

_OBJECT_CLASSES = (
    "background",
    *(f"large {colour}" for colour in ("red", "green", "blue")),
    *(f"small {colour}" for colour in ("red", "green", "blue")),
)
_CONTEXT_CLASSES = ("stuff 0", "stuff 1", "stuff 2", "stuff 3", "thing 0", "thing 1")
_OBJECT_COLOURS = ((40, 40, 40), (230, 60, 60), (70, 200, 70), (80, 100, 240))
_COLOURS = {
    "objects": (*_OBJECT_COLOURS, (255, 170, 150), (180, 255, 150), (160, 220, 255)),
    "context": ((70, 90, 150), (150, 110, 60), (90, 160, 190), (200, 170, 90), (230, 40, 90),
                (60, 220, 120)),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Small scenes in memory: "image" float32 [S, S, 3], "label" uint8 [S, S].

    kind: "objects": rectangles in three colours, large (5/11 of the side and more) and small ones
      (5-8 pixels, thin boundaries between them); both look alike at each pixel, and the class is
      colour and size, so that a network must know the size of the local pattern.
      "context": two halves, whose classes depend on one small patch somewhere in the image, and
      small things; a network must gather from the whole image.
    size: side of the images; 64 ("objects") and 48 ("context") are those that were measured.
    """

    kind: Literal["objects", "context"] = "objects"
    size: int = 64
    train: int = 2400
    test: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 48 or min(self.train, self.test) < 1:
            raise ConfigError(
                f"data: size={self.size} must be at least 48, train={self.train} and "
                f"test={self.test} at least 1"
            )

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        element = {
            "image": jax.ShapeDtypeStruct((self.size, self.size, 3), np.float32),
            "label": jax.ShapeDtypeStruct((self.size, self.size), np.uint8),
        }
        objects = self.kind == "objects"
        return DataInfo(
            element=element,
            num_examples=self.train,
            class_names=_OBJECT_CLASSES if objects else _CONTEXT_CLASSES,
            facts={"colours": _COLOURS[self.kind], "stuff": () if objects else (0, 1, 2, 3)},
        )

    def load(self) -> Splits:
        """The generated scenes; test scenes are the same for every number of training scenes."""
        draw = _objects if self.kind == "objects" else _context
        sources = []
        for stream, count in enumerate((self.train, self.test)):
            random = np.random.default_rng([self.seed, stream])
            pairs = [draw(self.size, random) for _ in range(count)]
            arrays = {
                "image": np.stack([image for image, _ in pairs]),
                "label": np.stack([label for _, label in pairs]),
            }
            sources.append(ArraySource(arrays))
        return Splits(Stream(sources[0]), {"test": Stream(sources[1])}, self.describe())


def _objects(size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    image = random.normal(0, 0.35, (size, size, 3)).astype(np.float32)
    label = np.zeros((size, size), np.uint8)
    colour_of = np.full((size, size), -1, np.int8)
    signal = np.full((3, 3), -0.4, np.float32) + 1.6 * np.eye(3, dtype=np.float32)
    low, high = round(size * 26 / 64), round(size * 35 / 64)
    for _ in range(2):
        colour = int(random.integers(3))
        h, w = (int(random.integers(low, high + 1)) for _ in range(2))
        top, left = int(random.integers(size - h + 1)), int(random.integers(size - w + 1))
        part = (slice(top, top + h), slice(left, left + w))
        label[part], colour_of[part] = 1 + colour, colour
    large = colour_of.copy()
    for _ in range(int(random.integers(6, 12))):
        colour = int(random.integers(3))
        h, w = (int(random.integers(5, 9)) for _ in range(2))
        top, left = int(random.integers(size - h + 1)), int(random.integers(size - w + 1))
        near = large[max(top - 2, 0) : top + h + 2, max(left - 2, 0) : left + w + 2]
        # A small one that touches a large one of its colour would be part of it.
        if (near == colour).any():
            continue
        part = (slice(top, top + h), slice(left, left + w))
        label[part], colour_of[part] = 4 + colour, colour
    inside = colour_of >= 0
    image[inside] += signal[colour_of[inside]]
    return image, label


def _context(size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    image = random.normal(0, 0.25, (size, size, 3)).astype(np.float32)
    cut = int(random.integers(size // 3, 2 * size // 3 + 1))
    side = np.zeros((size, size), np.uint8)
    if random.random() < 0.5:
        side[cut:] = 1
    else:
        side[:, cut:] = 1
    image[..., 0] += np.where(side == 1, -1, 1)
    bit = int(random.integers(2))
    top, left = (int(n) for n in random.integers(size - 6 + 1, size=2))
    image[top : top + 6, left : left + 6, 2] += 2.5 if bit else -2.5
    label = (side + 2 * bit).astype(np.uint8)
    for _ in range(int(random.integers(4, 9))):
        sign = int(random.integers(2))
        h, w = (int(n) for n in random.integers(2, 5, size=2))
        top, left = int(random.integers(size - h + 1)), int(random.integers(size - w + 1))
        part = (slice(top, top + h), slice(left, left + w))
        image[(*part, 1)] += 1.2
        image[(*part, 0)] += 1 if sign else -1
        label[part] = 4 + sign
    return image, label
