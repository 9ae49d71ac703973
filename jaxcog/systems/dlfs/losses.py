"""The losses of DLFS (paper section 3.4), as pure functions; weights are applied once, here.

A batch is P pairs (A, B) of two classes: each image's target is the class of its partner. All L1
terms are means over every element. With `axis_name` every function gives the value of
the whole batch on each device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxcog.nn.precision import at_least_float32
from jaxcog.systems.dlfs.ops import age_code_from_noise

R1Mode = Literal["official", "per_sample"]
GAMMA = 10.0


def _mean(x: jax.Array, axis_name: str | None) -> jax.Array:
    value = jnp.mean(at_least_float32(x))
    return value if axis_name is None else jax.lax.pmean(value, axis_name)


def selected_class_gan(
    logits: jax.Array, class_ids: jax.Array, *, real: bool, axis_name: str | None = None
) -> jax.Array:
    """Non-saturating loss on each image's own class: mean softplus(-l) for real, softplus(l) else.

    logits: [B, h, w, K] float; class_ids: [B] int32. Returns a scalar.
    """
    own = jnp.take_along_axis(logits, class_ids[:, None, None, None], axis=-1)
    return _mean(jax.nn.softplus(-own if real else own), axis_name)


def feature_l1(a: jax.Array, b: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Mean absolute difference; a scalar."""
    return _mean(jnp.abs(at_least_float32(a) - at_least_float32(b)), axis_name)


def adult_shape(
    shape: jax.Array,
    reference: jax.Array,
    source: jax.Array,
    target: jax.Array,
    adult: tuple[int, ...] = (4, 5),
    axis_name: str | None = None,
) -> jax.Array:
    """Shape must not change between adult ages: L1 where source and target are both adult.

    shape, reference: [B, h, w, C]; source, target: [B] int32. The mean is over the whole batch.
    """
    classes = jnp.asarray(adult)
    both = jnp.isin(source, classes) & jnp.isin(target, classes)
    mask = both.astype(jnp.float32)[:, None, None, None]
    return feature_l1(mask * shape, mask * reference, axis_name)


