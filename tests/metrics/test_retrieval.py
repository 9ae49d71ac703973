from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from jaxcog.metrics import retrieval


def test_average_precision_by_hand():
    hits = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]], bool)
    np.testing.assert_allclose(
        retrieval.average_precision(hits), [(1 + 2 / 3) / 2, 0, 0.5], rtol=1e-12
    )
    by_total = retrieval.average_precision(hits, np.array([4, 4, 1]))
    np.testing.assert_allclose(by_total, [(1 + 2 / 3) / 4, 0, 0.5], rtol=1e-12)


@pytest.mark.parametrize("at", [None, 1, 3, 4, 6])
def test_expected_ap_is_the_mean_over_all_orders_of_ties(at):
    distances = np.array([0, 1, 1, 1, 2, 2, 5])
    relevant = np.array([0, 1, 0, 1, 1, 0, 1], bool)
    values = []
    for order in itertools.permutations(range(7)):
        order = np.array(order)
        if (np.diff(distances[order]) >= 0).all():
            values.append(float(retrieval.average_precision(relevant[order][:at])))
    assert len(values) == 6 * 2
    expected = retrieval.mean_average_precision(
        distances[None], relevant[None], at=at, ties="expected"
    )
    assert expected == pytest.approx(np.mean(values), rel=1e-12)


def test_without_ties_all_orders_agree():
    rng = np.random.default_rng(0)
    distances, relevant = rng.random((5, 40)), rng.random((5, 40)) < 0.2
    values = [
        retrieval.mean_average_precision(
            distances, relevant, at=10, ties=ties, key=jax.random.key(0)
        )
        for ties in ("stable", "random", "expected")
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-12)


def test_random_ties_average_to_the_expected_value():
    rng = np.random.default_rng(1)
    distances, relevant = rng.integers(0, 4, (6, 30)), rng.random((6, 30)) < 0.3
    drawn = [
        retrieval.mean_average_precision(
            distances, relevant, at=12, ties="random", key=jax.random.key(seed)
        )
        for seed in range(150)
    ]
    expected = retrieval.mean_average_precision(distances, relevant, at=12, ties="expected")
    assert abs(np.mean(drawn) - expected) < 4 * np.std(drawn) / np.sqrt(len(drawn))
    with pytest.raises(ValueError, match="needs a key"):
        retrieval.rank(distances, ties="random")


def test_a_repeated_landmark_counts_once_and_unreachable_ones_lower_the_score():
    value = retrieval.landmark_map([["a", "a", "b", "x"]], [{"a", "b", "c", "d"}], at=3)
    assert value == pytest.approx((1 + 2 / 3) / 4)


def test_revisited_protocols_ignore_what_they_must():
    # Ranked: junk, easy, negative, hard. Junk leaves no trace in any protocol.
    ranks = np.array([[3, 0, 1, 2]])
    easy, hard, junk = (np.eye(4, dtype=bool)[[i]] for i in (0, 2, 3))
    results = retrieval.revisited_map(ranks, easy, hard, junk, kappas=(1,))
    assert results["easy"]["mAP"] == pytest.approx(1.0)
    assert results["hard"]["mAP"] == pytest.approx((0 + 1 / 2) / 2)
    assert results["medium"]["mAP"] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert results["hard"]["mP"][0] == 0
    none = retrieval.revisited_map(ranks, easy, hard & False, junk, kappas=(1,))
    assert np.isnan(none["hard"]["mAP"])
    assert np.isnan(none["hard"]["aps"][0])
