"""Samples are the first, or evenly spread, evaluation examples."""

from __future__ import annotations

import numpy as np

from jaxcog.data.samples import sample_arrays
from jaxcog.data.types import ArraySource, Stream


def test_first_and_spread():
    stream = Stream(
        ArraySource({"x": np.arange(11)}), transform=lambda record, _: {"x": record["x"] * 10}
    )
    assert sample_arrays(stream, 3)["x"].tolist() == [0, 10, 20]
    assert sample_arrays(stream, 3, spread=True)["x"].tolist() == [0, 50, 100]
    assert sample_arrays(stream, 99)["x"].shape == (11,)
