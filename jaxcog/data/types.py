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


@runtime_checkable
class Gathered(Source, Protocol):
    """A source in memory, which hands over a whole batch at once."""

    def take(self, indices: np.ndarray) -> Record:
        """Records `indices`, stacked."""
        ...


class BadRecord(Exception):
    """A record that cannot be used: an undecodable image, a truncated file, an empty text."""


class Sampler(Protocol):
    """Which records make up each batch: a function of the step, so that nothing is ever stored."""

    @property
    def steps_per_epoch(self) -> int: ...

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
class Transition:
    """What one step of all environments brought.

    observation: name -> [E, ...], what is seen next; of a new episode where `done`.
    reward: float32 [E]. done: bool [E], whether the step ended an episode.
    """

    observation: Record
    reward: np.ndarray
    done: np.ndarray


class Environments(Protocol):
    """E environments side by side, on the host; an episode that ended begins anew by itself."""

    def reset(self) -> Record:
        """The first observation of each environment: name -> [E, ...]."""
        ...

    def step(self, actions: np.ndarray) -> Transition:
        """One step of each environment; `actions` is int32 [E]."""
        ...

    def close(self) -> None: ...


class MakeEnvironments(Protocol):
    """Makes one environment for each seed; all that happens in it follows from seed and actions.

    level: the one that all of them always play; None: many, as the split has them.
    """

    def __call__(self, seeds: np.ndarray, level: int | None = None) -> Environments: ...


@dataclasses.dataclass(frozen=True)
class Experience:
    """Training data that depends on the State: environments in which the task's `act` acts.

    Before each update the loop lets `train.batch_size` environments take `horizon` steps with the
    current State. One example of the batch is one environment's segment, by time t:

    * each entry of the observation, "reward", "done" (the step ended an episode) and "return" (the
      sum of the rewards of the episode up to this step): [horizon, ...];
    * each entry that `act` returns, "action" among them: [horizon + 1, ...]; the last one belongs
      to the observation behind the segment, which the next segment begins with.

    `DataInfo.element` says so in advance. In evaluation every environment plays one episode, and
    an example is {"return", "length"} of that episode. An epoch is one update.

    The environments are no part of a checkpoint. They begin anew, with new seeds, at every update
    at which `train.checkpoint_every` is due, whether a run stops there or not: so a run that goes
    on from such a checkpoint is the run that never stopped. After a stop anywhere else (a signal)
    they begin anew there, and the run goes on with other episodes.

    horizon: steps of each environment per update.
    episodes: how many an evaluation plays. limit: steps after which each has surely ended.
    """

    make: MakeEnvironments
    horizon: int
    episodes: int = 100
    limit: int = 1000


@dataclasses.dataclass(frozen=True)
class Splits:
    """A dataset ready for a run.

    train: one Stream, or several by name (the batch is then {"name": {...}}), or an Experience.
    evaluation: split name -> Stream; read in order, once, padded and masked. Its transform must
      not use the generator. Or an Experience.
    info: see DataInfo; `info.num_examples` is the number of examples really there.
    epoch_stream: of several streams, the one whose length is an epoch; None: the longest.
    inputs, rebuilt: where a frozen network reads the data first (`Task.embed`): what it reads, [N,
      ...], and the function that makes the same splits of what it returned, [N, ...]. `info`
      describes the result. This is done once, when a run begins.
    """

    train: Stream | Mapping[str, Stream] | Experience
    evaluation: Mapping[str, Stream | Experience]
    info: DataInfo
    epoch_stream: str | None = None
    inputs: np.ndarray | None = None
    rebuilt: Callable[[np.ndarray], Splits] | None = None


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
