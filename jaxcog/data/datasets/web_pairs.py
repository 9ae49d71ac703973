"""Image-text data of BriVL: web shards for pre-training, AIC-ICC for retrieval, named scenes.

Every dataset hands over "image" uint8 [size, size, 3] and "ids" int32 [text_length]. Images are
resized on the host, the aspect ratio ignored; colours are jittered on the device.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from jaxcog.data import images
from jaxcog.data.image_text import RowFilter, choose_text, open_pairs
from jaxcog.data.types import BadRecord, Record, Splits, Stream
from jaxcog.data.wordpiece import WordPiece, small_vocabulary
from jaxcog.errors import DataError
from jaxcog.task import DataInfo

CHINESE_VOCAB = 21128
"""Tokens of the vocabulary of the Chinese BERT and RoBERTa-wwm."""

_SCENE_SUFFIXES = (".tif", ".tiff", ".jpg", ".jpeg", ".png")
_LOG = logging.getLogger(__name__)


@functools.cache
def tokenizer_of(vocabulary: str | None, tokens: int | None = None) -> WordPiece:
    """The vocab.txt of that path, or the small embedded vocabulary.

    tokens: how many it must have. Raises DataError.
    """
    found = small_vocabulary() if vocabulary is None else WordPiece.from_file(vocabulary)
    if tokens is not None and len(found) != tokens:
        name = vocabulary or "the small embedded vocabulary"
        raise DataError(
            f"{name} has {len(found)} tokens, {tokens} are expected by data.vocab: set "
            "data.vocabulary to the vocab.txt that the checkpoint was trained with, or "
            "data.vocab and task.model.bert.vocab to its size to train a new text encoder"
        )
    return found


@dataclasses.dataclass(frozen=True)
class Decode:
    """A record's image bytes as uint8 [size, size, 3], antialiased or not.

    Raises BadRecord where they are no image, or one of an odd shape.
    """

    size: int
    antialias: bool = False
    shortest_side: int = 32
    widest_aspect: float = 5.0

    def __call__(self, data: bytes) -> np.ndarray:
        image = images.decode(data)
        height, width = image.shape[:2]
        if min(height, width) < self.shortest_side:
            raise BadRecord(f"{width}x{height}: a side below {self.shortest_side} pixels")
        if max(height, width) > self.widest_aspect * min(height, width):
            raise BadRecord(f"{width}x{height}: an aspect above {self.widest_aspect:g}")
        if self.antialias:
            return images.resize(image, self.size, self.size)
        return resize_plain(image, self.size)


def resize_plain(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [size, size, 3], bilinear with half-pixel centres, not antialiased."""

    def axis(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, length - 1), (at - low).astype(np.float32)

    (top, bottom, down), (left, right, across) = axis(image.shape[0]), axis(image.shape[1])
    down, across = down[:, None, None], across[None, :, None]
    upper = image[top][:, left] * (1 - across) + image[top][:, right] * across
    lower = image[bottom][:, left] * (1 - across) + image[bottom][:, right] * across
    return np.round(upper * (1 - down) + lower * down).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class PairTransform:
    """A record of image bytes and texts as arrays.

    draw: one of several captions by chance (training), else the first.
    """

    decode: Decode
    tokenizer: Callable[[], WordPiece]
    length: int
    fields: tuple[str, ...] = ()
    draw: bool = False
    kept: tuple[str, ...] = ("pair",)

    def __call__(self, record: Record, random: np.random.Generator) -> Record:
        text = choose_text(record["texts"], self.fields, random if self.draw else None)
        ids, _ = self.tokenizer().encode([text], self.length)
        kept = {name: np.asarray(record[name], np.int32) for name in self.kept}
        return {"image": self.decode(record["image"]), "ids": ids[0], **kept}


def pair_element(size: int, length: int, *numbers: str) -> dict[str, Any]:
    """The element of a dataset of pairs, with further int32 numbers by name."""
    number = jax.ShapeDtypeStruct((), np.int32)
    return {
        "image": jax.ShapeDtypeStruct((size, size, 3), np.uint8),
        "ids": jax.ShapeDtypeStruct((length,), np.int32),
        **dict.fromkeys(numbers, number),
    }


