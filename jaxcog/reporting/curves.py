"""The curves of a run: reading metrics.jsonl, thinning, smoothing, grouping into charts."""

from __future__ import annotations

import array
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np

MAX_POINTS = 1000
_SMOOTH_FROM = 120  # shorter curves are readable as they are


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric over steps. `x`, `y`: float64 [N], x increasing, y finite.

    smooth: [N], a moving average of y; None where y is drawn as it is.
    skipped: number of values that were NaN or infinite; first_skipped: the step of the first.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    smooth: np.ndarray | None = None
    skipped: int = 0
    first_skipped: float | None = None


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What a metrics file holds: curves by (kind, name), and how many lines could not be read."""

    curves: dict[tuple[str, str], Curve]
    unreadable: int = 0


def read_metrics(path: Path) -> Metrics:
    """Reads lines {"step": int, "kind": "train"|"eval", "time": seconds, name: number, ...}.

    A missing file is an empty one. Lines that are no JSON objects are skipped; all but the last
    (which a stopped run may have left half-written) are counted in `unreadable`. Where a resumed
    run wrote a step again, the later value counts.
    """
    columns: dict[tuple[str, str], tuple[array.array, array.array]] = {}
    unreadable, last_was_bad = 0, False
    if not path.exists():
        return Metrics({})
    with path.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            record = _record(line)
            last_was_bad = record is None
            unreadable += last_was_bad
            if record is not None:
                _add(columns, record)
    curves = {key: _curve(key, *columns[key]) for key in columns}
    return Metrics(curves, unreadable - last_was_bad)


def _record(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not _is_number(record.get("step")):
        return None
    return record


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _add(columns: dict[tuple[str, str], tuple[array.array, array.array]], record: dict) -> None:
    kind, step = str(record.get("kind", "train")), float(record["step"])
    for name, value in record.items():
        if name in ("step", "kind", "time") or not (value is None or _is_number(value)):
            continue
        steps, values = columns.setdefault((kind, name), (array.array("d"), array.array("d")))
        steps.append(step)
        values.append(float("nan") if value is None else float(value))


def _curve(key: tuple[str, str], steps: array.array, values: array.array) -> Curve:
    x, y = np.asarray(steps), np.asarray(values)
    # unique keeps the first of equals: reversed, that is the last one written.
    x, index = np.unique(x[::-1], return_index=True)
    y = y[::-1][index]
    good = np.isfinite(y)
    first_bad = float(x[~good][0]) if not good.all() else None
    x, y, skipped = x[good], y[good], int((~good).sum())
    smooth = None
    if key[0] == "train" and y.size >= _SMOOTH_FROM:
        smooth = moving_average(y, max(5, y.size // 40))
    keep = thin(y, MAX_POINTS)
    smooth = None if smooth is None else smooth[keep]
    return Curve(key[1], x[keep], y[keep], smooth, skipped, first_bad)


def moving_average(y: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` values of y [N], over fewer at the ends. [N] float64."""
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(y, dtype=np.float64)])
    index = np.arange(y.size)
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, y.size)
    return (sums[high] - sums[low]) / (high - low)


def thin(y: np.ndarray, most: int) -> np.ndarray:
    """Indices, increasing, of at most `most` of y [N]: ends, and each bucket's lowest and highest.

    Every peak of the whole curve is thus kept.
    """
    if y.size <= most:
        return np.arange(y.size)
    edges = np.linspace(0, y.size, (most - 2) // 2 + 1).astype(int)
    keep = {0, y.size - 1}
    for low, high in itertools.pairwise(edges):
        keep |= {low + int(y[low:high].argmin()), low + int(y[low:high].argmax())}
    return np.array(sorted(keep))


def group(metrics: Metrics) -> dict[str, list[tuple[str, list[Curve]]]]:
    """Charts by section: {"Evaluation": [(title, curves)], "Training": [...]}.

    "real/loss", "fake/loss" and "loss" share the chart "loss"; a name that both kinds have is
    drawn once, under Evaluation, where both curves can be compared.
    """
    charts: dict[str, list[tuple[str, str, Curve]]] = {}
    for (kind, name), curve in metrics.curves.items():
        prefix, _, last = name.rpartition("/")
        charts.setdefault(last or name, []).append((kind, prefix, curve))
    sections: dict[str, list[tuple[str, list[Curve]]]] = {"Evaluation": [], "Training": []}
    for title, members in charts.items():
        kinds = {kind for kind, _, _ in members}
        section = "Training" if kinds == {"train"} else "Evaluation"
        prefixes = [prefix for _, prefix, _ in members]
        curves = []
        for kind, prefix, curve in sorted(members, key=lambda m: (m[0] != "train", m[1])):
            label = prefix or kind
            if prefix and prefixes.count(prefix) > 1:
                label = f"{prefix} ({kind})"
            if len(members) == 1:
                label = title if not prefix else curve.name
            curves.append(dataclasses.replace(curve, name=label))
        sections[section].append((title if len(members) > 1 else curves[0].name, curves))
    return {name: charts for name, charts in sections.items() if charts}
