"""Ranking by hand, blocks, re-ranking, captions of images."""

from __future__ import annotations

import numpy as np

from jaxcog.metrics.state import Concat
from jaxcog.systems.textreid import retrieval


def vectors(seed: int, count: int, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def test_metrics_by_hand():
    query = np.array([[1.0, 0.0], [0.0, 1.0]])
    gallery = np.array([[0.0, 2.0], [3.0, 0.1], [1.0, 1.0]])
    # First query: rows 1, 2, 0; it looks for row 2 and row 0. Second: rows 0, 2, 1; for row 1.
    values = retrieval.retrieval_metrics(
        query, gallery, np.array([7, 8]), np.array([7, 8, 7]), topk=(1, 2, 3)
    )
    assert values["R@1"] == 0
    assert values["R@2"] == 50
    assert values["R@3"] == 100
    np.testing.assert_allclose(values["mAP"], 100 * np.mean([(1 / 2 + 2 / 3) / 2, 1 / 3]))
    np.testing.assert_allclose(values["mINP"], 100 * np.mean([2 / 3, 1 / 3]))


def test_blocks_change_nothing():
    arguments = (vectors(0, 13), vectors(1, 11), np.arange(13) % 4, np.arange(11) % 4)
    for rerank in (False, True):
        whole = retrieval.retrieval_metrics(*arguments, rerank=rerank)
        assert whole == retrieval.retrieval_metrics(*arguments, rerank=rerank, block=1)


def test_overlap_of_neighbours():
    query, gallery = vectors(0, 6), vectors(1, 9)
    ours = retrieval.k_reciprocal_term(query, gallery, n=3, alpha=0.5)

    def top(a: np.ndarray) -> list[set[int]]:
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, gallery)]
        return [set(row[:3]) for row in np.argsort(-(unit[0] @ unit[1].T), kind="stable")]

    theirs = [[0.5 * len(a & b) / len(a | b) for b in top(gallery)] for a in top(query)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_images_with_different_numbers_of_captions():
    textual = vectors(0, 6).reshape(3, 2, 5)
    rows = {
        "visual": vectors(1, 3),
        "textual": textual,
        "captions": np.array([2, 1, 2]),
        "person": np.array([4, 4, 9]),
    }
    found = retrieval.embeddings(rows)
    np.testing.assert_array_equal(found["textual"], textual.reshape(6, 5)[[0, 1, 2, 4, 5]])
    np.testing.assert_array_equal(found["text_person"], [4, 4, 4, 9, 9])
    np.testing.assert_array_equal(found["text_image"], [0, 0, 1, 2, 2])
    summary = retrieval.summarize(
        {s: {"rows": Concat.of(rows)} for s in ("val", "test")}, rerank=True
    )
    assert {
        "R@1",
        "i2t mAP",
        "reranked mINP",
        "test/R@10",
        "test/reranked i2t mAP",
    } <= summary.keys()
    assert summary["mAP"] == summary["test/mAP"]
