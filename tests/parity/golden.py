"""A golden file: what the official code computed, and how closely we must agree with it.

An adapter reads a file's inputs and weights, runs our implementation, and passes every result to
`check`. The measure is the relative L2 error ||ours - theirs|| / ||theirs|| over the whole array,
which is the one the files' tolerances were stated for. Outputs that no adapter looked at fail the
test as surely as wrong ones.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity.weights import GoldenError, Weights, generated, weights_of

KINDS = ("out", "grad", "grad_norm")
_PER_ARRAY = ("tolerances", "tolerance_per_array", "final_tolerance", "delta_tolerance")


@dataclasses.dataclass(frozen=True)
class Result:
    """One comparison: `error` must not exceed `tolerance` (one each, or one a step)."""

    name: str
    error: np.ndarray
    tolerance: np.ndarray
    note: str = ""

    @property
    def passed(self) -> bool:
        # Written so that a NaN error fails.
        return not self.note and bool(np.all(self.error <= self.tolerance))

    def __str__(self) -> str:
        if self.note:
            return f"{self.name}: {self.note}"
        return f"{self.name}: error {_numbers(self.error)}, tolerance {_numbers(self.tolerance)}"


class Golden:
    """One `<system>__<component>.npz`.

    meta: the file's JSON. golden["in/x"], golden["out/y"], ...: its arrays, in the official layout.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files if name != "meta"}
            self.meta: dict[str, Any] = json.loads(str(file["meta"]))
        self.path = path
        self.results: list[Result] = []
        self._left_out: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise GoldenError(f"{self.path.name} has no {name}; it has {', '.join(self.arrays)}")
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def names(self, pattern: str = "*") -> list[str]:
        """Names of the arrays that match a glob, such as "out/after/*"."""
        return [name for name in self.arrays if fnmatch.fnmatchcase(name, pattern)]

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays below `prefix` ("in/", "grad/case_a/") by the rest of their names."""
        return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

    def weights(self, part: str | None = None, *, seed: int | None = None) -> Weights:
        """The file's weights under their official names and in their official layout.

        They are generated from the shapes and the seed, then replaced by what lies under state/.

        part: one network of a file that holds several: a key of meta["shapes"], a dict of the meta
          with shapes of its own, or a common prefix of the names (which is cut off).
        seed: instead of the file's (a few files use seed + 1 for their second network).
        """
        meta, shapes = self.meta, self.meta.get("shapes", {})
        if part is not None:
            nested = isinstance(shapes.get(part), dict)
            if isinstance(meta.get(part), dict):
                meta = meta[part]
                shapes = meta["shapes"]
            elif nested:
                shapes = shapes[part]
            else:
                shapes = {
                    name.removeprefix(f"{part}/"): shape
                    for name, shape in shapes.items()
                    if name.startswith(f"{part}/")
                }
        file_seed = meta.get("seed", self.meta.get("seed"))
        if isinstance(file_seed, dict):
            file_seed = file_seed[part]
        weights = weights_of(meta, shapes, file_seed if seed is None else seed)
        stored = self.under("state/" if part is None else f"state/{part}/")
        for name, value in stored.items():
            weights[name] = value.astype(np.float32) if value.dtype == np.float16 else value
        return weights

    def generate(self, name: str, shape: Iterable[int], *, seed: int | None = None) -> np.ndarray:
        """One generated array outside `shapes`, such as a cotangent that the notes describe."""
        return generated(name, tuple(shape), self.meta["seed"] if seed is None else seed)

    def tolerance(self, name: str) -> Any:
        """The file's own tolerance for array `name`: a number, or a list with one a step."""
        kind, _, tail = name.partition("/")
        for table in (self.meta.get(key, {}) for key in _PER_ARRAY):
            if name in table or tail in table:
                return table.get(name, table.get(tail))
        case = self.meta.get("case_tolerance", {}).get(tail.split("/")[0])
        if case is not None:
            return case
        stated = self.meta["tolerance"]
        if isinstance(stated, Mapping):
            return self._tolerance_by_topic(stated, kind, tail)
        is_norm = "grad_norm" in name
        keys = ("grad_norm_tolerance",) if is_norm else ()
        if kind == "grad" or is_norm:
            keys += ("grad_tolerance", "tolerance_grad")
        return next((self.meta[key] for key in keys if key in self.meta), stated)

    def _tolerance_by_topic(self, stated: Mapping[str, Any], kind: str, tail: str) -> Any:
        # A topic counts where a word of the name starts with it: "queue" for "image_queue".
        words = {topic: rf"(^|[_/]){re.escape(topic)}" for topic in stated}
        topics = sorted((topic for topic in stated if re.search(words[topic], tail)), key=len)
        kind = "grad" if "grad_norm" in f"{kind}/{tail}" and "grad" in stated else kind
        for topic in (*reversed(topics), kind):
            value = stated.get(topic)
            if isinstance(value, Mapping):
                value = value.get(tail, value.get(tail.removeprefix(f"{topic}/")))
            if isinstance(value, int | float | list):
                return value
        raise GoldenError(
            f"{self.path.name}: none of its tolerances {list(stated)} is plainly that of "
            f"{kind}/{tail}: pass one of them to check"
        )

    def check(
        self,
        name: str,
        value: Any,
        tolerance: Any = None,
        *,
        measure: Callable[[np.ndarray, np.ndarray], float] | None = None,
    ) -> float:
        """Compares our `value` with array `name`; `finish` raises for all that differ.

        name: "out/logits", "grad/x", ...
        value: in the official layout.
        tolerance: only where the file states none for this name; a list holds one for each entry
          of the first axis.
        measure: `relative` unless given; whole numbers and strings without a tolerance of their
          own must be equal.

        Returns the (largest) error.
        """
        ours, theirs = np.asarray(value), self[name]
        if ours.shape != theirs.shape:
            note = f"our shape is {ours.shape}, the reference's {theirs.shape}"
            return self._record(Result(name, np.float64(np.inf), np.float64(0), note))
        if tolerance is None:
            exact = theirs.dtype.kind not in "fc" and not self._has_own_tolerance(name)
            tolerance = 0 if exact and measure is None else self.tolerance(name)
            measure = mismatches if exact and measure is None else measure
        measure = measure or relative
        if isinstance(tolerance, list | tuple):
            if len(tolerance) < len(theirs):
                raise GoldenError(f"{name}: {len(tolerance)} tolerances for {len(theirs)} steps")
            error = [measure(a, b) for a, b in zip(ours, theirs, strict=True)]
            limit = np.asarray(tolerance[: len(theirs)], np.float64)
        else:
            error, limit = measure(ours, theirs), np.asarray(float(tolerance))
        return self._record(Result(name, np.asarray(error, np.float64), limit))

    def check_norms(
        self, name: str, tensors: Mapping[str, Any], order: str | Iterable[str], **options: Any
    ) -> float:
        """Compares a vector of L2 norms, one a tensor.

        tensors: official name -> array. order: the names in the vector's order, or the key of the
        meta that lists them ("param_order", "buffer_order", "grad_norm_keys").
        """
        names = self.meta[order] if isinstance(order, str) else list(order)
        absent = [key for key in names if key not in tensors]
        if absent:
            raise GoldenError(f"{name}: no tensors for {', '.join(absent[:5])}")
        norms = [np.linalg.norm(np.asarray(tensors[key], np.float64)) for key in names]
        return self.check(name, np.asarray(norms), **options)

    def leave_out(self, pattern: str, reason: str) -> None:
        """Arrays that are not compared, and why (a glob over their names)."""
        if not reason:
            raise GoldenError(f"{pattern}: say why it is left out")
        self._left_out.update(self.names(pattern))

    def finish(self) -> None:
        """Raises AssertionError naming every array that differs or was never compared."""
        seen = {result.name for result in self.results} | self._left_out
        wanted = [name for name in self.arrays if name.split("/")[0] in KINDS]
        wrong = [str(result) for result in self.results if not result.passed]
        wrong += [f"{name}: not compared by the adapter" for name in wanted if name not in seen]
        if wrong:
            head = f"{self.path.name}: {len(wrong)} of {len(wanted)} arrays do not agree"
            raise AssertionError("\n  ".join([head, *wrong]))

    def _has_own_tolerance(self, name: str) -> bool:
        tail = name.partition("/")[2]
        return any(key in self.meta.get(table, {}) for table in _PER_ARRAY for key in (name, tail))

    def _record(self, result: Result) -> float:
        self.results.append(result)
        return float(np.max(result.error, initial=0.0))


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """||ours - theirs|| / ||theirs||; ||ours|| where the reference is all zero.

    Infinite and NaN entries must stand in the same places.
    """
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    size = np.linalg.norm(b[finite])
    return float(np.linalg.norm(a[finite] - b[finite]) / (size if size > 0 else 1.0))


def absolute(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two entries (grey levels, percentage points)."""
    difference = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
    return float(np.max(difference, initial=0.0))


def mismatches(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The fraction of entries that are not equal."""
    return float(np.mean(ours != theirs)) if theirs.size else 0.0


def nhwc(x: Any) -> np.ndarray:
    """[..., C, H, W] -> [..., H, W, C]."""
    return np.moveaxis(np.asarray(x), -3, -1)


def nchw(x: Any) -> np.ndarray:
    """[..., H, W, C] -> [..., C, H, W]."""
    return np.moveaxis(np.asarray(x), -1, -3)


def _numbers(x: np.ndarray) -> str:
    return " ".join(f"{number:.3g}" for number in np.atleast_1d(x))
