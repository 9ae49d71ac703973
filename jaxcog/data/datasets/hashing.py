"""Image retrieval by hash codes: ImageNet100, NUS-WIDE, MS-COCO and CIFAR-10.

Splits are "query" and "database" besides training; lists, protocols and transforms are those of
OrthoHash (NeurIPS 2021).
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from PIL import Image

from jaxcog.data import images
from jaxcog.data.prepared import ROOT, Entry, Feature, Listing, Recipe, Records, open_prepared
from jaxcog.data.types import Splits, Stream
from jaxcog.errors import CheckpointError, DataError
from jaxcog.interop.read import read_object
from jaxcog.task import DataInfo

_LISTS = {"train": "train.txt", "query": "test.txt", "database": "database.txt"}
_CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def _read_lines(recipe: Recipe, path: Path) -> tuple[list[str], np.ndarray]:
    """Lines `<image path> <l_1> ... <l_C>`: (paths, int [N, C]); one column is a class index."""
    if not path.is_file():
        raise recipe.expected(f"{path} is missing")
    names: list[str] = []
    rows: list[list[int]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if not words:
            continue
        width = len(rows[0]) if rows else len(words) - 1
        digits = all(word.isdigit() for word in words[1:])
        if width < 1 or len(words) - 1 != width or not digits:
            raise recipe.expected(
                f"{path}, line {number}: {line[:80]!r} is not an image path and {width} labels"
            )
        names.append(words[0])
        rows.append([int(word) for word in words[1:]])
    if not names:
        raise recipe.expected(f"{path} is empty")
    labels = np.array(rows)
    if labels.shape[1] > 1 and labels.max() > 1:
        raise recipe.expected(f"{path}: labels in {labels.shape[1]} columns must be 0 or 1")
    return names, labels


def _image_base(recipe: Recipe, raw: Path, name: str) -> Path:
    """The folder from which listed paths start: lists may be written for a folder above."""
    for base in (raw, *raw.resolve().parents[:3], Path()):
        if (base / name).is_file():
            return base
    raise recipe.expected(f"{name}, the first listed image, is neither in {raw} nor above it")


def _read_lists(recipe: Recipe, raw: Path, single: bool) -> Listing:
    """single: each image has one class, given as one-hot columns or as an index."""
    lists = {split: _read_lines(recipe, raw / file) for split, file in _LISTS.items()}
    widths = {split: labels.shape[1] for split, (_, labels) in lists.items()}
    if len(set(widths.values())) != 1:
        raise recipe.expected(f"the lists differ in the number of labels: {widths}")
    base = _image_base(recipe, raw, lists["train"][0][0])
    width = widths["train"]
    splits: dict[str, list[Entry]] = {}
    for split, (names, labels) in lists.items():
        if width > 1 and (single or split == "train"):
            wrong = labels.sum(1) != 1 if single else labels.sum(1) == 0
            if wrong.any():
                found = int(labels[wrong][0].sum())
                raise recipe.expected(
                    f"{raw / _LISTS[split]}: {names[int(np.argmax(wrong))]} has {found} labels"
                )
        values = labels[:, 0] if width == 1 else labels.argmax(1) if single else labels
        splits[split] = [
            Entry(name, {"image": base / name, "label": value})
            for name, value in zip(names, values, strict=True)
        ]
    train = lists["train"][1]
    present = np.bincount(train[:, 0]) if width == 1 else train.sum(0)
    if (present == 0).any():
        raise recipe.expected(f"{raw / 'train.txt'}: class {int(np.argmin(present))} has no image")
    for split, (names, labels) in lists.items():
        beyond = np.flatnonzero(labels[:, 0] >= len(present))
        if width == 1 and len(beyond):
            raise recipe.expected(
                f"{raw / _LISTS[split]}: {names[beyond[0]]} has the label {labels[beyond[0], 0]}, "
                f"train.txt has the classes 0 to {len(present) - 1}"
            )
    shape = () if single or width == 1 else (width,)
    features: dict[str, Feature] = {
        "image": "image",
        "label": (shape, np.uint8 if shape else np.int32),
    }
    names = [f"class {i}" for i in range(len(present))]
    return Listing(splits, features, {"class_names": names})


def _typed(records: Records) -> Records:
    """Labels as tasks take them: class indices int32, multi-hot float32."""
    label = records.columns["label"]
    return records.with_columns(label=label.astype(np.float32 if label.ndim == 2 else np.int32))


@dataclasses.dataclass(frozen=True)
class _Retrieval:
    """Records: "image" float32 [S, S, 3] normalised; "label" int32, or float32 [C] multi-hot."""

    size: int = 224
    root: str = ROOT

    name: ClassVar[str]
    num_train: ClassVar[int]
    class_names: ClassVar[tuple[str, ...]]
    multi_label: ClassVar[bool] = False

    def describe(self) -> DataInfo:
        """What a task must know, with published sizes; reads nothing."""
        return self._info(self.num_train, self.class_names)

    def load(self) -> Splits:
        """The prepared data. Raises DataError where it was not prepared."""
        prepared = open_prepared(self.name, self.root)
        train, query, database = (
            _typed(prepared.records(split)) for split in ("train", "query", "database")
        )
        return self._splits(train, query, database, tuple(prepared.metadata["class_names"]))

    def train_transform(self) -> images.Views:
        """A random part of random size, mirrored half of the time, normalised."""
        crop = images.RandomResizedCrop(self.size)
        return images.single_view(crop, images.Flip(), images.Normalise())

    def test_transform(self) -> images.Views:
        """Shorter edge to S, centre crop (for images that are not square yet), normalised."""
        resize, crop = images.ResizeShorter(self.size), images.CentreCrop(self.size)
        return images.single_view(resize, crop, images.Normalise())

    def _splits(
        self, train: Records, query: Records, database: Records, names: tuple[str, ...]
    ) -> Splits:
        test = self.test_transform()
        return Splits(
            train=Stream(train, transform=self.train_transform()),
            evaluation={
                "query": Stream(query, transform=test),
                "database": Stream(database, transform=test),
            },
            info=self._info(len(train), names),
        )

    def _info(self, examples: int, names: tuple[str, ...]) -> DataInfo:
        label = jax.ShapeDtypeStruct((), np.int32)
        if self.multi_label:
            label = jax.ShapeDtypeStruct((len(names),), np.float32)
        image = jax.ShapeDtypeStruct((self.size, self.size, 3), np.float32)
        return DataInfo(
            element={"image": image, "label": label},
            num_examples=examples,
            class_names=names,
            facts={"mean": images.IMAGENET_MEAN, "std": images.IMAGENET_STD},
        )


@dataclasses.dataclass(frozen=True)
class ImageNet100(_Retrieval):
    """100 classes of ImageNet, as chosen for HashNet: 13,000 / 5,000 / about 128,000 images."""

    name = "imagenet100"
    num_train = 13_000
    class_names = tuple(f"class {i}" for i in range(100))


@dataclasses.dataclass(frozen=True)
class NUSWide(_Retrieval):
    """The 21 most frequent concepts of NUS-WIDE: 10,500 / 2,100 / about 193,000 images."""

    name = "nuswide"
    num_train = 10_500
    class_names = tuple(f"class {i}" for i in range(21))
    multi_label = True

    @property
    def _larger(self) -> int:
        return round(self.size * 256 / 224)

    def train_transform(self) -> images.Views:
        """Shorter edge to 256/224 S, random crop, mirrored half of the time, normalised."""
        resize, crop = images.ResizeShorter(self._larger), images.RandomCrop(self.size)
        return images.single_view(resize, crop, images.Flip(), images.Normalise())

    def test_transform(self) -> images.Views:
        """Shorter edge to 256/224 S, centre crop, normalised."""
        resize, crop = images.ResizeShorter(self._larger), images.CentreCrop(self.size)
        return images.single_view(resize, crop, images.Normalise())


@dataclasses.dataclass(frozen=True)
class COCO(_Retrieval):
    """MS-COCO with 80 object classes, HashNet's lists: 10,000 / 5,000 / about 117,000 images.

    augmentation: "paper" takes a part of random size; the official "code" resizes the whole image
      and crops at random.
    """

    augmentation: Literal["paper", "code"] = "paper"

    name = "coco"
    num_train = 10_000
    class_names = tuple(f"class {i}" for i in range(80))
    multi_label = True

    def train_transform(self) -> images.Views:
        """See `augmentation`; mirrored half of the time, normalised."""
        if self.augmentation == "paper":
            return super().train_transform()
        resize, crop = images.ResizeShorter(self.size), images.RandomCrop(self.size)
        return images.single_view(resize, crop, images.Flip(), images.Normalise())


@dataclasses.dataclass(frozen=True)
class CIFAR10(_Retrieval):
    """CIFAR-10 resized to S, under one of two retrieval protocols.

    protocol: 1: of each class 100 queries, the rest database, of which the first 500 are for
      training. 2: of each class 1000 queries, the rest database and training.
    seed: of the permutation of each class.
    """

    protocol: Literal[1, 2] = 1
    seed: int = 0

    name = "cifar10"
    num_train = 5_000
    class_names = _CIFAR_CLASSES

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        return self._info(5_000 if self.protocol == 1 else 50_000, _CIFAR_CLASSES)

    def load(self) -> Splits:
        """The prepared data. Raises DataError where it was not prepared."""
        everything = _typed(open_prepared(self.name, self.root).records("train", "test"))
        train, query, database = cifar10_split(
            everything.columns["label"], protocol=self.protocol, seed=self.seed
        )
        select = everything.select
        return self._splits(select(train), select(query), select(database), _CIFAR_CLASSES)

    def train_transform(self) -> images.Views:
        """Resized, mirrored half of the time, a little jitter of brightness and contrast."""
        jitter = images.ColourJitter(brightness=0.05, contrast=0.05)
        resize = images.Resize(self.size)
        return images.single_view(resize, images.Flip(), jitter, images.Normalise())

    def test_transform(self) -> images.Views:
        """Resized and normalised."""
        return images.single_view(images.Resize(self.size), images.Normalise())


def cifar10_split(
    labels: np.ndarray, *, protocol: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(training, query, database) indices, int64, class by class. `labels`: [N], all 60,000."""
    random = np.random.default_rng(seed)
    queries, learn = (100, 500) if protocol == 1 else (1000, None)
    parts = []
    for label in np.unique(labels):
        order = random.permutation(np.flatnonzero(labels == label))
        if len(order) <= queries:
            raise DataError(
                f"cifar10: class {label} has {len(order)} images, protocol {protocol} takes "
                f"{queries} of them as queries; prepare the complete dataset"
            )
        rest = order[queries:]
        parts.append((rest[:learn], order[:queries], rest))
    train, query, database = (np.concatenate(part) for part in zip(*parts, strict=True))
    return train, query, database


