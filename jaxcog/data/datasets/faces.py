"""Faces by age: FFHQ-Aging, and any folder of age classes in the layout of DLFS and LATS.

Records hold the encoded image and the encoded face parsing (one label a pixel). What is no face is
greyed out when a record is read.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from PIL import Image

from jaxcog.data import images
from jaxcog.data.pairs import Endless, PairSource, check_classes
from jaxcog.data.prepared import ROOT, Entry, Feature, Listing, Recipe, open_prepared
from jaxcog.data.segmentation import decode_label
from jaxcog.data.types import BadRecord, Record, Splits, Stream
from jaxcog.errors import ConfigError, DataError
from jaxcog.task import DataInfo

AGE_GROUPS = (
    "0-2",
    "3-6",
    "7-9",
    "10-14",
    "15-19",
    "20-29",
    "30-39",
    "40-49",
    "50-69",
    "70-120",
)
"""Of the label file."""

CLASSES = ("0-2", "3-6", "7-9", "15-19", "30-39", "50-69")
"""The six that DLFS is trained on."""

BACKGROUND = (0, 14, 15, 16, 18)
"""Parsing labels that are greyed out: background, hat, ear-ring, necklace, cloth."""

GREY = 128
_UPPER_BOUNDS = (2, 6, 9, 14, 19, 29, 39, 49, 69, 120)
_IMAGES = (".png", ".jpg", ".jpeg")
_COLUMNS = (
    "image_number",
    "age_group",
    "age_group_confidence",
    "gender",
    "gender_confidence",
    "head_pitch",
    "head_roll",
    "head_yaw",
    "left_eye_occluded",
    "right_eye_occluded",
    "glasses",
)

Gender = Literal["males", "females"]


def mask_background(
    image: np.ndarray,
    parsing: np.ndarray,
    labels: tuple[int, ...] = BACKGROUND,
    value: int = GREY,
) -> np.ndarray:
    """uint8 [H, W, 3] with the pixels of some parsing labels [H, W] set to `value`.

    Raises:
      DataError: image and parsing have different sizes.
    """
    if image.shape[:2] != parsing.shape:
        raise DataError(
            f"an image of {image.shape[0]}x{image.shape[1]} and a parsing of "
            f"{'x'.join(map(str, parsing.shape))}: parse the aligned image itself"
        )
    return np.where(np.isin(parsing, labels)[..., None], np.uint8(value), image)


def age_index(name: str) -> int:
    """The age class (0 to 9) that a folder's name stands for, by its last integer.

    Raises:
      DataError: the name holds no integer.
    """
    numbers = re.findall(r"\d+", name)
    if not numbers:
        raise DataError(f'the class "{name}" names no age: its last integer is its highest age')
    last = int(numbers[-1])
    return next((i for i, bound in enumerate(_UPPER_BOUNDS) if last <= bound), 9)


def keep(row: Mapping[str, str]) -> bool:
    """Whether a row of the label file is used: sure of age and gender, frontal, eyes visible."""
    number = {name: float(row[name] or -1) for name in _COLUMNS if name not in _WORDS}
    left, right = number["left_eye_occluded"], number["right_eye_occluded"]
    return (
        number["age_group_confidence"] > 0.6
        and number["gender_confidence"] > 0.66
        and abs(number["head_pitch"]) < 30
        and abs(number["head_yaw"]) < 40
        and ((left < 90 and right < 50) or (left < 50 and right < 90))
        and row["glasses"] != "Dark"
    )


_WORDS = ("age_group", "gender", "glasses")


def destination(row: Mapping[str, str], train_split: int = 69000) -> str | None:
    """`<gender>/<phase><age group>/<number>.png` of one row; None where it is left out."""
    if not keep(row):
        return None
    number = int(float(row["image_number"]))
    gender = "males" if row["gender"] == "male" else "females"
    phase = "train" if number < train_split else "test"
    return f"{gender}/{phase}{row['age_group']}/{number:05d}.png"


def prune_ffhq_aging(path: Path, train_split: int = 69000) -> Iterator[tuple[int, str]]:
    """(image number, destination) of every row of ffhq_aging_labels.csv that is used.

    Raises:
      DataError: the file is missing or lacks a column, or a row holds no number where one must be.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: it comes with FFHQ-Aging")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise DataError(f"{path} has no column {', '.join(missing)}: fetch it again")
        for line, row in enumerate(reader, 2):
            try:
                found = destination(row, train_split)
            except ValueError as error:
                raise DataError(f"{path}, line {line}: {error}: fetch it again") from error
            if found is not None:
                yield int(float(row["image_number"])), found


