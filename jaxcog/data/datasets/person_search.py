"""Text-based person search: CUHK-PEDES, ICFG-PEDES and RSTPReid as captions with their images."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxcog.data import images, words
from jaxcog.data.clip_bpe import ClipBpeTokenizer
from jaxcog.data.datasets.person_tables import LAYOUTS, RECIPES, SPLITS, DatasetName
from jaxcog.data.persons import CropTransform, PersonCrop
from jaxcog.data.prepared import ROOT, Records, open_prepared
from jaxcog.data.samplers import IdentityChunks
from jaxcog.data.types import Record, Splits, Stream
from jaxcog.errors import DataError
from jaxcog.task import DataInfo

__all__ = ["RECIPES", "CaptionRows", "TextPersons", "read_vocabulary", "read_word_table"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


Encode = Callable[[str], list[int]]


@functools.lru_cache(2)
def tokenizer(path: str = "") -> ClipBpeTokenizer:
    """CLIP's byte pairs, read once."""
    return ClipBpeTokenizer(path or None)


def encode_tokens(sentence: str, vocabulary: Sequence[str], path: str = "") -> list[int]:
    """Start, byte pairs, end; the vocabulary is CLIP's own."""
    made = tokenizer(path)
    return [made.start, *made.encode(sentence), made.end]


