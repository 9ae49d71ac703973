"""Domain generalisation: PACS, Office-Home, Digits-DG, VLCS and miniDomainNet.

Train on all domains but one, test on the one left out. Layouts, splits and transforms are those of
Dassl, with which MixStyle's results were made (ICLR 2021).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from jaxcog.data import images
from jaxcog.data.prepared import (
    ROOT,
    Entry,
    Feature,
    Listing,
    Prepared,
    Recipe,
    Records,
    open_prepared,
)
from jaxcog.data.samplers import RandomDomain, SeqDomain
from jaxcog.data.types import MakeSampler, Splits, Stream
from jaxcog.errors import ConfigError, DataError
from jaxcog.task import DataInfo

_IMAGES = (".jpg", ".jpeg", ".png")
FEATURES: dict[str, Feature] = {"image": "image", "label": ((), np.int32)}
_PACS_BROKEN = "sketch/dog/n02103406_4068-1.png"


def read_list(recipe: Recipe, path: Path, first_label: int, classes: int) -> list[tuple[str, int]]:
    """Lines `<path> <label>` as (path, label from 0). Raises DataError with the line's number."""
    if not path.is_file():
        raise recipe.expected(f"{path} is missing")
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        place = int(label) - first_label if label.isdigit() else -1
        if not name or not 0 <= place < classes:
            raise recipe.expected(
                f"{path}, line {number}: {line.strip()!r} is not `<path> <label>` with a label "
                f"from {first_label} to {first_label + classes - 1}"
            )
        found.append((name, place))
    if not found:
        raise recipe.expected(f"{path} is empty")
    return found


def class_names(recipe: Recipe, lists: Mapping[Path, Sequence[tuple[str, int]]]) -> list[str]:
    """Class names from the folders of listed images; every list must have images of every class."""
    names = {label: Path(name).parent.name for lines in lists.values() for name, label in lines}
    for path, lines in lists.items():
        missing = sorted(set(range(max(names) + 1)) - {label for _, label in lines})
        if missing:
            name = names.get(missing[0], "")
            called = f' ("{name}")' if name else ""
            raise recipe.expected(
                f"{path} lists no image of class {missing[0]}{called}: add some, or take the class "
                "out of all lists"
            )
    return [names[label] for label in range(len(names))]


def _read_pacs(raw: Path) -> Listing:
    splits, skipped, lists = {}, [], {}
    for domain in PACS.domains:
        for part in ("train", "crossval"):
            path = raw / "splits" / f"{domain}_{part}_kfold.txt"
            lines = read_list(_PACS, path, first_label=1, classes=7)
            strangers = {Path(name).parts[0] for name, _ in lines} - set(PACS.domains)
            if strangers:
                raise _PACS.expected(
                    f'{path} lists images of an unknown domain "{strangers.pop()}"'
                )
            skipped += [name for name, _ in lines if name == _PACS_BROKEN]
            lists[path] = [(name, label) for name, label in lines if name != _PACS_BROKEN]
            splits[f"{domain}_{part}"] = [
                Entry(name, {"image": raw / "images" / name, "label": label})
                for name, label in lists[path]
            ]
    return Listing(splits, FEATURES, {"class_names": class_names(_PACS, lists)}, skipped)


def _read_mini_domain_net(raw: Path) -> Listing:
    splits, lists = {}, {}
    for domain in MiniDomainNet.domains:
        for part in ("train", "test"):
            path = raw / "splits_mini" / f"{domain}_{part}.txt"
            lines = read_list(_MINI_DOMAIN_NET, path, first_label=0, classes=126)
            if part == "train":
                lists[path] = lines
            splits[f"{domain}_{part}"] = [
                Entry(name, {"image": raw / name, "label": label}) for name, label in lines
            ]
    return Listing(splits, FEATURES, {"class_names": class_names(_MINI_DOMAIN_NET, lists)})


def _read_folders(
    recipe: Recipe, raw: Path, folders: Mapping[str, str], parts: Sequence[str]
) -> Listing:
    """`<domain folder>/<part>/<class>/<image>`; classes are the sorted folder names."""
    first = raw / next(iter(folders.values())) / parts[0]
    if not first.is_dir():
        raise recipe.expected(f"{first} is missing")
    classes = sorted(folder.name for folder in first.iterdir() if folder.is_dir())
    splits = {}
    for domain, folder in folders.items():
        for part in parts:
            place = raw / folder / part
            if not place.is_dir():
                raise recipe.expected(f"{place} is missing")
            found = sorted(entry.name for entry in place.iterdir() if entry.is_dir())
            if found != classes:
                odd = sorted(set(found) ^ set(classes))
                raise recipe.expected(f"{place} and {first} differ in the classes {odd[:5]}")
            splits[f"{domain}_{part}"] = list(_class_folders(recipe, raw, place, classes))
    return Listing(splits, FEATURES, {"class_names": classes})


