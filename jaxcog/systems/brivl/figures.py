"""What the report shows of both towers, and what `jaxcog predict` makes of images and sentences."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.errors import DataError
from jaxcog.pictures import in_chunks
from jaxcog.show import Animation, Figure, File, Gallery, Lines, Picture
from jaxcog.systems.brivl import model, ops, pictures
from jaxcog.systems.brivl.architecture import Architecture
from jaxcog.systems.brivl.imagination import Imagined, Inversion
from jaxcog.task import DataInfo, State

_QUERIES = 6
_SHOWN = 6
_CHUNK = 16  # images encoded at once
_SENTENCES = 8  # pictures made in one go
_SMALL = 64  # side up to which the report inverts class names, too
_UNIT = "unit "

Predict = Callable[[State, Sequence[Any], Sequence[str]], list[Figure]]


def report(
    data: DataInfo, architecture: Architecture, inversion: Inversion
) -> Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    """The `figures` of a Task: texts and their nearest images; class names as pictures."""

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        shown: list[Figure] = []
        for split, states in results.items():
            if "pairs" in states and "image" in samples.get(split, {}):
                shown.append(_retrieved(data, split, samples[split], states["pairs"].compute()))
        class_ids = data.facts.get("class_ids")
        if class_ids is not None and len(class_ids) and architecture.image_size <= _SMALL:
            shown += _class_pictures(state, data, architecture, inversion)
        return shown

    return figures


def _retrieved(
    data: DataInfo, split: str, samples: Mapping[str, Any], rows: Mapping[str, np.ndarray]
) -> Gallery:
    """Samples are the first evaluation examples, so their embeddings are the first rows."""
    images, ids = np.asarray(samples["image"]), np.asarray(samples["ids"])
    group = rows.get("group", np.arange(len(rows["image"])))
    size = min(len(images), len(rows["image"]))
    scores = rows["text"][:_QUERIES] @ rows["image"][:size].T
    shown = []
    for query, row in enumerate(scores):
        pictures = [
            Picture(
                _rgb(images[i]),
                f"cosine {row[i]:.2f}",
                "good" if group[i] == group[query] else "bad",
            )
            for i in np.argsort(-row, kind="stable")[:_SHOWN]
        ]
        shown.append((_words(data, ids[query]), pictures))
    note = f"Nearest of {size} images of {split} to each text; green: the text's own image."
    return Gallery("Text to image", shown, note)


def _words(data: DataInfo, ids: np.ndarray) -> str:
    make = data.facts.get("tokenizer")
    return make().decode(ids) if make is not None else "text"


def _class_pictures(
    state: State, data: DataInfo, architecture: Architecture, inversion: Inversion
) -> list[Figure]:
    targets = pictures.named(state["params"], jnp.asarray(data.facts["class_ids"]), architecture)
    statistics = pictures.statistics_of(data, inversion)
    found = pictures.invert(state, targets, architecture, inversion, statistics)
    right = pictures.recognised(state, found.images, targets, architecture)
    names = data.class_names
    shown = [
        Picture(_rgb(image), names[i], "good" if right[i] else "bad")
        for i, image in enumerate(np.asarray(found.images))
    ]
    known = "" if statistics is None else "It knows the images' mean and covariance, no label. "
    note = (
        "Noise, changed until its embedding matches that of the name: no image was copied. "
        f"{known}"
        f"The network recognises {int(right.sum())} of {len(right)} (green)."
    )
    return [
        Gallery("What the names look like to the network", [("", shown)], note),
        _losses("Distance from the names", found, names),
    ]


def prediction(data: DataInfo, architecture: Architecture, inversion: Inversion) -> Predict:
    """The `predict` of a Task.

    Images and sentences become features (features.npz) and, where there are both, are retrieved
    from each other. A sentence becomes a picture, too: noise whose embedding is made to match; and
    with a prior.npz (see the room's VQGAN) one that the VQGAN can draw. A line "unit 12" asks for
    what excites that unit.
    """

    @jax.jit
    def image_features(state: State, images: jax.Array) -> jax.Array:
        return model.encode_image(state["params"], state["batch_stats"], images, architecture)

    @jax.jit
    def text_features(state: State, ids: jax.Array) -> jax.Array:
        return model.encode_text(state["params"], ids, architecture)

    def predict(state: State, inputs: Sequence[Any], names: Sequence[str]) -> list[Figure]:
        statistics = pictures.statistics_of(data, inversion)
        images, sentences, prior = _sorted(inputs, names)
        units = [_unit_number(line, architecture) for line in sentences if line.startswith(_UNIT)]
        texts = [line for line in sentences if not line.startswith(_UNIT)]
        found: dict[str, np.ndarray] = {}
        figures: list[Figure] = []
        if images:
            ready = np.stack([np.asarray(_ready(image, architecture)) for image in images.values()])
            found["image"] = in_chunks(partial(image_features, state), ready, _CHUNK)
        if texts:
            ids, _ = data.facts["tokenizer"]().encode(texts, architecture.text_length)
            found["text"] = in_chunks(partial(text_features, state), ids, _CHUNK)
        if found:
            figures.append(_features_file(found, list(images), texts))
        if images and texts:
            figures.append(_matches(found["text"] @ found["image"].T, images, texts))
        if texts:
            targets = jnp.asarray(found["text"][:_SENTENCES])
            shown = pictures.invert(state, targets, architecture, inversion, statistics)
            figures += _imagined("Imagined", shown, texts)
            if prior is not None:
                shown = pictures.generate(state, targets, architecture, inversion, prior)
                figures += _imagined("Drawn by the VQGAN", shown, texts)
        if units:
            wanted = jnp.asarray(units)
            shown = pictures.excite(state, wanted, architecture, inversion, statistics)
            figures += _imagined("Units", shown, [f"{_UNIT}{number}" for number in units])
        return figures

    return predict


def _sorted(
    inputs: Sequence[Any], names: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str], Mapping[str, np.ndarray] | None]:
    """(images by name, sentences, arrays of a VQGAN or None)."""
    images: dict[str, np.ndarray] = {}
    sentences: list[str] = []
    prior = None
    for value, name in zip(inputs, names, strict=True):
        if isinstance(value, str):
            sentences += [line.strip() for line in value.splitlines() if line.strip()]
        elif isinstance(value, Mapping):
            prior = value
        else:
            images[name] = np.asarray(value)
    if not images and not sentences:
        raise DataError("brivl predicts from images and sentences: name some, or a .txt of lines")
    return images, sentences, prior


def _unit_number(line: str, architecture: Architecture) -> int:
    text = line.removeprefix(_UNIT)
    if not text.isdigit() or int(text) >= architecture.image_width:
        raise DataError(
            f'"{line}": write "unit" and a number below {architecture.image_width}, the width of '
            "the fused tokens"
        )
    return int(text)


def _ready(image: np.ndarray, architecture: Architecture) -> jax.Array:
    return ops.preprocess_image(jnp.asarray(image), architecture.image_size)


def _features_file(
    found: Mapping[str, np.ndarray], images: Sequence[str], texts: Sequence[str]
) -> File:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"{kind}_features": value for kind, value in found.items()}
    np.savez(buffer, **arrays, images=np.array(images), texts=np.array(texts))
    note = "Unit embeddings, one a row, with the names of the images and the texts."
    return File("Features", "features.npz", buffer.getvalue(), note)


def _matches(scores: np.ndarray, images: Mapping[str, np.ndarray], texts: Sequence[str]) -> Gallery:
    names = list(images)
    rows = []
    for text, row in zip(texts, scores, strict=True):
        order = np.argsort(-row, kind="stable")[:_SHOWN]
        pictures = [Picture(images[names[i]], f"{names[i]}, cosine {row[i]:.2f}") for i in order]
        rows.append((text, pictures))
    return Gallery("Retrieval", rows, f"The nearest of {len(names)} images to each sentence.")


def _imagined(title: str, found: Imagined, texts: Sequence[str]) -> list[Figure]:
    """Final pictures, the way there as an animation (side by side), and the losses."""
    images, frames = np.asarray(found.images), np.asarray(found.frames)
    pictures = [
        Picture(_rgb(image), f"{text}: {loss:.2f}")
        for image, text, loss in zip(images, texts, np.asarray(found.losses)[-1], strict=False)
    ]
    times = max(1, -(-96 // frames.shape[2]))  # small pictures are enlarged
    wide = np.concatenate(list(np.moveaxis(frames, 1, 0)), axis=2)
    wide = np.repeat(np.repeat(wide, times, axis=1), times, axis=2)
    return [
        Gallery(title, [("", pictures)], "Numbers: the loss of the last update."),
        Animation(f"{title}, update by update", _rgb(wide), 6.0),
        _losses(f"{title}: loss", found, texts),
    ]


def _losses(title: str, found: Imagined, names: Sequence[str]) -> Lines:
    losses = np.asarray(found.losses)
    steps = np.arange(len(losses))
    series = {name: (steps, losses[:, i]) for i, name in enumerate(list(names)[: losses.shape[1]])}
    return Lines(title, series, "update", "loss")


def _rgb(images: np.ndarray) -> np.ndarray:
    """uint8 as they are, or [0, 1] as uint8."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    return np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
