"""From a checkpoint's tensors to a model's variables, with nothing lost or guessed in silence."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcog.errors import CheckpointError
from jaxcog.interop.names import NameTable, Report, Tensors, flattened, nested


def choose_table(tensors: Tensors, tables: Sequence[NameTable], target_struct: Any) -> NameTable:
    """The table with places in the model for the most keys; among equals, whose arrays fit best.

    A network's own checkpoint and the ImageNet weights that it starts from often share their names
    and differ in the size of the last layer, which the second one's table leaves out.
    """
    want = {path: tuple(model.shape) for path, model in flattened(target_struct)}

    def misfit(table: NameTable) -> tuple[int, int]:
        tree, report = table.convert(tensors)
        have = dict(flattened(tree))
        placeless = have.keys() - want.keys()
        wrong = [path for path in have.keys() & want.keys() if have[path].shape != want[path]]
        return len(report.unused) + len(placeless), len(wrong) + len(report.mismatched)

    return min(tables, key=misfit)


def import_checkpoint(
    tensors: Tensors, table: NameTable, target_struct: Any, allow_missing: Sequence[str] = ()
) -> tuple[dict[str, Any], Report]:
    """Our variables, filled from PyTorch tensors, and what became of every key.

    Arrays are compared with the model's in shape and type. A type whose numbers the model's holds
    without loss (half and bfloat16 in float32, a small int64 in int32) is converted and reported;
    any other difference is an error.

    tensors: PyTorch key -> array (see jaxcog.interop.read.read_checkpoint).
    target_struct: the model's variables, {"params": ..., "batch_stats": ...}, of anything with
      .shape and .dtype, such as what jax.eval_shape returns.
    allow_missing: regular expressions of paths that the checkpoint need not have; they are left out
      of what is returned.

    Raises CheckpointError listing every key that is unused and every variable that is missing or
      differs.
    """
    tree, report = table.convert(tensors)
    have, want = dict(flattened(tree)), dict(flattened(target_struct))
    keys: dict[str, str] = {path: key for key, path in report.used}
    filled: dict[str, Any] = {}
    mismatched, cast = list(report.mismatched), []
    for path in sorted(have.keys() & want.keys()):
        value, model = have[path], want[path]
        dtype = np.dtype(model.dtype)
        if tuple(value.shape) != tuple(model.shape):
            mismatched.append(
                f"{keys[path]} -> {path}: {list(value.shape)} in the checkpoint, "
                f"{list(model.shape)} in the model"
            )
        elif value.dtype == dtype:
            filled[path] = value
        elif _lossless(value, dtype):
            cast.append(f"{path}: {value.dtype} -> {dtype}")
            filled[path] = value.astype(dtype)
        else:
            mismatched.append(
                f"{keys[path]} -> {path}: {value.dtype} in the checkpoint, {dtype} in the model"
            )
    absent = sorted(want.keys() - have.keys())

    def allowed(path: str) -> bool:
        return any(re.search(pattern, path) for pattern in allow_missing)

    strangers = tuple(keys[path] for path in have if path not in want)
    report = dataclasses.replace(
        report,
        used=tuple(pair for pair in report.used if pair[1] in want),
        unused=(*report.unused, *dict.fromkeys(strangers)),
        missing=tuple(path for path in absent if not allowed(path)),
        kept=tuple(path for path in absent if allowed(path)),
        mismatched=tuple(mismatched),
        cast=tuple(cast),
    )
    if not report.ok:
        problems = report.problems()
        raise CheckpointError(
            "\n".join(
                [
                    f"checkpoint and model differ in {len(problems)} places:",
                    *(f"  {line}" for line in problems),
                    "is it a checkpoint of this system, of this depth and number of classes?",
                ]
            )
        )
    return nested(filled), report


def _lossless(value: np.ndarray, dtype: np.dtype) -> bool:
    """Whether `value` is the same in type `dtype`, of the same family of numbers."""
    if all(jnp.issubdtype(x, jnp.floating) for x in (value.dtype, dtype)):
        return np.promote_types(value.dtype, dtype) == dtype
    both_whole = all(jnp.issubdtype(x, jnp.integer) for x in (value.dtype, dtype))
    return both_whole and np.array_equal(value.astype(dtype), value)
