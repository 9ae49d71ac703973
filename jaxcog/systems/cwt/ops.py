"""An episode as pure functions: fit a classifier on the support, adapt it, segment the query."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcog.losses.contrastive import unit
from jaxcog.nn.precision import at_least_float32
from jaxcog.nn.resize import Size, align_corners_matrix, resize_bilinear_align_corners
from jaxcog.systems.cwt.losses import foreground_weight
from jaxcog.systems.cwt.model import ClassifierWeightTransformer, Encoder, Variables


def initial_classifier(key: jax.Array, width: int) -> jax.Array:
    """[2, width] uniform in +-1/sqrt(width), as PyTorch initialises a 1x1 convolution."""
    bound = width**-0.5
    return jax.random.uniform(key, (2, width), jnp.float32, -bound, bound)


def classify(weights: jax.Array, features: jax.Array, size: Size) -> jax.Array:
    """Logits [..., *size, 2] of a classifier [..., 2, D] on features [..., h, w, D].

    Enlarged bilinearly with aligned corners; float32 throughout.
    """
    logits = jnp.einsum(
        "...hwd,...kd->...hwk",
        at_least_float32(features),
        weights,
        precision=jax.lax.Precision.HIGHEST,
    )
    return resize_bilinear_align_corners(logits, size)


def fit_binary_classifier(
    features: jax.Array, masks: jax.Array, init: jax.Array, *, lr: float, steps: int
) -> tuple[jax.Array, jax.Array]:
    """The inner loop: gradient descent on one episode's support, from `init`.

    The loss is `balanced_cross_entropy` of all shots together on logits enlarged to the masks'
    size. A softmax of two is a logistic regression on the difference of the two rows, and their
    gradients are each other's negative, so one row is computed, in closed form: the weighted
    residual at the masks' size goes back through the transposed interpolation and meets the
    features. Use vmap for episodes.

    Args:
      features: [k, h, w, D], as they are (CWT does not normalise them).
      masks: [k, H, W] int, 0, 1, or 255 where ignored.
      init: [2, D], background first.
      lr, steps: of plain gradient descent.

    Returns:
      weights [2, D] after the last step, losses [steps] before each; float32. No gradient flows
      through the loop. Without foreground the classifier learns background alone.
    """
    features = jax.lax.stop_gradient(at_least_float32(features))
    up, across = (
        jnp.asarray(align_corners_matrix(out, size), features.dtype)
        for out, size in zip(masks.shape[1:], features.shape[1:3], strict=True)
    )
    same_size = masks.shape[1:] == features.shape[1:3]
    weight = jnp.where(masks == 1, foreground_weight(masks), (masks == 0).astype(jnp.float32))
    weight = weight / jnp.maximum(jnp.sum(weight), 1)
    target = (masks == 1).astype(jnp.float32)

    def step(rows: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        low = jnp.einsum("khwd,d->khw", features, rows[1] - rows[0])
        logit = low if same_size else jnp.einsum("Hh,khw,Ww->kHW", up, low, across)
        loss = jnp.sum(weight * (jax.nn.softplus(logit) - target * logit))
        residual = weight * (jax.nn.sigmoid(logit) - target)
        if not same_size:
            residual = jnp.einsum("Hh,kHW,Ww->khw", up, residual, across)
        grad = jnp.einsum("khw,khwd->d", residual, features)
        return rows - lr * jnp.stack([-grad, grad]), loss

    # 200 steps add up what products in bfloat16 would lose.
    with jax.default_matmul_precision("highest"):
        rows = jax.lax.stop_gradient(at_least_float32(init))
        return jax.lax.scan(step, rows, None, length=steps)


def encode_episodes(
    encoder: Encoder, params: Variables, stats: Variables, support: jax.Array, query: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Features of episodes by the frozen encoder, all images in one batch.

    support [E, k, H, W, C], query [E, H, W, C] -> float32 [E, k, h, w, D] and [E, h, w, D] of
    length one.
    """
    episodes, shots = support.shape[:2]
    # Images of one episode stay side by side, so that a sharded episode axis stays sharded.
    images = jnp.concatenate([support, query[:, None]], axis=1)
    features = encoder(params, stats, images.reshape(-1, *images.shape[2:])).features
    features = jax.lax.stop_gradient(at_least_float32(features))
    features = features.reshape(episodes, shots + 1, *features.shape[1:])
    return features[:, :shots], unit(features[:, shots])


def first_support_in_training_mode(
    encoder: Encoder,
    params: Variables,
    stats: Variables,
    support: jax.Array,
    key: jax.Array,
    first: jax.Array,
) -> tuple[jax.Array, Variables]:
    """What the released code does to the first support of an epoch, before it turns to evaluation.

    Batch norms take the statistics of these images and add them to the running ones, and channels
    are dropped.

    Args:
      support: [k, H, W, C] of one episode, at least two images (a single one counts twice).
      key: of the dropout. first: bool scalar, whether an epoch begins.

    Returns:
      float32 [k, h, w, D] and the running statistics; zeros and `stats` unless `first`.
    """

    def train() -> tuple[jax.Array, Variables]:
        encoded = encoder(params, stats, support, train=True, key=key)
        return at_least_float32(encoded.features), encoded.batch_stats

    features = jax.eval_shape(train)[0]
    seen, stats = jax.lax.cond(
        first, train, lambda: (jnp.zeros(features.shape, features.dtype), stats)
    )
    return jax.lax.stop_gradient(seen), stats


def segment_episode(
    encoder: Encoder,
    transformer: ClassifierWeightTransformer | None,
    params: Variables,
    stats: Variables,
    support: jax.Array,
    support_masks: jax.Array,
    query: jax.Array,
    init: jax.Array,
    *,
    lr: float = 0.1,
    steps: int = 200,
) -> jax.Array:
    """Segments one query after one support set; everything in between is done here.

    Args:
      transformer: None: the support classifier alone.
      params: {"encoder": ..., "transformer": ...}; stats: of the encoder.
      support: [k, H, W, C] normalised; support_masks: [k, H, W] 0, 1, 255. query: [H, W, C].
      init: [2, D], see `initial_classifier`.

    Returns:
      logits [H, W, 2] of background and foreground, at the query's size.
    """
    shots, seen = encode_episodes(encoder, params["encoder"], stats, support[None], query[None])
    weights, _ = fit_binary_classifier(shots[0], support_masks, init, lr=lr, steps=steps)
    rows = weights[None]
    if transformer is not None:
        rows = transformer(params["transformer"], rows, seen)
    return classify(rows, seen, query.shape[:2])[0]


@dataclasses.dataclass(frozen=True)
class Segmented:
    """Queries segmented in every way that is looked at.

    support_only, adapted: logits [E, H, W, 2] of the support classifier, and of the rewritten one.
    other_query(): of one rewritten after the next query of the batch. attention(): [E, heads, 2,
      h, w], where the background's and the foreground's weights look. Both are computed on demand.
    """

    support_only: jax.Array
    adapted: jax.Array
    other_query: Callable[[], jax.Array]
    attention: Callable[[], jax.Array]
