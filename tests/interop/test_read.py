from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxcog.errors import CheckpointError
from jaxcog.interop.read import read_checkpoint, read_object, unwrap

FILES = Path(__file__).parent / "files"
TORCH_FILES = ["zip.pth", "legacy.pth.tar"]


@pytest.fixture(scope="module")
def expected():
    """The tensors of both files, as PyTorch sees them (bfloat16 as float32)."""
    with np.load(FILES / "expected.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("name", TORCH_FILES)
def test_tensors_are_what_pytorch_saved(name, expected):
    tensors = read_checkpoint(FILES / name)
    assert tensors.keys() == expected.keys()
    for key, reference in expected.items():
        assert tensors[key].shape == reference.shape, key
        np.testing.assert_array_equal(tensors[key].astype(reference.dtype), reference, err_msg=key)
    assert tensors["brain"].dtype == ml_dtypes.bfloat16
    assert tensors["half"].dtype == np.float16
    assert tensors["count"].shape == ()


@pytest.mark.parametrize("name", TORCH_FILES)
def test_a_file_that_is_no_state_dict_is_read_whole(name):
    structure = read_object(FILES / name)
    assert structure["epoch"] == 3
    assert structure["best"] == 0.25
    assert structure["args"] == {"lr": 0.1, "names": ["a"]}
    assert structure["sizes"] == (2, 3)
    np.testing.assert_array_equal(structure["history"][0], [0, 1, 2])
    assert structure["history"][1] == (1.5, "x", None)
    np.testing.assert_array_equal(structure["array"], np.arange(6).reshape(2, 3).T)


@pytest.mark.parametrize("name", TORCH_FILES)
def test_what_was_taken_off_is_noted(name):
    _, notes = unwrap(read_object(FILES / name))
    assert any("state_dict" in note for note in notes)
    assert any("module." in note for note in notes)


def test_torchscript_archives_give_their_tensors():
    tensors = read_checkpoint(FILES / "script.pt")
    assert {name: x.shape for name, x in tensors.items()} == {
        "scale": (),
        "visual.conv.weight": (2, 1, 3, 3),
        "visual.bn.weight": (2,),
        "visual.bn.bias": (2,),
        "visual.bn.running_mean": (2,),
        "visual.bn.running_var": (2,),
        "visual.bn.num_batches_tracked": (),
    }
    assert tensors["scale"] == np.float16(1.5)
    np.testing.assert_array_equal(tensors["visual.bn.running_var"], [3, 4])


def test_reading_imports_no_torch():
    code = (
        "import sys; from jaxcog.interop.read import read_checkpoint;"
        f"read_checkpoint({str(FILES / 'zip.pth')!r}); assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


@pytest.mark.parametrize("name", TORCH_FILES)
def test_every_truncation_is_refused_or_harmless(name, tmp_path, expected):
    whole = (FILES / name).read_bytes()
    for length in range(0, len(whole), 97):
        path = tmp_path / "cut.pth"
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.pth"):
            read_checkpoint(path)


class _Runs:
    """Pickles to a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def _as_zip(path, payload):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")


def _as_legacy(path, payload):
    header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    tail = pickle.dumps([], 2)
    path.write_bytes(b"".join(pickle.dumps(x, 2) for x in header) + payload + tail)


def _as_header(path, payload):
    path.write_bytes(payload)


@pytest.mark.parametrize("write", [_as_zip, _as_legacy, _as_header])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_is_named_and_never_run(write, protocol, tmp_path):
    marker = tmp_path / "ran"
    attack = {"state_dict": {"w": _Runs(os.mkdir, str(marker))}}
    write(tmp_path / "evil.pth", pickle.dumps(attack, protocol))
    with pytest.raises(CheckpointError, match=rf"evil\.pth.*{os.mkdir.__module__}\.mkdir") as error:
        read_checkpoint(tmp_path / "evil.pth")
    assert "jaxcog[torch]" in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (eval, ("1",)),
        (getattr, (dict, "fromkeys")),
        (__import__, ("os",)),
        (subprocess.Popen, ("true",)),
        (np.load, ("x",)),
        (OrderedDict.fromkeys, ("ab",)),
    ],
)
def test_other_functions_are_refused(function, arguments, tmp_path):
    _as_zip(tmp_path / "evil.pth", pickle.dumps(_Runs(function, *arguments), 4))
    with pytest.raises(CheckpointError, match="refused"):
        read_object(tmp_path / "evil.pth")


def test_nothing_that_one_file_sets_outlives_it(tmp_path):
    # BUILD with a state for the admitted function itself, not for something that it built.
    rewrite = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__name__K\x01sb."
    _as_zip(tmp_path / "evil.pth", rewrite)
    with pytest.raises(CheckpointError):
        read_object(tmp_path / "evil.pth")
    assert read_checkpoint(FILES / "zip.pth")["count"] == 7


def test_a_storage_that_is_cut_off_is_refused(tmp_path):
    with zipfile.ZipFile(FILES / "zip.pth") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for storage in (name for name in contents if "/data/" in name and contents[name]):
        with zipfile.ZipFile(tmp_path / "cut.pth", "w") as archive:
            for name, data in contents.items():
                archive.writestr(name, data[:-1] if name == storage else data)
        with pytest.raises(CheckpointError, match="cut off"):
            read_object(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("size", "stride", "offset"), [((4, 4), (4, 1), 1), ((2,), (-1,), 1), ((1,), (1,), -1)]
)
def test_strides_cannot_reach_out(size, stride, offset, tmp_path):
    def push(n):
        return b"J" + struct.pack("<i", n)

    def numbers(values):
        return b"(" + b"".join(push(n) for n in values) + b"t"

    payload = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x10tQ"
        + push(offset)
        + numbers(size)
        + numbers(stride)
        + b"\x89}tR."
    )
    with zipfile.ZipFile(tmp_path / "evil.pth", "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/data/0", np.arange(16, dtype="<f4").tobytes())
    with pytest.raises(CheckpointError, match="outside its storage"):
        read_object(tmp_path / "evil.pth")


def test_plain_pickles_of_numpy_arrays(tmp_path):
    tensors = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.float32(2.5),
        "c": np.array([1, 2], ">i4"),
    }
    for protocol in (0, 2, 4, 5):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(tensors, protocol))
        structure = read_object(tmp_path / "x.pkl")
        for name, value in tensors.items():
            np.testing.assert_array_equal(structure[name], value)


def test_safetensors_and_npz(tmp_path):
    tensors = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1.5, -2], ml_dtypes.bfloat16),
        "c": np.array([1, 2], np.int64),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **{k: v for k, v in tensors.items() if k != "b"})
    for name, found in (("x.safetensors", tensors), ("x.npz", {"a.weight", "c"})):
        loaded = read_checkpoint(tmp_path / name)
        assert loaded.keys() == set(found)
        for key, value in loaded.items():
            assert value.dtype == tensors[key].dtype
            np.testing.assert_array_equal(value, tensors[key])


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02", b"PK\x03\x04rest"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
def test_garbage_is_an_error_that_names_the_file(content, suffix, tmp_path):
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"bad\.{suffix}"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pth")


@pytest.mark.parametrize("new", [True, False])
def test_pytorch_itself_reads_the_same(new, expected, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(value) for name, value in expected.items()}
    tensors["brain"] = tensors["brain"].bfloat16()
    torch.save({"model": tensors}, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    ours, theirs = (read_checkpoint(tmp_path / "x.pth", with_torch=x) for x in (False, True))
    for name, value in expected.items():
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name])
        np.testing.assert_array_equal(ours[name].astype(value.dtype), value)
    with pytest.raises(CheckpointError, match="PyTorch refuses it too"):
        read_checkpoint(FILES / "zip.pth", with_torch=True)


def test_without_the_extra_the_message_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match=r"jaxcog\[torch\]"):
        read_checkpoint(FILES / "zip.pth", with_torch=True)


def test_unwrapping():
    w = np.ones(2)
    assert unwrap({"w": w})[0].keys() == {"w"}
    assert unwrap({"model": {"state_dict": {"w": w}}, "best": w})[0].keys() == {"w"}
    assert unwrap({"encoder": {"w": w}, "epoch": 1})[0].keys() == {"w"}
    tensors, notes = unwrap({"w": w, "step": 3})
    assert tensors.keys() == {"w"}
    assert "step" in notes[-1]
    both = {"netG": {"w": w}, "netD": {"v": w}}
    with pytest.raises(CheckpointError, match="netG, netD"):
        unwrap(both)
    assert unwrap(both, "netD")[0].keys() == {"v"}
    with pytest.raises(CheckpointError, match="netF"):
        unwrap(both, "netF")
    with pytest.raises(CheckpointError, match="list"):
        unwrap([w, "x"])
    with pytest.raises(CheckpointError, match="epoch"):
        unwrap({"epoch": 3})
