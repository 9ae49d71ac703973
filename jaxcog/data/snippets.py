"""Snippet features of videos on disk: one array a video, in .npy, .csv or .h5 files.

Arrays are [n, F], time first, whatever n. HDF5 needs h5py, which is not installed with jaxcog.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxcog.errors import DataError

SUFFIXES = (".npy", ".csv", ".h5", ".hdf5")


@dataclasses.dataclass(frozen=True)
class Snippets:
    """A video as `predict` reads it.

    features: float32 [n, F]. duration: seconds that they cover, None where it is not known.
    segments: float64 [S, 2] seconds, None where the video is not annotated.
    """

    features: np.ndarray
    duration: float | None = None
    segments: np.ndarray | None = None


def h5py() -> ModuleType:
    """The h5py package. Raises DataError with the remedy where it is missing."""
    try:
        import h5py as module
    except ImportError as error:
        raise DataError(
            "reading HDF5 features needs h5py: pip install h5py (or convert them to one .npy a "
            "video)"
        ) from error
    return module


def checked(features: Any, where: str, width: int | None = None) -> np.ndarray:
    """float32 [n, F]. Raises DataError naming `where` for anything else."""
    array = np.asarray(features)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise DataError(
            f"{where}: features must be numbers [snippets, channels], got {array.dtype} "
            f"{list(array.shape)}: extract them again"
        )
    if width is not None and array.shape[1] != width:
        raise DataError(
            f"{where}: {array.shape[1]} channels, the other videos have {width}: use one kind of "
            "features for all"
        )
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{where}: features are not finite: extract them again")
    return array


def rescaled(features: np.ndarray, length: int) -> np.ndarray:
    """[n, F] -> [length, F], linear in time (aligned as PyTorch's align_corners=False)."""
    n = len(features)
    if n == length:
        return features
    place = np.clip((np.arange(length) + 0.5) * (n / length) - 0.5, 0, n - 1)
    low = np.floor(place).astype(int)
    part = (place - low)[:, None].astype(np.float32)
    high = np.minimum(low + 1, n - 1)
    return (features[low] * (1 - part) + features[high] * part).astype(np.float32)


def read_file(path: Path) -> np.ndarray:
    """One video's features, float32 [n, F].

    A .csv may begin with a line of names. An .h5 holds one array, or one named as the file.
    """
    if path.suffix == ".npy":
        return checked(np.load(path, allow_pickle=False), str(path))
    if path.suffix == ".csv":
        first = path.read_text().split("\n", 1)[0].split(",")
        header = int(not _are_numbers(first))
        return checked(np.loadtxt(path, delimiter=",", skiprows=header, ndmin=2), str(path))
    with h5py().File(path) as file:
        names = list(file)
        name = path.stem if path.stem in names else names[0] if len(names) == 1 else None
        if name is None:
            raise DataError(
                f"{path} holds {len(names)} arrays and none is called {path.stem}: one file a "
                "video, please"
            )
        return checked(_array(file[name]), str(path))


def _are_numbers(words: Sequence[str]) -> bool:
    try:
        [float(word) for word in words]
    except ValueError:
        return False
    return True


def _array(node: Any) -> np.ndarray:
    """A dataset, or the only one in a group (`c3d_features` in ActivityNet's C3D file)."""
    while hasattr(node, "keys"):
        (node,) = [node[name] for name in node]
    return np.asarray(node)


def read_snippets(path: Path) -> Snippets:
    """A feature file with what lies beside it in NAME.json: "duration", "segments" in seconds.

    Raises:
      DataError: the features or the annotation cannot be used.
    """
    features, side = read_file(path), path.with_suffix(".json")
    if not side.is_file():
        return Snippets(features)
    try:
        notes = json.loads(side.read_text())
        segments = notes.get("segments")
        pairs = None if segments is None else np.asarray(segments, np.float64).reshape(-1, 2)
        duration = None if notes.get("duration") is None else float(notes["duration"])
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f'{side}: {error}; write {{"duration": SECONDS, "segments": [[START, END], ...]}}'
        ) from error
    if pairs is not None:
        if duration is None:
            raise DataError(
                f'{side}: segments need "duration", the seconds that the features cover'
            )
        check_segments(pairs, duration, str(side))
    return Snippets(features, duration, pairs)


def check_segments(segments: np.ndarray, duration: float, where: str) -> None:
    """Raises DataError naming the first segment that is reversed or wholly outside the video."""
    for start, end in segments:
        if not (0 <= start < duration and start < end):
            raise DataError(
                f"{where}: the segment from {start:g} to {end:g} s does not lie in the video of "
                f"{duration:g} s: correct it or leave the video out"
            )


class Store:
    """Features by video name: HDF5 files with all videos, or folders with one file a video.

    parts: what is concatenated on the channels, in this order. Where a video differs in length
    between them, the shorter length holds.
    """

    def __init__(self, parts: Sequence[Path]):
        self.parts = tuple(parts)
        self._names: dict[Path, dict[str, Any]] = {}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Store:
        for part in self.parts:
            if part.is_dir():
                found = (file for file in sorted(part.rglob("*")) if file.suffix in SUFFIXES)
                self._names[part] = {file.stem: file for file in found}
            else:
                self._names[part] = dict(self._open.enter_context(h5py().File(part)))
        return self

    def __exit__(self, *_: Any) -> None:
        self._open.close()

    def __contains__(self, name: str) -> bool:
        return all(name in names for names in self._names.values())

    def __getitem__(self, name: str) -> np.ndarray:
        """float32 [n, F]. Raises DataError naming the file and the video."""
        arrays = []
        for part, names in self._names.items():
            node = names[name]
            where = f"{part}: {name}"
            arrays.append(
                read_file(node) if isinstance(node, Path) else checked(_array(node), where)
            )
        length = min(len(array) for array in arrays)
        return np.concatenate([array[:length] for array in arrays], axis=1)


def require(store: Store, names: Sequence[str], skip: str) -> Iterator[str]:
    """The names, once it is sure that all have features.

    Raises:
      DataError: naming the videos that have none; `skip` is where they can be left out.
    """
    missing = [name for name in names if name not in store]
    if missing:
        shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise DataError(
            f"{len(missing)} of {len(names)} videos have no features in "
            f"{', '.join(map(str, store.parts))}: {shown}. Add them, or name them in {skip}, one a "
            "line, to leave them out"
        )
    yield from names
