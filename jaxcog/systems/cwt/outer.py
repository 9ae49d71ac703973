"""The outer loop: updates of the transformer over a batch of episodes whose features are fixed."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcog.systems.cwt.losses import balanced_cross_entropy
from jaxcog.systems.cwt.model import ClassifierWeightTransformer, Variables
from jaxcog.systems.cwt.ops import classify

Updates = Literal["sequential", "mean"]


class Episodes(NamedTuple):
    """What the outer loop sees of E episodes; nothing of it depends on the transformer.

    weights [E, 2, D]: the support classifiers. features [E, h, w, D]: of the queries, unit length.
    masks [E, H, W]: of the queries. counts [E] bool: False leaves an episode out.
    """

    weights: jax.Array
    features: jax.Array
    masks: jax.Array
    counts: jax.Array


class Updated(NamedTuple):
    """Parameters and optimizer state after the batch; losses [E], each before its own update;
    grad_norm: scalar, mean over updates."""

    params: Variables
    opt: Any
    losses: jax.Array
    grad_norm: jax.Array


def query_loss(
    transformer: ClassifierWeightTransformer,
    params: Variables,
    episode: Episodes,
    key: jax.Array | None,
) -> jax.Array:
    """Balanced cross-entropy on the query of one episode (no leading axes), 0 if left out.

    key: of the dropout; None: none.
    """
    rows = transformer(params, episode.weights[None], episode.features[None], key=key)[0]
    logits = classify(rows, episode.features, episode.masks.shape)
    return jnp.where(episode.counts, balanced_cross_entropy(logits, episode.masks), 0)


def outer_updates(
    transformer: ClassifierWeightTransformer,
    tx: optax.GradientTransformation,
    params: Variables,
    opt: Any,
    episodes: Episodes,
    key: jax.Array | None,
    updates: Updates = "sequential",
) -> Updated:
    """One pass over a batch of episodes.

    updates: "sequential": an update after each episode, in order, which is what the released code
      does with batches of one: encoder and inner loops do not depend on the transformer, so they
      ran for the whole batch at once before. "mean": one update with the mean gradient.
    key: of the dropout; None: none.
    """
    count = episodes.masks.shape[0]
    keys = None if key is None else jax.random.split(key, count)

    def loss(params: Variables, episode: Episodes, key: jax.Array | None) -> jax.Array:
        return query_loss(transformer, params, episode, key)

    if updates == "mean":

        def mean(params: Variables) -> tuple[jax.Array, jax.Array]:
            losses = jax.vmap(loss, (None, 0, None if keys is None else 0))(params, episodes, keys)
            return jnp.sum(losses) / jnp.maximum(jnp.sum(episodes.counts), 1), losses

        grads, losses = jax.grad(mean, has_aux=True)(params)
        change, opt = tx.update(grads, opt, params)
        return Updated(optax.apply_updates(params, change), opt, losses, optax.tree.norm(grads))

    def one(carry: tuple[Variables, Any], item: Any) -> tuple[tuple[Variables, Any], Any]:
        episode, key = item
        params, opt = carry
        value, grads = jax.value_and_grad(loss)(params, episode, key)
        change, new_opt = tx.update(grads, opt, params)
        new = optax.apply_updates(params, change), new_opt
        # An episode that is left out leaves momentum and decay alone, too.
        kept = jax.tree.map(lambda a, b: jnp.where(episode.counts, a, b), new, (params, opt))
        return kept, (value, optax.tree.norm(grads))

    (params, opt), (losses, norms) = jax.lax.scan(one, (params, opt), (episodes, keys))
    return Updated(params, opt, losses, jnp.mean(norms))
