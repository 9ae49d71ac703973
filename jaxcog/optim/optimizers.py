"""One optimizer from one config, with per-parameter rules."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxcog.errors import ConfigError
from jaxcog.optim.schedules import Schedule, learning_rate
from jaxcog.task import Setting
from jaxcog.trees import by_path, path_name


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is different for the parameters whose path matches `pattern` (searched, "a/b/kernel").

    The first rule that matches a parameter holds. A rule that matches none is an error.
    """

    pattern: str
    lr: float = 1.0  # factor on the learning rate
    decay: float = 1.0  # factor on the weight decay
    frozen: bool = False  # never changed


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer's hyperparameters.

    name: "sgd" and "adam" couple weight decay to the gradient (L2, as PyTorch's); "adamw" does not.
    clip_norm: global gradient norm above which gradients are scaled down; None: never.
    accumulate: microbatches per update; the batch must divide by it.
    ema: decay of a moving average of the parameters, kept in the State as "ema"; None: none.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.1
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"optimizer.lr={self.lr}: must be a positive number")
        if self.accumulate < 1:
            raise ConfigError(f"optimizer.accumulate={self.accumulate}: must be at least 1")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ConfigError(f"optimizer.clip_norm={self.clip_norm}: must be positive, or None")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"optimizer.ema={self.ema}: must lie between 0 and 1, or be None")


def rule_labels(rules: Sequence[Rule], params: Any) -> Any:
    """For each parameter the index of the rule that holds for it, -1 where none does.

    Raises:
      ConfigError: a rule matches no parameter.
    """
    used: set[int] = set()

    def label(path: Sequence[Any], _: Any) -> int:
        name = path_name(path)
        for i, rule in enumerate(rules):
            if re.search(rule.pattern, name):
                used.add(i)
                return i
        return -1

    labels = jax.tree_util.tree_map_with_path(label, params)
    unused = [rule.pattern for i, rule in enumerate(rules) if i not in used]
    if unused:
        names = list(by_path(params))
        raise ConfigError(
            f"optimizer.rules: {unused} match no parameter (or only ones that an earlier rule "
            f"took). Parameters are called, for example: {', '.join(names[:6])}"
        )
    return labels


def _core(config: Optimizer) -> optax.GradientTransformation:
    if config.name == "sgd":
        if not config.momentum:
            return optax.identity()
        return optax.trace(decay=config.momentum, nesterov=config.nesterov)
    b1, b2 = config.betas
    return optax.scale_by_adam(b1=b1, b2=b2, eps=config.eps)


def make_optimizer(
    config: Optimizer, params: Any, setting: Setting
) -> optax.GradientTransformation:
    """The optax transformation for `params` (arrays or ShapeDtypeStructs, by name).

    Order: clip, L2 (sgd, adam), momentum or Adam, decoupled decay (adamw), learning rate, rules.
    Frozen parameters have no influence on the clipped norm and no update; the state keeps one
    count for the schedule.

    Raises:
      ConfigError: a rule matches no parameter.
    """
    labels = rule_labels(config.rules, params)
    lr_factor = jax.tree.map(lambda i: 1.0 if i < 0 else config.rules[i].lr, labels)
    decay_factor = jax.tree.map(lambda i: 1.0 if i < 0 else config.rules[i].decay, labels)
    frozen = jax.tree.map(lambda i: i >= 0 and config.rules[i].frozen, labels)

    def decay(factor: float) -> optax.GradientTransformation:
        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            decayed = jax.tree.map(
                lambda u, p, d: u + factor * d * p, updates, params, decay_factor
            )
            return decayed, state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    def mask_frozen() -> optax.GradientTransformation:
        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            zeroed = jax.tree.map(lambda u, f: jnp.zeros_like(u) if f else u, updates, frozen)
            return zeroed, state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    any_frozen = any(jax.tree.leaves(frozen))
    parts = [mask_frozen()] if any_frozen else []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay and config.name != "adamw":
        parts.append(decay(config.weight_decay))
    core = _core(config)
    if any_frozen:  # no moments for what never moves
        core = optax.masked(core, jax.tree.map(lambda f: not f, frozen))
    parts.append(core)
    if config.weight_decay and config.name == "adamw":
        parts.append(decay(config.weight_decay))
    rate = learning_rate(config.schedule, config.lr, setting)
    parts.append(optax.scale_by_schedule(lambda count: -rate(count)))
    if config.rules:
        parts.append(
            optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, lr_factor))
        )
    if any_frozen:
        parts.append(mask_frozen())
    return optax.chain(*parts)
