"""Few-shot episodes over videos in memory: K annotated supports and a query of one class.

Record i is an episode made from i alone, so episodes are a source like any other and a resumed run
sees the same ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcog.data.types import Record, Splits, Stream
from jaxcog.errors import DataError
from jaxcog.task import DataInfo

_RUN = 1 << 40  # episodes of runs with different seeds lie so far apart


@dataclasses.dataclass(frozen=True)
class Pool:
    """What episodes are drawn from: entries, each a video as an example of one class.

    video, label: int [E]. mask: float32 [E, T], the class's snippets. segments: float32 [E, S, 2]
    seconds, filled with -1. duration: float32 [E] seconds. names: [E] of the videos. class_names.
    repeats: [E], how many instances of the entry pass (the official sampler counts each).
    """

    video: np.ndarray
    label: np.ndarray
    mask: np.ndarray
    segments: np.ndarray
    duration: np.ndarray
    names: Sequence[str]
    class_names: tuple[str, ...]
    repeats: np.ndarray

    def __len__(self) -> int:
        return len(self.video)

    def select(self, rows: np.ndarray) -> Pool:
        """Some of the entries (indices)."""
        arrays = {
            name: getattr(self, name)[rows]
            for name in ("video", "label", "mask", "segments", "duration", "repeats")
        }
        return dataclasses.replace(self, **arrays, names=[self.names[i] for i in rows])

    def of_class(self) -> dict[int, np.ndarray]:
        """Class -> its entries."""
        labels = np.unique(self.label)
        return {int(label): np.flatnonzero(self.label == label) for label in labels}


def check_pool(pool: Pool, shots: int, part: str) -> None:
    """Raises DataError naming the classes with fewer than shots + 1 videos."""
    if not len(pool):
        raise DataError(f"no video of the {part} classes can be used: check the class split")
    counts = {label: len(np.unique(pool.video[rows])) for label, rows in pool.of_class().items()}
    few = {pool.class_names[label]: n for label, n in counts.items() if n < shots + 1}
    if few:
        shown = ", ".join(f"{name} ({n})" for name, n in list(few.items())[:8])
        raise DataError(
            f"{part} classes with fewer than {shots + 1} videos, for {shots} supports and a query"
            f": {shown}. Lower data.shots, add videos, or take the class out of the split"
        )


Draw = Callable[[int], tuple[int, np.ndarray]]
"""id -> (query entry, support entries [K])."""


def random_draw(pool: Pool, shots: int, seed: int, released: bool = False) -> Draw:
    """A class, then its query and K other videos, all uniform and without replacement.

    released: as the official code. A video counts once per instance as a query; supports are drawn
    with replacement, from a part of the pool, and the query may be among them.
    """
    classes = pool.of_class()
    labels = np.array(list(classes))

    def draw(index: int) -> tuple[int, np.ndarray]:
        random = np.random.default_rng([seed, index])
        rows = classes[int(random.choice(labels))]
        if released:
            rows = np.repeat(rows, pool.repeats[rows])
            first = rows[: len(np.unique(pool.video[rows]))]
            return int(random.choice(rows)), random.choice(first, shots)
        query = int(random.choice(rows))
        return query, _others(random, pool, rows, query, shots)

    return draw


def every_query(pool: Pool, shots: int, seed: int) -> Draw:
    """Episode r * len(pool) + e has entry e as its query; supports are drawn anew for each r."""
    classes = pool.of_class()

    def draw(index: int) -> tuple[int, np.ndarray]:
        query = index % len(pool)
        random = np.random.default_rng([seed, 1, index])
        rows = classes[int(pool.label[query])]
        return query, _others(random, pool, rows, query, shots)

    return draw


def _others(
    random: np.random.Generator, pool: Pool, rows: np.ndarray, query: int, shots: int
) -> np.ndarray:
    rows = rows[pool.video[rows] != pool.video[query]]
    return random.choice(rows, shots, replace=False)


class EpisodeSource:
    """Episodes as a Source; the pipeline gathers whole batches from it with `take`.

    Args:
      inputs: float32 [N, T, C] of the videos.
      size: number of episodes that count as all of them.
      judged: with what an evaluation needs: "segments", "duration", "label", "video", "repeat".
      trimmed: supports count as foreground throughout.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        pool: Pool,
        draw: Draw,
        size: int,
        *,
        judged: bool = False,
        trimmed: bool = False,
    ):
        self.inputs = inputs
        self.pool = pool
        self.draw = draw
        self.size = size
        self.judged = judged
        self.trimmed = trimmed

    def __len__(self) -> int:
        return self.size

    def take(self, indices: np.ndarray) -> Record:
        """Episodes, stacked: see `episode_element` for the entries."""
        drawn = [self.draw(int(index)) for index in indices]
        query = np.array([row for row, _ in drawn])
        support = np.stack([rows for _, rows in drawn])
        pool = self.pool
        mask = pool.mask[support]
        record = {
            "support": self.inputs[pool.video[support]],
            "support_mask": np.ones_like(mask) if self.trimmed else mask,
            "query": self.inputs[pool.video[query]],
            "query_mask": pool.mask[query],
        }
        if self.judged:
            record |= {
                "segments": pool.segments[query],
                "duration": pool.duration[query],
                "label": pool.label[query].astype(np.int32),
                "video": pool.video[query].astype(np.int32),
                "repeat": (np.asarray(indices) // len(pool)).astype(np.int32),
            }
        return record

    def __getitem__(self, index: int) -> Record:
        return {name: value[0] for name, value in self.take(np.array([index])).items()}

    def name_of(self, index: int) -> str:
        query, support = self.draw(int(index))
        name = self.pool.class_names[int(self.pool.label[query])]
        supports = ", ".join(self.pool.names[row] for row in support)
        return f"{name}: query {self.pool.names[query]}, supports {supports}"


class FreshEpisodes:
    """Sampler of episodes that were never drawn before: batch after batch without an end."""

    def __init__(self, num_examples: int, batch_size: int, seed: int):
        self.batch_size = batch_size
        self.first = (seed % (1 << 20)) * _RUN
        self.steps_per_epoch = max(num_examples // batch_size, 1)

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch]: the episodes of update `step`."""
        first = self.first + step * self.batch_size
        return np.arange(first, first + self.batch_size, dtype=np.int64)


def episode_element(shots: int, length: int, channels: int, instances: int = 0) -> dict[str, Any]:
    """Shapes of one episode; with `instances` those of an evaluation's."""

    def shape(*sizes: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype)

    element = {
        "support": shape(shots, length, channels),
        "support_mask": shape(shots, length),
        "query": shape(length, channels),
        "query_mask": shape(length),
    }
    if instances:
        element |= {"segments": shape(instances, 2), "duration": shape()}
        element |= {name: shape(dtype=np.int32) for name in ("label", "video", "repeat")}
    return element


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How episodes are made.

    shots: K. episodes: training episodes that count as an epoch. repeats: evaluations of every
    query, each with other supports. seed: of both. released: the official sampling in training.
    trimmed: see EpisodeSource.
    """

    shots: int
    episodes: int
    repeats: int
    seed: int = 0
    released: bool = False
    trimmed: bool = False


def episode_splits(
    inputs: np.ndarray,
    train: Pool,
    evaluation: Mapping[str, Pool],
    protocol: Protocol,
    info: DataInfo,
    *,
    frozen: bool,
) -> Splits:
    """Training episodes of one pool, and every query of others.

    inputs: [N, T, F] of all videos that the pools name. frozen: they go through the task's frozen
    network first (`Task.embed`), once.

    Raises:
      DataError: a class with too few videos.
    """
    for part, pool in (("base", train), *evaluation.items()):
        check_pool(pool, protocol.shots, part)
    draw = random_draw(train, protocol.shots, protocol.seed, protocol.released)

    def splits(inputs: np.ndarray) -> Splits:
        source = EpisodeSource(inputs, train, draw, protocol.episodes, trimmed=protocol.trimmed)
        judged = {
            part: Stream(
                EpisodeSource(
                    inputs,
                    pool,
                    every_query(pool, protocol.shots, protocol.seed),
                    protocol.repeats * len(pool),
                    judged=True,
                    trimmed=protocol.trimmed,
                )
            )
            for part, pool in evaluation.items()
        }
        return Splits(Stream(source, sampler=FreshEpisodes), judged, info)

    made = splits(inputs)
    return dataclasses.replace(made, inputs=inputs, rebuilt=splits) if frozen else made
