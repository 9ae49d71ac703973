"""Batches for the loop: the batch of update s is a function of (data, seed, s) and nothing else.

Neither the step at which a run starts, nor the number of reading threads or worker processes, nor
how many processes share a batch changes it; so a checkpoint holds no iterator, only a fingerprint.
Data in memory is gathered a whole batch at a time; everything else is read by grain.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import numpy as np

from jaxcog.data.feeds import Feed, Loader, Once, crc
from jaxcog.data.samplers import Uniform
from jaxcog.data.types import Experience, Sampler, Splits, Stream
from jaxcog.errors import CheckpointError, DataError

VERSION = 1
"""Of the rule that turns (seed, step) into records. Raise it when the rule changes."""

SINGLE = "train"
"""Name of the stream where a dataset has only one; it seeds that stream's generators."""

_INLINE_BYTES = 1 << 20

OnBad = Callable[[str, str], None]
Train = Splits | Stream | Mapping[str, Stream] | Experience
Rows = np.ndarray | slice | None
Elements = Generator[dict[str, Any], None, None]
"""What `Loader.batch` makes, batch by batch."""


class Named(Protocol):
    """Something whose entries have names, such as a Source."""

    def name_of(self, index: int) -> str: ...


@dataclasses.dataclass(frozen=True)
class LocalBatch:
    """The part of one global batch that this process holds.

    arrays: name -> array with this process's rows first; one level deeper for named streams.
    step: the update (or, in evaluation, the number of the batch) that it belongs to.
    indices: stream name -> int64 [rows], the records really used.
    """

    arrays: dict[str, Any]
    step: int
    indices: Mapping[str, np.ndarray]
    sources: Mapping[str, Named]

    @property
    def ids(self) -> list[str]:
        """What to call each row in messages; several streams follow one another."""
        several = len(self.sources) > 1
        return [
            f"{stream}: {source.name_of(int(i))}" if several else source.name_of(int(i))
            for stream, source in self.sources.items()
            for i in self.indices[stream]
        ]


def train_batches(
    train: Train,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    stop_step: int,
    rows: Rows | Mapping[str, Rows] = None,
    workers: int = 0,
    corrupt_limit: int = 0,
    prefetch: int = 2,
    on_bad: OnBad | None = None,
) -> Generator[LocalBatch, None, None]:
    """Batches of the updates start_step, ..., stop_step - 1.

    Record i of update s draws from a generator seeded by (seed, stream, s * batch + i); a
    `batch_transform` from one seeded by (seed, stream, s), and it always sees the whole global
    batch, of which the rows are then taken.

    Args:
      train: one stream or several by name, or the Splits that hold them.
      batch_size: global, over all processes; a stream with `batch_share` n has n times the rows.
      rows: the rows of the global batch that this process holds; None: all. With several streams:
        by stream name; or for all of them, when rows [a, b) mean rows [n a, n b) of share n.
      workers: processes that read and decode; 0: threads in this process. Data in memory needs
        neither and ignores it.
      corrupt_limit: how many different undecodable records this process may meet in the run. Each
        is replaced by another record, chosen as a function of the position in the stream.
      prefetch: batches made ahead.
      on_bad: called once per undecodable record with its name and the reason.

    Raises:
      DataError: an empty stream, fewer examples than one batch, too many undecodable records, or
        a worker process that died.
    """
    feeds = [
        Feed(
            name=name,
            stream=stream,
            sampler=make_sampler(name, stream, batch_size=batch_size, seed=seed),
            seed=seed,
            rows=_stream_rows(rows, name, batch_size, stream.batch_share),
        )
        for name, stream in _named(train).items()
    ]
    loader = Loader(feeds, nested=not isinstance(_streams(train), Stream))
    tally = _Tally(corrupt_limit, on_bad)
    return _batches(loader, tally, range(start_step, stop_step), workers, prefetch)


