"""Codebooks: one fixed binary target per class, orthogonal or close to it (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.errors import ConfigError

CodebookKind = Literal["bernoulli", "gaussian", "max_hamming", "hadamard"]


def bernoulli_codebook(key: jax.Array, num_classes: int, num_bits: int) -> jax.Array:
    """[C, K] int8 of +-1 with equal probability ("B"); "N", signs of Gaussians, is the same.

    The expected Hamming distance of two rows is K/2. Rows may coincide where 2^K is not much
    larger than C^2.
    """
    bits = jax.random.bernoulli(key, shape=(num_classes, num_bits))
    return jnp.where(bits, 1, -1).astype(jnp.int8)


def hadamard_codebook(num_classes: int, num_bits: int, key: jax.Array | None = None) -> jax.Array:
    """First C rows of the Sylvester matrix H_K, then of -H_K, then random balanced rows ("H").

    Up to C = K all rows are exactly orthogonal; rows of -H_K are antipodal to one of H_K each
    (inner product -K). Rows from 2K on have exactly K/2 bits of each sign.

    Args:
      num_bits: a power of two.
      key: for the random rows; needed only for C > 2K.

    Returns:
      [C, K] int8 of +-1.

    Raises:
      ConfigError: no Sylvester matrix of this order, or no key where one is needed.
    """
    if not _power_of_two(num_bits):
        raise ConfigError(
            f"codebook hadamard: {num_bits} bits is no power of two, and Sylvester's construction "
            "has only these orders: choose another num_bits, or the max_hamming codebook"
        )
    rows = jnp.arange(min(num_classes, 2 * num_bits))
    # Entry (i, j) of Sylvester's matrix is the parity of the bits that i and j share.
    shared = (rows[:, None] % num_bits) & jnp.arange(num_bits)
    parity = jax.lax.population_count(shared) & 1
    sign = jnp.where(rows < num_bits, 1, -1)[:, None]
    book = (sign * (1 - 2 * parity)).astype(jnp.int8)
    extra = num_classes - 2 * num_bits
    if extra <= 0:
        return book
    if key is None:
        raise ConfigError(
            f"codebook hadamard: {num_classes} classes need {extra} random rows beside the "
            f"{2 * num_bits} of a Hadamard matrix and its negative: pass a key"
        )
    balanced = jnp.where(jnp.arange(num_bits) < num_bits // 2, 1, -1).astype(jnp.int8)
    keys = jax.random.split(key, extra)
    return jnp.concatenate([book, jax.vmap(lambda k: jax.random.permutation(k, balanced))(keys)])


def max_hamming_codebook(
    key: jax.Array | int,
    num_classes: int,
    num_bits: int,
    *,
    max_tries: int = 10_000,
    init_distance: float = 0.61,
    min_distance: float = 0.2,
    step: float = 0.01,
) -> np.ndarray:
    """Random rows that are far apart from each other ("O", MaxHD), by the rule of the paper's code.

    Random sign vectors are tried in turn; one whose normalised Hamming distance to every row so
    far is at least t becomes a row. t starts at `init_distance`; after every `max_tries`
    rejections (counted over all rows) it falls by `step`. At last the rows are shuffled.

    init_distance=0.61 is the official value; no more than a few rows can be so far apart, so most
    draws are wasted there: 0.5 gives as good a codebook in a fraction of the time.

    Runs on the host, also while a function is traced: `key` is a concrete key, or an integer seed,
    which needs no device.

    Returns:
      [C, K] int8 NumPy array of +-1.

    Raises:
      ConfigError: t would fall below `min_distance`.
    """
    if isinstance(key, int):
        rng = np.random.default_rng(key)
    else:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())

    def draw(count: int) -> np.ndarray:
        return (2 * rng.integers(0, 2, (count, num_bits), np.int8) - 1).astype(np.int8)

    rows = greedy_rows(
        draw,
        num_classes,
        max_tries=max_tries,
        init_distance=init_distance,
        min_distance=min_distance,
        step=step,
    )
    return rows[rng.permutation(num_classes)]


def greedy_rows(
    draw: Callable[[int], np.ndarray],
    num_classes: int,
    *,
    max_tries: int,
    init_distance: float,
    min_distance: float,
    step: float,
    chunk: int = 1024,
) -> np.ndarray:
    """The accepted rows of `max_hamming_codebook`, in order of acceptance, from given candidates.

    Args:
      draw: draw(n) gives the next candidates [<=n, K] of +-1; none left is an error.

    Returns:
      [C, K] int8. The same for every `chunk`: candidates are judged one by one.

    Raises:
      ConfigError: the distance would fall below `min_distance`, or the candidates ran out.
    """
    candidates = draw(chunk)
    num_bits = candidates.shape[1]
    accepted = np.empty((num_classes, num_bits), np.int8)
    threshold, tries, count, at = init_distance, 0, 0, 0
    nearest = np.full(len(candidates), np.inf, np.float32)
    while count < num_classes:
        if at == len(candidates):
            candidates, at = draw(chunk), 0
            if not len(candidates):
                raise ConfigError(
                    f"codebook max_hamming: candidates ran out after {count} of {num_classes} rows"
                )
            nearest = _distances(candidates, accepted[:count]).min(axis=1, initial=np.inf)
        reach = min(len(candidates), at + max_tries - tries)
        # Float32 on both sides, as the official comparison: ties at the threshold decide rows.
        passing = np.flatnonzero(nearest[at:reach] >= np.float32(threshold))
        rejected = int(passing[0]) if len(passing) else reach - at
        at, tries = at + rejected, tries + rejected
        if len(passing):
            accepted[count] = candidates[at]
            at, count = at + 1, count + 1
            fresh = _distances(candidates[at:], accepted[count - 1 : count])[:, 0]
            nearest[at:] = np.minimum(nearest[at:], fresh)
        if tries >= max_tries:
            tries, threshold = 0, threshold - step
            if threshold < min_distance:
                raise ConfigError(
                    f"codebook max_hamming: no {num_classes} codes of {num_bits} bits at least "
                    f"{min_distance:g} apart were found: use more bits"
                )
    return accepted


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Normalised Hamming distances [len(a), len(b)], float32."""
    products = a.astype(np.float32) @ b.astype(np.float32).T
    return np.float32(0.5) * (a.shape[1] - products) / np.float32(a.shape[1])


