"""Runs of equal layers: unrolled or scanned, with or without rematerialisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
Body = Callable[[jax.Array, Tree], tuple[jax.Array, Tree]]
"""(activations, what belongs to one layer) -> (activations, what the layer gives besides)."""


def fold_layers(
    body: Body,
    x: jax.Array,
    layers: Sequence[Tree],
    *,
    scan: bool = False,
    remat: bool = False,
) -> tuple[jax.Array, list[Tree]]:
    """x through layers[0], layers[1], ...: (activations, what each layer gave besides).

    Layers stay separate variables, under their own names; a scan stacks them for the call.

    Args:
      body: the same function for each; keeps the shape and type of x.
      layers: trees (parameters, statistics, keys) of equal structure and shapes.
      scan: one compiled body for all layers, instead of one each: compile time no longer grows
        with depth.
      remat: keep only x of each layer for the gradient, and compute the rest again.
    """
    run = jax.checkpoint(body) if remat else body
    if not scan or len(layers) < 2:
        outs = []
        for layer in layers:
            x, out = run(x, layer)
            outs.append(out)
        return x, outs
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    x, outs = jax.lax.scan(run, x, stacked)
    return x, [jax.tree.map(lambda leaf, i=i: leaf[i], outs) for i in range(len(layers))]


def layer_keys(key: jax.Array | None, first: int, count: int) -> list[jax.Array | None]:
    """A key for each of layers first, ..., first + count - 1; None for each without a key."""
    if key is None:
        return [None] * count
    return [jax.random.fold_in(key, first + i) for i in range(count)]
