"""How localization is judged: detections of every query, beside boxes that saw no video."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from jaxcog.errors import ConfigError
from jaxcog.metrics import temporal
from jaxcog.metrics.temporal import Segments
from jaxcog.systems.qat.proposals import THRESHOLDS, Mode, detections, probability_to_segments

Protocol = Literal["activitynet", "thumos"]
_TIOU = {"activitynet": temporal.ACTIVITYNET, "thumos": temporal.THUMOS}
_SHOWN = {"activitynet": (0.5, 0.75, 0.95), "thumos": (0.3, 0.5, 0.7)}
LOW_COVERAGE = 0.5


@dataclasses.dataclass(frozen=True)
class Detector:
    """From a foreground curve to detections, and from these to numbers.

    mode, smooth, closing: see `probability_to_segments`. thresholds: on the curve. sigma: of the
    Soft-NMS. max_keep: detections a video. protocol: tIoU thresholds, 0.5:0.05:0.95 or 0.3:0.1:0.7.
    released: the official inference, with its defects: the background's curve, its two spans, its
    Soft-NMS. The external video classifier that its scripts read is not part of it.
    """

    mode: Literal["runs", "span"] = "runs"
    thresholds: tuple[float, ...] = THRESHOLDS
    smooth: int = 1
    closing: int = 0
    sigma: float = 0.8
    max_keep: int = 100
    protocol: Protocol = "activitynet"
    released: bool = False

    def __post_init__(self) -> None:
        if self.smooth < 1 or self.smooth % 2 == 0:
            raise ConfigError(f"detector.smooth={self.smooth}: an odd number of snippets")
        if self.sigma <= 0:
            raise ConfigError(f"detector.sigma={self.sigma}: must be positive")
        if not self.thresholds or not all(0 <= x < 1 for x in self.thresholds):
            raise ConfigError(f"detector.thresholds={self.thresholds}: some in [0, 1)")

    def __call__(self, prob: np.ndarray, duration: float) -> tuple[np.ndarray, np.ndarray]:
        """Foreground curve [T] of `duration` seconds -> (segments [N, 2] seconds, scores [N])."""
        mode: Mode = "released" if self.released else self.mode
        segments, scores = probability_to_segments(
            1 - prob if self.released else prob,
            self.thresholds,
            mode,
            smooth=self.smooth,
            closing=self.closing,
        )
        return detections(
            segments,
            scores,
            duration,
            sigma=self.sigma,
            max_keep=self.max_keep,
            drop_last=self.released,
        )


def truth_of(rows: Mapping[str, np.ndarray]) -> Segments:
    """All instances of the queries, each query being a video of its own."""
    valid = rows["segments"][..., 1] >= 0
    query, place = np.nonzero(valid)
    return Segments(query, rows["label"][query], rows["segments"][query, place].astype(np.float64))


def predictions_of(rows: Mapping[str, np.ndarray], detector: Detector) -> Segments:
    """Detections of all queries, labelled with the class that the protocol gives."""
    found = [
        detector(np.asarray(prob, np.float64), float(duration))
        for prob, duration in zip(rows["prob"], rows["duration"], strict=True)
    ]
    counts = [len(scores) for _, scores in found]
    query = np.repeat(np.arange(len(found)), counts)
    segments = np.concatenate([segments for segments, _ in found]).reshape(-1, 2)
    scores = np.concatenate([scores for _, scores in found])
    return Segments(query, rows["label"][query], segments, scores)


def coverage(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """[N] the part of each query that its instances cover."""
    lengths = np.where(
        rows["segments"][..., 1] >= 0, rows["segments"][..., 1] - rows["segments"][..., 0], 0
    )
    return lengths.sum(axis=1) / rows["duration"]


def frame_ap(prob: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[N] average precision of snippets ranked by the curve: [N, T], [N, T] in {0, 1}."""
    order = np.argsort(-prob, axis=1, kind="stable")
    hits = np.take_along_axis(mask > 0, order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return np.sum(precision * hits, axis=1) / np.maximum(hits.sum(axis=1), 1)


def summarize(rows: Mapping[str, np.ndarray], detector: Detector) -> dict[str, float]:
    """The paper's metrics in [0, 1], and those of fixed boxes on the same queries.

    "mAP" is the average over tIoU thresholds, "mAP@0.5" one of them; "std/..." the deviation over
    the repeats, each of which judges every query once. "low/..." is on the queries that their
    instances cover by less than half; "whole_video/...", "two_boxes/...", "five_boxes/..." do not
    look at the video. "frame_ap" ranks snippets.

    rows: "prob" and "query_mask" [N, T], "segments" [N, S, 2], "duration", "label", "repeat" [N].
    """
    scores: dict[str, list[float]] = {}
    per_query = frame_ap(rows["prob"], rows["query_mask"])
    predictions, truth = predictions_of(rows, detector), truth_of(rows)
    for repeat in np.unique(rows["repeat"]):
        own = rows["repeat"] == repeat
        scores.setdefault("frame_ap", []).append(float(per_query[own].mean()))
        for prefix, chosen in (("", own), ("low/", own & (coverage(rows) < LOW_COVERAGE))):
            if chosen.any():
                judged = _judge(truth, predictions, chosen, detector.protocol)
                for name, value in judged.items():
                    scores.setdefault(prefix + name, []).append(value)
    first = rows["repeat"] == rows["repeat"].min()
    found = {name: float(np.mean(values)) for name, values in scores.items()}
    found |= {f"std/{name}": float(np.std(values)) for name, values in scores.items()
              if len(values) > 1}  # fmt: skip
    return found | baselines(rows, truth, first, detector.protocol)


def _judge(
    truth: Segments, predictions: Segments, chosen: np.ndarray, protocol: Protocol
) -> dict[str, float]:
    result = temporal.detection_map(
        truth.select(chosen[truth.video]), predictions.select(chosen[predictions.video]),
        _TIOU[protocol],
    )  # fmt: skip
    return {"mAP": result.average} | {f"mAP@{x:g}": result.at(x) for x in _SHOWN[protocol]}


def baselines(
    rows: Mapping[str, np.ndarray], truth: Segments, chosen: np.ndarray, protocol: Protocol
) -> dict[str, float]:
    """The fixed boxes of `metrics.temporal.FIXED_BOXES` on the chosen queries, and on low ones."""
    durations = dict(enumerate(rows["duration"].astype(float)))
    found: dict[str, float] = {}
    for prefix, part in (("", chosen), ("low/", chosen & (coverage(rows) < LOW_COVERAGE))):
        if part.any():
            results = temporal.fixed_box_baselines(
                truth.select(part[truth.video]), durations, thresholds=_TIOU[protocol]
            )
            for name, result in results.items():
                found[f"{prefix}{name}/mAP"] = result.average
                for x in _SHOWN[protocol]:
                    found[f"{prefix}{name}/mAP@{x:g}"] = result.at(x)
    return found
