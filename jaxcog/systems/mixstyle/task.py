"""Image classification with MixStyle, leaving one domain out (ICLR 2021): training and judging."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcog import rng
from jaxcog.losses.classification import cross_entropy
from jaxcog.optim import Optimizer, Schedule, gradient_step, initial_state
from jaxcog.systems.mixstyle import figures, judging, ops
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
    headline: judging.Headline = "accuracy"

    def __post_init__(self) -> None:
        self.mixstyle.check_stages(stages_of(self.network))
        judging.check_head(self.hidden, self.dropout)
        judging.check_headline(self.headline)

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        height, width, channels = judging.image_shape(setting, setting.data.element)
        network = Network(
            backbone=self.network,
            num_classes=setting.data.num_classes,
            hidden=self.hidden,
            dropout=self.dropout,
            dtype=setting.dtype,
        )

        probabilities = judging.probabilities(network)

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
            eval_step=judging.eval_step(network),
            summarize=judging.summarize,
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
        key=key,
        **mixstyle.options,
    )
    right = jnp.argmax(out.logits, axis=-1) == batch["label"]
    scalars = {"accuracy": 100 * jnp.mean(right.astype(jnp.float32))}
    return cross_entropy(out.logits, batch["label"]), ({"batch_stats": out.batch_stats}, scalars)
