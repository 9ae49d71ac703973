"""Metric states: what one evaluation batch adds to a metric, as values that can be merged.

An `eval_step` returns a (nested dict of) states made with `of`; the loop merges them over batches
with `merge`; `compute` gives the result on the host. Padding rows are masked out when a state is
made, so that an average over uneven batches is right by construction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any


def _wide(x: Array) -> Array:
    """Host arrays in 64 bits: sums over a whole evaluation overflow what one batch fits in."""
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x, np.float64 if np.issubdtype(x.dtype, np.floating) else np.int64)
    return x


def _rows(mask: Array | None, shape: tuple[int, ...]) -> jax.Array:
    """mask [B] (or more leading axes, or None for all) broadcast to `shape`, bool."""
    if mask is None:
        return jnp.ones(shape, bool)
    mask = jnp.asarray(mask, bool)
    if mask.shape != shape[: mask.ndim]:
        raise ValueError(f"mask {mask.shape} does not match the first axes of values {shape}")
    return jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """Average of numbers. total, count: scalars, float32 on device."""

    total: Array
    count: Array

    @classmethod
    def of(cls, values: Array, mask: Array | None = None) -> Mean:
        """values: [B, ...] or scalar; mask: [B] (or more leading axes) bool, False where ignored.

        Masked values may be NaN.
        """
        values = jnp.asarray(values, jnp.float32)
        keep = _rows(mask, values.shape)
        return cls(jnp.sum(values, where=keep), jnp.sum(keep, dtype=jnp.float32))

    def merge(self, other: Mean) -> Mean:
        return Mean(_wide(self.total) + _wide(other.total), _wide(self.count) + _wide(other.count))

    def compute(self) -> float:
        """The average; NaN if nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else float("nan")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Confusion:
    """counts [C, C]: how often label i (row) was predicted as j (column); int32 on device."""

    counts: Array

    @classmethod
    def of(
        cls, predictions: Array, labels: Array, num_classes: int, mask: Array | None = None
    ) -> Confusion:
        """predictions, labels: integers [B, ...] of one shape; mask: [B] or more leading axes.

        Positions whose label or prediction lies outside 0..num_classes-1 (ignore labels such as
        255) are not counted.
        """
        predictions, labels = jnp.asarray(predictions), jnp.asarray(labels)
        if predictions.shape != labels.shape:
            raise ValueError(f"predictions {predictions.shape} and labels {labels.shape} differ")
        keep = _rows(mask, labels.shape)
        keep &= (labels >= 0) & (labels < num_classes)
        keep &= (predictions >= 0) & (predictions < num_classes)
        cell = labels.astype(jnp.int32) * num_classes + predictions.astype(jnp.int32)
        cell = jnp.where(keep, cell, num_classes**2)
        counts = jnp.bincount(cell.ravel(), length=num_classes**2 + 1)[:-1]
        return cls(counts.reshape(num_classes, num_classes).astype(jnp.int32))

    def merge(self, other: Confusion) -> Confusion:
        return Confusion(_wide(self.counts) + _wide(other.counts))

    def compute(self) -> np.ndarray:
        """int64 [C, C]: labels in rows, predictions in columns."""
        return np.asarray(self.counts, np.int64)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Concat:
    """All rows of an evaluation, for metrics that need them together (ranking, clustering).

    arrays: name -> pieces [B, ...]; mask: pieces [B]. Merging appends the pieces and copies no
    rows; it belongs on the host, and brings the pieces there.
    """

    arrays: dict[str, tuple[Array, ...]]
    mask: tuple[Array, ...]

    @classmethod
    def of(cls, arrays: Mapping[str, Array], mask: Array | None = None) -> Concat:
        """arrays: name -> [B, ...], all with the same B; mask: [B] bool, False for padding."""
        sizes = {name: value.shape[0] for name, value in arrays.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"Concat needs arrays with the same number of rows, got {sizes}")
        size = next(iter(sizes.values()))
        if mask is None:
            mask = jnp.ones(size, bool)
        elif mask.shape != (size,):
            raise ValueError(f"mask must be [{size}], got {mask.shape}")
        return cls({name: (value,) for name, value in arrays.items()}, (mask,))

    def merge(self, other: Concat) -> Concat:
        if self.arrays.keys() != other.arrays.keys():
            raise ValueError(
                f"cannot merge rows of {sorted(self.arrays)} and {sorted(other.arrays)}"
            )
        arrays = {
            name: _on_host(pieces) + _on_host(other.arrays[name])
            for name, pieces in self.arrays.items()
        }
        return Concat(arrays, _on_host(self.mask) + _on_host(other.mask))

    def compute(self) -> dict[str, np.ndarray]:
        """name -> [N, ...] NumPy arrays of the unmasked rows, in the order of merging."""
        keep = np.concatenate(_on_host(self.mask)).astype(bool)
        return {
            name: np.concatenate(_on_host(pieces))[keep] for name, pieces in self.arrays.items()
        }


def _on_host(pieces: tuple[Array, ...]) -> tuple[np.ndarray, ...]:
    # Pieces that are on the host already are only passed on: merging stays linear.
    if all(isinstance(piece, np.ndarray) for piece in pieces):
        return pieces
    return tuple(np.asarray(piece) for piece in pieces)


MetricState = Mean | Confusion | Concat


def is_state(value: Any) -> bool:
    """Whether `value` is a metric state (the leaves of what an `eval_step` returns)."""
    return isinstance(value, MetricState)


def merge(first: Any, second: Any) -> Any:
    """Two trees of metric states, as `eval_step` returns them, merged state by state."""
    return jax.tree.map(lambda a, b: a.merge(b), first, second, is_leaf=is_state)


def compute(states: Any) -> Any:
    """The same tree with each state replaced by its result."""
    return jax.tree.map(lambda state: state.compute(), states, is_leaf=is_state)
