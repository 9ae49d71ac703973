"""Fine-grained sketches: QMUL-ShoeV2 and QMUL-ChairV2, one photo to be found by its sketch."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from jaxcog.data import images
from jaxcog.data.prepared import ROOT, Entry, Feature, Listing, Recipe, Records, open_prepared
from jaxcog.data.sketch_tasks import (
    Item,
    SketchTasks,
    TaskImages,
    Visits,
    task_element,
    view_element,
)
from jaxcog.data.strokes import load_stroke_pickle, sketch_image
from jaxcog.data.types import Splits, Stream
from jaxcog.errors import ConfigError, DataError
from jaxcog.task import DataInfo

DatasetName = Literal["shoev2", "chairv2"]

_KEY = re.compile(r"/?(train|test)/(.+)_([^_/]+)")
_FEATURES: dict[str, Feature] = {
    "image": "image",
    "photo": ((), np.int32),
    "style": ((), np.int32),
    "label": ((), np.int32),
}
_RELEASED = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Published:
    """Facts of one dataset: its name in file names, and its training photos."""

    title: str
    stem: str
    photos: int


DATASETS: dict[str, Published] = {
    "shoev2": Published("QMUL-ShoeV2: 2000 photos of shoes and their sketches", "ShoeV2", 1800),
    "chairv2": Published("QMUL-ChairV2: 400 photos of chairs and their sketches", "ChairV2", 300),
}


def png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def shown(names: list[str], most: int = 6) -> str:
    """A list of names for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _read(recipe: Recipe, raw: Path) -> Listing:
    """Photos and drawn sketches of both splits; keys are `/<split>/<photo id>_<suffix>`."""
    stem = DATASETS[recipe.name].stem
    base = raw / stem if (raw / stem).is_dir() else raw
    coordinates = base / f"{stem}_Coordinate"
    if not coordinates.is_file():
        raise recipe.expected(f"{coordinates} is missing")
    files = {p.stem: p for p in sorted((base / "photo").glob("*")) if p.suffix in (".png", ".jpg")}
    if not files:
        raise recipe.expected(f"no photos in {base / 'photo'}")
    sketches = load_stroke_pickle(coordinates)
    found: dict[str, list[tuple[str, str, str]]] = {"train": [], "test": []}
    home: dict[str, str] = {}
    for key in sketches:
        match = _KEY.fullmatch(key)
        if match is None:
            raise recipe.expected(
                f'{coordinates}: the sketch "{key}" is not called /train/<photo>_<suffix> or '
                "/test/<photo>_<suffix>"
            )
        split, photo, suffix = match.groups()
        if home.setdefault(photo, split) != split:
            raise recipe.expected(f"{coordinates}: photo {photo} has sketches in train and in test")
        found[split].append((key, photo, suffix))
    _check_photos(recipe, files, home, base)
    order = {photo: i for i, photo in enumerate(files)}
    suffixes = sorted({suffix for rows in found.values() for _, _, suffix in rows})
    styles = _style_numbers(suffixes)

    def photos(split: str) -> Iterator[Entry]:
        for photo, path in files.items():
            if home[photo] == split:
                yield Entry(
                    path.name, {"image": path, "photo": order[photo], "style": -1, "label": 0}
                )

    def drawings(split: str) -> Iterator[Entry]:
        for key, photo, suffix in found[split]:
            record = {"photo": order[photo], "style": styles[suffix], "label": 0}
            yield Entry(key, {"image": png(sketch_image(sketches[key])), **record})

    splits: dict[str, Iterable[Entry]] = {}
    for split in ("train", "test"):
        splits |= {f"{split}_photo": photos(split), f"{split}_sketch": drawings(split)}
    return Listing(splits, _FEATURES, {"photos": list(files), "suffixes": suffixes})


def _style_numbers(suffixes: list[str]) -> dict[str, int]:
    """Suffix -> number: its own where it is one, a number of ours (from a million) otherwise."""
    small = {suffix: int(suffix) for suffix in suffixes if suffix.isdigit() and len(suffix) < 6}
    others = [suffix for suffix in suffixes if suffix not in small]
    return {**small, **{suffix: 1_000_000 + i for i, suffix in enumerate(others)}}


def _check_photos(recipe: Recipe, files: dict[str, Path], home: dict[str, str], base: Path) -> None:
    missing = sorted(home.keys() - files.keys())
    if missing:
        raise recipe.expected(
            f"{len(missing)} photos that were sketched are not in {base / 'photo'}: "
            f"{shown(missing)}; add them"
        )
    alone = [photo for photo in files if photo not in home]
    if alone:
        raise recipe.expected(
            f"{len(alone)} photos without sketches in {base / 'photo'}: {shown(alone)}; add their "
            "sketches to the coordinate file, or move them out of the folder"
        )