def text_facts(vocabulary: str | None, vocab: int) -> dict[str, Any]:
    """What tasks want to know about texts; the file is read only when it is asked for."""
    return {"vocab": vocab, "tokenizer": functools.partial(tokenizer_of, vocabulary, vocab)}


@dataclasses.dataclass(frozen=True)
class WebPairs:
    """Weakly correlated pairs from the web, for pre-training (see jaxcog.data.image_text).

    path: a folder, or a pattern of shards; valid: the same, for evaluation by retrieval.
    fields: of a row's texts, in order of preference; none of them: any.
    vocabulary: path of a vocab.txt; None: the small embedded one. vocab: its size.
    antialias: of the resizing; the official features were made without.
    examples: how many pairs there are, for planning before the data is there.
    """

    path: str = "~/jaxcog_data/web_pairs/train"
    valid: str = "~/jaxcog_data/web_pairs/valid"
    size: int = 600
    text_length: int = 80
    vocabulary: str | None = "~/jaxcog_data/vocab.txt"
    vocab: int = CHINESE_VOCAB
    fields: tuple[str, ...] = ("easy", "sur_text", "content", "surText", "text")
    antialias: bool = False
    filter: RowFilter = dataclasses.field(default_factory=RowFilter)
    examples: int = 650_000_000

    def describe(self) -> DataInfo:
        return DataInfo(
            element=pair_element(self.size, self.text_length, "pair"),
            num_examples=self.examples,
            facts=text_facts(self.vocabulary, self.vocab),
        )

    def load(self) -> Splits:
        info = self.describe()
        tokenizer = info.facts["tokenizer"]
        tokenizer()
        make = functools.partial(
            PairTransform,
            Decode(self.size, self.antialias),
            tokenizer,
            self.text_length,
            self.fields,
        )
        train, valid = (open_pairs(path, self.filter) for path in (self.path, self.valid))
        for source in (train, valid):
            _LOG.warning("%s", source.listing.report())
        return Splits(
            train=Stream(train, make(draw=True)),
            evaluation={"valid": Stream(valid, make())},
            info=dataclasses.replace(info, num_examples=len(train)),
        )


class _Captions:
    """AIC-ICC rows as records: one for each image (training), or for each caption."""

    def __init__(self, root: Path, rows: Sequence[tuple[str, int, tuple[str, ...]]]):
        self.root = root
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        name, group, captions = self.rows[index]
        try:
            data = (self.root / name).read_bytes()
        except OSError as error:
            raise BadRecord(error.strerror or "cannot be opened") from error
        texts = tuple(("caption", caption) for caption in captions)
        return {"image": data, "texts": texts, "group": group}

    def name_of(self, index: int) -> str:
        return self.rows[index][0]


@dataclasses.dataclass(frozen=True)
class AICCaptions:
    """AI Challenger image captions in Chinese, for retrieval: 210 000 images with 5 captions each.

    root: holds the official `caption_train_annotations_20170902.json` and
      `caption_validation_annotations_20170910.json`, with the images in the folders
      `caption_train_images_20170902` and `caption_validation_images_20170910`.
    tested: evaluation is on so many validation images, the first ones.
    """

    root: str = "~/jaxcog_data/aic_icc"
    size: int = 456
    text_length: int = 80
    vocabulary: str | None = "~/jaxcog_data/vocab.txt"
    vocab: int = CHINESE_VOCAB
    tested: int = 10_000

    _FILES: ClassVar = {
        "train": ("caption_train_annotations_20170902.json", "caption_train_images_20170902"),
        "valid": (
            "caption_validation_annotations_20170910.json",
            "caption_validation_images_20170910",
        ),
    }

    def describe(self) -> DataInfo:
        return DataInfo(
            element=pair_element(self.size, self.text_length, "group"),
            num_examples=210_000,
            facts=text_facts(self.vocabulary, self.vocab),
        )

    def load(self) -> Splits:
        info = self.describe()
        tokenizer = info.facts["tokenizer"]
        tokenizer()
        make = functools.partial(
            PairTransform, Decode(self.size), tokenizer, self.text_length, kept=("group",)
        )
        train, valid = self._read("train"), self._read("valid")
        tested = [
            (name, group, (caption,))
            for name, group, captions in valid.rows[: self.tested]
            for caption in captions
        ]
        return Splits(
            train=Stream(train, make(draw=True)),
            evaluation={"valid": Stream(_Captions(valid.root, tested), make())},
            info=dataclasses.replace(info, num_examples=len(train)),
        )

    def _read(self, split: str) -> _Captions:
        root = Path(self.root).expanduser()
        file, folder = self._FILES[split]
        try:
            entries = json.loads((root / file).read_bytes())
            # Captions have a space between words; the text encoder wants none.
            rows = [
                (entry["image_id"], i, tuple("".join(c.split()) for c in entry["caption"]))
                for i, entry in enumerate(entries)
            ]
        except FileNotFoundError as error:
            raise DataError(f"{root / file} is missing: {type(self).__doc__}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{root / file} is not AIC-ICC's list of captions ({error})") from error
        return _Captions(root / folder, rows)


