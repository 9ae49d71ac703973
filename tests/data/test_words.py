"""Words and byte pairs."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from jaxcog.data import words
from jaxcog.data.clip_bpe import ClipBpeTokenizer, split_pieces, token_array
from jaxcog.errors import DataError


def test_rare_words_share_the_last_id():
    captions = ["a red hat", "A RED coat!", "a red t-shirt", "rare"]
    vocabulary = words.build_word_vocabulary(captions)
    assert vocabulary == ("a", "red", "UNK")
    assert words.encode_words("a red, purple hat", vocabulary) == [1, 2, 3, 3]
    assert words.encode_words("a purple", ("a", "red")) == [1]
    assert words.build_word_vocabulary(["x x x"]) == ("x",)


def test_a_vocabulary_is_found_again_from_encoded_captions():
    vocabulary = ("a", "red", "UNK")
    sentences = ["a red hat", "red coat a a"]
    pairs = [(s, words.encode_words(s, vocabulary)) for s in sentences]
    assert words.vocabulary_of(pairs) == vocabulary
    with pytest.raises(DataError, match="word id 1 stands for several words"):
        words.vocabulary_of([("a red", [1, 2]), ("red a", [1, 2])])


def test_padding_and_captions_that_do_not_fit():
    ids, length = words.padded([[5, 6], [], [1, 2, 3]], 3, names="abc", cut=False)
    np.testing.assert_array_equal(ids, [[5, 6, 0], [0, 0, 0], [1, 2, 3]])
    np.testing.assert_array_equal(length, [2, 1, 3])
    with pytest.raises(DataError, match=r"caption of c has 3 .* context is 2: set data.max_length"):
        words.padded([[5], [6], [1, 2, 3]], 2, names="abc", cut=False)
    ids, length = words.padded([[1, 2, 3]], 2, names="c", cut=True)
    assert (ids.tolist(), length.tolist()) == ([[1, 2]], [2])


def test_pieces():
    pieces = split_pieces("he's 42kg, <|startoftext|>I'll né!!")
    assert pieces == ["he", "'s", "4", "2", "kg", ",", "<|startoftext|>", "I", "'ll", "né", "!!"]


def test_byte_pairs_and_back():
    tokenizer = ClipBpeTokenizer()
    assert tokenizer.size == 49408
    assert tokenizer.decode(tokenizer.encode("A naïve  “Man”")) == 'a naïve " man "'
    tokens = token_array(tokenizer, ["man " * 90], 77)
    assert tokens[0, -1] == tokenizer.end


def test_another_file_is_no_vocabulary(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be read as CLIP's byte-pair vocabulary"):
        ClipBpeTokenizer(tmp_path / "none.gz")
    path = tmp_path / "short.gz"
    path.write_bytes(gzip.compress(b"header\na b\n"))
    with pytest.raises(DataError, match="not CLIP's"):
        ClipBpeTokenizer(path)
