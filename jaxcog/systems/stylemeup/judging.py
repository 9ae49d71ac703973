"""How retrieval by sketch is judged: exact photo (accuracy at k), category (mAP, P@200), style."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

EPS = 1e-6
"""Added to each component of a difference before its norm, as PyTorch's pairwise distance does."""

_BLOCK = 1 << 24


def sketch_distances(
    queries: np.ndarray, gallery: np.ndarray, *, eps: float = EPS
) -> Iterator[tuple[int, np.ndarray]]:
    """(first query, float64 [rows, G]) of all queries in order: || query - photo + eps ||.

    Differences are taken one by one, so that equal photos are at exactly equal distances.
    """
    queries, gallery = np.asarray(queries, np.float64), np.asarray(gallery, np.float64)
    rows = max(1, _BLOCK // max(gallery.size, 1))
    for first in range(0, len(queries), rows):
        difference = queries[first : first + rows, None] - gallery[None] + eps
        yield first, np.sqrt(np.sum(np.square(difference), axis=-1))


def retrieval_ranks(queries: np.ndarray, gallery: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rank of each sketch's own photo, from 1: int64 [Q].

    The number of photos that are at most as far as it; ties count against the query.

    Args:
      queries: float [Q, d]. gallery: float [G, d]. target: int [Q], row of the true photo.
    """
    ranks = np.zeros(len(queries), np.int64)
    for first, distances in sketch_distances(queries, gallery):
        own = target[first : first + len(distances)]
        limit = np.take_along_axis(distances, own[:, None], axis=1)
        ranks[first : first + len(distances)] = np.sum(distances <= limit, axis=1)
    return ranks


def accuracy_at_k(ranks: np.ndarray, ks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Share of the sketches whose photo is among the k nearest, in [0, 1]; NaN without sketches."""
    if not np.size(ranks):
        return {k: float("nan") for k in ks}
    return {k: float(np.mean(np.asarray(ranks) <= k)) for k in ks}


def average_precisions(scores: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """AP of each query over the whole gallery: float64 [Q]; 0 where nothing is relevant.

    sum over distinct scores of (recall gained) * (precision at the end of the group of equals),
    scikit-learn's definition.

    Args:
      scores: float [Q, G], larger is nearer. relevance: bool [Q, G].
    """
    values = np.zeros(len(scores))
    for q, (score, relevant) in enumerate(zip(scores, relevance, strict=True)):
        order = np.argsort(-score, kind="stable")
        ends = np.flatnonzero(np.diff(score[order], append=-np.inf))
        found = np.cumsum(relevant[order])[ends]
        total = found[-1] if len(found) else 0
        if total:
            gained = np.diff(found, prepend=0) / total
            values[q] = np.sum(gained * found / (ends + 1))
    return values


def mean_average_precision(scores: np.ndarray, relevance: np.ndarray) -> float:
    """mAP@all in [0, 1]; see `average_precisions`."""
    return float(np.mean(average_precisions(scores, relevance)))


def precision_at_k(scores: np.ndarray, relevance: np.ndarray, k: int = 200) -> float:
    """Mean over queries of the share of relevant items among the k with the largest scores.

    Divides by k, or by the gallery's size where that is smaller.
    """
    k = min(k, scores.shape[1])
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.mean(np.take_along_axis(np.asarray(relevance, bool), nearest, axis=1)))


def rank_consistency(ranks: np.ndarray, *, ddof: int = 0) -> tuple[float, float]:
    """(mean rank, mean over photos of the variance of their sketches' ranks).

    ranks: [m photos, k sketches]. ddof: 0 for the population's variance, 1 for the sample's.
    """
    ranks = np.asarray(ranks, np.float64)
    return float(ranks.mean()), float(ranks.var(axis=1, ddof=ddof).mean())


def instance_metrics(
    query: Mapping[str, np.ndarray], gallery: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """acc@1, acc@5, acc@10, mean_rank and rank_variance of all sketches.

    query, gallery: "content" [., d], "photo" [.] int; each photo once in the gallery. The variance
    is over the sketches of a photo, mean over the photos that have two or more; without any, there
    is none.
    """
    row = {int(photo): i for i, photo in enumerate(gallery["photo"])}
    target = np.array([row[int(photo)] for photo in query["photo"]], np.int64)
    ranks = retrieval_ranks(query["content"], gallery["content"], target)
    groups = [ranks[query["photo"] == photo] for photo in np.unique(query["photo"])]
    spread = [group.var() for group in groups if len(group) > 1]
    metrics = {f"acc@{k}": value for k, value in accuracy_at_k(ranks).items()}
    metrics["mean_rank"] = float(np.mean(ranks))
    return {**metrics, "rank_variance": float(np.mean(spread))} if spread else metrics


def category_metrics(
    query: Mapping[str, np.ndarray], gallery: Mapping[str, np.ndarray], k: int = 200
) -> dict[str, float]:
    """map (whole gallery) and p@200 by category; relevant is what has the query's label."""
    precisions, nearest = [], []
    relevant_label = np.asarray(gallery["label"])
    for first, distances in sketch_distances(query["content"], gallery["content"], eps=0.0):
        labels = query["label"][first : first + len(distances)]
        relevance = relevant_label[None] == labels[:, None]
        scores = 1 / (1 + distances)
        precisions.append(average_precisions(scores, relevance))
        nearest.append(precision_at_k(scores, relevance, k) * len(distances))
    count = len(query["content"])
    return {
        "map": float(np.mean(np.concatenate(precisions))),
        f"p@{k}": float(np.sum(nearest) / count),
    }


def style_reading(codes: np.ndarray) -> float:
    """How well the nearest class mean tells whose drawing it is: accuracy in [0, 1].

    codes: [P photos, U drawers, d]. Means are those of the even photos, judged on the odd ones.
    """
    means = codes[::2].mean(axis=0)
    tested = codes[1::2]
    distances = np.sum(np.square(tested[:, :, None] - means[None, None]), axis=-1)
    return float(np.mean(np.argmin(distances, axis=-1) == np.arange(codes.shape[1])))


def style_metrics(rows: Mapping[str, Any]) -> dict[str, float]:
    """Content apart from style, over P photos drawn by U users each.

    rows: "content", "mu" [P, U, d] of the sketches; "swapped", "own" [P]: mean squared differences
    to another user's drawing, of the image decoded with that user's style and with the own one.
    """
    mu, content = style_reading(rows["mu"]), style_reading(rows["content"])
    return {
        "style_from_mu": mu,
        "style_from_content": content,
        "style_gap": mu - content,
        "swap_ratio": float(np.sum(rows["swapped"]) / np.sum(rows["own"])),
    }
