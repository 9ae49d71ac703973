"""What a trained network associates with a text, made visible (sheet 6.1).

Every loop here is one `lax.scan`: jit the whole call. Images are NHWC and normalised; `embed` is a
function from them to unit embeddings [B, D], with all weights frozen inside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

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

    lr: of Adam, in normalised units (pixels), units of the codebook (latents) or deviations.
    smoothness: weight of the total variation of the pixels.
    jitter: most pixels by which the image is rolled before it is embedded, at every step.
    noise: deviation, in [0, 1], of the noise of brightness added before it is embedded. A network
      answers to patterns that no person sees; those do not survive noise.
    draws: of jitter and noise, whose losses are averaged at every step.
    clamp: keep pixels in the range of real images.
    grey: keep the three channels equal, for networks that saw no colours.
    brightness: of the noise where pixels start, in [0, 1].
    likeness: weight of the distance from real images, by their mean and covariance alone (see
      `Statistics`); 0: pixels are free.
    frames: pictures kept of the way there, the last one among them; must divide `steps`.
    """

    steps: int = 1000
    lr: float = 0.05
    smoothness: float = 1e-4
    jitter: int = 16
    noise: float = 0.0
    draws: int = 1
    clamp: bool = True
    grey: bool = False
    brightness: float = 0.5
    likeness: float = 0.0
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


class Statistics(NamedTuple):
    """What images of a data set have in common: no labels and no texts are in it.

    mean: [S, S, 3] in [0, 1]; components: [R, S, S, 3], their principal components, each as long
    as the deviation of the images along it.
    """

    mean: jax.Array
    components: jax.Array


@dataclasses.dataclass(frozen=True)
class Canvas:
    """What is optimised, and the picture it stands for.

    start(key, count): [count, ...] variables.
    draw(variables): normalised images [B, S, S, 3].
    cost(variables): [B], added to the loss.
    project(variables): where they are put back to after each update.
    """

    start: Callable[[jax.Array, int], jax.Array]
    draw: Callable[[jax.Array], jax.Array]
    cost: Callable[[jax.Array], jax.Array]
    project: Callable[[jax.Array], jax.Array] = lambda x: x


def pixels(config: Inversion, size: int) -> Canvas:
    """Normalised pixels themselves."""

    def start(key: jax.Array, count: int) -> jax.Array:
        return random_images(key, (count, size, size, 3), brightness=config.brightness)

    def cost(x: jax.Array) -> jax.Array:
        if not config.smoothness:
            return jnp.zeros(x.shape[0])
        return config.smoothness * total_variation(x)

    def project(x: jax.Array) -> jax.Array:
        if config.clamp:
            x = jnp.clip(x, ops.normalise(jnp.zeros(3)), ops.normalise(jnp.ones(3)))
        if config.grey:
            brightness = jnp.mean(ops.denormalise(x), axis=-1, keepdims=True)
            x = ops.normalise(jnp.broadcast_to(brightness, x.shape))
        return x

    return Canvas(start, lambda x: x, cost, project)


def components(config: Inversion, statistics: Statistics) -> Canvas:
    """Coordinates [B, R] along the principal components, in deviations.

    Their cost is that of a Gaussian with the images' mean and covariance: pictures that vary as the
    images do are cheap. Which picture belongs to which text, it does not know.
    """
    mean, parts = statistics

    def start(key: jax.Array, count: int) -> jax.Array:
        return 0.1 * jax.random.normal(key, (count, parts.shape[0]), jnp.float32)

    def draw(x: jax.Array) -> jax.Array:
        free = mean + jnp.tensordot(x, parts, axes=1)
        # Clipped for the network, not for the gradient: what left the range must find back.
        return ops.normalise(free + jax.lax.stop_gradient(jnp.clip(free, 0, 1) - free))

    return Canvas(start, draw, lambda x: 0.5 * config.likeness * jnp.sum(jnp.square(x), axis=1))


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


def seen_loss(
    embed: Embed,
    distance: Callable[[jax.Array], jax.Array],
    canvas: Canvas,
    config: Inversion,
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The loss of a canvas: `distance` of its picture's embeddings, jittered and in noise."""

    def seen(images: jax.Array, key: jax.Array) -> jax.Array:
        if config.jitter:
            by = jax.random.randint(key, (2,), -config.jitter, config.jitter + 1)
            images = jnp.roll(images, by, axis=(1, 2))
        if config.noise:
            images = ops.add_noise(jax.random.fold_in(key, 1), images, config.noise)
        return distance(embed(images))

    def loss(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        images = canvas.draw(x)
        if config.draws == 1:
            losses = seen(images, key)
        else:
            keys = jax.random.split(key, config.draws)
            losses = jnp.mean(jax.vmap(lambda k: seen(images, k))(keys), axis=0)
        return losses + canvas.cost(x), jnp.clip(ops.denormalise(images), 0, 1)

    return loss


def invert_embedding(
    embed: Embed,
    target: jax.Array,
    start: jax.Array,
    key: jax.Array,
    config: Inversion,
    canvas: Canvas | None = None,
) -> Imagined:
    """Images whose embeddings match a text's.

    Args:
      target: [D], or [B, D] for another one in each row. For several texts in one picture give
        `unit` of the sum of their embeddings.
      start: variables of the canvas; normalised [B, S, S, 3], such as `random_images`, of pixels.
      canvas: what is optimised; None: `pixels`.
    """
    canvas = canvas or pixels(config, start.shape[1])
    loss = seen_loss(embed, lambda e: cosine_distance(e, target), canvas, config)
    return optimise(loss, start, key, config, canvas.project)


def visualise_neuron(
    activation: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    key: jax.Array,
    config: Inversion,
    canvas: Canvas | None = None,
) -> Imagined:
    """Images that excite one unit: `activation` maps normalised images to [B] activations."""
    canvas = canvas or pixels(config, start.shape[1])
    loss = seen_loss(activation, lambda value: -value, canvas, config)
    return optimise(loss, start, key, config, canvas.project)


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