def _read_cifar10(raw: Path) -> Listing:
    names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    for folder in (raw, raw / "cifar-10-batches-py", raw / "cifar-10-batches-bin"):
        for suffix, read in (("", _cifar_pickle), (".bin", _cifar_binary)):
            if (folder / f"test_batch{suffix}").is_file():
                files = {
                    split: [folder / f"{name}{suffix}" for name in batch]
                    for split, batch in names.items()
                }
                missing = [f for batch in files.values() for f in batch if not f.is_file()]
                if missing:
                    raise _CIFAR10.expected(f"{missing[0]} is missing")
                splits = {
                    split: list(_cifar_entries(batch, read)) for split, batch in files.items()
                }
                features: Mapping[str, Any] = {"image": "image", "label": ((), np.int32)}
                return Listing(splits, features, {"class_names": list(_CIFAR_CLASSES)})
    raise _CIFAR10.expected(f"no test_batch or test_batch.bin in {raw}")


def _cifar_entries(files: Sequence[Path], read: Any) -> Iterator[Entry]:
    for file in files:
        try:
            pixels, labels = read(file)
            pixels = np.asarray(pixels, np.uint8).reshape(len(labels), 3, 32, 32)
        except (CheckpointError, KeyError, TypeError, ValueError) as error:
            raise _CIFAR10.expected(f"{file} is damaged ({error})") from error
        wrong = [label for label in labels if not 0 <= label < 10]
        if wrong or len(labels) == 0:
            raise _CIFAR10.expected(f"{file} is damaged (labels {wrong[:3]})")
        for row, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG", compress_level=1)
            yield Entry(f"{file.name}[{row}]", {"image": buffer.getvalue(), "label": int(label)})


