"""A gallery of a million codes: speed beside FAISS, time and memory of exact mAP.

The figures are printed: launch/test -m slow -s tests/systems/orthohash/test_scale.py
(with `.venv/bin/pip install faiss-cpu` before, for the first two).
"""

from __future__ import annotations

import time
import tracemalloc

import jax
import numpy as np
import pytest

from jaxcog.systems.orthohash import retrieval, search
from jaxcog.systems.orthohash.index import HammingIndex, faiss_codes

ITEMS, BITS, CLASSES, NEAREST = 1_000_000, 64, 100, 100


def gallery(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(packed codes, labels): the code of a random class with a fifth of its bits flipped."""
    codebook = np.random.default_rng(0).choice([-1, 1], (CLASSES, BITS)).astype(np.int8)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    parts = []
    for part in np.array_split(labels, -(-rows // 10_000)):
        flip = rng.random((len(part), BITS), np.float32) < 0.2
        parts.append(retrieval.pack_on_host(np.where(flip, -codebook[part], codebook[part])))
    return np.concatenate(parts), labels


def load_faiss():
    return pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install faiss-cpu")


@pytest.mark.slow
def test_faiss_reads_our_index_and_finds_the_same(tmp_path):
    faiss = load_faiss()
    words, _ = gallery(5000, 1)
    path = tmp_path / "codes.faiss"
    path.write_bytes(HammingIndex(words, BITS, "x").faiss_bytes())
    theirs = faiss.read_index_binary(str(path))
    query, _ = gallery(20, 2)
    distances, items = theirs.search(faiss_codes(query, BITS), NEAREST)
    ours, _ = search.hamming_topk(query, words, NEAREST)
    np.testing.assert_array_equal(ours, distances)
    all_distances = retrieval.host_hamming_distance(query, words)
    np.testing.assert_array_equal(np.take_along_axis(all_distances, items, axis=1), distances)


@pytest.mark.slow
def test_queries_per_second_beside_faiss():
    faiss = load_faiss()
    words, _ = gallery(ITEMS, 1)
    query, _ = gallery(1024, 2)
    index = faiss.IndexBinaryFlat(BITS)
    index.add(faiss_codes(words, BITS))
    database = jax.device_put(words)
    find = jax.jit(search.hamming_topk, static_argnums=2)

    def ours() -> np.ndarray:
        return np.asarray(find(query, database, NEAREST)[0])

    def theirs() -> np.ndarray:
        return index.search(faiss_codes(query, BITS), NEAREST)[0]

    np.testing.assert_array_equal(ours(), theirs())  # and compiles
    rates = {"ours": 0.0}
    for _ in range(5):
        rates["ours"] = max(rates["ours"], rate_of(ours, len(query)))
        for threads in (1, 2):
            for heap in (True, False):
                faiss.omp_set_num_threads(threads)
                index.use_heap = heap
                name = f"FAISS, {threads} threads, {'heap' if heap else 'counting'}"
                rates[name] = max(rates.get(name, 0.0), rate_of(theirs, len(query)))
    for name, rate in rates.items():
        print(f"{name}: {rate:.0f} queries/s, top-{NEAREST} of {ITEMS} codes of {BITS} bits")


def rate_of(function, queries: int) -> float:
    start = time.perf_counter()
    function()
    return queries / (time.perf_counter() - start)


@pytest.mark.slow
def test_exact_map_of_a_million_items_in_bounded_memory():
    query, query_labels = gallery(5000, 2)
    database, labels = gallery(ITEMS, 1)
    block = 2**22
    start = time.perf_counter()
    found = retrieval.rank_statistics(
        query, query_labels, database, labels, num_bits=BITS, block_elements=block
    )
    seconds = time.perf_counter() - start
    tracemalloc.start()
    some = slice(0, 8)
    retrieval.rank_statistics(
        query[some], query_labels[some], database, labels, num_bits=BITS, block_elements=block
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(
        f"mAP@all {found.mean_average_precision[None]:.6f} of {len(query)} x {ITEMS} in "
        f"{seconds:.0f} s; {peak / 2**20:.0f} MiB beside the codes, blocks of {block} distances"
    )
    assert peak < 24 * block
    assert 0.5 < found.mean_average_precision[None] < 0.8
