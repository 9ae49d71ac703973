"""Detection of segments in time: overlaps, Soft-NMS, average precision (ActivityNet's toolkit).

On the host, in NumPy and float64. A segment is (start, end) in any unit that is used throughout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

ACTIVITYNET = tuple(np.round(np.arange(0.5, 0.96, 0.05), 2).tolist())
"""tIoU thresholds 0.5, 0.55, ..., 0.95; their mean is ActivityNet's average mAP."""

THUMOS = (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclasses.dataclass(frozen=True)
class Segments:
    """Instances of classes in videos, one a row; predictions also have a score.

    video, label: int [N]. segments: float64 [N, 2]. scores: float64 [N], or None for ground truth.
    """

    video: np.ndarray
    label: np.ndarray
    segments: np.ndarray
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.video)
        shapes = (np.shape(self.label), np.shape(self.segments))
        if shapes != ((n,), (n, 2)) or (self.scores is not None and np.shape(self.scores) != (n,)):
            raise ValueError(
                f"Segments: label [N], segments [N, 2] and scores [N] for N = {n} videos, got "
                f"{shapes} and {None if self.scores is None else np.shape(self.scores)}"
            )

    def __len__(self) -> int:
        return len(self.video)

    def select(self, rows: np.ndarray) -> Segments:
        """Some of the rows (indices or a mask)."""
        scores = None if self.scores is None else self.scores[rows]
        return Segments(self.video[rows], self.label[rows], self.segments[rows], scores)


@dataclasses.dataclass(frozen=True)
class DetectionResult:
    """ap: [thresholds, classes], float64 in [0, 1]; classes: the class of each column."""

    thresholds: tuple[float, ...]
    ap: np.ndarray
    classes: np.ndarray

    @property
    def by_threshold(self) -> np.ndarray:
        """[thresholds] mAP, the mean over classes."""
        return self.ap.mean(axis=1) if self.ap.size else np.zeros(len(self.thresholds))

    @property
    def average(self) -> float:
        """Mean of the mAP over the thresholds."""
        return float(self.by_threshold.mean())

    def at(self, threshold: float) -> float:
        """mAP at one of the thresholds."""
        return float(
            self.by_threshold[int(np.argmin(np.abs(np.subtract(self.thresholds, threshold))))]
        )


def temporal_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, 2], [M, 2] -> [N, M]: intersection over union; 0 for two empty segments."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    shared = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    shared = np.maximum(shared, 0)
    union = (b[..., 1] - b[..., 0]) + (a[..., 1] - a[..., 0]) - shared
    return shared / np.where(union > 0, union, 1)