def _power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def choose_codebook(
    kind: CodebookKind, num_classes: int, num_bits: int
) -> tuple[CodebookKind, str]:
    """(the construction that fits, what to tell the user: "" where it is the one asked for).

    Raises:
      ConfigError: fewer codes than classes exist.
    """
    if num_bits < 63 and num_classes > 2**num_bits:
        raise ConfigError(
            f"num_bits={num_bits}: only {2**num_bits} different codes exist, for {num_classes} "
            f"classes: use at least {int(np.ceil(np.log2(num_classes)))} bits"
        )
    if kind != "hadamard":
        return kind, ""
    if not _power_of_two(num_bits):
        return "max_hamming", (
            f"codebook hadamard: {num_bits} bits is no power of two, so there is no Sylvester "
            "Hadamard matrix of this order; the max_hamming codebook (random rows kept far apart) "
            "is used instead, which the paper finds equally good"
        )
    if num_classes > 2 * num_bits:
        return "hadamard", (
            f"codebook hadamard: {num_classes} classes are more than the {2 * num_bits} rows of a "
            f"Hadamard matrix of order {num_bits} and its negative; the other "
            f"{num_classes - 2 * num_bits} rows are random balanced vectors, not orthogonal ones"
        )
    return "hadamard", ""


def make_codebook(kind: CodebookKind, seed: int, num_classes: int, num_bits: int) -> jax.Array:
    """[C, K] int8 of +-1 by a construction that exists for these sizes (`choose_codebook`).

    Works under jit, where only max_hamming rows become constants of the program.

    Raises:
      ConfigError: as `choose_codebook` and `max_hamming_codebook`.
    """
    kind, _ = choose_codebook(kind, num_classes, num_bits)
    if kind == "max_hamming":
        rows = max_hamming_codebook(seed, num_classes, num_bits, init_distance=0.5)
        return jnp.asarray(rows)
    key = jax.random.key(seed)
    if kind == "hadamard":
        return hadamard_codebook(num_classes, num_bits, key)
    return bernoulli_codebook(key, num_classes, num_bits)
