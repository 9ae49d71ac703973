"""CUHK-PEDES, ICFG-PEDES and RSTPReid from their own JSON files: who is described how, where.

All three become one table: an image, its person, its captions. CUHK-PEDES is also read in the
converted layout of the TextReID repository (annotations/{train,val,test}.json). ICFG-PEDES and
RSTPReid are both from MSMT17, with unrelated person ids: training on one and testing on the other
may test on images that were trained on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxcog.data import words
from jaxcog.data.prepared import Entry, Listing, Recipe
from jaxcog.errors import DataError

SPLITS = ("train", "val", "test")
DatasetName = Literal["cuhk_pedes", "icfg_pedes", "rstpreid"]


@dataclasses.dataclass(frozen=True)
class PersonImage:
    """One image: its path below imgs/, its person, its captions."""

    file: str
    person: int
    captions: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one dataset is distributed.

    annotations: file names, the first that is there is read. path: the field with the image's path.
    first_person: id of the first person. Sizes are published: training persons and captions, and
    captions an image.
    """

    name: DatasetName
    title: str
    annotations: tuple[str, ...]
    path: str
    first_person: int
    persons: int
    train_captions: int
    captions: int

    def text(self) -> str:
        """The expected files, for messages."""
        lines = [
            f"  {' or '.join(self.annotations)}  (a list of records with {self.path}, captions, "
            "id, split)",
            "  imgs/  (the images, where the records say)",
        ]
        if self.name == "cuhk_pedes":
            lines.append(
                "or, as converted by TextReID, annotations/{train,val,test}.json and imgs/"
            )
        return "\n".join(lines)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "cuhk_pedes",
            "CUHK-PEDES",
            ("reid_raw.json",),
            "file_path",
            first_person=1,
            persons=11003,
            train_captions=68126,
            captions=2,
        ),
        Layout(
            "icfg_pedes",
            "ICFG-PEDES",
            ("ICFG-PEDES.json", "ICFG_PEDES.json"),
            "file_path",
            first_person=0,
            persons=3102,
            train_captions=34674,
            captions=1,
        ),
        Layout(
            "rstpreid",
            "RSTPReid",
            ("data_captions.json",),
            "img_path",
            first_person=0,
            persons=3701,
            train_captions=37010,
            captions=2,
        ),
    )
}

Table = dict[str, list[PersonImage]]
"""Split ("train", "val", "test") -> images, in the order of the file."""


def split_of(name: str) -> str:
    """Any name other than train and test is validation."""
    return name if name in ("train", "test") else "val"


