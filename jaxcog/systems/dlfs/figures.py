"""What the report and `jaxcog predict` show: strips of ages, films, and the change of a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxcog.show import Animation, Figure, Gallery, Matrix, Picture
from jaxcog.systems.dlfs import infer
from jaxcog.systems.dlfs.model import Architecture
from jaxcog.task import State

_FACES = 8
_FRAMES_PER_SECOND = 20.0


def report(
    arch: Architecture, class_names: Sequence[str]
) -> Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    """The `figures` of a Task: some test faces at every age, and which ages were recognised."""

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        params = state["ema"]["generator"]
        images, labels = samples["test"]["image"], samples["test"]["label"]
        truth = samples["test"].get("truth")
        rows = []
        for index in _spread(labels, arch.num_classes):
            strip = infer.age_strip(arch, params, jnp.asarray(images[index]))
            name = class_names[int(labels[index])]
            row = [_picture(images[index], f"input ({name})"), *_named(strip, class_names)]
            if truth is not None:
                row += _named(infer.to_uint8(truth[index]), [f"true {one}" for one in class_names])
            rows.append((f"from {name}", row))
        shown: list[Figure] = [Gallery("One face at every age", rows)]
        counts = np.asarray(results["test"]["ages"].compute(), np.float64)
        return [
            *shown,
            Matrix(
                "Which age is recognised",
                counts / np.maximum(counts.sum(axis=1, keepdims=True), 1),
                [f"asked for {name}" for name in class_names],
                list(class_names),
                "Shares of the pictures made from other ages.",
            ),
        ]

    return figures


def _spread(labels: np.ndarray, classes: int) -> list[int]:
    """Some examples of each class in turn, not at the same places: those may be the same face."""
    by_class = [np.flatnonzero(labels == index) for index in range(classes)]
    present = [rows for rows in by_class if len(rows)]
    turns = [present[k % len(present)] for k in range(min(_FACES, len(labels)))]
    return [int(rows[k % len(rows)]) for k, rows in enumerate(turns)]


def _picture(image: np.ndarray, caption: str) -> Picture:
    rgb = image if image.dtype == np.uint8 else infer.to_uint8(image)
    return Picture(rgb, caption)


def _named(strip: np.ndarray, class_names: Sequence[str]) -> list[Picture]:
    return [Picture(rgb, name) for rgb, name in zip(strip, class_names, strict=True)]


def prediction(
    arch: Architecture, class_names: Sequence[str], size: int, step: float
) -> Callable[[State, Sequence[Any], Sequence[str]], list[Figure]]:
    """The `predict` of a Task: for each photo a strip of ages and a film through them.

    Photos must be aligned and their background grey, as in training: see
    `jaxcog.data.face_alignment` and `jaxcog.data.datasets.faces.mask_background`.
    """

    def predict(state: State, inputs: Sequence[Any], names: Sequence[str]) -> list[Figure]:
        params = state["ema"]["generator"]
        rows, films = [], []
        for image, name in zip(inputs, names, strict=True):
            x = jnp.asarray(_prepared(image, size))
            frames = infer.traverse(arch, params, x, step=step)
            strip = frames[:: infer.frames_between(step)]
            pictures = [_picture(np.asarray(x), "input"), *_named(strip, class_names)]
            rows.append((name.rpartition("/")[2], pictures))
            films.append(
                Animation(f"{name.rpartition('/')[2]} through all ages", frames, _FRAMES_PER_SECOND)
            )
        note = "A model's guess of how a face may change with age; evidence of nothing."
        return [Gallery("Every age", rows, note), *films]

    return predict


def _prepared(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [size, size, 3] in [-1, 1], the middle square of it."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = image[top : top + side, left : left + side]
    if side != size:
        square = np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS))
    return square.astype(np.float32) / 127.5 - 1
