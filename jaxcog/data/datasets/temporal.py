"""Temporal action localization: ActivityNet-1.3 and THUMOS14, for both stages of QAT (BMVC 2021).

`jaxcog prepare` reads annotations and features as distributed and keeps one record a video (of
THUMOS14: a window), its features rescaled to a fixed length. The few-shot stage holds its videos in
memory, where a frozen network reads them once.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from jaxcog.data import few_shot
from jaxcog.data.datasets.temporal_annotations import (
    ANET_TEST,
    ANET_VALIDATION,
    THUMOS_TEST,
    THUMOS_VALIDATION,
    class_parts,
)
from jaxcog.data.datasets.temporal_recipes import SNIPPETS, THUMOS, WIDTHS, WINDOW
from jaxcog.data.few_shot import Pool, Protocol, episode_element, episode_splits
from jaxcog.data.prepared import ROOT, Prepared, Records, open_prepared
from jaxcog.data.toy.events import base_element
from jaxcog.data.types import Record, Splits, Stream
from jaxcog.errors import DataError
from jaxcog.losses.temporal_targets import bmn_targets, relative, snippet_mask
from jaxcog.task import DataInfo

Features = Literal["tsn", "c3d", "i3d"]


@dataclasses.dataclass(frozen=True)
class _Temporal(abc.ABC):
    """What both datasets share. class_names as published; the prepared data has its own."""

    root: str = ROOT

    length: ClassVar[int]
    validation: ClassVar[tuple[str, ...]]
    test: ClassVar[tuple[str, ...]]
    base_videos: ClassVar[int]
    num_classes: ClassVar[int]

    @property
    @abc.abstractmethod
    def recipe(self) -> str:
        """Name of the prepared dataset."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Channels of a snippet's features."""

    def _open(self) -> Prepared:
        prepared = open_prepared(self.recipe, self.root)
        found = prepared.metadata["length"], prepared.metadata["width"]
        if found != (self.length, self.width):
            raise DataError(
                f"{prepared.path} has features [{found[0]}, {found[1]}], this config expects "
                f"[{self.length}, {self.width}]: set data.features to what was prepared"
            )
        return prepared

    def _parts(self, prepared: Prepared) -> Mapping[str, np.ndarray]:
        """ "base", "validation", "test" -> class indices."""
        names = tuple(prepared.metadata["class_names"])
        parts = class_parts(names, self.validation, self.test)
        return {part: np.array([names.index(name) for name in listed])
                for part, listed in parts.items()}  # fmt: skip


_FIELDS = ("features", "segments", "duration", "covered")


def _base_targets(record: Record, _: Any, durations: int) -> Record:
    segments = record["segments"][record["segments"][:, 1] >= 0]
    features = np.asarray(record["features"], np.float32)
    found = bmn_targets(segments, float(record["covered"]), len(features), durations)
    return {"features": features, **vars(found)}


@dataclasses.dataclass(frozen=True)
class _BaseStage(_Temporal):
    """Records: "features" [T, F], "iou_map" [D, T], "start", "end" [T], float32.

    Videos whose first instance is of a base class.

    released_base_list: all training videos, those of novel classes too, as the official code.
    """

    max_duration: int | None = None
    released_base_list: bool = False

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        return self._info(self.base_videos)

    def load(self) -> Splits:
        """The prepared data. Raises DataError where it was not prepared."""
        prepared = self._open()
        base = self._parts(prepared)["base"]

        def stream(split: str) -> Stream:
            records = prepared.records(split, stored=_FIELDS)
            if not self.released_base_list:
                records = records.select(np.isin(records.columns["label"][:, 0], base))
            durations = self.max_duration or self.length
            transform = functools.partial(_base_targets, durations=durations)
            return Stream(records.only(), transform)

        train = stream("training")
        return Splits(train, {"validation": stream("validation")}, self._info(len(train.source)))

    def _info(self, count: int) -> DataInfo:
        durations = self.max_duration or self.length
        return DataInfo(base_element(self.length, self.width, durations), count)


