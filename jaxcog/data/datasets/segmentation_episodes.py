"""Few-shot segmentation: PASCAL-5i (VOC 2012 with SBD) and COCO-20i (COCO 2014).

Records hold the encoded image, the encoded mask of class ids, and the pixels of every class, from
which episodes are drawn (jaxcog.data.mask_episodes).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

from jaxcog.data import images
from jaxcog.data.datasets import segmentation_folds as classes
from jaxcog.data.datasets.segmentation_lists import RECIPES
from jaxcog.data.mask_episodes import (
    BaseTransform,
    EpisodeIndex,
    EpisodeTransform,
    EvalEpisodes,
    TrainEpisodes,
    usable_images,
)
from jaxcog.data.prepared import ROOT, Prepared, Records, open_prepared
from jaxcog.data.samplers import Uniform
from jaxcog.data.types import Splits, Stream
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo

__all__ = ["RECIPES", "BaseClasses", "Episodes"]

IGNORE = 255
Benchmark = Literal["pascal5i", "coco20i", "coco20i_full"]
_TRAIN_IMAGES = {"pascal5i": 5953, "coco20i": 82_081, "coco20i_full": 82_081}
_LARGEST = {"pascal5i": 500, "coco20i": 640, "coco20i_full": 640}
"""The longest side of any image."""
_STORED = ("image", "label")


@dataclasses.dataclass(frozen=True)
class _Folded:
    """A fold of a benchmark on square images.

    benchmark: "coco20i_full" has whole instance masks; the published protocol fills the first
      polygon of each instance only.
    fold: 0..3; its novel classes are kept for testing.
    interleaved: COCO: every fourth class is novel (published), or 20 in a row.
    size: side of the images, 8 k + 1.
    """

    benchmark: Benchmark = "pascal5i"
    fold: int = 0
    interleaved: bool = True
    size: int = 473
    root: str = ROOT

    def __post_init__(self) -> None:
        classes.check_fold(self.fold)
        if self.size < 9 or self.size % 8 != 1:
            raise ConfigError(
                f"data.size={self.size}: 8 k + 1, such as 417 or 473, so that corners align"
            )

    @property
    def names(self) -> tuple[str, ...]:
        return classes.PASCAL if self.benchmark == "pascal5i" else classes.COCO

    @property
    def folds(self) -> classes.Folds:
        """(base class ids, novel class ids)."""
        if self.benchmark == "pascal5i":
            return classes.pascal5i_folds(self.fold)
        return classes.coco20i_folds(self.fold, self.interleaved)

    def named(self, ids: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(self.names[i - 1] for i in ids)


@dataclasses.dataclass(frozen=True)
class BaseClasses(_Folded):
    """Stage 1: images of the base classes, with the novel ones and void ignored.

    Examples: "image" float32 [S, S, 3], "label" uint8 [S, S]: 0 background, then the base classes
    in order, 255 ignored. Training images are mirrored both ways; the validation list is judged.
    """

    def describe(self) -> DataInfo:
        """What a task must know, with the size of the whole list; reads nothing."""
        return self._info(_TRAIN_IMAGES[self.benchmark])

    def load(self) -> Splits:
        """The prepared data. Raises DataError where it was not prepared."""
        prepared = open_prepared(self.benchmark, self.root)
        table = tuple(int(value) for value in self._table())

        def stream(split: str, flip: bool) -> Stream:
            records = prepared.records(split, stored=_STORED)
            keep, _ = usable_images(records.columns["pixels"], self.folds[0])
            transform = BaseTransform(table, self.size, flip)
            return Stream(records.only().select(np.flatnonzero(keep)), transform=transform)

        train = stream("train", flip=True)
        info = self._info(len(train.source))
        return Splits(train, {"base": stream("val", flip=False)}, info)

    def _table(self) -> np.ndarray:
        table = np.full(256, IGNORE, np.uint8)
        table[[0, *self.folds[0]]] = np.arange(len(self.folds[0]) + 1)
        return table

    def _info(self, examples: int) -> DataInfo:
        element = {
            "image": jax.ShapeDtypeStruct((self.size, self.size, 3), np.float32),
            "label": jax.ShapeDtypeStruct((self.size, self.size), np.uint8),
        }
        return DataInfo(
            element=element,
            num_examples=examples,
            class_names=("background", *self.named(self.folds[0])),
            facts=_facts(),
        )


@dataclasses.dataclass(frozen=True)
class Episodes(_Folded):
    """Stage 2: one class, `shot` supports and a query an episode; see EpisodeTransform.

    Training: base classes of the training list, at most `epoch_episodes` an epoch. Evaluation
    splits, both of the validation list: "novel", and "base" (held-out images of base classes). The
    run's classes are the base ones; facts["classes"] has the names of both splits.

    test_on: "pascal": novel classes are PASCAL's that COCO's base classes do not have (COCO to
      PASCAL); released_names: see `coco_to_pascal_classes`.
    episodes, runs: of "novel"; the published protocol has 1000 and 5. base_episodes: of "base".
    original: judge at the resolution of the annotations; published: on the S x S squares.
    seed: of the evaluation episodes.
    """

    shot: int = 1
    epoch_episodes: int = 6000
    episodes: int = 1000
    runs: int = 1
    base_episodes: int = 1000
    test_on: Literal["same", "pascal"] = "same"
    released_names: bool = False
    original: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shot", "epoch_episodes", "episodes", "runs", "base_episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name}={getattr(self, name)}: at least 1")
        if self.test_on == "pascal" and (self.benchmark == "pascal5i" or not self.interleaved):
            raise ConfigError(
                'data.test_on="pascal" is for data.benchmark="coco20i" with interleaved folds'
            )

    @property
    def novel(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """(ids, names) of the classes that are tested."""
        if self.test_on == "pascal":
            ids = classes.coco_to_pascal_classes(self.fold, self.released_names)
            return ids, tuple(classes.PASCAL[i - 1] for i in ids)
        return self.folds[1], self.named(self.folds[1])

    def describe(self) -> DataInfo:
        """What a task must know, with the size of the whole list; reads nothing."""
        return self._info(_TRAIN_IMAGES[self.benchmark])

    def load(self) -> Splits:
        """The prepared data.

        Raises:
          DataError: it was not prepared, or a class has too few images.
        """
        prepared = open_prepared(self.benchmark, self.root)
        tested = prepared
        if self.test_on == "pascal":
            tested = open_prepared("pascal5i", self.root)
        base_ids = self.folds[0]
        base = (base_ids, self.named(base_ids))

        def drawn(
            records: Records, chosen: tuple, where: str, flip: bool = False, original: int = 0
        ) -> tuple[EpisodeIndex, np.ndarray, EpisodeTransform]:
            index = EpisodeIndex.of(records.columns["pixels"], *chosen)
            index.check(self.shot, where)
            transform = EpisodeTransform(
                records.only(), index, self.shot, self.size, flip, self.seed, original
            )
            return index, records.files, transform

        side = _LARGEST[self.benchmark] if self.original else 0

        def evaluation(data: Prepared, chosen: tuple, where: str, count: int, runs: int) -> Stream:
            records = data.records("val", stored=_STORED)
            index, files, transform = drawn(records, chosen, where, original=side)
            return Stream(EvalEpisodes(index, files, count, runs), transform=transform)

        records = prepared.records("train", stored=_STORED)
        title = f"{self.benchmark}, fold {self.fold}"
        index, files, transform = drawn(records, base, f"{title}, training", flip=True)
        train = Stream(
            TrainEpisodes(index, files),
            transform=transform,
            sampler=functools.partial(Uniform, limit=self.epoch_episodes),
        )
        where = f"{title}, validation"
        splits = {
            "novel": evaluation(tested, self.novel, where, self.episodes, self.runs),
            "base": evaluation(prepared, base, where, self.base_episodes, 1),
        }
        return Splits(train, splits, self._info(len(index.queries)))

    def _info(self, examples: int) -> DataInfo:
        side = (self.size, self.size)
        element = episode_element(self.shot, (*side, 3), side)
        number, pair = (jax.ShapeDtypeStruct(shape, np.int32) for shape in ((), (2,)))
        judged = {**element, "episode": number, "run": number}
        if self.original:
            square = jax.ShapeDtypeStruct((_LARGEST[self.benchmark],) * 2, np.uint8)
            judged |= {"original_mask": square, "original_size": pair, "content": pair}
        base = self.named(self.folds[0])
        return DataInfo(
            element=element,
            eval_element=judged,
            num_examples=min(examples, self.epoch_episodes),
            class_names=base,
            facts={**_facts(), "classes": {"novel": self.novel[1], "base": base}},
        )


def episode_element(
    shot: int, image: tuple[int, ...], mask: tuple[int, ...]
) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shapes of one episode; images float32, masks uint8 0, 1 or 255."""
    return {
        "support": jax.ShapeDtypeStruct((shot, *image), np.float32),
        "support_mask": jax.ShapeDtypeStruct((shot, *mask), np.uint8),
        "query": jax.ShapeDtypeStruct(image, np.float32),
        "query_mask": jax.ShapeDtypeStruct(mask, np.uint8),
        "class": jax.ShapeDtypeStruct((), np.int32),
    }


def _facts() -> dict[str, object]:
    return {"mean": images.IMAGENET_MEAN, "std": images.IMAGENET_STD}
