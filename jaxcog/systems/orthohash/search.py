"""Exact nearest neighbours among binary codes, on one device or over a mesh axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxcog.systems.orthohash.retrieval import WORD, axis_size

_UNROLL = 16  # rows of a group per loop iteration: enough for a kernel that stays vectorised
_LARGEST_GROUP = 128


def hamming_topk(
    query: jax.Array,
    database: jax.Array,
    k: int,
    *,
    query_block: int = 32,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The k nearest codes, exactly; equal distances in database order.

    No distance is sorted that cannot matter: the database is seen as groups of rows, of which only
    the nearest member is kept. The k groups whose nearest members come first hold the k nearest
    rows (each of these groups has a row that beats every row of any other group), so only their
    rows are ranked.

    Args:
      query: uint32 [Q, W]; database: uint32 [N, W] (see `pack_bits`).
      query_block: queries at a time; about [query_block, 2 sqrt(N k)] numbers are held, at most
        [query_block, N] (where k is a large part of the database).
      valid: bool [N], False for rows that only pad the database; they come last.

    Returns:
      (distances int32 [Q, k], indices int32 [Q, k]). Padding rows have the distance 32 W + 1.

    Raises:
      ValueError: k is larger than the database, or codes of different length.
    """
    size, words = database.shape
    if not 0 < k <= size:
        raise ValueError(f"hamming_topk: k={k} must be between 1 and the {size} database rows")
    if query.shape[1] != words:
        raise ValueError(f"hamming_topk: {query.shape[1]} and {words} words per code")
    group = _group_size(size, k)
    columns = -(-size // group)
    pad = group * columns - size
    valid = jnp.ones(size, bool) if valid is None else valid
    beyond = WORD * words + 1
    # Group g is rows g, g + columns, g + 2 columns, ...: its members lie in one column here.
    penalty = jnp.pad(jnp.where(valid, 0, beyond), (0, pad), constant_values=beyond)
    penalty = penalty.astype(jnp.int32).reshape(group, columns)
    table = jnp.pad(database, ((0, pad), (0, 0)))
    by_word = jnp.moveaxis(table.reshape(group, columns, words), 2, 0)

    def search(block: jax.Array) -> tuple[jax.Array, jax.Array]:
        nearest = _nearest_of_groups(block, by_word, penalty)
        if group == 1:
            rows = jnp.broadcast_to(jnp.arange(columns), nearest.shape)
            return smallest(nearest, rows, k)
        chosen = jnp.sort(smallest(nearest, None, k)[1], axis=1)
        # Row-major over (place in the group, group) is database order.
        rows = (jnp.arange(group)[:, None] * columns + chosen[:, None, :]).reshape(len(block), -1)
        distance = penalty.reshape(-1)[rows]
        codes = table[rows]
        for word in range(words):
            distance += _differing(block[:, word, None], codes[..., word])
        return smallest(distance, rows, k)

    query_block = min(query_block, max(query.shape[0], 1))
    blocks = jnp.pad(query, ((0, -query.shape[0] % query_block), (0, 0)))
    found = jax.lax.map(search, blocks.reshape(-1, query_block, words))
    distance, index = (x.reshape(-1, k)[: query.shape[0]] for x in found)
    return jnp.minimum(distance, beyond), index


def _group_size(size: int, k: int) -> int:
    """A power of two that balances the number of groups against the rows of the chosen ones."""
    wanted = (size / (3 * k)) ** 0.5  # a row of a chosen group costs about three times as much
    if wanted < _UNROLL:
        return 1
    return min(1 << int(np.log2(wanted) + 0.5), _LARGEST_GROUP)


def _nearest_of_groups(query: jax.Array, by_word: jax.Array, penalty: jax.Array) -> jax.Array:
    """distance * G + place in the group of each group's nearest, first member: int32 [Q, columns].

    by_word: uint32 [W, G, columns]; penalty: int32 [G, columns], added to the distance.
    """
    words, group, columns = by_word.shape
    unroll = min(_UNROLL, group)

    def step(i: jax.Array, best: jax.Array) -> jax.Array:
        part = jax.lax.dynamic_slice_in_dim(by_word, i * unroll, unroll, axis=1)
        extra = jax.lax.dynamic_slice_in_dim(penalty, i * unroll, unroll, axis=0)
        for row in range(unroll):
            distance = extra[row][None]
            for word in range(words):
                distance = distance + _differing(query[:, word, None], part[word, row][None])
            best = jnp.minimum(best, distance * group + (i * unroll + row))
        return best

    start = jnp.full((query.shape[0], columns), jnp.iinfo(jnp.int32).max)
    return jax.lax.fori_loop(0, group // unroll, step, start)


def _differing(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.population_count(a ^ b).astype(jnp.int32)


def smallest(key: jax.Array, value: jax.Array | None, k: int) -> tuple[jax.Array, jax.Array]:
    """k smallest of `key` int32 [Q, N] and their `value`s (None: columns), earlier columns first.

    Keys must lie below 2^24: float32 holds them exactly, and top_k is quick on floats only.
    """
    negative, place = jax.lax.top_k(-key.astype(jnp.float32), k)
    value = place if value is None else jnp.take_along_axis(value, place, axis=1)
    return (-negative).astype(jnp.int32), value


def sharded_hamming_topk(
    query: jax.Array,
    database: jax.Array,
    k: int,
    *,
    mesh: jax.sharding.Mesh,
    axis: str | tuple[str, ...] = "data",
    query_block: int = 32,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`hamming_topk` over a database split by rows over a mesh axis; the same result.

    Every device ranks its own rows; only k pairs per query and device cross the axis.

    Args:
      query: uint32 [Q, W], replicated; database: uint32 [N, W], N divisible by the axis.
      k: at most N.
    """
    valid = jnp.ones(database.shape[0], bool) if valid is None else valid
    local = database.shape[0] // axis_size(mesh, axis)
    if not 0 < k <= database.shape[0]:
        raise ValueError(f"hamming_topk: k={k} must be between 1 and {database.shape[0]} rows")
    options = {"query_block": query_block}

    def search(query: jax.Array, part: jax.Array, keep: jax.Array) -> tuple:
        distance, index = hamming_topk(query, part, min(k, local), valid=keep, **options)
        index = index + jax.lax.axis_index(axis) * local
        # Shards in database order side by side: top_k then keeps that order among equals.
        distance, index = jax.lax.all_gather((distance, index), axis, axis=1, tiled=True)
        return smallest(distance, index, k)

    return jax.shard_map(
        search,
        mesh=mesh,
        in_specs=(P(), P(axis), P(axis)),
        out_specs=P(),
        check_vma=False,  # every shard computes the same from what was gathered
    )(query, database, valid)
