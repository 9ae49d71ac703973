"""What an actor-critic's data looks like: see `jaxcog.data.types.Experience`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


EPISODE = {"return": _array(jnp.float32), "length": _array(jnp.int32)}
"""`DataInfo.eval_element`: one finished episode."""


def segment_element(image: tuple[int, int, int], horizon: int) -> dict[str, jax.ShapeDtypeStruct]:
    """`DataInfo.element`: one environment's segment, with values and probabilities of an actor.

    image: H, W, 3 of a frame.
    """
    return {
        "image": _array(jnp.uint8, horizon, *image),
        "reward": _array(jnp.float32, horizon),
        "done": _array(jnp.bool_, horizon),
        "return": _array(jnp.float32, horizon),
        "action": _array(jnp.int32, horizon + 1),
        "value": _array(jnp.float32, horizon + 1),
        "neglogp": _array(jnp.float32, horizon + 1),
    }


def paint_rectangles(images: np.ndarray, random: list[np.random.Generator]) -> None:
    """0 to 5 filled rectangles of random colour in each image, in place: uint8 [E, H, W, 3].

    Each side is uniform in 10-35 % of the image's (CoinRun's data augmentation).

    random: one generator for each image.
    """
    height, width = images.shape[1:3]
    for image, generator in zip(images, random, strict=True):
        draws = generator.random((int(generator.integers(6)), 7))
        for tall, wide, down, right, *color in draws:
            h, w = round((0.1 + 0.25 * tall) * height), round((0.1 + 0.25 * wide) * width)
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
            image[top : top + h, left : left + w] = [int(256 * channel) for channel in color]
