"""One episode: a prototype fitted on K annotated videos, adapted to a query video by attention.

All functions are of one episode and made for `jax.vmap`; `Adapter` takes a batch of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxcog.nn.attention import DropoutMasks, QueryAttention
from jaxcog.nn.forward import forward
from jaxcog.systems.qat.losses import balanced_bce, released_support_loss

Bias = Literal["query", "support"]
SupportLoss = Callable[[jax.Array, jax.Array], jax.Array]
"""(foreground probability [K, T], mask [K, T]) -> scalar."""

INNER_STEPS, INNER_RATE, TEMPERATURE = 99, 0.025, 20.0


def released_objective(prob: jax.Array, mask: jax.Array) -> jax.Array:
    """What the official inner loop minimises; see `released_support_loss`."""
    return 1.5 * released_support_loss(prob, mask)


def _norm(x: jax.Array) -> jax.Array:
    # The floor keeps the gradient finite on padding, which is all zero.
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1), 1e-30))


def masked_prototype(features: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of all foreground snippets of all shots: [K, T, C], [K, T] -> [C]."""
    return jnp.einsum("kt,ktc->c", mask, features) / (jnp.sum(mask) + 1e-10)


def cosine_logits(
    features: jax.Array, prototype: jax.Array, temperature: float = TEMPERATURE
) -> jax.Array:
    """[..., T, C], [C] -> [..., T]: temperature times the cosine; 0 for all-zero snippets."""
    scale = _norm(prototype) * _norm(features) + 1e-10
    return temperature * (features @ prototype) / scale


class Fitted(NamedTuple):
    """prototype [C], bias []: the classifier sigmoid(logit - bias). losses [steps]: before each."""

    prototype: jax.Array
    bias: jax.Array
    losses: jax.Array


def fit_prototype(
    features_s: jax.Array,
    mask_s: jax.Array,
    features_q: jax.Array,
    *,
    steps: int = INNER_STEPS,
    lr: float = INNER_RATE,
    temperature: float = TEMPERATURE,
    loss: SupportLoss = balanced_bce,
    bias: Bias = "query",
) -> Fitted:
    """The episode's classifier by gradient descent on the support.

    Args:
      features_s: [K, T, C]. mask_s: [K, T], 1 on foreground. features_q: [T, C].
      loss: `balanced_bce`, or `released_objective`.
      bias: whose mean logit the bias starts from; "query" uses the unlabelled query video.
    """
    prototype = masked_prototype(features_s, mask_s)
    start = jnp.mean(
        cosine_logits(features_q if bias == "query" else features_s, prototype, temperature)
    )

    def objective(classifier: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = cosine_logits(features_s, classifier[0], temperature)
        return loss(jax.nn.sigmoid(logits - classifier[1]), mask_s)

    def step(classifier: Any, _: None) -> tuple[Any, jax.Array]:
        value, gradient = jax.value_and_grad(objective)(classifier)
        return jax.tree.map(lambda x, g: x - lr * g, classifier, gradient), value

    (prototype, start), losses = jax.lax.scan(step, (prototype, start), None, length=steps)
    return Fitted(prototype, start, losses)


def foreground(
    features: jax.Array,
    prototype: jax.Array,
    bias: jax.Array,
    temperature: float = TEMPERATURE,
) -> jax.Array:
    """Foreground probability of snippets: [..., T, C], [C], [] -> [..., T]."""
    return jax.nn.sigmoid(cosine_logits(features, prototype, temperature) - bias)


class QueryAdaptiveTransformer:
    """The attention block that moves a prototype towards a video; a door of pure functions.

    prototype [B, C], query video [B, T, C] -> adapted prototype [B, C].

    num_heads, head_dim: of the attention. dropout: of its weights and of its output, in training.
    """

    def __init__(
        self,
        num_heads: int = 2,
        head_dim: int = 256,
        dropout: tuple[float, float] = (0.1, 0.5),
    ):
        self.module = QueryAttention(
            num_heads, head_dim, attention_dropout=dropout[0], dropout=dropout[1]
        )

    def init(self, key: jax.Array, channels: int) -> Any:
        """Parameters for embeddings of `channels` numbers."""
        one = jnp.zeros((1, 1, channels), jnp.float32)
        return self.module.init(key, one, one)["params"]

    def __call__(
        self,
        params: Any,
        prototype: jax.Array,
        query: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
        masks: DropoutMasks | None = None,
    ) -> jax.Array:
        """Trains (with dropout) if there is a key, or masks are given."""
        attended = forward(
            self.module,
            params,
            prototype[:, None],
            query,
            train=dropout_key is not None or masks is not None,
            masks=masks,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        return attended.output[:, 0]


def episode_predict(
    params: Any,
    features_s: jax.Array,
    mask_s: jax.Array,
    features_q: jax.Array,
    transformer: QueryAdaptiveTransformer | None = None,
    **inner: Any,
) -> jax.Array:
    """Foreground probability [T] of a query video, from K supports.

    params: the transformer's. features_s: [K, T, C], mask_s: [K, T], features_q: [T, C]. inner: of
    `fit_prototype`.
    """
    fitted = fit_prototype(features_s, mask_s, features_q, **inner)
    adapt = transformer or QueryAdaptiveTransformer(head_dim=features_q.shape[-1])
    prototype = adapt(params, fitted.prototype[None], features_q[None])[0]
    temperature = inner.get("temperature", TEMPERATURE)
    return foreground(features_q, prototype, fitted.bias, temperature)