def _class_folders(
    recipe: Recipe, raw: Path, place: Path, classes: Sequence[str]
) -> Iterator[Entry]:
    for label, name in enumerate(classes):
        files = sorted(f for f in (place / name).iterdir() if f.suffix.lower() in _IMAGES)
        if not files:
            raise recipe.expected(f'the class "{name}" is empty: no images in {place / name}')
        for file in files:
            yield Entry(str(file.relative_to(raw)), {"image": file, "label": label})


def few_of_each_class(
    labels: np.ndarray, domains: np.ndarray, per_class: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`per_class` images of each class in each domain, drawn at random, and the others.

    Args:
      labels, domains: int [N].

    Returns:
      (the drawn, the others), int64 rows, ascending.

    Raises:
      DataError: a class has fewer images in a domain.
    """
    random = np.random.default_rng(seed)
    chosen = []
    for domain in np.unique(domains):
        for label in np.unique(labels):
            rows = np.flatnonzero((domains == domain) & (labels == label))
            if len(rows) < per_class:
                raise DataError(
                    f"class {label} has {len(rows)} images in domain {domain}, fewer than "
                    f"data.per_class={per_class}: lower it, or add images"
                )
            chosen.append(random.permutation(rows)[:per_class])
    labelled = np.sort(np.concatenate(chosen))
    return labelled, np.setdiff1d(np.arange(len(labels)), labelled)


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """Records: "image" float32 [S, S, 3] normalised, "label" and "domain" int32.

    A domain's id is its position among the sources; the target has the next one.

    target: the domain left out for testing.
    sources: the domains to train on; None: all others.
    sampler: "uniform"; "domains": each batch consists of `domains_per_batch` equal blocks;
      "every_domain": each batch has as many images of every domain.
    validation: also evaluate on the sources' validation parts, as "source".
    per_class: train on so many images of each class in each source domain, drawn by `split_seed`;
      None: on all.
    test_resize: "crop" resizes the shorter edge and crops the centre; "squash" ignores the aspect
      (what the published numbers were made with; the same on square images).
    """

    target: str
    sources: tuple[str, ...] | None = None
    sampler: Literal["uniform", "domains", "every_domain"] = "uniform"
    domains_per_batch: int = 2
    validation: bool = False
    per_class: int | None = None
    split_seed: int = 1
    test_resize: Literal["crop", "squash"] = "crop"
    size: int = 224
    root: str = ROOT

    name: ClassVar[str]
    domains: ClassVar[tuple[str, ...]]
    parts: ClassVar[tuple[str, str]]  # for training, for validation
    target_parts: ClassVar[tuple[str, ...]]
    # Images for training in each domain; a share of the whole where no list says how many.
    published: ClassVar[Mapping[str, int]]
    classes: ClassVar[tuple[str, ...]]
    augment: ClassVar[bool] = True
    mean: ClassVar[tuple[float, ...]] = images.IMAGENET_MEAN
    std: ClassVar[tuple[float, ...]] = images.IMAGENET_STD

    def __post_init__(self) -> None:
        for name in (self.target, *self.source_domains):
            if name not in self.domains:
                raise ConfigError(
                    f'data: unknown domain "{name}"; {self.name} has {", ".join(self.domains)}'
                )
        if self.target in self.source_domains:
            raise ConfigError(f'data.target="{self.target}" is also among data.sources')
        if not self.source_domains:
            raise ConfigError("data.sources: name at least one domain")
        if self.per_class is not None and self.per_class < 1:
            raise ConfigError(f"data.per_class={self.per_class}: at least 1 image, or None for all")

    @property
    def source_domains(self) -> tuple[str, ...]:
        """The domains to train on; a domain's place is its id."""
        if self.sources is not None:
            return self.sources
        return tuple(name for name in self.domains if name != self.target)

    def describe(self) -> DataInfo:
        """What a task must know, with published sizes; reads nothing."""
        examples = sum(self.published[name] for name in self.source_domains)
        if self.per_class is not None:
            examples = self.per_class * len(self.classes) * len(self.source_domains)
        return self._info(examples, self.classes)

    def load(self) -> Splits:
        """The prepared data. Raises DataError where it was not prepared."""
        prepared = open_prepared(self.name, self.root)
        train = self.training_records(prepared)
        evaluation = {"test": self.target_stream(prepared), **self.known_streams(prepared)}
        return Splits(
            train=Stream(
                train,
                transform=images.single_view(*self.train_steps()),
                sampler=self._sampler(train),
            ),
            evaluation=evaluation,
            info=self._info(len(train), tuple(prepared.metadata["class_names"])),
        )

    def training_records(self, prepared: Prepared) -> Records:
        """What is labelled for training: all of the sources, or `per_class` of each class."""
        records = self.source_records(prepared, self.parts[0])
        if self.per_class is None:
            return records
        columns = records.columns["label"], records.columns["domain"]
        return records.select(few_of_each_class(*columns, self.per_class, self.split_seed)[0])

    def known_streams(self, prepared: Prepared) -> dict[str, Stream]:
        """The sources' validation parts as "source", where they were asked for."""
        if not self.validation:
            return {}
        known = self.source_records(prepared, self.parts[1])
        return {"source": Stream(known, transform=self.test_transform())}

    def source_records(self, prepared: Prepared, part: str) -> Records:
        """One part of every source domain, with the column "domain"."""
        names = [f"{domain}_{part}" for domain in self.source_domains]
        records = prepared.records(*names)
        for place, domain in enumerate(self.source_domains):
            present = records.columns["label"][records.part == place]
            missing = set(range(len(prepared.metadata["class_names"]))) - set(present.tolist())
            if missing:
                name = prepared.metadata["class_names"][min(missing)]
                raise DataError(
                    f'{self.name}: the domain "{domain}" has no image of the class "{name}" in '
                    f"{part}: complete the raw data and prepare it again, or leave the domain out "
                    "of data.sources"
                )
        return records.with_columns(domain=records.part.astype(np.int32))

    def target_stream(self, prepared: Prepared) -> Stream:
        """The target domain, for testing."""
        records = self.target_records(prepared, self.target_parts)
        return Stream(records, transform=self.test_transform())

    def target_records(self, prepared: Prepared, parts: Sequence[str]) -> Records:
        """Parts of the target domain, with the column "domain"."""
        target = prepared.records(*(f"{self.target}_{part}" for part in parts))
        domain = np.full(len(target), len(self.source_domains), np.int32)
        return target.with_columns(domain=domain)

    def train_steps(self) -> tuple[images.Step, ...]:
        """Resized, sometimes enlarged and cropped, mirrored, normalised."""
        augment = (images.EnlargeAndCrop(), images.Flip()) if self.augment else ()
        return images.Resize(self.size), *augment, self.normalise()

    def test_transform(self) -> images.Views:
        """Resized, cropped at the centre, normalised."""
        if self.test_resize == "squash":
            return images.single_view(images.Resize(self.size), self.normalise())
        resize, crop = images.ResizeShorter(self.size), images.CentreCrop(self.size)
        return images.single_view(resize, crop, self.normalise())

    def normalise(self) -> images.Normalise:
        """[0, 255] to what the network takes."""
        return images.Normalise(self.mean, self.std)

    def _sampler(self, records: Records) -> MakeSampler | None:
        if self.sampler == "uniform":
            return None
        domains = records.columns["domain"]
        if self.sampler == "every_domain":
            return functools.partial(SeqDomain, domains=domains)
        return functools.partial(RandomDomain, domains=domains, per_batch=self.domains_per_batch)

    def _info(self, examples: int, classes: tuple[str, ...]) -> DataInfo:
        number = jax.ShapeDtypeStruct((), np.int32)
        image = jax.ShapeDtypeStruct((self.size, self.size, 3), np.float32)
        return DataInfo(
            element={"image": image, "label": number, "domain": number},
            num_examples=examples,
            class_names=classes,
            facts={
                "mean": self.mean,
                "std": self.std,
                "domains": (*self.source_domains, self.target),
            },
        )


@dataclasses.dataclass(frozen=True)
class PACS(LeaveOneOut):
    """Art paintings, cartoons, photos and sketches of 7 classes (Li et al., ICCV 2017)."""

    target: Literal["art_painting", "cartoon", "photo", "sketch"] = "sketch"

    name = "pacs"
    domains = ("art_painting", "cartoon", "photo", "sketch")
    parts = ("train", "crossval")
    target_parts: ClassVar[tuple[str, ...]] = ("train", "crossval")
    published: ClassVar[Mapping[str, int]] = {
        "art_painting": 1840,
        "cartoon": 2107,
        "photo": 1499,
        "sketch": 3531,
    }
    classes = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


@dataclasses.dataclass(frozen=True)
class OfficeHome(LeaveOneOut):
    """Office and household objects of 65 classes (Venkateswara et al., CVPR 2017)."""

    target: Literal["art", "clipart", "product", "real_world"] = "art"

    name = "office_home_dg"
    domains = ("art", "clipart", "product", "real_world")
    parts = ("train", "val")
    target_parts: ClassVar[tuple[str, ...]] = ("train", "val")
    published: ClassVar[Mapping[str, int]] = {
        "art": 2184,
        "clipart": 3929,
        "product": 3995,
        "real_world": 3921,
    }
    classes = tuple(f"class {i}" for i in range(65))


@dataclasses.dataclass(frozen=True)
class DigitsDG(LeaveOneOut):
    """Digits of MNIST, MNIST-M, SVHN and SYN, 32x32 (Zhou et al., AAAI 2020)."""

    target: Literal["mnist", "mnist_m", "svhn", "syn"] = "mnist_m"
    size: int = 32

    name = "digits_dg"
    domains = ("mnist", "mnist_m", "svhn", "syn")
    parts = ("train", "val")
    target_parts: ClassVar[tuple[str, ...]] = ("train", "val")
    published: ClassVar[Mapping[str, int]] = dict.fromkeys(domains, 4800)
    classes = tuple(str(digit) for digit in range(10))
    augment = False
    mean = images.HALF
    std = images.HALF


@dataclasses.dataclass(frozen=True)
class VLCS(LeaveOneOut):
    """Caltech101, LabelMe, PASCAL and SUN09 in 5 classes (Fang et al., ICCV 2013)."""

    target: Literal["caltech", "labelme", "pascal", "sun"] = "caltech"

    name = "vlcs"
    domains = ("caltech", "labelme", "pascal", "sun")
    parts = ("train", "crossval")
    target_parts: ClassVar[tuple[str, ...]] = ("test",)
    published: ClassVar[Mapping[str, int]] = {
        "caltech": 991,
        "labelme": 1859,
        "pascal": 2363,
        "sun": 2297,
    }
    classes = tuple(f"class {i}" for i in range(5))


@dataclasses.dataclass(frozen=True)
class MiniDomainNet(LeaveOneOut):
    """A part of DomainNet: 4 domains, 126 classes, 96x96 (Zhou et al., TIP 2021)."""

    target: Literal["clipart", "painting", "real", "sketch"] = "sketch"
    size: int = 96

    name = "mini_domain_net"
    domains = ("clipart", "painting", "real", "sketch")
    parts = ("train", "test")
    target_parts: ClassVar[tuple[str, ...]] = ("test",)
    published: ClassVar[Mapping[str, int]] = {
        "clipart": 13_000,
        "painting": 22_000,
        "real": 46_000,
        "sketch": 17_000,
    }
    classes = tuple(f"class {i}" for i in range(126))


def _folder_reader(config: type[LeaveOneOut], folders: Mapping[str, str], parts: Any) -> Any:
    def read(raw: Path) -> Listing:
        return _read_folders(_BY_NAME[config.name], raw, folders, parts)

    return read


_PACS = Recipe(
    PACS.name,
    "PACS: 4 domains, 7 classes",
    "  images/<domain>/<class>/<file>\n"
    "  splits/<domain>_{train,crossval}_kfold.txt  lines `<domain>/<class>/<file> <label 1..7>`\n"
    f"  with the domains {', '.join(PACS.domains)}",
    _read_pacs,
)
_OFFICE_HOME = Recipe(
    OfficeHome.name,
    "Office-Home-DG: 4 domains, 65 classes",
    f"  <domain>/{{train,val}}/<class>/*.jpg  with the domains {', '.join(OfficeHome.domains)}",
    _folder_reader(OfficeHome, {d: d for d in OfficeHome.domains}, ("train", "val")),
)
_DIGITS_DG = Recipe(
    DigitsDG.name,
    "Digits-DG: 4 domains, 10 digits",
    f"  <domain>/{{train,val}}/<class>/*.jpg  with the domains {', '.join(DigitsDG.domains)}",
    _folder_reader(DigitsDG, {d: d for d in DigitsDG.domains}, ("train", "val")),
)
_VLCS = Recipe(
    VLCS.name,
    "VLCS: 4 domains, 5 classes",
    "  <DOMAIN>/{train,crossval,test}/<class>/*.jpg  with the domains "
    + ", ".join(d.upper() for d in VLCS.domains),
    _folder_reader(VLCS, {d: d.upper() for d in VLCS.domains}, ("train", "crossval", "test")),
)
_MINI_DOMAIN_NET = Recipe(
    MiniDomainNet.name,
    "miniDomainNet: 4 domains, 126 classes",
    "  splits_mini/<domain>_{train,test}.txt  lines `<path> <label 0..125>`, paths from --raw\n"
    f"  with the domains {', '.join(MiniDomainNet.domains)}",
    _read_mini_domain_net,
)
RECIPES = (_PACS, _OFFICE_HOME, _DIGITS_DG, _VLCS, _MINI_DOMAIN_NET)
_BY_NAME = {recipe.name: recipe for recipe in RECIPES}
