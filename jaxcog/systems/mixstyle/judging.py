"""How the room's classifiers are judged, however they were trained: accuracies on unseen images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcog.errors import ConfigError
from jaxcog.losses.classification import cross_entropy_per_example
from jaxcog.metrics import classification as metrics
from jaxcog.metrics.state import Confusion, Mean
from jaxcog.systems.mixstyle.model import Network
from jaxcog.task import Batch, Setting, State, judged

Headline = Literal["accuracy", "per_class_accuracy"]


def check_headline(headline: str) -> None:
    """Raises ConfigError unless it is one of `Headline`."""
    if headline not in ("accuracy", "per_class_accuracy"):
        raise ConfigError(f'task.headline="{headline}": accuracy or per_class_accuracy')


def check_head(hidden: tuple[int, ...], dropout: float) -> None:
    """Raises ConfigError where an MLP head cannot be made."""
    if any(size < 1 for size in hidden):
        raise ConfigError(f"task.hidden={hidden}: layer sizes, at least 1 each")
    if not 0 <= dropout < 1:
        raise ConfigError(f"task.dropout={dropout}: a probability, at least 0, below 1")


def image_shape(setting: Setting, element: Mapping[str, Any]) -> tuple[int, int, int]:
    """[H, W, 3] of the images in `element`. Raises ConfigError where the data does not fit."""
    if setting.data.num_classes < 2:
        raise ConfigError(
            f"mixstyle classifies images, but the data names {setting.data.num_classes} classes: "
            "choose a dataset with class names"
        )
    image = element.get("image")
    if image is None or len(image.shape) != 3 or "label" not in element:
        raise ConfigError(
            'mixstyle needs "image" [H, W, 3] and "label" in each example; the data has '
            f"{', '.join(sorted(element))}: choose a classification dataset"
        )
    return image.shape


def weights(state: State) -> Any:
    """The parameters that are judged: their average where there is one."""
    return judged(state)


def eval_step(network: Network) -> Callable[[State, Batch], dict[str, Any]]:
    """The `eval_step` of a Task, for batches with "image" and "label"."""

    def step(state: State, batch: Batch) -> dict[str, Any]:
        out = network.apply(weights(state), state["batch_stats"], batch["image"], train=False)
        mask = batch.get("mask")
        predicted = jnp.argmax(out.logits, axis=-1)
        losses = cross_entropy_per_example(out.logits, batch["label"])
        return {
            "confusion": Confusion.of(predicted, batch["label"], network.num_classes, mask),
            "loss": Mean.of(losses, mask),
        }

    return step


def probabilities(network: Network) -> Callable[[State, Any], jax.Array]:
    """(state, normalised images [B, H, W, 3]) -> [B, K], compiled once."""

    @jax.jit
    def predict(state: State, images: jax.Array) -> jax.Array:
        out = network.apply(weights(state), state["batch_stats"], images, train=False)
        return jax.nn.softmax(out.logits)

    return predict


def summarize(results: Mapping[str, Any]) -> dict[str, float]:
    """The test split's metrics by their plain names, the other splits' as "split/name".

    Percentages, except the loss. Without a split called "test" the first one takes its place.
    """
    main = "test" if "test" in results else next(iter(results))
    summary = {}
    for split, states in results.items():
        counts = states["confusion"].compute()
        values = {
            "accuracy": metrics.accuracy(counts),
            "error_rate": 100.0 - metrics.accuracy(counts),
            "macro_f1": metrics.macro_f1(counts),
            "per_class_accuracy": metrics.per_class_accuracy(counts),
            "loss": states["loss"].compute(),
        }
        prefix = "" if split == main else f"{split}/"
        summary.update({f"{prefix}{name}": value for name, value in values.items()})
    return summary
