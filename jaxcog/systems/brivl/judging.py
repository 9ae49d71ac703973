"""Retrieval and zero-shot metrics (sheet 6), on the host in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcog.task import DataInfo

_ROWS = 1024  # queries scored at once: no matrix of all against all is held

RECALLS = (1, 5, 10)


def similarity(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """[Q, N] float32 cosines of unit vectors [Q, D] and [N, D]."""
    return np.asarray(queries, np.float32) @ np.asarray(gallery, np.float32).T


def ranks_of(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
) -> np.ndarray:
    """0-based rank of the best-placed relevant item of each query; earlier items win ties.

    Args:
      queries, gallery: unit vectors [Q, D], [N, D].
      query_ids, gallery_ids: [Q], [N]; items of a query's own id are relevant.

    Returns:
      int64 [Q]; N where nothing is relevant.
    """
    ranks = []
    order = np.arange(len(gallery))
    for start in range(0, len(queries), _ROWS):
        scores = similarity(queries[start : start + _ROWS], gallery)
        related = query_ids[start : start + _ROWS, None] == gallery_ids
        best = np.max(np.where(related, scores, -np.inf), axis=1, keepdims=True)
        first = np.argmax(related & (scores == best), axis=1)[:, None]
        before = (scores > best) | ((scores == best) & (order < first))
        ranks.append(np.where(related.any(axis=1), before.sum(axis=1), len(gallery)))
    return np.concatenate(ranks) if ranks else np.zeros(0, np.int64)


def retrieval_ranks(
    images: np.ndarray, texts: np.ndarray, ids: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """{"i2t", "t2i"}: ranks of the true partner, row i of both being a pair.

    ids: [N] of the image behind each row; with several texts an image, its rows share an id, every
      text is a query, and each image is one query and one gallery item, hit by its best text.
    """
    if ids is None:
        ids = np.arange(len(images))
    _, first = np.unique(ids, return_index=True)
    first = np.sort(first)
    return {
        "i2t": ranks_of(images[first], texts, ids[first], ids),
        "t2i": ranks_of(texts, images[first], ids, ids[first]),
    }


def recall_at(ranks: np.ndarray, k: int) -> float:
    """Percentage of queries whose partner is among the first k."""
    return 100 * float(np.mean(ranks < k))


def retrieval_metrics(
    images: np.ndarray, texts: np.ndarray, ids: np.ndarray | None = None
) -> dict[str, float]:
    """ "i2t_R@1", ..., "t2i_R@10", and their sum "R@SUM", in percent."""
    ranks = retrieval_ranks(images, texts, ids)
    metrics = {f"{way}_R@{k}": recall_at(found, k) for way, found in ranks.items() for k in RECALLS}
    return {**metrics, "R@SUM": sum(metrics.values())}


def summarize(results: Mapping[str, Any]) -> dict[str, float]:
    """{split: metric states} -> metrics; names begin with the split where there are several."""
    metrics: dict[str, float] = {}
    for split, states in results.items():
        found: dict[str, float] = {}
        if "pairs" in states:
            rows = states["pairs"].compute()
            found |= retrieval_metrics(rows["image"], rows["text"], rows.get("group"))
        if "zero_shot" in states:
            found["zero_shot_accuracy"] = 100 * states["zero_shot"].compute()
        prefix = "" if len(results) == 1 else f"{split}_"
        metrics |= {f"{prefix}{name}": value for name, value in found.items()}
    return metrics


def headline(data: DataInfo) -> str:
    """The sum of recalls where there are texts to retrieve, else zero-shot accuracy."""
    pairs = "ids" in (data.eval_element or data.element)
    return "R@SUM" if pairs else "zero_shot_accuracy"
