"""Evaluation as the data allows it: by photo, by category, by drawer, by user.

What an evaluation example holds decides (float32 images in [-1, 1]):

* "image" [S, S, C], "photo", "label" int32, in splits "query" (sketches) and "gallery" (photos), or
  with a prefix ("validation_query"): the exact photo (`DataInfo.facts["protocol"]` "instance") or
  the category ("category") is to be found.
* "image" of a photo and "sketches" [U, S, S, C] of it by U drawers: retrieval from all photos, and
  how far content and style are apart.
* "positive", "negative" [n, S, S, C] and "sketches" [n, 1, S, S, C] of one user to adapt to, then
  "gallery" [G, S, S, C] and "queries" [G, S, S, C], sketch i of photo i: retrieval after adaptation
  to the first k pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.errors import ConfigError
from jaxcog.metrics.state import Concat
from jaxcog.systems.stylemeup import judging
from jaxcog.systems.stylemeup.losses import Pass
from jaxcog.systems.stylemeup.meta import MetaLearner, split
from jaxcog.task import Batch, DataInfo, State

KS = (1, 5, 10)


@dataclasses.dataclass(frozen=True)
class Judge:
    """step, summarize, headline: as in a Task. kind: "photos", "drawers" or "users"."""

    kind: str
    step: Callable[[State, Batch], Any]
    summarize: Callable[[Mapping[str, Any]], dict[str, float]]
    headline: str


def judge_of(data: DataInfo, learner: MetaLearner, shots: Sequence[int], over: str) -> Judge:
    """The judge of this data. Raises ConfigError where its evaluation examples are of no kind."""
    shapes = data.eval_element or data.element
    element = set(shapes)
    if {"positive", "sketches", "gallery", "queries"} <= element:
        most = shapes["positive"].shape[0]
        if max(shots) > most:
            raise ConfigError(
                f"task.shots={tuple(shots)}: a user of the data has {most} sketches to adapt to; "
                "ask for fewer, or raise data.support"
            )
        headline = f"acc@5_{max(shots)}shot"
        step = _user_step(learner, shots, over)
        return Judge("users", step, lambda results: _of_users(results, shots), headline)
    if {"image", "sketches"} <= element:
        return Judge("drawers", _drawer_step(learner), _of_drawers, "acc@5")
    if {"image", "photo", "label"} <= element:
        category = data.facts.get("protocol") == "category"
        headline = "map" if category else "acc@1"
        if data.facts.get("validation"):
            headline = f"validation_{headline}"
        return Judge(
            "photos",
            _photo_step(learner),
            lambda results: _of_photos(results, category),
            headline,
        )
    raise ConfigError(
        f"stylemeup cannot judge examples of {', '.join(sorted(element))}: see "
        "jaxcog.systems.stylemeup.evaluating for what they may hold"
    )


def encoded(learner: MetaLearner, state: State, images: jax.Array | np.ndarray) -> Any:
    """Codes of images [B, S, S, C] by the un-adapted network, without dropout."""
    network, _ = split(state["params"])
    return learner.vae.encode(network, jnp.asarray(images), stats=state.get("batch_stats"))


def _photo_step(learner: MetaLearner) -> Callable[[State, Batch], Any]:
    def step(state: State, batch: Batch) -> Any:
        content = encoded(learner, state, batch["image"]).content
        rows = {"content": content, "photo": batch["photo"], "label": batch["label"]}
        return {"rows": Concat.of(rows, batch.get("mask"))}

    return step


def _of_photos(results: Mapping[str, Any], category: bool) -> dict[str, float]:
    metrics: dict[str, float] = {}
    judge = judging.category_metrics if category else judging.instance_metrics
    for name in results:
        if not name.endswith("query"):
            continue
        prefix = name.removesuffix("query")
        query, gallery = (results[f"{prefix}{part}"]["rows"].compute() for part in PARTS)
        metrics |= {f"{prefix}{key}": value for key, value in judge(query, gallery).items()}
    return metrics


PARTS = ("query", "gallery")


def _drawer_step(learner: MetaLearner) -> Callable[[State, Batch], Any]:
    def step(state: State, batch: Batch) -> Any:
        sketches = batch["sketches"]
        size, users = sketches.shape[:2]
        photo = encoded(learner, state, batch["image"])
        flat = encoded(learner, state, sketches.reshape(-1, *sketches.shape[2:]))
        codes = jax.tree.map(lambda x: x.reshape(size, users, -1), flat)
        swapped, own = _swaps(learner, state, sketches, codes)
        rows = {
            "photo_content": photo.content,
            "photo_mu": photo.mu,
            "content": codes.content,
            "mu": codes.mu,
            "swapped": swapped,
            "own": own,
        }
        return {"rows": Concat.of(rows, batch.get("mask"))}

    return step


def _swaps(
    learner: MetaLearner, state: State, sketches: jax.Array, codes: Any
) -> tuple[jax.Array, jax.Array]:
    """Mean squared differences [B] to the drawing of each other user b of the same photo.

    Of the image decoded from a's content with b's style, and from a's content with a's style.
    """
    network, _ = split(state["params"])
    size, users = sketches.shape[:2]

    def decoded(code: jax.Array) -> jax.Array:
        made = learner.vae.decode(network, code.reshape(-1, code.shape[-1]))
        return made.reshape(size, users, *sketches.shape[2:])

    def error(made: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(made - target), axis=tuple(range(1, target.ndim)))

    own = decoded(codes.content + codes.mu)
    swapped, kept = jnp.zeros(size), jnp.zeros(size)
    for turn in range(1, users):
        target = jnp.roll(sketches, -turn, axis=1)
        made = decoded(codes.content + jnp.roll(codes.mu, -turn, axis=1))
        swapped, kept = swapped + error(made, target), kept + error(own, target)
    return swapped / (users - 1), kept / (users - 1)


def _of_drawers(results: Mapping[str, Any]) -> dict[str, float]:
    rows = next(iter(results.values()))["rows"].compute()
    photos, users = rows["content"].shape[:2]
    target = np.repeat(np.arange(photos), users)
    metrics: dict[str, float] = {}
    for name, suffix in (("content", ""), ("mu", "_by_style")):
        queries = rows[name].reshape(photos * users, -1)
        ranks = judging.retrieval_ranks(queries, rows[f"photo_{name}"], target)
        metrics |= {f"acc@{k}{suffix}": x for k, x in judging.accuracy_at_k(ranks, KS).items()}
        if not suffix:
            mean, variance = judging.rank_consistency(ranks.reshape(photos, users))
            metrics |= {"mean_rank": mean, "rank_variance": variance}
    return metrics | judging.style_metrics(rows)


def user_ranks(
    learner: MetaLearner, params: Any, user: Batch, shots: int, stats: Any = None
) -> jax.Array:
    """Ranks (from 1) of one user's queries after adaptation to the first `shots` pairs: [G]."""
    network, _ = split(params)
    if shots:
        network = adapt_to_user(learner, params, user, shots, stats)
    gallery = learner.vae.encode(network, user["gallery"], stats=stats).content
    queries = learner.vae.encode(network, user["queries"], stats=stats).content
    difference = queries[:, None] - gallery[None] + judging.EPS
    distances = jnp.sqrt(jnp.sum(jnp.square(difference), axis=-1))
    return jnp.sum(distances <= jnp.diagonal(distances)[:, None], axis=1)


