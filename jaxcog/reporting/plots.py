"""Matrices, curves and histograms as pictures, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from jaxcog.reporting.axes import Scale, fit, format_number, wants_log
from jaxcog.reporting.draw import HAIR, INK, PAPER, SOFT, font, wrapped
from jaxcog.show import Histogram, Lines, Matrix

SERIES = (
    (42, 108, 201),
    (211, 98, 31),
    (24, 138, 104),
    (142, 79, 196),
    (179, 134, 0),
    (207, 63, 118),
    (93, 107, 123),
    (95, 148, 32),
)
MOST_CELLS = 24  # rows or columns up to which a matrix shows its numbers
STRONG = 0.85  # the shade from which a number is easier to read in white
_HEAT = (58, 124, 222)  # between the accents of the light and of the dark page
_MINUS = (208, 92, 38)
_WIDTH, _PLOT_HEIGHT, _MARGIN, _LEFT = 960, 440, 36, 84
_SMOOTHER = 3  # drawn so many times larger, then reduced: Pillow's lines are not antialiased


def shades(matrix: Matrix) -> tuple[np.ndarray, str]:
    """How strongly each cell is shaded, float64 [R, C] in -1..1, and what the shade means.

    Confusion counts (square, same names, nothing negative) are shaded by their share of the row,
    so that rare classes can be read as well as frequent ones.

    Raises ValueError if the names do not fit the values.
    """
    values = np.nan_to_num(np.asarray(matrix.values, np.float64), posinf=0.0, neginf=0.0)
    named = (len(matrix.row_names), len(matrix.column_names))
    if values.shape != named:
        raise ValueError(f'matrix "{matrix.title}": {named} names for values {values.shape}')
    same = list(matrix.row_names) == list(matrix.column_names) and values.min(initial=0) >= 0
    if same and values.size and np.allclose(values, np.round(values)):
        return values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12), "share of the row"
    largest = float(np.abs(values).max(initial=0.0))
    return values / (largest or 1.0), "value"


def heat_image(matrix: Matrix) -> Image.Image:
    """A large matrix, one pixel a cell: accent colour with the shade as opacity (RGBA)."""
    shade, _ = shades(matrix)
    strength = _strength(shade)
    pixels = np.empty((*shade.shape, 4), np.uint8)
    pixels[..., :3] = np.where(shade[..., None] < 0, _MINUS, _HEAT)
    pixels[..., 3] = np.round(strength * 255)
    return Image.fromarray(pixels)


def _strength(shade: np.ndarray) -> np.ndarray:
    """Opacity of cells without numbers: the strongest is full, and the weak can still be seen."""
    return np.sqrt(np.abs(shade) / (np.abs(shade).max(initial=0.0) or 1.0))


def matrix_image(matrix: Matrix) -> Image.Image:
    """A matrix as shaded cells, with numbers where there is room for them."""
    shade, meaning = shades(matrix)
    rows, columns = shade.shape
    numbers = max(rows, columns) <= MOST_CELLS
    cell = max(2, 800 // max(rows, columns, 1)) if not numbers else 52
    face = font(15)
    named = numbers or cell >= 14
    left = _MARGIN + (max((int(face.getlength(n)) for n in matrix.row_names), default=0) + 12)
    tall = max((int(face.getlength(n)) for n in matrix.column_names), default=0)
    sideways = tall > cell - 6
    above = (tall if sideways else 20) + 10
    if not named:
        left, above = _MARGIN, 0
    note = " ".join(part for part in (matrix.note, f"Shade: {meaning}.") if part)
    width = max(left + columns * cell + _MARGIN, 480)
    page, pen, top = _page(matrix.title, note, width, above + rows * cell + _MARGIN)
    top += above
    opacity = np.abs(shade) if numbers else _strength(shade)
    for i, j in np.ndindex(rows, columns):
        accent = np.array(_MINUS if shade[i, j] < 0 else SERIES[0])
        color = tuple(int(v) for v in 255 + (accent - 255) * opacity[i, j])
        x, y = left + j * cell, top + i * cell
        gap = 1 if cell > 5 else 0
        pen.rectangle((x, y, x + cell - 1 - gap, y + cell - 1 - gap), fill=color)
        if numbers:
            text = format_number(np.asarray(matrix.values)[i, j], 3)
            ink = PAPER if opacity[i, j] > STRONG else INK
            size = 15 if face.getlength(text) < cell - 4 else 11
            pen.text((x + cell / 2, y + cell / 2), text, ink, font(size), anchor="mm")
    if named:
        for i, name in enumerate(matrix.row_names):
            pen.text((left - 8, top + (i + 0.5) * cell), name, SOFT, face, anchor="rm")
        for j, name in enumerate(matrix.column_names):
            _column_name(page, pen, name, left + (j + 0.5) * cell, top - 8, sideways)
    return page


def lines_image(figure: Lines) -> Image.Image:
    """Curves with axes, grid and legend; logarithmic where values span more than two decades."""
    series = {}
    for name, (x, y) in figure.series.items():
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        good = np.isfinite(x) & np.isfinite(y)
        order = np.argsort(x[good], kind="stable")
        series[name] = x[good][order], y[good][order]
    everything = [np.concatenate(part) for part in zip(*series.values(), strict=True)] or [
        np.zeros(0)
    ] * 2
    x_scale, y_scale = fit(everything[0], pad=0.0), fit(everything[1])
    if wants_log(everything[1]):
        y_scale = fit(everything[1], log=True)

    def curves(pen: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
        for i, (x, y) in enumerate(series.values()):
            xs = x_scale.unit(x) * size[0]
            ys = (1 - y_scale.unit(y)) * size[1]
            points = list(zip(xs.tolist(), ys.tolist(), strict=True))
            color = SERIES[i % len(SERIES)]
            if len(points) > 1:
                pen.line(points, fill=color, width=2 * _SMOOTHER + 1, joint="curve")
            if len(points) <= 40:
                r = 4 * _SMOOTHER
                for px, py in points:
                    pen.ellipse((px - r, py - r, px + r, py + r), fill=color)

    return _chart(figure, list(series), x_scale, y_scale, curves)


def histogram_image(figure: Histogram) -> Image.Image:
    """Translucent bars of every series over the shared bins."""
    edges = np.asarray(figure.edges, np.float64)
    heights = [np.nan_to_num(np.asarray(h, np.float64)) for h in figure.series.values()]
    top = max((float(h.max(initial=0.0)) for h in heights), default=0.0)
    x_scale, y_scale = fit(edges, pad=0.0), Scale(0.0, top * 1.06 or 1.0)

    def bars(pen: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
        xs = x_scale.unit(edges) * size[0]
        for i, h in enumerate(heights):
            ys = (1 - y_scale.unit(h)) * size[1]
            outline = [(float(xs[0]), float(size[1]))]
            for j, y in enumerate(ys.tolist()):
                outline += [(float(xs[j]), y), (float(xs[j + 1]), y)]
            outline.append((float(xs[-1]), float(size[1])))
            color = SERIES[i % len(SERIES)]
            pen.polygon(outline, fill=(*color, 70))
            pen.line(outline, fill=color, width=2 * _SMOOTHER)

    return _chart(figure, list(figure.series), x_scale, y_scale, bars)


def _page(
    title: str, note: str, width: int, height: int
) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """A white page with a heading, `height` pixels below it, and where the heading ends."""
    head = [(line, 26, INK) for line in wrapped(title, font(26), width - 2 * _MARGIN, 3)]
    head += [(line, 16, SOFT) for line in wrapped(note, font(16), width - 2 * _MARGIN, 4)]
    top = _MARGIN + sum(round(size * 1.4) for _, size, _ in head) + 14
    page = Image.new("RGB", (width, top + height), PAPER)
    pen = ImageDraw.Draw(page)
    y = _MARGIN
    for line, size, color in head:
        pen.text((_MARGIN, y), line, color, font(size))
        y += round(size * 1.4)
    return page, pen, top


def _column_name(
    page: Image.Image, pen: ImageDraw.ImageDraw, name: str, x: float, bottom: float, sideways: bool
) -> None:
    face = font(15)
    if not sideways:
        pen.text((x, bottom), name, SOFT, face, anchor="ms")
        return
    label = Image.new("RGB", (int(face.getlength(name)) + 2, 20), PAPER)
    ImageDraw.Draw(label).text((0, 10), name, SOFT, face, anchor="lm")
    label = label.rotate(90, expand=True)
    page.paste(label, (round(x) - 10, round(bottom) - label.height))


def _chart(
    figure: Lines | Histogram,
    names: Sequence[str],
    x: Scale,
    y: Scale,
    draw_data: Callable[[ImageDraw.ImageDraw, tuple[int, int]], None],
) -> Image.Image:
    legend, rows = _legend_places(names) if len(names) > 1 else ([], 0)
    height = rows * 26 + 10 + _PLOT_HEIGHT + 88
    page, pen, top = _page(figure.title, figure.note, _WIDTH, height)
    for i, (at, row, name) in enumerate(legend):
        up = top + row * 26
        pen.rounded_rectangle((at, up + 2, at + 13, up + 15), 4, fill=SERIES[i % len(SERIES)])
        pen.text((at + 20, up + 9), name, SOFT, font(16), anchor="lm")
    top += rows * 26 + 10
    size = (_WIDTH - _LEFT - _MARGIN, _PLOT_HEIGHT)
    for value, label in y.ticks(5):
        height_of = top + (1 - float(y.unit(value))) * size[1]
        pen.line((_LEFT, height_of, _LEFT + size[0], height_of), fill=HAIR)
        pen.text((_LEFT - 10, height_of), label, SOFT, font(16), anchor="rm")
    for value, label in x.ticks(7):
        place_of = _LEFT + float(x.unit(value)) * size[0]
        pen.text((place_of, top + size[1] + 10), label, SOFT, font(16), anchor="mt")
    # On a copy of the page, not on a transparent layer: only so do translucent bars mix.
    layer = page.crop((_LEFT, top, _LEFT + size[0], top + size[1]))
    layer = layer.resize((size[0] * _SMOOTHER, size[1] * _SMOOTHER), Image.Resampling.NEAREST)
    draw_data(ImageDraw.Draw(layer, "RGBA"), layer.size)
    page.paste(layer.resize(size, Image.Resampling.BOX), (_LEFT, top))
    pen.line((_LEFT, top + size[1], _LEFT + size[0], top + size[1]), fill=SOFT)
    middle = (_LEFT + size[0] / 2, top + size[1] + 52)
    pen.text(middle, figure.x_label, SOFT, font(16), anchor="mm")
    if figure.y_label:
        _column_name(page, pen, figure.y_label, 22, top + size[1] / 2 + _half(figure.y_label), True)
    return page


def _half(text: str) -> float:
    return font(15).getlength(text) / 2


def _legend_places(names: Sequence[str]) -> tuple[list[tuple[int, int, str]], int]:
    """The legend's entries (x, row, text), wrapped to the page, and how many rows they take."""
    places, x, row = [], _LEFT, 0
    for name in names:
        width = int(font(16).getlength(name)) + 44
        if x > _LEFT and x + width > _WIDTH - _MARGIN:
            x, row = _LEFT, row + 1
        places.append((x, row, name))
        x += width
    return places, row + 1
