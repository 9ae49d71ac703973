"""Vector sketches: reading strokes, putting them on the common canvas, drawing them as pixels.

A sketch is float [N, 3]: absolute x and y on a canvas of 256 units, and a pen flag that is 1 at the
last point of each stroke. That is the form of the `<name>_Coordinate` files of QMUL-ShoeV2 and
QMUL-ChairV2.
"""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxcog.errors import CheckpointError, DataError
from jaxcog.interop.read import read_object

CANVAS = 256
_LARGER_SIDE = 190.0
_CENTRE = 128.0
_CURVE_POINTS = 8


def check_strokes(strokes: np.ndarray, where: str) -> np.ndarray:
    """float64 [N, 3] with at least two different points, finite, flags 0 or 1.

    Raises:
      DataError: naming `where`, for anything else.
    """
    try:
        points = np.asarray(strokes, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: strokes must be numbers [points, 3] ({error})") from error
    if points.size == 0:
        raise DataError(
            f"{where}: the sketch is empty: draw something, or take it out of the dataset"
        )
    if points.ndim != 2 or points.shape[1] != 3:
        raise DataError(
            f"{where}: strokes must be [points, 3] (x, y, pen), got {list(points.shape)}: convert "
            "them to absolute coordinates with a pen flag"
        )
    if not np.isfinite(points).all():
        raise DataError(f"{where}: strokes have coordinates that are not finite: export them again")
    if len(np.unique(points[:, :2], axis=0)) < 2:
        raise DataError(
            f"{where}: the sketch has one point only: draw a line, or take it out of the dataset"
        )
    return points


def rasterize_strokes(strokes: np.ndarray, side: int = CANVAS) -> np.ndarray:
    """White lines about three pixels wide on black: [N, 3] -> uint8 [side, side] of 0 and 255.

    As the released loader draws: coordinates are rounded, a point after the end of a stroke starts
    with a dot, row 0 and column 0 stay empty, and one dilation with the cross of four neighbours
    makes the lines thicker (and may reach them).

    strokes: x and y on a canvas of 256 units, pen flag.
    """
    points = np.asarray(strokes, np.float64).copy()
    points[:, :2] = points[:, :2] / CANVAS * side
    whole = np.rint(points).astype(np.int64)
    canvas = np.zeros((side, side), bool)
    for i, (x, y, _) in enumerate(whole):
        start = whole[i] if i == 0 or whole[i - 1, 2] == 1 else whole[i - 1]
        xs, ys = _line(int(start[0]), int(start[1]), int(x), int(y))
        inside = (xs > 0) & (xs < side) & (ys > 0) & (ys < side)
        canvas[ys[inside], xs[inside]] = True
    thick = canvas.copy()
    thick[1:] |= canvas[:-1]
    thick[:-1] |= canvas[1:]
    thick[:, 1:] |= canvas[:, :-1]
    thick[:, :-1] |= canvas[:, 1:]
    return np.where(thick, 255, 0).astype(np.uint8)


def _line(x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a line from its first to its last point; ends are not interchangeable.

    Bresenham's error starts at 2 * minor - major and a minor step is made where it is not negative:
    after k major steps there were floor((2 k minor + major) / (2 major)) of them.
    """
    dx, dy = abs(x1 - x0), abs(y1 - y0)
    major, minor = max(dx, dy), min(dx, dy)
    k = np.arange(major + 1)
    m = (2 * k * minor + major) // (2 * major) if major else np.zeros_like(k)
    step_x, step_y = (1 if x1 > x0 else -1), (1 if y1 > y0 else -1)
    if dx > dy:
        return x0 + step_x * k, y0 + step_y * m
    return x0 + step_x * m, y0 + step_y * k


def sketch_image(strokes: np.ndarray, side: int = CANVAS) -> np.ndarray:
    """The drawing as an image of three equal channels: uint8 [side, side, 3]."""
    return np.repeat(rasterize_strokes(strokes, side)[..., None], 3, axis=2)


def on_canvas(strokes: np.ndarray) -> np.ndarray:
    """Scaled until the larger side is 190 units, centred at (128, 128), as ChairV2 is."""
    points = np.array(strokes, np.float64)
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    scale = _LARGER_SIDE / max(float((high - low).max()), 1e-9)
    points[:, :2] = (points[:, :2] - (low + high) / 2) * scale + _CENTRE
    return points


def load_stroke_pickle(path: str | Path) -> dict[str, np.ndarray]:
    """A `<name>_Coordinate` file: "/train/<photo id>_<suffix>" -> float64 [N, 3].

    The pickle is read by an unpickler that builds arrays and plain containers and runs nothing.

    Raises:
      DataError: the file is damaged, is no dict of strokes, or holds an empty sketch.
    """
    path = Path(path)
    try:
        content = read_object(path)
    except (CheckpointError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as a pickled dict of strokes ({error}): download it again"
        ) from error
    if not isinstance(content, dict) or not content:
        raise DataError(
            f"{path} must hold a dict from sketch names to strokes, it holds "
            f"{type(content).__name__}: is it the right file?"
        )
    return {
        str(name): check_strokes(strokes, f"{path}: {name}") for name, strokes in content.items()
    }


def read_strokes(path: str | Path) -> np.ndarray:
    """One sketch from a file: .svg, or .npy or .csv with [N, 3]; float64 [N, 3] on the canvas.

    An .svg is scaled to the canvas; the others are taken as they are where they fit on it.

    Raises:
      DataError: nothing can be drawn from the file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".svg":
        return svg_to_strokes(path.read_text(), str(path))
    try:
        if suffix == ".npy":
            loaded = np.load(path, allow_pickle=False)
        else:
            loaded = np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read as strokes ({error}): one line `x,y,pen` a point"
        ) from error
    points = check_strokes(loaded, str(path))
    outside = points[:, :2].min() < 0 or points[:, :2].max() > CANVAS
    return on_canvas(points) if outside else points


def svg_to_strokes(text: str, where: str = "svg", *, normalise: bool = True) -> np.ndarray:
    """The lines of an SVG file: float64 [N, 3].

    Reads `path`, `polyline`, `polygon`, `line`, `rect`, `circle` and `ellipse`; curves become 8
    chords each. Transformations of groups and styles are ignored.

    normalise: scaled and centred on the canvas; else in the file's own units.

    Raises:
      DataError: no SVG, or nothing in it to draw.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{where} is no SVG file ({error}): export the sketch again") from error
    strokes: list[np.ndarray] = []
    for element in root.iter():
        tag = element.tag.rpartition("}")[2]
        try:
            strokes += [stroke for stroke in _element_strokes(tag, element) if len(stroke)]
        except (ValueError, IndexError, KeyError) as error:
            raise DataError(
                f"{where}: a <{tag}> cannot be read ({error!r}): export it again"
            ) from (error)
    if not strokes:
        raise DataError(f"{where}: the sketch is empty: there is no line in the file")
    points = np.concatenate(
        [np.column_stack([s, np.arange(len(s)) == len(s) - 1]) for s in strokes]
    )
    points = check_strokes(points, where)
    return on_canvas(points) if normalise else points


def _element_strokes(tag: str, element: ElementTree.Element) -> list[np.ndarray]:
    """Point lists [N, 2] of one SVG element."""

    def number(name: str) -> float:
        return float(re.sub(r"[a-z%]+$", "", element.get(name, "0")))

    if tag == "path":
        return list(_path_strokes(element.get("d", "")))
    if tag in ("polyline", "polygon"):
        points = np.array(_numbers(element.get("points", "")), float).reshape(-1, 2)
        closed = tag == "polygon" and len(points) > 0
        return [np.concatenate([points, points[:1]]) if closed else points]
    if tag == "line":
        return [np.array([[number("x1"), number("y1")], [number("x2"), number("y2")]])]
    if tag == "rect":
        x, y, w, h = (number(name) for name in ("x", "y", "width", "height"))
        return [np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]])]
    if tag in ("circle", "ellipse"):
        rx, ry = (number("r"),) * 2 if tag == "circle" else (number("rx"), number("ry"))
        angle = np.linspace(0, 2 * np.pi, 4 * _CURVE_POINTS + 1)
        centre = np.array([number("cx"), number("cy")])
        return [centre + np.column_stack([rx * np.cos(angle), ry * np.sin(angle)])]
    return []


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def _numbers(text: str) -> list[float]:
    return [float(word) for word in re.findall(_NUMBER, text)]


_ARGUMENTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}


def _path_strokes(data: str) -> Iterator[np.ndarray]:
    """The subpaths of an SVG path."""
    points: list[np.ndarray] = []
    at, start, control = np.zeros(2), np.zeros(2), np.zeros(2)
    last = ""
    for command, values in _commands(data):
        kind, origin = command.upper(), at if command.islower() else np.zeros(2)
        if kind == "M":
            if points:
                yield np.array(points)
            at = start = origin + values
            points = [at]
        elif kind == "Z":
            at = start
            points.append(at)
        elif kind in "LHV":
            new = origin + values if kind == "L" else at.copy()
            if kind != "L":
                axis = int(kind == "V")
                new[axis] = origin[axis] + values[0]
            at = new
            points.append(at)
        elif kind == "A":
            end = origin + values[5:]
            points += _arc(at, end, values[0], values[1], values[2], *values[3:5])
            at = end
        else:
            pairs = [origin + values[i : i + 2] for i in range(0, len(values), 2)]
            if kind in "ST":
                smooth = last in ("CS" if kind == "S" else "QT")
                pairs.insert(0, 2 * at - control if smooth and last else at)
            points += _bezier([at, *pairs])
            control, at = pairs[-2], pairs[-1]
        last = kind
    if points:
        yield np.array(points)


def _commands(data: str) -> Iterator[tuple[str, np.ndarray]]:
    """(letter, its numbers), one for each repetition."""
    for letter, body in re.findall(r"([MLHVCSQTAZmlhvcsqtaz])([^MLHVCSQTAZmlhvcsqtaz]*)", data):
        size = _ARGUMENTS[letter.upper()]
        # The two flags of an arc may be written without anything between them.
        values = _arc_numbers(body) if size == 7 else _numbers(body)
        if size == 0:
            yield letter, np.zeros(0)
            continue
        if not values or len(values) % size:
            raise ValueError(f"{letter} takes {size} numbers, not {len(values)}")
        for first in range(0, len(values), size):
            yield letter, np.array(values[first : first + size])
            letter = {"M": "L", "m": "l"}.get(letter, letter)


def _arc_numbers(body: str) -> list[float]:
    gap = r"[\s,]*"
    one = gap.join([f"({_NUMBER})"] * 3 + [r"([01])"] * 2 + [f"({_NUMBER})"] * 2)
    return [float(word) for match in re.findall(one, body) for word in match]


def _bezier(control: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Points of a Bezier curve after its first one (de Casteljau)."""
    points = []
    for t in np.arange(1, _CURVE_POINTS + 1) / _CURVE_POINTS:
        level = list(control)
        while len(level) > 1:
            level = [(1 - t) * a + t * b for a, b in itertools.pairwise(level)]
        points.append(level[0])
    return points


def _arc(
    start: np.ndarray,
    end: np.ndarray,
    rx: float,
    ry: float,
    turn: float,
    large: float,
    sweep: float,
) -> list[np.ndarray]:
    """Points of an elliptical arc after its first one (SVG 1.1, appendix F.6)."""
    if rx == 0 or ry == 0 or np.array_equal(start, end):
        return [end]
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    rotate = np.array([[cos, sin], [-sin, cos]])
    half = rotate @ ((start - end) / 2)
    radii = np.abs([rx, ry]) * max(1.0, math.sqrt(float(np.sum((half / [rx, ry]) ** 2))))
    share = float(np.sum((half / radii) ** 2))
    sign = -1.0 if bool(large) == bool(sweep) else 1.0
    factor = sign * math.sqrt(max(0.0, 1 / share - 1))
    centre = factor * np.array([radii[0] * half[1] / radii[1], -radii[1] * half[0] / radii[0]])
    first, last = ((at - centre) / radii for at in (half, -half))
    begin, stop = (math.atan2(at[1], at[0]) for at in (first, last))
    span = (stop - begin) % (2 * math.pi) - (0 if sweep else 2 * math.pi)
    angles = begin + span * np.arange(1, 2 * _CURVE_POINTS + 1) / (2 * _CURVE_POINTS)
    ellipse = np.column_stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)])
    return list((ellipse + centre) @ rotate + (start + end) / 2)
