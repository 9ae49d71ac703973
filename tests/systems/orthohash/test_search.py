from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxcog.systems.orthohash import search
from jaxcog.systems.orthohash.retrieval import hamming_distance


def words_of(rows: int, seed: int, *, words: int = 1, bits: int = 6) -> np.ndarray:
    """Few bits, so that most distances are tied."""
    return np.random.default_rng(seed).integers(0, 2**bits, (rows, words), np.uint32)


def plain_topk(query, database, k):
    distances = np.asarray(hamming_distance(query, database))
    wanted = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, wanted, axis=1), wanted


@pytest.mark.parametrize(
    ("rows", "k", "words", "bits"),
    [
        (50, 20, 1, 6),
        (50, 50, 1, 6),
        (6000, 5, 1, 6),  # groups of 16, the last row of groups half empty
        (6007, 1, 2, 12),
        (50_000, 3, 3, 32),
    ],
)
def test_topk_is_exact_and_keeps_database_order_among_ties(rows, k, words, bits):
    query = words_of(5, 0, words=words, bits=bits)
    database = words_of(rows, 1, words=words, bits=bits)
    found = jax.jit(functools.partial(search.hamming_topk, k=k, query_block=2))(query, database)
    for ours, wanted in zip(found, plain_topk(query, database, k), strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_groups_are_used_where_they_pay():
    assert search._group_size(50, 20) == 1
    assert search._group_size(6000, 5) == 16
    assert search._group_size(1_000_000, 100) == 64
    assert search._group_size(10**9, 1) == 128


@pytest.mark.parametrize(("rows", "k"), [(48, 3), (48, 30), (16_000, 2)])
def test_sharded_topk_equals_one_device_with_padding(rows, k):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    query, database = words_of(5, 0), words_of(rows, 1)
    valid = jnp.arange(rows) < rows - 3
    wanted = plain_topk(query, database[: rows - 3], k)
    find = functools.partial(search.sharded_hamming_topk, k=k, mesh=mesh)
    found = jax.jit(find)(query, database, valid=valid)
    alone = jax.jit(functools.partial(search.hamming_topk, k=k))(query, database, valid=valid)
    for ours, one, theirs in zip(found, alone, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(one, theirs)


def test_padding_rows_come_last():
    query, database = words_of(3, 0), words_of(20, 1)
    valid = jnp.arange(20) < 15
    distances, _ = search.hamming_topk(query, database, 18, valid=valid)
    np.testing.assert_array_equal(distances[:, 15:], 33)
    assert (np.asarray(distances)[:, :15] <= 6).all()


def test_what_does_not_fit_is_named():
    database = words_of(2, 1)
    with pytest.raises(ValueError, match="k=3"):
        search.hamming_topk(words_of(1, 0), database, 3)
    with pytest.raises(ValueError, match="2 and 1 words"):
        search.hamming_topk(words_of(1, 0, words=2), database, 1)
