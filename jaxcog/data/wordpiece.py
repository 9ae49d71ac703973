"""BERT's WordPiece: text to token ids, from a vocabulary file or an embedded small vocabulary."""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxcog.errors import DataError

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIALS = (PAD, UNKNOWN, CLS, SEP, MASK)

_LONGEST_WORD = 100
_SPECIAL = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """Lower-cased text without accents, every Chinese character by itself, then longest matches.

    Attributes:
      tokens: the vocabulary; a token's place is its id. [PAD] has id 0.
    """

    def __init__(self, tokens: Sequence[str]):
        missing = [token for token in SPECIALS if token not in tokens]
        if missing:
            raise DataError(
                f"the vocabulary of {len(tokens)} tokens lacks {', '.join(missing)}: it is no "
                "BERT vocabulary (one token a line, the line's number is its id)"
            )
        self.tokens = tuple(tokens)
        self.ids = {token: i for i, token in enumerate(tokens)}
        if self.ids[PAD] != 0:
            raise DataError(f"[PAD] has id {self.ids[PAD]} in the vocabulary, 0 is expected")

    @classmethod
    def from_bytes(cls, data: bytes) -> WordPiece:
        """From a vocab.txt. Lines end at newline bytes only: some tokens are other separators."""
        return cls([line.decode() for line in data.removesuffix(b"\n").split(b"\n")])

    @classmethod
    def from_file(cls, path: str | Path) -> WordPiece:
        """Raises DataError where there is no such file, or it is no vocabulary."""
        try:
            return cls.from_bytes(Path(path).expanduser().read_bytes())
        except OSError as error:
            raise DataError(
                f"the vocabulary {path} cannot be read ({error.strerror}): give the vocab.txt that "
                "belongs to the text encoder, or none for the small embedded one"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"the vocabulary {path} is not UTF-8 ({error})") from error

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """[CLS] text [SEP], cut and zero-padded to `length`.

        Returns:
          (ids int32 [N, length], lengths int32 [N], with [CLS] and [SEP]).
        """
        ids = np.zeros((len(texts), length), np.int32)
        lengths = np.zeros(len(texts), np.int32)
        for row, text in enumerate(texts):
            pieces = [CLS, *self.split(text)[: length - 2], SEP]
            ids[row, : len(pieces)] = [self.ids[piece] for piece in pieces]
            lengths[row] = len(pieces)
        return ids, lengths

    def split(self, text: str) -> list[str]:
        """The tokens of a text, without [CLS] and [SEP]. Special tokens may be written in it."""
        pieces: list[str] = []
        for part in _SPECIAL.split(text):
            if part in SPECIALS:
                pieces.append(part)
            else:
                pieces += [piece for word in _words(part) for piece in self._pieces(word)]
        return pieces

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens joined by spaces, without padding and other special ones."""
        tokens = [self.tokens[int(i)] for i in ids]
        return " ".join(token for token in tokens if token not in SPECIALS).replace(" ##", "")

    def _pieces(self, word: str) -> list[str]:
        if len(word) > _LONGEST_WORD:
            return [UNKNOWN]
        pieces: list[str] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in self.ids), None)
            if end is None:
                return [UNKNOWN]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces


@functools.cache
def small_vocabulary() -> WordPiece:
    """Special tokens, then letters, digits and punctuation, alone and continuing a word.

    It spells any ASCII text, for toy worlds and tests without a file; other characters are [UNK].
    """
    characters = [*string.ascii_lowercase, *string.digits]
    continued = [f"##{character}" for character in characters]
    return WordPiece([*SPECIALS, *characters, *continued, *string.punctuation])


def _words(text: str) -> Iterator[str]:
    """Words and punctuation marks: cleaned, lower-cased, without accents."""
    cleaned = "".join(_cleaned(text))
    for word in cleaned.split():
        bare = "".join(
            character
            for character in unicodedata.normalize("NFD", word.lower())
            if unicodedata.category(character) != "Mn"
        )
        yield from _split_punctuation(bare)


def _cleaned(text: str) -> Iterator[str]:
    for character in text:
        code = ord(character)
        if code in (0, 0xFFFD) or _is_control(character):
            continue
        if character.isspace():
            yield " "
        elif any(low <= code <= high for low, high in _CJK):
            yield f" {character} "
        else:
            yield character


def _is_control(character: str) -> bool:
    if character in "\t\n\r":
        return False
    return unicodedata.category(character).startswith("C")


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _split_punctuation(word: str) -> Iterator[str]:
    start = 0
    for place, character in enumerate(word):
        if _is_punctuation(character):
            if place > start:
                yield word[start:place]
            yield character
            start = place + 1
    if start < len(word):
        yield word[start:]
