"""Captions as word ids, the way of person search: lower case, no punctuation, frequent words only.

Id 0 is padding; words have ids from 1, in the order of their first occurrence; rare words share the
last id, "UNK".
"""

from __future__ import annotations

import collections
import string
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jaxcog.errors import DataError

UNKNOWN = "UNK"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def split_words(sentence: str) -> list[str]:
    """Lower-case words without ASCII punctuation: "T-shirt, blue" -> ["tshirt", "blue"]."""
    return sentence.lower().translate(_NO_PUNCTUATION).split()


def build_word_vocabulary(captions: Iterable[str], min_count_exclusive: int = 2) -> tuple[str, ...]:
    """The words that occur more than `min_count_exclusive` times; word i has the id i + 1.

    Ends with "UNK" where any word was too rare.
    """
    counts: collections.Counter[str] = collections.Counter()
    for caption in captions:
        counts.update(split_words(caption))
    words = [word for word, count in counts.items() if count > min_count_exclusive]
    return (*words, UNKNOWN) if len(words) < len(counts) else tuple(words)


def encode_words(sentence: str, vocabulary: Sequence[str]) -> list[int]:
    """Ids of a sentence's words; of unknown ones that of "UNK", or none where it is not there."""
    return encoder(vocabulary)(sentence)


def encoder(vocabulary: Sequence[str]) -> Callable[[str], list[int]]:
    """`encode_words` for many sentences."""
    ids = {word: i for i, word in enumerate(vocabulary, 1) if word != UNKNOWN}
    unknown = len(vocabulary) if vocabulary and vocabulary[-1] == UNKNOWN else None

    def encode(sentence: str) -> list[int]:
        found = (ids.get(word, unknown) for word in split_words(sentence))
        return [i for i in found if i is not None]

    return encode


def decode_words(ids: Sequence[int], vocabulary: Sequence[str]) -> str:
    """The words behind ids, padding left out."""
    return " ".join(vocabulary[int(i) - 1] for i in ids if i > 0)


def vocabulary_of(pairs: Iterable[tuple[str, Sequence[int]]]) -> tuple[str, ...]:
    """The vocabulary behind captions that were encoded elsewhere.

    pairs: (sentence, its word ids, perhaps cut at the end).

    Raises:
      DataError: the ids do not belong to the words.
    """
    words: dict[int, str] = {}
    last = 0
    for sentence, ids in pairs:
        for word, i in zip(split_words(sentence), ids, strict=False):
            last = max(last, i)
            known = words.setdefault(i, word)
            if known != word:
                words[i] = UNKNOWN  # the one id that several words may share, if it is the last
    wrong = [i for i, word in words.items() if word == UNKNOWN and i != last]
    if wrong:
        raise DataError(
            f"word id {wrong[0]} stands for several words, which only the last id ({last}) may: "
            "sentences and ids do not belong together"
        )
    return tuple(words.get(i, f"(word {i})") for i in range(1, last + 1))


def padded(
    rows: Sequence[Sequence[int]], width: int, *, names: Sequence[str], cut: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32 [N, width], right-padded with 0; lengths int32 [N]).

    An empty caption becomes one padding word.

    Args:
      names: what to call each row in messages.
      cut: shorten longer captions, and their lengths, instead of complaining.

    Raises:
      DataError: a caption longer than `width`.
    """
    ids = np.zeros((len(rows), width), np.int32)
    length = np.ones(len(rows), np.int32)
    for place, row in enumerate(rows):
        if len(row) > width and not cut:
            raise DataError(
                f"the caption of {names[place]} has {len(row)} words or tokens, the context is "
                f"{width}: set data.max_length to at least {len(row)}, or data.too_long=cut"
            )
        kept = row[:width]
        ids[place, : len(kept)] = kept
        length[place] = max(len(kept), 1)
    return ids, length
