"""Scene parsing: Cityscapes, CamVid, ADE20K, Pascal Context and COCO-Stuff 10K.

Records hold the encoded image and the encoded label map; label values become classes when a record
is read. See jaxcog.data.segmentation for what an example looks like.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import jax
import numpy as np
from PIL import Image

from jaxcog.data import images
from jaxcog.data.datasets import segmentation_classes as names
from jaxcog.data.prepared import ROOT, Entry, Listing, Prepared, Recipe, Records, open_prepared
from jaxcog.data.segmentation import (
    EvalTransform,
    TrainTransform,
    check_pair,
    decode_label,
    label_table,
    map_labels,
)
from jaxcog.data.types import BadRecord, Splits, Stream
from jaxcog.errors import ConfigError, DataError
from jaxcog.task import DataInfo

_LABEL = ((), np.object_)  # encoded bytes
Pair = tuple[str, Path, Path | Callable[[], bytes]]
"""What to call it, its image, its label (a file, or what makes the encoded bytes)."""

_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


CITYSCAPES_TABLE = label_table(
    {value: i for i, value in enumerate(_CITYSCAPES_IDS)},
    [*(value for value in range(34) if value not in _CITYSCAPES_IDS), 255],
)
"""Ids 0..33 (and 255, which is how -1 is stored) -> the 19 train ids."""
CAMVID_TABLE = label_table({i: i for i in range(11)}, [11, 255])
ADE20K_TABLE = label_table({i + 1: i for i in range(150)}, [0])
PASCAL_CONTEXT_TABLE = label_table({i: i for i in range(60)}, [255])
_STUFF_IDS = [i for i in range(1, 183) if i not in names.COCO_STUFF_UNUSED]
COCO_STUFF_TABLE = label_table(
    {value: i for i, value in enumerate(_STUFF_IDS)}, [0, *names.COCO_STUFF_UNUSED]
)


def cityscapes_train_ids(labels: np.ndarray) -> np.ndarray:
    """Cityscapes ids (-1..33) -> train ids 0..18, everything else 255. uint8, same shape.

    Raises:
      DataError: naming values that are no ids.
    """
    labels = np.where(np.asarray(labels) == -1, 255, labels)
    return map_labels(labels, CITYSCAPES_TABLE)


def _entries(recipe_name: str, pairs: Iterable[Pair], table: np.ndarray) -> Iterator[Entry]:
    """Records of checked pairs; nothing is read before its turn."""
    for name, image, label in pairs:
        try:
            data = label() if callable(label) else label.read_bytes()
            values = decode_label(data)
            with Image.open(image) as opened:
                size = (opened.height, opened.width)
        except (OSError, BadRecord) as error:
            raise DataError(
                f"{recipe_name}: {name} cannot be read ({error}): fetch image and label again"
            ) from error
        check_pair(size, values.shape, f"{recipe_name}: {name}")
        map_labels(values, table, f"{recipe_name}: {label if isinstance(label, Path) else name}")
        yield Entry(name, {"image": image, "label": data})


def _listing(recipe: Recipe, splits: dict[str, list[Pair]], table: np.ndarray) -> Listing:
    for split, pairs in splits.items():
        if not pairs:
            raise recipe.expected(f"there is no image of the split {split}")
        absent = [
            str(path)
            for _, image, label in pairs
            for path in (image, label)
            if isinstance(path, Path) and not path.is_file()
        ]
        if absent:
            raise recipe.expected(f"{len(absent)} files are missing, such as {absent[0]}")
    entries = {split: _entries(recipe.name, pairs, table) for split, pairs in splits.items()}
    return Listing(entries, {"image": "image", "label": _LABEL}, {})


def _read_cityscapes(raw: Path) -> Listing:
    def pairs(split: str, fine: bool = True) -> list[Pair]:
        kind = "gtFine" if fine else "gtCoarse"
        found: list[Pair] = []
        for image in sorted((raw / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
            stem = image.name.removesuffix("_leftImg8bit.png")
            label = raw / kind / split / image.parent.name / f"{stem}_{kind}_labelIds.png"
            found.append((f"{image.parent.name}/{image.name}", image, label))
        return found

    splits = {"train": pairs("train"), "val": pairs("val")}
    coarse = pairs("train_extra", fine=False)
    if coarse:
        splits["train_extra"] = coarse
    return _listing(CITYSCAPES, splits, CITYSCAPES_TABLE)


def _read_camvid(raw: Path) -> Listing:
    def pairs(split: str) -> list[Pair]:
        found = sorted((raw / split).glob("*.png"))
        return [(p.name, p, raw / f"{split}annot" / p.name) for p in found]

    splits = {split: pairs(split) for split in ("train", "val", "test")}
    return _listing(CAMVID, splits, CAMVID_TABLE)


def _read_ade20k(raw: Path) -> Listing:
    def pairs(folder: str) -> list[Pair]:
        found = sorted((raw / "images" / folder).glob("*.jpg"))
        return [(p.name, p, raw / "annotations" / folder / f"{p.stem}.png") for p in found]

    splits = {"train": pairs("training"), "val": pairs("validation")}
    return _listing(ADE20K_RECIPE, splits, ADE20K_TABLE)


def _read_pascal_context(raw: Path) -> Listing:
    def pairs(split: str) -> list[Pair]:
        path = raw / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        if not path.is_file():
            raise PASCAL_CONTEXT.expected(f"{path} is missing")
        stems = path.read_text().split()
        return [
            (
                stem,
                raw / "JPEGImages" / f"{stem}.jpg",
                raw / "SegmentationClassContext" / f"{stem}.png",
            )
            for stem in stems
        ]

    splits = {"train": pairs("train"), "val": pairs("val")}
    return _listing(PASCAL_CONTEXT, splits, PASCAL_CONTEXT_TABLE)


def _stuff_label(path: Path) -> Callable[[], bytes]:
    """Encodes the array `S` of a .mat file as a PNG."""

    def make() -> bytes:
        from scipy.io import loadmat

        try:
            values = np.asarray(loadmat(path)["S"])
        except (OSError, KeyError, ValueError, NotImplementedError, TypeError) as error:
            raise BadRecord(f"{path} holds no label map S ({error})") from error
        if values.max(initial=0) > 255:
            raise BadRecord(f"{path}: label value {values.max()} is above 182")
        buffer = io.BytesIO()
        Image.fromarray(values.astype(np.uint8)).save(buffer, "png")
        return buffer.getvalue()

    return make


def _read_coco_stuff(raw: Path) -> Listing:
    def pairs(split: str) -> list[Pair]:
        path = raw / "imageLists" / f"{split}.txt"
        if not path.is_file():
            raise COCO_STUFF.expected(f"{path} is missing")
        found: list[Pair] = []
        for stem in path.read_text().split():
            image = raw / "images" / f"{stem}.jpg"
            png, mat = (raw / "annotations" / f"{stem}.{end}" for end in ("png", "mat"))
            if mat.is_file() and not png.is_file():
                found.append((stem, image, _stuff_label(mat)))
            else:
                found.append((stem, image, png))
        return found

    return _listing(COCO_STUFF, {s: pairs(s) for s in ("train", "test")}, COCO_STUFF_TABLE)


CITYSCAPES = Recipe(
    "cityscapes",
    "Cityscapes: street scenes, 19 classes",
    "  leftImg8bit/{train,val}/<city>/*_leftImg8bit.png\n"
    "  gtFine/{train,val}/<city>/*_gtFine_labelIds.png\n"
    "  and, for the coarse labels, leftImg8bit/train_extra and gtCoarse/train_extra",
    _read_cityscapes,
)
CAMVID = Recipe(
    "camvid",
    "CamVid (SegNet's version): street scenes, 11 classes",
    "  {train,val,test}/*.png\n  {train,val,test}annot/*.png (class ids)",
    _read_camvid,
)
ADE20K_RECIPE = Recipe(
    "ade20k",
    "ADE20K scene parsing challenge: 150 classes",
    "  images/{training,validation}/*.jpg\n  annotations/{training,validation}/*.png",
    _read_ade20k,
)
PASCAL_CONTEXT = Recipe(
    "pascal_context",
    "Pascal Context: VOC 2010 with 59 classes and background",
    "  JPEGImages/*.jpg\n  SegmentationClassContext/*.png (0 background, 1..59)\n"
    "  ImageSets/SegmentationContext/{train,val}.txt",
    _read_pascal_context,
)
COCO_STUFF = Recipe(
    "coco_stuff",
    "COCO-Stuff 10K: 171 classes of things and stuff",
    "  images/*.jpg\n  annotations/*.mat (or .png: 0 unlabelled, 1..182)\n"
    "  imageLists/{train,test}.txt",
    _read_coco_stuff,
)
RECIPES = (CITYSCAPES, CAMVID, ADE20K_RECIPE, PASCAL_CONTEXT, COCO_STUFF)

_FROM_07 = tuple(round(0.7 + k / 10, 1) for k in range(15))
_FROM_05 = tuple(round(0.5 + k / 10, 1) for k in range(16))


@dataclasses.dataclass(frozen=True)
class _Parsing:
    """Examples: "image" uint8 [H, W, 3], "label" uint8 [H, W] (255 ignored), "window" int32 [4].

    crop: (height, width) of training examples. scales: factors of which one is drawn. canvas:
      (height, width) of evaluation examples; larger images are reduced to fit, smaller ones padded.
    """

    crop: tuple[int, int] = (512, 512)
    scales: tuple[float, ...] = _FROM_05
    canvas: tuple[int, int] = (512, 512)
    root: str = ROOT

    name: ClassVar[str]
    num_train: ClassVar[int]
    classes: ClassVar[tuple[str, ...]]
    colours: ClassVar[tuple[names.Colour, ...]]
    table: ClassVar[np.ndarray]

    def __post_init__(self) -> None:
        for field in ("crop", "canvas"):
            if len(getattr(self, field)) != 2 or min(getattr(self, field)) < 1:
                raise ConfigError(f"data.{field}={getattr(self, field)}: height and width")
        if not self.scales or min(self.scales) <= 0:
            raise ConfigError(f"data.scales={self.scales}: at least one factor, all above 0")

    def describe(self) -> DataInfo:
        """What a task must know, with published sizes; reads nothing."""
        return self._info(self.train_size())

    def train_size(self) -> int:
        """Published number of training images."""
        return self.num_train

    def train_splits(self) -> tuple[str, ...]:
        """Prepared splits that are trained on."""
        return ("train",)

    def test_split(self) -> str:
        """The prepared split that is judged."""
        return "val"

    def load(self) -> Splits:
        """The prepared data. Raises DataError where it was not prepared."""
        prepared = open_prepared(self.name, self.root)
        train = self._records(prepared, *self.train_splits())
        test = self._records(prepared, self.test_split())
        table = tuple(int(value) for value in self.table)
        return Splits(
            train=Stream(train, transform=TrainTransform(self.scales, self.crop, table)),
            evaluation={
                self.test_split(): Stream(test, transform=EvalTransform(self.canvas, table))
            },
            info=self._info(len(train)),
        )

    def _records(self, prepared: Prepared, *splits: str) -> Records:
        missing = [split for split in splits if split not in prepared.sources]
        if missing:
            raise DataError(
                f"the prepared {self.name} has no split {', '.join(missing)}: prepare it again "
                "from a folder that holds it, or choose another data.train_on"
            )
        return prepared.records(*splits, stored=("image", "label"))

    def _info(self, examples: int) -> DataInfo:
        def element(size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
            return {
                "image": jax.ShapeDtypeStruct((*size, 3), np.uint8),
                "label": jax.ShapeDtypeStruct(size, np.uint8),
                "window": jax.ShapeDtypeStruct((4,), np.int32),
            }

        return DataInfo(
            element=element(self.crop),
            eval_element=element(self.canvas),
            num_examples=examples,
            class_names=self.classes,
            facts={
                "colours": self.colours,
                "mean": images.IMAGENET_MEAN,
                "std": images.IMAGENET_STD,
            },
        )


@dataclasses.dataclass(frozen=True)
class Cityscapes(_Parsing):
    """Street scenes of 1024 x 2048; 2975 / 500 finely labelled images, 19 998 coarsely labelled.

    train_on: "train"; "trainval"; "train+": with the coarse labels; "train++": both.
    """

    crop: tuple[int, int] = (769, 769)
    scales: tuple[float, ...] = _FROM_07
    canvas: tuple[int, int] = (1024, 2048)
    train_on: Literal["train", "trainval", "train+", "train++"] = "train"

    name = "cityscapes"
    num_train = 2975
    classes = names.CITYSCAPES
    colours = names.CITYSCAPES_COLOURS
    table = CITYSCAPES_TABLE

    def train_size(self) -> int:
        return {"train": 2975, "trainval": 3475, "train+": 22_973, "train++": 23_472}[self.train_on]

    def train_splits(self) -> tuple[str, ...]:
        fine = ("train", "val") if self.train_on in ("trainval", "train++") else ("train",)
        return (*fine, "train_extra") if self.train_on.endswith("+") else fine


@dataclasses.dataclass(frozen=True)
class CamVid(_Parsing):
    """Street scenes of 360 x 480; 367 / 101 / 233 images; training and validation are joined."""

    crop: tuple[int, int] = (360, 360)
    canvas: tuple[int, int] = (360, 480)
    train_on: Literal["train", "trainval"] = "trainval"

    name = "camvid"
    num_train = 468
    classes = names.CAMVID
    colours = names.CAMVID_COLOURS
    table = CAMVID_TABLE

    def train_size(self) -> int:
        return 468 if self.train_on == "trainval" else 367

    def train_splits(self) -> tuple[str, ...]:
        return ("train", "val") if self.train_on == "trainval" else ("train",)

    def test_split(self) -> str:
        return "test"


@dataclasses.dataclass(frozen=True)
class ADE20K(_Parsing):
    """Scenes of all sizes, 20 210 / 2000; larger ones than the canvas are judged reduced."""

    canvas: tuple[int, int] = (768, 768)

    name = "ade20k"
    num_train = 20_210
    classes = names.ADE20K
    colours = names.ADE20K_COLOURS
    table = ADE20K_TABLE


@dataclasses.dataclass(frozen=True)
class PascalContext(_Parsing):
    """VOC images with whole-scene labels, 4998 / 5105, at most 500 x 500.

    background: 60 classes with the background, or 59 with the background ignored.
    """

    background: bool = True

    name = "pascal_context"
    num_train = 4998
    classes = names.PASCAL_CONTEXT
    colours = names.PASCAL_CONTEXT_COLOURS
    table = PASCAL_CONTEXT_TABLE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.background:
            # Class i is then value i + 1 of the label maps.
            without = label_table({i + 1: i for i in range(59)}, [0, 255])
            object.__setattr__(self, "table", without)
            object.__setattr__(self, "classes", names.PASCAL_CONTEXT[1:])
            object.__setattr__(self, "colours", names.PASCAL_CONTEXT_COLOURS[1:])


@dataclasses.dataclass(frozen=True)
class COCOStuff(_Parsing):
    """COCO-Stuff 10K, 9000 / 1000, at most 640 x 640."""

    crop: tuple[int, int] = (520, 520)
    canvas: tuple[int, int] = (640, 640)

    name = "coco_stuff"
    num_train = 9000
    classes = names.COCO_STUFF
    colours = names.COCO_STUFF_COLOURS
    table = COCO_STUFF_TABLE

    def test_split(self) -> str:
        return "test"
