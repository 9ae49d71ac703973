"""A pickle reader that builds tensors, arrays and plain containers, and runs nothing else.

A pickle is a program: it names functions and has them called. This one may name only what the
table of `_admitted` lists, and every entry there is a function of ours that builds plain data.
All others are refused by name before anything is called.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Literal

import ml_dtypes
import numpy as np

from jaxcog.errors import CheckpointError

_DTYPES: dict[str, Any] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}


# Stands for every class of a TorchScript program; their code is never looked at.
SCRIPTED = ("__torch__", "*")


class ForbiddenGlobalError(CheckpointError):
    """The file names something that is not plain data; it was not called."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of numbers that tensors are views of. `data` may be filled after it was handed out."""

    data: np.ndarray  # [bytes] uint8
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view that is cut out once its storage has been filled."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: np.dtype

    def resolve(self) -> np.ndarray:
        numel = len(self.storage.data) // self.dtype.itemsize
        last = self.offset + sum(
            (n - 1) * step for n, step in zip(self.size, self.stride, strict=True)
        )
        negative = min((self.offset, *self.size, *self.stride)) < 0
        if negative or (math.prod(self.size) > 0 and last >= numel):
            raise CheckpointError(
                f"a tensor of shape {list(self.size)}, strides {list(self.stride)}, offset "
                f"{self.offset} reaches outside its storage of {numel} numbers"
            )
        flat = self.storage.data[: numel * self.dtype.itemsize].view(self.dtype)
        steps = tuple(step * self.dtype.itemsize for step in self.stride)
        view = np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.size, steps, writeable=False
        )
        # An expanded tensor may claim any size at no cost; it stays a view.
        return view if view.size > flat.size else np.array(view, order="C")


class _Attributes:
    """An object that is nothing but its attributes; it becomes a dict of them."""


class _Array:
    """A pickled NumPy array; NumPy's own state setter is not used on foreign input."""

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def resolve(self) -> Any:
        if not isinstance(self.data, bytes | str):
            return resolved(self.data)
        # Protocol 2 pickles of Python 2 hold bytes as latin-1 text.
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        array = np.frombuffer(data, self.dtype.value())
        return np.array(array.reshape(self.shape, order="F" if self.fortran else "C"))


class _DType:
    def __init__(self, name: str, *_: Any) -> None:
        self.name, self.order = str(name), "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        if state[3] is not None or state[2] is not None:
            raise CheckpointError("a structured NumPy array is no tensor")
        self.order = state[1]

    def value(self) -> np.dtype:
        dtype = np.dtype(self.name)
        if dtype.kind not in "biufcSU":
            raise CheckpointError(f"a NumPy array of {dtype} is no tensor")
        return np.dtype(self.order + dtype.str[1:]) if self.order in ("<", ">") else dtype


class _JoblibArray:
    """An array of a joblib file, whose numbers follow its description in the same file."""

    file: io.BufferedIOBase

    def __setstate__(self, state: dict[str, Any]) -> None:
        dtype, shape = state["dtype"].value(), tuple(state["shape"])
        if state.get("numpy_array_alignment_bytes") is not None:
            self.file.read(ord(self.file.read(1)))
        size = math.prod(shape) * dtype.itemsize
        raw = self.file.read(size)
        if len(raw) != size:
            raise CheckpointError(f"an array of shape {list(shape)} is cut off")
        self.array = np.frombuffer(raw, dtype).reshape(shape, order=state["order"])

    def resolve(self) -> np.ndarray:
        return np.array(self.array, order="C")


