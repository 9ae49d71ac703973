"""Generated descriptors of landmarks, in the schema of the landmark datasets.

The tiny variants of configs use them where the real descriptors are large.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import numpy as np

from jaxcog.data.types import ArraySource, Splits, Stream
from jaxcog.task import DataInfo

EASY, HARD, JUNK = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Descriptors:
    """Noisy copies of one direction a landmark.

    Records: "feature" float32 [width] of length 1, "label" int32. Splits "query" and "database".
    Facts as those of `datasets.landmarks.Landmarks`: with truth="gldv2" "relevant", with
    "revisited" "kind" (a landmark's images are easy, hard and junk in turn).
    """

    truth: Literal["gldv2", "revisited"] = "gldv2"
    width: int = 32
    landmarks: int = 12
    examples: int = 96
    seed: int = 0

    def describe(self) -> DataInfo:
        """What a task must know; makes nothing."""
        return self._info({})

    def load(self) -> Splits:
        """All descriptors, in memory."""
        random = np.random.default_rng(self.seed)
        centres = random.normal(size=(self.landmarks, self.width))
        train, query, database = (
            self._source(centres, count, random)
            for count in (self.examples, self.landmarks, self.examples)
        )
        same = query.arrays["label"][:, None] == database.arrays["label"]
        facts: dict[str, Any]
        if self.truth == "gldv2":
            facts = {"relevant": [np.flatnonzero(row) for row in same]}
        else:
            turn = np.arange(self.examples) // self.landmarks % 3
            facts = {"kind": np.where(same, np.array([EASY, HARD, JUNK])[turn], 0).astype(np.int8)}
        evaluation = {"query": Stream(query), "database": Stream(database)}
        return Splits(Stream(train), evaluation, self._info(facts))

    def _source(self, centres: np.ndarray, count: int, random: np.random.Generator) -> ArraySource:
        label = np.arange(count) % self.landmarks
        feature = centres[label] + random.normal(0, 0.7, (count, self.width))
        feature /= np.linalg.norm(feature, axis=1, keepdims=True)
        return ArraySource({"feature": feature.astype(np.float32), "label": label.astype(np.int32)})

    def _info(self, facts: dict) -> DataInfo:
        return DataInfo(
            element={
                "feature": jax.ShapeDtypeStruct((self.width,), np.float32),
                "label": jax.ShapeDtypeStruct((), np.int32),
            },
            num_examples=self.examples,
            class_names=tuple(f"landmark {i}" for i in range(self.landmarks)),
            facts=facts,
        )
