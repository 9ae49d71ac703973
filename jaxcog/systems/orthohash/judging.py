"""How codes are judged: retrieval of a database by queries, on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxcog.errors import DataError
from jaxcog.metrics.retrieval import Ties, landmark_map, rank, revisited_map
from jaxcog.systems.orthohash.retrieval import (
    host_hamming_distance,
    pack_on_host,
    rank_statistics,
    unpack_bits,
)

Protocol = Literal["category", "landmarks", "revisited"]

QUERY, DATABASE = "query", "database"
_FACTS = {"landmarks": "relevant", "revisited": "kind"}
_EASY, _HARD, _JUNK = 1, 2, 3


def headline(protocol: Protocol, at: int | None) -> str:
    """The metric by which the best checkpoint is chosen; the paper's is Hard on the revisited."""
    if protocol == "revisited":
        return "hard/mAP"
    return "mAP@all" if at is None else f"mAP@{at}"


def retrieval_rows(
    results: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """("codes" uint32 [N, W] and "label") of the queries and of the database.

    Continuous codes are centred by the database's mean before their signs are taken. That is batch
    norm with a mean recomputed on the database: the deviation and the learned scale change no
    Hamming distance.

    Raises:
      DataError: one of the two splits is missing.
    """
    missing = [name for name in (QUERY, DATABASE) if name not in results]
    if missing:
        raise DataError(
            f'retrieval needs the evaluation splits "{QUERY}" and "{DATABASE}"; '
            f"{' and '.join(missing)} missing: choose a retrieval dataset"
        )
    query, database = (results[name]["rows"].compute() for name in (QUERY, DATABASE))
    if np.issubdtype(database["codes"].dtype, np.floating):
        mean = database["codes"].mean(axis=0)
        query["codes"], database["codes"] = (
            pack_on_host(rows["codes"] - mean) for rows in (query, database)
        )
    return query, database


def summarize(
    results: Mapping[str, Any],
    *,
    num_bits: int,
    at: int | None,
    protocol: Protocol = "category",
    facts: Mapping[str, Any] | None = None,
    ties: Ties = "stable",
) -> dict[str, float]:
    """The paper's metrics; all but the last two of "category" lie between 0 and 1.

    Always: "quantization_cosine", cos(v, sign v) on the queries; "bit_imbalance", the mean of
    |P(bit = 1) - 1/2| on the database.
    "category": "mAP@R", "mAP@all", with ties as said; of the queries, where the loss has classes,
    "accuracy" of its logits and "codebook_accuracy" of the class code with the fewest different
    bits; "separation", the mean Hamming distance of unrelated minus related pairs, in bits;
    "centre_coherence" (see there).
    "landmarks": "mAP@R", divided by all relevant images; needs facts["relevant"].
    "revisited": "easy/mAP", "medium/mAP", "hard/mAP"; needs facts["kind"].

    Raises:
      DataError: a split, or what says who is relevant, is missing.
    """
    query, database = retrieval_rows(results)
    if protocol == "category":
        scores = _category(query, database, num_bits, at, ties)
        for name in ("accuracy", "codebook_accuracy"):
            if name in results[QUERY]:
                scores[name] = results[QUERY][name].compute()
    else:
        scores = _instances(query["codes"], database["codes"], protocol, at, facts or {})
    positive = np.mean(unpack_bits(database["codes"], num_bits) > 0, axis=0)
    return {
        **scores,
        "quantization_cosine": results[QUERY]["quantization_cosine"].compute(),
        "bit_imbalance": float(np.mean(np.abs(positive - 0.5))),
    }


def _category(
    query: Mapping[str, np.ndarray],
    database: Mapping[str, np.ndarray],
    num_bits: int,
    at: int | None,
    ties: Ties,
) -> dict[str, float]:
    ranked = rank_statistics(
        query["codes"],
        query["label"],
        database["codes"],
        database["label"],
        num_bits=num_bits,
        at=tuple(dict.fromkeys((at, None))),
        ties=ties,
    )
    means = ranked.mean_average_precision.items()
    scores = {headline("category", cut): value for cut, value in means}
    coherence = centre_coherence(unpack_bits(database["codes"], num_bits), database["label"])
    return {**scores, "separation": ranked.separation, "centre_coherence": coherence}


def centre_coherence(codes: np.ndarray, labels: np.ndarray) -> float:
    """How far the hash centres of the classes are from orthogonal: ||H H^T / K - I||, Frobenius.

    A row of H is the majority of the codes of one class, bit by bit; 0 for orthogonal centres.

    Args:
      codes: int8 [N, K] of +-1.
      labels: int [N], or multi-hot [N, C].
    """
    if labels.ndim == 1:
        members = [codes[labels == label] for label in np.unique(labels)]
    else:
        members = [codes[rows] for rows in labels.T > 0 if rows.any()]
    centres = np.stack([np.where(part.sum(axis=0) >= 0, 1.0, -1.0) for part in members])
    products = centres @ centres.T / codes.shape[1]
    return float(np.linalg.norm(products - np.eye(len(centres))))


def _instances(
    query: np.ndarray,
    database: np.ndarray,
    protocol: Protocol,
    at: int | None,
    facts: Mapping[str, Any],
) -> dict[str, float]:
    fact = facts.get(_FACTS[protocol])
    if fact is None or len(fact) != len(query):
        found = "none" if fact is None else str(len(fact))
        raise DataError(
            f'protocol "{protocol}" needs the data to say which images are relevant to each of '
            f"{len(query)} queries, and it says so for {found}: use the landmarks dataset, or "
            'task.protocol="category"'
        )
    if protocol == "landmarks":
        wanted = [set(np.asarray(rows).tolist()) for rows in fact]
        depth = len(database) if at is None else min(at, len(database))
        nearest = [
            rank(host_hamming_distance(row[None], database))[0, :depth].tolist() for row in query
        ]
        return {headline(protocol, at): landmark_map(nearest, wanted, depth)}
    kind = np.asarray(fact)
    ranks = rank(host_hamming_distance(query, database))
    scores = revisited_map(ranks, kind == _EASY, kind == _HARD, kind == _JUNK)
    return {f"{name}/mAP": values["mAP"] for name, values in scores.items()}
