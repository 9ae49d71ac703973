"""Objectives of text-based person search: identities, alignment, and those of later methods.

v, t [B, D] are embeddings of images and of their sentences, un-normalised; labels [B] identities.
All arithmetic is float32. With `axis_name` (pmap, shard_map) B is the local batch, and the value,
on every device, that of the whole batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcog.losses.contrastive import AxisName, gathered, info_nce, unit
from jaxcog.nn.precision import at_least_float32

_LOG_FLOOR = 1e-8


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b in full precision: temperatures of 0.02 and below multiply any rounding."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _sum(x: jax.Array, axis_name: AxisName) -> jax.Array:
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def _mean(rows: jax.Array, axis_name: AxisName) -> jax.Array:
    mean = jnp.mean(rows)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def _cross_entropy(logits: jax.Array, labels: jax.Array, epsilon: float) -> jax.Array:
    """Per row, with targets (1 - epsilon) one-hot + epsilon / C."""
    scores = jax.nn.log_softmax(logits)
    target = jnp.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    return -(1 - epsilon) * target - epsilon * jnp.mean(scores, axis=1)


def instance_loss(
    projection: jax.Array,
    v: jax.Array,
    t: jax.Array,
    labels: jax.Array,
    *,
    epsilon: float = 0.1,
    scale: float = 1.0,
    normalize: bool = False,
    axis_name: AxisName = None,
) -> jax.Array:
    """Both modalities classified into the training identities by one shared projection.

    Args:
      projection: [D, C]; its columns are normalised here, and get their gradient through that.
      labels: int [B] below C.
      epsilon: label smoothing. The official code smooths by 0.1 for any value above 0.
      scale: of the logits.
      normalize: whether embeddings are normalised too.

    Returns:
      Scalar, mean over the batch, images plus sentences.
    """
    classes = unit(projection.T).T
    total = jnp.zeros(())
    for embedding in (v, t):
        rows = unit(embedding) if normalize else at_least_float32(embedding)
        logits = scale * _dot(rows, classes)
        total = total + _mean(_cross_entropy(logits, labels, epsilon), axis_name)
    return total


def global_align_loss_from_sim(
    similarity: jax.Array,
    same: jax.Array,
    *,
    alpha: float = 0.6,
    beta: float = 0.4,
    scale_pos: float = 10.0,
    scale_neg: float = 40.0,
    axis_name: AxisName = None,
) -> jax.Array:
    """Pushes cosines of one identity above `alpha` and of two below `beta`.

    Args:
      similarity: [B, M] cosines of images (rows) and sentences.
      same: bool [B, M], or identities [B] where M = B.

    Returns:
      Scalar: 2/B times the SUM over pairs of log(1 + exp(-scale_pos (s - alpha))) for equal and
      log(1 + exp(scale_neg (s - beta))) for different identities.
    """
    if same.ndim == 1:
        same = same[:, None] == same
    s = at_least_float32(similarity)
    pairs = jnp.where(
        same,
        jax.nn.softplus(-scale_pos * (s - alpha)),
        jax.nn.softplus(scale_neg * (s - beta)),
    )
    return 2 * _mean(jnp.sum(pairs, axis=1), axis_name)


def global_align_loss(
    v: jax.Array,
    t: jax.Array,
    labels: jax.Array,
    *,
    alpha: float = 0.6,
    beta: float = 0.4,
    scale_pos: float = 10.0,
    scale_neg: float = 40.0,
    axis_name: AxisName = None,
) -> jax.Array:
    """`global_align_loss_from_sim` of the cosines of all images with all sentences."""
    sentences, identities = gathered((unit(t), labels), axis_name)
    return global_align_loss_from_sim(
        _dot(unit(v), sentences.T),
        labels[:, None] == identities,
        alpha=alpha,
        beta=beta,
        scale_pos=scale_pos,
        scale_neg=scale_neg,
        axis_name=axis_name,
    )


def _divergence(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Per row sum p (log p - log(target + 1e-8)), p the softmax of logits."""
    scores = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(scores) * (scores - jnp.log(target + _LOG_FLOOR)), axis=1)


