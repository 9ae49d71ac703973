"""What the report shows of a hashing network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcog.pictures import Scale
from jaxcog.show import Figure, Gallery, Histogram, Picture
from jaxcog.systems.orthohash.judging import Protocol, retrieval_rows
from jaxcog.systems.orthohash.retrieval import (
    host_hamming_distance,
    rank_statistics,
    share_label,
)
from jaxcog.task import DataInfo, State

_QUERIES = 8
_NEIGHBOURS = 8


def report(
    data: DataInfo, num_bits: int, protocol: Protocol = "category"
) -> Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    """The `figures` of a Task: neighbours of some queries, distances within and between classes."""

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        if protocol != "category":
            return []  # labels say nothing about who is relevant to whom
        query, database = retrieval_rows(results)
        shown: list[Figure] = [distance_histogram(query, database, num_bits)]
        if "image" in samples.get("query", {}) and "image" in samples.get("database", {}):
            shown.insert(0, _neighbours(data, samples, query, database))
        return shown

    return figures


def distance_histogram(
    query: Mapping[str, np.ndarray], database: Mapping[str, np.ndarray], num_bits: int
) -> Histogram:
    """Hamming distances of all pairs (query, database item), by whether they are related."""
    ranked = rank_statistics(
        query["codes"],
        query["label"],
        database["codes"],
        database["label"],
        num_bits=num_bits,
        at=(),
    )
    shares = {
        name: counts / max(counts.sum(), 1)
        for name, counts in (("same class", ranked.within), ("other classes", ranked.between))
    }
    return Histogram(
        "Hamming distances to the queries",
        np.arange(num_bits + 2) - 0.5,
        shares,
        x_label=f"different bits of {num_bits}",
        y_label="share of pairs",
        note=f"On average other classes are {ranked.separation:.2f} bits farther away.",
    )


def _neighbours(
    data: DataInfo,
    samples: Mapping[str, Any],
    query: Mapping[str, np.ndarray],
    database: Mapping[str, np.ndarray],
) -> Gallery:
    """Samples are the first evaluation examples, so their codes are the first rows."""
    queries = np.asarray(samples["query"]["image"])
    items = np.asarray(samples["database"]["image"])
    size = min(len(items), len(database["codes"]))
    chosen = np.arange(min(_QUERIES, len(queries), len(query["codes"])))
    distances = host_hamming_distance(query["codes"][chosen], database["codes"][:size])
    related = share_label(query["label"][chosen], database["label"][:size])
    rows = []
    for q in chosen:
        label = _name(data, query["label"][q])
        pictures = [Picture(Scale.of(data.facts).rgb(queries[q]), label)]
        for item in np.argsort(distances[q], kind="stable")[:_NEIGHBOURS]:
            bits = int(distances[q, item])
            caption = f"{_name(data, database['label'][item])}, {bits} bit{'s' * (bits != 1)}"
            border = "good" if related[q, item] else "bad"
            pictures.append(Picture(Scale.of(data.facts).rgb(items[item]), caption, border))
        rows.append((label, pictures))
    note = (
        f"The query is first; then the nearest of {size} database images, by different bits. "
        "Green frames share a label with the query."
    )
    return Gallery("Nearest neighbours", rows, note)


def _name(data: DataInfo, label: np.ndarray) -> str:
    classes = [int(label)] if np.ndim(label) == 0 else np.flatnonzero(label)
    names = [data.class_names[i] if i < len(data.class_names) else f"class {i}" for i in classes]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
