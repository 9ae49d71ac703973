"""Grids of handwritten digits for few-shot segmentation: which cells hold the class of the support?

A class is a digit in one of its eight orientations, so the real digits of scikit-learn make 56
classes to learn from and 24 that are never seen. A picture of 8 x 8 cells shows its target class in
some cells and one single other class in all others.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import numpy as np

from jaxcog.data.datasets.segmentation_episodes import episode_element
from jaxcog.data.samplers import Recent
from jaxcog.data.types import ArraySource, Record, Splits, Stream
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo

SIDE = 8  # cells of a picture, and pixels of a cell
_NOVEL = ((7, 8, 9), (4, 5, 6), (1, 2, 3))
_NOISE = 0.1
IGNORE = 255


@functools.cache
def _cells() -> tuple[np.ndarray, np.ndarray]:
    """Digits in all orientations, float32 [1797, 8, 8, 8] in [0, 1], ordered by digit; and where
    each digit begins, int [11]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.argsort(digits.target, kind="stable")
    images = (digits.images[order] / 16).astype(np.float32)
    turned = [np.rot90(images, k, (1, 2)) for k in range(4)]
    both = [*turned, *(np.flip(image, 2) for image in turned)]
    return np.stack(both, axis=1), np.searchsorted(digits.target[order], np.arange(11))


