"""What the report shows: retrieved photos, what adaptation changes, styles exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxcog.show import Figure, Gallery, Histogram, Picture
from jaxcog.systems.stylemeup.evaluating import Judge, adapt_to_user, encoded
from jaxcog.systems.stylemeup.judging import sketch_distances
from jaxcog.systems.stylemeup.meta import MetaLearner, split
from jaxcog.task import State

SAMPLES = 64
_ROWS = 6
_NEIGHBOURS = 8


def rgb(image: np.ndarray) -> np.ndarray:
    """[H, W, 1 or 3] in [-1, 1] as uint8 [H, W, 3]."""
    pixels = np.round(255 * np.clip(np.asarray(image, np.float32) * 0.5 + 0.5, 0, 1))
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).astype(np.uint8))


def ranked_row(
    query: np.ndarray,
    photos: np.ndarray,
    order: np.ndarray,
    true: int | None,
    names: Sequence[str] | None = None,
) -> list[Picture]:
    """The query, then the nearest photos, and the true one if it is not among them, framed green.

    query [H, W, C], photos [G, H, W, C] in [-1, 1]; order: int [G], near to far.
    """
    row = [Picture(rgb(query), "sketch")]
    for place, item in enumerate(order[:_NEIGHBOURS], 1):
        caption = f"{place}" if names is None else f"{place}: {names[item]}"
        row.append(Picture(rgb(photos[item]), caption, "good" if item == true else None))
    if true is not None and true not in order[:_NEIGHBOURS]:
        place = int(np.flatnonzero(order == true)[0]) + 1
        row.append(Picture(rgb(photos[true]), f"{place}", "good"))
    return row


def orders(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Photos from near to far for each sketch: int [Q, G]."""
    blocks = [distances for _, distances in sketch_distances(queries, gallery)]
    return np.argsort(np.concatenate(blocks), axis=1, kind="stable")


def report(
    judge: Judge, learner: MetaLearner
) -> Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    """The `figures` of a Task, by the kind of its evaluation data."""

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        split_name = next(iter(samples))
        if judge.kind == "users":
            return users_figures(learner, state, samples[split_name], results[split_name])
        if judge.kind == "drawers":
            return drawers_figures(learner, state, samples[split_name])
        return photos_figures(learner, state, samples)

    return figures


def photos_figures(learner: MetaLearner, state: State, samples: Mapping[str, Any]) -> list[Figure]:
    """Sketches of the first queries among the first photos of the gallery."""
    queries, gallery = samples["query"], samples["gallery"]
    content = jax.jit(lambda images: encoded(learner, state, images).content)
    chosen = np.flatnonzero(np.isin(queries["photo"], gallery["photo"]))[:_ROWS]
    if not len(chosen):
        chosen = np.arange(min(_ROWS, len(queries["image"])))
    images = np.asarray(queries["image"])[chosen]
    found = orders(np.asarray(content(images)), np.asarray(content(gallery["image"])))
    rows = []
    for q, image, order in zip(chosen, images, found, strict=True):
        own = np.flatnonzero(np.asarray(gallery["photo"]) == queries["photo"][q])
        true = int(own[0]) if len(own) else None
        place = "" if true is None else f"rank {int(np.flatnonzero(order == true)[0]) + 1}"
        rows.append((place, ranked_row(image, gallery["image"], order, true)))
    note = (
        f"Sketch, then the nearest of the first {len(gallery['image'])} photos. Green: its photo."
    )
    return [
        Gallery("Retrieved photos", rows, note),
        _decoded(learner, state, images, "Reconstructions", ["sketch", "decoded"]),
    ]


def _decoded(
    learner: MetaLearner, state: State, images: np.ndarray, title: str, names: Sequence[str]
) -> Gallery:
    codes = encoded(learner, state, images)
    network, _ = split(state["params"])
    made = np.asarray(learner.vae.decode(network, codes.mu + codes.content))
    plain = np.asarray(learner.vae.decode(network, codes.content))
    columns = (images, made, plain)
    captions = (*names, "content alone")
    rows = [
        ("", [Picture(rgb(x[i]), c) for x, c in zip(columns, captions, strict=True)])
        for i in range(len(images))
    ]
    return Gallery(title, rows, "Decoded from style + content, and from the content alone.")


