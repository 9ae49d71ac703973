"""Cross-modal momentum contrast: key encoders, identity-aware queues, the contrast itself.

Images are contrasted with momentum-encoded sentences and the other way round. `keys` is
{"params": copies of both encoders (and of head layers, see `tracked`), "batch_stats"}; the queue
has the entries "visual", "textual" [slots, B, D] of unit norm and "ids" [slots, B] (-1: empty).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxcog.errors import ConfigError
from jaxcog.losses.contrastive import queue_info_nce, unit
from jaxcog.nn.queue import (
    Queue,
    enqueue,
    entries,
    make_queue,
    momentum_update,
    of_other_identities,
    random_unit_rows,
)
from jaxcog.rng import stream
from jaxcog.systems.textreid.model import (
    ATTENTION_PROJECTIONS,
    MODALITIES,
    Network,
    embed,
    project,
    reinitialised,
)

BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Momentum:
    """Options of the contrast; the defaults are the published configuration.

    queue: K keys a modality; a multiple of the batch.
    decay: of the key encoders' moving average. Batch-norm buffers are not averaged: key encoders
      run on batch statistics and keep their own.
    temperature: of the softmax; fixed.
    projector: contrast happens behind two further layers, which have a momentum copy (MOCO.FC).
    keys: keys pass through the "live" embedding layers, or through a "momentum" copy of them. With
      a projector they pass through its momentum copy.
    mask: "batch": an entry whose identity occurs in the batch is a negative of no row; "per_row":
      it is left out for the rows of that identity only.
    mask_empty: leave out entries never written. Else the random vectors that the queue begins with
      count as negatives for its first K / B updates.
    official_reinit: the official initialiser of this head also overwrites CLIP's attention-pool
      projections, differently in query and key encoder; most likely the published numbers have it.
    """

    queue: int = 2048
    decay: float = 0.999
    temperature: float = 0.07
    projector: bool = False
    keys: Literal["live", "momentum"] = "live"
    mask: Literal["batch", "per_row"] = "batch"
    mask_empty: bool = False
    official_reinit: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ConfigError(f"task.momentum.decay={self.decay}: at least 0, below 1")
        if not self.temperature > 0:
            raise ConfigError(f"task.momentum.temperature={self.temperature}: must be positive")
        if self.queue < 1:
            raise ConfigError(f"task.momentum.queue={self.queue}: at least 1; None for no contrast")


class Contrast(NamedTuple):
    """The loss, scalar; what it was computed from, [B, D] unit rows; the new keys and queue.

    negatives: float32 scalar, entries of the queue that were used (per row, on average).
    """

    loss: jax.Array
    negatives: jax.Array
    queries: dict[str, jax.Array]
    positives: dict[str, jax.Array]
    keys: Any
    queue: Queue


def tracked(config: Momentum, params: Any) -> Any:
    """The part of the parameters that has a momentum copy."""
    names = [] if config.keys == "live" else list(MODALITIES)
    if config.projector:
        names = [f"{modality}_fc_{layer}" for modality in MODALITIES for layer in ("0", "2")]
    head = {name: params["head"][name] for name in names}
    encoders = {modality: params[modality] for modality in MODALITIES}
    return {**encoders, "head": head} if head else encoders


def init_keys(config: Momentum, params: Any, batch_stats: Any, key: jax.Array) -> Any:
    """Key encoders as copies of the query encoders (but see `official_reinit`)."""
    copies = jax.tree.map(jnp.copy, {"params": tracked(config, params), "batch_stats": batch_stats})
    if config.official_reinit:
        copies["params"]["visual"] = reinitialised(copies["params"]["visual"], key)
    return copies


def init_queue(config: Momentum, width: int, batch_size: int, key: jax.Array) -> Queue:
    """Random unit vectors with non-negative entries, of no identity."""
    rows = {
        modality: random_unit_rows(stream(key, modality), config.queue, width, "uniform")
        for modality in MODALITIES
    }
    return make_queue({**rows, "ids": jnp.full(config.queue, -1, jnp.int32)}, batch_size)


def update_keys(config: Momentum, keys: Any, params: Any, batch_stats: Any, first: Any) -> Any:
    """The moving average towards the query weights as they are BEFORE this update.

    first: bool scalar. The first update makes them copies, batch statistics too: weights that were
    loaded after the State was made reach the key encoders that way.
    """
    query = tracked(config, params)
    average = momentum_update(keys["params"], query, jnp.where(first, 0.0, config.decay))
    if config.official_reinit:
        pool = dict(average["visual"]["attnpool"])
        for name in ATTENTION_PROJECTIONS:
            old, new = (x["visual"]["attnpool"][name] for x in (keys["params"], query))
            pool[name] = momentum_update(old, new, config.decay)
        average["visual"] = {**average["visual"], "attnpool": pool}
    stats = jax.tree.map(
        lambda own, queries: jnp.where(first, queries, own), keys["batch_stats"], batch_stats
    )
    return {"params": average, "batch_stats": stats}


def contrast(
    config: Momentum,
    network: Network,
    params: Any,
    keys: Any,
    queue: Queue,
    batch: Any,
    features: dict[str, jax.Array],
    *,
    table: Any = None,
    mesh: Any = None,
) -> Contrast:
    """One step of momentum contrast, after `update_keys`.

    Args:
      keys: updated already.
      batch: "image", "words", "length", "person".
      features: of the query encoders, [B, F] by modality; gradients flow through these alone.
      mesh: where the batch, and with it the queue, is split over more than one device.

    Returns:
      See Contrast; image to sentence plus sentence to image, each averaged over the batch.
    """
    queries = {m: unit(_place(config, params["head"], m, features[m])) for m in MODALITIES}
    positives, stats = _encode_keys(config, network, params, keys, batch, table)
    labels, ids = batch["person"], entries(queue, "ids")
    # An empty entry has no identity, so it stays a negative of every row unless told otherwise.
    where = ids >= 0 if config.mask_empty else jnp.ones(ids.shape, bool)
    if config.mask == "batch":
        where &= of_other_identities(ids, labels)
        negatives = jnp.sum(where, dtype=jnp.float32)
    else:
        different = labels[:, None] != ids
        negatives = jnp.mean(jnp.sum(where & different, axis=1, dtype=jnp.float32))
    rows = jnp.zeros(labels.shape)
    for query, key in (("visual", "textual"), ("textual", "visual")):
        rows = rows + _one_way(
            config, mesh, queries[query], positives[key], queue[key], where, labels, queue["ids"]
        )
    return Contrast(
        jnp.mean(rows),
        negatives,
        queries,
        positives,
        {**keys, "batch_stats": stats},
        enqueue(queue, {**positives, "ids": labels}),
    )


def _place(config: Momentum, head: Any, modality: str, features: jax.Array) -> jax.Array:
    return (project if config.projector else embed)(head, modality, features)


def _encode_keys(
    config: Momentum, network: Network, params: Any, keys: Any, batch: Any, table: Any
) -> tuple[dict[str, jax.Array], Any]:
    """Unit rows [B, D] of both modalities, and the key encoder's batch statistics after them."""
    held = jax.lax.stop_gradient(keys["params"])
    encoded = network.encode(
        held,
        keys["batch_stats"],
        batch["image"],
        batch["words"],
        batch["length"],
        table,
        train=True,
    )
    head = held.get("head", params["head"])
    placed = {m: unit(_place(config, head, m, getattr(encoded, m))) for m in MODALITIES}
    return jax.lax.stop_gradient(placed), encoded.batch_stats


