"""A video as a strip: what was annotated, what was found, and the curves in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_WIDTH, _LEFT, _RIGHT, _BAR, _CURVE, _GAP = 960, 190, 24, 26, 110, 12
_SCALE = 2  # drawn larger, then reduced: Pillow's lines are not antialiased
_INK, _SOFT, _HAIR, _PAPER = (28, 32, 38), (100, 108, 118), (222, 222, 217), (255, 255, 255)
_TRUTH, _FOUND = (24, 138, 104), (42, 108, 201)
_CURVES = ((42, 108, 201), (211, 98, 31), (142, 79, 196))


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Segments are [N, 2] in the unit of `duration`; None: not known, no bar.

    found, scores: predictions, the best first; the strength of a bar is its score over the best.
    curves: name -> [T] values in [0, 1], evenly spread over the duration.
    """

    duration: float
    found: np.ndarray
    scores: np.ndarray
    truth: np.ndarray | None
    curves: Mapping[str, np.ndarray]
    unit: str = "s"
    most: int = 5


def draw(timeline: Timeline) -> np.ndarray:
    """uint8 [H, W, 3]."""
    height = _GAP * 4 + _BAR * (1 + (timeline.truth is not None)) + _CURVE + 26
    page = Image.new("RGB", (_WIDTH * _SCALE, height * _SCALE), _PAPER)
    pen = _Pen(ImageDraw.Draw(page), timeline.duration)
    y = _GAP
    if timeline.truth is not None:
        pen.label(y + _BAR / 2, "ground truth")
        pen.bars(y, timeline.truth, np.ones(len(timeline.truth)), _TRUTH)
        y += _BAR + _GAP
    pen.label(y + _BAR / 2, f"prediction (best {min(len(timeline.scores), timeline.most)})")
    best = float(np.max(timeline.scores, initial=0)) or 1.0
    shown = timeline.found[: timeline.most], timeline.scores[: timeline.most] / best
    # The weakest first, so that a better one lies on top.
    pen.bars(y, shown[0][::-1], shown[1][::-1], _FOUND)
    y += _BAR + _GAP
    pen.frame(y)
    for i, (name, values) in enumerate(timeline.curves.items()):
        color = _CURVES[i % len(_CURVES)]
        pen.label(y + 14 + 20 * i, name, color)
        pen.curve(y, np.asarray(values, np.float64), color)
    pen.axis(y + _CURVE, timeline.unit)
    return np.asarray(page.resize((_WIDTH, height), Image.Resampling.LANCZOS))


class _Pen:
    """Draws at the enlarged scale in the coordinates of the reduced picture."""

    def __init__(self, pen: ImageDraw.ImageDraw, duration: float):
        self.pen = pen
        self.duration = duration
        self.font = ImageFont.load_default(15 * _SCALE)

    def x(self, seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(seconds / self.duration, 0), 1)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: tuple[int, ...]) -> None:
        self.pen.rectangle([value * _SCALE for value in (x0, y0, x1, y1)], fill=color)

    def line(
        self, points: Sequence[tuple[float, float]], color: tuple[int, ...], width: int = 1
    ) -> None:
        flat = [(x * _SCALE, y * _SCALE) for x, y in points]
        self.pen.line(flat, fill=color, width=width * _SCALE, joint="curve")

    def label(self, y: float, text: str, color: tuple[int, ...] = _INK) -> None:
        place = ((_LEFT - 14) * _SCALE, y * _SCALE)
        self.pen.text(place, text, color, self.font, anchor="rm")

    def bars(
        self, y: float, segments: np.ndarray, strength: np.ndarray, color: tuple[int, ...]
    ) -> None:
        self.box(_LEFT, y + _BAR / 2, _WIDTH - _RIGHT, y + _BAR / 2 + 1, _HAIR)
        for (start, end), share in zip(segments, strength, strict=True):
            faded = tuple(round(255 - (255 - c) * (0.2 + 0.8 * float(share))) for c in color)
            left = self.x(start)
            right = max(self.x(end), left + 2)
            self.box(left - 1, y, right + 1, y + _BAR, _PAPER)  # a gap, so that bars stay apart
            self.box(left, y, right, y + _BAR, faded)

    def frame(self, y: float) -> None:
        for level in (0, 0.5, 1):
            height = y + _CURVE * (1 - level)
            self.box(_LEFT, height, _WIDTH - _RIGHT, height + 0.5, _HAIR)

    def curve(self, y: float, values: np.ndarray, color: tuple[int, ...]) -> None:
        centres = (np.arange(len(values)) + 0.5) / len(values) * self.duration
        heights = y + _CURVE * (1 - np.clip(values, 0, 1))
        points = [(self.x(t), h) for t, h in zip(centres, heights, strict=True)]
        self.line(points, color, 2)

    def axis(self, y: float, unit: str) -> None:
        step = nice_step(self.duration)
        for tick in np.arange(0, self.duration + step / 1000, step):
            place = ((self.x(tick)) * _SCALE, (y + 6) * _SCALE)
            self.pen.text(place, f"{tick:g}", _SOFT, self.font, anchor="ma")
        self.pen.text(
            ((_LEFT - 14) * _SCALE, (y + 6) * _SCALE), unit, _SOFT, self.font, anchor="ra"
        )


def nice_step(duration: float) -> float:
    """1, 2 or 5 times a power of ten, so that an axis has about eight marks."""
    rough = duration / 8
    power = 10.0 ** np.floor(np.log10(rough))
    return float(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough))
