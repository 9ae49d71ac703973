"""Generated persons seen by several cameras, each with a colour cast of its own."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import numpy as np

from jaxcog.data.samplers import PK, RandomDomain
from jaxcog.data.types import ArraySource, MakeSampler, Splits, Stream
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo

_PARTS = 3  # head, body, legs: horizontal bands


@dataclasses.dataclass(frozen=True)
class Cameras:
    """Persons whose bands of colour are seen through other casts in testing than in training.

    Records: "image" float32 [2 * size, size, 3] in [-1, 1]; "person" and "camera" int32. Splits
    "query" (one image of each person and camera) and "gallery".

    persons, cameras: in training, and as many others in testing. images: of a person and camera.
    sampler: "uniform", "cameras" (blocks of two cameras) or "persons" (blocks of two images).
    """

    persons: int = 8
    cameras: int = 3
    images: int = 2
    size: int = 16
    sampler: Literal["uniform", "cameras", "persons"] = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.persons < 2 or self.cameras < 2 or self.images < 2 or self.size < 8:
            raise ConfigError(
                f"data: persons={self.persons}, cameras={self.cameras}, images={self.images}, "
                f"size={self.size}: at least 2 of each, and 8 pixels"
            )

    def describe(self) -> DataInfo:
        """What a task must know; makes nothing."""
        number = jax.ShapeDtypeStruct((), np.int32)
        image = jax.ShapeDtypeStruct((2 * self.size, self.size, 3), np.float32)
        half = (0.5, 0.5, 0.5)
        return DataInfo(
            element={"image": image, "person": number, "camera": number},
            num_examples=self.persons * self.cameras * self.images,
            class_names=tuple(f"person {i}" for i in range(self.persons)),
            facts={"mean": half, "std": half},
        )

    def load(self) -> Splits:
        """All images, in memory."""
        random = np.random.default_rng(self.seed)
        learn, test = self._source(random), self._source(random)
        first = np.arange(len(test)) % self.images == 0
        parts = {"query": first, "gallery": ~first}
        return Splits(
            train=Stream(learn, sampler=self._sampler(learn)),
            evaluation={name: Stream(ArraySource(test.take(rows))) for name, rows in parts.items()},
            info=self.describe(),
        )

    def _source(self, random: np.random.Generator) -> ArraySource:
        person, camera, _ = np.indices((self.persons, self.cameras, self.images)).reshape(3, -1)
        clothes = random.uniform(-1, 1, (self.persons, _PARTS, 3))
        gain = random.uniform(0.4, 1, (self.cameras, 3))
        offset = random.uniform(-0.3, 0.3, (self.cameras, 3))
        band = np.arange(2 * self.size) * _PARTS // (2 * self.size)
        image = clothes[person][:, band] * gain[camera][:, None] + offset[camera][:, None]
        image = np.repeat(image[:, :, None], self.size, axis=2)
        image = image + random.normal(0, 0.1, image.shape)
        return ArraySource(
            {
                "image": np.clip(image, -1, 1).astype(np.float32),
                "person": person.astype(np.int32),
                "camera": camera.astype(np.int32),
            }
        )

    def _sampler(self, source: ArraySource) -> MakeSampler | None:
        if self.sampler == "cameras":
            return functools.partial(RandomDomain, domains=source.arrays["camera"], per_batch=2)
        if self.sampler == "persons":
            return functools.partial(PK, identities=source.arrays["person"], per_identity=2)
        return None
