"""What BriVL is fine-tuned on: news titles (Toutiao, THUCNews) and questions about images."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcog.data.datasets.web_pairs import CHINESE_VOCAB, Decode, text_facts
from jaxcog.data.types import BadRecord, Record, Splits, Stream
from jaxcog.data.wordpiece import WordPiece
from jaxcog.errors import DataError
from jaxcog.task import DataInfo

TOUTIAO = (
    ("news_story", "故事"),
    ("news_culture", "文化"),
    ("news_entertainment", "娱乐"),
    ("news_sports", "体育"),
    ("news_finance", "财经"),
    ("news_house", "房产"),
    ("news_car", "汽车"),
    ("news_edu", "教育"),
    ("news_tech", "科技"),
    ("news_military", "军事"),
    ("news_travel", "旅游"),
    ("news_world", "国际"),
    ("stock", "股票"),
    ("news_agriculture", "农业"),
    ("news_game", "游戏"),
)
"""Class in the file -> its name in Chinese."""

QUESTION_TYPES = ("what", "where", "when", "who", "why", "how")


class _Rows:
    """Rows in memory; each becomes a record of its own."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], where: str):
        self.rows = rows
        self.where = where

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        return dict(self.rows[index])

    def name_of(self, index: int) -> str:
        return f"{self.where}, row {index}"


@dataclasses.dataclass(frozen=True)
class _Titles:
    tokenizer: Callable[[], WordPiece]
    length: int

    def __call__(self, record: Record, random: np.random.Generator) -> Record:
        ids, _ = self.tokenizer().encode([record["text"]], self.length)
        return {"ids": ids[0], "label": np.int32(record["label"])}


def _news_info(
    names: Sequence[str], length: int, vocabulary: str | None, vocab: int, read: bool
) -> DataInfo:
    facts = text_facts(vocabulary, vocab)
    if read:
        facts["class_ids"] = facts["tokenizer"]().encode(names, length)[0][:, None]
    return DataInfo(
        element={
            "ids": jax.ShapeDtypeStruct((length,), np.int32),
            "label": jax.ShapeDtypeStruct((), np.int32),
        },
        num_examples=300_000,
        class_names=tuple(names),
        facts=facts,
    )


def _news_splits(
    rows: list[dict[str, Any]], where: str, info: DataInfo, length: int, tested: float
) -> Splits:
    """A seeded part of the rows is for testing: neither set has an official split."""
    order = np.random.default_rng(0).permutation(len(rows))
    cut = int(len(rows) * tested)
    test, train = ([rows[i] for i in part] for part in (order[:cut], order[cut:]))
    transform = _Titles(info.facts["tokenizer"], length)
    return Splits(
        train=Stream(_Rows(train, where), transform),
        evaluation={"test": Stream(_Rows(test, where), transform)},
        info=dataclasses.replace(info, num_examples=len(train)),
    )


@dataclasses.dataclass(frozen=True)
class ToutiaoNews:
    """Toutiao titles: lines `id_!_code_!_class_!_title_!_keywords` of `toutiao_cat_data.txt`."""

    path: str = "~/jaxcog_data/toutiao_cat_data.txt"
    text_length: int = 80
    vocabulary: str | None = "~/jaxcog_data/vocab.txt"
    vocab: int = CHINESE_VOCAB
    tested: float = 0.1

    def describe(self) -> DataInfo:
        return self._info(read=False)

    def load(self) -> Splits:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise DataError(f"{path} is missing: set data.path to toutiao_cat_data.txt")
        places = {name: i for i, (name, _) in enumerate(TOUTIAO)}
        rows = []
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            parts = line.split("_!_")
            if len(parts) < 4 or parts[2] not in places:
                raise DataError(
                    f"{path}, line {number}: {line[:60]!r} is not id_!_code_!_class_!_title_!_words"
                )
            if parts[3].strip():
                rows.append({"text": parts[3], "label": places[parts[2]]})
        if not rows:
            raise DataError(f"{path} has no titles")
        return _news_splits(rows, str(path), self._info(True), self.text_length, self.tested)

    def _info(self, read: bool) -> DataInfo:
        names = [name for _, name in TOUTIAO]
        return _news_info(names, self.text_length, self.vocabulary, self.vocab, read)


