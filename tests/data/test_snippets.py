from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxcog.data import inputs, snippets
from jaxcog.errors import DataError


def ramp(length: int, channels: int = 3) -> np.ndarray:
    return np.arange(length, dtype=np.float32)[:, None] * np.ones(channels, np.float32)


def test_rescaling_is_linear_between_the_centres_of_snippets():
    np.testing.assert_allclose(snippets.rescaled(ramp(4), 2)[:, 0], [0.5, 2.5])
    np.testing.assert_allclose(snippets.rescaled(ramp(2), 4)[:, 0], [0, 0.25, 0.75, 1])
    same = ramp(5)
    assert snippets.rescaled(same, 5) is same


def test_npy_and_csv_hold_the_same(tmp_path: Path):
    array = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    np.savetxt(tmp_path / "b.csv", array, delimiter=",")
    (tmp_path / "c.csv").write_text("x,y,z,w\n" + (tmp_path / "b.csv").read_text())
    for name in ("a.npy", "b.csv", "c.csv"):
        np.testing.assert_allclose(snippets.read_file(tmp_path / name), array, rtol=1e-6)


def test_hdf5_with_all_videos_with_groups_and_one_a_video(tmp_path: Path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "all.hdf5", "w") as file:
        file["v_1"] = ramp(5)
        file.create_group("v_2")["c3d_features"] = ramp(7)
    with h5py.File(tmp_path / "v_1.h5", "w") as file:
        file["v_1"] = ramp(5)
    with snippets.Store([tmp_path / "all.hdf5"]) as store:
        assert "v_1" in store
        assert "v_3" not in store
        np.testing.assert_array_equal(store["v_2"], ramp(7))
    np.testing.assert_array_equal(snippets.read_file(tmp_path / "v_1.h5"), ramp(5))
    with snippets.Store([tmp_path / "all.hdf5", tmp_path]) as store:
        assert store["v_1"].shape == (5, 6)
    with pytest.raises(DataError, match="one file a video"):
        snippets.read_file(tmp_path / "all.hdf5")


def test_without_h5py_the_message_says_what_to_do(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(DataError, match="pip install h5py"):
        snippets.read_file(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4), "features must be numbers"),
        (np.zeros((0, 4)), "features must be numbers"),
        (np.full((2, 3), np.nan), "not finite"),
        (np.zeros((2, 5)), "5 channels, the other videos have 3"),
    ],
)
def test_features_that_cannot_be_used_are_named(array, message):
    with pytest.raises(DataError, match=f"v_7: .*{message}"):
        snippets.checked(array, "v_7", width=3)


def test_channels_of_two_streams_are_joined_and_missing_videos_named(tmp_path: Path):
    for stream, length in (("flow", 5), ("rgb", 4)):
        (tmp_path / stream).mkdir()
        np.save(tmp_path / stream / "v_1.npy", ramp(length))
    with snippets.Store([tmp_path / "flow", tmp_path / "rgb"]) as store:
        assert store["v_1"].shape == (4, 6)
        with pytest.raises(DataError, match=r"1 of 2 videos have no features .*v_2.*skip\.txt"):
            list(snippets.require(store, ["v_1", "v_2"], "skip.txt"))


def test_predict_reads_features_and_what_lies_beside_them(tmp_path: Path):
    np.save(tmp_path / "a.npy", ramp(5))
    side = tmp_path / "a.json"
    (value,), _ = inputs.read_inputs("snippets", [tmp_path / "a.npy"])
    assert value.segments is None
    side.write_text(json.dumps({"duration": 10, "segments": [[1, 3]]}))
    value = snippets.read_snippets(tmp_path / "a.npy")
    assert value.duration == 10
    np.testing.assert_array_equal(value.segments, [[1, 3]])
    for text, message in (
        ('{"segments": [[1, 3]]}', '"duration"'),
        ('{"duration": 2, "segments": [[3, 4]]}', "does not lie in the video"),
        ('{"duration": 9, "segments": [[4, 3]]}', "does not lie in the video"),
        ('{"duration": 9, "segments": [4, 3, 2]}', "write"),
        ("[", "write"),
    ):
        side.write_text(text)
        with pytest.raises(DataError, match=message):
            snippets.read_snippets(tmp_path / "a.npy")