def read_vocabulary(path: str | Path) -> tuple[str, ...]:
    """A word list: text, one word a line, or JSON {word: id from 1}.

    Raises:
      DataError: no such file, or ids that do not run from 1.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        if not text.lstrip().startswith("{"):
            return tuple(line.strip() for line in text.splitlines() if line.strip())
        ids = {int(i): word for word, i in json.loads(text).items()}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"data.vocabulary={path} cannot be read ({error}): name a text file with one word a "
            "line, or JSON of words and ids"
        ) from error
    if sorted(ids) != list(range(1, len(ids) + 1)):
        raise DataError(
            f"data.vocabulary={path}: its {len(ids)} ids must be 1 to {len(ids)}, each once (0 is "
            "padding)"
        )
    return tuple(ids[i] for i in range(1, len(ids) + 1))


def read_word_table(path: str | Path) -> np.ndarray:
    """float32 [V, W]. Raises DataError: no such file, or no table."""
    try:
        table = np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"data.word_table={path} cannot be read ({error}): name a .npy file of word vectors"
        ) from error
    if not isinstance(table, np.ndarray) or table.ndim != 2:
        raise DataError(f"data.word_table={path}: one row of numbers an id is needed, [V, W]")
    return table.astype(np.float32)


class CaptionRows:
    """Rows that share images: a Source over prepared records.

    image: int [N], the record that holds row i's image. columns: name -> [N, ...].
    """

    def __init__(self, records: Records, image: np.ndarray, columns: Mapping[str, np.ndarray]):
        self.records = records
        self.image = image
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> Record:
        record = self.records[int(self.image[index])]
        return {**record, **{name: value[index] for name, value in self.columns.items()}}

    def name_of(self, index: int) -> str:
        return self.records.name_of(int(self.image[index]))


@dataclasses.dataclass(frozen=True)
class _Names(Sequence[str]):
    """What captions are called: by the file of their image."""

    records: Records
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        return self.records.name_of(self.places[index])


@dataclasses.dataclass(frozen=True)
class TextPersons:
    """One of the three datasets as training rows (a caption with its image) and evaluation images.

    Records: "image" float32 [H, W, 3]; "words" int32 [T], right-padded with 0; "length"; "person"
    from 0; "image_id". In evaluation a record is an image with all its captions: "words" [M, T],
    "length" [M], 0 where it has fewer than M.

    size: (height, width). pixels: whose mean and deviation normalise images; it belongs to the
      weights. augment: flip, shifted crop, random erasing.
    erase_fill: of erased rectangles in normalised units; None: the three numbers of the mean, as
      the papers' code has it.
    tokens: "words" of the dataset's own vocabulary, or CLIP's byte pairs, "bpe".
    max_length: T. too_long: longer captions are an "error", or "cut", as their lengths are.
    per_identity, balanced: see IdentityChunks.
    word_table: .npy file of word vectors, one row an id, row 0 for padding.
    vocabulary: text file, one word a line, or JSON (word -> id): the word list of the table, if it
      is not the one that the captions imply.
    bpe: another vocabulary file than the one that ships.
    select_on: the split whose Rank-1 chooses the best checkpoint. ICFG-PEDES has no "val", and is
      judged on "test". The official code always chooses on "test".
    """

    dataset: DatasetName = "cuhk_pedes"
    size: tuple[int, int] = (384, 128)
    pixels: Literal["clip", "imagenet"] = "clip"
    augment: bool = True
    erase_fill: float | None = None
    tokens: Literal["words", "bpe"] = "words"
    max_length: int = 105
    too_long: Literal["error", "cut"] = "error"
    per_identity: int = 4
    balanced: bool = False
    word_table: str = ""
    vocabulary: str = ""
    bpe: str = ""
    select_on: Literal["val", "test"] = "val"
    root: str = ROOT

    def describe(self) -> DataInfo:
        """What a task must know, with published sizes; reads only the files that are named."""
        layout = LAYOUTS[self.dataset]
        named = read_vocabulary(self.vocabulary) if self.vocabulary else ()
        size = 12000 if not named else len(named) + 1  # rows that the official code reserves
        return self._info(named, size, layout.persons, layout.train_captions, layout.captions)

    def load(self) -> Splits:
        """The prepared images and captions. Raises DataError where they were not prepared."""
        prepared = open_prepared(self.dataset, self.root)
        metadata = prepared.metadata
        vocabulary = tuple(metadata["vocabulary"])
        if self.vocabulary:
            vocabulary = read_vocabulary(self.vocabulary)
        known = np.unique(prepared.index["train/person"])
        captions = metadata["captions"]
        encode = self._encoder(vocabulary)

        train = self._training_rows(prepared.records("train"), known, captions, encode)
        held_out = [split for split in (self.select_on, *SPLITS[1:]) if split in prepared.sources]
        found = {split: prepared.records(split) for split in dict.fromkeys(held_out)}
        if not found:
            raise DataError(f"{prepared.path}: neither val nor test; prepare it again")
        ids = np.concatenate([part.columns["image_id"] for part in found.values()])
        widest = max(len(captions[i]) for i in ids)
        crop = self._crop()
        evaluation = {
            split: Stream(
                self._evaluation_rows(part, captions, encode, widest),
                CropTransform(crop, train=False),
            )
            for split, part in found.items()
        }
        sampler = functools.partial(
            IdentityChunks,
            identities=train.columns["person"],
            per_identity=self.per_identity,
            balanced=self.balanced,
        )
        size = tokenizer(self.bpe).size if self.tokens == "bpe" else len(vocabulary) + 1
        info = self._info(vocabulary, size, len(known), len(train), widest)
        if self.tokens == "words" and not self.word_table:
            # Nothing may stand in for the word vectors of a run.
            info = dataclasses.replace(info, facts={**info.facts, "word_width": None})
        stream = Stream(train, CropTransform(crop, train=self.augment), sampler=sampler)
        return Splits(train=stream, evaluation=evaluation, info=info)

    def _training_rows(
        self,
        records: Records,
        known: np.ndarray,
        captions: Sequence[Sequence[str]],
        encode: Encode,
    ) -> CaptionRows:
        """One row a caption; persons are numbered from 0 in the order of their ids."""
        image_ids = records.columns["image_id"]
        image = np.repeat(np.arange(len(records)), [len(captions[i]) for i in image_ids])
        ids, length = self._padded(records, captions, encode)
        person = np.searchsorted(known, records.columns["person"]).astype(np.int32)
        columns = {
            "words": ids,
            "length": length,
            "person": person[image],
            "image_id": image_ids[image],
        }
        return CaptionRows(records.only(), image, columns)

    def _evaluation_rows(
        self,
        records: Records,
        captions: Sequence[Sequence[str]],
        encode: Encode,
        widest: int,
    ) -> CaptionRows:
        """One row an image, with all its captions."""
        counts = np.array([len(captions[i]) for i in records.columns["image_id"]])
        real = np.arange(widest) < counts[:, None]
        flat, flat_length = self._padded(records, captions, encode)
        ids = np.zeros((*real.shape, self.max_length), np.int32)
        length = np.zeros(real.shape, np.int32)
        ids[real], length[real] = flat, flat_length
        columns = {"words": ids, "length": length, **records.columns}
        return CaptionRows(records.only(), np.arange(len(records)), columns)

    def _padded(
        self, records: Records, captions: Sequence[Sequence[str]], encode: Encode
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids [N, T] and lengths [N] of all captions of the records, in order."""
        rows, names = [], []
        for place, image_id in enumerate(records.columns["image_id"]):
            for caption in captions[image_id]:
                rows.append(encode(caption))
                names.append(place)
        if self.tokens == "bpe" and self.too_long == "cut":
            # The end marker is where a sentence is read; it stays.
            rows = [[*row[: self.max_length - 1], row[-1]] for row in rows]
        named = _Names(records, names)
        return words.padded(rows, self.max_length, names=named, cut=self.too_long == "cut")

    def _crop(self) -> PersonCrop:
        mean, std = self._pixels()
        return PersonCrop(self.size, mean, std, fill=self.erase_fill)

    def _pixels(self) -> tuple[Any, Any]:
        if self.pixels == "clip":
            return CLIP_MEAN, CLIP_STD
        return images.IMAGENET_MEAN, images.IMAGENET_STD

    def _encoder(self, vocabulary: Sequence[str]) -> Encode:
        if self.tokens == "bpe":
            return functools.partial(encode_tokens, vocabulary=(), path=self.bpe)
        return words.encoder(vocabulary)

    def _info(
        self, vocabulary: Sequence[str], size: int, persons: int, examples: int, captions: int
    ) -> DataInfo:
        mean, std = self._pixels()
        shape = (*self.size, 3)
        facts: dict[str, Any] = {"mean": mean, "std": std, "tokens": self.tokens}
        if self.tokens == "bpe":
            made = tokenizer(self.bpe)
            facts |= {
                "vocabulary": ["any text"],
                "vocabulary_size": made.size,
                "encode": functools.partial(encode_tokens, path=self.bpe),
                "decode": lambda ids, _: made.decode(ids),
            }
            kept: tuple[str, ...] = ("vocabulary_size",)
        else:
            table = read_word_table(self.word_table) if self.word_table else None
            facts |= {
                "vocabulary": list(vocabulary),
                "vocabulary_size": size if vocabulary or table is None else len(table),
                "encode": words.encode_words,
                "decode": words.decode_words,
                "word_table": table,
                "word_width": 512 if table is None else table.shape[1],
            }
            kept = ("vocabulary", "vocabulary_size", "word_width")
        return DataInfo(
            element=_element(shape, (self.max_length,), ()),
            eval_element=_element(shape, (captions, self.max_length), (captions,)),
            num_examples=examples,
            class_names=tuple(f"person {i}" for i in range(persons)),
            facts=facts,
            kept=kept,
        )


def _element(image: Any, text: Any, length: Any) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        "image": jax.ShapeDtypeStruct(image, np.float32),
        "words": jax.ShapeDtypeStruct(text, np.int32),
        "length": jax.ShapeDtypeStruct(length, np.int32),
        "person": jax.ShapeDtypeStruct((), np.int32),
        "image_id": jax.ShapeDtypeStruct((), np.int32),
    }
