"""What a trained network associates with a text, made visible (sheet 6.1).

Every loop here is one `lax.scan`: jit the whole call. Images are NHWC and normalised; `embed` is a
function from them to unit embeddings [B, D], with all weights frozen inside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcog.losses.contrastive import unit
from jaxcog.systems.brivl import ops, vqgan

Tree = Any
Embed = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Inversion:
    """How long and how strongly; the defaults are ours, the paper gives none.

    lr: of Adam, in normalised units (pixels) or units of the codebook (latents).
    smoothness: weight of the total variation of the pixels.
    jitter: most pixels by which the image is rolled before it is embedded, at every step.
    clamp: keep pixels in the range of real images.
    grey: keep the three channels equal, for networks that saw no colours.
    brightness: of the noise where pixels start, in [0, 1].
    frames: pictures kept of the way there, the last one among them; must divide `steps`.
    """

    steps: int = 1000
    lr: float = 0.05
    smoothness: float = 1e-4
    jitter: int = 16
    clamp: bool = True
    grey: bool = False
    brightness: float = 0.5
    frames: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1 or self.frames < 1 or self.steps % self.frames:
            raise ValueError(f"Inversion: {self.frames} frames do not divide {self.steps} steps")


@dataclasses.dataclass(frozen=True)
class Imagined:
    """images [B, S, S, 3] in [0, 1], losses [steps, B], frames [frames, B, S, S, 3] in [0, 1].

    variables: what was optimised, after the last update.
    """

    images: jax.Array
    losses: jax.Array
    frames: jax.Array
    variables: jax.Array


def cosine_distance(embeddings: jax.Array, target: jax.Array) -> jax.Array:
    """1 - cosine of each row [B, D] with the target [D] or [B, D]: [B]."""
    return 1 - jnp.sum(unit(embeddings) * unit(target), axis=-1)


def total_variation(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B]: squared differences of neighbours, summed."""
    down = jnp.sum(jnp.square(jnp.diff(x, axis=1)), axis=(1, 2, 3))
    return down + jnp.sum(jnp.square(jnp.diff(x, axis=2)), axis=(1, 2, 3))


def random_images(
    key: jax.Array, shape: tuple[int, ...], spread: float = 0.1, brightness: float = 0.5
) -> jax.Array:
    """Normalised noise around a grey, where inversion starts."""
    return ops.normalise(brightness + spread * jax.random.normal(key, shape, jnp.float32))


