"""The base stage: G-TAD learned on base classes without their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.losses.temporal_targets import valid_cells
from jaxcog.metrics.state import Mean
from jaxcog.optim import Optimizer, Schedule, gradient_step, initial_state
from jaxcog.systems.qat import figures, losses, model, torch_names
from jaxcog.systems.qat.model import GTADConfig
from jaxcog.task import Batch, Key, Setting, State, Task, judged


def _adam() -> Optimizer:
    return Optimizer(
        name="adam",
        lr=4e-3,
        weight_decay=1e-4,
        schedule=Schedule("multistep", per="epoch", at=("5 epochs",)),
    )


@dataclasses.dataclass(frozen=True)
class BaseStage:
    """Boundaries and windows of actions in untrimmed videos, whatever the action.

    Batches: "features" [B, T, F], "iou_map" [B, D, T], "start", "end" [B, T].

    network: its `max_duration` must be the data's D.
    sigma: of the Soft-NMS of the proposals that `predict` writes.
    """

    network: GTADConfig = dataclasses.field(default_factory=GTADConfig)
    sigma: float = 0.8
    optimizer: Optimizer = dataclasses.field(default_factory=_adam)

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        length, width = _check_data(self, setting)
        network = self.network

        def init(key: Key) -> State:
            params = model.init(network, rng.stream(key, "init"), length, width)
            return initial_state(params, self.optimizer, setting)

        def loss(params: Any, state: State, batch: Batch, key: Key) -> Any:
            found = self.loss(params, batch, rng.stream(key, "sampling"), setting.dtype)
            return found.total, ({}, _terms(found))

        def eval_step(state: State, batch: Batch) -> dict[str, Mean]:
            # Always the same draws, so that two evaluations can be compared.
            params, key = judged(state), jax.random.key(0)
            mask = batch.get("mask")
            found = self.loss(params, batch, key, setting.dtype, where=mask)
            count = len(batch["start"]) if mask is None else jnp.sum(mask)
            terms = {"loss": found.total, **_terms(found)}
            return {
                name: Mean(value.astype(jnp.float32) * count, jnp.asarray(count, jnp.float32))
                for name, value in terms.items()
            }

        return Task(
            init=init,
            train_step=gradient_step(loss, self.optimizer, setting),
            eval_step=eval_step,
            summarize=_summarize,
            headline="loss",
            higher_is_better=False,
            figures=figures.base_report(network),
            predict=figures.base_prediction(network, length, width, self.sigma),
            reads="snippets",
            import_names=torch_names.base_names(network.channels),
        )

    def loss(
        self,
        params: Any,
        batch: Batch,
        key: jax.Array,
        dtype: Any = jnp.float32,
        where: jax.Array | None = None,
    ) -> losses.BaseLoss:
        """The loss of a batch; normalisers count over all of it, on however many devices."""
        out = model.apply(self.network, params, batch["features"], dtype)
        durations, length = batch["iou_map"].shape[1:]
        draws = jax.random.uniform(key, (2, *batch["iou_map"].shape))
        return losses.bmn_loss(
            out.iou_map,
            out.start,
            out.end,
            batch["iou_map"],
            batch["start"],
            batch["end"],
            jnp.asarray(valid_cells(length, durations)),
            draws,
            where=where,
        )


def _terms(found: losses.BaseLoss) -> dict[str, jax.Array]:
    return {
        "boundaries": found.boundaries,
        "regression": found.regression,
        "classification": found.classification,
    }


def _summarize(results: Mapping[str, Any]) -> dict[str, float]:
    (states,) = results.values()
    return {name: state.compute() for name, state in states.items()}


def _check_data(config: BaseStage, setting: Setting) -> tuple[int, int]:
    """(T, F) of the features."""
    element = setting.data.element
    missing = [name for name in ("features", "iou_map", "start", "end") if name not in element]
    if missing:
        raise ConfigError(
            f"the base stage needs {', '.join(missing)} in each example: choose one of the "
            "temporal localization datasets, not their episodes"
        )
    length, width = element["features"].shape
    durations = config.network.max_duration or length
    if element["iou_map"].shape != (durations, length):
        raise ConfigError(
            f"task.network.max_duration={config.network.max_duration} for {length} snippets, and "
            f"the data's maps are {list(element['iou_map'].shape)}: set data.max_duration to the "
            "same"
        )
    if width % 4:
        raise ConfigError(
            f"features of {width} channels do not divide into the first layer's 4 groups: use "
            "others, or pad them"
        )
    return length, width
