"""Fine-tuning heads: a text's class, and the right one of several answers (sheet 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.losses.contrastive import unit
from jaxcog.metrics.state import Confusion, Mean
from jaxcog.nn.initializers import Linear
from jaxcog.nn.precision import at_least_float32
from jaxcog.optim import Optimizer, Rule, Schedule, gradient_step, initial_state
from jaxcog.show import Figure, Matrix
from jaxcog.systems.brivl import model, task, torch_names
from jaxcog.systems.brivl.architecture import Architecture
from jaxcog.task import Batch, Key, Setting, State, Task

Tree = Any
HeadName = Literal["linear", "mlp"]


def fine_tuning() -> Optimizer:
    """Ours (the paper states none): the head at 1e-4, towers at a tenth of it."""
    return Optimizer(
        name="adam",
        lr=1e-4,
        schedule=Schedule("cosine"),
        rules=(Rule("^(image|text)/", lr=0.1),),
    )


def init_head(key: Key, name: HeadName, width: int, outputs: int) -> Tree:
    """{"out"}, or {"hidden", "out"} with as many hidden units as inputs."""
    keys = jax.random.split(key)
    example = jnp.zeros((1, width))
    head = {"out": Linear(outputs).init(keys[0], example)["params"]}
    if name == "mlp":
        head["hidden"] = Linear(width).init(keys[1], example)["params"]
    return head


def apply_head(head: Tree, x: jax.Array) -> jax.Array:
    """[..., width] -> [..., outputs] float32; ReLU between the layers."""
    x = at_least_float32(x)
    if "hidden" in head:
        x = jax.nn.relu(x @ head["hidden"]["kernel"] + head["hidden"]["bias"])
    return x @ head["out"]["kernel"] + head["out"]["bias"]


def _cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """[B] cross entropy with label smoothing."""
    log_p = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0]
    return -(1 - smoothing) * own - smoothing * jnp.mean(log_p, axis=1)


@dataclasses.dataclass(frozen=True)
class NewsClassification:
    """A head on the text tower's embedding; batches: "ids" [B, L] int32, "label" [B] int32.

    Also judged without the head: the class whose name's embedding is nearest ("zero_shot").

    smoothing: of labels. dropout in the tower is active in training.
    """

    model: Architecture = dataclasses.field(default_factory=Architecture)
    head: HeadName = "linear"
    smoothing: float = 0.0
    optimizer: Optimizer = dataclasses.field(default_factory=fine_tuning)

    def build(self, setting: Setting) -> Task:
        """Raises ConfigError where there are no classes or texts do not fit the tower."""
        task.check_text(self.model, setting)
        classes = setting.data.num_classes
        if classes < 2:
            raise ConfigError(f"news classification: the data names {classes} classes")
        optimizer = _for_text(self.optimizer, self.model)

        def init(key: Key) -> State:
            params, _ = model.init_towers(rng.stream(key, "init"), self.model)
            head = init_head(rng.stream(key, "head"), self.head, self.model.embed_dim, classes)
            return initial_state({"text": params["text"], "head": head}, optimizer, setting)

        def logits(params: Tree, ids: jax.Array, key: Key | None = None) -> Any:
            encoded = model.text_tower(
                params["text"], ids, self.model, key=key, dtype=setting.dtype
            )
            return apply_head(params["head"], encoded.embedding), unit(encoded.embedding)

        def loss(params: Tree, state: State, batch: Batch, key: Key) -> Any:
            scores, _ = logits(params, batch["ids"], rng.stream(key, "dropout"))
            right = jnp.argmax(scores, axis=1) == batch["label"]
            value = jnp.mean(_cross_entropy(scores, batch["label"], self.smoothing))
            return value, ({}, {"accuracy": jnp.mean(right.astype(jnp.float32))})

        names = setting.data.facts.get("class_ids")

        def eval_step(state: State, batch: Batch) -> Any:
            scores, embedding = logits(state["params"], batch["ids"])
            mask, label = batch.get("mask"), batch["label"]
            found: dict[str, Any] = {
                "classes": Confusion.of(jnp.argmax(scores, axis=1), label, classes, mask)
            }
            if names is not None:
                called = model.class_embeddings(
                    state["params"], jnp.asarray(names), self.model, setting.dtype
                )
                nearest = jnp.argmax(embedding @ called.T, axis=1)
                found["zero_shot"] = Mean.of(nearest == label, mask)
            return found

        return Task(
            init=init,
            train_step=gradient_step(loss, optimizer, setting),
            eval_step=eval_step,
            summarize=_summarize_classes,
            headline="accuracy",
            partition=task.partition(self.model, setting),
            figures=lambda state, samples, results: _confusions(setting, results),
            import_names=torch_names.TOWERS,
        )


def _for_text(optimizer: Optimizer, architecture: Architecture) -> Optimizer:
    """The freeze policy and the rules, less what concerns the image tower, which is not here."""
    frozen = task.with_freeze(optimizer, architecture).rules[: -len(optimizer.rules) or None]
    kept = [rule for rule in frozen if rule.pattern.startswith("^text/")]
    return dataclasses.replace(optimizer, rules=(*kept, *optimizer.rules))


def _summarize_classes(results: Mapping[str, Any]) -> dict[str, float]:
    metrics = {}
    for split, states in results.items():
        counts = states["classes"].compute()
        prefix = "" if len(results) == 1 else f"{split}_"
        metrics[f"{prefix}accuracy"] = 100 * float(counts.trace() / max(counts.sum(), 1))
        if "zero_shot" in states:
            metrics[f"{prefix}zero_shot_accuracy"] = 100 * states["zero_shot"].compute()
    return metrics


def _confusions(setting: Setting, results: Mapping[str, Any]) -> list[Figure]:
    names = setting.data.class_names
    return [
        Matrix(f"Classes of {split}", states["classes"].compute(), names, names)
        for split, states in results.items()
    ]


@dataclasses.dataclass(frozen=True)
class VisualQuestions:
    """Which of several answers to a question about an image is right (Visual7W, telling).

    Batches: "image" [B, S, S, 3], "ids" [B, A, L] (question and one answer each), "label" [B]
    int32 among the A answers, "type" [B] int32. A head scores each answer by both
    embeddings, joined as `join` says, and the scores go through a softmax.
    """

    model: Architecture = dataclasses.field(default_factory=Architecture)
    head: HeadName = "mlp"
    join: Literal["concatenate", "sum"] = "concatenate"
    optimizer: Optimizer = dataclasses.field(default_factory=fine_tuning)

    def build(self, setting: Setting) -> Task:
        """Raises ConfigError where images or texts do not fit the towers."""
        task.check_data(self.model, setting)
        optimizer = task.with_freeze(self.optimizer, self.model)
        types = tuple(setting.data.facts.get("types", ()))
        factor = 2 if self.join == "concatenate" else 1

        def init(key: Key) -> State:
            params, stats = model.init_towers(rng.stream(key, "init"), self.model)
            head = init_head(rng.stream(key, "head"), self.head, factor * self.model.embed_dim, 1)
            return initial_state({**params, "head": head}, optimizer, setting, batch_stats=stats)

        def scores(params: Tree, stats: Tree, batch: Batch, key: Key | None = None) -> jax.Array:
            # Batch norm keeps its running statistics: batches are small in fine-tuning.
            image = model.image_tower(
                params["image"],
                stats.get("image", {}),
                task.prepared(batch["image"]),
                self.model,
                key=key,
                dtype=setting.dtype,
            )
            count, answers, length = batch["ids"].shape
            text = model.text_tower(
                params["text"],
                batch["ids"].reshape(-1, length),
                self.model,
                key=key,
                dtype=setting.dtype,
            )
            texts = unit(text.embedding).reshape(count, answers, -1)
            images = jnp.broadcast_to(unit(image.embedding)[:, None], texts.shape)
            joined = (
                jnp.concatenate([images, texts], axis=-1)
                if self.join == "concatenate"
                else images + texts
            )
            return apply_head(params["head"], joined)[..., 0]

        def loss(params: Tree, state: State, batch: Batch, key: Key) -> Any:
            found = scores(params, state["batch_stats"], batch, rng.stream(key, "dropout"))
            right = jnp.argmax(found, axis=1) == batch["label"]
            value = jnp.mean(_cross_entropy(found, batch["label"], 0.0))
            return value, ({}, {"accuracy": jnp.mean(right.astype(jnp.float32))})

        def eval_step(state: State, batch: Batch) -> Any:
            found = scores(state["params"], state["batch_stats"], batch)
            right = jnp.argmax(found, axis=1) == batch["label"]
            mask = batch.get("mask", jnp.ones(right.shape, bool))
            means = {"accuracy": Mean.of(right, mask)}
            for number, name in enumerate(types):
                means[f"accuracy_{name}"] = Mean.of(right, mask & (batch["type"] == number))
            return means

        return Task(
            init=init,
            train_step=gradient_step(loss, optimizer, setting),
            eval_step=eval_step,
            summarize=_summarize_answers,
            headline="accuracy",
            partition=task.partition(self.model, setting),
            import_names=torch_names.TOWERS,
        )


def _summarize_answers(results: Mapping[str, Any]) -> dict[str, float]:
    states = next(iter(results.values()))
    return {
        name: 100 * value
        for name, value in ((name, state.compute()) for name, state in states.items())
        if value == value  # kinds of questions that the split has none of
    }
