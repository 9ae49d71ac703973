from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from jaxcog.metrics.classification import accuracy, class_accuracies, macro_f1, per_class_accuracy
from jaxcog.metrics.state import Confusion


def example(classes=6, absent=(2,), seed=0):
    """Labels without the classes `absent`, which are predicted all the same."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([c for c in range(classes) if c not in absent], 200)
    predictions = np.where(rng.uniform(size=200) < 0.6, labels, rng.integers(classes, size=200))
    return labels, predictions, Confusion.of(predictions, labels, classes).compute()


def test_agree_with_scikit_learn_over_the_classes_that_occur():
    labels, predictions, counts = example()
    assert accuracy(counts) == pytest.approx(100 * np.mean(labels == predictions))
    f1 = f1_score(labels, predictions, labels=np.unique(labels), average="macro")
    assert macro_f1(counts) == pytest.approx(100 * f1)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = balanced_accuracy_score(labels, predictions)
    assert per_class_accuracy(counts) == pytest.approx(100 * balanced)


def test_absent_classes_have_no_accuracy():
    _, _, counts = example(absent=(0, 4))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(class_accuracies(counts))), [0, 4])


def test_a_class_that_is_never_predicted_counts_as_zero():
    counts = np.array([[3, 0], [2, 0]])
    assert per_class_accuracy(counts) == 50
    assert macro_f1(counts) == pytest.approx(50 * 2 * 3 / (3 + 5))


def test_no_examples_give_nan():
    empty = np.zeros((3, 3))
    assert all(np.isnan(metric(empty)) for metric in (accuracy, macro_f1, per_class_accuracy))
