"""Ranking a gallery for each query by features: CMC and mAP with the rules of re-identification.

On the host, in NumPy. Distances are made, used and dropped in blocks, so that memory is bounded by
the block and not by queries times gallery. Nothing is sorted but distances: the rank of each match
is the number of items before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

Metric = Literal["cosine", "sq_euclidean"]

BLOCK = 1 << 24
"""Distances held at once (64 MiB)."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How well a gallery was ranked.

    average_precision: float64 [Q] in [0, 1], NaN for queries that have no match to find.
    first_match: int64 [Q], the rank (from 0) of the first match, -1 where there is none.
    inverse_penalty: float64 [Q] in [0, 1], matches over the rank (from 1) of the last one: how much
      of the list one must look at to find them all; NaN where there is none.
    """

    average_precision: np.ndarray
    first_match: np.ndarray
    inverse_penalty: np.ndarray

    @property
    def counted(self) -> int:
        """Queries that have a match."""
        return int(np.sum(self.first_match >= 0))

    @property
    def mean_average_precision(self) -> float:
        """In [0, 1], over the queries that have a match; NaN if none has."""
        return float(np.nanmean(self.average_precision)) if self.counted else float("nan")

    @property
    def mean_inverse_penalty(self) -> float:
        """mINP in [0, 1], over the queries that have a match; NaN if none has."""
        return float(np.nanmean(self.inverse_penalty)) if self.counted else float("nan")

    def cmc(self, max_rank: int) -> np.ndarray:
        """Cumulative matching characteristics: float64 [max_rank] in [0, 1].

        Entry k is the share of the queries that have a match whose first one is among the k + 1
        nearest; recall@(k + 1) of retrieval by text.
        """
        if not self.counted:
            return np.full(max_rank, np.nan)
        first = self.first_match[self.first_match >= 0]
        hits = np.bincount(first[first < max_rank], minlength=max_rank)
        return np.cumsum(hits) / self.counted


def pairwise_distances(
    queries: np.ndarray, gallery: np.ndarray, metric: Metric = "cosine"
) -> np.ndarray:
    """float32 [Q, N] between the rows of [Q, D] and [N, D]: 1 - cosine, or squared Euclidean.

    Raises:
      ValueError: an unknown metric, or features of different length.
    """
    _check_features(queries, gallery)
    (ours, extra), (theirs, other) = _prepared(queries, metric), _prepared(gallery, metric)
    return _distances(ours, extra, theirs, other)


def rank(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray | None = None,
    gallery_cameras: np.ndarray | None = None,
    metric: Metric = "cosine",
    block: int = BLOCK,
) -> Ranking:
    """Ranks the gallery by feature distance for every query.

    Args:
      queries, gallery: float [Q, D] and [N, D].
      query_ids, gallery_ids: int [Q], [N]; a match has the query's id. Ids that no query has are
        distractors.
      query_cameras, gallery_cameras: int [Q], [N]; with them an item with the query's id AND camera
        is left out of its ranking (Market-1501 protocol).
      metric: see `pairwise_distances`. Items at equal distance keep the gallery's order.
      block: distances held at once; at least one row of N is.

    Raises:
      ValueError: lengths that do not fit, one-sided cameras, an empty gallery.
    """
    blocks = distance_blocks(queries, gallery, metric=metric, block=block)
    protocol = _Protocol.of(query_ids, gallery_ids, query_cameras, gallery_cameras)
    return _ranked(blocks, protocol, (len(queries), len(gallery)))


def rank_blocks(
    blocks: Iterator[tuple[int, np.ndarray]],
    *,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray | None = None,
    gallery_cameras: np.ndarray | None = None,
) -> Ranking:
    """As `rank`, for distances of any origin: (first query, float [rows, N]) of every query."""
    protocol = _Protocol.of(query_ids, gallery_ids, query_cameras, gallery_cameras)
    return _ranked(blocks, protocol, (len(query_ids), len(gallery_ids)))


def distance_blocks(
    queries: np.ndarray, gallery: np.ndarray, *, metric: Metric = "cosine", block: int = BLOCK
) -> Iterator[tuple[int, np.ndarray]]:
    """(first query, distances of some queries to the whole gallery), in order."""
    _check_features(queries, gallery)
    return _blocks(queries, gallery, metric, block)


def nearest(
    queries: np.ndarray,
    gallery: np.ndarray,
    count: int,
    *,
    metric: Metric = "cosine",
    block: int = BLOCK,
) -> np.ndarray:
    """The `count` (at most N) nearest items of each query, near to far: int64 [Q, count].

    Items at equal distance keep the gallery's order, except at the end of the list.
    """
    _check_features(queries, gallery)
    count = min(count, len(gallery))
    found = np.zeros((len(queries), count), np.int64)
    for first, distances in _blocks(queries, gallery, metric, block):
        places = np.sort(np.argpartition(distances, count - 1, axis=1)[:, :count], axis=1)
        inner = np.argsort(np.take_along_axis(distances, places, axis=1), axis=1, kind="stable")
        found[first : first + len(distances)] = np.take_along_axis(places, inner, axis=1)
    return found


def market1501_metrics(
    distances: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_cameras: np.ndarray,
    max_rank: int = 50,
) -> tuple[float, np.ndarray]:
    """(mAP in [0, 1], CMC [max_rank]) from distances [Q, N]; see `rank` and `Ranking.cmc`."""
    protocol = _Protocol.of(query_ids, gallery_ids, query_cameras, gallery_cameras)
    ranking = _ranked(iter([(0, np.asarray(distances))]), protocol, distances.shape)
    return ranking.mean_average_precision, ranking.cmc(max_rank)


@dataclasses.dataclass(frozen=True)
class _Protocol:
    """Whom each query must find and who does not count. order: gallery rows sorted by id."""

    query_ids: np.ndarray
    query_cameras: np.ndarray | None
    gallery_cameras: np.ndarray | None
    order: np.ndarray
    sorted_ids: np.ndarray

    @classmethod
    def of(cls, query_ids: Any, gallery_ids: Any, query_cameras: Any, gallery_cameras: Any) -> Any:
        if (query_cameras is None) != (gallery_cameras is None):
            raise ValueError("rank: give the cameras of both, queries and gallery, or of neither")
        gallery_ids = np.asarray(gallery_ids)
        order = np.argsort(gallery_ids, kind="stable")
        ours, theirs = (
            None if c is None else np.asarray(c) for c in (query_cameras, gallery_cameras)
        )
        return cls(np.asarray(query_ids), ours, theirs, order, gallery_ids[order])

    def check(self, shape: tuple[int, int]) -> None:
        sizes = {
            "query_ids": (self.query_ids, shape[0]),
            "gallery_ids": (self.sorted_ids, shape[1]),
            "query_cameras": (self.query_cameras, shape[0]),
            "gallery_cameras": (self.gallery_cameras, shape[1]),
        }
        for name, (values, size) in sizes.items():
            if values is not None and values.shape != (size,):
                raise ValueError(f"rank: {name} {values.shape} for {shape} distances")
        if shape[1] == 0:
            raise ValueError("rank: the gallery is empty")

    def split(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """(matches, left out) of one query: rows of the gallery, ascending."""
        low, high = (
            np.searchsorted(self.sorted_ids, self.query_ids[query], side)
            for side in ("left", "right")
        )
        rows = self.order[low:high]
        if self.gallery_cameras is None or self.query_cameras is None:
            return rows, rows[:0]
        same = self.gallery_cameras[rows] == self.query_cameras[query]
        return rows[~same], rows[same]


def _ranked(
    blocks: Iterator[tuple[int, np.ndarray]], protocol: _Protocol, shape: tuple[int, int]
) -> Ranking:
    protocol.check(shape)
    precision, first_match = np.full(shape[0], np.nan), np.full(shape[0], -1, np.int64)
    penalty = np.full(shape[0], np.nan)
    for first, distances in blocks:
        if distances.shape[1] != shape[1]:
            raise ValueError(f"rank: {shape[1]} gallery_ids for distances {distances.shape}")
        for query, row in enumerate(distances, first):
            matches, left_out = protocol.split(query)
            if len(matches):
                ranks = _ranks(row, matches, left_out)
                precision[query] = np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1))
                first_match[query] = ranks[0]
                penalty[query] = len(ranks) / (ranks[-1] + 1)
    return Ranking(precision, first_match, penalty)


def _ranks(row: np.ndarray, matches: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """Ascending ranks (from 0) of `matches` when a row of distances [N] is sorted stably."""
    values = row[matches]
    by_distance = np.argsort(values, kind="stable")
    matches, values = matches[by_distance], values[by_distance]
    everyone, dropped = np.sort(row), row[left_out]
    nearer = np.searchsorted(everyone, values, "left")
    before = nearer - np.searchsorted(np.sort(dropped), values, "left")
    for i in np.flatnonzero(np.searchsorted(everyone, values, "right") - nearer > 1):
        equal = np.flatnonzero(row[: matches[i]] == values[i])
        before[i] += len(np.setdiff1d(equal, left_out, assume_unique=True))
    return before


def _blocks(
    queries: np.ndarray, gallery: np.ndarray, metric: Metric, block: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(first query, distances of some queries to the whole gallery), in order."""
    theirs, other = _prepared(gallery, metric)
    rows = max(1, block // max(len(gallery), 1))
    for first in range(0, len(queries), rows):
        ours, extra = _prepared(queries[first : first + rows], metric)
        yield first, _distances(ours, extra, theirs, other)


def _prepared(features: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray | np.float32]:
    """(factors [N, D], what is added) such that a distance is added + added' - factor . factor'."""
    features = np.asarray(features, np.float32)
    if metric == "cosine":
        length = np.linalg.norm(features, axis=1, keepdims=True)
        return features / np.maximum(length, np.float32(1e-12)), np.float32(0.5)
    if metric == "sq_euclidean":
        return features * np.float32(2**0.5), np.sum(np.square(features), axis=1)
    raise ValueError(f'distances: metric="{metric}": "cosine" or "sq_euclidean"')


def _distances(ours: Any, extra: Any, theirs: Any, other: Any) -> np.ndarray:
    distances = ours @ theirs.T
    np.negative(distances, out=distances)
    distances += np.reshape(extra, (-1, 1))
    distances += other
    return distances


def _check_features(queries: np.ndarray, gallery: np.ndarray) -> None:
    shapes = np.shape(queries), np.shape(gallery)
    if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"features must be [Q, D] and [N, D], got {shapes[0]} and {shapes[1]}")