def eval_batches(
    stream: Stream,
    *,
    batch_size: int,
    rows: Rows = None,
    workers: int = 0,
    corrupt_limit: int = 0,
    prefetch: int = 2,
    on_bad: OnBad | None = None,
    name: str = "eval",
) -> Generator[LocalBatch, None, None]:
    """Every record once, in order. arrays["mask"] (bool [rows]) is False on rows that only fill up.

    The last batch is filled with copies of the last record. An undecodable record is replaced by
    another one and masked, so that it does not count. Arguments and errors as in `train_batches`.
    """
    if len(stream.source) == 0:
        raise DataError(f'evaluation split "{name}" is empty: prepare the data again')
    sampler = Once(len(stream.source), batch_size)
    feed = Feed(
        name,
        stream,
        sampler,
        seed=0,
        rows=_stream_rows(rows, name, batch_size, 1),
        once=len(stream.source),
    )
    tally = _Tally(corrupt_limit, on_bad)
    steps = range(sampler.steps_per_epoch)
    return _batches(Loader([feed], nested=False), tally, steps, workers, prefetch)


def make_sampler(name: str, stream: Stream, *, batch_size: int, seed: int) -> Sampler:
    """The stream's sampler for a global batch. Raises DataError naming the stream."""
    seed = int(np.random.SeedSequence([seed, crc(name)]).generate_state(1, np.uint64)[0])
    try:
        make = stream.sampler or Uniform
        return make(len(stream.source), batch_size * stream.batch_share, seed)
    except DataError as error:
        raise DataError(f'stream "{name}": {error}') from error


def steps_per_epoch(train: Train, batch_size: int, seed: int) -> int:
    """Updates until the stream that counts (`Splits.epoch_stream`; else the longest) is read once.

    Shorter streams start again meanwhile. One for an Experience, which has no end.
    """
    if isinstance(_streams(train), Experience):
        return 1
    streams = _named(train)
    if isinstance(train, Splits) and train.epoch_stream is not None:
        streams = {train.epoch_stream: streams[train.epoch_stream]}
    return max(
        make_sampler(name, stream, batch_size=batch_size, seed=seed).steps_per_epoch
        for name, stream in streams.items()
    )


def fingerprint(train: Train, *, seed: int, batch_size: int) -> dict[str, Any]:
    """What decides the order of the data, as plain JSON values; stored in every checkpoint."""
    streams = _streams(train)
    if isinstance(streams, Experience):
        examples = {"horizon": streams.horizon}
    else:
        examples = {name: len(stream.source) for name, stream in _named(train).items()}
    return {"version": VERSION, "seed": seed, "examples": examples, "batch_size": batch_size}


