"""Generated images: schema, reproducibility, and classes that can be told apart."""

from __future__ import annotations

import numpy as np
import pytest

from jaxcog.data.toy.patterns import Patterns
from jaxcog.errors import ConfigError


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("evaluation", ["classification", "retrieval"])
def test_records_are_as_described(evaluation: str, multi_label: bool):
    data = Patterns(size=16, evaluation=evaluation, multi_label=multi_label)
    splits = data.load()
    for stream in (splits.train, *splits.evaluation.values()):
        for name, leaf in data.describe().element.items():
            array = stream.source.arrays[name]
            assert (array.shape[1:], array.dtype) == (leaf.shape, leaf.dtype)
    again = data.load()
    np.testing.assert_array_equal(
        splits.train.source.arrays["image"], again.train.source.arrays["image"]
    )


def test_classes_differ_in_their_direction():
    arrays = Patterns(size=32, classes=2, examples=40).load().train.source.arrays
    across = np.abs(np.diff(arrays["image"], axis=2)).mean((1, 2, 3))
    along = np.abs(np.diff(arrays["image"], axis=1)).mean((1, 2, 3))
    np.testing.assert_array_equal((across < along).astype(int), arrays["label"])


def test_impossible_sizes_are_named():
    with pytest.raises(ConfigError, match="size=4"):
        Patterns(size=4)
