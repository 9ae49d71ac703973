"""Reading checkpoints of other frameworks as NumPy arrays: .pth, .safetensors, .npz, joblib.

PyTorch's files (its zip format, and the one before version 1.6) are read without PyTorch, through
an unpickler that can build data and nothing else (jaxcog.interop.unpickle).
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from jaxcog.errors import CheckpointError
from jaxcog.interop.unpickle import ForbiddenGlobalError, RestrictedUnpickler, Storage, resolved

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# What reading garbage raises, here and in the libraries below.
_DAMAGED = (
    pickle.UnpicklingError,
    safetensors.SafetensorError,
    zipfile.BadZipFile,
    AttributeError,
    EOFError,
    LookupError,
    ArithmeticError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "params", "weights")


def read_checkpoint(
    path: str | Path, *, part: str | None = None, with_torch: bool = False
) -> dict[str, np.ndarray]:
    """The named tensors of a checkpoint file; the usual wrappings are taken off (see `unwrap`).

    part: which one, where a file holds several state dicts: its key, or keys joined by "/".
    with_torch: read .pth files by torch.load(weights_only=True) (the extra jaxcog[torch]).

    Raises CheckpointError as `read_object` and `unwrap` do.
    """
    structure = read_object(path, with_torch=with_torch)
    try:
        tensors, _ = unwrap(structure, part)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return tensors


def read_object(path: str | Path, *, with_torch: bool = False) -> Any:
    """Everything in a file: nested dicts, lists and tuples of arrays, numbers and strings.

    The format is told from the content. Half and bfloat16 tensors keep their type (ml_dtypes). Of
    a TorchScript archive (the official CLIP files) the tensors are read, by name.

    Raises CheckpointError: no such file, an unknown or damaged one, or one that asks for more
      than data (the forbidden name and the remedy are in the message; nothing was run).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: is empty; was the download cut off?")
    try:
        if path.suffix == ".safetensors":
            return safetensors_numpy.load_file(path)
        if with_torch:
            return _by_torch(path)
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with path.open("rb") as file:
            return _read_pickles(file, path.stat().st_size)
    except ForbiddenGlobalError as error:
        raise CheckpointError(
            f"{path}: {error}, so reading it was refused. Save the model's state_dict alone, or "
            "install jaxcog[torch] and read it with with_torch=True, which is "
            "torch.load(weights_only=True)"
        ) from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except _DAMAGED as error:
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({type(error).__name__}: {error}); "
            "it is damaged, or of a kind other than .pth, .safetensors, .npz and joblib"
        ) from error


def unwrap(structure: Any, part: str | None = None) -> tuple[dict[str, np.ndarray], list[str]]:
    """(the tensors inside a loaded structure, what was taken off or left out, in sentences).

    Takes off {"state_dict": ...}, {"model": ...} and their like, a single dict of tensors among
    other entries, and a "module." in front of every name; leaves out entries that are not arrays.
    A list of arrays (variables in the order of their making) gets the names "0", "1", ...

    Raises CheckpointError: no tensors, or several state dicts and no `part`.
    """
    notes: list[str] = []
    for key in part.split("/") if part else ():
        if not isinstance(structure, Mapping) or key not in structure:
            raise CheckpointError(f"there is no part {part!r} in it")
        structure = structure[key]
        notes.append(f"took the entry {key!r}")
    while isinstance(structure, Mapping):
        inner = _inner(structure)
        if inner is None:
            break
        notes.append(f"took the entry {inner!r}")
        structure = structure[inner]
    if _is_list_of_arrays(structure):
        notes.append("numbered the arrays of a list")
        structure = {str(number): array for number, array in enumerate(structure)}
    if not isinstance(structure, Mapping):
        raise CheckpointError(f"it holds a {type(structure).__name__}, not named tensors")
    tensors = {k: np.asarray(v) for k, v in structure.items() if isinstance(v, np.ndarray)}
    others = [str(key) for key in structure if key not in tensors]
    if not tensors:
        raise CheckpointError(f"it holds no named tensors, only {', '.join(others) or 'nothing'}")
    if others:
        notes.append(f"left out entries that are not tensors: {', '.join(others)}")
    while all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
        notes.append("took 'module.' off every name")
    return tensors, notes


