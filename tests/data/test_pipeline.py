"""The position of the data is a function of (seed, step), whatever reads it."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal

import numpy as np
import pytest

from jaxcog.data import pipeline, samplers
from jaxcog.data.types import ArraySource, BadRecord, Splits, Stream
from jaxcog.errors import CheckpointError, DataError
from jaxcog.task import DataInfo


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Records {"x": i}; those in `bad` cannot be decoded; reading `deadly` kills the process."""

    size: int
    bad: tuple[int, ...] = ()
    deadly: int = -1

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.bad:
            raise BadRecord("truncated")
        return {"x": np.int64(index)}

    def name_of(self, index):
        return f"file{index}.jpg"


def add_noise(record, random):
    return {**record, "noise": random.random(2)}


def add_batch_noise(batch, random):
    return {**batch, "noise": random.random((len(batch["x"]), 2))}


def in_memory(size, **options):
    return Stream(ArraySource({"x": np.arange(size)}), **options)


STREAMS = {
    "records": Stream(Numbers(23), transform=add_noise),
    "memory": in_memory(23),
    "memory and batch transform": in_memory(23, batch_transform=add_batch_noise),
    "records and batch transform": Stream(Numbers(23), batch_transform=add_batch_noise),
    "several": {
        "labelled": Stream(Numbers(23), transform=add_noise),
        "unlabelled": in_memory(40, batch_share=3, batch_transform=add_batch_noise),
    },
    "domains": in_memory(
        24, sampler=functools.partial(samplers.RandomDomain, domains=np.arange(24) % 3)
    ),
}


def read(train, start=0, stop=12, **options):
    options = {"batch_size": 4, "seed": 5, **options}
    return list(pipeline.train_batches(train, start_step=start, stop_step=stop, **options))


def leaves(arrays):
    for name, value in sorted(arrays.items()):
        yield from leaves(value) if isinstance(value, dict) else [(name, value)]


def assert_same(left, right):
    assert [batch.step for batch in left] == [batch.step for batch in right]
    for a, b in zip(left, right, strict=True):
        for (name, x), (other, y) in zip(leaves(a.arrays), leaves(b.arrays), strict=True):
            assert name == other
            np.testing.assert_array_equal(x, y)
        assert a.ids == b.ids


@pytest.mark.parametrize("kind", STREAMS)
def test_resumed_stream_is_the_tail_of_the_whole(kind):
    whole = read(STREAMS[kind])
    assert_same(whole[7:], read(STREAMS[kind], start=7))
    assert_same(whole, read(STREAMS[kind], prefetch=0))
    assert_same(whole[:1], read(STREAMS[kind], stop=1))


@pytest.mark.parametrize("kind", STREAMS)
def test_rows_are_those_of_the_whole_batch(kind):
    whole = read(STREAMS[kind], stop=8)
    first = read(STREAMS[kind], stop=8, rows=slice(0, 2))
    last = read(STREAMS[kind], stop=8, rows=np.array([2, 3]))
    for batch, a, b in zip(whole, first, last, strict=True):
        parts = zip(leaves(batch.arrays), leaves(a.arrays), leaves(b.arrays), strict=True)
        for (_, x), (_, y), (_, z) in parts:
            np.testing.assert_array_equal(x, np.concatenate([y, z]))


@pytest.mark.parametrize("workers", [2, 3])
def test_worker_processes_change_nothing(workers):
    train = {
        "a": Stream(Numbers(23, bad=(3,)), transform=add_noise),
        "b": in_memory(40, batch_share=2, batch_transform=add_batch_noise),
    }
    bad = []
    options = {"stop": 9, "corrupt_limit": 1, "rows": slice(1, 4)}
    alone = read(train, **options)
    shared = read(
        train, **options, workers=workers, on_bad=lambda name, reason: bad.append((name, reason))
    )
    assert_same(alone, shared)
    assert bad == [("file3.jpg", "truncated")]
    assert_same(alone[4:], read(train, **{**options, "start": 4}, workers=workers))


@pytest.mark.parametrize("kind", ["records", "memory"])
def test_every_record_once_an_epoch_and_another_order_in_the_next(kind):
    epochs = np.stack([batch.arrays["x"] for batch in read(STREAMS[kind], stop=10)])
    epochs = epochs.reshape(2, 20)
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()
    again = np.stack([batch.arrays["x"] for batch in read(STREAMS[kind], stop=10, seed=6)])
    assert (again.ravel() != epochs.ravel()).any()


def test_generators_differ_between_records_and_steps():
    noise = np.concatenate([batch.arrays["noise"] for batch in read(STREAMS["records"])])
    assert len(np.unique(noise)) == noise.size


def test_rows_of_each_stream_by_name():
    train = STREAMS["several"]
    both = read(train, stop=3, rows=slice(1, 3))
    named = read(train, stop=3, rows={"labelled": np.array([1, 2]), "unlabelled": np.arange(3, 9)})
    assert_same(both, named)


def test_several_streams_have_their_shares():
    batch = read(STREAMS["several"], stop=1)[0]
    assert batch.arrays["labelled"]["x"].shape == (4,)
    assert batch.arrays["unlabelled"]["noise"].shape == (12, 2)
    assert len(batch.ids) == 16
    assert batch.ids[0].startswith("labelled: file")


