"""TensorFlow variables of the official CoinRun code, and our paths for them.

Convolutions are numbered in the order of their making, five in each of the three sequences.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxcog.interop.names import NameTable, Rename

_WITHIN = ("conv", "block1/conv1", "block1/conv2", "block2/conv1", "block2/conv2")
_SEQUENCES = 3


def convolutions() -> Iterator[tuple[str, str]]:
    """(TensorFlow's name, our path below the encoder) of each convolution."""
    for number in range(len(_WITHIN) * _SEQUENCES):
        sequence, place = divmod(number, len(_WITHIN))
        suffix = f"_{number}" if number else ""
        yield f"conv2d{suffix}", f"sequence{sequence + 1}/{_WITHIN[place]}"


def _pairs() -> Iterator[tuple[str, str]]:
    """(TensorFlow's name, our path) of each variable, in the order of their making."""
    for theirs, ours in convolutions():
        for part in ("kernel", "bias"):
            yield f"model/{theirs}/{part}", f"params/encoder/{ours}/{part}"
    for part in ("kernel", "bias"):
        yield f"model/dense/{part}", f"params/encoder/dense/{part}"
    for head in ("pi", "v"):
        yield f"model/{head}/w", f"params/heads/{head}/kernel"
        yield f"model/{head}/b", f"params/heads/{head}/bias"


NAMES = NameTable(Rename(theirs, ours) for theirs, ours in _pairs())
"""`model/conv2d[_k]/{kernel,bias}`, `model/dense/*`, `model/{pi,v}/{w,b}`; layouts are ours."""

BY_ORDER = NameTable(Rename(str(i), ours) for i, (_, ours) in enumerate(_pairs()))
"""The official joblib files hold the same variables without names, as a list."""