@dataclasses.dataclass(frozen=True)
class _FewShot(_Temporal):
    """Episodes of base classes; every video of the novel classes as a query, `repeats` times.

    Evaluation splits are the `parts`: the novel classes for validation, and those for the test.
    Queries and supports are of the validation subset, training episodes of the training subset.

    shots: K. instances: "single" takes videos with one annotation, "multi" all.
    longer_than: an instance enters the pools where it fills more of its video than this in
      training, and in evaluation.
    channels: of the embedding. released_sampling, trimmed: see `jaxcog.data.few_shot`.
    """

    shots: int = 1
    instances: Literal["single", "multi"] = "multi"
    parts: tuple[Literal["validation", "test"], ...] = ("validation", "test")
    longer_than: tuple[float, float] = (0.15, 0.0)
    episodes: int = 1000
    repeats: int = 5
    channels: int = 256
    released_sampling: bool = False
    trimmed: bool = False
    seed: int = 0

    every_class: ClassVar[bool] = False

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        return self._info(tuple(f"class {i}" for i in range(self.num_classes)), instances=32)

    def load(self) -> Splits:
        """The prepared data, in memory.

        Raises:
          DataError: it was not prepared, or a class has too few videos.
        """
        prepared = self._open()
        classes = self._parts(prepared)
        names = tuple(prepared.metadata["class_names"])
        features: list[np.ndarray] = []

        def pool(part: str, split: str, least: float) -> Pool:
            records = prepared.records(split, stored=_FIELDS)
            return self._pool(records, classes[part], names, least, features)

        base = pool("base", "training", self.longer_than[0])
        novel: dict[str, Pool] = {
            part: pool(part, "validation", self.longer_than[1]) for part in self.parts
        }
        info = self._info(names, base.segments.shape[1])
        protocol = Protocol(
            self.shots, self.episodes, self.repeats, self.seed, self.released_sampling,
            self.trimmed,
        )  # fmt: skip
        return episode_splits(np.stack(features), base, novel, protocol, info, frozen=True)

    def _info(self, names: tuple[str, ...], instances: int) -> DataInfo:
        sizes = self.shots, self.length, self.channels
        return DataInfo(
            episode_element(*sizes),
            self.episodes,
            names,
            episode_element(*sizes, instances=instances),
            facts={"snippets": (self.length, self.width)},
        )

    def _pool(
        self,
        records: Records,
        classes: np.ndarray,
        names: tuple[str, ...],
        least: float,
        features: list[np.ndarray],
    ) -> Pool:
        """Entries of the videos of some classes; their features are appended to `features`."""
        rows: list[dict[str, Any]] = []
        label = records.columns["label"]
        chosen = np.isin(label, classes) if self.every_class else np.isin(label[:, :1], classes)
        if self.instances == "single":
            chosen &= ((label >= 0).sum(axis=1) == 1)[:, None]
        for i in np.flatnonzero(chosen.any(axis=1)):
            record, name, found = records[int(i)], records.name_of(int(i)), []
            own = label[i] if self.every_class else label[i, :1]
            for c in np.unique(own[np.isin(own, classes)]):
                entry = self._entry(record, label[i] == c, least)
                if entry is not None:
                    found.append({**entry, "label": c, "video": len(features), "name": name})
            if found:
                features.append(np.asarray(record["features"], np.float32))
                rows += found
        return _stacked(rows, names, label.shape[1], self.length)

    def _entry(self, record: Record, own: np.ndarray, least: float) -> dict[str, Any] | None:
        """None where no instance is long enough, or none covers a whole snippet."""
        segments = record["segments"][own]
        fractions = relative(segments, float(record["covered"]))
        passing = int((np.diff(fractions)[:, 0] > least).sum())
        mask = snippet_mask(segments, float(record["covered"]), self.length)
        if not passing or not mask.any():
            return None
        return {
            "mask": mask,
            "segments": segments,
            "duration": float(record["duration"]),
            "repeats": passing,
        }


def _stacked(
    rows: Sequence[dict[str, Any]], names: tuple[str, ...], instances: int, length: int
) -> Pool:
    segments = np.full((len(rows), instances, 2), -1, np.float32)
    for row, filled in zip(rows, segments, strict=True):
        filled[: len(row["segments"])] = row["segments"]

    def column(name: str, dtype: Any) -> np.ndarray:
        return np.array([row[name] for row in rows], dtype)

    return few_shot.Pool(
        video=column("video", np.int64),
        label=column("label", np.int64),
        mask=np.array([row["mask"] for row in rows], np.float32).reshape(-1, length),
        segments=segments,
        duration=column("duration", np.float32),
        names=[row["name"] for row in rows],
        class_names=names,
        repeats=column("repeats", np.int64),
    )


@dataclasses.dataclass(frozen=True)
class _ActivityNet(_Temporal):
    """features: which were prepared. Those of "tsn" are scores of a network that was trained with
    labels of all 200 classes, so no class is novel to them; "c3d" and "i3d" come from elsewhere."""

    features: Features = "c3d"

    length = SNIPPETS
    validation = ANET_VALIDATION
    test = ANET_TEST
    num_classes = 200
    base_videos = 7_721

    @property
    def recipe(self) -> str:
        return f"activitynet13_{self.features}"

    @property
    def width(self) -> int:
        return WIDTHS[self.features]


@dataclasses.dataclass(frozen=True)
class _Thumos(_Temporal):
    """Windows of 256 snippets. The class split is that of later works: the first 16 are base."""

    length = WINDOW
    validation = THUMOS_VALIDATION
    test = THUMOS_TEST
    num_classes = 20
    base_videos = 2_000

    @property
    def recipe(self) -> str:
        return THUMOS.name

    @property
    def width(self) -> int:
        return WIDTHS["i3d"]


@dataclasses.dataclass(frozen=True)
class ActivityNetBase(_ActivityNet, _BaseStage):
    """ActivityNet-1.3 for the base stage: 7,721 videos of 160 classes."""


@dataclasses.dataclass(frozen=True)
class ActivityNetEpisodes(_ActivityNet, _FewShot):
    """ActivityNet-1.3, few-shot: 160 base classes, 20 for validation, 20 for the test."""


@dataclasses.dataclass(frozen=True)
class ThumosBase(_Thumos, _BaseStage):
    """THUMOS14 for the base stage: windows of up to 64 snippets."""

    max_duration: int | None = 64


@dataclasses.dataclass(frozen=True)
class ThumosEpisodes(_Thumos, _FewShot):
    """THUMOS14, few-shot: 16 base classes, 2 for validation, 2 for the test.

    A window is an example of each class in it. Actions are short: the whole window is no answer.
    """

    longer_than: tuple[float, float] = (0.0, 0.0)

    every_class = True
