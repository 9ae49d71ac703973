"""Sampling features inside windows: 1-D RoI align, and G-TAD's SGAlign by static taps.

A bin averages a few samples, each linear between two snippets: a sum of snippets whose weights
depend on the window only. So a linear layer behind the alignment can be applied to the snippets
before it, where there are 100 of them and not 10,000 windows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Taps:
    """Samples of bins: each lies `fraction` of the way from snippet `low` to the next one.

    low: int32 [..., P, G]. fraction, weight: float32 [..., P, G]; weights of a bin add up to 1.
    """

    low: np.ndarray
    fraction: np.ndarray
    weight: np.ndarray


def bin_taps(start: np.ndarray, end: np.ndarray, num_bins: int, sampling_ratio: int = 0) -> Taps:
    """The samples of windows [...] (start, end in snippets) cut into bins.

    sampling_ratio: samples a bin; 0: as many as it has snippets, rounded up.
    """
    start, end = np.asarray(start, np.float32), np.asarray(end, np.float32)
    length = np.maximum(end - start, np.float32(1))
    width = length / np.float32(num_bins)
    each = np.ceil(length / np.float32(num_bins)) if sampling_ratio == 0 else sampling_ratio
    each = np.broadcast_to(np.asarray(each, np.float32), length.shape)[..., None, None]
    sample = np.arange(int(each.max(initial=1)), dtype=np.float32)
    first = start[..., None] + np.arange(num_bins, dtype=np.float32) * width[..., None]
    position = first[..., None] + (sample + np.float32(0.5)) * width[..., None, None] / each
    low = np.floor(position)
    return Taps(
        low.astype(np.int32),
        (position - low).astype(np.float32),
        np.where(sample < each, 1 / each, 0).astype(np.float32),
    )


def _ends(low: Any, fraction: Any, length: int, xp: Any) -> tuple[Any, Any, Any]:
    """(snippet before, snippet after, whether the sample counts) of samples in [0, length).

    Beyond one snippet outside a sample is 0; within it takes the edge.
    """
    inside = (low >= -1) & ((low < length) | ((low == length) & (fraction == 0)))
    return xp.clip(low, 0, length - 1), xp.clip(low + 1, 0, length - 1), inside


def roi_align_1d(
    x: jax.Array, rois: np.ndarray, num_bins: int, sampling_ratio: int = 0
) -> jax.Array:
    """Bins of windows.

    Args:
      x: [B, T, C].
      rois: [N, 3] host array: row of the batch, start, end in snippets; it fixes the samples.
      sampling_ratio: see `bin_taps`.

    Returns:
      [N, P, C].
    """
    rois = np.asarray(rois, np.float32)
    taps = bin_taps(rois[:, 1], rois[:, 2], num_bins, sampling_ratio)
    low, high, inside = _ends(taps.low, taps.fraction, x.shape[1], np)
    row = rois[:, 0].astype(np.int32)[:, None, None]
    weight = taps.weight * inside
    before = jnp.asarray(weight * (1 - taps.fraction), x.dtype)
    after = jnp.asarray(weight * taps.fraction, x.dtype)
    return jnp.einsum("npg,npgc->npc", before, x[row, low]) + jnp.einsum(
        "npg,npgc->npc", after, x[row, high]
    )


def proposal_anchors(num_snippets: int, max_duration: int) -> np.ndarray:
    """float32 [D, T, 2]: d + 1 snippets from i on, widened by half their number on both sides.

    Windows that end outside the video are the dummy [0, 0].
    """
    start = np.arange(num_snippets)[None, :]
    count = np.arange(1, max_duration + 1)[:, None]
    anchors = np.stack(np.broadcast_arrays(start - count / 2, start + count - 1 + count / 2), -1)
    fits = start + count <= num_snippets
    return np.where(fits[..., None], anchors, 0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Branch:
    """One of SGAlign's two: bins a window is cut into, and samples a bin (0: by its length)."""

    bins: int
    sampling_ratio: int = 0


@dataclasses.dataclass(frozen=True)
class _Block:
    """Durations [first, first + count) of the grid, for starts [0, starts)."""

    first: int
    count: int
    starts: int


def _blocks(num_snippets: int, max_duration: int, size: int) -> Iterator[_Block]:
    for first in range(0, max_duration, size):
        yield _Block(first, min(size, max_duration - first), num_snippets - first)


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, T, C] and the kernel's part for each bin, [P, C, O] -> [B, P, T, O]."""
    return jnp.einsum("btc,pco->bpto", x, kernel)


