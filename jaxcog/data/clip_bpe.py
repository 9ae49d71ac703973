"""CLIP's byte-pair tokenizer (Radford et al. 2021): sentences to ids below 49408.

The merges are in a file of CLIP's, which lies beside this one; see vocabularies/README.md.
"""

from __future__ import annotations

import functools
import gzip
import html
import itertools
import unicodedata
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jaxcog.errors import DataError

VOCABULARY = Path(__file__).parent / "vocabularies" / "bpe_simple_vocab_16e6.txt.gz"
CONTEXT = 77
_MERGES = 49152 - 256 - 2
_START, _END = "<|startoftext|>", "<|endoftext|>"
_ENDINGS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_END_OF_WORD = "</w>"
# What `clean` does about typography; the halves of full-width forms follow from a fixed offset.
_QUOTES = str.maketrans(
    {
        **dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
        "\u3000": " ",
        **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},
        "\ufb00": "ff",
        "\ufb01": "fi",
        "\ufb02": "fl",
        "\ufb03": "ffi",
        "\ufb04": "ffl",
    }
)


def clean(text: str) -> str:
    """Straight quotes, half-width letters, no HTML entities, single spaces, lower case, NFC.

    It covers what the reference's `ftfy.fix_text` does to well-encoded text; text that was decoded
    with a wrong codec is not repaired.
    """
    text = unicodedata.normalize("NFC", html.unescape(text).translate(_QUOTES))
    text = html.unescape(html.unescape(text)).strip()
    return " ".join(text.split()).lower()


def byte_alphabet() -> list[str]:
    """The character that stands for each byte, in the order of their ids."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def _byte_characters() -> dict[int, str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in set(plain)]
    return dict(zip([*plain, *rest], byte_alphabet(), strict=True))


def split_pieces(text: str) -> list[str]:
    """Markers, English endings, runs of letters, single digits, runs of anything else but space."""
    pieces, place = [], 0
    while place < len(text):
        stop = _piece_end(text, place)
        if not text[place].isspace():
            pieces.append(text[place:stop])
        place = stop
    return pieces


def _piece_end(text: str, start: int) -> int:
    lower = text[start : start + len(_START)].lower()
    for literal in (_START, _END, *_ENDINGS):
        if lower.startswith(literal):
            return start + len(literal)
    kind = _kind(text[start])
    stop = start + 1
    if kind != "number":
        while stop < len(text) and _kind(text[stop]) == kind:
            stop += 1
    return stop


def _kind(character: str) -> str:
    if character.isspace():
        return "space"
    category = unicodedata.category(character)[0]
    return {"L": "letter", "N": "number"}.get(category, "other")


class ClipBpeTokenizer:
    """Byte pairs of CLIP's vocabulary file (gzipped text: a header line, then one merge a line).

    Raises:
      DataError: no such file, or another one.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path else VOCABULARY
        merges = _merges(self.path)
        alphabet = byte_alphabet()
        symbols = [*alphabet, *(c + _END_OF_WORD for c in alphabet)]
        symbols += ["".join(pair) for pair in merges]
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.ids = {symbol: i for i, symbol in enumerate([*symbols, _START, _END])}
        self.start, self.end = self.ids[_START], self.ids[_END]
        self.size = len(self.ids)
        self._symbols = [*symbols, _START, _END]
        self._characters = _byte_characters()
        self._piece = functools.lru_cache(1 << 16)(self._encode_piece)

    def encode(self, text: str) -> list[int]:
        """Ids of a sentence, without start and end markers."""
        return [i for piece in split_pieces(clean(text)) for i in self._piece(piece)]

    def tokens(self, text: str, length: int = CONTEXT) -> tuple[list[int], int]:
        """(start, ids, end; how many uncut): cut at `length`, where the end marker stays."""
        ids = [self.start, *self.encode(text), self.end]
        kept = ids[:length]
        kept[-1] = self.end
        return kept, len(ids)

    def _rank(self, pair: tuple[str, str]) -> int:
        return self.ranks.get(pair, len(self.ranks))

    def decode(self, ids: Iterable[int]) -> str:
        """The text behind ids; markers and padding left out."""
        ids = [int(i) for i in ids if int(i) not in (0, self.start, self.end)]
        text = "".join(self._symbols[i] for i in ids).replace(_END_OF_WORD, " ")
        back = {character: byte for byte, character in self._characters.items()}
        raw = bytes(back.get(character, 32) for character in text)
        return raw.decode(errors="replace").strip()

    def _encode_piece(self, piece: str) -> list[int]:
        if piece in (_START, _END):
            return [self.ids[piece]]
        symbols = [self._characters[byte] for byte in piece.encode()]
        symbols[-1] += _END_OF_WORD
        while len(symbols) > 1:
            best = min(itertools.pairwise(symbols), key=self._rank)
            if best not in self.ranks:
                break
            symbols = _merged(symbols, best)
        return [self.ids[symbol] for symbol in symbols]


def _merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Every occurrence of `pair` joined, from left to right."""
    result, place = [], 0
    while place < len(symbols):
        if tuple(symbols[place : place + 2]) == pair:
            result.append("".join(pair))
            place += 2
        else:
            result.append(symbols[place])
            place += 1
    return result


def _merges(path: Path) -> list[tuple[str, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as CLIP's byte-pair vocabulary ({error}); name the file "
            "bpe_simple_vocab_16e6.txt.gz"
        ) from error
    pairs = [line.split() for line in lines[1 : 1 + _MERGES]]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if len(merges) != _MERGES:
        raise DataError(
            f"{path}: {len(merges)} merges instead of {_MERGES} pairs: this is not CLIP's "
            "bpe_simple_vocab_16e6.txt.gz"
        )
    return merges


def token_array(tokenizer: ClipBpeTokenizer, texts: list[str], length: int = CONTEXT) -> np.ndarray:
    """int32 [N, length]: start, ids, end, zeros; longer ones are cut before the end marker."""
    tokens = np.zeros((len(texts), length), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        ids, _ = tokenizer.tokens(text, length)
        row[: len(ids)] = ids
    return tokens
