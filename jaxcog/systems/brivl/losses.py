"""The pre-training losses, and those that the official code ships without using (sheet 4)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jaxcog.losses.contrastive import (
    AxisName,
    axis_index,
    gathered,
    info_nce,
    queue_info_nce,
    sigmoid_loss,
    unit,
)
from jaxcog.nn.extremes import largest
from jaxcog.nn.queue import Queue, enqueue, entries, from_newest

Negatives = Literal["queue", "batch+queue"]
Scalars = dict[str, jax.Array]

TEMPERATURE = 0.07


def momentum_contrast(
    image: jax.Array,
    text: jax.Array,
    image_key: jax.Array,
    text_key: jax.Array,
    queue: Queue,
    *,
    temperature: float = TEMPERATURE,
    negatives: Negatives = "queue",
    pair: jax.Array | None = None,
    block: int = 4096,
    axis_name: AxisName = None,
) -> tuple[jax.Array, Queue, Scalars]:
    """Cross-modal momentum contrast: image to text and back, summed.

    Args:
      image, text: [B, D] queries of unit norm, with gradient.
      image_key, text_key: [B, D] keys of unit norm, from the momentum towers; no gradient.
      queue: entries "image" and "text" [slots, N, D], and "pair" [slots, N] if `pair` is given.
      negatives: "queue": the own key against the queue as it was; keys of the other samples are no
        negatives (official code). "batch+queue": the keys are enqueued first, so that the others
        are (the paper's figure).
      pair: [B] hashes of the pairs; queue entries of the own hash are no negatives.
      block: queue entries at once.
      axis_name: mapped axes over which batch and queue are split.

    Returns:
      ([B] loss of each pair, the queue with the new keys, [B] scalars by name).
    """
    image_key, text_key = jax.lax.stop_gradient((image_key, text_key))
    rows = {"image": image_key, "text": text_key}
    if pair is not None:
        rows["pair"] = pair
    fuller = enqueue(queue, rows)
    against = fuller if negatives == "batch+queue" else queue

    def one_way(query: jax.Array, key: jax.Array, name: str) -> jax.Array:
        return queue_info_nce(
            query,
            key,
            entries(against, name),
            scale=1 / temperature,
            ids=pair,
            queue_ids=None if pair is None else entries(against, "pair"),
            includes_positive=negatives == "batch+queue",
            block=block,
            axis_name=axis_name,
        )

    i2t, t2i = one_way(image, text_key, "text"), one_way(text, image_key, "image")
    scalars = {
        "loss_i2t": i2t,
        "loss_t2i": t2i,
        **_watched(image, text_key, queue, block, axis_name),
    }
    return i2t + t2i, fuller, scalars


def _watched(
    image: jax.Array, text_key: jax.Array, queue: Queue, block: int, axis_name: AxisName
) -> Scalars:
    """What tells pairs from mere freshness: a loss that falls while these stay is no learning.

    in_batch_top1: whether the own text key is the nearest of the batch. similarity_new and _old: to
    the newest and the oldest quarter of the queue.
    """
    image = jax.lax.stop_gradient(image)
    positive = jnp.sum(image * text_key, axis=1)
    keys = gathered(text_key, axis_name)
    number = axis_index(axis_name) * image.shape[0] + jnp.arange(image.shape[0])
    better = _count_above(image, keys, positive, number, block)
    newest = from_newest(queue, "text")
    quarter = max(newest.shape[0] // 4, 1)

    def to_mean(slots: jax.Array) -> jax.Array:
        mean = jnp.mean(slots, axis=(0, 1))
        mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
        return image @ mean.astype(image.dtype)

    return {
        "in_batch_top1": (better == 0).astype(jnp.float32),
        "positive_similarity": positive,
        "similarity_new": to_mean(newest[:quarter]),
        "similarity_old": to_mean(newest[-quarter:]),
    }


def _count_above(
    query: jax.Array, keys: jax.Array, threshold: jax.Array, own: jax.Array, block: int
) -> jax.Array:
    """[B]: how many keys other than number `own` are at least as near as `threshold`."""
    count = keys.shape[0]
    block = min(block, count)
    blocks = -(-count // block)
    padded = jnp.pad(keys, ((0, blocks * block - count), (0, 0)))

    def step(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        part = jax.lax.dynamic_slice_in_dim(padded, i * block, block)
        number = i * block + jnp.arange(block)
        other = (number < count) & (number != own[:, None])
        above = other & (query @ part.T >= threshold[:, None])
        return total + jnp.sum(above, axis=1, dtype=jnp.int32), None

    start = jnp.zeros_like(own, jnp.int32)
    if blocks == 1:
        return step(start, jnp.zeros((), jnp.int32))[0]
    return jax.lax.scan(step, start, jnp.arange(blocks))[0]


def in_batch(
    image: jax.Array,
    text: jax.Array,
    *,
    kind: Literal["in_batch", "sigmoid"],
    scale: jax.Array,
    bias: jax.Array,
    pair: jax.Array | None = None,
    block: int = 4096,
    axis_name: AxisName = None,
) -> tuple[jax.Array, Scalars]:
    """The options without momentum towers: InfoNCE in the batch (CLIP), or pairwise sigmoids.

    scale, bias: of the logits, learned. Others as in `momentum_contrast`.

    Returns:
      ([B] loss of each pair, [B] scalars by name).
    """
    if kind == "in_batch":
        loss = info_nce(image, text, scale=scale, ids=pair, block=block, axis_name=axis_name)
    else:
        loss = sigmoid_loss(
            image, text, scale=scale, bias=bias, ids=pair, block=block, axis_name=axis_name
        )
    kept, texts = jax.lax.stop_gradient(image), jax.lax.stop_gradient(text)
    positive = jnp.sum(kept * texts, axis=1)
    number = axis_index(axis_name) * image.shape[0] + jnp.arange(image.shape[0])
    better = _count_above(kept, gathered(texts, axis_name), positive, number, block)
    top1 = (better == 0).astype(jnp.float32)
    return loss, {"in_batch_top1": top1, "positive_similarity": positive}


def topk_agreement_positives(
    image_key: jax.Array, text_key: jax.Array, queue: Queue, k: int
) -> jax.Array:
    """[B, K] bool: entries among the k nearest of both keys, each in its own queue."""

    def nearest(key: jax.Array, name: str) -> jax.Array:
        scores = key @ entries(queue, name).T
        _, index = jax.lax.top_k(scores, k)
        rows = jnp.arange(key.shape[0])[:, None]
        return jnp.zeros(scores.shape, bool).at[rows, index].set(True)

    return nearest(text_key, "text") & nearest(image_key, "image")


def multi_label_contrast(
    image: jax.Array,
    text: jax.Array,
    image_key: jax.Array,
    text_key: jax.Array,
    queue: Queue,
    positives: jax.Array,
    temperature: float = TEMPERATURE,
) -> jax.Array:
    """[B]: momentum contrast where queue entries [B, K] are further positives.

    The log-probabilities of all positives are summed, not averaged. This option holds [B, K].
    """

    def one_way(query: jax.Array, key: jax.Array, name: str) -> jax.Array:
        own = jnp.sum(query * key, axis=1, keepdims=True)
        logits = jnp.concatenate([own, query @ entries(queue, name).T], axis=1) / temperature
        chosen = jnp.concatenate([jnp.ones_like(own, bool), positives], axis=1)
        return -jnp.sum(jax.nn.log_softmax(logits), axis=1, where=chosen)

    return one_way(image, text_key, "text") + one_way(text, image_key, "image")


def hardest_triplet(x: jax.Array, y: jax.Array, margin: float = 0.2) -> jax.Array:
    """Scalar: triplet loss on cosines [B, D] with the hardest other of the batch, both ways."""
    scores = unit(x) @ unit(y).T
    return _hardest(scores, scores, margin)


def _hardest(across: jax.Array, down: jax.Array, margin: float) -> jax.Array:
    """Hardest negatives along rows of `across` and along columns of `down`; their means summed."""
    own = jnp.eye(across.shape[0], dtype=bool)

    def hinge(scores: jax.Array, axis: int) -> jax.Array:
        hardest = largest(jnp.where(own, -jnp.inf, scores), axis=axis)
        return jnp.mean(jnp.maximum(0, margin + hardest - jnp.diagonal(scores)))

    return hinge(across, 1) + hinge(down, 0)


def pair_loss(x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
    """Scalar: mean over real tokens of 1 - cosine of the tokens [B, L, D] at the same place."""
    distance = 1 - jnp.sum(unit(x) * unit(y), axis=-1)
    return jnp.sum(distance * mask) / jnp.sum(mask)


def alignment_loss(x: jax.Array, y: jax.Array, x_mask: jax.Array, y_mask: jax.Array) -> jax.Array:
    """Scalar: 1 - the best cosine of each real token in the partner, both ways.

    x [B, L, D] with mask [B, L] bool, y [B, M, D] with mask [B, M]. The mean is over all real
    tokens of the batch, then over both directions.
    """
    cosine = jnp.einsum("bld,bmd->blm", unit(x), unit(y))
    best_x = largest(jnp.where(y_mask[:, None, :], cosine, -jnp.inf), axis=2)
    best_y = largest(jnp.where(x_mask[:, :, None], cosine, -jnp.inf), axis=1)

    def mean(best: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask, 1 - best, 0)) / jnp.sum(mask)

    return (mean(best_x, x_mask) + mean(best_y, y_mask)) / 2


def alignment_triplet(
    x: jax.Array, y: jax.Array, x_mask: jax.Array, y_mask: jax.Array, margin: float = 0.2
) -> jax.Array:
    """Scalar: hardest triplets where a score is the mean best cosine of a sequence's tokens.

    Rows score by the tokens of x, columns by those of y. Arguments as in `alignment_loss`.
    """
    cosine = jnp.einsum("ald,bmd->ablm", unit(x), unit(y))
    best_x = largest(jnp.where(y_mask[None, :, None, :], cosine, -jnp.inf), axis=3)
    best_y = largest(jnp.where(x_mask[:, None, :, None], cosine, -jnp.inf), axis=2)

    def mean(best: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask, best, 0), axis=2) / jnp.sum(mask, axis=2)

    across = mean(best_x, jnp.broadcast_to(x_mask[:, None, :], best_x.shape))
    down = mean(best_y, jnp.broadcast_to(y_mask[None], best_y.shape))
    return _hardest(across, down, margin)


def attention_alignment(
    x: jax.Array, y: jax.Array, y_mask: jax.Array, weight: jax.Array, bias: jax.Array
) -> jax.Array:
    """Scalar: 1 - the mean of cosines, each weighted by a linear map of its coordinates' products.

    x [B, L, D] (all tokens count, as in the official code), y [B, M, D] with mask [B, M] bool;
    weight [1, D], bias [1].
    """
    x, y = unit(x), unit(y)
    cosine = jnp.einsum("bld,bmd->blm", x, y)
    attention = jnp.einsum("bld,bmd,d->blm", x, y, weight[0]) + bias[0]
    counted = jnp.broadcast_to(y_mask[:, None, :], cosine.shape)
    return 1 - jnp.sum(attention * cosine, where=counted) / jnp.sum(counted)


def length_mask(lengths: jax.Array, size: int) -> jax.Array:
    """[B] lengths -> [B, size] float32, 1 for real tokens."""
    return (jnp.arange(size) < lengths[:, None]).astype(jnp.float32)
