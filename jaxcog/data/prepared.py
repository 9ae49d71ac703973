"""Datasets on disk: from the layout as distributed to ArrayRecord, through TFDS, and back.

A `Recipe` lists what lies in a raw folder; `write` makes a TFDS builder of it and runs it;
`open_prepared` reads the result. TFDS is imported inside the functions: it is slow to load, and
neither training on toy data nor the command line's help should wait for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from jaxcog.data import images
from jaxcog.data.types import BadRecord, Record
from jaxcog.errors import DataError

ROOT = "~/jaxcog_data"
_INDEX = "index.npz"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record to be. `file`: what to call it; `record`: its features by name.

    "image" is a path, or the encoded bytes; it is checked when it is written.
    """

    file: str
    record: Mapping[str, Any]


Feature = Literal["image"] | tuple[tuple[int, ...], DTypeLike]
"""What a record holds under one name: an image, or an array of (shape, dtype)."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """What was found in a raw folder.

    splits: name -> entries, in the order in which they are to be kept.
    features: name -> "image", or (shape, dtype). Integer ones are also kept in an index, so that
      labels are known without reading images.
    metadata: JSON values that belong to the dataset, such as class names.
    skipped: files left out on purpose (known to be broken).
    """

    splits: Mapping[str, Iterable[Entry]]
    features: Mapping[str, Feature]
    metadata: Mapping[str, Any]
    skipped: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one dataset is read as distributed.

    layout: the expected files, shown in messages.
    read(raw folder) -> Listing; raises DataError.
    """

    name: str
    title: str
    layout: str
    read: Callable[[Path], Listing]
    version: str = "1.0.0"

    def expected(self, problem: str) -> DataError:
        """A DataError that says what is wrong and how the folder should look."""
        return DataError(f"{self.name}: {problem}. Expected under --raw:\n{self.layout}")


@dataclasses.dataclass(frozen=True)
class PrepareReport:
    """What `prepare` wrote. `bad`: files that are no readable image, with the reason."""

    name: str
    path: str
    counts: Mapping[str, int]
    skipped: Sequence[str]
    bad: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self),
            "counts": dict(self.counts),
            "skipped": list(self.skipped),
            "bad": dict(self.bad),
        }

    def text(self) -> str:
        lines = [f"{self.name} -> {self.path}"]
        lines += [f"  {split}: {count} records" for split, count in self.counts.items()]
        lines += [f"  skipped, known to be broken: {file}" for file in self.skipped]
        lines += [f"  skipped, unreadable: {file}: {why}" for file, why in self.bad.items()]
        return "\n".join(lines)


def write(recipe: Recipe, raw: Path, out: Path) -> PrepareReport:
    """Reads the raw folder, checks and writes every record. Nothing is left where it fails."""
    path = out / recipe.name / recipe.version
    if path.exists():
        raise DataError(f"{path} exists already: remove it to prepare {recipe.name} again")
    if not raw.is_dir():
        raise recipe.expected(f"{raw} is no folder")
    listing = recipe.read(raw)
    writer = _Writer(recipe, listing)
    builder = _make_builder(recipe, listing, writer, out)
    # TFDS reports its progress on standard output, which belongs to the caller's results.
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare(download_dir=scratch)
    np.savez_compressed(path / _INDEX, **writer.index())
    return PrepareReport(
        recipe.name, str(path), writer.counts(), tuple(listing.skipped), writer.bad
    )


class _Writer:
    """Passes entries on to TFDS, leaves undecodable ones out, and keeps the index."""

    def __init__(self, recipe: Recipe, listing: Listing):
        self.recipe = recipe
        self.listing = listing
        self.bad: dict[str, str] = {}
        self.files: dict[str, list[bytes]] = {split: [] for split in listing.splits}
        self.columns: dict[str, dict[str, list[Any]]] = {
            split: {
                name: []
                for name, feature in listing.features.items()
                if feature != "image" and np.issubdtype(feature[1], np.integer)
            }
            for split in listing.splits
        }

    def records(self, split: str) -> Iterable[tuple[int, dict[str, Any]]]:
        for entry in self.listing.splits[split]:
            record: Record = {
                name: value
                if self.listing.features[name] == "image"
                else np.asarray(value, self.listing.features[name][1])
                for name, value in entry.record.items()
            }
            if "image" in record:
                try:
                    record["image"] = _checked(record["image"])
                except BadRecord as error:
                    self.bad[entry.file] = str(error)
                    continue
            for name, column in self.columns[split].items():
                column.append(record[name])
            self.files[split].append(entry.file.encode())
            yield len(self.files[split]) - 1, {**record, "file": entry.file}
        if not self.files[split]:
            first = "".join(f" ({file}: {why})" for file, why in list(self.bad.items())[:1])
            raise self.recipe.expected(f"no readable record in {split}{first}")

    def counts(self) -> dict[str, int]:
        return {split: len(files) for split, files in self.files.items()}

    def index(self) -> dict[str, Any]:
        arrays: dict[str, Any] = {
            f"{split}/file": np.array(files) for split, files in self.files.items()
        }
        for split, columns in self.columns.items():
            for name, column in columns.items():
                arrays[f"{split}/{name}"] = np.array(column, self.listing.features[name][1])
        return arrays


