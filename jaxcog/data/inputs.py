"""Reading what a user names on the command line: files or folders, by kind."""

from __future__ import annotations

import dataclasses
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxcog.data.snippets import SUFFIXES as SNIPPET_SUFFIXES
from jaxcog.data.snippets import read_snippets
from jaxcog.data.strokes import read_strokes, sketch_image
from jaxcog.errors import DataError

STROKE_SUFFIXES = (".svg", ".npy", ".csv")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")


def _image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _levels(path: Path) -> list[int]:
    """The numbers of levels in a text file, separated by blanks, commas or lines."""
    levels = [int(word) for word in path.read_text().replace(",", " ").split()]
    if not levels or min(levels) < 0:
        raise ValueError("level numbers, 0 or larger, such as: 3 17 500")
    return levels


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image that is decoded when it is asked for: `np.asarray(file)` is uint8 [H, W, 3].

    Galleries of any size are read through these. An unreadable file raises DataError then.
    """

    path: Path

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        try:
            return _image(self.path).astype(dtype or np.uint8, copy=False)
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(self.path, "images", error) from error


def _unreadable(path: Path, kind: str, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read as one of {kind} ({error}): repair it or leave it out")


def _image_or_arrays(path: Path) -> ImageFile | dict[str, np.ndarray]:
    """A .npz archive as its arrays (an index), any other file as an ImageFile."""
    if path.suffix.lower() != ".npz":
        return ImageFile(path)
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def _image_array_or_text(path: Path) -> Any:
    """A .txt file as str, anything else as `_image_or_arrays`."""
    return path.read_text() if path.suffix.lower() == ".txt" else _image_or_arrays(path)


def _image_or_mask(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]; a PNG of one channel as it is, [H, W] (a palette's indices, not colours)."""
    with Image.open(path) as image:
        if path.suffix.lower() == ".png" and len(image.getbands()) == 1:
            return np.asarray(image).astype(np.uint8)
        return np.asarray(image.convert("RGB"))


def _sketch_or_photo(path: Path) -> dict[str, Any]:
    """{"image": uint8 [H, W, 3], "sketch": bool}.

    Strokes (.svg, .npy, .csv) are drawn; an image is a sketch where "sketch" or "sketches" is a
    word of its name or of its folder's.
    """
    if path.suffix.lower() in STROKE_SUFFIXES:
        return {"image": sketch_image(read_strokes(path)), "sketch": True}
    names = f"{path.stem} {path.parent.name}".lower()
    said = re.search(r"(?<![a-z])sketch(es)?(?![a-z])", names)
    return {"image": _image(path), "sketch": said is not None}


_READERS: dict[str, tuple[tuple[str, ...], Callable[[Path], Any]]] = {
    "images": (IMAGE_SUFFIXES, _image),
    "levels": ((".txt",), _levels),
    "images and indexes": ((*IMAGE_SUFFIXES, ".npz"), _image_or_arrays),
    "snippets": (SNIPPET_SUFFIXES, read_snippets),
    "images and sentences": ((*IMAGE_SUFFIXES, ".npz", ".txt"), _image_array_or_text),
    "images and masks": (IMAGE_SUFFIXES, _image_or_mask),
    "sketches and photos": ((*STROKE_SUFFIXES, *IMAGE_SUFFIXES), _sketch_or_photo),
}


def read_inputs(kind: str, paths: Sequence[Path]) -> tuple[list[Any], list[str]]:
    """(values, names) of all files; a folder stands for its files of that kind, sorted.

    Where sentences are read, a name with a space in it that is no file is a sentence itself.

    Raises:
      DataError: a path does not exist, holds nothing of that kind, or a file cannot be read.
    """
    suffixes, read = _READERS[kind]
    files: list[Path] = []
    sentences: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes)
            if not found:
                raise DataError(f"{path} holds no {kind} ({', '.join(suffixes)})")
            files += found
        elif path.is_file():
            files.append(path)
        elif "sentences" in kind and " " in str(path):
            sentences.append(str(path))
        else:
            raise DataError(f"{path} does not exist: name files or folders of {kind}")
    values = []
    for path in files:
        try:
            values.append(read(path))
        except (OSError, ValueError, SyntaxError, zipfile.BadZipFile) as error:
            raise _unreadable(path, kind, error) from error
    return [*values, *sentences], [*map(str, files), *sentences]
