from __future__ import annotations

import numpy as np
import pytest

from jaxcog.metrics import temporal
from jaxcog.metrics.temporal import Segments


def segments(rows, scores=None):
    """Rows (video, label, start, end)."""
    array = np.array(rows, float).reshape(-1, 4)
    given = None if scores is None else np.array(scores, float)
    return Segments(array[:, 0].astype(int), array[:, 1].astype(int), array[:, 2:], given)


def test_overlap_of_every_pair():
    a = np.array([[0.0, 2.0], [5.0, 5.0]])
    b = np.array([[1.0, 3.0], [2.0, 4.0], [0.0, 2.0]])
    np.testing.assert_allclose(temporal.temporal_iou(a, b), [[1 / 3, 0, 1], [0, 0, 0]])


def test_soft_nms_decays_what_overlaps_and_keeps_the_last():
    boxes = np.array([[0.0, 1.0], [0.0, 0.5], [2.0, 3.0]])
    kept, scores = temporal.soft_nms(boxes, np.array([0.9, 0.8, 0.7]), sigma=0.5)
    np.testing.assert_array_equal(kept, boxes[[0, 2, 1]])
    np.testing.assert_allclose(scores, [0.9, 0.7, 0.8 * np.exp(-(0.5**2) / 0.5)])
    assert len(temporal.soft_nms(boxes, np.array([0.9, 0.8, 0.7]), drop_last=True)[1]) == 2
    assert len(temporal.soft_nms(boxes, np.array([0.9, 0.0, 0.0]))[1]) == 1
    assert len(temporal.soft_nms(boxes, np.ones(3), max_keep=2)[1]) == 2
    assert temporal.soft_nms(np.zeros((0, 2)), np.zeros(0))[0].shape == (0, 2)


def test_a_repeated_detection_is_a_false_positive():
    truth = segments([(0, 7, 0, 10)])
    once = segments([(0, 7, 0, 10)], [0.9])
    twice = segments([(0, 7, 0, 9.9), (0, 7, 0, 10)], [0.9, 0.8])
    assert temporal.detection_map(truth, once).average == 1
    assert temporal.detection_map(truth, twice).at(0.5) == 1
    # The first claims the instance, so a false positive in front lowers the precision.
    wrong_first = segments([(1, 7, 0, 10), (0, 7, 0, 10)], [0.9, 0.8])
    assert temporal.detection_map(truth, wrong_first).at(0.5) == 0.5


def test_each_threshold_has_its_own_claims_and_each_class_its_own_column():
    truth = segments([(0, 1, 0, 10), (0, 1, 20, 30), (3, 0, 0, 1)])
    guesses = segments([(0, 1, 0, 6), (0, 1, 0, 10), (0, 1, 20, 30)], [0.9, 0.8, 0.7])
    found = temporal.detection_map(truth, guesses, (0.5, 0.75))
    np.testing.assert_array_equal(found.classes, [1, 0])
    np.testing.assert_allclose(found.ap[:, 1], 0)  # a class without predictions
    # At 0.5 the first claims and the second is false; at 0.75 the first is false.
    np.testing.assert_allclose(found.ap[0, 0], 0.5 + 0.5 * 2 / 3)
    np.testing.assert_allclose(found.ap[1, 0], 2 / 3)
    with pytest.raises(ValueError, match="need scores"):
        temporal.detection_map(truth, truth)


def test_an_overlap_equal_to_the_threshold_is_a_match():
    truth, guess = segments([(0, 0, 0, 10)]), segments([(0, 0, 0, 5)], [1.0])
    assert temporal.detection_map(truth, guess, (0.5,)).average == 1


def test_fixed_boxes_reach_what_long_actions_give_away():
    random = np.random.default_rng(0)
    long = [(i, i % 5, 0.5 * random.random(), 9.5 + 0.5 * random.random()) for i in range(40)]
    short = [(i, i % 5, 4.0, 5.0) for i in range(40)]
    durations = dict.fromkeys(range(40), 10.0)
    found = temporal.fixed_box_baselines(segments(long), durations)
    assert found["whole_video"].at(0.5) == 1
    assert found["two_boxes"].at(0.5) == 1
    assert temporal.fixed_box_baselines(segments(short), durations)["whole_video"].average == 0


def test_rows_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"N = 2 videos"):
        Segments(np.zeros(2, int), np.zeros(1, int), np.zeros((2, 2)))