def _read_ffhq(raw: Path) -> Listing:
    splits: dict[str, list[Entry]] = {}
    classes = {name: i for i, name in enumerate(AGE_GROUPS)}
    skipped = []
    for number, name in prune_ffhq_aging(raw / "ffhq_aging_labels.csv"):
        group = raw / "ffhq_aging256x256" / f"{number // 1000 * 1000:05d}"
        image = group / f"{number:05d}.png"
        parsing = group / "parsings" / f"{number:05d}.png"
        if not parsing.is_file():
            skipped.append(f"{name} (no parsing)")
            continue
        gender, folder, _ = name.split("/")
        phase = "train" if folder.startswith("train") else "test"
        label = classes[folder.removeprefix(phase)]
        record = {"image": image, "parsing": _bytes(parsing, name), "label": label}
        splits.setdefault(f"{gender}_{phase}", []).append(Entry(name, record))
    if not splits:
        raise FFHQ_AGING.expected("no row of the label file has an image and a face parsing")
    return Listing(splits, _FEATURES, {"class_names": list(AGE_GROUPS)}, tuple(skipped))


_FEATURES: dict[str, Feature] = {
    "image": "image",
    "parsing": ((), np.object_),
    "label": ((), np.int32),
}


def _bytes(path: Path, name: str) -> bytes:
    try:
        data = path.read_bytes()
        decode_label(data)
    except (OSError, BadRecord) as error:
        raise DataError(f"{name}: {path} is no face parsing ({error}): parse it again") from error
    return data


def _read_folders(raw: Path) -> Listing:
    """`<phase><class>/<image>` and `<phase><class>/parsings/<stem>.png`."""
    found: dict[str, list[tuple[str, Path]]] = {"train": [], "test": []}
    for folder in sorted(path for path in raw.iterdir() if path.is_dir()):
        for phase, folders in found.items():
            if folder.name.startswith(phase):
                folders.append((folder.name.removeprefix(phase), folder))
    if not found["train"]:
        raise FACES.expected(f"{raw} has no folder train<class>")
    names = sorted({name for name, _ in found["train"]}, key=lambda n: (age_index(n), n))
    splits = {}
    for phase, folders in found.items():
        entries = [
            entry
            for name, folder in folders
            if name in names
            for entry in _folder_entries(folder, names.index(name))
        ]
        if entries:
            splits[phase] = entries
    return Listing(splits, _FEATURES, {"class_names": names})


def _folder_entries(folder: Path, label: int) -> Iterator[Entry]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGES)
    if not files:
        raise DataError(f"{folder} holds no image: add some, or remove the folder")
    for file in files:
        parsing = folder / "parsings" / f"{file.stem}.png"
        if not parsing.is_file():
            raise DataError(
                f"{file} has no face parsing: {parsing} is missing. Make one with any face parser "
                "(CelebAMask-HQ's 19 labels), or leave the image out"
            )
        name = f"{folder.name}/{file.name}"
        yield Entry(name, {"image": file, "parsing": _bytes(parsing, name), "label": label})


FFHQ_AGING = Recipe(
    "ffhq_aging",
    "FFHQ-Aging: 70 000 faces in ten age groups, by gender, pruned as for DLFS",
    "  ffhq_aging256x256/<GGGGG>/<NNNNN>.png\n"
    "  ffhq_aging256x256/<GGGGG>/parsings/<NNNNN>.png\n  ffhq_aging_labels.csv",
    _read_ffhq,
)
FACES = Recipe(
    "faces",
    "faces in folders of age classes",
    "  train<class>/*.png and train<class>/parsings/*.png; the same with test<class>;\n"
    "  a class's name ends with its highest age, such as train30-39",
    _read_folders,
)
RECIPES = (FFHQ_AGING, FACES)


@dataclasses.dataclass(frozen=True)
class FaceTransform:
    """Encoded image(s) and parsing(s) -> "image" float32 [..., size, size, 3], "label" int32.

    Greyed out, resized to `size` without smoothing, flipped with probability one half if `flip`,
    and scaled to [-1, 1].
    """

    size: int
    flip: bool
    labels: tuple[int, ...] = BACKGROUND

    def __call__(self, record: Record, random: np.random.Generator) -> Record:
        if not isinstance(record["image"], tuple):
            return {"image": self._one(record, random), "label": np.int32(record["label"])}
        parts = [{name: value[i] for name, value in record.items()} for i in range(2)]
        made = np.stack([self._one(part, random) for part in parts])
        return {"image": made, "label": np.array([p["label"] for p in parts], np.int32)}

    def _one(self, record: Record, random: np.random.Generator) -> np.ndarray:
        image, parsing = images.decode(record["image"]), decode_label(record["parsing"])
        try:
            image = mask_background(image, parsing, self.labels)
        except DataError as error:
            raise BadRecord(str(error)) from error
        if image.shape[:2] != (self.size, self.size):
            picture = Image.fromarray(image)
            image = np.asarray(picture.resize((self.size,) * 2, Image.Resampling.NEAREST))
        if self.flip and random.random() < 0.5:
            image = image[:, ::-1]
        return images.normalise(image, images.HALF, images.HALF)