def users_figures(
    learner: MetaLearner, state: State, users: Mapping[str, Any], results: Mapping[str, Any]
) -> list[Figure]:
    """Some users' sketches before and after a look at all their pairs."""
    count = min(3, len(users["queries"]))
    shots = users["positive"].shape[1]
    rows = []
    for u in range(count):
        user = {name: value[u] for name, value in users.items()}
        examples = [
            Picture(rgb(image), name)
            for i in range(min(3, shots))
            for image, name in ((user["sketches"][i, 0], "sketch"), (user["positive"][i], "photo"))
        ]
        rows.append((f"user {u + 1}: adapted to", examples))
        stats = state.get("batch_stats")
        networks = {
            "before": split(state["params"])[0],
            "after": adapt_to_user(learner, state["params"], user, shots, stats),
        }
        for name, network in networks.items():
            query = learner.vae.encode(network, user["queries"][:1], stats=stats).content
            photos = learner.vae.encode(network, user["gallery"], stats=stats).content
            order = orders(np.asarray(query), np.asarray(photos))[0]
            place = int(np.flatnonzero(order == 0)[0]) + 1
            label = f"{name}: rank {place} of {len(order)}"
            rows.append((label, ranked_row(user["queries"][0], user["gallery"], order, 0)))
    note = (
        f"Each user's first pairs of {shots}, then a new sketch with the nearest photos before and "
        "after one look at all of them. Green: the right photo."
    )
    return [Gallery("Adaptation to a new user", rows, note), _rank_histogram(results)]


def _rank_histogram(results: Mapping[str, Any]) -> Histogram:
    rows = results["rows"].compute()
    most = max(int(np.max(ranks)) for ranks in rows.values())
    edges = np.arange(0.5, most + 1.5)
    shots = sorted(int(name.removeprefix("ranks_")) for name in rows)
    series = {
        f"after {k} sketches": np.histogram(rows[f"ranks_{k}"], edges)[0] / rows[f"ranks_{k}"].size
        for k in shots
    }
    return Histogram(
        "Rank of the right photo", edges, series, "rank", "share of sketches", "All users."
    )


def drawers_figures(learner: MetaLearner, state: State, samples: Mapping[str, Any]) -> list[Figure]:
    """Retrieval, and each photo's content in every drawer's style."""
    photos, sketches = np.asarray(samples["image"]), np.asarray(samples["sketches"])
    network, _ = split(state["params"])
    gallery = encoded(learner, state, photos)
    count = min(_ROWS, len(photos))
    users = sketches.shape[1]
    codes = jax.tree.map(
        lambda x: np.asarray(x).reshape(count, users, -1),
        encoded(learner, state, sketches[:count].reshape(-1, *sketches.shape[2:])),
    )
    picked = np.arange(count) % users
    queries = codes.content[np.arange(count), picked]
    found = orders(queries, np.asarray(gallery.content))
    rows = [
        (
            f"rank {int(np.flatnonzero(found[i] == i)[0]) + 1}",
            ranked_row(sketches[i, picked[i]], photos, found[i], i),
        )
        for i in range(count)
    ]
    note = f"Sketch by an unseen drawer, then the nearest of {len(photos)} photos. Green: its own."
    return [
        Gallery("Retrieved photos", rows, note),
        _swap_gallery(learner, network, sketches[:2], codes),
    ]


def _swap_gallery(learner: MetaLearner, network: Any, sketches: np.ndarray, codes: Any) -> Gallery:
    """For two photos: what each drawer drew, and the first drawer's content in their styles."""
    users = sketches.shape[1]
    rows = []
    for i in range(len(sketches)):
        drawn = [Picture(rgb(sketches[i, u]), f"drawer {u + 1}") for u in range(users)]
        code = codes.content[i, :1] + codes.mu[i]
        made = np.asarray(learner.vae.decode(network, code))
        swapped = [Picture(rgb(made[u]), f"style {u + 1}") for u in range(users)]
        rows += [("drawn", drawn), ("content of drawer 1", swapped)]
    note = "Below each drawing: decoded from the content of drawer 1 and the style of its drawer."
    return Gallery("Styles exchanged", rows, note)
