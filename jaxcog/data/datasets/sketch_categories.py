"""Sketches of categories: Sketchy and TU-Berlin with their extended photos.

Classes are seen in training: this is not zero-shot retrieval, and its numbers do not compare with
that one's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from jaxcog.data import images
from jaxcog.data.datasets.sketches import png, shown
from jaxcog.data.prepared import ROOT, Entry, Feature, Listing, Recipe, Records, open_prepared
from jaxcog.data.sketch_tasks import (
    Item,
    SketchTasks,
    TaskImages,
    Visits,
    task_element,
    view_element,
)
from jaxcog.data.strokes import read_strokes, sketch_image
from jaxcog.data.types import Splits, Stream
from jaxcog.errors import ConfigError, DataError
from jaxcog.task import DataInfo

DatasetName = Literal["sketchy", "tuberlin"]

_IMAGES = (".png", ".jpg", ".jpeg", ".JPEG")
_FEATURES: dict[str, Feature] = {"image": "image", "photo": ((), np.int32), "label": ((), np.int32)}
_TX = "tx_000000000000"


@dataclasses.dataclass(frozen=True)
class Published:
    """Facts of one dataset: classes, training tasks, query sketches of a class."""

    title: str
    classes: int
    tasks: int
    queries: int


DATASETS: dict[str, Published] = {
    "sketchy": Published(
        "Sketchy: 12,500 photos of 125 classes, 75,471 sketches; extended by 60,502 photos",
        125,
        12_500,
        50,
    ),
    "tuberlin": Published(
        "TU-Berlin: 20,000 sketches of 250 classes; extended by 204,489 photos", 250, 5_750, 10
    ),
}


def _folder(recipe: Recipe, candidates: list[Path], what: str) -> Path:
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise recipe.expected(f"no folder of {what} ({candidates[0]})")


def _files(folder: Path, suffixes: tuple[str, ...] = _IMAGES) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in suffixes)


def _classes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _same_classes(recipe: Recipe, sketches: Path, photos: Path) -> list[str]:
    names, others = _classes(sketches), _classes(photos)
    odd = sorted(set(names) ^ set(others))
    if odd or not names:
        raise recipe.expected(
            f"{sketches} and {photos} must have the same classes; one of them lacks {shown(odd)}"
        )
    return names


def _read_sketchy(raw: Path) -> Listing:
    places = ("sketchy_rendered_256x256", "rendered_256x256/256x256", "256x256", ".")
    base = _folder(_SKETCHY, [raw / place / "sketch" for place in places], "sketches").parent
    photos, sketches = base / "photo" / _TX, base / "sketch" / _TX
    for folder in (photos, sketches):
        if not folder.is_dir():
            raise _SKETCHY.expected(f"{folder} is missing")
    names = _same_classes(_SKETCHY, sketches, photos)
    found: dict[str, list[Entry]] = {"photo": [], "sketch": []}
    for label, name in enumerate(names):
        own = {path.stem: path for path in _files(photos / name)}
        numbers = {stem: len(found["photo"]) + i for i, stem in enumerate(own)}
        found["photo"] += [
            Entry(f"{name}/{path.name}", {"image": path, "photo": numbers[stem], "label": label})
            for stem, path in own.items()
        ]
        drawn = set()
        for path in _files(sketches / name):
            stem = path.stem.rpartition("-")[0]
            if stem not in own:
                raise _SKETCHY.expected(f"{path}: there is no photo {stem} of class {name}")
            drawn.add(stem)
            record = {"image": path, "photo": numbers[stem], "label": label}
            found["sketch"].append(Entry(f"{name}/{path.name}", record))
        alone = [f"{name}/{stem}" for stem in own if stem not in drawn]
        if alone:
            raise _SKETCHY.expected(
                f"{len(alone)} photos without sketches: {shown(alone)}; add their sketches, or "
                "move them to the extended photos"
            )
    return _listing(_SKETCHY, raw, found, names, ("EXTEND_image_sketchy*", "extended"))


def _read_tuberlin(raw: Path) -> Listing:
    sketches = _folder(_TUBERLIN, [raw / n for n in ("sketches", "png", "svg")], "sketches")
    photos = _folder(_TUBERLIN, [raw / n for n in ("photos", "images", "ImageResized")], "photos")
    names = _same_classes(_TUBERLIN, sketches, photos)
    found: dict[str, list[Entry]] = {"photo": [], "sketch": []}
    for label, name in enumerate(names):
        for kind, folder, suffixes in (
            ("photo", photos, _IMAGES),
            ("sketch", sketches, (*_IMAGES, ".svg")),
        ):
            files = _files(folder / name, suffixes)
            if not files:
                raise _TUBERLIN.expected(
                    f"class {name} has no {kind}: add some, or remove the class"
                )
            found[kind] += [
                Entry(f"{name}/{path.name}", {"image": _drawn(path), "photo": -1, "label": label})
                for path in files
            ]
    return _listing(_TUBERLIN, raw, found, names, ())


def _drawn(path: Path) -> Path | bytes:
    """An image file as it is; an SVG drawn."""
    return png(sketch_image(read_strokes(path))) if path.suffix == ".svg" else path


def _listing(
    recipe: Recipe,
    raw: Path,
    found: dict[str, list[Entry]],
    names: list[str],
    extended: tuple[str, ...],
) -> Listing:
    """With the extended photos, where there is a folder of them."""
    folders = [folder for pattern in extended for folder in sorted(raw.glob(pattern))]
    splits = dict(found)
    if folders:
        more = list(_extended(recipe, folders[0], names))
        splits["extended"] = more
    return Listing(splits, _FEATURES, {"class_names": names})


def _extended(recipe: Recipe, folder: Path, names: list[str]) -> Iterator[Entry]:
    label = {name: i for i, name in enumerate(names)}
    for name in _classes(folder):
        if name not in label:
            raise recipe.expected(f"{folder / name}: there is no class {name} among the sketches")
        for path in _files(folder / name):
            record = {"image": path, "photo": -1, "label": label[name]}
            yield Entry(f"{folder.name}/{name}/{path.name}", record)


@dataclasses.dataclass(frozen=True)
class Categories:
    """Training tasks: a photo, one of another class, and K sketches; images [S, S, 3] in [-1, 1].

    Sketchy: the sketches of one photo. TU-Berlin has no pairs: any photo and sketches of a class.
    Evaluation: "query", some sketches of each class that training never sees (one seeded split), in
    "gallery", all photos, those of the extension among them.

    extended: whether the extension must be there. queries: of each class; None: the published 50
    (Sketchy) or 10 (TU-Berlin).
    """

    name: DatasetName = "sketchy"
    size: int = 256
    sketches: int = 3
    extended: bool = True
    queries: int | None = None
    seed: int = 0
    root: str = ROOT

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.sketches <= 3:
            raise ConfigError(
                f"data.size={self.size} must be positive, data.sketches={self.sketches} 1 to 3"
            )
        if self.queries is not None and self.queries < 1:
            raise ConfigError(f"data.queries={self.queries}: at least 1, or None")

    def describe(self) -> DataInfo:
        """What a task must know, with published sizes; reads nothing."""
        published = DATASETS[self.name]
        names = tuple(f"class {i}" for i in range(published.classes))
        return self._info(published.tasks, names)

    def load(self) -> Splits:
        """The prepared data. Raises DataError: not prepared, no extension, too few sketches."""
        prepared = open_prepared(self.name, self.root)
        names = tuple(prepared.metadata["class_names"])
        photos, sketches = prepared.records("photo"), prepared.records("sketch")
        gallery = photos
        if self.extended and self.name == "sketchy":
            if "extended" not in prepared.sources:
                raise DataError(
                    "sketchy was prepared without its extended photos: put them in "
                    "EXTEND_image_sketchy_ver1/<class>/ below --raw and prepare it again, or set "
                    "data.extended=False"
                )
            gallery = prepared.records("photo", "extended")
        train, query = self._split(sketches, names)
        source = self._tasks(photos, sketches.select(train), names)
        view = images.single_view(
            images.Resize(self.size), images.Normalise(images.HALF, images.HALF)
        )
        evaluation = {
            "query": Stream(sketches.select(query).only("photo", "label"), transform=view),
            "gallery": Stream(gallery.only("photo", "label"), transform=view),
        }
        stream = Stream(source, transform=TaskImages(self.size), sampler=Visits)
        return Splits(stream, evaluation, self._info(len(source), names))

    def _split(self, sketches: Records, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """(training, query) rows, class by class."""
        random = np.random.default_rng([self.seed, 1])
        count = DATASETS[self.name].queries if self.queries is None else self.queries
        train, query = [], []
        for label, name in enumerate(names):
            order = random.permutation(np.flatnonzero(sketches.columns["label"] == label))
            if len(order) < count + self.sketches:
                raise DataError(
                    f"{self.name}: class {name} has {len(order)} sketches, and {count} queries "
                    f"with a task of {self.sketches} need {count + self.sketches}: lower "
                    "data.queries, or add sketches"
                )
            query.append(np.sort(order[:count]))
            train.append(np.sort(order[count:]))
        return np.concatenate(train), np.concatenate(query)

    def _tasks(self, photos: Records, sketches: Records, names: tuple[str, ...]) -> SketchTasks:
        labels = photos.columns["label"]
        if len(names) < 2:
            raise DataError(
                f"{self.name}: a task needs a photo of another class; there is only one"
            )
        pools = {label: np.flatnonzero(labels != label) for label in range(len(names))}
        items: list[Item] = []
        if self.name == "sketchy":
            order = np.argsort(sketches.columns["photo"], kind="stable")
            owners = sketches.columns["photo"][order]
            for row, photo in enumerate(photos.columns["photo"]):
                first, last = np.searchsorted(owners, [photo, photo + 1])
                # The queries were taken out, so a photo may have too few left.
                if last - first >= self.sketches:
                    items.append(Item(np.array([row]), order[first:last], int(labels[row])))
        else:
            for label in range(len(names)):
                drawn = np.flatnonzero(sketches.columns["label"] == label)
                own = Item(np.flatnonzero(labels == label), drawn, label)
                items += [own] * (len(drawn) // self.sketches)
        if not items:
            raise DataError(
                f"{self.name}: no photo has {self.sketches} training sketches: lower data.queries "
                "or data.sketches"
            )
        return SketchTasks(photos, sketches, items, pools, self.sketches, self.seed)

    def _info(self, examples: int, names: tuple[str, ...]) -> DataInfo:
        return DataInfo(
            element=task_element(self.size, self.sketches),
            num_examples=examples,
            class_names=names,
            eval_element=view_element(self.size),
            facts={"protocol": "category"},
        )


_SKETCHY = Recipe(
    "sketchy",
    DATASETS["sketchy"].title,
    f"  sketchy_rendered_256x256/photo/{_TX}/<class>/<photo>.jpg\n"
    f"  sketchy_rendered_256x256/sketch/{_TX}/<class>/<photo>-<k>.png\n"
    "  EXTEND_image_sketchy_ver1/<class>/*.jpg  (the extension, optional)",
    _read_sketchy,
)
_TUBERLIN = Recipe(
    "tuberlin",
    DATASETS["tuberlin"].title,
    "  sketches/<class>/*.png (or .svg)\n  photos/<class>/*.jpg",
    _read_tuberlin,
)
RECIPES = (_SKETCHY, _TUBERLIN)
