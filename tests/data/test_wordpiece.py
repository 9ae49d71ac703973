from __future__ import annotations

import numpy as np
import pytest

from jaxcog.data.wordpiece import SPECIALS, WordPiece, small_vocabulary
from jaxcog.errors import DataError

PIECES = WordPiece([*SPECIALS, "make", "wish", "##es", "##ing", "城", "市", ".", "\u2028", "cafe"])


def test_longest_pieces_lower_case_and_no_accents():
    assert PIECES.split("Make wishes.") == ["make", "wish", "##es", "."]
    assert PIECES.split("Café 城市") == ["cafe", "城", "市"]
    assert PIECES.split("making") == ["[UNK]"]
    assert PIECES.split("[MASK]城") == ["[MASK]", "城"]


def test_ids_are_cut_and_padded():
    ids, lengths = PIECES.encode(["make make make", ""], 4)
    np.testing.assert_array_equal(ids, [[2, 5, 5, 3], [2, 3, 0, 0]])
    np.testing.assert_array_equal(lengths, [4, 2])
    assert PIECES.decode(ids[0]) == "make make"


def test_a_file_is_split_at_newlines_only(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\n".join(PIECES.tokens).encode() + b"\n")
    assert WordPiece.from_file(path).tokens == PIECES.tokens


def test_the_embedded_vocabulary_spells_ascii():
    assert (
        small_vocabulary().decode(small_vocabulary().encode(["Hi, 42!"], 12)[0][0]) == "hi , 42 !"
    )
    assert small_vocabulary().split("é城")[1] == "[UNK]"


def test_what_is_no_vocabulary_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt cannot be read.*the vocab\.txt that belongs"):
        WordPiece.from_file(tmp_path / "none.txt")
    with pytest.raises(DataError, match=r"lacks \[PAD\], \[UNK\]"):
        WordPiece(["a", "b"])