def _one_way(
    config: Momentum,
    mesh: Any,
    query: jax.Array,
    positive: jax.Array,
    queue: jax.Array,
    where: jax.Array,
    labels: jax.Array,
    queue_ids: jax.Array,
) -> jax.Array:
    """Loss of each row [B]; `queue` [slots, B, D] and `queue_ids` are split as the batch is."""
    per_row = config.mask == "per_row"
    where = where.reshape(queue_ids.shape)

    def loss(axis_name: Any, q: Any, p: Any, entries: Any, keep: Any, ids: Any, held: Any) -> Any:
        return queue_info_nce(
            q,
            p,
            entries.reshape(-1, entries.shape[-1]),
            scale=1 / config.temperature,
            where=keep.reshape(-1),
            ids=ids if per_row else None,
            queue_ids=held.reshape(-1) if per_row else None,
            axis_name=axis_name,
        )

    values = (query, positive, queue, where, labels, queue_ids)
    if not splits(mesh):
        return loss(None, *values)
    rows, slots = P(BATCH_AXES), P(None, BATCH_AXES)
    return jax.shard_map(
        lambda *parts: loss(BATCH_AXES, *parts),
        mesh=mesh,
        in_specs=(rows, rows, slots, slots, rows, slots),
        out_specs=rows,
    )(*values)


def splits(mesh: Any) -> bool:
    """Whether a batch is split over more than one device of the mesh."""
    return mesh is not None and any(mesh.shape.get(axis, 1) > 1 for axis in BATCH_AXES)


PARTITION = ((r"^queue/(visual|textual|ids)$", P(None, BATCH_AXES)),)
"""Each device holds the entries that it enqueued."""
