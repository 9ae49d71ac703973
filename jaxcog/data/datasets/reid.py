"""Person re-identification: Market-1501 and DukeMTMC-reID, trained on one and searched in another.

Layouts and protocol of torchreid, with which MixStyle's results were made (ICLR 2021).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from jaxcog.data import images
from jaxcog.data.prepared import ROOT, Entry, Feature, Listing, Recipe, Records, open_prepared
from jaxcog.data.samplers import PK, RandomDomain
from jaxcog.data.types import MakeSampler, Splits, Stream
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo

DatasetName = Literal["market1501", "dukemtmc_reid"]

_FOLDERS = {
    "train": "bounding_box_train",
    "query": "query",
    "gallery": "bounding_box_test",
}
_FEATURES: dict[str, Feature] = {
    "image": "image",
    "person": ((), np.int32),
    "camera": ((), np.int32),
}
_FILE = re.compile(r"(-?\d+)_c(\d+)[s_].*\.jpg", re.IGNORECASE)
_JUNK = -1


@dataclasses.dataclass(frozen=True)
class Published:
    """Facts of one dataset: its folder below --raw, training images and persons, cameras."""

    title: str
    folder: str
    images: int
    persons: int
    cameras: int


DATASETS: dict[str, Published] = {
    "market1501": Published("Market-1501", "Market-1501-v15.09.15", 12936, 751, 6),
    "dukemtmc_reid": Published("DukeMTMC-reID", "DukeMTMC-reID", 16522, 702, 8),
}


def _read(recipe: Recipe, raw: Path) -> Listing:
    """Images of three folders. Person -1 (junk) is left out; person 0 only distracts, and stays."""
    published = DATASETS[recipe.name]
    base = raw / published.folder if (raw / published.folder).is_dir() else raw
    splits = {name: list(_entries(recipe, base / folder)) for name, folder in _FOLDERS.items()}
    cameras = {int(e.record["camera"]) for entries in splits.values() for e in entries}
    if max(cameras) >= published.cameras:
        raise recipe.expected(
            f"{base} has images of camera {max(cameras) + 1}, the dataset has {published.cameras}"
        )
    return Listing(splits, _FEATURES, {"cameras": published.cameras})


def _entries(recipe: Recipe, folder: Path) -> Iterator[Entry]:
    if not folder.is_dir():
        raise recipe.expected(f"{folder} is missing")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() == ".jpg")
    found = False
    for file in files:
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise recipe.expected(
                f"{file} is not called <person>_c<camera>...jpg: remove it or give it its name"
            )
        if int(match[1]) == _JUNK:
            continue
        found = True
        record = {"image": file, "person": int(match[1]), "camera": int(match[2]) - 1}
        yield Entry(f"{folder.name}/{file.name}", record)
    if not found:
        raise recipe.expected(f"{folder} holds no image of a person")


@dataclasses.dataclass(frozen=True)
class CrossReID:
    """Training on one dataset, searching in another.

    Records: "image" float32 [H, W, 3] normalised; "person" int32, in training from 0; "camera"
    int32 from 0. Evaluation splits "query" and "gallery".

    train, test: the datasets; the same one twice is the usual supervised task.
    sampler: "uniform"; "cameras": `cameras_per_batch` blocks, each of one camera (cross-domain
      mixing, where cameras are the domains); "persons": blocks of `per_person` images of a person.
    """

    train: DatasetName = "market1501"
    test: DatasetName = "dukemtmc_reid"
    sampler: Literal["uniform", "cameras", "persons"] = "uniform"
    cameras_per_batch: int = 2
    per_person: int = 4
    height: int = 256
    width: int = 128
    root: str = ROOT

    def __post_init__(self) -> None:
        for field in ("train", "test"):
            name = getattr(self, field)
            if name not in DATASETS:
                raise ConfigError(f'data.{field}="{name}": one of {", ".join(DATASETS)}')
        for field in ("cameras_per_batch", "per_person", "height", "width"):
            if getattr(self, field) < 1:
                raise ConfigError(f"data.{field}={getattr(self, field)}: at least 1")

    def describe(self) -> DataInfo:
        """What a task must know, with published sizes; reads nothing."""
        published = DATASETS[self.train]
        return self._info(published.images, published.persons)

    def load(self) -> Splits:
        """The prepared data. Raises DataError where it was not prepared."""
        known = open_prepared(self.train, self.root).records("train")
        persons, label = np.unique(known.columns["person"], return_inverse=True)
        known = known.with_columns(person=label.astype(np.int32))
        prepared = open_prepared(self.test, self.root)
        test = images.single_view(images.Resize(self.height, self.width), images.Normalise())
        return Splits(
            train=Stream(known, transform=self.train_transform(), sampler=self._sampler(known)),
            evaluation={
                name: Stream(_persons_first(prepared.records(name)), transform=test)
                for name in ("query", "gallery")
            },
            info=self._info(len(known), len(persons)),
        )

    def train_transform(self) -> images.Views:
        """Resized, mirrored, brightness and contrast changed, normalised."""
        return images.single_view(
            images.Resize(self.height, self.width),
            images.Flip(),
            images.ColourJitter(brightness=0.2, contrast=0.15),
            images.Normalise(),
        )

    def _sampler(self, records: Records) -> MakeSampler | None:
        if self.sampler == "cameras":
            cameras = records.columns["camera"]
            return functools.partial(
                RandomDomain, domains=cameras, per_batch=self.cameras_per_batch
            )
        if self.sampler == "persons":
            persons = records.columns["person"]
            return functools.partial(PK, identities=persons, per_identity=self.per_person)
        return None

    def _info(self, examples: int, persons: int) -> DataInfo:
        number = jax.ShapeDtypeStruct((), np.int32)
        image = jax.ShapeDtypeStruct((self.height, self.width, 3), np.float32)
        return DataInfo(
            element={"image": image, "person": number, "camera": number},
            num_examples=examples,
            class_names=tuple(f"person {i}" for i in range(persons)),
            facts={"mean": images.IMAGENET_MEAN, "std": images.IMAGENET_STD},
        )


def _persons_first(records: Records) -> Records:
    """Distractors (person 0) last, so that the first records, which reports show, have matches."""
    return records.select(np.argsort(records.columns["person"] == 0, kind="stable"))


def _recipe(name: str, published: Published) -> Recipe:
    def read(raw: Path) -> Listing:
        return _read(_BY_NAME[name], raw)

    return Recipe(
        name,
        f"{published.title}: person re-identification",
        f"  [{published.folder}/]{{{','.join(_FOLDERS.values())}}}/<person>_c<camera>...jpg",
        read,
    )


RECIPES = tuple(_recipe(name, published) for name, published in DATASETS.items())
_BY_NAME = {recipe.name: recipe for recipe in RECIPES}
