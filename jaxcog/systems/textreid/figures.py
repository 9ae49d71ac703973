"""What the report and `jaxcog predict` show of a person search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.errors import DataError
from jaxcog.metrics.ranking import nearest, rank
from jaxcog.pictures import Scale
from jaxcog.show import Figure, File, Gallery, Histogram, Lines, Picture, Table
from jaxcog.systems.textreid.retrieval import embeddings
from jaxcog.systems.textreid.search import GalleryIndex, cosines, search
from jaxcog.task import DataInfo, State
from jaxcog.trees import fingerprint

_QUERIES = 4
_SHOWN = 10
_CHUNK = 32  # images that are encoded at once
_CURVE = 50
_THUMBNAIL = 96  # height

Predict = Callable[[State, Sequence[Any], Sequence[str]], list[Figure]]


class Encoders(Protocol):
    """State and inputs to embeddings [B, D]."""

    def images(self, state: State, images: jax.Array) -> jax.Array: ...

    def sentences(self, state: State, words: jax.Array, length: jax.Array) -> jax.Array: ...


def report(
    data: DataInfo,
) -> Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    """The `figures` of a Task: hits and misses, how soon persons are found, cosines."""

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        split, states = next(iter(results.items()))
        rows = states["rows"].compute()
        found = embeddings(rows)
        shown: list[Figure] = [found_curve(found), cosine_histogram(found)]
        if len(samples.get(split, {}).get("image", ())):
            shown = [*hits_and_misses(data, samples[split], found), *shown]
        return shown

    return figures


def found_curve(found: Mapping[str, np.ndarray]) -> Lines:
    """Percent of queries with a match among the first k, both ways."""
    image, text = (found["visual"], found["image_person"]), (found["textual"], found["text_person"])
    series = {}
    for name, query, gallery in (
        ("sentence to image", text, image),
        ("image to sentence", image, text),
    ):
        ranking = rank(query[0], gallery[0], query_ids=query[1], gallery_ids=gallery[1])
        count = min(_CURVE, len(gallery[0]))
        series[name] = (np.arange(1, count + 1), 100 * ranking.cmc(count))
    return Lines("Found among the first k", series, x_label="k", y_label="queries found, %")


def cosine_histogram(found: Mapping[str, np.ndarray], most: int = 1000) -> Histogram:
    """Cosines of sentences and images, by whether they are of one person."""
    step = max(1, len(found["textual"]) // most), max(1, len(found["visual"]) // most)
    text, image = found["textual"][:: step[0]], found["visual"][:: step[1]]
    values = cosines(text, image)
    same = found["text_person"][:: step[0], None] == found["image_person"][:: step[1]]
    edges = np.linspace(-1, 1, 41)
    series = {}
    for name, kind in (("same person", same), ("other persons", ~same)):
        counts = np.histogram(values[kind], edges)[0]
        series[name] = counts / max(counts.sum(), 1)
    return Histogram(
        "Cosines of sentences and images",
        edges,
        series,
        x_label="cosine",
        y_label="share of pairs",
        note="The alignment loss pushes apart what overlaps here.",
    )


def hits_and_misses(
    data: DataInfo, samples: Mapping[str, Any], found: Mapping[str, np.ndarray]
) -> list[Gallery]:
    """Sentences that find their person first, and sentences that do not.

    The gallery is what `samples` holds: the first evaluation images, so their embeddings are the
    first rows.
    """
    pictures = np.asarray(samples["image"])
    size = min(len(pictures), len(found["visual"]))
    queries = np.flatnonzero(found["text_image"] < size)
    order = nearest(found["textual"][queries], found["visual"][:size], _SHOWN)
    right = found["image_person"][order] == found["text_person"][queries, None]
    captions = _captions(data, samples)
    galleries = []
    for title, chosen in (("Hits", np.flatnonzero(right[:, 0])),
                          ("Misses", np.flatnonzero(~right[:, 0]))):  # fmt: skip
        rows = []
        for place in _spread(chosen, _QUERIES):
            row = queries[place]
            own = int(found["text_image"][row])
            values = cosines(found["textual"][row][None], found["visual"][order[place]])[0]
            shown = [Picture(rgb(data, pictures[own]), "described")]
            shown += [
                Picture(rgb(data, pictures[item]), f"{value:.2f}", "good" if ok else "bad")
                for item, value, ok in zip(order[place], values, right[place], strict=True)
            ]
            rows.append((captions[row], shown))
        note = (
            f"The described image, then the best {order.shape[1]} of {size} by cosine. Green "
            f"frames show the same person. {len(chosen)} of {len(queries)} sentences."
        )
        if rows:
            galleries.append(Gallery(f"{title} at rank 1", rows, note))
    return galleries


def _spread(values: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` of the values, at even distances."""
    places = np.linspace(0, max(len(values) - 1, 0), min(count, len(values)))
    return values[places.round().astype(int)]


def _captions(data: DataInfo, samples: Mapping[str, Any]) -> list[str]:
    """The sentences of the sampled images, one a caption."""
    decode, vocabulary = data.facts.get("decode"), data.facts.get("vocabulary", ())
    texts: list[str] = []
    for words, lengths in zip(samples["words"], samples["length"], strict=True):
        for row, length in zip(np.asarray(words), np.asarray(lengths), strict=True):
            if length > 0:
                ids = row[: int(length)]
                texts.append(decode(ids, vocabulary) if decode else f"caption {len(texts)}")
    return texts


