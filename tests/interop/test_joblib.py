"""joblib files: arrays lie between the opcodes of the pickle that describes them."""

from __future__ import annotations

import joblib
import numpy as np
import pytest

from jaxcog.errors import CheckpointError
from jaxcog.interop.read import read_checkpoint, read_object

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.array([1, 2], np.int64),
]


def test_a_list_of_arrays_is_numbered(tmp_path):
    joblib.dump(ARRAYS, tmp_path / "list")
    found = read_checkpoint(tmp_path / "list")
    assert list(found) == ["0", "1", "2"]
    for array, want in zip(found.values(), ARRAYS, strict=True):
        np.testing.assert_array_equal(array, want)
        assert array.dtype == want.dtype


@pytest.mark.parametrize("protocol", [2, 4, None])
def test_named_arrays_and_wrappings(tmp_path, protocol):
    named = {"a/kernel": ARRAYS[0], "a/bias": ARRAYS[2]}
    joblib.dump({"params": named, "args": {"lr": 0.1}}, tmp_path / "file", protocol=protocol)
    found = read_checkpoint(tmp_path / "file")
    assert found.keys() == named.keys()
    np.testing.assert_array_equal(found["a/kernel"], ARRAYS[0])
    joblib.dump({"params": {"model": ARRAYS}, "args": [1, 2]}, tmp_path / "file")
    assert list(read_checkpoint(tmp_path / "file")) == ["0", "1", "2"]


def test_what_is_cut_off_or_no_data_is_refused(tmp_path):
    path = tmp_path / "file"
    joblib.dump([np.zeros(1000)], path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(CheckpointError, match="cut off"):
        read_object(path)
    joblib.dump([np.array([print, len], object)], path)
    with pytest.raises(CheckpointError):
        read_object(path)
