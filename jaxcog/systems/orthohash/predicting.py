"""`jaxcog predict` of a hashing network: an index made of images, answers to queries from it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxcog.errors import DataError
from jaxcog.pictures import Scale
from jaxcog.show import Figure, File, Gallery, Picture, Table
from jaxcog.systems.orthohash.index import HammingIndex
from jaxcog.systems.orthohash.retrieval import host_hamming_distance, pack_on_host
from jaxcog.task import DataInfo, State
from jaxcog.trees import fingerprint

_QUERIES = 8  # with pictures
_NEIGHBOURS = 8
_ANSWERS = 100  # in the table
_CHUNK = 32  # images that are encoded at once
_THUMBNAIL = (96, 96, 3)
_MOST_THUMBNAILS = 1000

Encode = Callable[[State, Any], jax.Array]
"""(state, normalised images [B, H, W, C]) -> continuous codes [B, K]."""


def prediction(
    data: DataInfo, encode: Encode, variables: Callable[[State], Any], shape: tuple[int, ...]
) -> Callable[[State, Sequence[Any], Sequence[str]], list[Figure]]:
    """The `predict` of a Task.

    Images alone become an index (with its codes as .npy and in FAISS's layout). Images beside an
    index are looked up in it.

    Args:
      variables: what of a State makes the codes; an index remembers its fingerprint.
      shape: [H, W, C] of the network's input.
    """

    def predict(state: State, inputs: Sequence[Any], names: Sequence[str]) -> list[Figure]:
        places = [i for i, value in enumerate(inputs) if not isinstance(value, Mapping)]
        indexes = [i for i, value in enumerate(inputs) if isinstance(value, Mapping)]
        if len(indexes) > 1 or not places:
            raise DataError(
                f"{len(indexes)} indexes and {len(places)} images: name images (or a folder of "
                "them) to build an index, or one index and the images to look up in it"
            )
        images, names_of = [inputs[i] for i in places], [names[i] for i in places]
        words, thumbnails, bits = _codes(data, encode, state, images, shape)
        made_by = fingerprint(jax.device_get(variables(state)))
        if not indexes:
            index = HammingIndex(words, bits, made_by, tuple(names_of), thumbnails)
            return [*_neighbours(images, index), *_files(index)]
        index = HammingIndex.from_arrays(inputs[indexes[0]], names[indexes[0]])
        found = index.search(words, min(_ANSWERS, len(index.words)), num_bits=bits, made_by=made_by)
        return _answers(index, images, names_of, *found)

    return predict


def _codes(
    data: DataInfo, encode: Encode, state: State, images: Sequence[Any], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """(packed codes [N, W], thumbnails if there are not too many, bits); a few images at a time."""
    scale = Scale.of(data.facts)
    words, thumbnails, bits = [], [], 0
    for start in range(0, len(images), _CHUNK):
        pixels = [np.asarray(image) for image in images[start : start + _CHUNK]]
        ready = np.zeros((_CHUNK, *shape), np.float32)  # one size, so nothing is compiled twice
        ready[: len(pixels)] = [scale.normalised(fit(image, shape)) for image in pixels]
        codes = np.asarray(encode(state, ready))[: len(pixels)]
        words.append(pack_on_host(codes))
        bits = codes.shape[1]
        if len(images) <= _MOST_THUMBNAILS:
            thumbnails += [_thumbnail(image) for image in pixels]
    return np.concatenate(words), np.stack(thumbnails) if thumbnails else None, bits


def fit(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [h, w, 3] -> float32 `shape` [H, W, 3 or 1] in [0, 1].

    Resized until it just covers H x W with its aspect kept (bilinear, antialiased), then cropped
    in the centre; grey by the mean of the colours where the network reads one channel.
    """
    height, width, channels = shape
    factor = max(height / image.shape[0], width / image.shape[1])
    h = max(height, round(image.shape[0] * factor))
    w = max(width, round(image.shape[1] * factor))
    resized = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
    top, left = (h - height) // 2, (w - width) // 2
    cropped = resized[top : top + height, left : left + width].astype(np.float32) / 255
    return cropped if channels == 3 else cropped.mean(axis=-1, keepdims=True)


def _thumbnail(image: Any) -> np.ndarray:
    """uint8 [96, 96, 3]."""
    return np.round(255 * fit(np.asarray(image), _THUMBNAIL)).astype(np.uint8)


def _caption(name: str, bits: int) -> str:
    return f"{bits} bits, {Path(name).name}"


def _neighbours(images: Sequence[Any], index: HammingIndex) -> list[Figure]:
    """The first images as queries against all others."""
    if len(images) < 2:
        return []
    rows = []
    for q in range(min(_QUERIES, len(images))):
        distances = host_hamming_distance(index.words[q : q + 1], index.words)[0]
        order = [i for i in np.argsort(distances, kind="stable")[: _NEIGHBOURS + 1] if i != q]
        pictures = [Picture(np.asarray(images[q]), "query")]
        pictures += [
            Picture(np.asarray(images[i]), _caption(index.names[i], distances[i]))
            for i in order[:_NEIGHBOURS]
        ]
        rows.append((index.names[q], pictures))
    note = (
        f"The first {len(rows)} of {len(images)} images, each with its nearest others by the "
        f"number of different bits, of {index.num_bits}."
    )
    return [Gallery("Retrieval", rows, note)]


def _files(index: HammingIndex) -> list[Figure]:
    array = io.BytesIO()
    np.save(array, index.codes())
    size = f"{len(index.words)} codes of {index.num_bits} bits"
    return [
        File(
            "Index",
            "index.npz",
            index.to_bytes(),
            f"{size}. Look images up: jaxcog predict WORKDIR index.npz IMAGE... --out OUT",
        ),
        File("Codes", "codes.npy", array.getvalue(), "int8 [N, K] of +1 and -1, in index order."),
        File(
            "FAISS index",
            "codes.faiss",
            index.faiss_bytes(),
            "An IndexBinaryFlat, for faiss.read_index_binary.",
        ),
    ]


def _answers(
    index: HammingIndex,
    images: Sequence[Any],
    names: Sequence[str],
    distances: np.ndarray,
    found: np.ndarray,
) -> list[Figure]:
    rows = [
        [name, rank + 1, index.names[item], int(bits)]
        for name, items, far in zip(names, found, distances, strict=True)
        for rank, (item, bits) in enumerate(zip(items, far, strict=True))
    ]
    table = Table("Answers", ["query", "rank", "item", "different bits"], rows)
    if index.thumbnails is None:
        return [table]
    shown = []
    for q in range(min(_QUERIES, len(images))):
        pictures = [Picture(_thumbnail(images[q]), "query")]
        pictures += [
            Picture(index.thumbnails[item], _caption(index.names[item], bits))
            for item, bits in zip(found[q, :_NEIGHBOURS], distances[q, :_NEIGHBOURS], strict=True)
        ]
        shown.append((names[q], pictures))
    note = f"Nearest of {len(index.words)} items, by different bits, of {index.num_bits}."
    return [Gallery("Retrieval", shown, note), table]