def test_undecodable_records_are_named_and_replaced():
    bad = []
    train = Stream(Numbers(20, bad=(2, 7)), transform=add_noise)
    batches = read(
        train, stop=20, corrupt_limit=2, on_bad=lambda name, reason: bad.append((name, reason))
    )
    assert sorted(bad) == [("file2.jpg", "truncated"), ("file7.jpg", "truncated")]
    used = {int(x) for batch in batches for x in batch.arrays["x"]}
    assert used == set(range(20)) - {2, 7}
    assert all(batch.ids == [f"file{x}.jpg" for x in batch.arrays["x"]] for batch in batches)


def test_a_substitute_keeps_the_domain():
    domains = np.arange(24) // 8
    sampler = functools.partial(samplers.SeqDomain, domains=domains)
    train = Stream(Numbers(24, bad=(0, 9)), sampler=sampler)
    batches = read(train, stop=12, batch_size=6, corrupt_limit=2)
    for batch in batches:
        np.testing.assert_array_equal(domains[batch.arrays["x"]], [0, 0, 1, 1, 2, 2])


def test_too_many_undecodable_records_end_the_run():
    train = Stream(Numbers(20, bad=(2, 7)), transform=add_noise)
    with pytest.raises(DataError, match=r"(?s)2 undecodable.*file2.jpg.*corrupt_limit"):
        read(train, stop=20, corrupt_limit=1)
    with pytest.raises(DataError, match=r"file\d+.jpg: truncated"):
        read(train, stop=20)
    with pytest.raises(DataError, match="cannot be decoded"):
        read(Stream(Numbers(8, bad=tuple(range(8)))), stop=1, corrupt_limit=100)


def test_dead_worker_is_one_clear_error():
    train = Stream(Numbers(20, deadly=3))
    with pytest.raises(DataError, match=r"worker process died.*train\.workers"):
        read(train, stop=20, workers=2)


def test_a_closed_iterator_leaves_no_threads():
    import threading

    before = threading.active_count()
    for train in (STREAMS["records"], STREAMS["memory and batch transform"]):
        batches = pipeline.train_batches(train, batch_size=4, seed=0, start_step=0, stop_step=10**6)
        next(batches)
        batches.close()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and "prefetch" in thread.name:
            thread.join(timeout=5)
    assert threading.active_count() <= before + 1


def test_empty_and_too_small_sets():
    with pytest.raises(DataError, match=r'"train".*empty'):
        read(in_memory(0))
    with pytest.raises(DataError, match=r"3 examples do not fill one batch of 4.*batch_size"):
        read(in_memory(3))
    with pytest.raises(DataError, match='"test" is empty'):
        pipeline.eval_batches(in_memory(0), batch_size=4, name="test")


@pytest.mark.parametrize("stream", [Stream(Numbers(10)), in_memory(10)])
@pytest.mark.parametrize("rows", [None, slice(2, 4)])
def test_evaluation_is_in_order_once_and_masked(stream, rows):
    batches = list(pipeline.eval_batches(stream, batch_size=4, rows=rows))
    own = slice(None) if rows is None else rows
    x = np.arange(12).reshape(3, 4)[:, own]
    for batch, expected in zip(batches, x, strict=True):
        np.testing.assert_array_equal(batch.arrays["x"], np.minimum(expected, 9))
        np.testing.assert_array_equal(batch.arrays["mask"], expected < 10)


def test_evaluation_masks_undecodable_records():
    stream = Stream(Numbers(10, bad=(1, 9)))
    batches = list(pipeline.eval_batches(stream, batch_size=4, corrupt_limit=2))
    kept = [
        int(x)
        for b in batches
        for x, keep in zip(b.arrays["x"], b.arrays["mask"], strict=True)
        if keep
    ]
    assert kept == [0, *range(2, 9)]
    with pytest.raises(DataError, match=r"file1\.jpg"):
        list(pipeline.eval_batches(stream, batch_size=4))


def test_fingerprint_names_what_differs():
    saved = pipeline.fingerprint(in_memory(20), seed=1, batch_size=4)
    pipeline.check_fingerprint(saved, pipeline.fingerprint(in_memory(20), seed=1, batch_size=4))
    now = pipeline.fingerprint(in_memory(21), seed=1, batch_size=8)
    with pytest.raises(CheckpointError, match=r"(?s)batch_size: checkpoint 4, this run 8.*exam"):
        pipeline.check_fingerprint(saved, now)


def test_steps_per_epoch_follows_the_longest_stream():
    assert pipeline.steps_per_epoch(STREAMS["several"], batch_size=4, seed=0) == 5
    assert pipeline.steps_per_epoch(in_memory(41), batch_size=4, seed=0) == 10


def test_an_epoch_is_the_length_of_the_stream_that_counts():
    streams = {"few": in_memory(12), "many": in_memory(40)}
    info = DataInfo(element={}, num_examples=12)
    for name, steps in (("few", 3), ("many", 10), (None, 10)):
        splits = Splits(streams, {}, info, epoch_stream=name)
        assert pipeline.steps_per_epoch(splits, batch_size=4, seed=0) == steps
