"""Metrics of dense labelling from a confusion matrix: IoU, accuracy. NumPy, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxcog.errors import DataError
from jaxcog.show import Table

IGNORE = 255


def confusion_matrix(
    predictions: Any, labels: Any, num_classes: int, ignore: int = IGNORE
) -> np.ndarray:
    """int64 [K, K]: how often class i (row) was called j (column), pixels of `ignore` left out.

    predictions, labels: integers of one shape. On a device use metrics.state.Confusion.

    Raises:
      DataError: shapes differ, or a label is neither a class nor `ignore`.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape:
        raise DataError(
            f"prediction {predictions.shape} and label {labels.shape} differ in size: compare them "
            "at the label's size"
        )
    keep = labels != ignore
    wrong = np.unique(labels[keep & ((labels < 0) | (labels >= num_classes))])
    if wrong.size:
        raise DataError(
            f"labels {wrong[:5].tolist()} are outside 0..{num_classes - 1} and not the ignore "
            f"label {ignore}: map the dataset's values to classes first"
        )
    cells = labels[keep].astype(np.int64) * num_classes + predictions[keep].astype(np.int64)
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def class_iou(counts: Any) -> np.ndarray:
    """float64 [K]: intersection over union of each class, 0 for a class that never occurs."""
    counts = np.asarray(counts, np.float64)
    hit = np.diag(counts)
    return hit / np.maximum(1.0, counts.sum(0) + counts.sum(1) - hit)


def mean_iou(counts: Any, absent: Literal["zero", "skip"] = "zero") -> float:
    """Mean of `class_iou`.

    absent: what a class counts that neither labels nor predictions have: 0 (the Cityscapes
      evaluation of the GALD code), or nothing.
    """
    counts = np.asarray(counts)
    iou = class_iou(counts)
    if absent == "skip":
        present = counts.sum(0) + counts.sum(1) > 0
        return float(iou[present].mean()) if present.any() else float("nan")
    return float(iou.mean())


def pixel_accuracy(counts: Any) -> float:
    """Share of pixels that are labelled rightly; NaN without pixels."""
    counts = np.asarray(counts, np.float64)
    total = counts.sum()
    return float(np.trace(counts) / total) if total else float("nan")


def mean_accuracy(counts: Any) -> float:
    """Mean over the classes that occur of the share of their pixels that is labelled rightly."""
    counts = np.asarray(counts, np.float64)
    sizes = counts.sum(1)
    present = sizes > 0
    return float((np.diag(counts)[present] / sizes[present]).mean()) if present.any() else np.nan


def iou_table(counts: Any, class_names: Sequence[str], title: str = "IoU per class") -> Table:
    """Class, IoU in percent, share of all labelled pixels; the worst class first."""
    counts = np.asarray(counts)
    iou, sizes = 100 * class_iou(counts), counts.sum(1)
    share = 100 * sizes / max(int(sizes.sum()), 1)
    present = sizes + counts.sum(0) > 0
    order = sorted(range(len(iou)), key=lambda i: (not present[i], iou[i]))
    rows = [
        [class_names[i], f"{iou[i]:.1f}" if present[i] else "absent", f"{share[i]:.2f}"]
        for i in order
    ]
    return Table(
        title, ("class", "IoU %", "% of pixels"), rows, f"mIoU {100 * mean_iou(counts):.2f}"
    )
