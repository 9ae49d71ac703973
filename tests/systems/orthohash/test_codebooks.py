from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxcog.errors import ConfigError
from jaxcog.systems.orthohash import codebooks


def distances(book) -> np.ndarray:
    book = np.asarray(book, np.int32)
    return ((book.shape[1] - book @ book.T) // 2)[~np.eye(len(book), dtype=bool)]


def test_hadamard_rows_are_orthogonal_then_antipodal_then_balanced():
    book = np.asarray(codebooks.hadamard_codebook(40, 16, jax.random.key(0)), np.int32)
    np.testing.assert_array_equal(book[:16] @ book[:16].T, 16 * np.eye(16))
    np.testing.assert_array_equal(book[16:32], -book[:16])
    np.testing.assert_array_equal(book[32:].sum(axis=1), 0)
    with pytest.raises(ConfigError, match="no power of two"):
        codebooks.hadamard_codebook(4, 12)
    with pytest.raises(ConfigError, match="pass a key"):
        codebooks.hadamard_codebook(40, 16)


def test_bernoulli_rows_are_about_half_the_bits_apart():
    book = codebooks.bernoulli_codebook(jax.random.key(0), 50, 64)
    assert set(np.unique(book)) == {-1, 1}
    assert np.mean(distances(book)) == pytest.approx(32, abs=1)


def test_max_hamming_rows_are_farther_apart_than_random_ones():
    chosen = codebooks.max_hamming_codebook(jax.random.key(0), 20, 32, init_distance=0.5)
    random = codebooks.bernoulli_codebook(jax.random.key(0), 20, 32)
    assert distances(chosen).min() > distances(random).min()
    with pytest.raises(ConfigError, match="use more bits"):
        codebooks.max_hamming_codebook(0, 20, 4, max_tries=20)


def test_candidates_are_judged_one_by_one_whatever_the_chunk():
    rng = np.random.default_rng(0)
    candidates = 2 * rng.integers(0, 2, (4000, 16)).astype(np.int8) - 1
    books = []
    for chunk in (5, 333, 4000):
        parts = iter([candidates[i : i + chunk] for i in range(0, 4000, chunk)])
        books.append(
            codebooks.greedy_rows(
                lambda _, parts=parts: next(parts),
                10,
                max_tries=100,
                init_distance=0.61,
                min_distance=0.2,
                step=0.01,
                chunk=chunk,
            )
        )
    np.testing.assert_array_equal(books[0], books[1])
    np.testing.assert_array_equal(books[0], books[2])


def test_the_user_is_told_what_is_used_instead_and_why():
    kind, note = codebooks.choose_codebook("hadamard", 10, 48)
    assert kind == "max_hamming"
    assert "48 bits is no power of two" in note
    assert "used instead" in note
    kind, note = codebooks.choose_codebook("hadamard", 100, 32)
    assert kind == "hadamard"
    assert "random balanced" in note
    assert codebooks.choose_codebook("hadamard", 100, 64) == ("hadamard", "")
    with pytest.raises(ConfigError, match="at least 7 bits"):
        codebooks.choose_codebook("bernoulli", 100, 6)


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "max_hamming", "hadamard"])
def test_every_kind_is_made_under_jit_and_follows_its_seed(kind):
    make = jax.jit(codebooks.make_codebook, static_argnums=(0, 1, 2, 3))
    book = make(kind, 3, 40, 16)
    assert book.shape == (40, 16)
    assert book.dtype == np.int8
    np.testing.assert_array_equal(np.abs(book), 1)
    np.testing.assert_array_equal(book, codebooks.make_codebook(kind, 3, 40, 16))
    assert (np.asarray(book) != codebooks.make_codebook(kind, 4, 40, 16)).any()
