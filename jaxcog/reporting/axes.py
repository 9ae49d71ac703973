"""Scales, ticks and numbers as text: shared by the SVG charts and by those drawn as PNG."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

_LARGEST = 1e300  # differences of larger numbers overflow


@dataclasses.dataclass(frozen=True)
class Scale:
    """One axis: the values `low` to `high` become 0 to 1, on a linear or logarithmic scale."""

    low: float
    high: float
    log: bool = False

    def unit(self, values: np.ndarray | float) -> np.ndarray:
        """Positions along the axis, 0 at `low` and 1 at `high`; clipped to that range."""
        values = np.clip(np.asarray(values, np.float64), self.low, self.high)
        if self.log:
            return np.log(values / self.low) / math.log(self.high / self.low)
        return (values - self.low) / (self.high - self.low)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """About `count` round values within the axis, each with its label."""
        values = _log_ticks(self.low, self.high) if self.log else []
        if len(values) < 2:
            values = _linear_ticks(self.low, self.high, count)
        return list(zip(values, _labels(values), strict=True))


def fit(values: np.ndarray, *, log: bool = False, pad: float = 0.06) -> Scale:
    """The scale that shows all of `values` (finite, any number of them; positive for `log`)."""
    values = np.clip(np.asarray(values, np.float64), -_LARGEST, _LARGEST)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if log:
        room = max((high / low) ** pad, 1.05)
        return Scale(low / room, high * room, log=True)
    if not pad:
        low = 0.0 if 0 < low < 0.05 * high else low
        return Scale(low, high) if high > low else Scale(low - 0.5, low + 0.5)
    if low == high:
        room = abs(low) * 0.5 or 1.0
        return Scale(low - room, high + room)
    room = (high - low) * pad
    # Zero is the natural floor of losses, rates and counts that come near it.
    floor = 0.0 if 0 <= low < 0.35 * high else low - room
    return Scale(floor, high + room)


def wants_log(values: np.ndarray) -> bool:
    """Whether `values` are all positive and, but for outliers, spread over two decades or more."""
    if values.size < 2 or values.min() <= 0:
        return False
    low, high = np.quantile(values, [0.02, 0.98])
    return bool(high > 100 * low)


def format_number(value: object, digits: int = 4) -> str:
    """A value as a person wants it: integers whole, floats to about `digits` digits."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not is_number(value):
        return str(value)
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}" if abs(int(value)) >= 100_000 else str(int(value))
    number = float(value)
    if not math.isfinite(number):
        return str(number)
    size = abs(number)
    if number == 0 or 0.01 <= size < 1e6:
        places = max(digits - len(str(int(size))), 0) if size >= 1 else digits
        text = f"{number:.{places}f}"
        return text.rstrip("0").rstrip(".") if places else text
    return f"{number:.{digits - 1}g}"


def format_column(values: Sequence[object], digits: int = 4) -> list[str]:
    """Values of one column; fractions get zeros at the end until their decimal points align."""
    texts = [format_number(value, digits) for value in values]
    floats = [is_number(v) and not isinstance(v, numbers.Integral) for v in values]
    fixed = [
        on and "e" not in text and "n" not in text for on, text in zip(floats, texts, strict=True)
    ]
    most = max(
        (len(t.partition(".")[2]) for t, on in zip(texts, fixed, strict=True) if on), default=0
    )
    if not most or most > digits:
        return texts
    return [
        f"{t if '.' in t else t + '.'}".ljust(len(t.partition(".")[0]) + 1 + most, "0") if on else t
        for t, on in zip(texts, fixed, strict=True)
    ]


def is_number(value: object) -> TypeGuard[numbers.Real]:
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    # A step somewhat finer than asked for is better than one twice as coarse.
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.75 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, (last - first) // 5)
    powers = range(first, last + 1, stride)
    inside = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(inside) >= 3:
        return inside
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]


def _labels(values: list[float]) -> list[str]:
    largest = max((abs(v) for v in values), default=0.0)
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size * (1 if suffix != "k" else 5) <= largest < 1e12:
            return [f"{v / size:g}{suffix}" if v else "0" for v in values]
    return ["0" if abs(v) < 1e-12 * largest else f"{v:.6g}" for v in values]
