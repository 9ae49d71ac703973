"""Image classification with MixStyle, leaving one domain out (ICLR 2021): training and judging."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.losses.classification import cross_entropy, cross_entropy_per_example
from jaxcog.metrics import classification as metrics
from jaxcog.metrics.state import Confusion, Mean
from jaxcog.optim import Optimizer, Schedule, gradient_step, initial_state
from jaxcog.systems.mixstyle import figures, ops
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.model import Network, stages_of
from jaxcog.systems.mixstyle.torch_names import NAMES
from jaxcog.task import Batch, Key, Scalars, Setting, State, Task


def _sgd() -> Optimizer:
    cosine = Schedule(kind="cosine", per="epoch")
    return Optimizer(name="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4, schedule=cosine)


@dataclasses.dataclass(frozen=True)
class Classification:
    """Softmax classification; the defaults are the paper's for PACS with random partners.

    Batches: "image" [B, H, W, 3] float32, normalised; "label" [B] int32; optionally "domain" [B]
    int32, by which "crossdomain" then finds partners.

    network: see `model.BACKBONES`. hidden, dropout: the MLP head of VisDA-17, none elsewhere.
    headline: by which metric the best checkpoint is chosen; VisDA-17 averages over classes.
    """

    network: str = "resnet18"
    mixstyle: MixStyle = dataclasses.field(default_factory=MixStyle)
    hidden: tuple[int, ...] = ()
    dropout: float = 0.5
    optimizer: Optimizer = dataclasses.field(default_factory=_sgd)
    headline: Literal["accuracy", "per_class_accuracy"] = "accuracy"

    def __post_init__(self) -> None:
        self.mixstyle.check_stages(stages_of(self.network))
        if any(size < 1 for size in self.hidden):
            raise ConfigError(f"task.hidden={self.hidden}: layer sizes, at least 1 each")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"task.dropout={self.dropout}: a probability, at least 0, below 1")
        if self.headline not in ("accuracy", "per_class_accuracy"):
            raise ConfigError(f'task.headline="{self.headline}": accuracy or per_class_accuracy')

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        height, width, channels = _image_shape(setting)
        network = Network(
            backbone=self.network,
            num_classes=setting.data.num_classes,
            hidden=self.hidden,
            dropout=self.dropout,
            dtype=setting.dtype,
        )

        probabilities = _probabilities(network)

        def init(key: Key) -> State:
            params, stats = network.init(rng.stream(key, "init"), (height, width, channels))
            return initial_state(params, self.optimizer, setting, batch_stats=stats)

        def loss(params: Any, state: State, batch: Batch, key: Key) -> Any:
            draws = self.mixstyle.draws(
                rng.stream(key, "mixstyle"), len(batch["label"]), batch.get("domain")
            )
            return supervised_loss(
                network, self.mixstyle, params, state, batch, draws, rng.stream(key, "dropout")
            )

        return Task(
            init=init,
            train_step=gradient_step(loss, self.optimizer, setting),
            eval_step=_eval_step(network),
            summarize=_summarize,
            headline=self.headline,
            figures=figures.report(setting.data, probabilities),
            predict=figures.prediction(setting.data, probabilities, (height, width)),
            import_names=NAMES,
        )


def supervised_loss(
    network: Network,
    mixstyle: MixStyle,
    params: Any,
    state: State,
    batch: Batch,
    draws: Mapping[str, ops.MixDraw],
    key: Key | None = None,
) -> tuple[jax.Array, tuple[State, Scalars]]:
    """Cross-entropy of one batch under given draws, as a `jaxcog.optim.step.Loss` returns it."""
    out = network.apply(
        params,
        state["batch_stats"],
        batch["image"],
        train=True,
        draws=draws,
        eps=mixstyle.eps,
        ddof=mixstyle.ddof,
        key=key,
    )
    right = jnp.argmax(out.logits, axis=-1) == batch["label"]
    scalars = {"accuracy": 100 * jnp.mean(right.astype(jnp.float32))}
    return cross_entropy(out.logits, batch["label"]), ({"batch_stats": out.batch_stats}, scalars)


def _image_shape(setting: Setting) -> tuple[int, int, int]:
    if setting.data.num_classes < 2:
        raise ConfigError(
            f"mixstyle classifies images, but the data names {setting.data.num_classes} classes: "
            "choose a dataset with class names"
        )
    image = setting.data.element.get("image")
    if image is None or len(image.shape) != 3 or "label" not in setting.data.element:
        raise ConfigError(
            'mixstyle needs "image" [H, W, 3] and "label" in each example; the data has '
            f"{', '.join(sorted(setting.data.element))}: choose a classification dataset"
        )
    return image.shape


def _weights(state: State) -> Any:
    return state.get("ema", state["params"])


def _eval_step(network: Network) -> Any:
    def eval_step(state: State, batch: Batch) -> dict[str, Any]:
        out = network.apply(_weights(state), state["batch_stats"], batch["image"], train=False)
        mask = batch.get("mask")
        predicted = jnp.argmax(out.logits, axis=-1)
        losses = cross_entropy_per_example(out.logits, batch["label"])
        return {
            "confusion": Confusion.of(predicted, batch["label"], network.num_classes, mask),
            "loss": Mean.of(losses, mask),
        }

    return eval_step


def _probabilities(network: Network) -> Any:
    @jax.jit
    def probabilities(state: State, images: jax.Array) -> jax.Array:
        out = network.apply(_weights(state), state["batch_stats"], images, train=False)
        return jax.nn.softmax(out.logits)

    return probabilities


def _summarize(results: Mapping[str, Any]) -> dict[str, float]:
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
