"""ActivityNet-1.3 and THUMOS14 annotations as distributed, and the few-shot splits of classes."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcog.data.snippets import check_segments
from jaxcog.errors import DataError

ANET_VALIDATION = (
    "Ballet", "Brushing hair", "Cheerleading", "Cumbia", "Curling", "Dodgeball", "Hula hoop",
    "Ironing clothes", "Paintball", "Playing blackjack", "Playing guitarra", "Playing harmonica",
    "Putting in contact lenses", "Rafting", "Sumo", "Swinging at the playground",
    "Using the rowing machine", "Vacuuming floor", "Volleyball", "Waxing skis",
)  # fmt: skip
ANET_TEST = (
    "BMX", "Breakdancing", "Calf roping", "Camel ride", "Cleaning sink", "Drinking coffee",
    "Hand car wash", "Hurling", "Making an omelette", "Plataform diving", "Pole vault",
    "Polishing forniture", "Preparing salad", "Riding bumper cars", "Rope skipping",
    "Shaving legs", "Shuffleboard", "Snatch", "Starting a campfire", "Walking the dog",
)  # fmt: skip
"""Novel classes, spelled as in the annotation file; all other 160 of its classes are base."""

THUMOS_CLASSES = (
    "BaseballPitch", "BasketballDunk", "Billiards", "CleanAndJerk", "CliffDiving",
    "CricketBowling", "CricketShot", "Diving", "FrisbeeCatch", "GolfSwing", "HammerThrow",
    "HighJump", "JavelinThrow", "LongJump", "PoleVault", "Shotput", "SoccerPenalty",
    "TennisSwing", "ThrowDiscus", "VolleyballSpiking",
)  # fmt: skip
THUMOS_VALIDATION, THUMOS_TEST = THUMOS_CLASSES[16:18], THUMOS_CLASSES[18:]


@dataclasses.dataclass(frozen=True)
class Video:
    """One annotated video.

    segments: float64 [S, 2] seconds; names: [S] the class of each. duration: of the video, seconds;
    covered: seconds that its features stand for; both 0 where only the features tell. frame_rate:
    frames a second, 0 where it is not needed.
    """

    name: str
    subset: str
    segments: np.ndarray
    names: tuple[str, ...]
    duration: float = 0.0
    covered: float = 0.0
    frame_rate: float = 0.0


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"{path} is missing: it holds the annotations") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}): download it again") from error


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header that names at least `columns`."""
    if not path.is_file():
        raise DataError(f"{path} is missing")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)} in its first line")
    return rows


def skipped_videos(raw: Path) -> frozenset[str]:
    """Names in skip.txt, one a line: videos to leave out."""
    path = raw / "skip.txt"
    return frozenset(path.read_text().split()) if path.is_file() else frozenset()


def read_activitynet(raw: Path) -> list[Video]:
    """`anet_anno_action.json` and `video_info_new.csv`: all videos that have labels.

    Raises:
      DataError: a file is missing or damaged, or an annotation lies outside its video.
    """
    path = raw / "anet_anno_action.json"
    table, skip = _json(path), skipped_videos(raw)
    columns = ("video", "subset")
    subsets = {row["video"]: row["subset"] for row in _rows(raw / "video_info_new.csv", columns)}
    videos = []
    for name, entry in table.items():
        subset = subsets.get(name)
        if subset not in ("training", "validation") or name in skip:
            continue
        found = entry["annotations"]
        if not found:
            continue
        duration = float(entry["duration_second"])
        segments = np.array([note["segment"] for note in found], np.float64).reshape(-1, 2)
        check_segments(segments, duration, f"{path}: {name}")
        covered = float(entry["feature_frame"]) / float(entry["duration_frame"]) * duration
        labels = tuple(note["label"].strip() for note in found)
        videos.append(Video(name, subset, segments, labels, duration, covered))
    if not videos:
        raise DataError(f"{path}: no video of video_info_new.csv with an annotation")
    return videos


_THUMOS_SUBSETS = {"val": "training", "test": "validation"}
_FRAMES_PER_SECOND = 30.0


def read_thumos(raw: Path) -> list[Video]:
    """`val_Annotation.csv` and `test_Annotation.csv`, or `thumos_gt.json` where they are missing.

    The former give times in frames too; the latter is taken at 30 frames a second. "Ambiguous"
    instances are left out. The validation videos, which are THUMOS14's training set, get the subset
    "training"; the test videos "validation", as on ActivityNet.
    """
    skip = skipped_videos(raw)
    tables = {part: raw / f"{part}_Annotation.csv" for part in _THUMOS_SUBSETS}
    if all(path.is_file() for path in tables.values()):
        notes = [note for part, path in tables.items() for note in _thumos_csv(path, part)]
    else:
        notes = _thumos_json(raw / "thumos_gt.json")
    by_video: dict[tuple[str, str], list[tuple[float, float, str, float]]] = {}
    for subset, video, *note in notes:
        if video not in skip:
            by_video.setdefault((subset, video), []).append(tuple(note))
    videos = []
    for (subset, name), found in by_video.items():
        segments = np.array([note[:2] for note in found])
        rate = float(np.median([note[3] for note in found]))
        names = tuple(note[2] for note in found)
        videos.append(Video(name, subset, segments, names, frame_rate=rate))
    return videos


def _thumos_csv(path: Path, part: str) -> list[tuple[Any, ...]]:
    columns = ("video", "type", "start", "end", "startFrame", "endFrame")
    notes = []
    for row in _rows(path, columns):
        if row["type"] == "Ambiguous":
            continue
        start, end = float(row["start"]), float(row["end"])
        frames = float(row["endFrame"]) - float(row["startFrame"])
        rate = frames / (end - start) if end > start else _FRAMES_PER_SECOND
        notes.append((_THUMOS_SUBSETS[part], row["video"], start, end, row["type"], rate))
    return notes


def _thumos_json(path: Path) -> list[tuple[Any, ...]]:
    notes = []
    for name, entry in _json(path)["database"].items():
        subset = "training" if entry["subset"] == "train" else "validation"
        for note in entry["annotations"]:
            start, end = map(float, note["segment"])
            notes.append((subset, name, start, end, note["label"].strip(), _FRAMES_PER_SECOND))
    return notes


def class_parts(
    names: tuple[str, ...], validation: tuple[str, ...], test: tuple[str, ...]
) -> Mapping[str, tuple[str, ...]]:
    """{"base", "validation", "test"} -> classes; leading blanks of copied lists are forgiven.

    Raises:
      DataError: a class of the split that the data does not have.
    """
    novel = {"validation": validation, "test": test}
    parts = {part: tuple(name.strip() for name in listed) for part, listed in novel.items()}
    unknown = [name for listed in parts.values() for name in listed if name not in names]
    if unknown:
        raise DataError(
            f"the data has no class {', '.join(unknown[:5])}: correct the class split (spellings "
            "are the data set's own)"
        )
    held = {name for listed in parts.values() for name in listed}
    return {"base": tuple(name for name in names if name not in held), **parts}
