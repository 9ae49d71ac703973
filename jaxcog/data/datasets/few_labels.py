"""Few labels and domain adaptation: a labelled and an unlabelled stream, two views of each image.

Semi-supervised domain generalisation on PACS and Office-Home, multi-source adaptation on PACS,
VisDA-17; splits, views and batches of MixStyle's journal version (IJCV 2023).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from jaxcog.data import images, randaugment
from jaxcog.data.datasets.domains import (
    FEATURES,
    PACS,
    LeaveOneOut,
    OfficeHome,
    class_names,
    few_of_each_class,
    read_list,
)
from jaxcog.data.prepared import Entry, Listing, Prepared, Recipe, Records, open_prepared
from jaxcog.data.types import Splits, Stream
from jaxcog.errors import DataError
from jaxcog.task import DataInfo


def read_split(path: Path, files: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `files` that an official split file lists as labelled and as unlabelled.

    The file is JSON, {"train_x": [[path, label, domain], ...], "train_u": ...}. Paths may begin
    with other folders than ours, and class folders with a number ("000_Alarm_Clock").

    Raises DataError where it cannot be read or lists an image that the data does not have.
    """

    def plain(file: str) -> list[str]:
        return [re.sub(r"^0\d\d_", "", part) for part in Path(file).parts]

    rows = {tuple(plain(file)): row for row, file in enumerate(files)}
    try:
        lists = json.loads(path.expanduser().read_text())
        wanted = [[entry[0] for entry in lists[name]] for name in ("train_x", "train_u")]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f'{path} is no split file ({error}); expected JSON with "train_x" and "train_u", lists '
            "of [path, label, domain]"
        ) from error

    def row_of(file: str) -> int:
        parts = plain(file)
        for first in range(len(parts)):
            if tuple(parts[first:]) in rows:
                return rows[tuple(parts[first:])]
        raise DataError(
            f"{path} lists {file}, which the training data does not have: is it the split of "
            "another target domain? Files are called, for example, "
            f"{files[0] if files else 'nothing'}"
        )

    labelled, unlabelled = (np.array([row_of(file) for file in part], int) for part in wanted)
    return labelled, unlabelled


@dataclasses.dataclass(frozen=True)
class TwoStreams(LeaveOneOut):
    """Streams "labelled" and "unlabelled", each with records "weak" and "strong" (float32
    [S, S, 3] normalised, two views of the same image), "label" and "domain" int32. Unlabelled
    labels are there to measure with. Evaluation records have "image" instead of the views.
    """

    epoch_stream: ClassVar[str] = "unlabelled"

    def views(self) -> images.Views:
        """weak: the usual training transform. strong: RandAugment and Cutout."""
        strong = (
            images.Resize(self.size),
            images.Flip(),
            randaugment.RandAugmentFixMatch(),
            randaugment.Cutout(16),
            self.normalise(),
        )
        return images.Views((("weak", self.train_steps()), ("strong", strong)))

    def stream(self, records: Records) -> Stream:
        """A training stream of some records."""
        return Stream(records, transform=self.views(), sampler=self._sampler(records))

    def splits(self, prepared: Prepared, labelled: Records, unlabelled: Records) -> Splits:
        """All streams of a run."""
        classes = tuple(prepared.metadata["class_names"])
        streams = {"labelled": labelled, "unlabelled": unlabelled}
        return Splits(
            train={name: self.stream(records) for name, records in streams.items()},
            evaluation={"test": self.target_stream(prepared), **self.known_streams(prepared)},
            info=self._info(len(streams[self.epoch_stream]), classes),
            epoch_stream=self.epoch_stream,
        )

    def _info(self, examples: int, classes: tuple[str, ...]) -> DataInfo:
        plain = super()._info(examples, classes)
        rest = {name: value for name, value in plain.element.items() if name != "image"}
        views = {"weak": plain.element["image"], "strong": plain.element["image"], **rest}
        return dataclasses.replace(
            plain,
            element={"labelled": views, "unlabelled": views},
            eval_element=plain.element,
        )