def _inner(structure: Mapping[str, Any]) -> str | None:
    """The entry that wraps the tensors; None where they are here already."""
    holding = [key for key, value in structure.items() if _holds_tensors(value)]
    holding = holding or [key for key, value in structure.items() if _holds_list(value)]
    for key in _WRAPPERS:
        if key in holding:
            return key
    if any(isinstance(value, np.ndarray) for value in structure.values()) or not holding:
        return None
    if len(holding) > 1:
        raise CheckpointError(
            f"it holds several sets of tensors: name one of {', '.join(map(str, holding))} as part"
        )
    return holding[0]


def _is_list_of_arrays(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, np.ndarray) for item in value)


def _holds_list(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_list(item) for item in value.values())
    return _is_list_of_arrays(value) and len(value) > 0


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        (isinstance(item, np.ndarray) and isinstance(key, str)) or _holds_tensors(item)
        for key, item in value.items()
    )


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if not pickles:
            if not any(name.endswith(".npy") for name in names):
                raise CheckpointError("a zip file that is neither PyTorch's nor NumPy's")
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        root = pickles[0].removesuffix("data.pkl")
        scripted = f"{root}constants.pkl" in names
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise CheckpointError("written on a big-endian machine; save it again on another one")
        contents: dict[str, np.ndarray] = {}

        def storage(identifier: Any) -> Storage:
            dtype, key, numel = _identified(identifier)
            if key not in contents:
                contents[key] = np.frombuffer(archive.read(f"{root}data/{key}"), np.uint8)
            if len(contents[key]) < numel * dtype.itemsize:
                raise CheckpointError(f"storage {key} is cut off")
            return Storage(contents[key], dtype)

        file = io.BytesIO(archive.read(pickles[0]))
        structure = resolved(RestrictedUnpickler(file, storage, scripted=scripted).load())
        return dict(_script_tensors(structure)) if scripted else structure


def _script_tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of a TorchScript module under the names that its state_dict would give them."""
    for name, value in module.items():
        if isinstance(value, np.ndarray):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _script_tensors(value, f"{prefix}{name}.")


def _identified(identifier: Any) -> tuple[np.dtype, str, int]:
    """(dtype, key, numbers) of PyTorch's ("storage", type, key, device, numbers, ...)."""
    kind, dtype, key, _, numel, *_ = identifier
    if kind != "storage" or not isinstance(dtype, np.dtype) or not 0 <= numel < 2**48:
        raise CheckpointError(f"an unknown reference: {identifier!r:.100}")
    return dtype, str(key), int(numel)


def _read_pickles(file: io.BufferedIOBase, size: int) -> Any:
    """PyTorch's format before 1.6: four pickles, then raw storages; or one plain pickle."""
    first = RestrictedUnpickler(file).load()
    if not isinstance(first, int) or first != _LEGACY_MAGIC:
        return resolved(first)
    RestrictedUnpickler(file).load()  # version of the protocol
    info = RestrictedUnpickler(file).load()
    if not info.get("little_endian", True):
        raise CheckpointError("written on a big-endian machine; save it again on another one")
    contents: dict[str, np.ndarray] = {}
    items: dict[str, int] = {}

    def storage(identifier: Any) -> Storage:
        dtype, key, numel = _identified(identifier)
        if numel * dtype.itemsize > size:
            raise CheckpointError(f"storage {key} is cut off")
        items[key] = dtype.itemsize
        data = contents.setdefault(key, np.zeros(numel * dtype.itemsize, np.uint8))
        view = identifier[5] if len(identifier) > 5 else None
        if view is not None:
            _, start, length = view
            data = data[start * dtype.itemsize : (start + length) * dtype.itemsize]
        return Storage(data, dtype)

    structure = RestrictedUnpickler(file, storage).load()
    for key in map(str, RestrictedUnpickler(file).load()):
        numel = int.from_bytes(file.read(8), "little")
        data = file.read(len(contents[key]))
        if not numel * items[key] == len(data) == len(contents[key]):
            raise CheckpointError(f"storage {key} is cut off")
        contents[key][:] = np.frombuffer(data, np.uint8)
    return resolved(structure)


def _by_torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise CheckpointError("reading it with PyTorch needs the extra: jaxcog[torch]") from None

    def arrays(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            if value.dtype == torch.bfloat16:
                return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
            return value.numpy()
        if isinstance(value, Mapping):
            return {key: arrays(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(arrays(item) for item in value)
        return value

    try:
        return arrays(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        # PyTorch's own text recommends loading without the restriction; that is not our advice.
        raise CheckpointError(
            "PyTorch refuses it too (torch.load with weights_only=True). Load it where its code is "
            "trusted, and save the model's state_dict alone"
        ) from error