class _Exact:
    """A file of which a pickle's reader takes no byte more than it needs (it has no `peek`)."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self.read, self.readline, self.readinto = file.read, file.readline, file.readinto


def _numpy_scalar(dtype: _DType, data: bytes | str) -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype.value())[0]


def _numpy_buffer(
    data: Any, dtype: _DType, shape: Any, order: Literal["A", "C", "F"]
) -> np.ndarray:
    return np.array(np.frombuffer(bytes(data), dtype.value()).reshape(shape, order=order))


def _encoded(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise CheckpointError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _tensor(storage: Storage, offset: int, size: Any, stride: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(size), tuple(stride), storage.dtype)


def _tensor_v3(
    storage: Storage, offset: int, size: Any, stride: Any, _: bool, __: Any, dtype: Any, *___: Any
) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(size), tuple(stride), np.dtype(dtype))


def _of_type(build: Callable[..., Any], _: Any, arguments: Sequence[Any], __: Any) -> Any:
    return build(*arguments)


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    # defaultdict comes with its factory first.
    return dict(arguments[-1]) if arguments and arguments[-1] else {}


def _admitted(file: io.BufferedIOBase) -> dict[tuple[str, str], Any]:
    """(module, name) -> what stands in for it.

    Made anew for each file: a pickle can set attributes on what it was given, and nothing that it
    sets may outlive it.
    """
    namespace = type("Namespace", (_Attributes,), {})
    joblib_array = type("JoblibArray", (_JoblibArray,), {"file": file})
    table: dict[tuple[str, str], Any] = {
        SCRIPTED: namespace,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): _dictionary,
        ("argparse", "Namespace"): namespace,
        ("joblib.numpy_pickle", "NumpyArrayWrapper"): joblib_array,
        ("_codecs", "encode"): _encoded,
        ("torch", "Size"): lambda size=(): tuple(size),
        ("torch", "device"): lambda *name: ":".join(map(str, name)),
        ("torch", "Tensor"): "Tensor",
        ("torch.nn.parameter", "Parameter"): "Parameter",
        ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
        ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
        ("numpy", "ndarray"): "ndarray",
        ("numpy", "dtype"): _DType,
    }
    for element in ("int", "double", "bool", "tensor"):
        table["torch.jit._pickle", f"build_{element}list"] = list
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = lambda *_: _Array()
        table[f"{core}.multiarray", "scalar"] = _numpy_scalar
        table[f"{core}.numeric", "_frombuffer"] = _numpy_buffer
    for kind in (set, frozenset, complex):
        table["builtins", kind.__name__] = kind
    for name in ("int", "float", "list", "dict", "str", "bool"):
        table["builtins", name] = name  # only ever the factory of a defaultdict
    for name, dtype in _DTYPES.items():
        table["torch", name] = np.dtype(dtype)
    for name, dtype in _STORAGES.items():
        table["torch", name] = table["torch.storage", name] = np.dtype(_DTYPES[dtype])
    # A fresh partial a file, and not the function itself, is what a pickle can lay hands on.
    fresh = (namespace, joblib_array)
    return {
        key: functools.partial(value) if callable(value) and value not in fresh else value
        for key, value in table.items()
    }


class RestrictedUnpickler(pickle.Unpickler):
    """Reads one pickle from `file`.

    storage: answers PyTorch's persistent identifiers.
    scripted: the file is a TorchScript archive, whose modules become dicts of their attributes.
    """

    def __init__(
        self,
        file: io.BufferedIOBase,
        storage: Callable[[Any], Storage] | None = None,
        *,
        scripted: bool = False,
    ) -> None:
        super().__init__(_Exact(file), encoding="latin1")
        self._storage = storage
        self._scripted = scripted
        self._table = _admitted(file)

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module
        if self._scripted and module.partition(".")[0] == "__torch__":
            return self._table[SCRIPTED]
        try:
            return self._table[module, name]
        except KeyError:
            raise ForbiddenGlobalError(f"it asks for {module}.{name}, which is not data") from None

    def persistent_load(self, identifier: Any) -> Storage:
        if self._storage is None:
            raise CheckpointError("a plain pickle that refers to data outside itself")
        return self._storage(identifier)


def resolved(value: Any) -> Any:
    """The loaded structure with arrays in place of what the pickle built."""
    if isinstance(value, _Tensor | _Array | _JoblibArray):
        return value.resolve()
    if isinstance(value, _Attributes):
        return resolved(dict(vars(value)))
    if isinstance(value, dict):
        return {key: resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item) for item in value]
    if isinstance(value, tuple):
        return tuple(resolved(item) for item in value)
    if isinstance(value, Storage):
        return value.data.view(value.dtype)
    return value