def r1(
    logits_of: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    *,
    mode: R1Mode = "official",
    class_ids: jax.Array | None = None,
    gamma: float = GAMMA,
    reference_batch: int | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Gradient penalty on real images.

    Args:
      logits_of: images -> logits [B, h, w, K]; for `axis_name` it must itself see the whole batch.
      x: [B, H, W, 3].
      mode: "official" differentiates the mean of all logits, so that the penalty falls with the
        square of the batch; "per_sample" takes each image's own logit (of `class_ids`), the
        textbook penalty.
      reference_batch: "official" only: the strength that a batch of this size would have.

    Returns:
      A scalar, gamma times the mean over images of the squared gradient.

    Raises:
      ValueError: "per_sample" without class_ids.
    """
    return _r1_and_logits(
        logits_of,
        x,
        mode=mode,
        class_ids=class_ids,
        gamma=gamma,
        reference_batch=reference_batch,
        axis_name=axis_name,
    )[0]


def _r1_and_logits(
    logits_of: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    *,
    mode: R1Mode,
    class_ids: jax.Array | None,
    gamma: float,
    reference_batch: int | None,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
    """`r1`, and the logits [B, h, w, K] float32 that it differentiates."""
    if mode == "per_sample" and class_ids is None:
        raise ValueError("r1: mode per_sample needs class_ids")

    def objective(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = at_least_float32(logits_of(x))
        if mode == "official" or class_ids is None:
            return jnp.mean(logits), logits
        own = jnp.take_along_axis(logits, class_ids[:, None, None, None], axis=-1)
        return jnp.sum(jnp.mean(own, axis=(1, 2, 3))), logits

    gradient, logits = jax.grad(objective, has_aux=True)(x)
    gradient = at_least_float32(gradient)
    batch = len(x)
    if axis_name is not None and mode == "official":
        # The mean over all devices' logits; what other devices' logits owe to these images comes
        # back through the collective's own transpose.
        devices = jax.lax.axis_size(axis_name)
        gradient, batch = gradient / devices, batch * devices
    factor = 1.0
    if mode == "official" and reference_batch is not None:
        factor = (batch / reference_batch) ** 2
    squared = jnp.sum(jnp.square(gradient), axis=(1, 2, 3))
    return gamma * factor * _mean(squared, axis_name), logits


def conditions(
    classes: jax.Array, noise: jax.Array, *, num_classes: int = 6, sigma: float = 0.2
) -> dict[str, jax.Array]:
    """The age codes of a training batch of pairs (A, B).

    Args:
      classes: [P, 2] int32, the classes of each pair.
      noise: [P, 4, D] standard normal, the draws A_gen, B_gen, A_orig, B_orig of each pair.

    Returns:
      "gen" (targets: each image gets its partner's class), "cyc" (the way back, with the very noise
      of the partner's target) and "orig" (sources), each [P, 2, D].
    """

    def code(classes: jax.Array, noise: jax.Array) -> jax.Array:
        return age_code_from_noise(classes, noise, num_classes=num_classes, sigma=sigma)

    gen = code(classes[:, ::-1], noise[:, :2])
    return {"gen": gen, "cyc": gen[:, ::-1], "orig": code(classes, noise[:, 2:])}


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of the generator's terms. adult: the classes between which the shape is kept."""

    reconstruction: float = 10.0
    cycle: float = 10.0
    identity: float = 1.0
    age: float = 1.0
    shape: float = 0.1
    adult: tuple[int, ...] = (4, 5)


def generator_losses(
    passes: dict[str, jax.Array],
    codes: dict[str, jax.Array],
    source: jax.Array,
    target: jax.Array,
    weights: Weights,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """Every weighted term of the generator's loss; their sum is the loss.

    Args:
      passes: "logits" of the generated images, images "real", "rec", "cyc", and of the real and the
        generated ones "identity"/"fake_identity", "age"/"fake_age" and, of DLFS,
        "shape"/"fake_shape". Gradients flow through both sides of each.
      codes: see `conditions`.
      source, target: [B] int32 classes.
    """

    def l1(a: jax.Array, b: jax.Array) -> jax.Array:
        return feature_l1(a, b, axis_name)

    age = l1(passes["fake_age"], codes["gen"]) + l1(passes["age"], codes["orig"])
    terms = {
        "adversarial": selected_class_gan(passes["logits"], target, real=True, axis_name=axis_name),
        "reconstruction": weights.reconstruction * l1(passes["rec"], passes["real"]),
        "cycle": weights.cycle * l1(passes["cyc"], passes["real"]),
        "identity": weights.identity * l1(passes["fake_identity"], passes["identity"]),
        "age": weights.age * age,
    }
    if "shape" in passes:
        terms["shape"] = weights.shape * adult_shape(
            passes["fake_shape"], passes["shape"], source, target, weights.adult, axis_name
        )
    return terms


def discriminator_losses(
    logits_of: Callable[[jax.Array], jax.Array],
    real: jax.Array,
    fake: jax.Array,
    source: jax.Array,
    target: jax.Array,
    *,
    mode: R1Mode = "official",
    gamma: float = GAMMA,
    reference_batch: int | None = None,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """ "fake", "real" and "r1" of the discriminator; their sum is its loss.

    real, fake: images [B, H, W, 3]; source, target: their classes [B].
    """
    # One pass over the real images serves both of their terms.
    penalty, logits = _r1_and_logits(
        logits_of,
        real,
        mode=mode,
        class_ids=source,
        gamma=gamma,
        reference_batch=reference_batch,
        axis_name=axis_name,
    )
    return {
        "fake": selected_class_gan(logits_of(fake), target, real=False, axis_name=axis_name),
        "real": selected_class_gan(logits, source, real=True, axis_name=axis_name),
        "r1": penalty,
    }
