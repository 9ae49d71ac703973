"""ActivityNet-1.3 and THUMOS14 as distributed: one record a video, or a window of it.

A record holds features of a fixed length and the segments of the actions; the few-shot stage and
its data are in `temporal.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxcog.data.datasets.temporal_annotations import (
    THUMOS_CLASSES,
    Video,
    read_activitynet,
    read_thumos,
    skipped_videos,
)
from jaxcog.data.prepared import Entry, Listing, Recipe
from jaxcog.data.snippets import Store, require, rescaled
from jaxcog.errors import DataError

WIDTHS = {"tsn": 400, "c3d": 500, "i3d": 2048}
SNIPPETS = 100
WINDOW, _STRIDE, _FRAMES = 256, 128, 5  # of THUMOS14, in snippets, and frames a snippet
_INSIDE = 0.9  # part of an instance that a window must hold
_HDF5 = {
    "csv_mean_100.hdf5": SNIPPETS,  # rescaled already
    "sub_activitynet_v1-3.c3d.hdf5": None,
}
_STORES = {
    "tsn": ("csv_mean_100.hdf5", "tsn"),
    "c3d": ("sub_activitynet_v1-3.c3d.hdf5", "c3d"),
    "i3d": ("i3d.h5", "i3d"),
}
_THUMOS_PARTS = {"training": "val", "validation": "test"}


def _layout(kind: str) -> str:
    file, folder = _STORES[kind]
    return (
        "  anet_anno_action.json  video_info_new.csv\n"
        f"  {file}, or {folder}/<video>.npy, .csv or .h5\n"
        "  skip.txt (if wanted: names of videos to leave out, one a line)"
    )


def _found(raw: Path, names: Sequence[str], recipe: Recipe) -> Path:
    for name in names:
        if (raw / name).exists():
            return raw / name
    raise recipe.expected(f"{raw} has neither {' nor '.join(names)}")


def _listing(
    recipe: Recipe, raw: Path, splits: Mapping[str, Iterator[Entry]], shape: tuple[int, int],
    names: tuple[str, ...], instances: int,
) -> Listing:  # fmt: skip
    return Listing(
        splits=splits,
        features={
            "features": (shape, np.float32),
            "segments": ((instances, 2), np.float64),
            "label": ((instances,), np.int32),
            "duration": ((), np.float64),
            "covered": ((), np.float64),
        },
        metadata={"class_names": list(names), "width": shape[1], "length": shape[0]},
        skipped=sorted(skipped_videos(raw)),
    )


def _entry(
    name: str, features: np.ndarray, segments: np.ndarray, labels: Sequence[int],
    durations: tuple[float, float], instances: int,
) -> Entry:  # fmt: skip
    filled = np.full((instances, 2), -1.0)
    filled[: len(segments)] = segments
    label = np.full(instances, -1, np.int32)
    label[: len(labels)] = labels
    record = {"features": features, "segments": filled, "label": label,
              "duration": durations[0], "covered": durations[1]}  # fmt: skip
    return Entry(name, record)


def _read_activitynet(recipe: Recipe, kind: str, raw: Path) -> Listing:
    videos = read_activitynet(raw)
    names = tuple(sorted({name for video in videos for name in video.names}))
    part = _found(raw, _STORES[kind], recipe)
    with Store([part]) as store:
        listed = [video.name for video in videos]
        first = next(require(store, listed, "skip.txt in the folder"))
        width = store[first].shape[1]
    instances = max(len(video.segments) for video in videos)
    fixed = _HDF5.get(part.name)

    def entries(subset: str) -> Iterator[Entry]:
        with Store([part]) as store:
            for video in videos:
                if video.subset != subset:
                    continue
                features = _checked(store[video.name], part, video.name, fixed, width)
                labels = [names.index(name) for name in video.names]
                durations = video.duration, video.covered
                features = rescaled(features, SNIPPETS)
                yield _entry(video.name, features, video.segments, labels, durations, instances)

    splits = {subset: entries(subset) for subset in ("training", "validation")}
    return _listing(recipe, raw, splits, (SNIPPETS, width), names, instances)


def _checked(
    features: np.ndarray, part: Path, name: str, length: int | None, width: int
) -> np.ndarray:
    """Raises DataError for features of another length or width than the layout's."""
    if (length is not None and len(features) != length) or features.shape[1] != width:
        raise DataError(
            f"{part}: {name} has features {list(features.shape)}, expected "
            f"[{'any' if length is None else length}, {width}] as the other videos: extract them "
            "again, or name the video in skip.txt to leave it out"
        )
    return features


