"""From one face to all ages: strips, and the frames of a film between them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.systems.dlfs import model, ops
from jaxcog.systems.dlfs.model import Architecture

Params = Mapping[str, Any]


def frames_between(step: float) -> int:
    """Frames from one age to the next: of `traversal`'s, every so many is an age itself.

    Raises:
      ValueError: step is not in (0, 1].
    """
    if not 0 < step <= 1:
        raise ValueError(f"traversal: step={step} must be above 0 and at most 1")
    return math.ceil(round(1 / step, 9))


def traversal(latents: jax.Array, step: float = 0.05) -> jax.Array:
    """Latent vectors on the way through K ages, linearly between neighbours.

    latents: [K, D]; step: by how much the weight falls from one frame to the next. Returns
    [ceil(1 / step) (K - 1) + 1, D]; the last frame is the last age.

    Raises:
      ValueError: step is not in (0, 1].
    """
    count = frames_between(step)
    weights = (1.0 - step * jnp.arange(count))[:, None]
    parts = [weights * a + (1 - weights) * b for a, b in itertools.pairwise(latents)]
    return jnp.concatenate([*parts, latents[-1:]])


@functools.partial(jax.jit, static_argnames=("arch", "sigma"))
def class_latents(
    arch: Architecture, params: Params, key: jax.Array | None = None, sigma: float = 0.2
) -> jax.Array:
    """The latent vector of every age class, [K, latent]. key: of the codes' noise; None: none."""
    classes = jnp.arange(arch.num_classes)
    options = {"num_classes": arch.num_classes, "dims_per_class": arch.dims_per_class}
    code = ops.age_code(
        classes,
        jax.random.key(0) if key is None else key,
        sigma=0.0 if key is None else sigma,
        **options,
    )
    return model.map_code(arch, params, code)


encode = jax.jit(model.encode, static_argnames="arch")
"""`model.encode`, compiled."""


@functools.partial(jax.jit, static_argnames=("arch", "chunk"))
def decode_frames(
    arch: Architecture, params: Params, features: model.Features, latents: jax.Array, chunk: int = 8
) -> jax.Array:
    """One face at many latent vectors, `chunk` at a time: memory does not grow with the frames.

    features: of one image, [1, ...] each; latents [N, D]. Returns [N, H, W, 3] in (-1, 1).
    """
    count = len(latents)
    padded = jnp.pad(latents, ((0, -count % chunk), (0, 0)), mode="edge")

    def some(w: jax.Array) -> jax.Array:
        same = jax.tree.map(lambda x: jnp.repeat(x, chunk, axis=0), features)
        return model.decode_w(arch, params, same, w)

    frames = jax.lax.map(some, padded.reshape(-1, chunk, latents.shape[-1]))
    return frames.reshape(-1, *frames.shape[2:])[:count]


def age_strip(
    arch: Architecture,
    params: Params,
    image: jax.Array,
    key: jax.Array | None = None,
    sigma: float = 0.2,
) -> np.ndarray:
    """One face [H, W, 3] in [-1, 1] at every age: uint8 [K, H, W, 3]."""
    features = encode(arch, params, image[None])
    return to_uint8(decode_frames(arch, params, features, class_latents(arch, params, key, sigma)))


def traverse(
    arch: Architecture,
    params: Params,
    image: jax.Array,
    *,
    step: float = 0.05,
    chunk: int = 8,
    key: jax.Array | None = None,
) -> np.ndarray:
    """The frames of a film through all ages: uint8 [N, H, W, 3], see `traversal`."""
    features = encode(arch, params, image[None])
    latents = traversal(class_latents(arch, params, key), step)
    return to_uint8(decode_frames(arch, params, features, latents, chunk))


def interpolate_classes(
    arch: Architecture, params: Params, image: jax.Array, first: int, last: int, count: int
) -> np.ndarray:
    """`count` (at least 2) frames from one age class to another: uint8 [count, H, W, 3]."""
    latents = class_latents(arch, params)
    weights = jnp.linspace(1.0, 0.0, count)[:, None]
    between = weights * latents[first] + (1 - weights) * latents[last]
    features = encode(arch, params, image[None])
    return to_uint8(decode_frames(arch, params, features, between))


def to_uint8(images: jax.Array | np.ndarray, *, rounded: bool = False) -> np.ndarray:
    """[-1, 1] -> uint8. The official code cuts off; `rounded` takes the nearest grey level."""
    values = (np.asarray(images, np.float32) + 1) / 2 * 255
    return np.clip(np.rint(values) if rounded else values, 0, 255).astype(np.uint8)
