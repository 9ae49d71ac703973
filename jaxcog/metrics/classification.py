"""Classification metrics in percent, from counts [K, K]: labels in rows, predictions in columns."""

from __future__ import annotations

import numpy as np


def accuracy(counts: np.ndarray) -> float:
    """Share of examples that were predicted right, in percent; NaN without examples."""
    return _percent(np.trace(counts), np.sum(counts))


def class_accuracies(counts: np.ndarray) -> np.ndarray:
    """[K] share of each class that was predicted right, in percent; NaN where a class is absent."""
    counts = np.asarray(counts, np.float64)
    sizes = counts.sum(axis=1)
    return np.where(sizes > 0, 100 * np.diag(counts) / np.maximum(sizes, 1), np.nan)


def per_class_accuracy(counts: np.ndarray) -> float:
    """Mean of the accuracies of the classes that occur, in percent (headline of VisDA-17)."""
    return _mean_of_present(class_accuracies(counts))


def macro_f1(counts: np.ndarray) -> float:
    """Mean F1 over the classes that occur among the labels, in percent."""
    counts = np.asarray(counts, np.float64)
    labelled, predicted = counts.sum(axis=1), counts.sum(axis=0)
    f1 = 200 * np.diag(counts) / np.maximum(labelled + predicted, 1)
    return _mean_of_present(np.where(labelled > 0, f1, np.nan))


def _percent(part: float, whole: float) -> float:
    return 100.0 * float(part) / float(whole) if whole else float("nan")


def _mean_of_present(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
