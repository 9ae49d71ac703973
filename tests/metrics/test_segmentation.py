from __future__ import annotations

import numpy as np
import pytest

from jaxcog.errors import DataError
from jaxcog.metrics import segmentation as metrics
from jaxcog.metrics.state import Confusion

K = 4


def maps():
    rng = np.random.default_rng(0)
    labels = rng.integers(K - 1, size=(2, 5, 6))  # the last class never occurs
    predictions = np.where(rng.random(labels.shape) < 0.7, labels, rng.integers(K - 1, size=1))
    labels[0, 0] = 255
    return predictions, labels


def test_confusion_counts_pairs_and_leaves_the_ignored_out():
    predictions, labels = maps()
    counts = metrics.confusion_matrix(predictions, labels, K)
    for i in range(K):
        for j in range(K):
            assert counts[i, j] == ((labels == i) & (predictions == j)).sum()
    np.testing.assert_array_equal(Confusion.of(predictions, labels, K).compute(), counts)


def test_iou_by_its_definition():
    predictions, labels = maps()
    counts, keep = metrics.confusion_matrix(predictions, labels, K), labels != 255
    ious = []
    for i in range(K):
        a, b = (predictions == i) & keep, (labels == i) & keep
        ious.append((a & b).sum() / max((a | b).sum(), 1))
    np.testing.assert_allclose(metrics.class_iou(counts), ious)
    assert metrics.mean_iou(counts) == pytest.approx(np.mean(ious))
    assert metrics.mean_iou(counts, "skip") == pytest.approx(np.mean(ious[:-1]))
    assert metrics.pixel_accuracy(counts) == pytest.approx((predictions == labels)[keep].mean())
    accuracies = [(predictions == labels)[labels == i].mean() for i in range(K - 1)]
    assert metrics.mean_accuracy(counts) == pytest.approx(np.mean(accuracies))


def test_without_pixels_there_is_no_accuracy():
    empty = np.zeros((K, K), int)
    assert metrics.mean_iou(empty) == 0
    assert np.isnan(metrics.mean_iou(empty, "skip"))
    assert np.isnan(metrics.pixel_accuracy(empty))
    assert np.isnan(metrics.mean_accuracy(empty))


def test_the_table_begins_with_the_worst_class():
    counts = np.array([[8, 0, 0], [1, 1, 0], [0, 0, 0]])
    table = metrics.iou_table(counts, ("road", "pole", "train"))
    assert [row[0] for row in table.rows] == ["pole", "road", "train"]
    assert table.rows[0][1:] == ["50.0", "20.00"]
    assert table.rows[2][1] == "absent"


def test_what_does_not_fit_is_named():
    predictions, labels = maps()
    with pytest.raises(DataError, match=r"\(2, 5, 5\) and label \(2, 5, 6\).*label's size"):
        metrics.confusion_matrix(predictions[..., 1:], labels, K)
    with pytest.raises(DataError, match=r"labels \[2\] are outside 0\.\.1.*ignore label 255"):
        metrics.confusion_matrix(np.minimum(predictions, 1), labels, 2)
