"""Charts as inline SVG: curves with hover values, and histograms."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Iterable, Sequence

import numpy as np

from jaxcog.reporting.axes import Scale, fit, format_number, wants_log
from jaxcog.reporting.curves import Curve
from jaxcog.show import Histogram

COLORS = 8
_MARKERS_UP_TO = 40  # points of a curve that are drawn as dots too


@dataclasses.dataclass(frozen=True)
class Frame:
    """The size of a chart and of the space around its plot, in SVG units."""

    width: int = 360
    height: int = 196
    left: int = 46
    right: int = 12
    top: int = 8
    bottom: int = 24

    def across(self, unit: np.ndarray) -> np.ndarray:
        return self.left + unit * (self.width - self.left - self.right)

    def down(self, unit: np.ndarray) -> np.ndarray:
        return self.height - self.bottom - unit * (self.height - self.top - self.bottom)


SMALL = Frame()
LARGE = Frame(width=520, height=280, left=52, bottom=40)


def line_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    x_label: str = "step",
    y_label: str = "",
    frame: Frame = SMALL,
) -> str:
    """An HTML block with a chart of `curves`: legend, SVG, and the values for hovering.

    Where all values are positive there are two drawings, linear and logarithmic, and a switch.
    """
    drawn = [c for c in curves if c.y.size]
    if not drawn:
        return '<p class="empty">No finite values to draw.</p>'
    x = fit(np.concatenate([c.x for c in drawn]), pad=0.0)
    ys = np.concatenate([c.y for c in drawn])
    kinds = {"linear": fit(ys)}
    if ys.min() > 0 and ys.max() > ys.min():
        kinds["log"] = fit(ys, log=True)
    start = "log" if "log" in kinds and wants_log(ys) else "linear"
    layers = "".join(
        f'<g class="{kind}">{_grid(frame, y)}{_paths(curves, frame, x, y)}</g>'
        for kind, y in kinds.items()
    )
    switch = '<button type="button" class="switch" hidden></button>' if "log" in kinds else ""
    head = legend([c.name for c in curves]) + switch
    return (
        f'<div class="chart" data-scale="{start}">'
        f'<div class="chart-head">{head}</div>'
        f"{_svg(frame, _describe(title, curves), layers + _x_axis(frame, x, x_label, y_label))}"
        f"{_hover_data(curves, frame, x, kinds, x_label)}</div>"
    )


def histogram(figure: Histogram) -> str:
    """An HTML block with the bars of every series over shared bins; a bin names its values."""
    edges = np.asarray(figure.edges, np.float64)
    heights = {name: np.nan_to_num(np.asarray(h, np.float64)) for name, h in figure.series.items()}
    if edges.size < 2 or not heights:
        return '<p class="empty">Nothing to count.</p>'
    top = max(float(h.max()) for h in heights.values())
    x, y = fit(edges, pad=0.0), Scale(0.0, top * 1.06 or 1.0)
    xs = LARGE.across(x.unit(edges))
    bars = []
    for i, h in enumerate(heights.values()):
        tops = LARGE.down(y.unit(h))
        floor = float(LARGE.down(np.array(0.0)))
        steps = [(a, t) for j, t in enumerate(tops) for a in (xs[j], xs[j + 1])]
        path = _path(
            [xs[0], *(a for a, _ in steps), xs[-1]], [floor, *(t for _, t in steps), floor]
        )
        bars.append(f'<path class="bar s{i % COLORS}" d="{path}"/>')
    for j in range(edges.size - 1):
        lines = [f"{format_number(edges[j])} to {format_number(edges[j + 1])}"]
        lines += [f"{name}: {format_number(h[j])}" for name, h in heights.items()]
        bars.append(
            f'<rect class="bin" x="{xs[j]:.1f}" y="{LARGE.top}" width="{xs[j + 1] - xs[j]:.1f}" '
            f'height="{LARGE.height - LARGE.top - LARGE.bottom}">'
            f"<title>{html.escape(chr(10).join(lines))}</title></rect>"
        )
    label = f"{figure.title}: histogram of {', '.join(heights)}"
    axis = _x_axis(LARGE, x, figure.x_label, figure.y_label)
    drawing = _svg(LARGE, label, _grid(LARGE, y) + "".join(bars) + axis)
    head = f'<div class="chart-head">{legend(list(heights))}</div>'
    return f'<div class="chart">{head}{drawing}</div>'


def legend(names: Sequence[str]) -> str:
    """Swatches with names; empty for a single series, which the title already names."""
    if len(names) < 2:
        return ""
    items = "".join(
        f'<li class="s{i % COLORS}"><i></i>{html.escape(name)}</li>' for i, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def _svg(frame: Frame, label: str, inside: str) -> str:
    return (
        f'<svg class="{"large" if frame is LARGE else "small"}" role="img" tabindex="0" '
        f'viewBox="0 0 {frame.width} {frame.height}" aria-label="{html.escape(label)}">'
        f"{inside}</svg>"
    )


def _path(xs: Iterable[float], ys: Iterable[float]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def _paths(curves: Sequence[Curve], frame: Frame, x: Scale, y: Scale) -> str:
    raw, lines = [], []  # all raw values lie below all lines, which would drown in them
    for i, curve in enumerate(curves):
        if not curve.y.size:
            continue
        style = f"s{i % COLORS}" + (" again" if i >= COLORS else "")
        xs = frame.across(x.unit(curve.x))
        ys = frame.down(y.unit(curve.y))
        if curve.smooth is not None:
            raw.append(f'<path class="raw {style}" d="{_path(xs, ys)}"/>')
            ys = frame.down(y.unit(curve.smooth))
        lines.append(f'<path class="line {style}" d="{_path(xs, ys)}"/>')
        if curve.smooth is None and curve.y.size <= _MARKERS_UP_TO:
            dots = (f'<circle cx="{a:.1f}" cy="{b:.1f}"/>' for a, b in zip(xs, ys, strict=True))
            lines.append(f'<g class="dots {style}">{"".join(dots)}</g>')
    return "".join(raw + lines)


def _grid(frame: Frame, y: Scale) -> str:
    parts = []
    for value, label in y.ticks(5):
        at = float(frame.down(y.unit(value)))
        parts.append(
            f'<path class="rule" d="M{frame.left} {at:.1f}H{frame.width - frame.right}"/>'
            f'<text class="y" x="{frame.left - 7}" y="{at + 3.5:.1f}">{label}</text>'
        )
    return "".join(parts)


def _x_axis(frame: Frame, x: Scale, x_label: str, y_label: str) -> str:
    base = frame.height - frame.bottom
    parts = [f'<path class="axis" d="M{frame.left} {base}H{frame.width - frame.right}"/>']
    for value, label in x.ticks(4 if frame is SMALL else 6):
        at = float(frame.across(x.unit(value)))
        parts.append(f'<text class="x" x="{at:.1f}" y="{base + 16}">{label}</text>')
    if frame is LARGE:
        middle = (frame.left + frame.width - frame.right) / 2
        parts.append(
            f'<text class="x name" x="{middle:.0f}" y="{base + 34}">{html.escape(x_label)}</text>'
        )
        center = (frame.top + base) / 2
        parts.append(
            f'<text class="x name" transform="translate(11 {center:.0f}) rotate(-90)">'
            f"{html.escape(y_label)}</text>"
        )
    return "".join(parts)


def _describe(title: str, curves: Sequence[Curve]) -> str:
    parts = []
    for curve in curves:
        if curve.y.size:
            numbers = (curve.y[0], curve.y[-1], curve.y.min(), curve.y.max())
            first, last, low, high = (format_number(n) for n in numbers)
            parts.append(f"{curve.name} from {first} to {last}, lowest {low}, highest {high}")
    return f"{title}: {'; '.join(parts)}"


def _hover_data(
    curves: Sequence[Curve], frame: Frame, x: Scale, kinds: dict[str, Scale], x_label: str
) -> str:
    data = {
        "label": x_label,
        "box": [frame.left, frame.top, frame.width - frame.right, frame.height - frame.bottom],
        "x": [x.low, x.high],
        "y": {kind: [scale.low, scale.high] for kind, scale in kinds.items()},
        "series": [
            {
                "name": c.name,
                "x": [float(f"{v:.7g}") for v in c.x],
                "y": [float(f"{v:.5g}") for v in c.y],
            }
            for c in curves
        ],
    }
    # "<" could end the script element early if a name contains "</script>".
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'