def _cifar_pickle(file: Path) -> tuple[np.ndarray, Iterable[int]]:
    batch = read_object(file)
    batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
    return batch["data"], batch["labels"]


def _cifar_binary(file: Path) -> tuple[np.ndarray, Iterable[int]]:
    rows = np.fromfile(file, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return rows[:, 1:], rows[:, 0]


def _list_recipe(name: str, title: str, labels: str, *, single: bool) -> Recipe:
    def read(raw: Path) -> Listing:
        return _read_lists(recipe, raw, single)

    recipe = Recipe(
        name,
        title,
        f"  train.txt, test.txt (the queries), database.txt  lines `<image path> {labels}`,\n"
        "  paths from --raw or from a folder above it",
        read,
    )
    return recipe


_CIFAR10 = Recipe(
    CIFAR10.name,
    "CIFAR-10: 60,000 images of 10 classes",
    "  data_batch_1 ... data_batch_5, test_batch  (the Python version),\n"
    "  or the same with .bin (the binary version)",
    _read_cifar10,
)
RECIPES = (
    _list_recipe(ImageNet100.name, "ImageNet100", "<l_1> ... <l_100>", single=True),
    _list_recipe(NUSWide.name, "NUS-WIDE, 21 concepts", "<l_1> ... <l_21>", single=False),
    _list_recipe(COCO.name, "MS-COCO, 80 classes", "<l_1> ... <l_80>", single=False),
    _CIFAR10,
)