def windows(snippets: int) -> list[int]:
    """Where THUMOS14's windows of 256 snippets begin: every 128, and one more at the end."""
    starts = [i * _STRIDE for i in range((snippets + _STRIDE - WINDOW) // _STRIDE)]
    if snippets < WINDOW:
        return [0]
    if snippets - starts[-1] - WINDOW > WINDOW // 5:
        starts.append(snippets - WINDOW)
    return starts


def _read_thumos(recipe: Recipe, raw: Path) -> Listing:
    videos = read_thumos(raw)
    names = THUMOS_CLASSES
    strange = sorted({name for video in videos for name in video.names} - set(names))
    if strange:
        raise recipe.expected(f"no class of THUMOS14: {', '.join(strange[:5])}")
    parts = {
        subset: [_found(raw, (f"{stream}_{part}.h5", f"{stream}_{part}"), recipe)
                 for stream in ("flow", "rgb")]
        for subset, part in _THUMOS_PARTS.items()
    }  # fmt: skip
    width = 0
    for subset, pair in parts.items():
        with Store(pair) as store:
            listed = [video.name for video in videos if video.subset == subset]
            found = list(require(store, listed, "skip.txt in the folder"))
            width = width or store[found[0]].shape[1]
    instances = max(len(video.segments) for video in videos)

    def entries(subset: str) -> Iterator[Entry]:
        with Store(parts[subset]) as store:
            for video in videos:
                if video.subset == subset:
                    features = store[video.name]
                    _checked(features, parts[subset][0].parent, video.name, None, width)
                    yield from _windows_of(video, features, names, instances)

    splits = {subset: entries(subset) for subset in parts}
    return _listing(recipe, raw, splits, (WINDOW, width), names, instances)


def _windows_of(
    video: Video, features: np.ndarray, names: tuple[str, ...], instances: int
) -> Iterator[Entry]:
    """Windows that hold nearly all of some instance; seconds are counted from their start."""
    length = len(features) / video.frame_rate
    outside = video.segments[video.segments[:, 0] >= length]
    if len(outside):
        raise DataError(
            f"{video.name}: the segment from {outside[0][0]:g} to {outside[0][1]:g} s lies outside "
            f"the video of {length:g} s: correct it, or name the video in skip.txt"
        )
    snippets = features[::_FRAMES]
    second = _FRAMES / video.frame_rate  # of a snippet
    for start in windows(len(snippets)):
        part = snippets[start : start + WINDOW]
        padded = np.concatenate([part, np.zeros((WINDOW - len(part), part.shape[1]), np.float32)])
        shifted = video.segments - start * second
        inside = np.clip(shifted, 0, WINDOW * second)
        share = np.diff(inside)[:, 0] / np.maximum(np.diff(shifted)[:, 0], 1e-9)
        kept = np.flatnonzero(share > _INSIDE)
        if len(kept):
            labels = [names.index(video.names[i]) for i in kept]
            durations = (WINDOW * second,) * 2
            yield _entry(
                f"{video.name}@{start}", padded, inside[kept], labels, durations, instances
            )


def _recipe(kind: str) -> Recipe:
    recipe = Recipe(
        f"activitynet13_{kind}",
        f"ActivityNet-1.3 with {kind.upper()} features",
        _layout(kind),
        lambda raw: _read_activitynet(recipe, kind, raw),
    )
    return recipe


def _thumos_recipe() -> Recipe:
    recipe = Recipe(
        "thumos14_i3d",
        "THUMOS14 with two-stream features, in windows",
        "  val_Annotation.csv and test_Annotation.csv, or thumos_gt.json\n"
        "  {flow,rgb}_{val,test}.h5, or folders of these names with one file a video\n"
        "  skip.txt (if wanted: names of videos to leave out, one a line)",
        lambda raw: _read_thumos(recipe, raw),
    )
    return recipe


THUMOS = _thumos_recipe()
RECIPES = (*map(_recipe, WIDTHS), THUMOS)
