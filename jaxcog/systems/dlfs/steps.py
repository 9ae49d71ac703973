"""One training iteration: the discriminator's update, the generator's, the moving average."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcog.errors import ConfigError
from jaxcog.systems.dlfs import losses, model
from jaxcog.systems.dlfs.losses import R1Mode, Weights
from jaxcog.systems.dlfs.model import Architecture

Scalars = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What both networks minimise.

    weights: of the generator's terms. sigma: noise of the age codes. r1, gamma,
    r1_reference_batch: see `losses.r1` (batches count images, two a pair). ema: decay of the
    generator's average; ema_warmup: it is i / (i + ema_warmup) while that is smaller.
    """

    weights: Weights = dataclasses.field(default_factory=Weights)
    sigma: float = 0.2
    r1: R1Mode = "official"
    gamma: float = losses.GAMMA
    r1_reference_batch: int | None = None
    ema: float = 0.999
    ema_warmup: float | None = None

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise ConfigError(f"task.objective.sigma={self.sigma}: a deviation, not negative")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"task.objective.ema={self.ema}: at least 0, below 1")
        if self.r1_reference_batch is not None and self.r1_reference_batch < 1:
            raise ConfigError("task.objective.r1_reference_batch: at least 1, or None")


def generator_passes(
    arch: Architecture,
    params: Mapping[str, Any],
    images: jax.Array,
    codes: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """Everything that the generator's loss looks at, but the discriminator's logits.

    images: [B, H, W, 3]; codes: see `losses.conditions`, [B, D] each.
    """
    features = model.encode(arch, params, images)
    twice = jax.tree.map(lambda x: _beside(x, x), features)
    decoded = model.decode(arch, params, twice, _beside(codes["gen"], codes["orig"]))
    generated, reconstructed = _apart(decoded)
    again = model.encode(arch, params, generated)
    age, fake_age = _apart(model.estimate_code(arch, params, _beside(images, generated)))
    passes = {
        "real": images,
        "gen": generated,
        "rec": reconstructed,
        "cyc": model.decode(arch, params, again, codes["cyc"]),
        "age": age,
        "fake_age": fake_age,
        "identity": features["identity"],
        "fake_identity": again["identity"],
    }
    if "shape" in features:
        passes |= {"shape": features["shape"], "fake_shape": again["shape"]}
    return passes


def _beside(a: jax.Array, b: jax.Array) -> jax.Array:
    """Two batches [B, ...] as one [2B, ...] of neighbours, so that both stay on their devices."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _apart(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The batches that `_beside` put together."""
    pairs = x.reshape(-1, 2, *x.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def _codes(classes: jax.Array, noise: jax.Array, arch: Architecture, sigma: float) -> Any:
    codes = losses.conditions(classes, noise, num_classes=arch.num_classes, sigma=sigma)
    return {name: code.reshape(-1, arch.code_length) for name, code in codes.items()}


def discriminator_gradients(
    arch: Architecture,
    objective: Objective,
    params: Mapping[str, Any],
    images: jax.Array,
    classes: jax.Array,
    noise: jax.Array,
) -> tuple[Any, Scalars]:
    """(gradients, the weighted terms) of the discriminator; the generator gets none.

    params: {"generator", "discriminator"}; images [P, 2, H, W, 3] in [-1, 1]; classes [P, 2];
    noise [P, 4, D].
    """
    real, source, target = _flat(images, classes)
    generator = params["generator"]
    features = model.encode(arch, generator, real)
    code = _codes(classes, noise, arch, objective.sigma)["gen"]
    fake = jax.lax.stop_gradient(model.decode(arch, generator, features, code))

    def loss(discriminator: Any) -> tuple[jax.Array, Scalars]:
        terms = losses.discriminator_losses(
            lambda x: model.discriminate(arch, discriminator, x),
            real,
            fake,
            source,
            target,
            mode=objective.r1,
            gamma=objective.gamma,
            reference_batch=objective.r1_reference_batch,
        )
        return total(terms), {f"d_{name}": value for name, value in terms.items()}

    return jax.grad(loss, has_aux=True)(params["discriminator"])


def total(terms: Scalars) -> jax.Array:
    """The sum of all terms."""
    return functools.reduce(jnp.add, terms.values())


def generator_gradients(
    arch: Architecture,
    objective: Objective,
    params: Mapping[str, Any],
    images: jax.Array,
    classes: jax.Array,
    noise: jax.Array,
) -> tuple[Any, Scalars]:
    """(gradients, the weighted terms) of the generator; as `discriminator_gradients`."""
    real, source, target = _flat(images, classes)
    codes = _codes(classes, noise, arch, objective.sigma)

    def loss(generator: Any) -> tuple[jax.Array, Scalars]:
        passes = generator_passes(arch, generator, real, codes)
        logits = model.discriminate(arch, params["discriminator"], passes["gen"])
        terms = losses.generator_losses(
            {**passes, "logits": logits}, codes, source, target, objective.weights
        )
        return total(terms), {f"g_{name}": value for name, value in terms.items()}

    return jax.grad(loss, has_aux=True)(params["generator"])


def _flat(images: jax.Array, classes: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images and their classes, partners beside one another, so that a pair stays on its device."""
    real = images.reshape(-1, *images.shape[2:])
    return real, classes.reshape(-1), classes[:, ::-1].reshape(-1)


def update(
    arch: Architecture,
    objective: Objective,
    optimizers: Mapping[str, optax.GradientTransformation],
    state: Mapping[str, Any],
    images: jax.Array,
    classes: jax.Array,
    noise: jax.Array,
) -> tuple[dict[str, Any], Scalars]:
    """One iteration on pairs: the discriminator, then the generator against it, then the average.

    Args:
      optimizers: of "generator" and "discriminator".
      state: "step", "params" and "opt" of both networks, "ema" of the generator.
      images: [P, 2, H, W, 3] in [-1, 1]; classes: [P, 2] int32.
      noise: [2, P, 4, D] standard normal, for the discriminator's update and the generator's.

    Returns:
      (the new state, every weighted term before its update).
    """
    params, opt = dict(state["params"]), dict(state["opt"])
    scalars: Scalars = {}
    for name, gradients_of, draws in (
        ("discriminator", discriminator_gradients, noise[0]),
        ("generator", generator_gradients, noise[1]),
    ):
        gradients, terms = gradients_of(arch, objective, params, images, classes, draws)
        updates, opt[name] = optimizers[name].update(gradients, opt[name], params[name])
        params[name] = optax.apply_updates(params[name], updates)
        scalars |= terms
    decay = jnp.float32(objective.ema)
    if objective.ema_warmup is not None:
        done = state["step"].astype(jnp.float32)
        decay = jnp.minimum(decay, done / (done + objective.ema_warmup))
    average = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new,
        state["ema"]["generator"],
        params["generator"],
    )
    new = {"step": state["step"] + 1, "params": params, "opt": opt, "ema": {"generator": average}}
    return {**state, **new}, scalars