def cmpm_loss(
    v: jax.Array,
    t: jax.Array,
    labels: jax.Array,
    *,
    row_sums: bool = False,
    axis_name: AxisName = None,
) -> jax.Array:
    """Cross-modal projection matching (Zhang and Lu, ECCV 2018), as the official code has it.

    Its target divides each row of the match matrix by the row's L2 norm, so that it is no
    distribution and the loss can be negative. `row_sums` divides by the sum instead.
    """
    vs, ts, ids = gathered((at_least_float32(v), at_least_float32(t), labels), axis_name)
    same = (labels[:, None] == ids).astype(jnp.float32)
    count = jnp.sum(same, axis=1, keepdims=True)
    target = same / (count if row_sums else jnp.sqrt(count))
    rows = _divergence(_dot(at_least_float32(v), unit(ts).T), target)
    rows = rows + _divergence(_dot(at_least_float32(t), unit(vs).T), target)
    return _mean(rows, axis_name)


def cmpc_loss(
    projection: jax.Array,
    v: jax.Array,
    t: jax.Array,
    labels: jax.Array,
    *,
    axis_name: AxisName = None,
) -> jax.Array:
    """Cross-modal projection classification: each embedding projected on its partner's direction.

    projection: [D, C]; its columns are normalised here.
    """
    image_logits, text_logits = cmpc_logits(projection, v, t)
    rows = _cross_entropy(image_logits, labels, 0.0) + _cross_entropy(text_logits, labels, 0.0)
    return _mean(rows, axis_name)


def cmpc_logits(projection: jax.Array, v: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits [B, C] of images and of sentences in `cmpc_loss`."""
    classes, v, t = unit(projection.T).T, at_least_float32(v), at_least_float32(t)
    on_text = jnp.sum(v * unit(t), axis=1, keepdims=True) * unit(t)
    on_image = jnp.sum(t * unit(v), axis=1, keepdims=True) * unit(v)
    return _dot(on_text, classes), _dot(on_image, classes)


def sdm_loss(
    v: jax.Array,
    t: jax.Array,
    labels: jax.Array,
    *,
    temperature: float = 0.02,
    image_ids: jax.Array | None = None,
    factor: float = 0.3,
    axis_name: AxisName = None,
) -> jax.Array:
    """Similarity distribution matching (IRRA, CVPR 2023).

    image_ids: [B]; other images of the same person then weigh `factor`, the same image 1.
    """
    images, sentences = unit(v), unit(t)
    vs, ts, ids = gathered((images, sentences, labels), axis_name)
    weight = (labels[:, None] == ids).astype(jnp.float32)
    if image_ids is not None:
        others = gathered(image_ids, axis_name)
        weight = jnp.where(image_ids[:, None] == others, 1.0, factor * weight)
    target = weight / jnp.sum(weight, axis=1, keepdims=True)
    rows = _divergence(_dot(images, ts.T) / temperature, target)
    rows = rows + _divergence(_dot(sentences, vs.T) / temperature, target)
    return _mean(rows, axis_name)


def itc_loss(
    v: jax.Array, t: jax.Array, *, temperature: float = 0.02, axis_name: AxisName = None
) -> jax.Array:
    """Image-text contrast (CLIP): the pair itself against the batch, mean of both directions."""
    return _mean(info_nce(unit(v), unit(t), scale=1 / temperature, axis_name=axis_name), axis_name)


def triplet_alignment_loss(
    v: jax.Array,
    t: jax.Array,
    labels: jax.Array,
    *,
    temperature: float = 0.015,
    margin: float = 0.1,
    axis_name: AxisName = None,
) -> jax.Array:
    """TAL (RDE, CVPR 2024): a triplet loss whose hardest negative is a log-sum-exp.

    Returns:
      Scalar, the SUM over the batch of both directions.
    """
    images, sentences = unit(v), unit(t)
    vs, ts, ids = gathered((images, sentences, labels), axis_name)
    same = labels[:, None] == ids

    def one_way(scores: jax.Array) -> jax.Array:
        weight = jax.nn.softmax(jnp.where(same, scores / temperature, -jnp.inf), axis=1)
        positive = jnp.sum(jax.lax.stop_gradient(weight) * scores, axis=1)
        others = jnp.where(same, -jnp.inf, scores / temperature)
        # A row without negatives has no loss; the finite stand-in keeps its gradient defined.
        alone = jnp.all(same, axis=1)
        hardest = jax.nn.logsumexp(jnp.where(alone[:, None], 0.0, others), axis=1)
        rows = jnp.maximum(0.0, margin - positive + temperature * hardest)
        return jnp.where(alone, 0.0, rows)

    rows = one_way(_dot(sentences, vs.T)) + one_way(_dot(images, ts.T))
    return _sum(jnp.sum(rows), axis_name)
