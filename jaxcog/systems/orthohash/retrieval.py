"""Binary codes as packed bits, their Hamming distances, and exact average precision.

Codes are packed into uint32 words; bit j of word w is code 32 w + j (1 for positive). On devices
the gallery may be split over a mesh axis; `rank_statistics` is the same measure on the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxcog.errors import DataError
from jaxcog.metrics.retrieval import Ties, expected_average_precision

WORD = 32


def binarize(codes: jax.Array, threshold: float = 0.0) -> jax.Array:
    """Signs of codes [..., K] as int8; 0 for exact zeros and where |code| < threshold (ternary)."""
    return (jnp.sign(codes) * (jnp.abs(codes) >= threshold)).astype(jnp.int8)


def pack_bits(codes: jax.Array) -> jax.Array:
    """[N, K] codes -> uint32 [N, ceil(K/32)]; a code of exactly 0 counts as -1."""
    bits = (codes > 0).astype(jnp.uint32)
    bits = jnp.pad(bits, ((0, 0), (0, -codes.shape[1] % WORD)))
    bits = bits.reshape(codes.shape[0], -1, WORD)
    return jnp.sum(bits << jnp.arange(WORD, dtype=jnp.uint32), axis=-1, dtype=jnp.uint32)


def unpack_bits(words: np.ndarray, num_bits: int) -> np.ndarray:
    """uint32 [N, W] -> int8 [N, num_bits] of +-1, on the host."""
    little = np.ascontiguousarray(words, "<u4").view(np.uint8)
    bits = np.unpackbits(little, axis=1, bitorder="little")[:, :num_bits]
    return 2 * bits.astype(np.int8) - 1


def pack_on_host(codes: np.ndarray) -> np.ndarray:
    """`pack_bits` in NumPy."""
    bits = np.pad(codes > 0, ((0, 0), (0, -codes.shape[1] % WORD)))
    return np.packbits(bits, axis=1, bitorder="little").view("<u4").astype(np.uint32)


def hamming_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Number of different bits of packed codes a [Q, W] and b [N, W]: int32 [Q, N].

    Raises:
      ValueError: codes of different length.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"hamming_distance: {a.shape[1]} and {b.shape[1]} words per code")
    distance = jnp.zeros((a.shape[0], b.shape[0]), jnp.int32)
    # One word at a time: [Q, N, W] never exists.
    for word in range(a.shape[1]):
        different = jax.lax.population_count(a[:, None, word] ^ b[None, :, word])
        distance += different.astype(jnp.int32)
    return distance


def axis_size(mesh: jax.sharding.Mesh, axis: str | tuple[str, ...]) -> int:
    """Number of shards over one or several mesh axes."""
    names = (axis,) if isinstance(axis, str) else axis
    return int(np.prod([mesh.shape[name] for name in names]))


def average_precision_of_shard(
    distances: jax.Array,
    relevant: jax.Array,
    *,
    num_bits: int,
    at: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """AP@R of each query with ties in database order, exact also where the gallery is split.

    An item's global rank is the number of nearer items anywhere, plus that of equally near items in
    earlier shards, plus its place among those of its own shard: one local sort, and only counts per
    distance cross the axis, whatever R is.

    Args:
      distances: int [Q, N] to this shard's rows; num_bits + 1 for padding rows.
      relevant: bool [Q, N], False for padding rows.
      at: R; None: the whole gallery.
      axis_name: over which the gallery is split in order; None: it is not.

    Returns:
      float32 [Q], the same on all shards.
    """
    levels = jnp.arange(num_bits + 3)
    ordered, hit = jax.lax.sort(
        (distances.astype(jnp.int32), relevant.astype(jnp.int32)), dimension=1, num_keys=1
    )
    seen = jnp.cumsum(hit, axis=1)
    # Items and relevant items nearer than each distance, in this shard.
    nearer = jax.vmap(lambda row: jnp.searchsorted(row, levels))(ordered).astype(jnp.int32)
    nearer = jnp.stack(
        [nearer, jnp.take_along_axis(jnp.pad(seen, ((0, 0), (1, 0))), nearer, axis=1)]
    )
    offset = jnp.zeros_like(nearer)
    if axis_name is not None:
        all_nearer = jax.lax.all_gather(nearer, axis_name)
        counts = jnp.diff(all_nearer, axis=-1, append=all_nearer[..., -1:])
        earlier = jnp.arange(counts.shape[0]) < jax.lax.axis_index(axis_name)
        same = jnp.sum(counts, axis=0, where=earlier[:, None, None, None])
        offset = jnp.sum(all_nearer, axis=0) + same - nearer
    rank = jnp.arange(1, ordered.shape[1] + 1) + jnp.take_along_axis(offset[0], ordered, axis=1)
    found = seen + jnp.take_along_axis(offset[1], ordered, axis=1)
    counted = (hit > 0) & (rank <= (at or jnp.iinfo(jnp.int32).max))
    gained = jnp.sum(found / rank, axis=1, where=counted)
    total = jnp.sum(counted, axis=1)
    if axis_name is not None:
        gained, total = jax.lax.psum((gained, total), axis_name)
    return gained / jnp.maximum(total, 1)


def share_label(a: jax.Array | np.ndarray, b: jax.Array | np.ndarray) -> Any:
    """Bool [Q, N]: equal class indices ([Q], [N]) or a common one in multi-hot ([Q, C], [N, C])."""
    if a.ndim == 1:
        return a[:, None] == b[None, :]
    xp = jnp if isinstance(a, jax.Array) else np
    return a.astype(xp.float32) @ b.astype(xp.float32).T > 0


def gallery_average_precision(
    query: jax.Array,
    query_labels: jax.Array,
    database: jax.Array,
    database_labels: jax.Array,
    *,
    num_bits: int,
    at: int | None = None,
    query_block: int = 64,
    valid: jax.Array | None = None,
    mesh: jax.sharding.Mesh | None = None,
    axis: str | tuple[str, ...] = "data",
) -> jax.Array:
    """AP@R (mAP is its mean) of every query against a gallery that may be split over a mesh axis.

    Args:
      query: uint32 [Q, W]; query_labels: int [Q] or multi-hot [Q, C].
      database: uint32 [N, W]; database_labels: as the queries'. N divisible by the axis.
      query_block: queries at a time; a few [query_block, N / shards] arrays are held.
      valid: bool [N], False for padding rows.
      mesh, axis: None: one device.

    Returns:
      float32 [Q].
    """
    size = query.shape[0]
    pad = -size % query_block

    def blocks(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, pad), *[(0, 0)] * (x.ndim - 1)))
        return x.reshape(-1, query_block, *x.shape[1:])

    def measure(queries: tuple, codes: jax.Array, labels: jax.Array, keep: jax.Array) -> jax.Array:
        def one(item: tuple[jax.Array, jax.Array]) -> jax.Array:
            words, wanted = item
            distance = jnp.where(keep, hamming_distance(words, codes), num_bits + 1)
            return average_precision_of_shard(
                distance,
                share_label(wanted, labels) & keep,
                num_bits=num_bits,
                at=at,
                axis_name=None if mesh is None else axis,
            )

        return jax.lax.map(one, queries).reshape(-1)

    valid = jnp.ones(database.shape[0], bool) if valid is None else valid
    if mesh is not None:
        measure = jax.shard_map(
            measure,
            mesh=mesh,
            in_specs=(P(), P(axis), P(axis), P(axis)),
            out_specs=P(),
            check_vma=False,  # the psum at the end makes all shards equal
        )
    queries = (blocks(query), blocks(query_labels))
    return measure(queries, database, database_labels, valid)[:size]


def host_hamming_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`hamming_distance` in NumPy: uint16 [Q, N] (uint8 below 256 bits, which sorts faster)."""
    if a.shape[1] % 2 == 0:
        a, b = (np.ascontiguousarray(x).view(np.uint64) for x in (a, b))
    bits = a.shape[1] * a.dtype.itemsize * 8
    dtype = np.uint8 if bits < 256 else np.uint16
    distance = np.zeros((len(a), len(b)), dtype)
    for word in range(a.shape[1]):
        distance += np.bitwise_count(a[:, None, word] ^ b[None, :, word])
    return distance