def _checked(image: Path | bytes) -> bytes:
    if isinstance(image, Path):
        try:
            image = image.read_bytes()
        except OSError as error:
            raise BadRecord(error.strerror or "cannot be opened") from error
    images.decode(image)
    return image


def _make_builder(recipe: Recipe, listing: Listing, writer: _Writer, out: Path) -> Any:
    import tensorflow_datasets as tfds

    def feature(kind: Feature) -> Any:
        if kind == "image":
            return tfds.features.Image(shape=(None, None, 3))
        return tfds.features.Tensor(shape=kind[0], dtype=kind[1])

    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            name = recipe.name
            VERSION = tfds.core.Version(recipe.version)
            # Else TFDS looks there for checksums, with a package that it does not install.
            code_path = None

            def _info(self) -> Any:
                features = {name: feature(kind) for name, kind in listing.features.items()}
                return tfds.core.DatasetInfo(
                    builder=self,
                    description=recipe.title,
                    features=tfds.features.FeaturesDict({**features, "file": tfds.features.Text()}),
                    # Retrieval breaks ties by the order of the lists, so that order is kept.
                    disable_shuffling=True,
                    metadata=tfds.core.MetadataDict(listing.metadata),
                )

            def _split_generators(self, _: Any) -> Any:
                return {split: self._generate_examples(split) for split in listing.splits}

            def _generate_examples(self, split: str) -> Any:
                yield from writer.records(split)

    return Builder(data_dir=str(out), file_format="array_record")


class Records:
    """Prepared records as a Source: encoded "image" (if any) and the columns of the index."""

    def __init__(
        self,
        parts: Sequence[Any],
        part: np.ndarray,
        row: np.ndarray,
        files: np.ndarray,
        columns: Mapping[str, np.ndarray],
        stored: Sequence[str] = ("image",),
    ):
        self.parts = parts
        self.part = part
        self.row = row
        self.files = files
        self.columns = dict(columns)
        self.stored = tuple(stored)

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: int) -> Record:
        try:
            stored = self.parts[self.part[index]][int(self.row[index])]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise BadRecord(f"cannot be read back, prepare the data again ({error})") from error
        record = {name: stored[name] for name in self.stored}
        return {**record, **{name: value[index] for name, value in self.columns.items()}}

    def name_of(self, index: int) -> str:
        return self.files[index].decode()

    def select(self, rows: np.ndarray) -> Records:
        """Some of the records, in the order of `rows` (indices or a mask)."""
        columns = {name: value[rows] for name, value in self.columns.items()}
        return Records(
            self.parts, self.part[rows], self.row[rows], self.files[rows], columns, self.stored
        )

    def with_columns(self, **columns: np.ndarray) -> Records:
        """The same records with further entries."""
        merged = {**self.columns, **columns}
        return Records(self.parts, self.part, self.row, self.files, merged, self.stored)

    def only(self, *columns: str) -> Records:
        """The same records with these columns alone."""
        kept = {name: self.columns[name] for name in columns}
        return Records(self.parts, self.part, self.row, self.files, kept, self.stored)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A dataset as `write` left it. metadata: see Listing."""

    path: Path
    metadata: Mapping[str, Any]
    sources: Mapping[str, Any]
    index: Mapping[str, np.ndarray]

    def records(self, *splits: str, stored: Sequence[str] = ("image",)) -> Records:
        """The records of one split, or of several after one another."""
        names = [name.partition("/")[2] for name in self.index if name.startswith(f"{splits[0]}/")]
        columns = {
            name: np.concatenate([self.index[f"{split}/{name}"] for split in splits])
            for name in names
        }
        sizes = [len(self.sources[split]) for split in splits]
        return Records(
            [self.sources[split] for split in splits],
            np.repeat(np.arange(len(splits)), sizes),
            np.concatenate([np.arange(size) for size in sizes]),
            columns.pop("file"),
            columns,
            stored,
        )


def open_prepared(name: str, root: str, version: str = "1.0.0") -> Prepared:
    """Raises DataError where the dataset was not prepared, or is damaged."""
    out = Path(root).expanduser()
    path = out / name / version
    remedy = f"run: jaxcog prepare {name} --raw DIR --out {out}"
    if not (path / _INDEX).is_file():
        raise DataError(f"no prepared {name} in {path.parent}; {remedy}")
    import tensorflow_datasets as tfds

    try:
        with np.load(path / _INDEX) as archive:
            index = dict(archive)
        builder = tfds.builder_from_directory(str(path))
        skip = tfds.decode.SkipDecoding()
        decoders = {"image": skip} if "image" in builder.info.features else None
        sources = {
            split: builder.as_data_source(split, decoders=decoders) for split in builder.info.splits
        }
        sizes = {split: len(source) for split, source in sources.items()}
    except Exception as error:
        raise DataError(f"{path} is damaged ({error}); remove it and {remedy}") from error
    wrong = [split for split, size in sizes.items() if len(index[f"{split}/file"]) != size]
    if wrong:
        raise DataError(f"{path}: records missing in {', '.join(wrong)}; remove it and {remedy}")
    metadata = builder.info.metadata or {}
    return Prepared(path, dict(metadata), sources, index)
