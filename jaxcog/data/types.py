"""What every dataset hands over: sources of records, samplers, streams, splits.

A config of a dataset (a frozen dataclass in `data/datasets` or `data/toy`) has two methods:
`describe() -> DataInfo`, which touches no disk (for `plan`), and `load() -> Splits`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxcog.task import DataInfo

Record = dict[str, Any]
"""One example: arrays (or bytes, before decoding) by name."""


@runtime_checkable
class Source(Protocol):
    """Random access to records. `name_of` says what to call record i in messages (a file, a row).

    A record that cannot be decoded raises `BadRecord`; the pipeline counts it, names it and takes
    another in its place.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def name_of(self, index: int) -> str: ...


class BadRecord(Exception):
    """A record that cannot be used: an undecodable image, a truncated file, an empty text."""


class Sampler(Protocol):
    """Which records make up each batch: a function of the step, so that nothing is ever stored."""

    steps_per_epoch: int

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch]: the records of the global batch of update `step` (0-based)."""
        ...


Transform = Callable[[Record, np.random.Generator], Record]
"""One record in, one out (decode, augment, normalise); randomness from the generator alone."""

MakeSampler = Callable[[int, int, int], Sampler]
"""(number of examples, batch size, seed) -> Sampler."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """Training examples: where they are, in what order, and how each becomes arrays.

    transform: per record, with its own generator. batch_transform: the same on a whole batch of
      stacked arrays (the fast way for data in memory); at most one of the two is usual.
    sampler: None means uniform without replacement, reshuffled every epoch, last partial batch
      dropped.
    batch_share: part of the global batch that this stream fills where there are several streams;
      an int multiplies `train.batch_size` (FixMatch with 7 unlabelled per labelled: 7).
    """

    source: Source
    transform: Transform | None = None
    batch_transform: Callable[[Record, np.random.Generator], Record] | None = None
    sampler: MakeSampler | None = None
    batch_share: int = 1


@dataclasses.dataclass(frozen=True)
class Splits:
    """A dataset ready for a run.

    train: one Stream, or several by name (the batch is then {"name": {...}}).
    evaluation: split name -> Stream; read in order, once, padded and masked. Its transform must
      not use the generator.
    info: see DataInfo; `info.num_examples` is the number of examples really there.
    """

    train: Stream | Mapping[str, Stream]
    evaluation: Mapping[str, Stream]
    info: DataInfo
    epoch_stream: str | None = None  # of several streams, the one that counts the epochs

    def epoch_source(self) -> Stream:
        """The stream whose sampler says how many steps an epoch has."""
        if isinstance(self.train, Stream):
            return self.train
        return self.train[self.epoch_stream or next(iter(self.train))]


class ArraySource:
    """Arrays in memory as a source; the pipeline gathers whole batches from it with `take`."""

    def __init__(self, arrays: Record, names: list[str] | None = None):
        lengths = {name: len(value) for name, value in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"ArraySource: arrays of different lengths: {lengths}")
        self.arrays = arrays
        self.names = names
        self.size = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Record:
        return {name: value[index] for name, value in self.arrays.items()}

    def take(self, indices: np.ndarray) -> Record:
        """Rows `indices` of every array, stacked."""
        return {name: value[indices] for name, value in self.arrays.items()}

    def name_of(self, index: int) -> str:
        return self.names[index] if self.names else f"row {index}"


class DataConfig(Protocol):
    """A dataset's hyperparameters: a frozen dataclass that can describe and load itself."""

    def describe(self) -> DataInfo: ...

    def load(self) -> Splits: ...
