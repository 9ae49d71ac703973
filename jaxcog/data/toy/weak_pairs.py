"""Real handwritten digits with texts that say little about them: weak correlation, no download.

A text names some cells of the image, by chance the digit, and is filled up with words that mean
nothing. It is drawn anew each time a training image is seen. (Sheet of BriVL, its learning check.)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxcog.data.types import ArraySource, Record, Splits, Stream
from jaxcog.data.wordpiece import SPECIALS, WordPiece
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CHINESE = "零一二三四五六七八九"
LEVELS = ("blank", "faint", "dark")
FILLERS = (
    *("a", "the", "photo", "happy", "birthday", "make", "wish", "today", "nice", "my"),
    *("look", "at", "this", "we", "love", "new", "day", "life", "good", "very"),
)
_GRID = 4
_SIDE = 8
_TRAINING = 1437
_DIGITS = 1797
_TOLD_CELLS = 6
_LOW, _HIGH = 0.2, 0.55


def synonyms(digit: int) -> tuple[str, str, str]:
    """How texts may call a digit."""
    return NAMES[digit], str(digit), CHINESE[digit]


def cell_word(cell: int, level: int) -> str:
    """The word for a level of one of the 16 cells, row a-d and column 1-4, such as "b3dark"."""
    return f"{'abcd'[cell // _GRID]}{cell % _GRID + 1}{LEVELS[level]}"


@functools.cache
def vocabulary() -> WordPiece:
    """Special tokens, 48 words for cells, 30 for digits, 20 that mean nothing."""
    cells = [cell_word(c, level) for c in range(_GRID**2) for level in range(3)]
    digits = [word for digit in range(10) for word in synonyms(digit)]
    return WordPiece([*SPECIALS, *cells, *digits, *FILLERS])


@dataclasses.dataclass(frozen=True)
class WeakDigits:
    """1437 digits to learn from, 360 to be tested on, whose texts are drawn once.

    Records: "image" uint8 [size, size, 3], "ids" int32 [text_length]; in evaluation also "label".
    Facts: "class_ids" int32 [10, 3, text_length], the names of the digits as texts;
    "image_statistics" (), of the images to learn from, in [0, 1]: their mean [size, size, 3] and
    their principal components [R, size, size, 3], each as long as images deviate along it.

    size: side of the images, a multiple of 8; the digits are 8x8, enlarged by repetition.
    named: share of the texts that name the digit.
    shuffle_pairs: texts of a batch are given to other images of it: nothing can be learned.
    """

    size: int = _SIDE
    text_length: int = 16
    named: float = 0.5
    shuffle_pairs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < _SIDE or self.size % _SIDE:
            raise ConfigError(f"data.size={self.size}: a multiple of {_SIDE}")
        if self.text_length < 16:
            raise ConfigError(f"data.text_length={self.text_length}: texts take up to 16 tokens")

    def describe(self) -> DataInfo:
        element = {
            "image": jax.ShapeDtypeStruct((self.size, self.size, 3), np.uint8),
            "ids": jax.ShapeDtypeStruct((self.text_length,), np.int32),
        }
        label = jax.ShapeDtypeStruct((), np.int32)
        classes = [vocabulary().encode(synonyms(d), self.text_length)[0] for d in range(10)]
        return DataInfo(
            element=element,
            num_examples=_TRAINING,
            class_names=NAMES,
            eval_element={**element, "label": label},
            facts={
                "vocab": len(vocabulary()),
                "tokenizer": vocabulary,
                "class_ids": np.stack(classes),
                "image_statistics": self._statistics,
            },
        )

    def load(self) -> Splits:
        learn, test = self.sources()
        return Splits(
            train=Stream(learn, batch_transform=self._told),
            evaluation={"test": Stream(test)},
            info=self.describe(),
        )

    def sources(self) -> tuple[ArraySource, ArraySource]:
        """(what texts are made of, pairs to be tested on)."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels, labels = digits.images / 16, digits.target.astype(np.int32)
        random = np.random.default_rng([self.seed, 1])
        order = random.permutation(_DIGITS)
        images = self._images(pixels)
        cells = pixels.reshape(-1, _GRID, 2, _GRID, 2).mean(axis=(2, 4)).reshape(-1, _GRID**2)
        levels = (cells >= _LOW).astype(np.int32) + (cells >= _HIGH)
        train, test = order[:_TRAINING], order[_TRAINING:]
        rows = {"image": images[train], "levels": levels[train], "label": labels[train]}
        ids = self._texts(levels[test], labels[test], random)
        tested = {"image": images[test], "ids": ids, "label": labels[test]}
        return ArraySource(rows), ArraySource(tested)

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        images = self.sources()[0].arrays["image"] / 255
        mean = images.mean(axis=0)
        _, lengths, parts = np.linalg.svd(
            (images - mean).reshape(len(images), -1), full_matrices=False
        )
        deviations = lengths / np.sqrt(len(images))
        varied = deviations > 1e-3
        parts = (deviations[:, None] * parts)[varied]
        return mean, parts.reshape(-1, *mean.shape)

    def _images(self, pixels: np.ndarray) -> np.ndarray:
        times = self.size // _SIDE
        large = np.repeat(np.repeat(pixels, times, axis=1), times, axis=2)
        grey = np.round(255 * large).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)

    def _told(self, batch: Mapping[str, Any], random: np.random.Generator) -> Record:
        ids = self._texts(batch["levels"], batch["label"], random)
        if self.shuffle_pairs:
            ids = random.permutation(ids)
        return {"image": batch["image"], "ids": ids}

    def _texts(
        self, levels: np.ndarray, labels: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """levels [N, 16], labels [N] -> ids [N, text_length] of one text each."""
        words = [
            self._words(row, int(label), random) for row, label in zip(levels, labels, strict=True)
        ]
        ids = np.zeros((len(words), self.text_length), np.int32)
        table = vocabulary().ids
        for row, text in zip(ids, words, strict=True):
            tokens = [table["[CLS]"], *(table[word] for word in text), table["[SEP]"]]
            row[: len(tokens)] = tokens
        return ids

    def _words(self, levels: np.ndarray, label: int, random: np.random.Generator) -> list[str]:
        told = random.permutation(_GRID**2)[:_TOLD_CELLS]
        words = [cell_word(int(cell), int(levels[cell])) for cell in told]
        if random.random() < self.named:
            words.append(synonyms(label)[random.integers(3)])
        count = random.integers(1, 5)
        words += [FILLERS[i] for i in random.integers(0, len(FILLERS), count)]
        return [words[i] for i in random.permutation(len(words))]


@dataclasses.dataclass(frozen=True)
class DigitNews:
    """Texts that name a digit among other words, to be classified: "ids" and "label".

    Facts as those of WeakDigits.
    """

    text_length: int = 16
    seed: int = 0

    def describe(self) -> DataInfo:
        pairs = WeakDigits(text_length=self.text_length).describe()
        element = {"ids": pairs.element["ids"], "label": jax.ShapeDtypeStruct((), np.int32)}
        return dataclasses.replace(pairs, element=element, eval_element=None)

    def load(self) -> Splits:
        digits = WeakDigits(text_length=self.text_length, named=1.0, seed=self.seed)
        pairs = digits.sources()[1].arrays
        rows = ArraySource({"ids": pairs["ids"], "label": pairs["label"]})
        return Splits(Stream(rows), {"test": Stream(rows)}, self._info(len(rows)))

    def _info(self, count: int) -> DataInfo:
        return dataclasses.replace(self.describe(), num_examples=count)


QUESTION_TYPES = ("what", "where", "when", "who", "why", "how")


@dataclasses.dataclass(frozen=True)
class DigitQuestions:
    """A digit and four names, one of them right: "image", "ids" [4, L], "label", "type".

    Facts: "types", names of the kinds of questions.
    """

    size: int = _SIDE
    text_length: int = 16
    seed: int = 0

    def describe(self) -> DataInfo:
        pairs = WeakDigits(self.size, self.text_length).describe()
        number = jax.ShapeDtypeStruct((), np.int32)
        element = {
            "image": pairs.element["image"],
            "ids": jax.ShapeDtypeStruct((4, self.text_length), np.int32),
            "label": number,
            "type": number,
        }
        facts = {**pairs.facts, "types": QUESTION_TYPES}
        return DataInfo(element=element, num_examples=_DIGITS - _TRAINING, facts=facts)

    def load(self) -> Splits:
        tested = WeakDigits(self.size, self.text_length, seed=self.seed).sources()[1].arrays
        random = np.random.default_rng([self.seed, 2])
        count = len(tested["label"])
        place = random.integers(0, 4, count).astype(np.int32)
        texts = []
        for digit, right in zip(tested["label"], place, strict=True):
            others = [int(d) for d in random.permutation(10) if d != digit][:3]
            answers = [*others[:right], int(digit), *others[right:]]
            texts += [f"look at this {NAMES[answer]}" for answer in answers]
        ids = vocabulary().encode(texts, self.text_length)[0]
        kinds = random.integers(0, len(QUESTION_TYPES), count).astype(np.int32)
        rows = ArraySource(
            {
                "image": tested["image"],
                "ids": ids.reshape(count, 4, -1),
                "label": place,
                "type": kinds,
            }
        )
        return Splits(Stream(rows), {"test": Stream(rows)}, self.describe())
