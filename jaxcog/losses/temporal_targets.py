"""What a video's annotation means for its snippets: targets of temporal localization.

On the host, in NumPy; overlaps are computed in float64, because bins are found by rounding down.
Segments are [S, 2] seconds; `duration` is the length that the snippets cover, in seconds.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class BaseTargets:
    """Targets of the base stage, float32.

    iou_map [D, T]: the best IoU of the window that starts at snippet i and covers d + 1 snippets.
    start, end [T]: how much of a boundary's surroundings lies around the snippet.
    """

    iou_map: np.ndarray
    start: np.ndarray
    end: np.ndarray


def corrected_duration(feature_frames: float, frames: float, seconds: float) -> float:
    """Seconds that the features really cover: they end before, or after, the video does."""
    return feature_frames / frames * seconds


def relative(segments: np.ndarray, duration: float) -> np.ndarray:
    """Seconds -> fractions of `duration`, clipped to [0, 1]: float64 [S, 2]."""
    return np.clip(np.asarray(segments, np.float64).reshape(-1, 2) / duration, 0, 1)


def valid_cells(num_snippets: int, max_duration: int) -> np.ndarray:
    """float32 [D, T]: 1 where the window of row d, column i ends inside the video."""
    return np.tri(num_snippets, dtype=np.float32)[::-1][:max_duration].copy()


def bmn_targets(
    segments: np.ndarray, duration: float, num_snippets: int, max_duration: int | None = None
) -> BaseTargets:
    """Targets for T snippets and windows of up to D (default T) of them."""
    instances = relative(segments, duration)
    gap = 1 / num_snippets
    starts = gap * np.arange(num_snippets)
    lengths = gap * np.arange(1, (max_duration or num_snippets) + 1)
    first = np.broadcast_to(starts, (len(lengths), num_snippets))
    overlap = _overlap(first, first + lengths[:, None], instances)
    union = lengths[:, None, None] + (instances[:, 1] - instances[:, 0]) - overlap
    near = _overlap(starts - 0.5 * gap, starts + 1.5 * gap, _around(instances[:, 0], 1.5 * gap))
    far = _overlap(starts - 0.5 * gap, starts + 1.5 * gap, _around(instances[:, 1], 1.5 * gap))
    best = (x.max(axis=-1, initial=0).astype(np.float32)
            for x in (overlap / union, near / (2 * gap), far / (2 * gap)))  # fmt: skip
    return BaseTargets(*best)


def _around(points: np.ndarray, reach: float) -> np.ndarray:
    return np.stack([points - reach, points + reach], axis=1)


def _overlap(first: np.ndarray, last: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """[...] window ends and [S, 2] segments -> [..., S] length of what they share."""
    low = np.maximum(first[..., None], segments[:, 0])
    high = np.minimum(last[..., None], segments[:, 1])
    return np.maximum(high - low, 0)


def snippet_mask(segments: np.ndarray, duration: float, num_snippets: int = 100) -> np.ndarray:
    """float32 [T], 1 on the snippets from floor(T s) up to floor(T e) of every instance.

    An instance shorter than a snippet may leave none.
    """
    mask = np.zeros(num_snippets, np.float32)
    for first, last in np.floor(num_snippets * relative(segments, duration)).astype(int):
        mask[first:last] = 1
    return mask
