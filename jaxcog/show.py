"""What a program wants a person to see, as plain data: the report and `predict` draw it.

Tasks return these values and touch no file; `jaxcog.report` turns them into HTML and PNG.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image. `rgb`: uint8 [H, W, 3]; shown enlarged without smoothing when it is small."""

    rgb: np.ndarray
    caption: str = ""
    border: str | None = None  # "good", "bad" or None: a green or red frame


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Rows of pictures, each row with a label: image grids, retrieval results, age strips."""

    title: str
    rows: Sequence[tuple[str, Sequence[Picture]]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A table of numbers drawn as shaded cells: confusion matrices. `values`: [rows, columns]."""

    title: str
    values: np.ndarray
    row_names: Sequence[str]
    column_names: Sequence[str]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Lines:
    """Curves over a shared axis; `series` maps a name to (x [N], y [N])."""

    title: str
    series: dict[str, tuple[np.ndarray, np.ndarray]]
    x_label: str = ""
    y_label: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Bars over shared bin edges [N+1]; `series` maps a name to heights [N]."""

    title: str
    edges: np.ndarray
    series: dict[str, np.ndarray]
    x_label: str = ""
    y_label: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text or numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Animation:
    """Frames of one moving picture. `frames`: uint8 [T, H, W, 3]."""

    title: str
    frames: np.ndarray
    frames_per_second: float = 12.0
    note: str = ""


@dataclasses.dataclass(frozen=True)
class File:
    """A result that is a file of its own: an index, segments as JSON. `name`: with its suffix."""

    title: str
    name: str
    data: bytes
    note: str = ""


Figure = Gallery | Matrix | Lines | Histogram | Table | Animation | File
