"""Pictures that a trained network makes: each kind is one compiled loop for all rows at once."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.errors import ConfigError
from jaxcog.systems.brivl import imagination, model, ops, vqgan
from jaxcog.systems.brivl.architecture import Architecture
from jaxcog.systems.brivl.imagination import Canvas, Imagined, Inversion, Statistics
from jaxcog.task import DataInfo, State

STATISTICS = "image_statistics"
"""The fact of the data, a function of nothing, that gives the mean and the components."""


def check_likeness(data: DataInfo, config: Inversion) -> None:
    """Raises ConfigError where images are to be likened to data that cannot tell."""
    if config.likeness and STATISTICS not in data.facts:
        raise ConfigError(
            f"task.inversion.likeness={config.likeness:g} needs data that knows the mean and the "
            f'components of its images (the fact "{STATISTICS}"): set it to 0'
        )


def statistics_of(data: DataInfo, config: Inversion) -> Statistics | None:
    """What `Inversion.likeness` compares with; None without it."""
    if not config.likeness:
        return None
    return Statistics(*(jnp.asarray(x, jnp.float32) for x in data.facts[STATISTICS]()))


named = jax.jit(model.class_embeddings, static_argnums=2)
"""Targets [C, D] from prompts [C, P, L]."""


@functools.partial(jax.jit, static_argnums=3)
def _scores(state: State, images: jax.Array, targets: jax.Array, architecture: Any) -> jax.Array:
    params, stats = state["params"], state["batch_stats"]
    return _embed(params, stats, architecture, ops.normalise(images)) @ targets.T


def recognised(
    state: State, images: jax.Array, targets: jax.Array, architecture: Architecture
) -> np.ndarray:
    """bool [B]: whether target i [B, D] is the one nearest to image i, in [0, 1]."""
    towers = {name: state[name] for name in ("params", "batch_stats")}
    scores = np.asarray(_scores(towers, images, targets, architecture))
    return np.argmax(scores, axis=1) == np.arange(len(targets))


def invert(
    state: State,
    targets: jax.Array,
    architecture: Architecture,
    config: Inversion,
    statistics: Statistics | None = None,
) -> Imagined:
    """A picture for each target [B, D]."""
    arguments = (state["params"], state["batch_stats"], targets, statistics)
    return Imagined(*_inverted(*arguments, architecture, config))


def excite(
    state: State,
    units: jax.Array,
    architecture: Architecture,
    config: Inversion,
    statistics: Statistics | None = None,
) -> Imagined:
    """A picture for each unit [B] of the fused tokens' mean."""
    arguments = (state["params"], state["batch_stats"], units, statistics)
    return Imagined(*_excited(*arguments, architecture, config))


def generate(
    state: State,
    targets: jax.Array,
    architecture: Architecture,
    config: Inversion,
    prior: Mapping[str, np.ndarray],
) -> Imagined:
    """A picture for each target [B, D], drawn by a VQGAN; prior: see `vqgan.to_arrays`."""
    params, sizes = vqgan.from_arrays(prior)
    arguments = (state["params"], state["batch_stats"], params, targets)
    return Imagined(*_generated(*arguments, architecture, sizes, config))


def _embed(params: Any, stats: Any, architecture: Architecture, images: jax.Array) -> jax.Array:
    return model.encode_image(params, stats, images, architecture)


def _parts(found: Imagined) -> tuple[jax.Array, ...]:
    return found.images, found.losses, found.frames, found.variables


def _canvas(statistics: Statistics | None, architecture: Architecture, config: Inversion) -> Canvas:
    if statistics is None:
        return imagination.pixels(config, architecture.image_size)
    return imagination.components(config, statistics)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _inverted(
    params: Any,
    stats: Any,
    targets: jax.Array,
    statistics: Statistics | None,
    architecture: Architecture,
    config: Inversion,
) -> Any:
    keys = jax.random.split(jax.random.key(0))
    canvas = _canvas(statistics, architecture, config)
    start = canvas.start(keys[0], targets.shape[0])
    embed = functools.partial(_embed, params, stats, architecture)
    return _parts(imagination.invert_embedding(embed, targets, start, keys[1], config, canvas))


@functools.partial(jax.jit, static_argnums=(4, 5))
def _excited(
    params: Any,
    stats: Any,
    units: jax.Array,
    statistics: Statistics | None,
    architecture: Architecture,
    config: Inversion,
) -> Any:
    keys = jax.random.split(jax.random.key(0))
    canvas = _canvas(statistics, architecture, config)

    def activation(images: jax.Array) -> jax.Array:
        encoded = model.image_tower(params["image"], stats.get("image", {}), images, architecture)
        mean = jnp.mean(encoded.fused.astype(jnp.float32), axis=1)
        return jnp.take_along_axis(mean, units[:, None], axis=1)[:, 0]

    start = canvas.start(keys[0], units.shape[0])
    return _parts(imagination.visualise_neuron(activation, start, keys[1], config, canvas))


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _generated(
    params: Any,
    stats: Any,
    prior_params: Any,
    targets: jax.Array,
    architecture: Architecture,
    prior: vqgan.VQGANConfig,
    config: Inversion,
) -> Any:
    keys = jax.random.split(jax.random.key(0))
    side = prior.resolution // prior.factor
    shape = (targets.shape[0], side, side)
    start = vqgan.random_latents(keys[0], prior_params["codebook"], shape)
    embed = functools.partial(_embed, params, stats, architecture)
    return _parts(
        imagination.guided_generate(
            prior_params,
            prior,
            embed,
            targets,
            start,
            keys[1],
            config,
            architecture.image_size,
        )
    )
