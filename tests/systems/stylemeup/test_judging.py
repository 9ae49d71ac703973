from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from jaxcog.systems.stylemeup import judging


def test_ties_count_against_the_query():
    gallery = np.array([[0.0], [0.0], [1.0]])
    ranks = judging.retrieval_ranks(np.array([[0.0], [1.0]]), gallery, np.array([0, 2]))
    assert ranks.tolist() == [2, 1]
    assert judging.accuracy_at_k(ranks, (1, 2)) == {1: 0.5, 2: 1.0}
    assert np.isnan(judging.accuracy_at_k(np.zeros(0))[1])


def test_average_precision_is_scikit_learns():
    random = np.random.default_rng(0)
    scores = random.integers(0, 5, (6, 20)).astype(float)
    relevance = random.random((6, 20)) < 0.3
    relevance[0] = False
    want = [average_precision_score(r, s) for r, s in zip(relevance[1:], scores[1:], strict=True)]
    got = judging.average_precisions(scores, relevance)
    np.testing.assert_allclose(got[1:], want)
    assert got[0] == 0
    assert judging.mean_average_precision(scores, relevance) == pytest.approx(got.mean())


def test_precision_and_consistency():
    scores = np.array([[3.0, 2.0, 1.0, 0.0]])
    relevance = np.array([[1, 0, 1, 1]])
    assert judging.precision_at_k(scores, relevance, 2) == 0.5
    assert judging.precision_at_k(scores, relevance) == 0.75
    assert judging.rank_consistency(np.array([[1, 3], [5, 5]])) == (3.5, 0.5)
    assert judging.rank_consistency(np.array([[1, 3], [5, 5]]), ddof=1) == (3.5, 1.0)


def test_protocols_by_photo_and_by_category():
    gallery = {
        "content": np.eye(4),
        "photo": np.array([7, 5, 3, 1]),
        "label": np.array([0, 0, 1, 1]),
    }
    query = {
        "content": np.eye(4)[[0, 0, 2]] + 0.01,
        "photo": np.array([7, 5, 3]),
        "label": np.array([0, 0, 1]),
    }
    found = judging.instance_metrics(query, gallery)
    assert found["acc@1"] == pytest.approx(2 / 3)
    assert found["acc@5"] == 1
    assert "rank_variance" not in found, "one sketch each"
    found = judging.category_metrics(query, gallery, k=1)
    assert found["p@1"] == 1
    assert 0.5 < found["map"] < 1


def test_style_is_read_where_it_is():
    random = np.random.default_rng(0)
    style = 5 * random.normal(size=(1, 4, 2)) + random.normal(size=(20, 4, 2))
    content = 5 * random.normal(size=(20, 1, 2)) + random.normal(size=(20, 4, 2))
    rows = {"mu": style, "content": content, "swapped": np.ones(20), "own": 4 * np.ones(20)}
    found = judging.style_metrics(rows)
    assert found["style_from_mu"] > 0.9
    assert found["style_from_content"] < 0.6
    assert found["swap_ratio"] == 0.25
