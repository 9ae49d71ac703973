from __future__ import annotations

import numpy as np
import pytest

from jaxcog.errors import DataError
from jaxcog.metrics.state import Concat, Mean
from jaxcog.systems.orthohash import judging


def results_of(query: np.ndarray, database: np.ndarray):
    """Metric states of continuous codes without labels that mean anything."""

    def states(codes):
        rows = Concat.of({"codes": codes, "label": np.zeros(len(codes), np.int32)})
        return {"rows": rows, "quantization_cosine": Mean.of(1.0), "accuracy": Mean.of(1.0)}

    return {"query": states(query), "database": states(database)}


def random_codes(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 32)).astype(np.float32)


def test_revisited_and_landmark_protocols_use_what_the_data_says():
    database = random_codes(6, 0)
    query = database[[2, 4]] + 0.01
    kind = np.zeros((2, 6), np.int8)
    kind[0, 2], kind[1, 4] = 2, 1
    scores = judging.summarize(
        results_of(query, database),
        num_bits=32,
        at=None,
        protocol="revisited",
        facts={"kind": kind},
    )
    assert scores["hard/mAP"] == scores["easy/mAP"] == 1.0
    assert judging.headline("revisited", 100) in scores
    relevant = [np.array([2]), np.array([4, 0])]
    scores = judging.summarize(
        results_of(query, database),
        num_bits=32,
        at=1,
        protocol="landmarks",
        facts={"relevant": relevant},
    )
    assert scores["mAP@1"] == pytest.approx((1 + 1 / 2) / 2)
    with pytest.raises(DataError, match="says so for none"):
        judging.summarize(results_of(query, database), num_bits=32, at=1, protocol="landmarks")


def test_recalibration_undoes_a_shift_of_the_domain():
    database, shift = random_codes(50, 0), 10 * random_codes(1, 1)
    query = database[:5] + 0.01
    scores = []
    for moved in (0, shift):
        rows, other = judging.retrieval_rows(results_of(query + moved, database + moved))
        scores.append((rows["codes"], other["codes"]))
    for before, after in zip(*scores, strict=True):
        assert np.bitwise_count(before ^ after).sum() <= 2  # bits within rounding of the mean
    flat = judging.summarize(
        results_of(query + shift, database + shift),
        num_bits=32,
        at=None,
        protocol="landmarks",
        facts={"relevant": [np.array([i]) for i in range(5)]},
    )
    assert flat["mAP@all"] == 1.0


@pytest.mark.parametrize("multi_hot", [False, True])
def test_orthogonal_centres_have_no_coherence(multi_hot):
    centres = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1]], np.int8)
    labels = np.repeat(np.arange(3), 5)
    codes = centres[labels]
    codes[::5] *= -1  # the majority decides
    given = np.eye(3)[labels] if multi_hot else labels
    assert judging.centre_coherence(codes, given) == pytest.approx(0)
    same = judging.centre_coherence(centres[np.zeros(15, int)], given)
    assert same == pytest.approx(np.sqrt(6))
