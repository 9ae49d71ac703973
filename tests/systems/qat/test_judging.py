from __future__ import annotations

import numpy as np
import pytest

from jaxcog.errors import ConfigError
from jaxcog.systems.qat import judging
from jaxcog.systems.qat.judging import Detector


def rows_of(count: int = 12, length: int = 40, *, coverage: float = 0.3, repeats: int = 2):
    """Perfect curves of one event a video, which covers `coverage` of it."""
    random = np.random.default_rng(0)
    size = round(coverage * length)
    start = random.integers(0, length - size + 1, count)
    time = np.arange(length)
    mask = ((time >= start[:, None]) & (time < start[:, None] + size)).astype(np.float32)
    segments = np.full((count, 3, 2), -1, np.float32)
    segments[:, 0] = np.stack([start, start + size], axis=-1)
    rows = {
        "prob": 0.1 + 0.8 * mask,
        "query_mask": mask,
        "segments": segments,
        "duration": np.full(count, length, np.float32),
        "label": np.arange(count) % 3,
    }
    repeated = {name: np.concatenate([value] * repeats) for name, value in rows.items()}
    return repeated | {"repeat": np.repeat(np.arange(repeats), count)}


def test_perfect_curves_have_perfect_scores_beside_boxes_that_saw_nothing():
    scores = judging.summarize(rows_of(), Detector())
    assert scores["mAP"] == scores["mAP@0.95"] == scores["frame_ap"] == 1
    assert scores["low/mAP"] == 1
    assert scores["std/mAP"] == 0
    assert scores["whole_video/mAP@0.5"] == scores["low/whole_video/mAP"] == 0
    long = judging.summarize(rows_of(coverage=0.8), Detector())
    assert long["whole_video/mAP@0.5"] == 1
    assert not any(name.startswith("low/") for name in long)


def test_shuffled_curves_do_not():
    rows = rows_of()
    rows["prob"] = np.random.default_rng(1).permuted(rows["prob"], axis=1)
    scores = judging.summarize(rows, Detector())
    assert scores["mAP@0.5"] < 0.2
    assert scores["frame_ap"] < 0.6


def test_thumos_has_its_own_thresholds():
    scores = judging.summarize(rows_of(), Detector(protocol="thumos"))
    assert {"mAP@0.3", "mAP@0.7", "two_boxes/mAP@0.5"} <= set(scores)
    assert "mAP@0.95" not in scores


def test_released_inference_looks_at_the_background():
    rows = rows_of(length=100)
    released = judging.summarize(rows, Detector(released=True))
    assert released["mAP@0.5"] < 0.1


def test_snippets_are_ranked():
    prob, mask = np.array([[0.9, 0.8, 0.7, 0.1]]), np.array([[1.0, 0, 1, 0]])
    assert judging.frame_ap(prob, mask) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": 4}, "odd"),
        ({"sigma": 0.0}, "positive"),
        ({"thresholds": ()}, "thresholds"),
        ({"thresholds": (1.0,)}, "thresholds"),
    ],
)
def test_values_that_make_no_sense_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Detector(**options)