def _sampled_block(projected: jax.Array, branch: Branch, block: _Block, starts: int) -> jax.Array:
    """Sums over a block's bins of projected snippets: [B, P, T, O] -> [B, count, block.starts, O].

    Starts are taken `starts` at a time: their windows' samples of one bin lie so near to each other
    that the sum is a small matrix product, with the same matrix for every video and channel.
    """
    length = projected.shape[2]
    count = np.arange(block.first + 1, block.first + block.count + 1)
    taps = bin_taps(-count / 2, count - 1 + count / 2, branch.bins, branch.sampling_ratio)
    groups = -(-block.starts // starts)
    nearest = taps.low.min(axis=-1)  # [count, P]
    span = int((taps.low.max(axis=-1) - nearest).max()) + starts + 1
    span = min(span, length)
    anchor = np.clip(
        nearest[:, None, :] + starts * np.arange(groups)[None, :, None], 0, length - span
    )  # [count, groups, P]
    start = (starts * np.arange(groups)[:, None] + np.arange(starts))[None, :, :, None, None]
    # Built on the device from small tables: as a constant it would be tens of megabytes.
    low, fraction, weight = (
        jnp.asarray(table)[:, None, None] for table in (taps.low, taps.fraction, taps.weight)
    )
    before, after, inside = _ends(low + start, fraction, length, jnp)
    place = jnp.asarray(anchor[:, :, None, :, None, None] + np.arange(span))
    weight = jnp.where(inside, weight, 0)[..., None]
    matrix = jnp.sum(
        jnp.where(place == before[..., None], (1 - fraction)[..., None] * weight, 0)
        + jnp.where(place == after[..., None], fraction[..., None] * weight, 0),
        axis=-2,
    )  # [count, groups, starts, P, span]
    row = np.arange(branch.bins)[None, None, :, None]
    window = projected[:, row, anchor[..., None] + np.arange(span)]
    out = jnp.einsum("dgspw,bdgpwo->bdgso", matrix.astype(projected.dtype), window)
    return out.reshape(len(projected), block.count, groups * starts, -1)[:, :, : block.starts]


def sgalign(
    inner: jax.Array,
    context: jax.Array,
    kernel: jax.Array,
    branches: tuple[Branch, Branch],
    max_duration: int,
    then: Callable[[jax.Array], jax.Array] = lambda x: x,
    *,
    durations: int = 10,
    starts: int = 20,
) -> jax.Array:
    """Both alignments of all windows and a linear layer on their bins, the layer first.

    Args:
      inner, context: [B, T, C] features of the two branches.
      kernel: [P_inner + P_context, C, O], the layer's weights for each bin.
      then: what follows per window, [..., O] -> [..., K]; it is done block by block and anew in
        the gradient, so that the [B, D, T, O] tensor never exists.
      durations, starts: size of a block.

    Returns:
      [B, D, T, K]; windows that end outside the video hold what the dummy window [0, 0] gives.
    """
    length = inner.shape[1]
    first = branches[0].bins
    parts = project(inner, kernel[:first]), project(context, kernel[first:])

    @jax.checkpoint
    def dummy(parts: tuple[jax.Array, jax.Array]) -> jax.Array:
        total = 0.0
        for projected, branch in zip(parts, branches, strict=True):
            taps = bin_taps(np.zeros(()), np.zeros(()), branch.bins, branch.sampling_ratio)
            share = jnp.asarray(taps.weight * (1 - taps.fraction), projected.dtype)
            rest = jnp.asarray(taps.weight * taps.fraction, projected.dtype)
            pair = jnp.stack([share.sum(-1), rest.sum(-1)], axis=-1)
            total = total + jnp.einsum("pk,bpko->bo", pair, projected[:, :, : pair.shape[-1]])
        return then(total)

    outside = dummy(parts)[:, None, None]
    rows = []
    for block in _blocks(length, max_duration, durations):

        @jax.checkpoint
        def one(parts: tuple[jax.Array, jax.Array], block: _Block = block) -> jax.Array:
            sums = (
                _sampled_block(projected, branch, block, starts)
                for projected, branch in zip(parts, branches, strict=True)
            )
            return then(sum(sums))

        values = one(parts)
        values = jnp.pad(values, ((0, 0), (0, 0), (0, length - block.starts), (0, 0)))
        duration = np.arange(block.first, block.first + block.count)[:, None, None]
        fits = jnp.asarray(np.arange(length)[:, None] + duration < length)
        rows.append(jnp.where(fits, values, outside))
    return jnp.concatenate(rows, axis=1)


def plain_sgalign(
    inner: jax.Array,
    context: jax.Array,
    kernel: jax.Array,
    branches: tuple[Branch, Branch],
    max_duration: int,
) -> jax.Array:
    """The same in the official order: all windows' bins, then the layer. Returns [B, D, T, O].

    The tensor between the two has D * T * P * C numbers a video; kept as the measure of `sgalign`.
    """
    b, length, _ = inner.shape
    anchors = proposal_anchors(length, max_duration).reshape(-1, 2)
    batch = np.repeat(np.arange(b, dtype=np.float32), len(anchors))[:, None]
    rois = np.concatenate([batch, np.tile(anchors, (b, 1))], axis=1)
    bins = jnp.concatenate(
        [
            roi_align_1d(x, rois, branch.bins, branch.sampling_ratio)
            for x, branch in zip((inner, context), branches, strict=True)
        ],
        axis=1,
    )
    out = bins.reshape(len(rois), -1) @ kernel.reshape(math.prod(kernel.shape[:2]), -1)
    return out.reshape(b, max_duration, length, -1)
