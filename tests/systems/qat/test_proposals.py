from __future__ import annotations

import numpy as np
import pytest

from jaxcog.systems.qat import proposals

CURVE = np.array([0.0, 0.6, 0.9, 0.6, 0.0, 0.0, 0.7, 0.7, 0.0, 0.0])


def test_runs_at_every_threshold_each_once():
    segments, scores = proposals.probability_to_segments(CURVE, (0.5, 0.65, 0.8, 0.95))
    np.testing.assert_allclose(segments, [[0.1, 0.4], [0.6, 0.8], [0.2, 0.3]])
    np.testing.assert_allclose(scores, [0.7, 0.7, 0.9])


def test_spans_closing_and_smoothing():
    span, _ = proposals.probability_to_segments(CURVE, (0.5,), "span")
    np.testing.assert_allclose(span, [[0.1, 0.8]])
    closed, _ = proposals.probability_to_segments(CURVE, (0.5,), closing=2)
    np.testing.assert_allclose(closed, [[0.1, 0.8]])
    smooth, _ = proposals.probability_to_segments(CURVE, (0.48,), smooth=3)
    np.testing.assert_allclose(smooth, [[0.1, 0.4]])


def test_nothing_above_any_threshold_gives_nothing():
    segments, scores = proposals.probability_to_segments(np.zeros(10))
    assert segments.shape == (0, 2)
    assert scores.shape == (0,)
    assert proposals.probability_to_segments(np.zeros(100), mode="released")[0].shape == (0, 2)
    assert proposals.detections(segments, scores, 30.0)[0].shape == (0, 2)


def test_the_released_spans_are_the_whole_video_where_the_curve_is_high_throughout():
    segments, _ = proposals.probability_to_segments(np.ones(100), mode="released")
    np.testing.assert_allclose(np.unique(segments, axis=0), [[0, 0.87], [0, 0.99]])


def test_windows_between_peaks():
    start = np.array([0.0, 0.2, 0.9, 0.2, 0.1, 0.1])
    end = np.array([0.0, 0.1, 0.1, 0.3, 0.8, 0.1])
    iou_map = np.zeros((6, 6, 2))
    iou_map[1, 2] = 0.4, 0.7  # start 2, end 4
    found = proposals.bmn_proposals(start, end, iou_map)
    assert [2 / 6, 4 / 6, 0.7, 0.4] in found.tolist()
    assert set(found[:, 0]) == {0, 2 / 6}
    assert set(found[:, 1]) == {4 / 6, 5 / 6}


def test_detections_are_seconds_one_copy_each():
    segments, scores = np.array([[0.0, 0.5], [0.6, 1.0]]), np.array([0.5, 0.9])
    found, kept = proposals.detections(segments, scores, 20.0)
    np.testing.assert_allclose(found, [[12, 20], [0, 10]])
    np.testing.assert_allclose(kept, [0.9, 0.5])
    twice, scaled = proposals.detections(segments, scores, 20.0, copies=(1.0, 0.1))
    assert len(twice) == 4
    assert scaled[2:] == pytest.approx(0.1 * kept)