@dataclasses.dataclass(frozen=True)
class NamedScenes:
    """Remote sensing scenes in a folder a class (UCM, AID), to be recognised by name alone.

    No image is learned from: give the run a checkpoint (train.start_from) and "0 steps".

    root: holds one folder a class. names: folder -> what texts call it; None: the folder's name.
    prompts: texts in which {} stands for the name; a class is the mean of their embeddings.
    """

    root: str = "~/jaxcog_data/UCMerced_LandUse/Images"
    size: int = 456
    text_length: int = 80
    vocabulary: str | None = "~/jaxcog_data/vocab.txt"
    vocab: int = CHINESE_VOCAB
    names: tuple[tuple[str, str], ...] = ()
    prompts: tuple[str, ...] = ("{}", "一张{}的卫星图片")

    def describe(self) -> DataInfo:
        return self._info([name for _, name in self.names])

    def load(self) -> Splits:
        root = Path(self.root).expanduser()
        folders = sorted(path for path in root.glob("*") if path.is_dir())
        if not folders:
            raise DataError(f"{root}: no folders of classes there; set data.root")
        names = dict(self.names)
        unknown = [folder.name for folder in folders if names and folder.name not in names]
        if unknown:
            raise DataError(f"{root}: data.names says nothing of {', '.join(unknown[:5])}")
        rows = [
            (file, label)
            for label, folder in enumerate(folders)
            for file in sorted(folder.iterdir())
            if file.suffix.lower() in _SCENE_SUFFIXES
        ]
        titles = [names.get(folder.name, folder.name) for folder in folders]
        info = self._info(titles, read=True)
        stream = Stream(_Files(rows), _Labelled(Decode(self.size), info.facts["class_ids"]))
        return Splits(
            train=stream,
            evaluation={"test": stream},
            info=dataclasses.replace(info, num_examples=len(rows)),
        )

    def _info(self, titles: Sequence[str], read: bool = False) -> DataInfo:
        facts = text_facts(self.vocabulary, self.vocab)
        size = (len(titles), len(self.prompts), self.text_length)
        class_ids = np.zeros(size, np.int32)
        if read:
            texts = [prompt.format(title) for title in titles for prompt in self.prompts]
            class_ids = facts["tokenizer"]().encode(texts, self.text_length)[0].reshape(size)
        element = pair_element(self.size, self.text_length, "label")
        tested = {name: value for name, value in element.items() if name != "ids"}
        return DataInfo(
            element=element,
            num_examples=2100,
            class_names=tuple(titles),
            eval_element=tested,
            facts={**facts, "class_ids": class_ids},
        )


class _Files:
    def __init__(self, rows: Sequence[tuple[Path, int]]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        path, label = self.rows[index]
        return {"image": path.read_bytes(), "label": label}

    def name_of(self, index: int) -> str:
        return str(self.rows[index][0])


@dataclasses.dataclass(frozen=True, eq=False)
class _Labelled:
    """A record's image, its class, and the class's first name as a text."""

    decode: Decode
    class_ids: np.ndarray

    def __call__(self, record: Mapping[str, Any], random: np.random.Generator) -> Record:
        label = np.int32(record["label"])
        ids = self.class_ids[label, 0]
        return {"image": self.decode(record["image"]), "ids": ids, "label": label}