def optimise(
    loss: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    start: jax.Array,
    key: jax.Array,
    config: Inversion,
    project: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Imagined:
    """Adam on `start` [B, ...] under `loss(x, key) -> ([B] losses, [B, S, S, 3] in [0, 1])`.

    The losses and the pictures are those before each update, so that the last picture belongs to
    the last loss. Rows do not influence each other.
    """
    tx = optax.adam(config.lr)

    def total(x: jax.Array, key: jax.Array) -> Any:
        losses, images = loss(x, key)
        return jnp.sum(losses), (losses, images)

    def step(carry: Any, number: jax.Array) -> Any:
        x, opt, _ = carry
        step_key = jax.random.fold_in(key, number)
        grads, (losses, images) = jax.grad(total, has_aux=True)(x, step_key)
        updates, opt = tx.update(grads, opt)
        return (project(optax.apply_updates(x, updates)), opt, images), losses

    def frame(carry: Any, numbers: jax.Array) -> Any:
        carry, losses = jax.lax.scan(step, carry, numbers)
        return carry, (losses, carry[2])

    shown = jax.eval_shape(loss, start, key)[1]
    carry = (start, tx.init(start), jnp.zeros(shown.shape, shown.dtype))
    numbers = jnp.arange(config.steps).reshape(config.frames, -1)
    (variables, _, images), (losses, frames) = jax.lax.scan(frame, carry, numbers)
    return Imagined(images, losses.reshape(config.steps, -1), frames, variables)


def pixel_loss(
    embed: Embed, distance: Callable[[jax.Array], jax.Array], config: Inversion
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The loss of normalised pixels: `distance` of their embeddings, jittered and smoothed."""

    def loss(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen = x
        if config.jitter:
            by = jax.random.randint(key, (2,), -config.jitter, config.jitter + 1)
            seen = jnp.roll(x, by, axis=(1, 2))
        losses = distance(embed(seen))
        if config.smoothness:
            losses = losses + config.smoothness * total_variation(x)
        return losses, jnp.clip(ops.denormalise(x), 0, 1)

    return loss


def invert_embedding(
    embed: Embed,
    target: jax.Array,
    start: jax.Array,
    key: jax.Array,
    config: Inversion,
) -> Imagined:
    """Images whose embeddings match a text's.

    Args:
      target: [D], or [B, D] for another one in each row. For several texts in one picture give
        `unit` of the sum of their embeddings.
      start: [B, S, S, 3] normalised, such as `random_images`.
    """
    loss = pixel_loss(embed, lambda e: cosine_distance(e, target), config)
    return optimise(loss, start, key, config, _kept(config))


def visualise_neuron(
    activation: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    key: jax.Array,
    config: Inversion,
) -> Imagined:
    """Images that excite one unit: `activation` maps normalised images to [B] activations."""
    loss = pixel_loss(activation, lambda value: -value, config)
    return optimise(loss, start, key, config, _kept(config))


def _kept(config: Inversion) -> Callable[[jax.Array], jax.Array]:
    """Where pixels are put back to after each update."""

    def project(x: jax.Array) -> jax.Array:
        if config.clamp:
            x = jnp.clip(x, ops.normalise(jnp.zeros(3)), ops.normalise(jnp.ones(3)))
        if config.grey:
            pixels = jnp.mean(ops.denormalise(x), axis=-1, keepdims=True)
            x = ops.normalise(jnp.broadcast_to(pixels, x.shape))
        return x

    return project


def guided_generate(
    params: Tree,
    prior: vqgan.VQGANConfig,
    embed: Embed,
    target: jax.Array,
    start: jax.Array,
    key: jax.Array,
    config: Inversion,
    image_size: int,
    cutouts: int = 0,
) -> Imagined:
    """Images from a VQGAN whose embeddings match a text's: what is optimised are its latents.

    Args:
      params: of the VQGAN, frozen.
      start: [B, h, w, code_width], such as `vqgan.random_latents`.
      image_size: side at which `embed` wants images.
      cutouts: random square parts of each picture that are embedded instead of the whole; 0: none.

    Every step replaces each latent by its nearest code with a straight-through gradient.
    """

    def loss(latents: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        codes, _, _ = vqgan.quantise(params["codebook"], latents)
        images = jnp.clip(vqgan.decode(params, codes, prior), -1, 1) / 2 + 0.5
        if not cutouts:
            return cosine_distance(embed(_sized(images, image_size)), target), images
        parts = jax.vmap(lambda k: _cut_out(k, images, image_size))(jax.random.split(key, cutouts))
        losses = jax.vmap(lambda part: cosine_distance(embed(ops.normalise(part)), target))(parts)
        return jnp.mean(losses, axis=0), images

    return optimise(loss, start, key, config)


def _sized(images: jax.Array, size: int) -> jax.Array:
    if images.shape[1:3] != (size, size):
        images = ops.resize(images, size)
    return ops.normalise(images)


def _cut_out(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
    """The same random square, of half the side at least, of all images, resized to `size`."""
    keys = jax.random.split(key, 3)
    height, width = images.shape[1:3]
    share = jax.random.uniform(keys[0], (), minval=0.5, maxval=1.0)
    top = jax.random.uniform(keys[1], (), maxval=1.0) * (1 - share)
    left = jax.random.uniform(keys[2], (), maxval=1.0) * (1 - share)
    scale = jnp.stack([size / (share * height), size / (share * width)])
    shift = -jnp.stack([top * height, left * width]) * scale
    shape = (images.shape[0], size, size, images.shape[-1])
    return jax.image.scale_and_translate(
        images, shape, (1, 2), scale, shift, "linear", antialias=False
    )
