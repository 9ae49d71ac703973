"""Image-text pairs from the web in four layouts, behind one Source with random access.

Layouts, by what a path names: webdataset tar shards (`key.jpg` beside `key.txt` or `key.json`),
ArrayRecord or TFRecord files of tf.train.Example ("image/encoded", "text" or "text/<field>",
"key"), or a folder with *.jsonl files, lines {"image_id": path, "sentences": [[field, text], ...]}.

Texts are taken as they are: nothing is dropped for saying little about its image. What cannot be
used (no text, a text too long or not UTF-8, a second copy) is counted by reason when the shards are
listed; images are only decoded when they are needed, and counted then.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcog.data.examples import decode_example, record_spans
from jaxcog.data.types import BadRecord, Record
from jaxcog.errors import DataError

_TFRECORD = ".tfrecord"
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
Texts = tuple[tuple[str, str], ...]
"""((field, text), ...), such as (("alt_text", "a cake"), ("sur_text", "make a wish"))."""


@dataclasses.dataclass(frozen=True)
class RowFilter:
    """Which rows are used. Everything else is counted by reason and left out.

    shortest, longest: characters of a text.
    deduplicate: leave out rows whose image bytes and normalised texts were seen before.
    bad_fraction: share of a shard's rows that may be left out; more fails the run.
    """

    shortest: int = 2
    longest: int = 512
    deduplicate: bool = True
    bad_fraction: float = 0.2


@dataclasses.dataclass(frozen=True)
class Row:
    """One pair. `where`: what its layout needs to read the image again."""

    key: str
    shard: int
    where: Any
    texts: Texts


@dataclasses.dataclass
class Listing:
    """shards: paths; rows: all usable pairs in order; skipped: reason -> how many."""

    shards: list[str]
    rows: list[Row]
    skipped: Counter[str]

    def report(self) -> str:
        """One line for a person."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.most_common())
        left_out = f"; left out: {reasons}" if reasons else ""
        return f"{len(self.rows)} pairs in {len(self.shards)} shards{left_out}"


class ImageTextSource:
    """Pairs as records {"image": bytes, "texts": Texts, "pair": int32 hash}."""

    def __init__(self, listing: Listing):
        self.listing = listing
        self._readers: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.listing.rows)

    def __getitem__(self, index: int) -> Record:
        row = self.listing.rows[index]
        image = _read_image(self.listing.shards[row.shard], row.where)
        return {"image": image, "texts": row.texts, "pair": pair_hash(row.key, row.texts)}

    def name_of(self, index: int) -> str:
        row = self.listing.rows[index]
        return f"{self.listing.shards[row.shard]}: {row.key}"


def open_pairs(path: str, filter: RowFilter | None = None) -> ImageTextSource:
    """The pairs under a folder, a file, or a glob pattern of shards.

    Raises:
      DataError: nothing is there; a shard is cut off, holds no texts, or too much of it is bad.
    """
    listing = list_pairs(path, filter or RowFilter())
    return ImageTextSource(listing)


def list_pairs(path: str, filter: RowFilter) -> Listing:
    """Reads what there is but for the images (their bytes too, to find second copies)."""
    shards = find_shards(path)
    listing = Listing([str(shard) for shard in shards], [], Counter())
    seen: set[bytes] = set()
    for number, shard in enumerate(shards):
        _list_shard(listing, number, shard, filter, seen)
    if not listing.rows:
        raise DataError(f"{path}: no usable pair ({listing.report()})")
    return listing


def find_shards(path: str) -> list[Path]:
    """Files of the four layouts, sorted. Raises DataError where there is none."""
    root = Path(path).expanduser()
    if root.is_dir():
        found = [file for file in root.rglob("*") if _layout(file)]
    else:
        found = [Path(file) for file in glob.glob(str(root)) if _layout(Path(file))]
    if not found:
        raise DataError(
            f"{path}: no image-text shards there: expected *.tar (webdataset), *.array_record*, "
            "*.tfrecord*, or *.jsonl beside its images; set data.path to a folder or a pattern "
            "such as '/data/{00000..00099}.tar' spelled with * instead of braces"
        )
    return sorted(found)


