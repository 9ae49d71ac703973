"""Judging by retrieval, in both directions, in blocks of bounded memory. On the host, in NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcog.metrics.ranking import BLOCK, Ranking, distance_blocks, nearest, rank_blocks

TOP = (1, 5, 10)
NEIGHBOURS = 5
NEIGHBOUR_WEIGHT = 0.05


def retrieval_metrics(
    query: np.ndarray,
    gallery: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    *,
    topk: Sequence[int] = TOP,
    rerank: bool = False,
    neighbours: int = NEIGHBOURS,
    alpha: float = NEIGHBOUR_WEIGHT,
    block: int = BLOCK,
) -> dict[str, float]:
    """How well the gallery is ranked by cosine for each query; equal ones keep its order.

    Args:
      query, gallery: float [Q, D] and [G, D], need not be normalised.
      query_ids, gallery_ids: int [Q], [G], identities.
      rerank: add the neighbours' term to the similarity, see `neighbour_overlap`.
      block: similarities held at once.

    Returns:
      Percent: "R@k" (queries with a match among the first k), "mAP" over the full ranking, "mINP"
      (matches over the rank of the last).
    """
    blocks = distance_blocks(query, gallery, block=block)
    if rerank:
        blocks = _reranked(blocks, query, gallery, neighbours, alpha)
    ranking = rank_blocks(blocks, query_ids=query_ids, gallery_ids=gallery_ids)
    return percentages(ranking, topk)


def percentages(ranking: Ranking, topk: Sequence[int] = TOP) -> dict[str, float]:
    """Percent by name: R@k, mAP, mINP."""
    hits = 100 * ranking.cmc(max(topk))
    values = {f"R@{k}": float(hits[k - 1]) for k in topk}
    values["mAP"] = 100 * ranking.mean_average_precision
    values["mINP"] = 100 * ranking.mean_inverse_penalty
    return values


def k_reciprocal_term(
    query: np.ndarray,
    gallery: np.ndarray,
    n: int = NEIGHBOURS,
    alpha: float = NEIGHBOUR_WEIGHT,
    block: int = BLOCK,
) -> np.ndarray:
    """What re-ranking adds to the similarities: float32 [Q, G]; see `neighbour_overlap`."""
    of_queries, of_items = _neighbours(query, gallery, n, block)
    return np.float32(alpha) * neighbour_overlap(of_queries, of_items)


def neighbour_overlap(of_queries: np.ndarray, of_items: np.ndarray) -> np.ndarray:
    """Intersection over union of two sets of neighbours, for all pairs: float32 [Q, G].

    of_queries: int [Q, n], distinct gallery rows nearest to each query. of_items: int [G, n], those
    nearest to each gallery item, itself among them.
    """
    size = int(max(of_queries.max(initial=0), of_items.max(initial=0))) + 1
    # For each gallery row the items in whose sets it occurs: all of them are visited, no pair is.
    flat = of_items.ravel()
    order = np.argsort(flat, kind="stable")
    member = order // of_items.shape[1]
    starts = np.searchsorted(flat[order], np.arange(size + 1))
    common = np.zeros((len(of_queries), len(of_items)), np.float32)
    for counts, neighbours in zip(common, of_queries, strict=True):
        for row in neighbours:
            counts[member[starts[row] : starts[row + 1]]] += 1
    union = of_queries.shape[1] + of_items.shape[1] - common
    return common / union


def _neighbours(
    query: np.ndarray, gallery: np.ndarray, n: int, block: int = BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    return nearest(query, gallery, n, block=block), nearest(gallery, gallery, n, block=block)


def _reranked(
    blocks: Iterator[tuple[int, np.ndarray]],
    query: np.ndarray,
    gallery: np.ndarray,
    n: int,
    alpha: float,
) -> Iterator[tuple[int, np.ndarray]]:
    of_queries, of_items = _neighbours(query, gallery, n)
    for first, distances in blocks:
        some = of_queries[first : first + len(distances)]
        yield first, distances - np.float32(alpha) * neighbour_overlap(some, of_items)


def first_rows(image_ids: np.ndarray) -> np.ndarray:
    """The first row of each image where rows are captions, in order of appearance."""
    _, first = np.unique(image_ids, return_index=True)
    return np.sort(first)


def embeddings(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What an evaluation collected, one row a caption and one row an image.

    Returns:
      "visual" [G, D], "textual" [Q, D], "image_person" [G], "text_person" [Q], "text_image" [Q]
      (the row of the image that a caption belongs to).
    """
    count, size = rows["captions"], rows["textual"].shape[1]
    real = np.arange(size) < count[:, None]
    image = np.repeat(np.arange(len(count)), count)
    return {
        "visual": rows["visual"],
        "textual": rows["textual"][real],
        "image_person": rows["person"],
        "text_person": rows["person"][image],
        "text_image": image,
    }


def both_directions(found: Mapping[str, np.ndarray], *, rerank: bool = False) -> dict[str, float]:
    """Text to image under plain names ("R@1"), image to text as "i2t R@1"."""
    image = (found["visual"], found["image_person"])
    text = (found["textual"], found["text_person"])
    forward = retrieval_metrics(text[0], image[0], text[1], image[1], rerank=rerank)
    backward = retrieval_metrics(image[0], text[0], image[1], text[1], rerank=rerank)
    return {**forward, **{f"i2t {name}": value for name, value in backward.items()}}


def summarize(results: Mapping[str, Any], *, rerank: bool = False) -> dict[str, float]:
    """Percent; the first split under plain names, others as "split/name".

    With `rerank` also the re-ranked values, as "reranked R@1"; the plain ones stay without.
    """
    summary: dict[str, float] = {}
    for place, (split, states) in enumerate(results.items()):
        found = embeddings(states["rows"].compute())
        values = both_directions(found)
        if rerank:
            again = both_directions(found, rerank=True)
            values |= {f"reranked {name}": value for name, value in again.items()}
        prefix = "" if place == 0 else f"{split}/"
        summary |= {prefix + name: value for name, value in values.items()}
    return summary
