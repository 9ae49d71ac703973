"""Proximal policy optimisation as pure functions: advantages, clipped losses, the optimizer.

Losses are per example; averaging is the caller's. Only `normalized` looks across a batch.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcog.trees import path_name

AxisName = str | tuple[str, ...]


def gae(
    rewards: jax.Array, dones: jax.Array, values: jax.Array, gamma: float, lam: float
) -> jax.Array:
    """Generalised advantage estimates.

    Args:
      rewards: [T, ...] float, what step t brought.
      dones: [T, ...] bool, whether step t ended the episode.
      values: [T + 1, ...] float, of the states before the steps and, last, of the one behind them.
      gamma, lam: discount, and decay of the estimator.

    Returns:
      [T, ...] float32 advantages; the returns to learn the values from are these plus values[:-1].

    Raises:
      ValueError: shapes do not fit.
    """
    if rewards.shape != dones.shape or values.shape != (len(rewards) + 1, *rewards.shape[1:]):
        raise ValueError(
            f"gae: rewards and dones must be [T, ...] and values [T + 1, ...], got "
            f"{rewards.shape}, {dones.shape} and {values.shape}"
        )
    goes_on = 1.0 - dones.astype(jnp.float32)
    errors = rewards + gamma * goes_on * values[1:] - values[:-1]

    def back(later: jax.Array, step: Any) -> tuple[jax.Array, jax.Array]:
        error, goes_on = step
        advantage = error + gamma * lam * goes_on * later
        return advantage, advantage

    begin = jnp.zeros(rewards.shape[1:], jnp.float32)
    return jax.lax.scan(back, begin, (errors, goes_on), reverse=True)[1]


def negative_log_probability(logits: jax.Array, actions: jax.Array) -> jax.Array:
    """-log p(action): logits [..., A], actions int [...] -> [...]."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[..., None], axis=-1)
    return -chosen[..., 0]


def mixture_negative_log_probability(logits: jax.Array, actions: jax.Array) -> jax.Array:
    """The same under an equal mixture of S policies: logits [B, S, A], actions int [B] -> [B]."""
    each = negative_log_probability(logits, jnp.broadcast_to(actions[:, None], logits.shape[:2]))
    return -jax.nn.logsumexp(-each, axis=1, b=1 / logits.shape[1])


def entropy(logits: jax.Array) -> jax.Array:
    """Entropy of each categorical distribution, in nats: [..., A] -> [...]."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def normalized(x: jax.Array, *, eps: float = 1e-8, axis_name: AxisName | None = None) -> jax.Array:
    """[..., B] with mean 0 and (population) deviation 1 over the last axis.

    axis_name: mapped axis whose devices share one batch.
    """
    mean = jnp.mean(x, axis=-1, keepdims=True)
    mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
    variance = jnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    variance = variance if axis_name is None else jax.lax.pmean(variance, axis_name)
    return (x - mean) / (jnp.sqrt(variance) + eps)


def policy_loss(
    neglogp: jax.Array, old_neglogp: jax.Array, advantages: jax.Array, clip: float | jax.Array
) -> jax.Array:
    """The clipped surrogate objective, to be minimised; all [B]."""
    ratio = jnp.exp(old_neglogp - neglogp)
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    return jnp.maximum(-advantages * ratio, -advantages * clipped)


def value_loss(
    values: jax.Array, old_values: jax.Array, returns: jax.Array, clip: float | jax.Array
) -> jax.Array:
    """Half the squared error, or that of the value clipped around the old one if larger; [B]."""
    clipped = old_values + jnp.clip(values - old_values, -clip, clip)
    return 0.5 * jnp.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def change(
    neglogp: jax.Array, old_neglogp: jax.Array, clip: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """How far the policy moved, [B] each: half the squared log ratio, and 1 where it is clipped."""
    ratio = jnp.exp(old_neglogp - neglogp)
    return 0.5 * (neglogp - old_neglogp) ** 2, (jnp.abs(ratio - 1) > clip).astype(jnp.float32)


def squared_kernels(params: Any) -> jax.Array:
    """Half the sum of squares of all kernels; biases are left out."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [leaf for path, leaf in leaves if path_name(path).endswith("kernel")]
    squares = [jnp.sum(kernel**2) for kernel in kernels]
    return functools.reduce(jnp.add, squares, jnp.zeros(())) / 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdamState:
    """count: int32 updates done; mean, square: running averages, as the parameters."""

    count: jax.Array
    mean: Any
    square: Any


def tensorflow_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-5
) -> optax.GradientTransformation:
    """TensorFlow 1's Adam at learning rate 1: `eps` is added outside the bias correction.

    update = -sqrt(1 - b2^t) / (1 - b1^t) * mean / (sqrt(square) + eps)
    """

    def init(params: Any) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    def update(grads: Any, state: AdamState, params: Any = None) -> tuple[Any, AdamState]:
        count = state.count + 1
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mean, grads)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.square, grads)
        rate = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) + eps), mean, square)
        return updates, AdamState(count, mean, square)

    return optax.GradientTransformation(init, update)