def pair_hash(key: str, texts: Texts) -> np.int32:
    """Equal for rows with equal texts, whatever their images: they are no good negatives."""
    joined = "\0".join(_plain(text) for _, text in texts)
    digest = hashlib.blake2b(joined.encode(), digest_size=4).digest()
    return np.frombuffer(digest, np.int32)[0]


def choose_text(texts: Texts, fields: Sequence[str], random: np.random.Generator | None) -> str:
    """One text: of the first of `fields` that the row has, else of all; the first without a draw.

    random: draws among several captions; None: the first.
    """
    for field in fields:
        own = [text for name, text in texts if name == field]
        if own:
            break
    else:
        own = [text for _, text in texts]
    return own[0 if random is None else int(random.integers(len(own)))]


def _layout(path: Path) -> Callable[[Path, int], Iterator[Any]] | None:
    if path.suffix == ".tar":
        return _tar_rows
    if path.suffix == ".jsonl":
        return _jsonl_rows
    if _TFRECORD in path.name:
        return _tfrecord_rows
    return _record_rows if ".array_record" in path.name else None


def _list_shard(
    listing: Listing, number: int, shard: Path, filter: RowFilter, seen: set[bytes]
) -> None:
    read = _layout(shard) or _record_rows
    total, texts_seen = 0, 0
    bad: Counter[str] = Counter()
    for row in read(shard, number):
        total += 1
        if isinstance(row, str):
            bad[row] += 1
            continue
        texts_seen += bool(row.texts)
        texts, reason = _usable(row.texts, filter)
        if reason is None and filter.deduplicate:
            digest = _fingerprint(_read_image(str(shard), row.where), texts)
            reason = "duplicates" if digest in seen else None
            seen.add(digest)
        if reason is not None:
            bad[reason] += 1
            continue
        listing.rows.append(dataclasses.replace(row, texts=texts))
    if total and not texts_seen:
        raise DataError(
            f"{shard}: {total} images and no text: give every image a text (key.txt or key.json "
            "beside key.jpg; a text/... feature; or sentences), or leave the shard out of data.path"
        )
    broken = sum(bad.values()) - bad["duplicates"]
    if total and broken > filter.bad_fraction * total:
        raise DataError(
            f"{shard}: {broken} of {total} pairs cannot be used ({dict(bad)}), more than the share "
            f"data.filter.bad_fraction={filter.bad_fraction:g}: repair the shard, or raise that"
        )
    listing.skipped.update(bad)


def _usable(texts: Texts, filter: RowFilter) -> tuple[Texts, str | None]:
    """The texts that can be used, or why there is none."""
    filled = tuple((field, text.strip()) for field, text in texts if text.strip())
    if not filled:
        return (), "empty texts"
    kept = tuple(item for item in filled if filter.shortest <= len(item[1]) <= filter.longest)
    return kept, None if kept else "texts too short or too long"


def _fingerprint(image: bytes, texts: Texts) -> bytes:
    joined = "\0".join(_plain(text) for _, text in texts)
    return hashlib.sha256(image + joined.encode()).digest()


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


def _cut(shard: Path, problem: object) -> DataError:
    return DataError(
        f"{shard} is cut off or damaged ({problem}): copy it again, or leave it out of data.path"
    )


def _tar_rows(shard: Path, number: int) -> Iterator[Row | str]:
    """Rows in the order of the archive: members of one key follow one another."""
    members: dict[str, Any] = {}
    key = None
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                if member.offset_data + member.size > size:
                    raise _cut(shard, f"{member.name} ends behind the end of the file")
                stem, _, suffix = member.name.partition(".")
                if key is not None and stem != key:
                    yield _tar_row(key, members, number)
                    members = {}
                key = stem
                suffix = suffix.lower()
                if suffix in IMAGE_SUFFIXES:
                    members["image"] = (member.offset_data, member.size)
                elif suffix in ("txt", "json"):
                    members[suffix] = content.read()
            end = archive.offset
    except tarfile.TarError as error:
        raise _cut(shard, error) from error
    with shard.open("rb") as file:  # tarfile takes a header that is cut off for the end
        file.seek(end)
        if file.read(512) != bytes(512):
            raise _cut(shard, "no end-of-archive marker")
    if key is not None:
        yield _tar_row(key, members, number)