@dataclasses.dataclass(frozen=True)
class FewLabels(TwoStreams):
    """Semi-supervised domain generalisation: few images of the source domains are labelled.

    per_class: labelled images of each class in each source domain, drawn by `split_seed`.
    split_file: an official split instead (splits_ssdg/<target>_nlab<N>_seed<seed>.json).
    all_unlabelled: the labelled images are in the unlabelled stream too.
    """

    sampler: Literal["uniform", "every_domain"] = "every_domain"
    per_class: int = 10
    split_file: str | None = None
    all_unlabelled: bool = False

    def describe(self) -> DataInfo:
        """What a task must know, with published sizes; reads nothing."""
        examples = sum(self.published[name] for name in self.source_domains)
        labelled = self.per_class * len(self.classes) * len(self.source_domains)
        return self._info(examples - labelled, self.classes)

    def load(self) -> Splits:
        """The prepared data. Raises DataError where it was not prepared."""
        prepared = open_prepared(self.name, self.root)
        records = self.source_records(prepared, self.parts[0])
        if self.split_file is None:
            columns = records.columns["label"], records.columns["domain"]
            labelled, rest = few_of_each_class(*columns, self.per_class, self.split_seed)
        else:
            files = [records.name_of(i) for i in range(len(records))]
            labelled, rest = read_split(Path(self.split_file), files)
        unlabelled = records if self.all_unlabelled else records.select(rest)
        return self.splits(prepared, records.select(labelled), unlabelled)


@dataclasses.dataclass(frozen=True)
class PACSFewLabels(FewLabels, PACS):
    """PACS with 10 or 5 labels a class and source domain (210 or 105 in all)."""

    target: Literal["art_painting", "cartoon", "photo", "sketch"] = "sketch"


@dataclasses.dataclass(frozen=True)
class OfficeHomeFewLabels(FewLabels, OfficeHome):
    """Office-Home with 10 or 5 labels a class and source domain (1950 or 975 in all)."""

    target: Literal["art", "clipart", "product", "real_world"] = "art"


@dataclasses.dataclass(frozen=True)
class Adaptation(TwoStreams):
    """Domain adaptation: labelled source domains, the target's images without their labels.

    The unlabelled stream is the target's `unlabelled_parts`; testing is on its `target_parts`.
    """

    unlabelled_parts: ClassVar[tuple[str, ...]]

    def describe(self) -> DataInfo:
        """What a task must know, with published sizes; reads nothing."""
        domains = {"labelled": self.source_domains, "unlabelled": (self.target,)}
        counted = domains[self.epoch_stream]
        return self._info(sum(self.published[name] for name in counted), self.classes)

    def load(self) -> Splits:
        """The prepared data. Raises DataError where it was not prepared."""
        prepared = open_prepared(self.name, self.root)
        unlabelled = self.target_records(prepared, self.unlabelled_parts)
        return self.splits(prepared, self.training_records(prepared), unlabelled)


@dataclasses.dataclass(frozen=True)
class PACSAdaptation(Adaptation, PACS):
    """Three labelled domains of PACS and the images of the fourth, tested on its crossval part."""

    target: Literal["art_painting", "cartoon", "photo", "sketch"] = "sketch"

    unlabelled_parts: ClassVar[tuple[str, ...]] = ("train",)
    target_parts: ClassVar[tuple[str, ...]] = ("crossval",)


@dataclasses.dataclass(frozen=True)
class VisDA17(Adaptation):
    """Rendered objects to photographs, 12 classes (Peng et al., 2017)."""

    target: Literal["synthetic", "real"] = "real"

    name = "visda17"
    domains = ("synthetic", "real")
    parts = ("all", "all")
    unlabelled_parts: ClassVar[tuple[str, ...]] = ("all",)
    target_parts = ("all",)
    epoch_stream: ClassVar[str] = "labelled"
    published: ClassVar[Mapping[str, int]] = {"synthetic": 152_397, "real": 55_388}
    classes = tuple(f"class {i}" for i in range(12))

    def train_steps(self) -> tuple[images.Step, ...]:
        """Resized, mirrored, normalised."""
        return images.Resize(self.size), images.Flip(), self.normalise()


def _read_visda17(raw: Path) -> Listing:
    splits, lists = {}, {}
    for domain, folder in (("synthetic", "train"), ("real", "validation")):
        path = raw / folder / "image_list.txt"
        lists[path] = read_list(_VISDA17, path, first_label=0, classes=12)
        splits[f"{domain}_all"] = [
            Entry(f"{folder}/{name}", {"image": raw / folder / name, "label": label})
            for name, label in lists[path]
        ]
    return Listing(splits, FEATURES, {"class_names": class_names(_VISDA17, lists)})


_VISDA17 = Recipe(
    VisDA17.name,
    "VisDA-17: 12 classes, synthetic and real",
    "  train/image_list.txt, validation/image_list.txt  lines `<class>/<file> <label 0..11>`,\n"
    "  paths from the folder of the list",
    _read_visda17,
)
RECIPES = (_VISDA17,)
