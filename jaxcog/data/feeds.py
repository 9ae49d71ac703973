"""How one stream of a run becomes arrays: records by step and row, this process's part of a batch.

Everything here is a function of (seed, step), so it can run in any thread or worker process.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcog.data.samplers import Recent
from jaxcog.data.types import BadRecord, Gathered, Record, Sampler, Stream
from jaxcog.errors import DataError

_CANDIDATES = 64


def crc(name: str) -> int:
    """A number for a stream's name, to seed its generators with."""
    return zlib.crc32(name.encode())


@dataclasses.dataclass(frozen=True)
class Once:
    """In order, once; the last batch repeats the last record."""

    num_examples: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        first = step * self.batch_size
        return np.minimum(np.arange(first, first + self.batch_size), self.num_examples - 1)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One record with its index, and the undecodable ones (name, reason) met on the way to it."""

    record: Record
    index: int
    bad: tuple[tuple[str, str], ...] = ()


class Feed:
    """One stream of a run: turns (step, row) into records, and records into this process's rows.

    once: of a stream that is read once, in order, how many records it has; what lies beyond them
      is masked.
    """

    def __init__(
        self,
        name: str,
        stream: Stream,
        sampler: Sampler,
        seed: int,
        rows: np.ndarray | None,
        once: int | None = None,
    ):
        self.name = name
        self.stream = stream
        self.sampler = sampler
        self.rows = rows
        self.once = once
        self.memory = stream.source if isinstance(stream.source, Gathered) else None
        if stream.transform is not None:
            self.memory = None
        self._seed = [seed, crc(name)]
        self._indices = Recent(sampler.indices, size=8)
        # A batch transform must draw the same whatever the rows, so it gets the whole batch.
        if rows is None or stream.batch_transform is not None:
            self.load_rows = np.arange(len(sampler.indices(0)))
        else:
            self.load_rows = rows

    @property
    def count(self) -> int:
        """Records to load one by one for a batch."""
        return len(self.load_rows) if self.memory is None else 0

    def load(self, step: int, place: int) -> Loaded:
        """The record for row `load_rows[place]` of batch `step`, or its stand-in."""
        indices = self._indices(step)
        row = int(self.load_rows[place])
        position = step * len(indices) + row
        bad: list[tuple[str, str]] = []
        for index in self._candidates(int(indices[row]), position):
            try:
                record = self.stream.source[index]
                if self.stream.transform is not None:
                    random = np.random.default_rng([*self._seed, position])
                    record = self.stream.transform(record, random)
                return Loaded(record, index, tuple(bad))
            except BadRecord as error:
                bad.append((self.stream.source.name_of(index), str(error)))
        raise DataError(
            f'stream "{self.name}": {len(bad)} records in a row cannot be decoded, the first being '
            f"{bad[0][0]} ({bad[0][1]}); the data is damaged: prepare it again"
        )

    def _candidates(self, index: int, position: int) -> Iterator[int]:
        yield index
        substitutes = getattr(self.sampler, "substitutes", None)
        pool = np.arange(len(self.stream.source)) if substitutes is None else substitutes(index)
        pool = pool[pool != index]
        random = np.random.default_rng([*self._seed, position, 2])
        yield from map(int, random.permutation(pool)[:_CANDIDATES])

    def gather(self, step: int, memory: Gathered) -> tuple[Record, np.ndarray]:
        """Arrays and indices of this process's rows, straight from memory."""
        indices = self.sampler.indices(step)
        if self.rows is not None and self.stream.batch_transform is None:
            indices = indices[self.rows]
        arrays = memory.take(indices)
        return self._finish(step, arrays, indices)

    def stack(self, step: int, loaded: list[Loaded]) -> tuple[Record, np.ndarray]:
        """The same from records loaded one by one."""
        arrays = {name: np.stack([one.record[name] for one in loaded]) for name in loaded[0].record}
        arrays, indices = self._finish(step, arrays, np.array([one.index for one in loaded]))
        if self.once is not None:
            own = loaded if self.stream.batch_transform is None else self._own(loaded)
            arrays["mask"] &= np.array([not one.bad for one in own])
        return arrays, indices

    def _own(self, loaded: list[Loaded]) -> list[Loaded]:
        return loaded if self.rows is None else [loaded[row] for row in self.rows]

    def _finish(self, step: int, arrays: Record, indices: np.ndarray) -> tuple[Record, np.ndarray]:
        if self.stream.batch_transform is not None:
            random = np.random.default_rng([*self._seed, step, 1])
            arrays = self.stream.batch_transform(arrays, random)
            if self.rows is not None:
                arrays = {name: value[self.rows] for name, value in arrays.items()}
                indices = indices[self.rows]
        if self.once is not None:
            size = len(self._indices(step))
            positions = step * size + (np.arange(size) if self.rows is None else self.rows)
            arrays = {**arrays, "mask": positions < self.once}
        return arrays, indices


class Loader:
    """All streams of a run behind one numbering of records, for grain; picklable for workers."""

    def __init__(self, feeds: list[Feed], nested: bool):
        self.feeds = feeds
        self.nested = nested
        self.count = sum(feed.count for feed in feeds)

    def load(self, position: int) -> tuple[int, Loaded]:
        """Record `position` of the run, counted over this process's records only."""
        step, place = divmod(position, self.count)
        for feed in self.feeds:
            if place < feed.count:
                return step, feed.load(step, place)
            place -= feed.count
        raise IndexError(position)

    def collate(self, elements: list[tuple[int, Loaded]]) -> dict[str, Any]:
        """One batch from its records, in order."""
        return self.batch(elements[0][0], [loaded for _, loaded in elements])

    def batch(self, step: int, loaded: list[Loaded] | None = None) -> dict[str, Any]:
        """{"arrays", "indices", "bad"}: what a worker sends back."""
        loaded = loaded or []
        arrays: dict[str, Record] = {}
        indices: dict[str, np.ndarray] = {}
        first = 0
        for feed in self.feeds:
            if feed.memory is not None:
                arrays[feed.name], indices[feed.name] = feed.gather(step, feed.memory)
            else:
                own = loaded[first : first + feed.count]
                first += feed.count
                arrays[feed.name], indices[feed.name] = feed.stack(step, own)
        bad = [one for item in loaded for one in item.bad]
        return {"arrays": arrays, "indices": indices, "bad": bad}
