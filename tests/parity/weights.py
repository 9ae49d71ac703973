"""The stand-in weights of golden files: arrays that follow from names, shapes and a seed.

The scheme is part of the files' format, so the numbers are fixed to the last bit: every array has
its own NumPy stream, seeded by (file's seed, crc32 of the parameter's name).
"""

from __future__ import annotations

import fnmatch
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


class GoldenError(Exception):
    """A golden file or its adapter says something that this harness cannot honour."""


def generated(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """The array of one parameter: float32; int64 zeros for batch-norm counters.

    Matrices and kernels have unit gain (variance one over fan-in), scales lie around 1, biases and
    running means around 0, running variances between 0.5 and 1.5.
    """
    shape = tuple(int(size) for size in shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    stream = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("running_var"):
        return np.asarray(stream.uniform(0.5, 1.5, shape), np.float32)
    normal = stream.standard_normal(shape)
    centred = name.endswith("running_mean") or (len(shape) <= 1 and name.endswith("bias"))
    if centred:
        return np.asarray(0.1 * normal, np.float32)
    if len(shape) <= 1:
        return np.asarray(1.0 + 0.1 * normal, np.float32)
    return np.asarray(normal / np.sqrt(np.prod(shape[1:])), np.float32)


def weights_of(meta: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], seed: int) -> Weights:
    """All generated weights of `shapes`, after the adjustments that `meta` asks for.

    Adjustments, in this order: `weight_scale` (every array of two or more axes), `scale` and
    `rescale` (named arrays), `unit_scale_keys` (back to unit variance), `blur_keys` (a constant
    binomial filter), `alias` (a prefix whose keys take the values of another prefix).
    """
    weights = {name: generated(name, shape, seed) for name, shape in shapes.items()}
    factor = np.float32(meta.get("weight_scale", 1.0))
    if factor != 1:
        weights = {k: w * factor if w.ndim >= 2 else w for k, w in weights.items()}
    for name, value in {**meta.get("scale", {}), **_factors(meta, weights)}.items():
        if name in weights:
            weights[name] = weights[name] * np.float32(value)
    for name in meta.get("unit_scale_keys", ()):
        if name in weights:
            gain = math.sqrt(math.prod(weights[name].shape[1:]))
            weights[name] = np.asarray(weights[name] * gain, np.float32)
    for name in meta.get("blur_keys", ()):
        if name in weights:
            filter_3x3 = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
            weights[name] = np.broadcast_to(filter_3x3, weights[name].shape).copy()
    for prefix, origin in meta.get("alias", {}).items():
        for name in [name for name in weights if name.startswith(prefix)]:
            twin = origin + name[len(prefix) :]
            if twin not in weights:
                raise GoldenError(f"alias {prefix} -> {origin}: there is no {twin} for {name}")
            weights[name] = weights[twin]
    return weights


def _factors(meta: Mapping[str, Any], weights: Weights) -> dict[str, float]:
    """`rescale`: exact names with a number, or globs joined by "and" with a factor in words."""
    factors: dict[str, float] = {}
    for names, value in meta.get("rescale", {}).items():
        if not isinstance(value, str):
            factors[names] = value
            continue
        root = re.search(r"sqrt\((\d+)\)", value)
        if root is None:
            raise GoldenError(f"rescale of {names}: no factor found in {value!r}")
        for pattern in names.split(" and "):
            matching = fnmatch.filter(weights, pattern.strip())
            factors.update(dict.fromkeys(matching, np.sqrt(np.float32(root[1]))))
    return factors
