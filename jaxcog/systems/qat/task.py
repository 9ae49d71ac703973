"""The episodic stage (BMVC 2021): a transformer that adapts prototypes, learned over episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.metrics.state import Concat
from jaxcog.optim import Optimizer, Rule, gradient_step, initial_state
from jaxcog.systems.qat import episode, figures, judging, losses, model, torch_names
from jaxcog.systems.qat.model import GTADConfig
from jaxcog.task import Batch, Key, Setting, State, Task, judged

Adapt = Literal["query", "off", "other_query"]


def _adam() -> Optimizer:
    return Optimizer(name="adam", lr=1e-3)


@dataclasses.dataclass(frozen=True)
class FewShot:
    """A foreground classifier fitted on K supports and adapted to the query.

    Batches: see `jaxcog.data.few_shot.episode_element`. Where the data holds snippet features (its
    facts have "snippets"), the State has the base stage's layers too: start from its checkpoint
    (`train.start_from`). They are frozen, and the data goes through them once.

    network: of the base stage. num_heads, head_dim (None: the embedding's width), dropout: of the
      transformer. temperature: of the cosine logits.
    inner_steps, inner_lr: gradient descent of prototype and bias on the supports.
    bias: whose mean logit the bias starts from. rebias: take the bias anew as the mean logit of the
      adapted prototype on the query.
    normalize: embeddings to length 1 first (changes the attention, not the cosine).
    adapt: how predictions are made, in evaluation alone: "query" is the method; "off" leaves the
      prototype as it is; "other_query" adapts it to another episode's video, as a control.
    released_inner_loss, released_outer_loss: the official losses, with their defects.
    detector: from curves to segments.
    """

    network: GTADConfig = dataclasses.field(default_factory=GTADConfig)
    num_heads: int = 2
    head_dim: int | None = None
    dropout: tuple[float, float] = (0.1, 0.5)
    temperature: float = episode.TEMPERATURE
    inner_steps: int = episode.INNER_STEPS
    inner_lr: float = episode.INNER_RATE
    bias: episode.Bias = "query"
    rebias: bool = False
    normalize: bool = False
    adapt: Adapt = "query"
    released_inner_loss: bool = False
    released_outer_loss: bool = False
    detector: judging.Detector = dataclasses.field(default_factory=judging.Detector)
    optimizer: Optimizer = dataclasses.field(default_factory=_adam)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"task.temperature={self.temperature}: must be positive")
        if self.inner_steps < 0 or not self.inner_lr > 0:
            raise ConfigError(
                f"task.inner_steps={self.inner_steps}, task.inner_lr={self.inner_lr}: at least 0 "
                "steps, of a positive rate"
            )
        if not all(0 <= rate < 1 for rate in self.dropout):
            raise ConfigError(f"task.dropout={self.dropout}: probabilities, below 1")
        if self.num_heads < 1 or (self.head_dim is not None and self.head_dim < 1):
            raise ConfigError(
                f"task.num_heads={self.num_heads}, task.head_dim={self.head_dim}: at least 1"
            )

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        raw = setting.data.facts.get("snippets")
        shape = _check_data(self, setting, raw)
        optimizer = self.optimizer
        if raw is not None:
            frozen = Rule(f"^({'|'.join(model.EMBEDDING_LAYERS)})/", frozen=True)
            optimizer = dataclasses.replace(optimizer, rules=(frozen, *optimizer.rules))
        transformer = self.transformer(shape[-1])

        def init(key: Key) -> State:
            params = {"transformer": transformer.init(rng.stream(key, "init"), shape[-1])}
            if raw is not None:
                base = rng.stream(key, "base")
                params |= model.init(self.network, base, *raw, embedding_only=True)
            return initial_state(params, optimizer, setting)

        def loss(params: Any, state: State, batch: Batch, key: Key) -> Any:
            return outer_loss(self, params, batch, rng.stream(key, "dropout"))

        def embed(state: State, inputs: jax.Array) -> jax.Array:
            return model.embed(self.network, state["params"], inputs, setting.dtype).astype(
                jnp.float32
            )

        return Task(
            init=init,
            train_step=gradient_step(loss, optimizer, setting),
            eval_step=_eval_step(self),
            summarize=self.summarize,
            headline="mAP",
            figures=figures.report(setting.data, self.detector),
            predict=figures.prediction(
                shape, raw, self.detector, embed, lambda s, batch: predict_batch(self, s, batch)
            ),
            reads="snippets",
            embed=None if raw is None else embed,
            import_names=torch_names.TRANSFORMER_NAMES,
        )

    def transformer(self, channels: int) -> episode.QueryAdaptiveTransformer:
        """The attention block for embeddings of `channels` numbers."""
        return episode.QueryAdaptiveTransformer(
            self.num_heads, self.head_dim or channels, self.dropout
        )

    def summarize(self, results: Mapping[str, Any]) -> dict[str, float]:
        """See `judging.summarize`; the metrics of a second split carry its name."""
        found: dict[str, float] = {}
        for i, (split, states) in enumerate(results.items()):
            scores = judging.summarize(states["rows"].compute(), self.detector)
            prefix = f"{split}/" if i else ""
            found |= {prefix + name: value for name, value in scores.items()}
        return found


def _check_data(config: FewShot, setting: Setting, raw: Any) -> tuple[int, ...]:
    """(K, T, C) of the supports as they reach the step."""
    element = setting.data.element
    missing = [name for name in ("support", "support_mask", "query", "query_mask")
               if name not in element]  # fmt: skip
    if missing:
        raise ConfigError(
            f"qat learns from episodes, and the data has no {', '.join(missing)}: choose one of "
            "the few-shot datasets"
        )
    shape = element["support"].shape
    if raw is not None and shape[-1] != config.network.channels:
        raise ConfigError(
            f"task.network.channels={config.network.channels}, and the data expects embeddings of "
            f"{shape[-1]} numbers: set data.channels to the same"
        )
    return shape


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def fit_batch(
    config: FewShot, support: jax.Array, mask: jax.Array, query: jax.Array
) -> episode.Fitted:
    """The classifiers of B episodes: [B, K, T, C], [B, K, T], [B, T, C]; no gradient."""
    objective: Callable[..., jax.Array] = losses.balanced_bce
    if config.released_inner_loss:
        objective = episode.released_objective

    def fit(support: jax.Array, mask: jax.Array, query: jax.Array) -> episode.Fitted:
        return episode.fit_prototype(
            support,
            mask,
            query,
            steps=config.inner_steps,
            lr=config.inner_lr,
            temperature=config.temperature,
            loss=objective,
            bias=config.bias,
        )

    return jax.lax.stop_gradient(jax.vmap(fit)(support, mask, query))


def adapted_curve(
    config: FewShot,
    params: Any,
    fitted: episode.Fitted,
    query: jax.Array,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Foreground probability [B, T] of B queries [B, T, C]."""
    prototype, bias = fitted.prototype, fitted.bias
    if config.adapt != "off" or dropout_key is not None:
        memory = query
        if config.adapt == "other_query" and dropout_key is None:
            memory = jnp.roll(query, len(query) // 2, axis=0)
        transformer = config.transformer(query.shape[-1])
        prototype = transformer(params["transformer"], prototype, memory, dropout_key=dropout_key)
        if config.rebias:
            logits = jax.vmap(episode.cosine_logits, (0, 0, None))
            bias = jnp.mean(logits(query, prototype, config.temperature), axis=-1)
    curve = jax.vmap(episode.foreground, (0, 0, 0, None))
    return curve(query, prototype, bias, config.temperature)


def _inputs(config: FewShot, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    support, query = batch["support"], batch["query"]
    if config.normalize:
        support, query = _unit(support), _unit(query)
    return support, batch["support_mask"], query


def outer_loss(
    config: FewShot, params: Any, batch: Batch, dropout_key: jax.Array
) -> tuple[jax.Array, tuple[State, dict[str, jax.Array]]]:
    """The loss of the adapted prototypes on their queries, mean over episodes."""
    support, mask, query = _inputs(config, batch)
    fitted = fit_batch(config, support, mask, query)
    prob = adapted_curve(config, params, fitted, query, dropout_key)
    target = batch["query_mask"]
    if config.released_outer_loss:
        value = jnp.mean(losses.foreground_loss(prob, target))
    else:
        value = jnp.mean(losses.balanced_bce(prob, target, axis=-1))
    right = jnp.mean((prob > 0.5) == (target > 0.5))
    inner = jnp.mean(fitted.losses[:, -1]) if config.inner_steps else jnp.zeros(())
    return value, ({}, {"snippet_accuracy": right, "inner_loss": inner})


def predict_batch(config: FewShot, state: State, batch: Batch) -> jax.Array:
    """Foreground probability [B, T] of the queries of embedded episodes."""
    support, mask, query = _inputs(config, batch)
    fitted = fit_batch(config, support, mask, query)
    return adapted_curve(config, judged(state), fitted, query)


def _eval_step(config: FewShot) -> Any:
    def eval_step(state: State, batch: Batch) -> dict[str, Any]:
        rows = {"prob": predict_batch(config, state, batch)}
        for name in ("query_mask", "segments", "duration", "label", "repeat"):
            rows[name] = batch[name]
        return {"rows": Concat.of(rows, batch.get("mask"))}

    return eval_step
