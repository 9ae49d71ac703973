"""Sampling features inside windows: 1-D RoI align, and G-TAD's SGAlign by static taps.

A bin averages a few samples, each linear between two snippets: a sum of snippets whose weights
depend on the window only. So a linear layer behind the alignment can be applied to the snippets
before it, where there are 100 of them and not 10,000 windows.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
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


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, T, C] and the kernel's part for each bin, [P, C, O] -> [B, P, T, O]."""
    return jnp.einsum("btc,pco->bpto", x, kernel)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How blocks of durations and of starts sample one branch's snippets; all static.

    For a block of durations [M, count] and of starts [groups, starts] the samples of one bin lie
    within `span` snippets, the first of which is `anchor` [M, groups, P]. So the block's sums are
    one matrix product for all channels and videos. taps: of the starts' offset 0, [M, count, P, G].
    """

    taps: Taps
    anchor: np.ndarray
    span: int
    groups: int


def _plan(
    branch: Branch, first: int, blocks: int, count: int, starts: int, groups: int, length: int
) -> _Plan:
    durations = first + 1 + np.arange(blocks * count).reshape(blocks, count)
    taps = bin_taps(
        -durations / 2, durations - 1 + durations / 2, branch.bins, branch.sampling_ratio
    )
    nearest, farthest = taps.low.min(axis=(1, 3)), taps.low.max(axis=(1, 3))  # [M, P]
    span = min(int((farthest - nearest).max()) + starts + 1, length)
    offset = starts * np.arange(groups)[None, :, None]
    return _Plan(taps, np.clip(nearest[:, None] + offset, 0, length - span), span, groups)


def _matrix(
    plan: _Plan, tables: tuple[jax.Array, ...], starts: int, length: int, dtype: Any
) -> jax.Array:
    """What each snippet of its span gives to each window: [count, groups, starts, P, span].

    tables: of one block of durations, low, fraction, weight [count, P, G] and anchor [groups, P].
    """
    low, fraction, weight, anchor = tables
    start = jnp.arange(plan.groups * starts).reshape(plan.groups, starts)[:, :, None, None]
    # The matrix is built on the device: as a constant it would be tens of megabytes.
    before, after, inside = _ends(low[:, None, None] + start, fraction[:, None, None], length, jnp)
    place = anchor[:, None, :, None, None] + jnp.arange(plan.span)
    share = jnp.where(inside, weight[:, None, None], 0)[..., None]
    part = fraction[:, None, None, ..., None]
    matrix = jnp.sum(
        jnp.where(place == before[..., None], (1 - part) * share, 0)
        + jnp.where(place == after[..., None], part * share, 0),
        axis=-2,
    )
    return matrix.astype(dtype)


def _block_sums(projected: jax.Array, matrix: jax.Array, anchor: jax.Array) -> jax.Array:
    """One block of durations: [B, P, T, O] -> [B, count, groups * starts, O]; see `_matrix`."""
    count, groups, starts, _, span = matrix.shape
    out = jnp.einsum("dgspw,bgpwo->bdgso", matrix, _windows(projected, anchor, span))
    return out.reshape(-1, count, groups * starts, out.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _windows(x: jax.Array, anchor: jax.Array, span: int) -> jax.Array:
    """x [B, P, T, O] from each anchor [groups, P] on: [B, groups, P, span, O].

    The gradient is a matrix product with zeros and ones. As a scatter, which it would be by itself,
    it took a third of a training step on a GPU.
    """
    row = jnp.arange(anchor.shape[1])[None, :, None]
    return x[:, row, anchor[..., None] + jnp.arange(span)]


def _windows_forward(
    x: jax.Array, anchor: jax.Array, span: int
) -> tuple[jax.Array, tuple[jax.Array, int]]:
    return _windows(x, anchor, span), (anchor, x.shape[2])


def _windows_backward(
    span: int, saved: tuple[jax.Array, int], gradient: jax.Array
) -> tuple[jax.Array, None]:
    anchor, length = saved
    place = anchor[..., None, None] + jnp.arange(span)[:, None]
    hit = (place == jnp.arange(length)).astype(gradient.dtype)  # [groups, P, span, T]
    return jnp.einsum("gpst,bgpso->bpto", hit, gradient), None


_windows.defvjp(_windows_forward, _windows_backward)


def sgalign(
    inner: jax.Array,
    context: jax.Array,
    kernel: jax.Array,
    branches: tuple[Branch, Branch],
    max_duration: int,
    then: Callable[[jax.Array], jax.Array] = lambda x: x,
    *,
    durations: int = 8,
    starts: int = 16,
) -> jax.Array:
    """Both alignments of all windows and a linear layer on their bins, the layer first.

    Args:
      inner, context: [B, T, C] features of the two branches.
      kernel: [P_inner + P_context, C, O], the layer's weights for each bin.
      then: what follows per window, [..., O] -> [..., K]; it is done block by block and anew in
        the gradient, so that the [B, D, T, O] tensor never exists.
      durations, starts: size of a block; their product fills a matrix unit of 128 rows.

    Returns:
      [B, D, T, K]; windows that end outside the video hold what the dummy window [0, 0] gives.
    """
    length, bins = inner.shape[1], branches[0].bins
    parts = project(inner, kernel[:bins]), project(context, kernel[bins:])
    outside = then(functools.reduce(jnp.add, map(_dummy, parts, branches)))[:, None, None]
    # Long windows begin early: the second half of the durations needs only some of the starts.
    half = -(-max_duration // 2)
    rows = []
    for first, total in ((0, half), (half, max_duration - half)):
        if total:
            size = min(durations, total)
            y = _durations(parts, branches, then, (first, -(-total // size), size), starts)
            y = y[:, :total, :length]
            rows.append(jnp.pad(y, ((0, 0), (0, 0), (0, length - y.shape[2]), (0, 0))))
    duration = np.arange(max_duration)[:, None, None]
    fits = jnp.asarray(np.arange(length)[:, None] + duration < length)
    return jnp.where(fits, jnp.concatenate(rows, axis=1), outside)


def _dummy(projected: jax.Array, branch: Branch) -> jax.Array:
    """What the window [0, 0] gives: [B, P, T, O] -> [B, O]."""
    taps = bin_taps(np.zeros(()), np.zeros(()), branch.bins, branch.sampling_ratio)
    pair = np.stack([(taps.weight * (1 - taps.fraction)).sum(-1),
                     (taps.weight * taps.fraction).sum(-1)], axis=-1)  # fmt: skip
    return jnp.einsum("pk,bpko->bo", jnp.asarray(pair, projected.dtype), projected[:, :, :2])


def _durations(
    parts: tuple[jax.Array, jax.Array],
    branches: tuple[Branch, Branch],
    then: Callable[[jax.Array], jax.Array],
    blocks: tuple[int, int, int],
    starts: int,
) -> jax.Array:
    """Windows of count * size durations from `first` on: [B, durations, starts, K], some unused."""
    first, count, size = blocks
    length = parts[0].shape[2]
    groups = -(-(length - first) // starts)
    plans = [_plan(branch, first, count, size, starts, groups, length) for branch in branches]
    tables = [
        tuple(map(jnp.asarray, (p.taps.low, p.taps.fraction, p.taps.weight, p.anchor)))
        for p in plans
    ]

    @jax.checkpoint
    def one(parts: Any, matrices: Any, anchors: Any) -> jax.Array:
        sums = map(_block_sums, parts, matrices, anchors)
        return then(functools.reduce(jnp.add, sums))

    def block(_: None, tables: Any) -> tuple[None, jax.Array]:
        # Kept for the gradient: no larger for many videos than for one.
        matrices = [
            _matrix(plan, table, starts, length, part.dtype)
            for plan, table, part in zip(plans, tables, parts, strict=True)
        ]
        return None, one(parts, matrices, [table[-1] for table in tables])

    _, y = jax.lax.scan(block, None, tables)
    return jnp.moveaxis(y, 0, 1).reshape(len(parts[0]), count * size, groups * starts, -1)


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
