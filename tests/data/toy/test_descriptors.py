from __future__ import annotations

import numpy as np

from jaxcog.data.toy.descriptors import EASY, HARD, JUNK, Descriptors


def test_neighbours_are_of_the_same_landmark_and_the_truth_says_so():
    splits = Descriptors().load()
    query, database = (splits.evaluation[name].source.arrays for name in ("query", "database"))
    np.testing.assert_allclose(np.linalg.norm(query["feature"], axis=1), 1, rtol=1e-6)
    nearest = np.argmax(query["feature"] @ database["feature"].T, axis=1)
    assert np.mean(database["label"][nearest] == query["label"]) > 0.8
    relevant = splits.info.facts["relevant"]
    for rows, label in zip(relevant, query["label"], strict=True):
        assert (database["label"][rows] == label).all()
        assert len(rows) == 8


def test_each_landmark_has_easy_hard_and_junk_images():
    kind = Descriptors(truth="revisited").load().info.facts["kind"]
    assert kind.shape == (12, 96)
    for row in kind:
        assert set(row) == {0, EASY, HARD, JUNK}
