"""Ranking metrics of retrieval, on the host in NumPy and float64.

Distances are [queries, database]; smaller is nearer. How ties are ordered changes the result by
points where codes are short, so it is always said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

Ties = Literal["stable", "random", "expected"]


def average_precision(hits: np.ndarray, total: np.ndarray | None = None) -> np.ndarray:
    """Average precision of ranked lists.

    Args:
      hits: bool [..., R], whether the item at each rank is relevant.
      total: [...] what the sum of precisions is divided by; None: the number of hits within R
        (category-level hashing protocol).

    Returns:
      float64 [...] in [0, 1]; 0 where there is nothing relevant.
    """
    hits = np.asarray(hits, bool)
    found = np.cumsum(hits, axis=-1, dtype=np.int64)
    ranks = np.arange(1, hits.shape[-1] + 1)
    gained = np.sum(np.where(hits, found / ranks, 0.0), axis=-1)
    total = np.sum(hits, axis=-1) if total is None else np.asarray(total)
    return np.where(total > 0, gained / np.maximum(total, 1), 0.0)


def rank(
    distances: np.ndarray, *, ties: Ties = "stable", key: jax.Array | None = None
) -> np.ndarray:
    """Database indices from near to far: int [Q, N].

    ties: "stable" keeps database order among equals; "random" a random order, drawn from `key`
      once and shared by all queries.

    Raises:
      ValueError: "random" without a key, or an order that cannot be drawn.
    """
    if ties == "stable":
        return np.argsort(distances, axis=-1, kind="stable")
    if ties != "random":
        raise ValueError(f'rank: ties="{ties}": "stable" or "random"')
    if key is None:
        raise ValueError('rank: ties="random" needs a key')
    shuffle = np.asarray(jax.random.permutation(key, distances.shape[-1]))
    return shuffle[np.argsort(distances[..., shuffle], axis=-1, kind="stable")]


def mean_average_precision(
    distances: np.ndarray,
    relevant: np.ndarray,
    *,
    at: int | None = None,
    ties: Ties = "stable",
    key: jax.Array | None = None,
    order: np.ndarray | None = None,
) -> float:
    """mAP@R: the mean over all queries of AP among the nearest `at` items (None: all).

    AP divides by the relevant items found within R; a query without any counts as 0.

    Args:
      distances: [Q, N].
      relevant: bool [Q, N].
      ties: "stable", "random" (see `rank`) or "expected", the exact mean over all orders of ties.
      order: int [Q, >= R], a ranking made elsewhere, which is measured instead: official codes rank
        by torch.topk, which leaves the order of ties open.
    """
    if order is not None:
        ranked = order[:, :at]
        return float(np.mean(average_precision(np.take_along_axis(relevant, ranked, axis=1))))
    if distances.shape != relevant.shape:
        raise ValueError(f"distances {distances.shape} and relevant {relevant.shape} differ")
    if ties == "expected":
        values = [
            expected_average_precision(*_tie_groups(d, r), at=at)
            for d, r in zip(distances, np.asarray(relevant, bool), strict=True)
        ]
        return float(np.mean(values))
    ranked = rank(distances, ties=ties, key=key)[:, :at]
    return float(np.mean(average_precision(np.take_along_axis(relevant, ranked, axis=1))))


def _tie_groups(distances: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sizes, relevant items) of the groups of equal distance [N], near to far."""
    _, group = np.unique(distances, return_inverse=True)
    return np.bincount(group), np.bincount(group[relevant], minlength=group.max() + 1)


def expected_average_precision(
    sizes: np.ndarray, relevant: np.ndarray, *, at: int | None = None
) -> float:
    """AP of one query averaged exactly over all orders of items at equal distance.

    Needs only counts per distance, so for K-bit codes it costs O(K) once these are known
    (McSherry and Najork 2008, extended to a cut at R that falls inside a group: there the number
    of hits, by which AP divides, is itself random).

    Args:
      sizes, relevant: int [G], items and relevant items at each distance, near to far.
      at: R; None means all.

    Returns:
      float in [0, 1].
    """
    sizes, relevant = np.asarray(sizes, np.int64), np.asarray(relevant, np.int64)
    number = int(sizes.sum())
    at = number if at is None else min(at, number)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, at + 1))])
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    hits_before = np.concatenate([[0], np.cumsum(relevant)[:-1]])
    whole = before + sizes <= at

    b, n, r, h = (x[whole] for x in (before, sizes, relevant, hits_before))
    gained = float(np.sum(_expected_gain(b, n, r, h, harmonic)))
    hits = int(r.sum())
    cut = np.flatnonzero(~whole & (before < at))
    if not len(cut):
        return gained / hits if hits else 0.0
    i = int(cut[0])
    slots = at - int(before[i])
    # How many relevant items the slots hold is hypergeometric; given that, their places are even.
    drawn = np.arange(min(slots, int(relevant[i])) + 1)
    chance = _hypergeometric(drawn, slots, int(relevant[i]), int(sizes[i]))
    last = _expected_gain(before[i], slots, drawn, hits, harmonic)
    return float(np.sum(chance * (gained + last) / np.maximum(hits + drawn, 1)))


