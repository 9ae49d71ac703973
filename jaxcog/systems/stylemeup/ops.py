"""Feature transformation layers: noise on features whose strength is learned."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcog.systems.stylemeup.model import Modulation

Theta = dict[str, dict[str, jax.Array]]
"""{"gamma" | "beta": {layer: [C]}}: strengths before the softplus."""

START_GAMMA, START_BETA = 0.3, 0.5


def strength(theta: jax.Array, sharpness: float = 100.0) -> jax.Array:
    """softplus(sharpness * theta) / sharpness: the standard deviation of the noise.

    The published code has sharpness 100, the publication writes a plain softplus (1).
    """
    return jax.nn.softplus(sharpness * theta) / sharpness


def feature_transform(
    x: jax.Array,
    eps_gamma: jax.Array,
    eps_beta: jax.Array,
    theta_gamma: jax.Array,
    theta_beta: jax.Array,
    *,
    sharpness: float = 100.0,
) -> jax.Array:
    """gamma * x + beta with gamma ~ N(1, s(theta_gamma)), beta ~ N(0, s(theta_beta)) per channel.

    x [B, H, W, C]: behind a normalisation, before its activation. The others [C]; eps are standard
    normal draws, shared by all images and positions (Tseng et al., ICLR 2020).
    """
    gamma = 1 + eps_gamma * strength(theta_gamma, sharpness)
    return gamma * x + eps_beta * strength(theta_beta, sharpness)


def initial_theta(layers: Mapping[str, int]) -> Theta:
    """0.3 for all gammas and 0.5 for all betas. layers: name -> channels."""
    return {
        "gamma": {name: jnp.full(size, START_GAMMA) for name, size in layers.items()},
        "beta": {name: jnp.full(size, START_BETA) for name, size in layers.items()},
    }


def sample_transform(
    theta: Theta, key: jax.Array, *, images: int | None = None, sharpness: float = 100.0
) -> Modulation:
    """One draw of every layer: name -> (gamma, beta), each [C].

    images: a draw for each image of the pass instead: [images, C].
    """
    drawn = {}
    for name, width in theta["gamma"].items():
        key, first, second = jax.random.split(key, 3)
        shape = width.shape if images is None else (images, *width.shape)
        gamma = 1 + jax.random.normal(first, shape) * strength(width, sharpness)
        beta = jax.random.normal(second, shape) * strength(theta["beta"][name], sharpness)
        drawn[name] = (gamma, beta)
    return drawn
