"""Tasks of a photo, another photo and some sketches, made from prepared records: a Source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxcog.data import images
from jaxcog.data.prepared import Records
from jaxcog.data.samplers import Uniform
from jaxcog.data.types import Record


@dataclasses.dataclass(frozen=True)
class Item:
    """What one task is drawn from: rows of photos that may be the positive, rows of sketches.

    negatives: key of the pool (see `SketchTasks`) that the other photo comes from.
    """

    photos: np.ndarray
    sketches: np.ndarray
    negatives: int = 0


class SketchTasks:
    """Visit v of item i is index v * len + i, and is made from (seed, index) alone.

    Records: encoded "positive", "negative" and "sketches" (a tuple of K, in a fixed order).

    Args:
      pools: key -> rows of photos; the negative is never the positive itself.
      count: K. ordered: the first K sketches of the item instead of a random choice of K.
    """

    def __init__(
        self,
        photos: Records,
        sketches: Records,
        items: Sequence[Item],
        pools: dict[int, np.ndarray],
        count: int,
        seed: int,
        *,
        ordered: bool = False,
    ):
        self.photos, self.sketches = photos, sketches
        self.items, self.pools = items, pools
        self.count, self.seed, self.ordered = count, seed, ordered

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, index: int) -> tuple[int, int, np.ndarray]:
        """(positive, negative, sketches) of a task, as rows."""
        item = self.items[index % len(self.items)]
        random = np.random.default_rng([self.seed, index])
        positive = int(random.choice(item.photos))
        pool = self.pools[item.negatives]
        negative = int(pool[random.integers(len(pool))])
        while negative == positive:
            negative = int(pool[random.integers(len(pool))])
        if self.ordered:
            return positive, negative, item.sketches[: self.count]
        chosen = random.choice(len(item.sketches), self.count, replace=False)
        return positive, negative, item.sketches[np.sort(chosen)]

    def __getitem__(self, index: int) -> Record:
        positive, negative, sketches = self.draw(index)
        return {
            "positive": self.photos[positive]["image"],
            "negative": self.photos[negative]["image"],
            "sketches": tuple(self.sketches[int(row)]["image"] for row in sketches),
        }

    def name_of(self, index: int) -> str:
        positive, negative, sketches = self.draw(index)
        drawn = ", ".join(self.sketches.name_of(int(row)) for row in sketches)
        names = self.photos.name_of(positive), self.photos.name_of(negative)
        return f"{names[0]} with {drawn} (against {names[1]})"


class Visits(Uniform):
    """Every item once an epoch, shuffled; each visit has an index of its own."""

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch]: item + visit * items."""
        return super().indices(step) + step // self.steps_per_epoch * self.num_examples


@dataclasses.dataclass(frozen=True)
class TaskImages:
    """Decodes a task: float32 [1, S, S, 3] in [-1, 1], sketches [1, K, S, S, 3].

    flip: half of the time all its images are mirrored together.
    """

    size: int
    flip: bool = True

    def __call__(self, record: Record, random: np.random.Generator) -> Record:
        mirrored = self.flip and random.random() < 0.5

        def read(data: bytes) -> np.ndarray:
            image = images.resize(images.decode(data), self.size, self.size)
            image = image[:, ::-1] if mirrored else image
            return images.normalise(image, images.HALF, images.HALF)

        sketches = np.stack([read(data) for data in record["sketches"]])
        photos = {name: read(record[name])[None] for name in ("positive", "negative")}
        return {**photos, "sketches": sketches[None]}


def task_element(size: int, count: int) -> dict[str, Any]:
    """Shapes of one task of K = `count` sketches."""
    photo = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    sketches = jax.ShapeDtypeStruct((1, count, size, size, 3), np.float32)
    return {"positive": photo, "negative": photo, "sketches": sketches}


def view_element(size: int) -> dict[str, Any]:
    """Shapes of one sketch or photo in evaluation."""
    number = jax.ShapeDtypeStruct((), np.int32)
    image = jax.ShapeDtypeStruct((size, size, 3), np.float32)
    return {"image": image, "photo": number, "label": number}