@dataclasses.dataclass(frozen=True)
class RankStatistics:
    """How well codes rank a database.

    mean_average_precision: R (None: all) -> mAP@R with ties in database order.
    within, between: int64 [K + 1], pairs (query, database item) at each Hamming distance that share
      a label, and that share none.
    """

    mean_average_precision: dict[int | None, float]
    within: np.ndarray
    between: np.ndarray

    @property
    def separation(self) -> float:
        """Mean distance of pairs without a common label minus that of pairs with one, in bits."""
        return _mean_of(self.between) - _mean_of(self.within)


def _mean_of(histogram: np.ndarray) -> float:
    total = histogram.sum()
    return float(histogram @ np.arange(len(histogram)) / total) if total else float("nan")


def rank_statistics(
    query: np.ndarray,
    query_labels: np.ndarray,
    database: np.ndarray,
    database_labels: np.ndarray,
    *,
    num_bits: int,
    at: Sequence[int | None] = (None,),
    ties: Ties = "stable",
    seed: int = 0,
    block_elements: int = 2**22,
) -> RankStatistics:
    """Exact mAP at several R and distance histograms, on the host, in blocks of queries.

    Args:
      query, database: uint32 [Q, W], [N, W] (see `pack_bits`).
      query_labels, database_labels: int [Q], [N] or multi-hot [Q, C], [N, C].
      at: cut-offs; None: the whole database.
      ties: items at equal distance in database order ("stable"), in one random order of the
        database drawn from `seed` ("random"), or averaged over all orders ("expected").
      block_elements: distances held at a time, at least one query's.

    Raises:
      DataError: no queries or no database.
    """
    if not len(query) or not len(database):
        raise DataError(
            f"retrieval: {len(query)} queries and {len(database)} database items: both splits "
            "must hold examples"
        )
    if ties == "random":
        order = np.random.default_rng(seed).permutation(len(database))
        database, database_labels = database[order], database_labels[order]
    within, everything = np.zeros(num_bits + 1, np.int64), np.zeros(num_bits + 1, np.int64)
    sums = dict.fromkeys(at, 0.0)
    step = max(1, block_elements // len(database))
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        distances = host_hamming_distance(query[part], database)
        relevant = share_label(query_labels[part], database_labels)
        for row, wanted in zip(distances, relevant, strict=True):
            near = np.bincount(row[wanted], minlength=num_bits + 1)
            size = np.bincount(row, minlength=num_bits + 1)
            within, everything = within + near, everything + size
            if ties == "expected":
                for cut in sums:
                    sums[cut] += expected_average_precision(size, near, at=cut)
            else:
                for cut, value in _stable_average_precision(row, wanted, tuple(sums)).items():
                    sums[cut] += value
    means = {cut: total / len(query) for cut, total in sums.items()}
    return RankStatistics(means, within, everything - within)


def _stable_average_precision(
    distances: np.ndarray, relevant: np.ndarray, at: Sequence[int | None]
) -> dict[int | None, float]:
    """AP@R of one query for each R. distances: small integers [N]; relevant: bool [N]."""
    # A stable sort of small integers is a radix sort: linear in the database.
    places = np.flatnonzero(relevant[np.argsort(distances, kind="stable")])
    precision = np.arange(1, len(places) + 1) / (places + 1)
    inside = {cut: len(places) if cut is None else int(np.searchsorted(places, cut)) for cut in at}
    return {cut: float(precision[:n].mean()) if n else 0.0 for cut, n in inside.items()}


def mean_average_precision(
    query_codes: jax.Array,
    query_labels: jax.Array,
    database_codes: jax.Array,
    database_labels: jax.Array,
    *,
    at: int | None = None,
) -> float:
    """mAP@R of continuous or +-1 codes [Q, K], [N, K] with ties in database order.

    For ternary codes or another order of ties see `jaxcog.metrics.retrieval`, which takes
    distances.
    """
    result = rank_statistics(
        pack_on_host(np.asarray(query_codes)),
        np.asarray(query_labels),
        pack_on_host(np.asarray(database_codes)),
        np.asarray(database_labels),
        num_bits=query_codes.shape[1],
        at=(at,),
    )
    return result.mean_average_precision[at]
