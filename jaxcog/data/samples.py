"""A few evaluation examples for reports."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxcog.data import pipeline
from jaxcog.data.types import Record, Source, Stream


@dataclasses.dataclass(frozen=True)
class _Chosen:
    source: Source
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.rows[index])]

    def name_of(self, index: int) -> str:
        return self.source.name_of(int(self.rows[index]))


def sample_arrays(stream: Stream, n: int, *, spread: bool = False) -> dict[str, Any]:
    """The first `n` examples of an evaluation split (all, if there are fewer), transformed.

    spread: take them at even distances over the whole split instead, for splits sorted by class.
    Undecodable records are left out.
    """
    size = len(stream.source)
    count = min(n, size)
    rows = np.linspace(0, size - 1, count).round().astype(int) if spread else np.arange(count)
    chosen = dataclasses.replace(stream, source=_Chosen(stream.source, rows))
    batches = pipeline.eval_batches(chosen, batch_size=count, corrupt_limit=count, prefetch=0)
    arrays = dict(next(batches).arrays)
    mask = arrays.pop("mask")
    return {name: value[mask] for name, value in arrays.items()}
