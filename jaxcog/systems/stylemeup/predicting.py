"""`jaxcog predict`: sketches in, ranked photos out, before and after a look at the user's pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxcog.errors import DataError
from jaxcog.pictures import in_chunks
from jaxcog.show import Figure, Gallery, Picture, Table
from jaxcog.systems.stylemeup.evaluating import adapt_to_user
from jaxcog.systems.stylemeup.figures import orders, ranked_row, rgb
from jaxcog.systems.stylemeup.meta import MetaLearner, split
from jaxcog.systems.stylemeup.model import Codes
from jaxcog.task import State

_CHUNK = 16  # images that are encoded at once
_LISTED = 20
_PAIRS = 8
_SWAPPED = 6


def prediction(
    learner: MetaLearner, shape: tuple[int, ...]
) -> Callable[[State, Sequence[Any], Sequence[str]], list[Figure]]:
    """The `predict` of a Task.

    Photos are the gallery. A sketch that has a photo of its own name ("shoe.svg" or "shoe_2.svg"
    beside "shoe.png") is an example of how this user draws: the network adapts to these pairs,
    whose photos leave the gallery. All other sketches are looked for, before and after.

    shape: [S, S, C] of the network's input.
    """

    @jax.jit
    def encode(network: Any, stats: Any, images: jax.Array) -> Codes:
        return learner.vae.encode(network, images, stats=stats)

    def content(network: Any, state: State, images: np.ndarray) -> np.ndarray:
        stats = state.get("batch_stats")
        return in_chunks(lambda x: encode(network, stats, x).content, images, _CHUNK)

    def predict(state: State, inputs: Sequence[Any], names: Sequence[str]) -> list[Figure]:
        sketches, photos, pairs = _sorted_out(inputs, names)
        read = {i: _fit(inputs[i]["image"], shape) for i in (*sketches, *photos, *pairs.values())}
        read |= {i: _fit(inputs[i]["image"], shape) for i in pairs}
        paired = set(pairs.values())
        gallery = [i for i in photos if i not in paired] or photos
        images = np.stack([read[i] for i in gallery])
        titles = [Path(names[i]).stem for i in gallery]
        drawn = np.stack([read[i] for i in sketches])
        networks = {"before": split(state["params"])[0]}
        if pairs:
            networks["after"] = _adapted(learner, state, read, pairs)
        found = {
            name: orders(content(network, state, drawn), content(network, state, images))
            for name, network in networks.items()
        }
        rows, table = [], []
        for q, sketch in enumerate(sketches):
            for name, ranked in found.items():
                label = Path(names[sketch]).name + (f", {name}" if pairs else "")
                rows.append((label, ranked_row(drawn[q], images, ranked[q], None, titles)))
                table += [
                    [names[sketch], name, place, names[gallery[item]]]
                    for place, item in enumerate(ranked[q, :_LISTED], 1)
                ]
        note = f"Sketch, then the nearest of {len(gallery)} photos. " + (
            f"Before and after adaptation to {len(pairs)} sketches of this user with their photos."
            if pairs
            else "Not adapted: no sketch has a photo of its own name."
        )
        return [
            Gallery("Retrieved photos", rows, note),
            Table("Ranking", ["sketch", "adaptation", "rank", "photo"], table),
            *_codes_exchanged(learner, state, networks, drawn, names, sketches),
        ]

    return predict


def _sorted_out(
    inputs: Sequence[Any], names: Sequence[str]
) -> tuple[list[int], list[int], dict[int, int]]:
    """(sketches to look for, all photos, example sketch -> its photo), as positions."""
    photos = [i for i, item in enumerate(inputs) if not item["sketch"]]
    drawn = [i for i, item in enumerate(inputs) if item["sketch"]]
    if not photos or not drawn:
        raise DataError(
            f"{len(drawn)} sketches and {len(photos)} photos: name at least one of each. Sketches "
            'are .svg, .npy or .csv strokes, or images with "sketch" in their name or folder; all '
            "other images are the photos to search"
        )
    by_stem = {Path(names[i]).stem: i for i in photos}
    pairs: dict[int, int] = {}
    for i in drawn:
        stem = re.sub(r"[_-]?sketch$", "", Path(names[i]).stem)
        own = by_stem.get(stem, by_stem.get(re.sub(r"[_-]\d+$", "", stem)))
        if own is not None:
            pairs[i] = own
    queries = [i for i in drawn if i not in pairs]
    if not queries:
        raise DataError(
            f"all {len(drawn)} sketches have a photo of their own name, so they are examples to "
            "adapt to: name one more sketch, whose photo is to be found"
        )
    if len(set(pairs.values())) == 1:
        raise DataError(
            f"{names[next(iter(pairs))]}: one photo with a sketch is too little to adapt to, since "
            "its negative must be another one: add a second pair, or rename it to search without"
        )
    return queries, photos, pairs


def _fit(image: Any, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [h, w, 3] -> float32 [S, S, C] in [-1, 1]; the whole image, whatever its aspect."""
    height, width, channels = shape
    picture = Image.fromarray(np.asarray(image))
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    pixels = resized / 127.5 - 1
    return pixels if channels == 3 else pixels.mean(axis=-1, keepdims=True)


def _adapted(
    learner: MetaLearner, state: State, read: Mapping[int, np.ndarray], pairs: Mapping[int, int]
) -> Any:
    """The network after the inner loop on the first pairs; another pair's photo is the negative."""
    chosen = list(pairs.items())[:_PAIRS]
    photos = [photo for _, photo in chosen]
    others = [
        next(p for p in photos[i:] + photos[:i] if p != photos[i]) for i in range(len(photos))
    ]
    user = {
        "positive": np.stack([read[photo] for photo in photos]),
        "negative": np.stack([read[photo] for photo in others]),
        "sketches": np.stack([read[sketch] for sketch, _ in chosen])[:, None],
    }
    stats = state.get("batch_stats")
    adapt = jax.jit(lambda p, user: adapt_to_user(learner, p, user, len(chosen), stats))
    return adapt(state["params"], user)


def _codes_exchanged(
    learner: MetaLearner,
    state: State,
    networks: Mapping[str, Any],
    drawn: np.ndarray,
    names: Sequence[str],
    sketches: Sequence[int],
) -> list[Figure]:
    """Each sketch decoded again, and in the styles of the others."""
    network = networks.get("after", networks["before"])
    chosen = drawn[:_SWAPPED]
    codes = learner.vae.encode(network, jnp.asarray(chosen), stats=state.get("batch_stats"))
    content, mu = np.asarray(codes.content), np.asarray(codes.mu)
    rows = []
    for i in range(len(chosen)):
        made = np.asarray(learner.vae.decode(network, content[i : i + 1] + mu))
        # The first picture is the sketch, so its own style comes next and the others after it.
        turn = [i, *(j for j in range(len(chosen)) if j != i)]
        captions = ["its own style", *(f"style of {Path(names[sketches[j]]).stem}"
                                       for j in turn[1:])]  # fmt: skip
        pictures = [Picture(rgb(made[j]), text) for j, text in zip(turn, captions, strict=True)]
        rows.append(("content of", [Picture(rgb(chosen[i]), "sketch"), *pictures]))
    note = "Decoded from a sketch's content and a style: its own, then those of other sketches."
    return [Gallery("Reconstructions and exchanged styles", rows, note)]