def table_of(records: Iterable[Mapping[str, Any]], layout: Layout) -> Table:
    """The common table of a raw annotation file's records.

    Raises:
      DataError: a record lacks a field or has no captions, or a person is in two splits.
    """
    table: Table = {split: [] for split in SPLITS}
    for number, record in enumerate(records):
        try:
            image = PersonImage(
                str(record[layout.path]),
                int(record["id"]) - layout.first_person,
                tuple(map(str, record["captions"])),
            )
            split = split_of(record["split"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{layout.name}: record {number} has no usable {error}: each needs {layout.path}, "
                "captions, id and split; get the annotation file again"
            ) from error
        table[split].append(image)
    check_table(table, layout.name)
    return {split: rows for split, rows in table.items() if rows}


def check_table(table: Table, name: str) -> None:
    """Raises DataError for images without captions and persons in two splits."""
    for rows in table.values():
        for image in rows:
            if not image.captions:
                raise DataError(
                    f"{name}: {image.file} has no captions: add one, or remove its record"
                )
    homes: dict[int, tuple[str, str]] = {}
    for split, rows in table.items():
        for image in rows:
            home, first = homes.setdefault(image.person, (split, image.file))
            if home != split:
                raise DataError(
                    f"{name}: person {image.person} is in {home} ({first}) and in {split} "
                    f"({image.file}): identities must not be shared between splits; correct the "
                    '"id" or "split" of one of the records'
                )
    if not table.get("train"):
        raise DataError(f'{name}: no record has "split": "train"; get the annotation file again')


def convert_annotations(
    records: Sequence[Mapping[str, Any]], *, max_length: int = 100, min_count_exclusive: int = 2
) -> tuple[dict[str, int], dict[str, dict[str, list[Any]]]]:
    """CUHK-PEDES records in the converted form of TextReID.

    Returns:
      (word -> id, {split: {"categories": person ids in order of appearance, "annotations": one
      entry a caption with "image_id", "id", "file_path", "sentence", "onehot"}}). Word ids are cut
      at `max_length`.
    """
    layout = LAYOUTS["cuhk_pedes"]
    table = table_of(records, layout)
    captions = [caption for record in records for caption in record["captions"]]
    vocabulary = words.build_word_vocabulary(captions, min_count_exclusive)
    encode = words.encoder(vocabulary)
    converted: dict[str, dict[str, list[Any]]] = {}
    image_id = 0
    for split in SPLITS:
        annotations = []
        for image in table.get(split, ()):
            image_id += 1
            for caption in image.captions:
                annotations.append(
                    {
                        "image_id": image_id,
                        "id": image.person,
                        "file_path": image.file,
                        "sentence": caption,
                        "onehot": encode(caption)[:max_length],
                    }
                )
        categories = list(dict.fromkeys(row["id"] for row in annotations))
        converted[split] = {"categories": categories, "annotations": annotations}
    return {word: i for i, word in enumerate(vocabulary, 1)}, converted


def table_of_converted(converted: Mapping[str, Any]) -> tuple[Table, tuple[str, ...]]:
    """(the common table, the vocabulary that the word ids imply) of converted annotations.

    Raises:
      DataError: fields are missing, or sentences and word ids do not belong together.
    """
    table: Table = {}
    pairs: list[tuple[str, list[int]]] = []
    try:
        for split, content in converted.items():
            by_image: dict[int, PersonImage] = {}
            for row in content["annotations"]:
                known = by_image.get(row["image_id"])
                captions = (*(known.captions if known else ()), row["sentence"])
                by_image[row["image_id"]] = PersonImage(row["file_path"], int(row["id"]), captions)
                pairs.append((row["sentence"], row["onehot"]))
            table[split] = list(by_image.values())
    except (KeyError, TypeError) as error:
        raise DataError(f"cuhk_pedes: converted annotations of {split} lack {error}") from error
    check_table(table, "cuhk_pedes")
    vocabulary = words.vocabulary_of(pairs)
    encode = words.encoder(vocabulary)
    for sentence, ids in pairs:
        if encode(sentence)[: len(ids)] != list(ids):
            raise DataError(
                f'cuhk_pedes: the word ids of "{sentence[:60]}" are not those of other captions: '
                "annotations of different vocabularies are mixed"
            )
    return table, vocabulary


def _json(recipe: Recipe, path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise recipe.expected(f"{path} cannot be read ({error})") from error


def read_raw(raw: Path, layout: Layout, recipe: Recipe) -> tuple[Table, tuple[str, ...]]:
    """(table, vocabulary) of a folder as distributed. Raises DataError."""
    converted = raw / "annotations"
    found = [raw / name for name in layout.annotations if (raw / name).is_file()]
    if layout.name == "cuhk_pedes" and not found and converted.is_dir():
        parts = {split: converted / f"{split}.json" for split in SPLITS}
        return table_of_converted(
            {split: _json(recipe, path) for split, path in parts.items() if path.is_file()}
        )
    if not found:
        raise recipe.expected(f"{raw / layout.annotations[0]} is missing")
    records = _json(recipe, found[0])
    if not isinstance(records, list):
        raise recipe.expected(f"{found[0]} is no list of records")
    table = table_of(records, layout)
    captions = (caption for record in records for caption in record["captions"])
    return table, words.build_word_vocabulary(captions)


def _listing(raw: Path, layout: Layout, recipe: Recipe) -> Listing:
    table, vocabulary = read_raw(raw, layout, recipe)
    folder = raw / "imgs"
    wanted: dict[str, int] = {}
    for rows in table.values():
        for image in rows:
            parent = str(Path("imgs", image.file).parent)
            wanted[parent] = wanted.get(parent, 0) + 1
    missing = [f"{name} ({count} images)" for name, count in wanted.items()
               if not (raw / name).is_dir()]  # fmt: skip
    if missing:
        raise recipe.expected(f"folders are missing under {raw}: {', '.join(missing)}")
    splits: dict[str, list[Entry]] = {}
    captions: list[Any] = []
    for split, rows in table.items():
        splits[split] = [
            Entry(
                image.file,
                {
                    "image": folder / image.file,
                    "person": image.person,
                    "image_id": len(captions) + place,
                },
            )
            for place, image in enumerate(rows)
        ]
        captions += [list(image.captions) for image in rows]
    return Listing(
        splits,
        {"image": "image", "person": ((), np.int32), "image_id": ((), np.int32)},
        {"captions": captions, "vocabulary": list(vocabulary)},
    )


def _recipe(layout: Layout) -> Recipe:
    def read(raw: Path) -> Listing:
        return _listing(raw, layout, recipe)

    recipe = Recipe(layout.name, layout.title, layout.text(), read)
    return recipe


def load_table(dataset: DatasetName, root: Path | str) -> Table:
    """The images, persons and captions of a folder as distributed; reads no image.

    Raises DataError as `jaxcog prepare` does.
    """
    return read_raw(Path(root), LAYOUTS[dataset], _recipe(LAYOUTS[dataset]))[0]


RECIPES = tuple(_recipe(layout) for layout in LAYOUTS.values())