def draw_pictures(
    random: np.random.Generator, targets: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of classes: a class is 8 * digit + orientation.

    targets, others: int [N]. A target fills 6 to 19 cells. Each picture has a contrast in
    0.5..1.5, its digits are shifted by up to a pixel, and pixels are noisy.

    Returns float32 [N, 64, 64, 1] and bool [N, 8, 8], True in cells of the target.
    """
    cells, begins = _cells()
    count = len(targets)
    rank = random.random((count, SIDE * SIDE)).argsort(axis=1)
    inside = rank < random.integers(6, 20, (count, 1))
    digit, turn = np.divmod(np.where(inside, targets[:, None], others[:, None]), 8)
    sizes = np.diff(begins)[digit]
    which = begins[digit] + (random.random(digit.shape) * sizes).astype(int)
    shift = random.integers(-1, 2, (2, count, 1, 1))
    rows, columns = (np.arange(SIDE)[:, None] - shift[0]), (np.arange(SIDE) - shift[1])
    image, angle = which[:, :, None, None], turn[:, :, None, None]
    pixels = cells[image, angle, rows[:, None] % SIDE, columns[:, None] % SIDE]
    pixels = pixels * random.uniform(0.5, 1.5, (count, 1, 1, 1)).astype(np.float32)
    pixels += _NOISE * random.standard_normal(pixels.shape, np.float32)
    grid = pixels.reshape(count, SIDE, SIDE, SIDE, SIDE).swapaxes(2, 3)
    return grid.reshape(count, SIDE**2, SIDE**2, 1), inside.reshape(count, SIDE, SIDE)


@dataclasses.dataclass(frozen=True)
class _Grids:
    """fold: which three digits are novel: 7 to 9, 4 to 6, or 1 to 3.

    pixels: "cells": pictures [64, 64, 1] with labels [8, 8] of cells. "rgb": [65, 65, 3] with
      labels [65, 65] of pixels, as a PSPNet reads them.
    seed: of the pictures.
    """

    fold: int = 0
    pixels: Literal["cells", "rgb"] = "cells"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fold not in range(len(_NOVEL)):
            raise ConfigError(f"data.fold={self.fold}: the folds are 0, 1, 2")

    def ids(self, novel: bool) -> np.ndarray:
        """Class numbers, ascending; see `draw_pictures`."""
        digits = [d for d in range(10) if (d in _NOVEL[self.fold]) == novel]
        return np.concatenate([np.arange(8 * d, 8 * d + 8) for d in digits])

    def names(self, novel: bool) -> tuple[str, ...]:
        """Digit and orientation: degrees of its turn, "m" where it is mirrored after that."""
        turns = ("", " 90", " 180", " 270", " m", " m90", " m180", " m270")
        return tuple(f"{i // 8}{turns[i % 8]}" for i in self.ids(novel))

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of an image and of its labels."""
        side = SIDE**2
        if self.pixels == "cells":
            return (side, side, 1), (SIDE, SIDE)
        return (side + 1, side + 1, 3), (side + 1, side + 1)

    def finish(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pictures [N, 64, 64, 1] and cell labels uint8 [N, 8, 8] in the shapes above."""
        if self.pixels == "cells":
            return images, labels
        large = labels.repeat(SIDE, axis=1).repeat(SIDE, axis=2)
        edge = ((0, 0), (0, 1), (0, 1))
        padded = np.pad(images, (*edge, (0, 0))).repeat(3, axis=-1)
        return padded, np.pad(large, edge, constant_values=IGNORE)


class _Pools:
    """A Source of `pools` times `size` records, made a pool at a time when they are asked for.

    make(pool number) -> arrays with `size` rows.
    """

    def __init__(self, make: Any, pools: int, size: int):
        self.make = Recent(make, size=2)
        self.pools = pools
        self.size = size

    def __len__(self) -> int:
        return self.pools * self.size

    def __getitem__(self, index: int) -> Record:
        return {name: value[0] for name, value in self.take(np.array([index])).items()}

    def take(self, indices: np.ndarray) -> Record:
        """Rows `indices`, stacked."""
        parts = [
            {k: v[indices[indices // self.size == p] % self.size] for k, v in self.make(p).items()}
            for p in dict.fromkeys((indices // self.size).tolist())
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def name_of(self, index: int) -> str:
        return f"generated {index}"


@dataclasses.dataclass(frozen=True)
class _PoolSampler:
    """Batches of one pool after another; each pool is visited `visits` times in a row."""

    num_examples: int
    batch_size: int
    seed: int
    size: int
    visits: int

    @property
    def steps_per_epoch(self) -> int:
        return self.num_examples // self.size * self.visits

    def indices(self, step: int) -> np.ndarray:
        pool = step // self.visits % (self.num_examples // self.size)
        random = np.random.default_rng([self.seed, step])
        chosen = random.choice(self.size, self.batch_size, replace=self.batch_size > self.size)
        return pool * self.size + np.sort(chosen)


@dataclasses.dataclass(frozen=True)
class GridImages(_Grids):
    """Stage 1: pictures of base classes, every cell labelled.

    Examples: "image" float32, "label" uint8. pools of 64 pictures, each visited 8 times.
    """

    pools: int = 375
    test: int = 200

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        image, label = self.shapes
        element = {
            "image": jax.ShapeDtypeStruct(image, np.float32),
            "label": jax.ShapeDtypeStruct(label, np.uint8),
        }
        return DataInfo(
            element, 64 * self.pools, self.names(novel=False), facts={"mean": 0.0, "std": 1.0}
        )

    def load(self) -> Splits:
        """Generated pictures, the test ones in memory."""

        def make(pool: int, stream: int = 0, count: int = 64) -> Record:
            random = np.random.default_rng([self.seed, 10 + stream, pool])
            ids = self.ids(novel=False)
            place, other = _two_classes(random, len(ids), count)
            images, inside = draw_pictures(random, ids[place], ids[other])
            label = np.where(inside, place[:, None, None], other[:, None, None]).astype(np.uint8)
            return dict(zip(("image", "label"), self.finish(images, label), strict=True))

        train = Stream(
            _Pools(make, self.pools, 64),
            sampler=functools.partial(_PoolSampler, size=64, visits=8),
        )
        test = Stream(ArraySource(make(0, stream=1, count=self.test)))
        return Splits(train, {"base": test}, self.describe())


@dataclasses.dataclass(frozen=True)
class GridEpisodes(_Grids):
    """Stage 2: episodes, as jaxcog.data.datasets.segmentation_episodes.Episodes has them.

    Support and query share the target, not the other class. Training visits pools of 64 base
    episodes `visits` times each. Evaluation splits "novel" and "base" of `episodes` each.
    """

    shot: int = 1
    pools: int = 300
    visits: int = 10
    episodes: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shot", "pools", "visits", "episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name}={getattr(self, name)}: at least 1")

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        element = episode_element(self.shot, *self.shapes)
        number = jax.ShapeDtypeStruct((), np.int32)
        names = {split: self.names(split == "novel") for split in ("novel", "base")}
        return DataInfo(
            element,
            64 * self.pools,
            names["base"],
            {**element, "episode": number, "run": number},
            {"mean": 0.0, "std": 1.0, "classes": names},
        )

    def load(self) -> Splits:
        """Generated episodes, those of the evaluation in memory."""
        train = Stream(
            _Pools(lambda pool: self._draw([self.seed, pool], False, 64), self.pools, 64),
            sampler=functools.partial(_PoolSampler, size=64, visits=self.visits),
        )
        evaluation = {}
        for stream, split in enumerate(("novel", "base"), 1):
            rows = self._draw([self.seed, 0, stream], split == "novel", self.episodes)
            rows["episode"] = np.arange(self.episodes, dtype=np.int32)
            rows["run"] = np.zeros(self.episodes, np.int32)
            evaluation[split] = Stream(ArraySource(rows))
        return Splits(train, evaluation, self.describe())

    def _draw(self, seed: list[int], novel: bool, count: int) -> Record:
        random = np.random.default_rng(seed)
        ids, images = self.ids(novel), self.shot + 1
        target = random.integers(len(ids), size=count)
        wanted = target.repeat(images)
        _, other = _two_classes(random, len(ids), count * images, wanted)
        drawn = draw_pictures(random, ids[wanted], ids[other])
        pictures, masks = self.finish(drawn[0], drawn[1].astype(np.uint8))
        pictures, masks = (x.reshape(count, images, *x.shape[1:]) for x in (pictures, masks))
        return {
            "support": pictures[:, :-1],
            "support_mask": masks[:, :-1],
            "query": pictures[:, -1],
            "query_mask": masks[:, -1],
            "class": target.astype(np.int32),
        }


def _two_classes(
    random: np.random.Generator, classes: int, count: int, first: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """int [count] twice, different from one another; `first` may be given."""
    if first is None:
        first = random.integers(classes, size=count)
    return first, (first + random.integers(1, classes, count)) % classes