@dataclasses.dataclass(frozen=True)
class FineGrained:
    """Training tasks: a photo, another one, and K of its sketches; images [S, S, 3] in [-1, 1].

    Evaluation: "query" and "gallery" are all test sketches and test photos; "validation_query" and
    "validation_gallery" a share of the training photos, kept out of training.

    sketches: K. size: S.
    selection: "released" keeps only the sketches with the suffixes 1, 2 and 3, of the photos that
      have all three, in training AND in the test, as the released code does: its accuracies are not
      comparable with the literature's.
    negatives: "all" draws the other photo from all photos, test photos included (released code).
    validation: share of the training photos; 0: the best checkpoint is chosen on the test set.
    """

    name: DatasetName = "shoev2"
    size: int = 256
    sketches: int = 3
    selection: Literal["all", "released"] = "all"
    negatives: Literal["train", "all"] = "train"
    validation: float = 0.1
    seed: int = 0
    root: str = ROOT

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.sketches <= 3:
            raise ConfigError(
                f"data.size={self.size} must be positive, data.sketches={self.sketches} 1 to 3"
            )
        if not 0 <= self.validation < 1:
            raise ConfigError(f"data.validation={self.validation}: a share, at least 0, below 1")

    def describe(self) -> DataInfo:
        """What a task must know, with published sizes; reads nothing."""
        photos = DATASETS[self.name].photos
        return self._info(photos - round(self.validation * photos))

    def load(self) -> Splits:
        """The prepared data. Raises DataError: not prepared, or too few sketches of a photo."""
        prepared = open_prepared(self.name, self.root)
        records = {
            f"{split}_{kind}": prepared.records(f"{split}_{kind}")
            for split in ("train", "test")
            for kind in ("photo", "sketch")
        }
        if self.selection == "released":
            for split in ("train", "test"):
                both = records[f"{split}_photo"], records[f"{split}_sketch"]
                records[f"{split}_photo"], records[f"{split}_sketch"] = _complete(*both)
        photos, sketches = records["train_photo"], records["train_sketch"]
        order = np.random.default_rng([self.seed, 1]).permutation(len(photos))
        held = np.zeros(len(photos), bool)
        held[order[: round(self.validation * len(photos))]] = True
        test = {"": (records["test_photo"], records["test_sketch"])}
        if held.any():
            kept = np.isin(sketches.columns["photo"], photos.columns["photo"][held])
            test["validation_"] = photos.select(held), sketches.select(kept)
        source = self._tasks(photos.select(~held), sketches, records["test_photo"])
        view = images.single_view(
            images.Resize(self.size), images.Normalise(images.HALF, images.HALF)
        )
        evaluation = {}
        for prefix, (gallery, query) in test.items():
            for part, chosen in (("query", query), ("gallery", gallery)):
                stream = Stream(chosen.only("photo", "label"), transform=view)
                evaluation[f"{prefix}{part}"] = stream
        train = Stream(source, transform=TaskImages(self.size), sampler=Visits)
        return Splits(train, evaluation, self._info(len(source)))

    def _tasks(self, photos: Records, sketches: Records, others: Records) -> SketchTasks:
        released = self.selection == "released"
        items, few = [], []
        for row, photo in enumerate(photos.columns["photo"]):
            drawn = np.flatnonzero(sketches.columns["photo"] == photo)
            drawn = drawn[np.argsort(sketches.columns["style"][drawn], kind="stable")]
            if len(drawn) < self.sketches:
                few.append(f"{photos.name_of(row)} ({len(drawn)})")
            items.append(Item(np.array([row]), drawn))
        if few:
            raise DataError(
                f"{self.name}: {len(few)} training photos have fewer sketches than the "
                f"{self.sketches} that a task needs: {shown(few)}. Add sketches and prepare the "
                "data again, or set data.selection=released to leave incomplete photos out"
            )
        if len(items) < 2:
            raise DataError(
                f"{self.name}: {len(items)} training photos, and a task needs another one as its "
                "negative: lower data.validation, or prepare the complete dataset"
            )
        pool = np.arange(len(photos))
        if self.negatives == "all":
            photos = _joined(photos, others)
            pool = np.arange(len(photos))
        return SketchTasks(
            photos, sketches, items, {0: pool}, self.sketches, self.seed, ordered=released
        )

    def _info(self, examples: int) -> DataInfo:
        return DataInfo(
            element=task_element(self.size, self.sketches),
            num_examples=examples,
            eval_element=view_element(self.size),
            facts={"protocol": "instance", "validation": self.validation > 0},
        )


def _joined(first: Records, second: Records) -> Records:
    """The records of both, one after the other."""
    columns = {
        name: np.concatenate([first.columns[name], second.columns[name]]) for name in first.columns
    }
    return Records(
        [*first.parts, *second.parts],
        np.concatenate([first.part, second.part + len(first.parts)]),
        np.concatenate([first.row, second.row]),
        np.concatenate([first.files, second.files]),
        columns,
        first.stored,
    )


def _complete(photos: Records, sketches: Records) -> tuple[Records, Records]:
    """The photos that have the styles 1, 2 and 3, and these three sketches of each."""
    owner, style = sketches.columns["photo"], sketches.columns["style"]
    known = np.isin(style, _RELEASED)
    whole = [
        photo
        for photo in photos.columns["photo"]
        if set(style[known & (owner == photo)].tolist()) >= set(_RELEASED)
    ]
    kept = photos.select(np.isin(photos.columns["photo"], whole))
    return kept, sketches.select(known & np.isin(owner, whole))


def _recipe(name: str) -> Recipe:
    def read(raw: Path) -> Listing:
        return _read(recipe, raw)

    stem = DATASETS[name].stem
    recipe = Recipe(
        name,
        DATASETS[name].title,
        f"  {stem}/{stem}_Coordinate  pickled dict: /<train or test>/<photo id>_<suffix> ->\n"
        "  (N, 3) of absolute x, y on a canvas of 256 and a pen flag (1: the stroke ends)\n"
        f"  {stem}/photo/<photo id>.png",
        read,
    )
    return recipe


RECIPES = tuple(_recipe(name) for name in DATASETS)
