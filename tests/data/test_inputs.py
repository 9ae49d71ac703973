"""Files named on the command line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxcog.data.inputs import ImageFile, read_inputs
from jaxcog.errors import DataError


def test_images_and_indexes_are_told_apart_and_images_wait(tmp_path):
    Image.new("L", (4, 3), 7).save(tmp_path / "a.png")
    np.savez(tmp_path / "b.npz", words=np.arange(3))
    (tmp_path / "c.jpg").write_bytes(b"no image")
    (image, index, broken), names = read_inputs("images and indexes", [tmp_path])
    assert [name[-5:] for name in names] == ["a.png", "b.npz", "c.jpg"]
    assert isinstance(image, ImageFile)
    assert np.asarray(image).shape == (3, 4, 3)
    np.testing.assert_array_equal(index["words"], [0, 1, 2])
    with pytest.raises(DataError, match=r"c\.jpg cannot be read as one of images"):
        np.asarray(broken)
    (tmp_path / "b.npz").write_bytes(b"no index")
    with pytest.raises(DataError, match=r"b\.npz cannot be read"):
        read_inputs("images and indexes", [tmp_path / "b.npz"])