def _expected_gain(before: Any, size: Any, relevant: Any, hits: Any, harmonic: np.ndarray) -> Any:
    """Expected sum of precisions at the relevant items of groups in random order.

    The t-th place of a group is relevant with chance r/n, and then 1 + (t-1)(r-1)/(n-1) relevant
    items of the group are expected up to it; the sums over t are harmonic numbers.
    """
    size = np.asarray(size)
    inverse = harmonic[before + size] - harmonic[before]
    earlier = size - (before + 1) * inverse
    slope = np.maximum(relevant - 1, 0) / np.maximum(size - 1, 1)
    share = relevant / np.maximum(size, 1)
    return share * ((hits + 1) * inverse + slope * earlier)


def _hypergeometric(drawn: np.ndarray, slots: int, relevant: int, size: int) -> np.ndarray:
    """P(j of `relevant` among `size` items fall into `slots`) for j in `drawn`."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])

    def choose(n: Any, k: Any) -> Any:
        return log_factorial[n] - log_factorial[k] - log_factorial[n - k]

    rest = slots - drawn
    possible = rest <= size - relevant
    rest = np.where(possible, rest, 0)
    log_chance = choose(relevant, drawn) + choose(size - relevant, rest) - choose(size, slots)
    return np.where(possible, np.exp(log_chance), 0.0)


def landmark_map(
    ranked_ids: Sequence[Sequence[Any]], ground_truth: Sequence[set[Any]], at: int
) -> float:
    """mAP@R of the Google Landmarks protocol (GLDv2).

    AP divides by the number of ALL relevant images, also those that R ranks cannot hold; an id that
    is retrieved twice counts once.

    Args:
      ranked_ids: per query the retrieved ids, near to far (at least the first `at`).
      ground_truth: per query the set of relevant ids.
    """
    values = []
    for ranked, wanted in zip(ranked_ids, ground_truth, strict=True):
        seen: set[Any] = set()
        hits = []
        for name in ranked[:at]:
            hits.append(name in wanted and name not in seen)
            seen.add(name)
        values.append(average_precision(np.array(hits, bool), np.array(len(wanted))))
    return float(np.mean(values))


def revisited_map(
    ranks: np.ndarray,
    easy: np.ndarray,
    hard: np.ndarray,
    junk: np.ndarray,
    kappas: Sequence[int] = (1, 5, 10),
) -> Mapping[str, Mapping[str, Any]]:
    """Revisited Oxford and Paris (Radenovic et al., CVPR 2018).

    Easy: easy images are positive, hard and junk ones are left out of the ranking. Medium: easy and
    hard are positive. Hard: hard are positive, easy left out. AP sums trapezoids between the
    precision before and after each hit; queries without positives are left out.

    Args:
      ranks: int [Q, N], database indices near to far.
      easy, hard, junk: bool [Q, N], disjoint.
      kappas: k of mP@k, whose denominator is min(k, rank of the last positive).

    Returns:
      {"easy" | "medium" | "hard": {"mAP": float, "aps": float64 [Q] (NaN where left out),
      "mP": float64 [len(kappas)]}}.
    """
    protocols = {
        "easy": (easy, hard | junk),
        "medium": (easy | hard, junk),
        "hard": (hard, easy | junk),
    }
    results = {}
    for name, (positive, ignored) in protocols.items():
        aps = np.full(len(ranks), np.nan)
        precisions = np.full((len(ranks), len(kappas)), np.nan)
        for q in np.flatnonzero(positive.any(axis=1)):
            order = ranks[q][~ignored[q, ranks[q]]]
            aps[q], precisions[q] = _revisited_query(positive[q, order], kappas)
        known = ~np.isnan(aps)
        results[name] = {
            "mAP": float(aps[known].mean()) if known.any() else float("nan"),
            "aps": aps,
            "mP": precisions[known].mean(axis=0) if known.any() else precisions[:0].sum(axis=0),
        }
    return results


def _revisited_query(hits: np.ndarray, kappas: Sequence[int]) -> tuple[float, np.ndarray]:
    places = np.flatnonzero(hits)
    if not len(places):
        return 0.0, np.zeros(len(kappas))
    count = np.arange(len(places))
    precision_before = np.where(places > 0, count / np.maximum(places, 1), 1.0)
    ap = np.mean((precision_before + (count + 1) / (places + 1)) / 2)
    depth = [min(k, int(places[-1]) + 1) for k in kappas]
    return float(ap), np.array([np.mean(hits[:k]) for k in depth])
