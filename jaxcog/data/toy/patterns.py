"""Generated images of any size whose class is the direction of their stripes.

The tiny variants of configs use them where the real dataset is large: same schema, no files.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import numpy as np

from jaxcog.data.types import ArraySource, Splits, Stream
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo

_DOMAINS = ("red", "green", "blue")


@dataclasses.dataclass(frozen=True)
class Patterns:
    """Stripes in `classes` directions, in one of three colours (the domain), with noise.

    Records: "image" float32 [size, size, 3] in [-1, 1]; "label" int32, or float32 [classes]
    multi-hot; "domain" int32.

    evaluation: "classification" has the split "test"; "retrieval" has "query" and "database".
    multi_label: two sets of stripes in each image, and multi-hot labels.
    """

    size: int = 32
    classes: int = 4
    examples: int = 64
    evaluation: Literal["classification", "retrieval"] = "classification"
    multi_label: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 8 or self.classes < 2 or self.examples < self.classes:
            raise ConfigError(
                f"data: size={self.size}, classes={self.classes}, examples={self.examples}: at "
                "least 8 pixels, 2 classes, and one example of each"
            )

    def describe(self) -> DataInfo:
        """What a task must know; makes nothing."""
        label = jax.ShapeDtypeStruct((), np.int32)
        if self.multi_label:
            label = jax.ShapeDtypeStruct((self.classes,), np.float32)
        half = (0.5, 0.5, 0.5)
        return DataInfo(
            element={
                "image": jax.ShapeDtypeStruct((self.size, self.size, 3), np.float32),
                "label": label,
                "domain": jax.ShapeDtypeStruct((), np.int32),
            },
            num_examples=self.examples,
            class_names=tuple(f"direction {i}" for i in range(self.classes)),
            facts={"mean": half, "std": half, "domains": _DOMAINS},
        )

    def load(self) -> Splits:
        """All images, in memory."""
        random = np.random.default_rng(self.seed)
        names = ["test"] if self.evaluation == "classification" else ["query", "database"]
        held_out = {name: Stream(self._source(self.examples // 2, random)) for name in names}
        train = Stream(self._source(self.examples, random))
        return Splits(train=train, evaluation=held_out, info=self.describe())

    def _source(self, count: int, random: np.random.Generator) -> ArraySource:
        first = np.arange(count) % self.classes
        second = (first + 1 + np.arange(count) // self.classes) % self.classes
        domain = random.integers(0, len(_DOMAINS), count)
        waves = self._stripes(first, random)
        if self.multi_label:
            waves = (waves + self._stripes(second, random)) / 2
        colour = 0.25 + 0.75 * np.eye(3)[domain]
        images = waves[..., None] * colour[:, None, None]
        images = images + random.normal(0, 0.1, images.shape)
        label: np.ndarray = first.astype(np.int32)
        if self.multi_label:
            label = np.maximum(np.eye(self.classes)[first], np.eye(self.classes)[second])
            label = label.astype(np.float32)
        return ArraySource(
            {
                "image": np.clip(images, -1, 1).astype(np.float32),
                "label": label,
                "domain": domain.astype(np.int32),
            }
        )

    def _stripes(self, direction: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """[N, size, size] in [-1, 1], each with its own phase."""
        angle = (np.pi * direction / self.classes)[:, None, None]
        rows, columns = np.mgrid[: self.size, : self.size] / self.size
        phase = random.uniform(0, 2 * np.pi, angle.shape)
        return np.sin(8 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) + phase)