@dataclasses.dataclass(frozen=True)
class FFHQAging:
    """FFHQ-Aging of one gender, as pairs of two age classes.

    Training: "image" float32 [2, size, size, 3] in [-1, 1], "label" int32 [2] (position in
    `classes`). Evaluation: single images. masked: parsing labels that are greyed out.
    """

    gender: Gender = "males"
    classes: tuple[str, ...] = CLASSES
    size: int = 256
    masked: tuple[int, ...] = BACKGROUND
    seed: int = 0
    root: str = ROOT

    def __post_init__(self) -> None:
        if self.gender not in ("males", "females"):
            raise ConfigError(f'data.gender="{self.gender}": males or females')
        unknown = [name for name in self.classes if name not in AGE_GROUPS]
        if unknown or len(set(self.classes)) < 2:
            raise ConfigError(
                f"data.classes={self.classes}: at least two of {', '.join(AGE_GROUPS)}"
            )
        if self.size < 32 or self.size % 4:
            raise ConfigError(f"data.size={self.size}: at least 32, and divisible by 4")

    def describe(self) -> DataInfo:
        """What a task must know. 14 000 training images is an estimate; reads nothing."""
        return face_info(self.size, 7_000, self.classes)

    def load(self) -> Splits:
        """The prepared data. Raises DataError where it was not prepared or a class is empty."""
        return face_splits(
            "ffhq_aging",
            self.root,
            {"train": f"{self.gender}_train", "test": f"{self.gender}_test"},
            self.classes,
            self.size,
            self.masked,
            self.seed,
        )


@dataclasses.dataclass(frozen=True)
class FaceFolders:
    """Any folders of age classes, prepared as "faces"; examples as `FFHQAging` has them.

    classes: in this order; they are stored in every checkpoint and compared.
    """

    classes: tuple[str, ...] = CLASSES
    size: int = 256
    masked: tuple[int, ...] = BACKGROUND
    seed: int = 0
    root: str = ROOT

    def describe(self) -> DataInfo:
        """What a task must know, with a guess of the number of images; reads nothing."""
        return face_info(self.size, 7_000, self.classes)

    def load(self) -> Splits:
        """The prepared data. Raises DataError where it was not prepared or a class is empty."""
        parts = {"train": "train", "test": "test"}
        return face_splits(
            "faces", self.root, parts, self.classes, self.size, self.masked, self.seed
        )


def face_info(size: int, pairs: int, classes: tuple[str, ...]) -> DataInfo:
    """DataInfo of pairs of faces for training and single ones for evaluation."""
    return DataInfo(
        element={
            "image": jax.ShapeDtypeStruct((2, size, size, 3), np.float32),
            "label": jax.ShapeDtypeStruct((2,), np.int32),
        },
        eval_element={
            "image": jax.ShapeDtypeStruct((size, size, 3), np.float32),
            "label": jax.ShapeDtypeStruct((), np.int32),
        },
        num_examples=pairs,
        class_names=classes,
    )


def face_splits(
    name: str,
    root: str,
    parts: Mapping[str, str],
    classes: tuple[str, ...],
    size: int,
    masked: tuple[int, ...],
    seed: int,
) -> Splits:
    """Pairs of the split parts["train"], single images of parts["test"]."""
    prepared = open_prepared(name, root)
    known = list(prepared.metadata["class_names"])
    absent = [one for one in classes if one not in known]
    if absent:
        raise DataError(
            f"the prepared {name} has no class {', '.join(absent)}; it has {', '.join(known)}: "
            "name some of these in data.classes"
        )
    places = np.full(len(known), -1)
    places[[known.index(one) for one in classes]] = np.arange(len(classes))
    streams = {}
    for part, split in parts.items():
        if split not in prepared.sources:
            raise DataError(f"the prepared {name} has no split {split}: prepare it again")
        records = prepared.records(split, stored=("image", "parsing"))
        label = places[records.columns["label"]]
        records = records.select(label >= 0)
        label = label[label >= 0].astype(np.int32)
        check_classes(label, classes)
        records = records.with_columns(label=label)
        if part == "train":
            pairs = PairSource(records, label, max(round(len(records) / 2), 1), seed)
            transform = FaceTransform(size, True, masked)
            streams[part] = Stream(pairs, transform, sampler=Endless)
        else:
            streams[part] = Stream(records, FaceTransform(size, False, masked))
    info = face_info(size, len(streams["train"].source), classes)
    return Splits(train=streams["train"], evaluation={"test": streams["test"]}, info=info)
