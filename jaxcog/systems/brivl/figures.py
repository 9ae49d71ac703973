"""What the report shows of both towers, and what `jaxcog predict` makes of images and sentences."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.errors import DataError
from jaxcog.losses.contrastive import unit
from jaxcog.show import Animation, Figure, File, Gallery, Lines, Picture
from jaxcog.systems.brivl import imagination, model, ops, vqgan
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
    data: DataInfo, architecture: model.Architecture, inversion: Inversion
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
    state: State, data: DataInfo, architecture: model.Architecture, inversion: Inversion
) -> list[Figure]:
    class_ids = jnp.asarray(data.facts["class_ids"])
    count, prompts, length = class_ids.shape
    texts = model.encode_text(state["params"], class_ids.reshape(-1, length), architecture)
    targets = unit(jnp.mean(texts.reshape(count, prompts, -1), axis=1))
    found = invert(state, targets, architecture, inversion)
    right = recognised(state, found.images, targets, architecture)
    names = data.class_names
    pictures = [
        Picture(_rgb(image), names[i], "good" if right[i] else "bad")
        for i, image in enumerate(np.asarray(found.images))
    ]
    note = (
        "Noise, changed until its embedding matches that of the name: no image was copied. "
        f"{int(right.sum())} of {count} are recognised as what they were made from (green)."
    )
    return [
        Gallery("What the names look like to the network", [("", pictures)], note),
        _losses("Distance from the names", found, names),
    ]


def recognised(
    state: State, images: jax.Array, targets: jax.Array, architecture: model.Architecture
) -> np.ndarray:
    """bool [B]: whether target i [B, D] is the one nearest to image i, in [0, 1]."""
    seen = model.encode_image(
        state["params"], state["batch_stats"], ops.normalise(images), architecture
    )
    return np.argmax(np.asarray(seen @ targets.T), axis=1) == np.arange(len(targets))


def invert(
    state: State, targets: jax.Array, architecture: model.Architecture, config: Inversion
) -> Imagined:
    """A picture for each target [B, D]: all of them in one compiled loop."""
    shape = (len(targets), architecture.image_size, architecture.image_size, 3)
    arguments = (state["params"], state["batch_stats"], targets)
    return Imagined(*_inverted(*arguments, shape, architecture, config))


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _inverted(
    params: Any,
    stats: Any,
    targets: jax.Array,
    shape: tuple[int, ...],
    architecture: model.Architecture,
    config: Inversion,
) -> Any:
    keys = jax.random.split(jax.random.key(0))
    start = imagination.random_images(keys[0], shape, brightness=config.brightness)
    embed = functools.partial(_embed, params, stats, architecture)
    return _parts(imagination.invert_embedding(embed, targets, start, keys[1], config))


def _embed(
    params: Any, stats: Any, architecture: model.Architecture, images: jax.Array
) -> jax.Array:
    return model.encode_image(params, stats, images, architecture)


def _parts(found: Imagined) -> tuple[jax.Array, ...]:
    return found.images, found.losses, found.frames, found.variables


@functools.partial(jax.jit, static_argnums=(3, 4))
def _excited(
    params: Any, stats: Any, units: jax.Array, architecture: model.Architecture, config: Inversion
) -> Any:
    """A picture for each unit [B] of the fused tokens' mean."""
    keys = jax.random.split(jax.random.key(0))
    shape = (units.shape[0], architecture.image_size, architecture.image_size, 3)

    def activation(images: jax.Array) -> jax.Array:
        encoded = model.image_tower(params["image"], stats.get("image", {}), images, architecture)
        mean = jnp.mean(encoded.fused.astype(jnp.float32), axis=1)
        return jnp.take_along_axis(mean, units[:, None], axis=1)[:, 0]

    start = imagination.random_images(keys[0], shape, brightness=config.brightness)
    return _parts(imagination.visualise_neuron(activation, start, keys[1], config))


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _generated(
    params: Any,
    stats: Any,
    prior_params: Any,
    targets: jax.Array,
    architecture: model.Architecture,
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


def prediction(data: DataInfo, architecture: model.Architecture, inversion: Inversion) -> Predict:
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
        images, sentences, prior = _sorted(inputs, names)
        units = [_unit_number(line, architecture) for line in sentences if line.startswith(_UNIT)]
        texts = [line for line in sentences if not line.startswith(_UNIT)]
        found: dict[str, np.ndarray] = {}
        figures: list[Figure] = []
        if images:
            ready = np.stack([np.asarray(_ready(image, architecture)) for image in images.values()])
            found["image"] = _in_chunks(lambda x: image_features(state, x), ready)
        if texts:
            ids, _ = data.facts["tokenizer"]().encode(texts, architecture.text_length)
            found["text"] = _in_chunks(lambda x: text_features(state, x), ids)
        if found:
            figures.append(_features_file(found, list(images), texts))
        if images and texts:
            figures.append(_matches(found["text"] @ found["image"].T, images, texts))
        if texts:
            targets = jnp.asarray(found["text"][:_SENTENCES])
            shown = invert(state, targets, architecture, inversion)
            figures += _imagined("Imagined", shown, texts)
            if prior is not None:
                shown = _draw(state, targets, architecture, inversion, prior)
                figures += _imagined("Drawn by the VQGAN", shown, texts)
        if units:
            arguments = (state["params"], state["batch_stats"], jnp.asarray(units))
            shown = Imagined(*_excited(*arguments, architecture, inversion))
            figures += _imagined("Units", shown, [f"{_UNIT}{number}" for number in units])
        return figures

    return predict


def _draw(
    state: State,
    targets: jax.Array,
    architecture: model.Architecture,
    inversion: Inversion,
    prior: Mapping[str, np.ndarray],
) -> Imagined:
    params, config = vqgan.from_arrays(prior)
    arguments = (state["params"], state["batch_stats"], params, targets)
    return Imagined(*_generated(*arguments, architecture, config, inversion))


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


def _unit_number(line: str, architecture: model.Architecture) -> int:
    text = line.removeprefix(_UNIT)
    if not text.isdigit() or int(text) >= architecture.image_width:
        raise DataError(
            f'"{line}": write "unit" and a number below {architecture.image_width}, the width of '
            "the fused tokens"
        )
    return int(text)


def _ready(image: np.ndarray, architecture: model.Architecture) -> jax.Array:
    return ops.preprocess_image(jnp.asarray(image), architecture.image_size)


def _in_chunks(encode: Callable[[Any], jax.Array], rows: np.ndarray) -> np.ndarray:
    """[N, D], encoded in chunks of one size so that nothing is compiled twice."""
    padding = -len(rows) % _CHUNK
    padded = np.concatenate([rows, np.repeat(rows[-1:], padding, axis=0)])
    chunks = [padded[i : i + _CHUNK] for i in range(0, len(padded), _CHUNK)]
    return np.concatenate([np.asarray(encode(chunk)) for chunk in chunks])[: len(rows)]


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
        Gallery(title, [("", pictures)], "Numbers: the loss, about 1 - cosine with the text."),
        Animation(f"{title}, update by update", _rgb(wide), 6.0),
        _losses(f"{title}: loss", found, texts),
    ]


def _losses(title: str, found: Imagined, names: Sequence[str]) -> Lines:
    losses = np.asarray(found.losses)
    steps = np.arange(len(losses))
    series = {name: (steps, losses[:, i]) for i, name in enumerate(list(names)[: losses.shape[1]])}
    return Lines(title, series, "update", "1 - cosine, and smoothness")


def _rgb(images: np.ndarray) -> np.ndarray:
    """uint8 as they are, or [0, 1] as uint8."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    return np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
