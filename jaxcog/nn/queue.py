"""Momentum encoders and queues of their past outputs (MoCo), as pure functions.

A queue is a dict of arrays [slots, N, ...], N being the global batch, and "slot", the next one to
be overwritten. A batch is one slot, so enqueueing writes along an axis that is never split: with
the second axis split over the mesh as the batch is, every device writes its own rows and nothing
travels; and the entries and their order are the same on every mesh. Read in order, slots are the
columns of the original ring: pointer = slot * N.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcog.errors import ConfigError
from jaxcog.losses.contrastive import AxisName, gathered, unit
from jaxcog.nn.precision import at_least_float32

Queue = dict[str, jax.Array]

SLOT = "slot"


def make_queue(entries: Mapping[str, jax.Array], batch_size: int) -> Queue:
    """A queue that starts with `entries`.

    Args:
      entries: name -> [K, ...], oldest first: keys, and what is known of them (identities, hashes).
      batch_size: global; each enqueue replaces so many entries.

    Raises:
      ConfigError: K is no multiple of the batch.
    """
    sizes = {name: value.shape[0] for name, value in entries.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"make_queue: entries of different lengths: {sizes}")
    size = next(iter(sizes.values()))
    check_queue_size(size, batch_size)
    queue = {
        name: value.reshape(size // batch_size, batch_size, *value.shape[1:])
        for name, value in entries.items()
    }
    return {**queue, SLOT: jnp.zeros((), jnp.int32)}


def check_queue_size(size: int, batch_size: int) -> None:
    """Raises ConfigError where a queue of `size` does not hold a whole number of batches."""
    if size < batch_size or size % batch_size:
        near = max(round(size / batch_size), 1) * batch_size
        raise ConfigError(
            f"queue size {size} with train.batch_size={batch_size}: the queue must hold a whole "
            f"number of global batches; use a queue of {near}, or a batch that divides {size}"
        )


def random_unit_rows(
    key: jax.Array, size: int, width: int, draw: Literal["normal", "uniform"] = "normal"
) -> jax.Array:
    """[size, width] float32 rows of unit norm, to fill a queue before there are keys.

    draw: of the coordinates, before they are normalised; "uniform" is from [0, 1).
    """
    sample = jax.random.normal if draw == "normal" else jax.random.uniform
    return unit(sample(key, (size, width), jnp.float32))


def enqueue(queue: Queue, rows: Mapping[str, jax.Array]) -> Queue:
    """The queue with its oldest slot replaced.

    In `shard_map` or `pmap` both are the device's own rows, and no device needs another's. (For a
    replicated queue gather the rows first, see `jaxcog.losses.contrastive.gathered`.)

    Args:
      rows: name -> [N, ...] for every entry of the queue, in the order of the batch.
    """
    slot = queue[SLOT]
    new: Queue = {}
    for name, value in queue.items():
        if name == SLOT:
            continue
        if rows[name].shape != value.shape[1:]:
            raise ValueError(
                f"enqueue: {name} is {rows[name].shape}, the queue's slots are {value.shape[1:]}"
            )
        row = jax.lax.stop_gradient(rows[name]).astype(value.dtype)
        new[name] = jax.lax.dynamic_update_index_in_dim(value, row, slot, 0)
    slots = next(iter(new.values())).shape[0]
    return {**new, SLOT: (slot + 1) % slots}


def entries(queue: Queue, name: str) -> jax.Array:
    """[K, ...]: all entries called `name`, in the order of the original ring."""
    value = queue[name]
    return value.reshape(-1, *value.shape[2:])


def from_newest(queue: Queue, name: str) -> jax.Array:
    """[slots, N, ...]: the newest slot first."""
    slots = queue[name].shape[0]
    return jnp.take(queue[name], (queue[SLOT] - 1 - jnp.arange(slots)) % slots, axis=0)


def of_other_identities(
    queue_ids: jax.Array, batch_ids: jax.Array, axis_name: AxisName = None
) -> jax.Array:
    """[K] bool: the entries whose identity no row of the whole batch has.

    queue_ids: [K] integers (a device's part of them); batch_ids: [B], the device's rows.
    """
    everyone = gathered(batch_ids, axis_name)
    return jnp.all(queue_ids[:, None] != everyone[None, :], axis=1)


def momentum_update(average: Any, params: Any, momentum: float | jax.Array) -> Any:
    """momentum * average + (1 - momentum) * params, leaf by leaf, in float32 (or wider).

    In half precision the small step (1 - momentum) * difference would be lost.
    """

    def one(old: jax.Array, new: jax.Array) -> jax.Array:
        mixed = momentum * at_least_float32(old) + (1 - momentum) * at_least_float32(new)
        return jax.lax.stop_gradient(mixed).astype(old.dtype)

    return jax.tree.map(one, average, params)
