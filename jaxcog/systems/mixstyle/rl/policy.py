"""The actor-critic of the CoinRun experiments: IMPALA's convolutional network with MixStyle.

It is the network of the IMPALA paper alone; the learner is PPO.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.forward import forward
from jaxcog.nn.loop_convolution import same_convolution
from jaxcog.nn.precision import at_least_float32
from jaxcog.systems.mixstyle import ops

Between = Callable[[str, jax.Array], jax.Array]
"""(stage, features behind it) -> features: where MixStyle acts."""

_BLOCKS = 2


def stages_of(depths: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the convolutional sequences, "sequence1", ..., behind which MixStyle can stand."""
    return tuple(f"sequence{i + 1}" for i in range(len(depths)))


class Conv(nn.Module):
    """3x3 convolution with bias, [B, H, W, .] -> [B, H, W, features]."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        y = same_convolution(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + bias.astype(self.dtype)


class Block(nn.Module):
    """Residual block, [B, H, W, features] to the same: x + conv2(relu(conv1(relu(x))))."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Conv(self.features, self.dtype, name="conv1")(nn.relu(x))
        return x + Conv(self.features, self.dtype, name="conv2")(nn.relu(y))


class Sequence(nn.Module):
    """Convolution, 3x3 max pooling by 2, two residual blocks: [B, H, W, C] -> [B, H/2, W/2, .]."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv(self.features, self.dtype, name="conv")(x)
        # SAME of TensorFlow, which pads even sizes by 0 before and 1 after.
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for i in range(_BLOCKS):
            x = Block(self.features, self.dtype, name=f"block{i + 1}")(x)
        return x


class Encoder(nn.Module):
    """Frames [B, H, W, 3] in [0, 1] -> what the bottleneck holds before its ReLU, [B, units]."""

    depths: tuple[int, ...]
    units: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, between: Between) -> jax.Array:
        for stage, features in zip(stages_of(self.depths), self.depths, strict=True):
            x = between(stage, Sequence(features, self.dtype, name=stage)(x))
        x = nn.relu(x.reshape(len(x), -1))
        kernel = nn.initializers.glorot_uniform()
        dense = nn.Dense(self.units, dtype=self.dtype, kernel_init=kernel, name="dense")
        return at_least_float32(dense(x))


class Heads(nn.Module):
    """Bottleneck features [..., D] after the ReLU -> (logits [..., actions], value [...])."""

    actions: int
    policy_scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        policy, value = (nn.initializers.orthogonal(s) for s in (self.policy_scale, 1.0))
        logits = nn.Dense(self.actions, kernel_init=policy, name="pi")(x)
        return logits, nn.Dense(1, kernel_init=value, name="v")(x)[..., 0]


class _ActorCritic(nn.Module):
    spec: Policy

    @nn.compact
    def __call__(
        self, images: jax.Array, noise: jax.Array | None, between: Between
    ) -> dict[str, Any]:
        spec, out = self.spec, {}
        x = images.astype(spec.dtype) / 255
        units = spec.hidden * (1 if spec.samples is None else 2)
        code = Encoder(spec.depths, units, spec.dtype, name="encoder")(x, between)
        # Orthogonal rows of 0.01 begin with a uniform policy; the noisy variant begins with 1.
        heads = Heads(spec.actions, 0.01 if spec.samples is None else 1.0, name="heads")
        if spec.samples is not None:
            code, rho = jnp.split(code, 2, axis=-1)
            sigma = jax.nn.softplus(rho - 5)
            out["information"] = information(code, sigma)
            if noise is not None:
                out["samples"] = code + sigma * noise
                logits, _ = heads(nn.relu(out["samples"]))
                out["noisy_logits"] = jnp.swapaxes(logits, 0, 1)
        logits, value = heads(nn.relu(code))
        return {**out, "logits": logits, "value": value, "bottleneck": code}


def information(mean: jax.Array, sigma: jax.Array) -> jax.Array:
    """[B] float32, in bits: KL(N(mean, sigma^2) || N(0, 1)) summed over [B, D]'s last axis."""
    nats = 0.5 * (mean**2 + sigma**2 - 1) - jnp.log(sigma)
    return jnp.sum(nats, axis=-1) / math.log(2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyOutput:
    """What the network says of a batch of frames; all float32.

    logits: [B, A], of the policy that acts. value: [B].
    bottleneck: [B, D] before the ReLU (the mean, where it is Gaussian).
    samples: [S, B, D] before the ReLU, noisy_logits: [B, S, A] and information: [B] (bits), of a
      Gaussian bottleneck; None without one, the first two also where no noise was given.
    """

    logits: jax.Array
    value: jax.Array
    bottleneck: jax.Array
    samples: jax.Array | None = None
    noisy_logits: jax.Array | None = None
    information: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which network; its functions are pure.

    actions: how many there are. depths: channels of the convolutional sequences, each of which
    halves the frame. hidden: size of the bottleneck. samples: of a Gaussian bottleneck (IBAC-SNI)
    for each frame; None: a plain one. dtype: of the convolutions; parameters are float32.
    """

    actions: int
    depths: tuple[int, ...] = (16, 32, 32)
    hidden: int = 256
    samples: int | None = None
    dtype: Any = jnp.float32

    def init(self, key: jax.Array, image_shape: tuple[int, int, int]) -> Any:
        """The parameters; image_shape is H, W, 3."""
        images = jnp.zeros((1, *image_shape), jnp.uint8)
        return _ActorCritic(self).init(key, images, None, lambda _, x: x)["params"]

    def apply(
        self,
        params: Any,
        images: jax.Array,
        *,
        draws: Mapping[str, ops.MixDraw] | None = None,
        noise: jax.Array | None = None,
        eps: float = 1e-6,
        ddof: int = 0,
        axis_name: ops.AxisName | None = None,
    ) -> PolicyOutput:
        """Runs the network; without `draws` and `noise` it is deterministic.

        Args:
          images: uint8 [B, H, W, 3].
          draws: stage -> what MixStyle drew there, in acting and learning alike.
          noise: standard normal [S, B, hidden] for a Gaussian bottleneck.
          eps, ddof: of MixStyle's deviation; TensorFlow's variance is the population's.
          axis_name: mapped axis whose devices share one batch, for MixStyle.
        """

        def between(stage: str, x: jax.Array) -> jax.Array:
            if not draws or stage not in draws:
                return x
            return ops.apply_draw(x, draws[stage], eps=eps, ddof=ddof, axis_name=axis_name)

        return PolicyOutput(**forward(_ActorCritic(self), params, images, noise, between))
