"""Pairs of examples of two different classes, drawn with replacement: a Source like any other.

Pair i is a function of (seed, i): class A uniform, class B uniform among the others, one example of
each uniform. So classes are balanced whatever their sizes, and a resumed run sees the same pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from jaxcog.data.types import Gathered, Record, Source
from jaxcog.errors import DataError


def check_classes(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Raises DataError naming the classes without an example, or where there is only one class."""
    counts = np.bincount(labels, minlength=len(class_names))
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"no image of the classes {', '.join(empty)}: add some, or leave them out of "
            "data.classes"
        )
    if len(class_names) < 2:
        raise DataError("pairs are of two different classes: name at least two in data.classes")


class PairSource:
    """Pairs of records. A pair has every entry of its two records stacked: [2, ...].

    Args:
      source: the records, each with the class label `labels[i]`.
      size: how many pairs count as all of them; more can be asked for.
    """

    def __init__(self, source: Source, labels: np.ndarray, size: int, seed: int):
        self.source = source
        self.rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.size = size
        self.seed = seed
        if isinstance(source, Gathered):
            self.take = functools.partial(self._take, source)

    def __len__(self) -> int:
        return self.size

    def draw(self, index: int) -> np.ndarray:
        """The two records of pair `index`."""
        random = np.random.default_rng([self.seed, index])
        first, second = random.choice(len(self.rows), 2, replace=False)
        return np.array([random.choice(self.rows[first]), random.choice(self.rows[second])])

    def __getitem__(self, index: int) -> Record:
        first, second = (self.source[int(row)] for row in self.draw(index))
        return {name: (first[name], second[name]) for name in first}

    def _take(self, source: Gathered, indices: np.ndarray) -> Record:
        rows = np.stack([self.draw(int(index)) for index in indices])
        taken = source.take(rows.ravel())
        return {
            name: value.reshape(len(rows), 2, *value.shape[1:]) for name, value in taken.items()
        }

    def name_of(self, index: int) -> str:
        first, second = (self.source.name_of(int(row)) for row in self.draw(index))
        return f"{first} and {second}"


class Endless:
    """A sampler that never repeats an index: batch s holds s * batch_size and what follows."""

    def __init__(self, num_examples: int, batch_size: int, seed: int):
        if num_examples < batch_size:
            raise DataError(
                f"an epoch of {num_examples} pairs is smaller than the batch of {batch_size}: set "
                "a smaller train.batch_size"
            )
        self.batch_size = batch_size
        self.steps_per_epoch = num_examples // batch_size

    def indices(self, step: int) -> np.ndarray:
        return np.arange(step * self.batch_size, (step + 1) * self.batch_size)
