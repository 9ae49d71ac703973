"""From curves to segments, on the host: proposals of both stages and the final detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxcog.metrics.temporal import soft_nms

Mode = Literal["runs", "span", "released"]
THRESHOLDS = tuple(np.round(np.arange(0.1, 1.0, 0.1), 1).tolist())
_CROP = (9, 97)
_SHORTEST = 0.1


def probability_to_segments(
    prob: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
    mode: Mode = "runs",
    *,
    smooth: int = 1,
    closing: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Where a curve over snippets is high.

    Args:
      prob: [T] foreground probability; for "released" the curve that the official code takes, which
        is the background's.
      thresholds: a snippet is on where the curve is strictly above.
      mode: "runs": every connected run of on-snippets at every threshold; "span": from the first to
        the last; "released": two spans a threshold as the official code makes them, one of them
        found in snippets 9..96 and not shifted back, both dropped up to a tenth of the length.
      smooth: length of a moving average taken first (odd; edges are repeated).
      closing: gaps of so many snippets inside a run are closed.

    Returns:
      (segments [N, 2] in [0, 1], scores [N]), each segment once, in the order of the thresholds.
      The score is the curve's mean in the segment (in "released", its largest value).
    """
    prob = np.asarray(prob)
    if mode == "released":
        return _released(prob, thresholds)
    curve = _smoothed(prob.astype(np.float64), smooth)
    found: dict[tuple[int, int], None] = {}
    for threshold in thresholds:
        runs = _runs(curve > threshold, closing)
        if mode == "span" and runs:
            runs = [(runs[0][0], runs[-1][1])]
        found.update(dict.fromkeys(runs))
    total = np.concatenate([[0.0], np.cumsum(curve)])
    bounds = np.array(list(found), np.int64).reshape(-1, 2)
    lengths = np.maximum(bounds[:, 1] - bounds[:, 0], 1)
    return bounds / len(prob), (total[bounds[:, 1]] - total[bounds[:, 0]]) / lengths


def _smoothed(curve: np.ndarray, taps: int) -> np.ndarray:
    if taps <= 1:
        return curve
    padded = np.pad(curve, taps // 2, mode="edge")
    return np.convolve(padded, np.full(taps, 1 / taps), mode="valid")


def _runs(on: np.ndarray, closing: int) -> list[tuple[int, int]]:
    """(first, behind the last) of each run of True, short gaps between two closed."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], on, [False]]).astype(np.int8)))
    runs: list[tuple[int, int]] = []
    for first, behind in changes.reshape(-1, 2).tolist():
        if runs and first - runs[-1][1] <= closing:
            first = runs.pop()[0]
        runs.append((first, behind))
    return runs


def _released(curve: np.ndarray, thresholds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    segments, scores = [], []
    for threshold in thresholds:
        on = curve > threshold
        for part in (on[slice(*_CROP)], on):
            places = np.flatnonzero(part)
            if not len(places):
                continue
            first, last = int(places[0]), int(places[-1])
            if (last - first) / len(curve) > _SHORTEST:
                segments.append((first / len(curve), last / len(curve)))
                scores.append(float(curve[first:last].max()))
    return np.array(segments).reshape(-1, 2), np.array(scores)


def boundary_bins(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool [T] each: where windows may begin and end: peaks, and all above half the maximum."""

    def peaks(x: np.ndarray) -> np.ndarray:
        inside = (x[1:-1] > x[:-2]) & (x[1:-1] > x[2:]) | (x[1:-1] > 0.5 * x.max())
        return np.concatenate([[False], inside, [False]])

    begins, ends = peaks(np.asarray(start)), peaks(np.asarray(end))
    begins[0] = ends[-1] = True
    return begins, ends


def bmn_proposals(start: np.ndarray, end: np.ndarray, iou_map: np.ndarray) -> np.ndarray:
    """Class-agnostic proposals of the base stage.

    Args:
      start, end: [T]. iou_map: [D, T, 2] (regression, classification).

    Returns:
      [N, 4]: start and end in [0, 1], classification, regression; short windows first. The score of
      a proposal is the product of the last two.
    """
    begins, ends = boundary_bins(start, end)
    durations, length = iou_map.shape[:2]
    d, i = np.mgrid[:durations, :length]
    j = i + d + 1
    fits = (j < length) & begins[i] & ends[np.minimum(j, length - 1)]
    cells = iou_map[d[fits], i[fits]]
    return np.stack([i[fits] / length, j[fits] / length, cells[:, 1], cells[:, 0]], axis=1)


def detections(
    segments: np.ndarray,
    scores: np.ndarray,
    duration: float,
    *,
    sigma: float = 0.8,
    max_keep: int = 100,
    copies: Sequence[float] = (1.0,),
    drop_last: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Soft-NMS, then seconds: (segments [M, 2], scores [M]).

    duration: seconds that the segments' unit stands for. copies: the list is written once for each
    of these factors on its scores; the official scripts write it twice, scaled by an external
    classifier's two best scores. drop_last: see `soft_nms`; a single proposal is always kept.
    """
    if len(scores) > 1:
        segments, scores = soft_nms(
            segments, scores, sigma=sigma, max_keep=max_keep, drop_last=drop_last
        )
    factors = np.repeat(np.asarray(copies, np.float64), len(scores))
    return np.tile(segments * duration, (len(copies), 1)), np.tile(scores, len(copies)) * factors
