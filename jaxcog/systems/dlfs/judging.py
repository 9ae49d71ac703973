"""Judging a generator: what it makes of every test face at every age.

Two networks beside the generator tell the age class and the identity of a picture. By default they
are the generator's own encoders; where the data brings an age classifier (the generated world does)
that one is asked. Another one is given as `judge` to `build`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.metrics.state import Concat, Confusion, Mean
from jaxcog.systems.dlfs import metrics, model
from jaxcog.systems.dlfs.infer import class_latents
from jaxcog.systems.dlfs.model import Architecture
from jaxcog.task import Batch, DataInfo, State

Judge = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
"""(generator's parameters, images [B, H, W, 3]) -> (age logits [B, K], unit identity [B, D])."""


def judge_of(arch: Architecture, data: DataInfo) -> Judge:
    """The data's age classifier, or the generator's age encoder; the generator's identity."""
    given = data.facts.get("age_classifier")

    def judge(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        if given is not None:
            weights, bias = (jnp.asarray(x) for x in given)
            ages = images.reshape(len(images), -1) @ weights + bias
        else:
            code = model.estimate_code(arch, params, images)
            ages = jnp.mean(code.reshape(len(images), arch.num_classes, -1), axis=-1)
        features = model.encode(arch, params, images)["identity"].astype(jnp.float32)
        identity = jnp.mean(features, axis=(1, 2))
        length = jnp.sqrt(jnp.sum(jnp.square(identity), axis=-1, keepdims=True) + 1e-12)
        return ages, identity / length

    return judge


def eval_step(arch: Architecture, judge: Judge) -> Callable[[State, Batch], dict[str, Any]]:
    """Every face at every age (without noise), back again, and what the judge says."""

    def step(state: State, batch: Batch) -> dict[str, Any]:
        params = state["ema"]["generator"]
        image, label, mask = batch["image"], batch["label"], batch.get("mask")
        latents = class_latents(arch, params)
        features = model.encode(arch, params, image)
        own = latents[label]
        _, identity = judge(params, image)
        rec = model.decode_w(arch, params, features, own)

        def at_age(latent: jax.Array) -> tuple[jax.Array, ...]:
            w = jnp.broadcast_to(latent, own.shape)
            made = model.decode_w(arch, params, features, w)
            again = model.decode_w(arch, params, model.encode(arch, params, made), own)
            ages, other = judge(params, made)
            cosine = jnp.sum(identity * other, axis=-1)
            return made, jnp.abs(again - image).mean((1, 2, 3)), jnp.argmax(ages, -1), cosine, other

        made, cycle, ages, cosine, features_made = jax.lax.map(at_age, latents)
        classes = jnp.arange(arch.num_classes)[:, None]
        other_class = (classes != label) & (True if mask is None else mask)
        wanted = jnp.broadcast_to(classes, ages.shape)
        rows = {
            "label": label,
            "identity": identity,
            "made": jnp.moveaxis(features_made, 0, 1),
            "cosine": cosine.T,
        }
        found = {
            "reconstruction": Mean.of(jnp.abs(rec - image).mean((1, 2, 3)), mask),
            "cycle": Mean.of(cycle.ravel(), other_class.ravel()),
            "ages": Confusion.of(
                ages.ravel(), wanted.ravel(), arch.num_classes, other_class.ravel()
            ),
            "rows": Concat.of(rows, mask),
        }
        if "truth" in batch:
            found["pictures"] = Concat.of(
                {
                    "made": jnp.moveaxis(made, 0, 1),
                    "truth": batch["truth"],
                    "image": image,
                    "label": label,
                },
                mask,
            )
        return found

    return step


def summarize(threshold: float) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """The `summarize` of a Task; `threshold` is the cosine above which two faces are one person.

    age_accuracy: share of pictures whose age class is the one asked for. reconstruction, cycle:
    mean absolute difference in [-1, 1]. verified: percentage. fid, kid: of the judge's identity
    features, generated against real ones of the same class, averaged over classes. Where the true
    pictures are known: l1_ratio and ink_ratio (distance to the truth over that of the input, as it
    is and of the mean ink), retrieval (the nearest true picture of that age is the own one).
    """

    def summary(results: Mapping[str, Any]) -> dict[str, float]:
        found = results["test"]
        counts = np.asarray(found["ages"].compute(), np.float64)
        rows = found["rows"].compute()
        label, classes = rows["label"], rows["made"].shape[1]
        other = label[:, None] != np.arange(classes)
        values = {
            "age_accuracy": float(np.trace(counts) / counts.sum()),
            "reconstruction": found["reconstruction"].compute(),
            "cycle": found["cycle"].compute(),
            "verified": metrics.verification_rate(rows["cosine"][other], threshold),
            "identity_cosine": float(rows["cosine"][other].mean()),
        }
        distances = [
            (metrics.frechet_distance(made, real), metrics.kid(made, real))
            for made, real in _by_class(rows, other)
        ]
        if distances:
            values["fid"], values["kid"] = (float(x) for x in np.mean(distances, axis=0))
        if "pictures" in found:
            values |= against_truth(found["pictures"].compute())
        return values

    return summary


def _by_class(rows: Mapping[str, np.ndarray], other: np.ndarray) -> list[Any]:
    """(features of pictures made for a class, of its real ones) where there are enough of both."""
    parts = []
    for index in range(other.shape[1]):
        made = rows["made"][other[:, index], index]
        real = rows["identity"][rows["label"] == index]
        if min(len(made), len(real)) > 1:
            parts.append((made, real))
    return parts


def against_truth(pictures: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Measures that need the true picture of everyone at every age; means over ordered class pairs.

    made, truth: [N, K, H, W, 3]; image [N, H, W, 3], label [N].
    """
    made, truth = pictures["made"], pictures["truth"]
    image, label = pictures["image"], pictures["label"]
    classes = truth.shape[1]
    collected: dict[str, list[float]] = {"l1_ratio": [], "ink_ratio": [], "retrieval": []}
    for source in range(classes):
        rows = np.flatnonzero(label == source)
        for target in range(classes):
            if target == source or not len(rows):
                continue
            out, true, start = made[rows, target], truth[rows, target], image[rows]
            collected["l1_ratio"].append(np.abs(out - true).mean() / np.abs(start - true).mean())
            inks = [_ink(x) for x in (out, true, start)]
            moved = np.abs(inks[2] - inks[1]).mean()
            collected["ink_ratio"].append(np.abs(inks[0] - inks[1]).mean() / moved)
            collected["retrieval"].append(_retrieved(out, true))
    return {name: float(np.mean(values)) for name, values in collected.items()}


def _ink(x: np.ndarray) -> np.ndarray:
    """Mean over pixels of the strongest channel, in [0, 1]: how thick the strokes are. [N]."""
    return (x.max(axis=-1).mean(axis=(1, 2)) + 1) / 2


def _retrieved(out: np.ndarray, true: np.ndarray) -> float:
    a, b = out.reshape(len(out), -1), true.reshape(len(true), -1)
    squared = (b * b).sum(1) - 2 * a @ b.T
    return float(np.mean(np.argmin(squared, axis=1) == np.arange(len(a))))