def prediction(data: DataInfo, encoders: Encoders, shape: tuple[int, ...]) -> Predict:
    """The `predict` of a Task: crops, an index of crops, and sentences to ranked galleries."""
    encode_images, encode_sentences = jax.jit(encoders.images), jax.jit(encoders.sentences)

    def predict(state: State, inputs: Sequence[Any], names: Sequence[str]) -> list[Figure]:
        parts = ("params", "batch_stats", "ema", "word_table")
        made_by = fingerprint({name: state[name] for name in parts if name in state})
        given = list(zip(inputs, names, strict=True))
        crops = [given[i] for i, x in enumerate(inputs) if not isinstance(x, str | Mapping)]
        indexes = [
            GalleryIndex.from_arrays(value, name, made_by)
            for value, name in given
            if isinstance(value, Mapping)
        ]
        lines = [line.strip() for value in inputs if isinstance(value, str)
                 for line in value.splitlines()]  # fmt: skip
        sentences = [line for line in lines if line]
        if crops:
            indexes.append(index_of(data, lambda x: encode_images(state, x), crops, shape, made_by))
        if not indexes:
            raise DataError(
                "nothing to search in: name person crops (files or a folder), or an index.npz that "
                "an earlier prediction wrote, and then sentences"
            )
        index = indexes[0]
        for other in indexes[1:]:
            index = index.joined(other)

        def model(texts: Sequence[str]) -> np.ndarray:
            words, length = _encoded(data, texts)
            return np.asarray(encode_sentences(state, words, length))

        figures: list[Figure] = [plot_ranking(index, model, sentences)] if sentences else []
        if crops:
            figures += _index_figures(index, bool(sentences))
        return figures

    return predict


def plot_ranking(
    index: GalleryIndex,
    model: Callable[[Sequence[str]], np.ndarray],
    sentences: Sequence[str],
    k: int = _SHOWN,
) -> Gallery:
    """For every sentence the best k of the gallery, each with its name and cosine."""
    rows = []
    for sentence in sentences:
        found, values = search(model, index.embeddings, sentence, k)
        shown = [
            Picture(index.thumbnails[item], f"{place}: {value:.2f}, {_short(index.names[item])}")
            for place, (item, value) in enumerate(zip(found, values, strict=True), 1)
        ]
        rows.append((sentence, shown))
    return Gallery("Search", rows, f"Best of {len(index.names)} crops, by cosine.")


def _index_figures(index: GalleryIndex, searched: bool) -> list[Figure]:
    note = "Give it instead of the images to search again without encoding them."
    file = File("Index", "index.npz", index.to_bytes(), note)
    if searched:
        return [file]
    rows = [[len(index.names), index.embeddings.shape[1], "a sentence to search for"]]
    return [Table("Gallery", ["crops", "numbers a crop", "what is missing"], rows, note), file]


def _short(name: str, most: int = 24) -> str:
    tail = name.replace("\\", "/").rpartition("/")[2]
    return tail if len(tail) <= most else f"...{tail[-most:]}"


def _encoded(data: DataInfo, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(words int32 [Q, T], length int32 [Q]).

    Raises DataError: no vocabulary, a sentence without a known word, or one that is too long.
    """
    vocabulary, context = data.facts.get("vocabulary"), data.element["words"].shape[0]
    if not vocabulary:
        raise DataError(
            "this run does not know what its word ids mean: name the word list with "
            "data.vocabulary when it is imported or trained"
        )
    words = np.zeros((len(sentences), context), np.int32)
    length = np.zeros(len(sentences), np.int32)
    for place, sentence in enumerate(sentences):
        ids = data.facts["encode"](sentence, vocabulary)
        if not ids:
            raise DataError(
                f'"{sentence}": none of its words is in the vocabulary of {len(vocabulary)} words: '
                f"describe a person in words such as {', '.join(map(str, vocabulary[:8]))}"
            )
        if len(ids) > context:
            raise DataError(
                f'"{sentence[:60]}...": {len(ids)} words or tokens, the run reads at most '
                f"{context}: shorten the sentence"
            )
        words[place, : len(ids)], length[place] = ids, len(ids)
    return words, length


def index_of(
    data: DataInfo,
    encode: Callable[[np.ndarray], jax.Array],
    crops: Sequence[tuple[Any, str]],
    shape: tuple[int, ...],
    made_by: str,
) -> GalleryIndex:
    """The index of (image, name) pairs; images are read, encoded and dropped a chunk at a time.

    An image is uint8 [h, w, 3], or becomes that by `np.asarray`.
    """
    vectors, thumbs = [], []
    for first in range(0, len(crops), _CHUNK):
        chunk = [np.asarray(image) for image, _ in crops[first : first + _CHUNK]]
        ready = np.zeros((_CHUNK, *shape), np.float32)  # of one size, to be compiled once
        ready[: len(chunk)] = [fit(data, image, shape) for image in chunk]
        vectors.append(np.asarray(encode(ready))[: len(chunk)])
        thumbs += [thumbnail(image, shape) for image in chunk]
    names = tuple(name for _, name in crops)
    return GalleryIndex(np.concatenate(vectors), names, np.stack(thumbs), made_by)


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [height, width, 3], bilinear, antialiased, aspect not kept."""
    pixels = jnp.asarray(image, jnp.float32)
    resized = jax.image.resize(pixels, (height, width, 3), "linear", antialias=True)
    return np.clip(np.round(np.asarray(resized)), 0, 255).astype(np.uint8)


def thumbnail(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A small uint8 picture with the aspect of the network's images."""
    height = min(_THUMBNAIL, shape[0])
    return _resized(image, height, max(1, round(height * shape[1] / shape[0])))


def fit(data: DataInfo, image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [h, w, 3] -> float32 [H, W, 3], resized and normalised as the data's images are."""
    return Scale.of(data.facts).normalised(_resized(image, *shape[:2]) / np.float32(255))


def rgb(data: DataInfo, image: np.ndarray) -> np.ndarray:
    """A normalised image as uint8 [H, W, 3]."""
    return Scale.of(data.facts).rgb(image)
