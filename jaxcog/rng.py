"""Random streams by name: no key is ever stored, and a new stream shifts no other."""

from __future__ import annotations

import zlib

import jax


def stream(root: jax.Array, name: str, step: jax.Array | int | None = None) -> jax.Array:
    """The key of stream `name` (at update `step`, if given), derived from the run's root key.

    crc32, unlike hash(), is the same in every process and Python version.
    """
    key = jax.random.fold_in(root, zlib.crc32(name.encode()))
    return key if step is None else jax.random.fold_in(key, step)