def check_fingerprint(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises CheckpointError where data of a checkpoint and of this run would differ in order."""
    differ = [
        f"  {name}: checkpoint {saved.get(name)}, this run {now.get(name)}"
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name)
    ]
    if differ:
        raise CheckpointError(
            "\n".join(
                [
                    "the checkpoint was written with another order of the training data:",
                    *differ,
                    "go on with the same data, train.seed and train.batch_size, or start a new "
                    "workdir with train.start_from",
                ]
            )
        )


class _Tally:
    """Counts different undecodable records and ends the run past the limit."""

    def __init__(self, limit: int, on_bad: OnBad | None):
        self.limit = limit
        self.on_bad = on_bad
        self.reasons: dict[str, str] = {}

    def add(self, bad: list[tuple[str, str]]) -> None:
        for name, reason in bad:
            if name in self.reasons:
                continue
            self.reasons[name] = reason
            if self.on_bad is not None:
                self.on_bad(name, reason)
        if len(self.reasons) > self.limit:
            lines = [f"  {name}: {reason}" for name, reason in self.reasons.items()]
            hidden = [f"  and {len(lines) - 20} more"] if len(lines) > 20 else []
            raise DataError(
                "\n".join(
                    [
                        f"{len(lines)} undecodable records, {self.limit} allowed:",
                        *lines[:20],
                        *hidden,
                        "repair or remove them and prepare the data again, or raise "
                        "train.corrupt_limit to skip that many",
                    ]
                )
            )


def _batches(
    loader: Loader, tally: _Tally, steps: range, workers: int, prefetch: int
) -> Generator[LocalBatch, None, None]:
    if not steps:
        return
    sources = {feed.name: feed.stream.source for feed in loader.feeds}
    if loader.count == 0:
        elements = _from_memory(loader, steps, prefetch)
    else:
        elements = _from_grain(loader, steps, workers, prefetch)
    with contextlib.closing(elements):
        for step, element in zip(steps, elements, strict=True):
            tally.add(element["bad"])
            arrays = element["arrays"]
            if not loader.nested:
                (arrays,) = arrays.values()
            yield LocalBatch(arrays, step, element["indices"], sources)


def _from_memory(
    loader: Loader, steps: range, prefetch: int
) -> Generator[dict[str, Any], None, None]:
    """Gathered in this thread when a batch is small, since handing it over would cost more."""
    remaining = iter(steps)
    for step in remaining:
        element = loader.batch(step)
        yield element
        small = sum(
            value.nbytes for arrays in element["arrays"].values() for value in arrays.values()
        )
        plain = all(feed.stream.batch_transform is None for feed in loader.feeds)
        if prefetch == 0 or (plain and small < _INLINE_BYTES):
            yield from map(loader.batch, remaining)
            return
        break
    with ThreadPoolExecutor(1, thread_name_prefix="jaxcog-batches") as pool:
        ahead = deque(pool.submit(loader.batch, s) for s in islice(remaining, prefetch))
        try:
            while ahead:
                element = ahead.popleft().result()
                ahead.extend(pool.submit(loader.batch, s) for s in islice(remaining, 1))
                yield element
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _from_grain(loader: Loader, steps: range, workers: int, prefetch: int) -> Elements:
    import grain

    workers = min(workers, len(steps))
    records = grain.MapDataset.range(steps.stop * loader.count)[steps.start * loader.count :]
    records = records.map(loader.load)
    if workers > 0:
        _mark_flags_parsed()
        # Workers take whole batches in turn, so their number cannot change what a batch holds.
        batches = records.batch(loader.count, batch_fn=loader.collate)
        batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(prefetch, 1))
        batches = batches.mp_prefetch(options)
    else:
        threads = min(16, 2 * (os.cpu_count() or 1)) if prefetch else 0
        reading = grain.ReadOptions(threads, prefetch * loader.count)
        batches = records.to_iter_dataset(reading).batch(loader.count, batch_fn=loader.collate)
        batches = grain.experimental.ThreadPrefetchIterDataset(
            batches, prefetch_buffer_size=prefetch
        )
    iterator = iter(batches)
    try:
        yield from iterator
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        raise DataError(
            f"a data worker process died ({error}). Often it ran out of memory: lower "
            "train.workers, or set it to 0 to read in this process and see the cause"
        ) from error
    finally:
        iterator.close()


def _mark_flags_parsed() -> None:
    """Grain reads absl flags before it starts a process and refuses where no one parsed them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _streams(train: Train) -> Stream | Mapping[str, Stream] | Experience:
    return train.train if isinstance(train, Splits) else train


def _named(train: Train) -> dict[str, Stream]:
    streams = _streams(train)
    if isinstance(streams, Experience):
        raise TypeError("an Experience has no stream: its batches are played, see training")
    return {SINGLE: streams} if isinstance(streams, Stream) else dict(streams)


def _stream_rows(
    rows: Rows | Mapping[str, Rows], name: str, batch_size: int, share: int
) -> np.ndarray | None:
    if isinstance(rows, Mapping):
        own = rows[name]
        return None if own is None else np.arange(batch_size * share)[own]
    if rows is None:
        return None
    return (np.arange(batch_size)[rows][:, None] * share + np.arange(share)).ravel()
