"""What the report and `jaxcog predict` show of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.pictures import Scale, in_chunks, rgb
from jaxcog.show import Figure, Gallery, Matrix, Picture
from jaxcog.systems.mixstyle import ops
from jaxcog.task import DataInfo, State

_SHOWN = 8  # pictures in a row
_CHUNK = 32  # images that are classified at once

Probabilities = Callable[[State, Any], jax.Array]
"""(state, normalised images [B, H, W, 3]) -> [B, K]."""


def report(
    data: DataInfo, probabilities: Probabilities
) -> Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    """The `figures` of a Task: classified images of each domain, mixed styles, confusions."""

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        shown: list[Figure] = [
            _domains(data, probabilities, state, split, arrays) for split, arrays in samples.items()
        ]
        mixed = _mixed_styles(data, samples)
        if mixed is not None:
            shown.append(mixed)
        for split, states in results.items():
            counts = states["confusion"].compute()
            names = data.class_names
            note = "Rows are true classes, columns predicted ones; numbers of images."
            shown.append(Matrix(f"Confusion matrix, {split}", counts, names, names, note))
        return shown

    return figures


def prediction(
    data: DataInfo, probabilities: Probabilities, size: tuple[int, int]
) -> Callable[[State, Sequence[np.ndarray], Sequence[str]], list[Figure]]:
    """The `predict` of a Task: each image with its class and the classifier's confidence."""

    def predict(state: State, images: Sequence[np.ndarray], names: Sequence[str]) -> list[Figure]:
        ready = np.stack([fit(image, size) for image in images])
        scores = in_chunks(partial(probabilities, state), _scale(data).normalised(ready), _CHUNK)
        rows = []
        for name, image, score in zip(names, images, scores, strict=True):
            best = np.argsort(score)[::-1][:3]
            text = ", ".join(f"{data.class_names[i]} {100 * score[i]:.0f}%" for i in best)
            rows.append((name, [Picture(image, text)]))
        return [Gallery("Predicted classes", rows, "The three likeliest classes of each image.")]

    return predict


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3] -> float32 [H, W, 3] in [0, 1], as the test transform makes it.

    Resized until it just covers H x W with its aspect kept (bilinear, antialiased), then cropped
    in the centre.
    """
    (height, width), (h, w) = size, image.shape[:2]
    factor = max(height / h, width / w)
    h, w = max(height, round(h * factor)), max(width, round(w * factor))
    pixels = jnp.asarray(image, jnp.float32) / 255
    resized = jax.image.resize(pixels, (h, w, 3), "linear", antialias=True)
    top, left = (h - height) // 2, (w - width) // 2
    return np.clip(resized[top : top + height, left : left + width], 0, 1)


def _scale(data: DataInfo) -> Scale:
    return Scale.of(data.facts, (0.5, 0.5))


def _domain_names(data: DataInfo, domains: np.ndarray) -> dict[int, str]:
    known = data.facts.get("domains", ())
    return {
        int(d): str(known[d]) if 0 <= d < len(known) else f"domain {d}" for d in np.unique(domains)
    }


def _domains(
    data: DataInfo,
    probabilities: Probabilities,
    state: State,
    split: str,
    arrays: Mapping[str, np.ndarray],
) -> Gallery:
    domains = np.asarray(arrays.get("domain", np.zeros(len(arrays["label"]), np.int32)))
    rows = []
    for domain, name in _domain_names(data, domains).items():
        rows_of = np.flatnonzero(domains == domain)
        picked = rows_of[np.linspace(0, len(rows_of) - 1, min(_SHOWN, len(rows_of))).astype(int)]
        images = np.asarray(arrays["image"])[picked]
        predicted = in_chunks(partial(probabilities, state), images, _CHUNK).argmax(axis=-1)
        pictures = [
            Picture(rgb(pixels), data.class_names[guess], "good" if guess == label else "bad")
            for pixels, guess, label in zip(
                _scale(data).pixels(images),
                predicted,
                np.asarray(arrays["label"])[picked],
                strict=True,
            )
        ]
        rows.append((name if "domain" in arrays else split, pictures))
    note = "Captions are predictions; green frames are right, red ones wrong."
    return Gallery(f"Images, {split}", rows, note)


def _mixed_styles(data: DataInfo, samples: Mapping[str, Any]) -> Gallery | None:
    """The operator on pixels: what it keeps and what it takes from the partner."""
    images = [np.asarray(arrays["image"]) for arrays in samples.values()]
    if sum(len(part) for part in images) < 2:
        return None
    # The ends of the samples are the likeliest to differ in domain.
    ends = [images[0][:4], images[-1][::-1][:4]]
    rows = []
    for content, style in zip(*ends, strict=False):
        pair = jnp.asarray(_scale(data).pixels(np.stack([content, style])))
        first, second = np.asarray(pair)
        row = [Picture(rgb(first), "image"), Picture(rgb(second), "partner")]
        for lam in (0.7, 0.3, 0.0):
            mixed = ops.mixstyle(pair, jnp.full(2, lam), jnp.array([1, 0]))
            row.append(Picture(rgb(np.asarray(mixed[0])), f"weight {lam:g}"))
        rows.append(("", row))
    note = (
        "MixStyle applied to pixels instead of features: what is shown stays, colour and contrast "
        "move to the partner's as the weight of the image's own statistics falls."
    )
    return Gallery("Mixed styles", rows, note)