def _tar_row(key: str, members: Mapping[str, Any], shard: int) -> Row | str:
    if "image" not in members:
        return "texts without an image"
    try:
        texts: list[tuple[str, str]] = []
        if "txt" in members:
            texts.append(("text", members["txt"].decode()))
        if "json" in members:
            texts += _fields_of(json.loads(members["json"]))
    except (UnicodeDecodeError, json.JSONDecodeError):
        return "texts that are not UTF-8 or JSON"
    return Row(key, shard, members["image"], tuple(texts))


def _fields_of(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(field, text) of an object's strings, and of lists of strings."""
    found = []
    for field, texts in value.items():
        if field in ("key", "image_id", "url", "sha256"):
            continue
        if isinstance(texts, str):
            found.append((field, texts))
        elif isinstance(texts, list):
            found += [(field, text) for text in texts if isinstance(text, str)]
    return found


def _jsonl_rows(shard: Path, number: int) -> Iterator[Row | str]:
    for line in shard.read_bytes().splitlines():
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            sentences = value.get("sentences")
            texts = (
                [(str(field), str(text)) for field, text in sentences]
                if sentences is not None
                else _fields_of(value)
            )
            image = str(value["image_id"])
        except (ValueError, KeyError, TypeError, AttributeError):
            yield "lines that are no pair"
            continue
        yield Row(image, number, str(shard.parent / image), tuple(texts))


def _record_rows(shard: Path, number: int) -> Iterator[Row | str]:
    try:
        reader = _open_records(str(shard))
        count = reader.num_records()
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise _cut(shard, error) from error
    for index in range(count):
        yield _example_row(_read_record(reader, shard, index), number, index)


def _tfrecord_rows(shard: Path, number: int) -> Iterator[Row | str]:
    try:
        for where in record_spans(shard):
            yield _example_row(_bytes_at(shard, *where), number, where)
    except BadRecord as error:
        raise _cut(shard, error) from error


def _example_row(data: bytes, number: int, where: Any) -> Row | str:
    """A row of a serialised Example; its key, where it has none, is the place it has."""
    try:
        example = decode_example(data)
        texts = [
            (name.removeprefix("text/"), _text(value))
            for name, values in example.items()
            if name == "text" or name.startswith("text/")
            for value in values
        ]
        key = _text(example.get("key", [str(where).encode()])[0])
    except BadRecord:
        return "records that are no Example"
    except UnicodeDecodeError:
        return "texts that are not UTF-8 or JSON"
    return Row(key, number, where, tuple(texts))


def _text(value: bytes | int | float) -> str:
    if not isinstance(value, bytes):
        raise BadRecord(f"a text is the number {value}")
    return value.decode()


def _open_records(shard: str) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(shard)


def _read_record(reader: Any, shard: str | Path, index: int) -> bytes:
    try:
        return reader.read([index])[0]
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise _cut(Path(shard), error) from error


def _bytes_at(shard: str | Path, offset: int, size: int) -> bytes:
    with open(shard, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise BadRecord("the file ends within it")
    return data


def _read_image(shard: str, where: Any) -> bytes:
    """The encoded image of a row. Raises BadRecord where it is not there."""
    try:
        if isinstance(where, str):
            return Path(where).read_bytes()
        if isinstance(where, tuple):
            data = _bytes_at(shard, *where)
        else:
            data = _read_record(_open_records(shard), shard, where)
    except OSError as error:
        raise BadRecord(error.strerror or "cannot be opened") from error
    if Path(shard).suffix == ".tar":
        return data
    example = decode_example(data)
    images = example.get("image/encoded", example.get("image", []))
    if not images or not isinstance(images[0], bytes):
        raise BadRecord('no "image/encoded"')
    return images[0]