def adapt_to_user(
    learner: MetaLearner, params: Any, user: Batch, shots: int, stats: Any = None
) -> Any:
    """The network {"encoder", "decoder"} after the inner loop on a user's first `shots` pairs.

    user: "positive", "negative" [n, S, S, C], "sketches" [n, 1, S, S, C].
    """
    sketches = jnp.moveaxis(user["sketches"][:shots], 1, 0)
    support = Pass(user["positive"][:shots], user["negative"][:shots], sketches)
    return learner.adapt(params, support, None, stats)[0]


def _user_step(
    learner: MetaLearner, shots: Sequence[int], over: str
) -> Callable[[State, Batch], Any]:
    def step(state: State, batch: Batch) -> Any:
        def one(user: Batch) -> dict[str, jax.Array]:
            return {
                f"ranks_{k}": user_ranks(
                    learner, state["params"], user, k, state.get("batch_stats")
                )
                for k in shots
            }

        users = {name: value for name, value in batch.items() if name != "mask"}
        rows = jax.vmap(one)(users) if over == "vmap" else jax.lax.map(one, users)
        return {"rows": Concat.of(rows, batch.get("mask"))}

    return step


def _of_users(results: Mapping[str, Any], shots: Sequence[int]) -> dict[str, float]:
    rows = next(iter(results.values()))["rows"].compute()
    metrics: dict[str, float] = {}
    for k in shots:
        ranks = rows[f"ranks_{k}"]
        metrics |= {f"acc@{n}_{k}shot": x for n, x in judging.accuracy_at_k(ranks, KS).items()}
    return metrics
