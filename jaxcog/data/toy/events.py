"""Generated videos with one event each, for few-shot localization that no prototype can do alone.

The snippets of an event are its class's vector, shifted by what is different about this video, and
noise; the shift lies in directions that all classes share, and is larger than what tells an event
from the background. So a prototype from other videos of the class finds little, and a method that
looks at the query video can find out what its shift is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxcog.data.few_shot import Pool, Protocol, episode_element, episode_splits
from jaxcog.data.types import ArraySource, Splits, Stream
from jaxcog.errors import ConfigError
from jaxcog.losses.temporal_targets import bmn_targets
from jaxcog.task import DataInfo

_BACKGROUNDS = _SHARED = 6
_VARIATION, _NOISE = 1.2, 0.8


@dataclasses.dataclass(frozen=True)
class _Videos:
    """features [N, T, C] float32; label [N]; start, end [N] snippets."""

    features: np.ndarray
    label: np.ndarray
    start: np.ndarray
    end: np.ndarray


def _render(
    random: np.random.Generator, label: np.ndarray, classes: int, length: int, channels: int
) -> _Videos:
    """One video for each entry of `label`; the classes are drawn first."""
    backgrounds = random.standard_normal((_BACKGROUNDS, channels))
    shared = random.standard_normal((_SHARED, channels))
    vectors = random.standard_normal((classes, channels))
    count = len(label)
    size = np.floor(length * random.uniform(0.1, 0.35, count)).astype(int)
    size = np.maximum(size, max(1, int(np.ceil(0.1 * length))))
    start = random.integers(0, length - size + 1)
    shift = _VARIATION * random.standard_normal((count, _SHARED)) @ shared
    event = (vectors[label] + shift)[:, None]
    time = np.arange(length)
    on = (time >= start[:, None]) & (time < (start + size)[:, None])
    other = backgrounds[random.integers(0, _BACKGROUNDS, (count, length))]
    noise = _NOISE * random.standard_normal((count, length, channels))
    features = np.where(on[..., None], event, other) + noise
    return _Videos(features.astype(np.float32), label, start, start + size)


@dataclasses.dataclass(frozen=True)
class EventEpisodes:
    """Episodes of generated videos; the evaluation's classes are never seen in training.

    Records as `jaxcog.data.few_shot` makes them; a snippet is a second. "novel" judges every video
    of the novel classes as a query.

    embedded: the videos hold raw features, which the task's frozen network turns into so many
      numbers a snippet; None: they are embeddings already.
    non_negative: what is below 0 is cut to 0, as in embeddings of a network that ends in ReLU.
    """

    shots: int = 1
    length: int = 40
    channels: int = 32
    embedded: int | None = None
    base_classes: int = 30
    novel_classes: int = 10
    videos_per_class: int = 40
    queries_per_class: int = 20
    episodes: int = 960
    repeats: int = 1
    non_negative: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        least = min(self.videos_per_class, self.queries_per_class)
        if not 1 <= self.shots < least:
            raise ConfigError(
                f"data.shots={self.shots}: at least 1, and fewer than the {least} videos of a class"
            )
        if self.length < 10:
            raise ConfigError(f"data.length={self.length}: events need at least 10 snippets")

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        width = self.embedded or self.channels
        raw = {} if self.embedded is None else {"snippets": (self.length, self.channels)}
        return DataInfo(
            element=episode_element(self.shots, self.length, width),
            num_examples=self.episodes,
            class_names=self._names(),
            eval_element=episode_element(self.shots, self.length, width, instances=1),
            facts=raw,
        )

    def load(self) -> Splits:
        """The generated videos, in memory."""
        base = np.repeat(np.arange(self.base_classes), self.videos_per_class)
        novel = np.repeat(np.arange(self.novel_classes), self.queries_per_class)
        label = np.concatenate([base, self.base_classes + novel])
        random = np.random.default_rng(self.seed)
        classes = self.base_classes + self.novel_classes
        videos = _render(random, label, classes, self.length, self.channels)
        if self.non_negative:
            videos = dataclasses.replace(videos, features=np.maximum(videos.features, 0))
        pool = self._pool(videos)
        return episode_splits(
            videos.features,
            pool.select(np.arange(len(base))),
            {"novel": pool.select(np.arange(len(base), len(label)))},
            Protocol(self.shots, self.episodes, self.repeats, self.seed),
            self.describe(),
            frozen=self.embedded is not None,
        )

    def _pool(self, videos: _Videos) -> Pool:
        time, count = np.arange(self.length), len(videos.label)
        on = (time >= videos.start[:, None]) & (time < videos.end[:, None])
        return Pool(
            video=np.arange(count),
            label=videos.label,
            mask=on.astype(np.float32),
            segments=np.stack([videos.start, videos.end], -1)[:, None].astype(np.float32),
            duration=np.full(count, self.length, np.float32),
            names=[f"video {i}" for i in range(count)],
            class_names=self._names(),
            repeats=np.ones(count, int),
        )

    def _names(self) -> tuple[str, ...]:
        return tuple(f"event {i}" for i in range(self.base_classes + self.novel_classes))


@dataclasses.dataclass(frozen=True)
class EventVideos:
    """The same videos for the base stage: see `base_element`."""

    length: int = 16
    channels: int = 16
    max_duration: int | None = None
    classes: int = 8
    videos: int = 64
    seed: int = 0

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        return DataInfo(
            base_element(self.length, self.channels, self.max_duration or self.length), self.videos
        )

    def load(self) -> Splits:
        """The generated videos, in memory; a quarter as many again are kept for validation."""
        count = self.videos + max(self.videos // 4, 1)
        random = np.random.default_rng(self.seed)
        label = np.arange(count) % self.classes
        videos = _render(random, label, self.classes, self.length, self.channels)
        durations = self.max_duration or self.length
        targets = [
            bmn_targets(np.array([[start, end]]), self.length, self.length, durations)
            for start, end in zip(videos.start, videos.end, strict=True)
        ]
        arrays = {"features": videos.features} | {
            name: np.stack([getattr(target, name) for target in targets])
            for name in ("iou_map", "start", "end")
        }
        train, held = ({name: value[rows] for name, value in arrays.items()}
                       for rows in (slice(self.videos), slice(self.videos, None)))  # fmt: skip
        validation = {"validation": Stream(ArraySource(held))}
        return Splits(Stream(ArraySource(train)), validation, self.describe())


def base_element(length: int, channels: int, durations: int) -> dict[str, Any]:
    """Shapes of one example of the base stage."""
    shapes = {
        "features": (length, channels),
        "iou_map": (durations, length),
        "start": (length,),
        "end": (length,),
    }
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