THUC = (
    *("财经", "彩票", "房产", "股票", "家居", "教育", "科技"),
    *("社会", "时尚", "时政", "体育", "星座", "游戏", "娱乐"),
)


@dataclasses.dataclass(frozen=True)
class THUCNews:
    """THUCNews: a folder for each of 14 classes, a .txt file for each article."""

    root: str = "~/jaxcog_data/THUCNews"
    text_length: int = 80
    vocabulary: str | None = "~/jaxcog_data/vocab.txt"
    vocab: int = CHINESE_VOCAB
    tested: float = 0.1

    def describe(self) -> DataInfo:
        return _news_info(THUC, self.text_length, self.vocabulary, self.vocab, read=False)

    def load(self) -> Splits:
        root = Path(self.root).expanduser()
        missing = [name for name in THUC if not (root / name).is_dir()]
        if missing:
            raise DataError(f"{root}: no folders {', '.join(missing[:5])}; set data.root")
        rows = [
            {"text": file.read_text(errors="replace"), "label": label}
            for label, name in enumerate(THUC)
            for file in sorted((root / name).glob("*.txt"))
        ]
        info = _news_info(THUC, self.text_length, self.vocabulary, self.vocab, read=True)
        return _news_splits(rows, str(root), info, self.text_length, self.tested)


@dataclasses.dataclass(frozen=True)
class _Answers:
    """A question with four answers, in an order that depends on the question alone."""

    decode: Decode
    tokenizer: Callable[[], WordPiece]
    length: int

    def __call__(self, record: Record, random: np.random.Generator) -> Record:
        answers = [record["answer"], *record["others"]]
        order = np.random.default_rng(record["number"]).permutation(len(answers))
        texts = [f"{record['question']} {answers[i]}" for i in order]
        ids, _ = self.tokenizer().encode(texts, self.length)
        try:
            data = Path(record["file"]).read_bytes()
        except OSError as error:
            raise BadRecord(f"{record['file']}: {error.strerror}") from error
        return {
            "image": self.decode(data),
            "ids": ids,
            "label": np.int32(np.argmin(order)),
            "type": np.int32(record["type"]),
        }


@dataclasses.dataclass(frozen=True)
class Visual7W:
    """Visual7W, telling: `dataset_v7w_telling.json` (texts as they are in it) and its images."""

    root: str = "~/jaxcog_data/visual7w"
    size: int = 456
    text_length: int = 80
    vocabulary: str | None = "~/jaxcog_data/vocab.txt"
    vocab: int = CHINESE_VOCAB

    def describe(self) -> DataInfo:
        number = jax.ShapeDtypeStruct((), np.int32)
        return DataInfo(
            element={
                "image": jax.ShapeDtypeStruct((self.size, self.size, 3), np.uint8),
                "ids": jax.ShapeDtypeStruct((4, self.text_length), np.int32),
                "label": number,
                "type": number,
            },
            num_examples=69_817,
            facts={**text_facts(self.vocabulary, self.vocab), "types": QUESTION_TYPES},
        )

    def load(self) -> Splits:
        info, root = self.describe(), Path(self.root).expanduser()
        path = root / "dataset_v7w_telling.json"
        try:
            entries = json.loads(path.read_bytes())["images"]
            rows = {
                split: [
                    self._row(root / "images", entry, pair)
                    for entry in entries
                    if entry["split"] == split
                    for pair in entry["qa_pairs"]
                ]
                for split in ("train", "val", "test")
            }
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing: set data.root") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not Visual7W's file of questions ({error})") from error
        make = functools.partial(_Answers, Decode(self.size), info.facts["tokenizer"])
        transform = make(self.text_length)
        return Splits(
            train=Stream(_Rows(rows["train"], str(path)), transform),
            evaluation={"test": Stream(_Rows(rows["test"], str(path)), transform)},
            info=dataclasses.replace(info, num_examples=len(rows["train"])),
        )

    def _row(self, images: Path, entry: Any, pair: Any) -> dict[str, Any]:
        others = list(pair["multiple_choices"])
        if len(others) != 3:
            raise ValueError(f"question {pair.get('qa_id')} has {len(others)} wrong answers, not 3")
        return {
            "file": str(images / entry["filename"]),
            "question": pair["question"],
            "answer": pair["answer"],
            "others": others,
            "type": QUESTION_TYPES.index(pair["type"]),
            "number": int(pair["qa_id"]),
        }
