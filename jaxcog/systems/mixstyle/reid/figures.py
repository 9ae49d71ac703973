"""What the report and `jaxcog predict` show of a re-identification: ranked lists of persons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxcog.errors import DataError
from jaxcog.metrics import ranking
from jaxcog.pictures import Scale, in_chunks
from jaxcog.show import Figure, Gallery, Lines, Picture
from jaxcog.task import DataInfo, State

_QUERIES = 8
_SHOWN = 8  # ranked images a query
_CHUNK = 32  # images that are embedded at once
_DEPTH = 50

Embed = Callable[[State, Any], jax.Array]
"""(state, normalised images [B, H, W, 3]) -> features [B, D]."""


def report(
    data: DataInfo, embed: Embed
) -> Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    """The `figures` of a Task: ranked lists of some queries, and the CMC curve."""

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        shown: list[Figure] = []
        if {"query", "gallery"} <= set(samples):
            shown.append(_ranked(data, embed, state, samples["query"], samples["gallery"]))
        if {"query", "gallery"} <= set(results):
            shown.append(_curve(results))
        return shown

    return figures


def prediction(
    data: DataInfo, embed: Embed, size: tuple[int, int]
) -> Callable[[State, Sequence[np.ndarray], Sequence[str]], list[Figure]]:
    """The `predict` of a Task: each image as a query among all the others."""

    def predict(state: State, images: Sequence[np.ndarray], names: Sequence[str]) -> list[Figure]:
        if len(images) < 2:
            raise DataError(
                "re-identification ranks images among each other: name at least two, or a folder"
            )
        pixels = np.stack([_fit(image, size) for image in images])
        ready = _scale(data).normalised(pixels / np.float32(255))
        features = in_chunks(partial(embed, state), ready, _CHUNK)
        distances = ranking.pairwise_distances(features, features)
        np.fill_diagonal(distances, np.inf)
        rows = []
        for query, row in enumerate(distances):
            nearest = np.argsort(row, kind="stable")[: min(_SHOWN, len(row) - 1)]
            pictures = [Picture(pixels[query], "query")]
            pictures += [Picture(pixels[i], _caption(row[i], names[i])) for i in nearest]
            rows.append((names[query].rpartition("/")[2], pictures))
        note = (
            "Cosine distance and file; the nearest first. No camera is known: nothing is left out."
        )
        return [Gallery("Ranked images", rows, note)]

    return predict


def _caption(distance: float, name: str) -> str:
    return f"{distance:.2f} {name.rpartition('/')[2]}"


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3] -> [H, W, 3], whatever the aspect, as the test transform makes it."""
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _scale(data: DataInfo) -> Scale:
    return Scale.of(data.facts, (0.5, 0.5))


def _ranked(
    data: DataInfo, embed: Embed, state: State, query: Mapping[str, Any], gallery: Mapping[str, Any]
) -> Gallery:
    """Queries that have a match among the sampled gallery images first."""
    findable = [
        np.any((gallery["person"] == person) & (gallery["camera"] != camera))
        for person, camera in zip(query["person"], query["camera"], strict=True)
    ]
    picked = np.argsort(~np.array(findable), kind="stable")[:_QUERIES]
    encode = partial(embed, state)
    distances = ranking.pairwise_distances(
        in_chunks(encode, np.asarray(query["image"][picked]), _CHUNK),
        in_chunks(encode, np.asarray(gallery["image"]), _CHUNK),
    )
    rows = []
    for place, row in zip(picked, distances, strict=True):
        person, camera = int(query["person"][place]), int(query["camera"][place])
        junk = (gallery["person"] == person) & (gallery["camera"] == camera)
        nearest = np.argsort(np.where(junk, np.inf, row), kind="stable")
        nearest = nearest[: min(_SHOWN, int(np.sum(~junk)))]
        pictures = [Picture(_scale(data).rgb(query["image"][place]))]
        pictures += [
            Picture(
                _scale(data).rgb(gallery["image"][i]),
                f"{row[i]:.2f} c{int(gallery['camera'][i]) + 1}",
                "good" if gallery["person"][i] == person else "bad",
            )
            for i in nearest
        ]
        rows.append((f"person {person}, camera {camera + 1}", pictures))
    note = (
        f"The query, then the nearest of {len(gallery['person'])} sampled gallery images: cosine "
        "distance and camera; green is the same person. That person in the query's own camera is "
        "left out."
    )
    return Gallery("Ranked galleries", rows, note)


def _curve(results: Mapping[str, Any]) -> Lines:
    query, gallery = (results[split]["rows"].compute() for split in ("query", "gallery"))
    found = ranking.rank(
        query["features"],
        gallery["features"],
        query_ids=query["person"],
        gallery_ids=gallery["person"],
        query_cameras=query["camera"],
        gallery_cameras=gallery["camera"],
    )
    depth = min(_DEPTH, len(gallery["person"]))
    series = {"CMC": (np.arange(1, depth + 1), 100 * found.cmc(depth))}
    note = f"Share of {found.counted} queries whose person is among the first k."
    return Lines("Cumulative matching characteristics", series, "rank k", "percent", note)
