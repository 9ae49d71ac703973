"""Generated persons and sentences about them: four garments in five colours, two words a colour.

An image has one coloured patch a garment; a caption names most of them. Captions are real sentences
with a small vocabulary, so that a trained run can be asked in words.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import numpy as np

from jaxcog.data import words
from jaxcog.data.samplers import IdentityChunks
from jaxcog.data.types import ArraySource, Splits, Stream
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo

COLOURS = {
    ("red", "scarlet"): (1, 0, 0),
    ("green", "emerald"): (0, 1, 0),
    ("blue", "navy"): (0, 0, 1),
    ("yellow", "golden"): (1, 1, 0),
    ("magenta", "pink"): (1, 0, 1),
}
GARMENTS = ("hat", "coat", "bag", "shoes")
FILLERS = ("a", "the", "person", "wearing", "with", "and", "walking", "outside")
VOCABULARY = (*GARMENTS, *(name for pair in COLOURS for name in pair), *FILLERS)

_IMAGES, _CAPTIONS = 3, 2
_TEST_IMAGES = 2
_FIRST_COLOUR = 1 + len(GARMENTS)


@dataclasses.dataclass(frozen=True)
class Persons:
    """Persons of random colours, each with a few noisy, shifted images and two captions an image.

    Records: "image" float32 [size, size, 3]; "words" int32 [T], "length"; "person"; "image_id".
    One training record is one caption with its image. Evaluation split "test" has other persons.

    persons, test_persons: how many. size: side of an image, a multiple of 2.
    train_words, test_words: which of a colour's two words captions use: "both", "first", "second".
    table: word vectors, "random" or "related": both words of a colour get similar ones.
    per_identity: captions of one person in a batch.
    seed: of persons, images and captions; the word vectors are the same for all.
    """

    persons: int = 120
    test_persons: int = 100
    size: int = 16
    train_words: Literal["both", "first", "second"] = "both"
    test_words: Literal["both", "first", "second"] = "both"
    table: Literal["random", "related"] = "random"
    width: int = 24
    max_length: int = 12
    per_identity: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 8 or self.size % 2:
            raise ConfigError(f"data.size={self.size}: even, and at least 8 pixels")
        if min(self.persons, self.test_persons) < 2:
            raise ConfigError(
                f"data.persons={self.persons}, data.test_persons={self.test_persons}: at least 2"
            )
        if self.max_length < 3 * len(GARMENTS):
            raise ConfigError(
                f"data.max_length={self.max_length}: captions have up to {3 * len(GARMENTS)} words"
            )

    def describe(self) -> DataInfo:
        """What a task must know; makes nothing but the word vectors."""
        return DataInfo(
            element=_element((self.size, self.size, 3), (self.max_length,), ()),
            eval_element=_element(
                (self.size, self.size, 3), (_CAPTIONS, self.max_length), (_CAPTIONS,)
            ),
            num_examples=self.persons * _IMAGES * _CAPTIONS,
            class_names=tuple(f"person {i}" for i in range(self.persons)),
            facts={
                "mean": (0.0, 0.0, 0.0),
                "std": (1.0, 1.0, 1.0),
                "tokens": "words",
                "encode": words.encode_words,
                "decode": words.decode_words,
                "vocabulary": list(VOCABULARY),
                "vocabulary_size": len(VOCABULARY) + 1,
                "word_width": self.width,
                "word_table": self._word_table(),
            },
            kept=("vocabulary", "vocabulary_size", "word_width"),
        )

    def load(self) -> Splits:
        """All images and captions, in memory."""
        random = np.random.default_rng([self.seed, 1])
        train = self._world(self.persons, _IMAGES, self.train_words, random)
        test = self._world(self.test_persons, _TEST_IMAGES, self.test_words, random)
        flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in train.items()
                if name in ("words", "length")}  # fmt: skip
        repeated = {name: np.repeat(train[name], _CAPTIONS, axis=0)
                    for name in ("image", "person", "image_id")}  # fmt: skip
        source = ArraySource({**flat, **repeated})
        sampler = functools.partial(
            IdentityChunks, identities=repeated["person"], per_identity=self.per_identity
        )
        return Splits(
            train=Stream(source, sampler=sampler),
            evaluation={"test": Stream(ArraySource(test))},
            info=self.describe(),
        )

    def _word_table(self) -> np.ndarray:
        """float32 [V, width], row 0 for padding."""
        random = np.random.default_rng(0)
        table = random.normal(0, 0.5, (len(VOCABULARY) + 1, self.width))
        if self.table == "related":
            for i in range(len(COLOURS)):
                first = _FIRST_COLOUR + 2 * i
                table[first + 1] = 0.9 * table[first] + 0.2 * random.standard_normal(self.width)
        table[0] = 0
        return table.astype(np.float32)

    def _world(
        self, persons: int, images: int, kind: str, random: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Arrays with one row an image; "words" [N, 2, T], "length" [N, 2]."""
        colours = random.integers(0, len(COLOURS), (persons, len(GARMENTS)))
        person = np.repeat(np.arange(persons), images)
        count = len(person)
        ids = np.zeros((count, _CAPTIONS, self.max_length), np.int32)
        length = np.ones((count, _CAPTIONS), np.int32)
        for row in range(count):
            for caption in range(_CAPTIONS):
                sentence = self._caption(colours[person[row]], kind, random)
                ids[row, caption, : len(sentence)] = sentence
                length[row, caption] = max(len(sentence), 1)
        return {
            "image": self._images(colours[person], random),
            "words": ids,
            "length": length,
            "person": person.astype(np.int32),
            "image_id": np.arange(count, dtype=np.int32),
        }

    def _caption(self, colours: np.ndarray, kind: str, random: np.random.Generator) -> list[int]:
        sentence: list[int] = []
        for garment in random.permutation(len(GARMENTS)):
            if random.random() < 0.1:
                continue
            second = {"both": random.integers(2), "first": 0, "second": 1}[kind]
            sentence.append(int(_FIRST_COLOUR + 2 * colours[garment] + second))
            sentence.append(int(1 + garment))
            if random.random() < 0.3:
                filler = random.integers(len(FILLERS))
                sentence.append(int(1 + len(VOCABULARY) - len(FILLERS) + filler))
        return sentence

    def _images(self, colours: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """colours [N, 4] -> float32 [N, size, size, 3]; garments in a 2 x 2 grid."""
        count, half = len(colours), self.size // 2
        base = np.array(list(COLOURS.values()), np.float64)[colours]
        patch = base * random.uniform(0.5, 1, (count, len(GARMENTS), 1))
        patch = patch + random.normal(0, 0.15, patch.shape)
        grid = patch.reshape(count, 2, 2, 3)
        image = grid.repeat(half, axis=1).repeat(half, axis=2)
        image = image + random.normal(0, 0.3, image.shape)
        image = image + random.normal(0, 0.15, (count, 1, 1, 3))
        shift = random.integers(-1, 2, (count, 2))
        moved = [np.roll(x, tuple(s), (0, 1)) for x, s in zip(image, shift, strict=True)]
        return np.stack(moved).astype(np.float32)


def _element(image: Any, text: Any, length: Any) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        "image": jax.ShapeDtypeStruct(image, np.float32),
        "words": jax.ShapeDtypeStruct(text, np.int32),
        "length": jax.ShapeDtypeStruct(length, np.int32),
        "person": jax.ShapeDtypeStruct((), np.int32),
        "image_id": jax.ShapeDtypeStruct((), np.int32),
    }