def soft_nms(
    segments: np.ndarray,
    scores: np.ndarray,
    *,
    sigma: float = 0.8,
    max_keep: int = 100,
    drop_last: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian Soft-NMS: the best segment is kept, all others lose exp(-iou^2 / sigma); again.

    Args:
      segments: [N, 2]. scores: [N]; only positive ones are kept.
      sigma: > 0; small values suppress whatever overlaps.
      drop_last: the official code stops when one candidate is left, and discards it.

    Returns:
      ([M, 2], [M]): kept segments and decayed scores, best first, M <= max_keep.
    """
    segments = np.asarray(segments, np.float64)
    left = np.array(scores, np.float64)
    kept: list[int] = []
    decayed: list[float] = []
    available = np.ones(len(left), bool)
    while len(kept) < max_keep and available.sum() > int(drop_last):
        best = int(np.argmax(np.where(available, left, -np.inf)))
        if left[best] <= 0:
            break
        kept.append(best)
        decayed.append(float(left[best]))
        available[best] = False
        overlap = temporal_iou(segments[best : best + 1], segments)[0]
        left = left * np.exp(-np.square(overlap) / sigma)
    return segments[kept].reshape(-1, 2), np.array(decayed)


def interpolated_ap(precision: np.ndarray, recall: np.ndarray) -> float:
    """Area under the precision envelope (VOC 2011). precision, recall: [N] by falling score."""
    envelope = np.concatenate([[0.0], precision, [0.0]])
    steps = np.concatenate([[0.0], recall, [1.0]])
    envelope = np.maximum.accumulate(envelope[::-1])[::-1]
    changes = np.flatnonzero(steps[1:] != steps[:-1]) + 1
    return float(np.sum((steps[changes] - steps[changes - 1]) * envelope[changes]))


def detection_map(
    ground_truth: Segments, predictions: Segments, thresholds: Sequence[float] = ACTIVITYNET
) -> DetectionResult:
    """Average precision of each class of the ground truth at each tIoU threshold.

    Predictions are taken by falling score (equal scores in their order). Each claims, at each
    threshold, the best overlapping instance of its class and video that is not claimed yet; one
    that finds none is a false positive. A class without predictions has AP 0. Classes are in order
    of their appearance in the ground truth.

    Raises:
      ValueError: predictions without scores.
    """
    if predictions.scores is None:
        raise ValueError("detection_map: predictions need scores")
    classes = np.array(list(dict.fromkeys(ground_truth.label.tolist())), np.int64)
    limits = np.asarray(thresholds, np.float64)
    ap = np.zeros((len(limits), len(classes)))
    for column, label in enumerate(classes):
        truth = ground_truth.select(ground_truth.label == label)
        own = np.flatnonzero(predictions.label == label)
        guesses = predictions.select(own[np.argsort(-predictions.scores[own], kind="stable")])
        hits = _true_positives(truth, guesses, limits)
        found = np.cumsum(hits, axis=1, dtype=np.float64)
        ranks = np.arange(1, len(guesses) + 1)
        for row in range(len(limits)):
            ap[row, column] = interpolated_ap(found[row] / ranks, found[row] / len(truth))
    return DetectionResult(tuple(limits.tolist()), ap, classes)


def _true_positives(truth: Segments, guesses: Segments, limits: np.ndarray) -> np.ndarray:
    """bool [thresholds, N] for predictions of one class, sorted by falling score."""
    rows_of: dict[int, np.ndarray] = {
        int(video): np.flatnonzero(truth.video == video) for video in np.unique(truth.video)
    }
    claimed = np.zeros((len(limits), len(truth)), bool)
    hits = np.zeros((len(limits), len(guesses)), bool)
    for i, video in enumerate(guesses.video.tolist()):
        rows = rows_of.get(video)
        if rows is None:
            continue
        overlap = temporal_iou(guesses.segments[i : i + 1], truth.segments[rows])[0]
        for place in np.argsort(overlap)[::-1]:
            row = rows[place]
            free = (overlap[place] >= limits) & ~claimed[:, row] & ~hits[:, i]
            hits[:, i] |= free
            claimed[free, row] = True
    return hits


Boxes = Sequence[tuple[float, float]]

FIXED_BOXES: Mapping[str, Boxes] = {
    "whole_video": ((0.0, 1.0),),
    "two_boxes": ((0.0, 0.99), (0.0, 0.87)),
    "five_boxes": ((0.2, 0.8), (0.55, 0.9), (0.1, 0.4), (0.4, 0.6), (0.3, 0.45)),
}
"""Detections that do not look at the video, in relative time, the most confident first.

The two boxes are the only ones that the released few-shot inference emitted in a trial; the five
were chosen greedily on ActivityNet's base classes for mAP at 0.5.
"""


def fixed_box_baselines(
    ground_truth: Segments,
    durations: Mapping[int, float],
    boxes: Mapping[str, Boxes] = FIXED_BOXES,
    thresholds: Sequence[float] = ACTIVITYNET,
    seed: int = 0,
) -> dict[str, DetectionResult]:
    """The same boxes in every video, with the true label, as a few-shot protocol gives it.

    durations: video -> length in the unit of the segments. Equal boxes of different videos are
    ranked at random, by `seed`.
    """
    pairs = np.unique(np.stack([ground_truth.video, ground_truth.label], axis=1), axis=0)
    lengths = np.array([durations[int(video)] for video in pairs[:, 0]])
    results = {}
    for name, fractions in boxes.items():
        count = len(fractions)
        order = np.random.default_rng(seed).random((count, len(pairs)))
        scores = np.arange(count, 0, -1)[:, None] + 0.5 * order
        segments = np.asarray(fractions)[:, None] * lengths[None, :, None]
        predictions = Segments(
            np.tile(pairs[:, 0], count),
            np.tile(pairs[:, 1], count),
            segments.reshape(-1, 2),
            scores.ravel(),
        )
        results[name] = detection_map(ground_truth, predictions, thresholds)
    return results
