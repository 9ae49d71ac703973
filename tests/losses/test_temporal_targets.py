from __future__ import annotations

import numpy as np

from jaxcog.losses import temporal_targets as targets


def test_windows_that_are_the_instance_have_overlap_one():
    found = targets.bmn_targets(np.array([[2.0, 5.0]]), 10.0, 10)
    assert found.iou_map.shape == (10, 10)
    assert found.iou_map[2, 2] == 1
    assert found.iou_map.argmax() == 2 * 10 + 2
    np.testing.assert_allclose(found.iou_map[5, 2], 0.5)
    # The boundary's surroundings are three snippets wide, and a snippet's own window two.
    np.testing.assert_allclose(found.start, [0.5, 1, 1, 0.5, 0, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found.end, [0, 0, 0, 0.5, 1, 1, 0.5, 0, 0, 0], atol=1e-6)


def test_fewer_durations_are_the_first_rows():
    segments = np.array([[0.3, 0.9], [4.0, 7.7]])
    whole = targets.bmn_targets(segments, 8.0, 12)
    part = targets.bmn_targets(segments, 8.0, 12, max_duration=5)
    np.testing.assert_array_equal(part.iou_map, whole.iou_map[:5])


def test_a_video_without_instances_has_empty_targets():
    found = targets.bmn_targets(np.zeros((0, 2)), 8.0, 6)
    assert found.iou_map.max() == found.start.max() == found.end.max() == 0


def test_masks_round_down_and_clip():
    mask = targets.snippet_mask(np.array([[15.2, 30.2], [49.0, 70.0]]), 50.0)
    assert mask.sum() == (60 - 30) + 2
    assert mask[30] == mask[99] == 1
    assert mask[29] == mask[60] == 0
    assert targets.snippet_mask(np.array([[1.0, 1.004]]), 2.0).sum() == 0


def test_cells_whose_window_fits():
    np.testing.assert_array_equal(
        targets.valid_cells(4, 3), [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]
    )
    assert targets.corrected_duration(90, 100, 30.0) == 27
