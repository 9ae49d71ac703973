"""The whole PPO objective of one minibatch, with and without the noisy bottleneck (IBAC-SNI)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxcog.systems.mixstyle.rl import ppo
from jaxcog.systems.mixstyle.rl.policy import PolicyOutput
from jaxcog.task import Scalars


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of the parts of the objective beside the policy's.

    entropy: of the policy's entropy, which is maximised. value: of the value loss. kernels: of
    half the sum of squares of all kernels. information: of the bottleneck's, in bits.
    """

    entropy: float = 0.01
    value: float = 0.5
    kernels: float = 1e-4
    information: float = 1e-4


def objective(
    params: Any,
    out: PolicyOutput,
    batch: dict[str, jax.Array],
    clip: float | jax.Array,
    weights: Weights,
    workers: int = 1,
) -> tuple[jax.Array, Scalars]:
    """(what is minimised, its parts without their weights).

    With a noisy bottleneck, policy loss and entropy are the means of the noisy policy's and the
    deterministic one's; values are the deterministic network's.

    Args:
      params: of the network, for the penalty on kernels.
      out: of the network on the minibatch, B rows.
      batch: "action" [B] int, "return", "old_value", "old_neglogp" [B] float.
      clip: range of the probability ratio and of the values' change.
      workers: the rows are those of so many workers one after another; each normalises the
        advantages of its own.
    """
    advantages = batch["return"] - batch["old_value"]
    advantages = ppo.normalized(advantages.reshape(workers, -1)).reshape(-1)
    neglogp = ppo.negative_log_probability(out.logits, batch["action"])
    policy = jnp.mean(ppo.policy_loss(neglogp, batch["old_neglogp"], advantages, clip))
    entropy = jnp.mean(ppo.entropy(out.logits))
    moved, clipped = ppo.change(neglogp, batch["old_neglogp"], clip)
    scalars = {"approxkl_run": jnp.mean(moved), "clipfrac_run": jnp.mean(clipped)}
    if out.noisy_logits is not None:
        noisy = ppo.mixture_negative_log_probability(out.noisy_logits, batch["action"])
        noisy_loss = jnp.mean(ppo.policy_loss(noisy, batch["old_neglogp"], advantages, clip))
        policy = (policy + noisy_loss) / 2
        entropy = (entropy + jnp.mean(ppo.entropy(out.noisy_logits))) / 2
        moved, clipped = ppo.change(noisy, batch["old_neglogp"], clip)
    scalars |= {"approxkl_train": jnp.mean(moved), "clipfrac_train": jnp.mean(clipped)}
    value = jnp.mean(ppo.value_loss(out.value, batch["old_value"], batch["return"], clip))
    l2 = ppo.squared_kernels(params)
    total = policy - weights.entropy * entropy + weights.value * value + weights.kernels * l2
    if out.information is not None:
        scalars["information"] = jnp.mean(out.information)
        total = total + weights.information * scalars["information"]
    parts = {"policy_loss": policy, "value_loss": value, "entropy": entropy, "l2_loss": l2}
    return total, {**scalars, **parts}
