from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxcog.errors import DataError
from jaxcog.metrics import retrieval as metrics
from jaxcog.systems.orthohash import retrieval
from jaxcog.systems.orthohash.index import HammingIndex, faiss_codes
from jaxcog.trees import fingerprint


def codes_of(rows: int, bits: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], (rows, bits)).astype(np.float32)


def mesh_of(size: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        (size,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:size]
    )


@pytest.mark.parametrize("bits", [5, 32, 40, 64, 300])
def test_packed_distances_are_those_of_the_signs(bits):
    a, b = codes_of(4, bits, 0), codes_of(7, bits, 1)
    wanted = (bits - a @ b.T) / 2
    packed = [jax.jit(retrieval.pack_bits)(x) for x in (a, b)]
    np.testing.assert_array_equal(retrieval.hamming_distance(*packed), wanted)
    on_host = retrieval.host_hamming_distance(*(np.asarray(x) for x in packed))
    np.testing.assert_array_equal(on_host, wanted)
    np.testing.assert_array_equal(retrieval.pack_on_host(a), packed[0])
    np.testing.assert_array_equal(retrieval.unpack_bits(np.asarray(packed[0]), bits), a)


@pytest.mark.parametrize("at", [None, 10])
@pytest.mark.parametrize("multi_label", [False, True])
def test_average_precision_of_a_split_gallery_is_exact(at, multi_label):
    rng = np.random.default_rng(0)
    bits, size = 8, 61
    query, database = codes_of(7, bits, 1), codes_of(64, bits, 2)
    shape = (lambda n: (n, 5)) if multi_label else (lambda n: (n,))
    labels = [rng.integers(0, 2 if multi_label else 5, shape(n)) for n in (7, 64)]
    distances = (bits - query @ database[:size].T) / 2
    relevant = retrieval.share_label(labels[0], labels[1][:size])
    wanted = metrics.mean_average_precision(distances, relevant, at=at)

    words = [retrieval.pack_bits(x) for x in (query, database)]
    arguments = (words[0], jnp.asarray(labels[0]), words[1], jnp.asarray(labels[1]))
    for mesh in (None, mesh_of(4)):
        measure = functools.partial(
            retrieval.gallery_average_precision, num_bits=bits, at=at, query_block=3, mesh=mesh
        )
        values = jax.jit(measure)(*arguments, valid=jnp.arange(64) < size)
        np.testing.assert_allclose(np.mean(values), wanted, rtol=1e-5)
    on_host = retrieval.rank_statistics(
        np.asarray(words[0]),
        labels[0],
        np.asarray(words[1])[:size],
        labels[1][:size],
        num_bits=bits,
        at=(at,),
        block_elements=100,
    )
    assert on_host.mean_average_precision[at] == pytest.approx(wanted, rel=1e-12)
    np.testing.assert_array_equal(
        on_host.within, np.bincount(distances[relevant].astype(int), minlength=9)
    )
    exact = distances.astype(np.float64)
    gap = exact[~relevant].mean() - exact[relevant].mean()
    assert on_host.separation == pytest.approx(gap)


@pytest.mark.parametrize("at", [None, 10])
def test_other_orders_of_ties_can_be_chosen(at):
    rng = np.random.default_rng(0)
    query, database = codes_of(7, 6, 1), codes_of(40, 6, 2)
    labels = [rng.integers(0, 3, n) for n in (7, 40)]
    distances = (6 - query @ database.T) / 2
    relevant = retrieval.share_label(*labels)
    parts = (retrieval.pack_on_host(query), labels[0], retrieval.pack_on_host(database), labels[1])

    def measured(ties, seed=0):
        options = {"num_bits": 6, "at": (at,), "ties": ties, "seed": seed}
        return retrieval.rank_statistics(*parts, **options).mean_average_precision[at]

    expected = metrics.mean_average_precision(distances, relevant, at=at, ties="expected")
    assert measured("expected") == pytest.approx(expected)
    drawn = [measured("random", seed) for seed in range(100)]
    assert np.std(drawn) > 1e-3
    assert np.mean(drawn) == pytest.approx(expected, abs=5e-3)
    order = np.argsort(distances, axis=1, kind="stable")
    given = metrics.mean_average_precision(distances, relevant, at=at, order=order)
    assert measured("stable") == pytest.approx(given)
    assert given != pytest.approx(expected, abs=1e-3)


def test_perfect_codes_score_one_and_order_of_the_database_matters_for_ties():
    labels = np.arange(12) % 3
    codes = codes_of(3, 16, 0)[labels]
    assert retrieval.mean_average_precision(codes, labels, codes, labels) == 1.0
    constant = np.ones((12, 16), np.float32)
    by_class = np.sort(labels)
    ties = [
        retrieval.mean_average_precision(constant, labels, constant, order, at=4)
        for order in (labels, by_class)
    ]
    assert ties[0] != ties[1]


def test_empty_splits_are_user_errors():
    words = np.zeros((2, 1), np.uint32)
    with pytest.raises(DataError, match="must hold examples"):
        retrieval.rank_statistics(words[:0], np.zeros(0), words, np.zeros(2), num_bits=8)


def test_index_survives_a_file_and_refuses_other_codes(tmp_path):
    words = np.asarray(retrieval.pack_bits(codes_of(20, 40, 0)))
    variables = {"params": {"kernel": np.arange(4.0)}}
    index = HammingIndex(words, 40, fingerprint(variables), tuple(f"image {i}" for i in range(20)))
    index.save(tmp_path / "gallery.npz")
    loaded = HammingIndex.load(tmp_path / "gallery.npz")
    assert loaded.names == index.names
    distances, indices = loaded.search(words[3:5], 2, num_bits=40, made_by=fingerprint(variables))
    np.testing.assert_array_equal(indices[:, 0], [3, 4])
    np.testing.assert_array_equal(distances[:, 0], 0)

    other = fingerprint({"params": {"kernel": np.arange(4.0) + 1e-7}})
    with pytest.raises(DataError, match="build the index again"):
        loaded.search(words, 2, num_bits=40, made_by=other)
    with pytest.raises(DataError, match="40 bits, the query has 64"):
        loaded.search(words, 2, num_bits=64, made_by=index.made_by)
    with pytest.raises(DataError, match="no such index"):
        HammingIndex.load(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("not an index")
    with pytest.raises(DataError, match="not an index file"):
        HammingIndex.load(tmp_path / "text.npz")


def test_faiss_layout_byte_by_byte():
    codes = -np.ones((1, 12), np.float32)
    codes[0, [0, 9]] = 1
    words = np.asarray(retrieval.pack_bits(codes))
    np.testing.assert_array_equal(faiss_codes(words, 12), [[0b1, 0b10]])
    content = HammingIndex(words, 12, "x").faiss_bytes()
    # Bits and bytes per code, number of codes, trained, metric (L2), length of the data.
    header = "1000000002000000010000000000000001010000000200000000000000"
    assert content == b"IBxF" + bytes.fromhex(header) + b"\x01\x02"
