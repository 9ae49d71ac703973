"""Learning-rate schedules as plain functions of the update's number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxcog.config import parse_duration
from jaxcog.config import steps as to_steps
from jaxcog.errors import ConfigError
from jaxcog.task import Setting

Kind = Literal[
    "constant", "cosine", "step", "multistep", "poly", "linear", "exponential", "exponential_rise"
]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How the learning rate changes over the run; durations as in `Train`.

    kind: "constant"; "cosine" to `final` over the run; "step" times `gamma` every `every`;
      "multistep" times `gamma` at each of `at`; "poly" (1 - t)^power; "linear" to `final`;
      "exponential" final + (1 - final) power^t, and its rising twin with power^(1 - t).
    per: "step" changes after every update, "epoch" only between epochs (as PyTorch schedulers that
      are stepped once per epoch).
    warmup: linear from `warmup_from` times the rate; the schedule itself is not shifted by it (but
      see AfterWarmup).
    final: factor at the end of "cosine", "linear" and "exponential".
    """

    kind: Kind = "constant"
    per: Literal["step", "epoch"] = "step"
    warmup: str = "0 steps"
    warmup_from: float = 0.0
    every: str = "1 epoch"
    at: tuple[str, ...] = ()
    gamma: float = 0.1
    power: float = 0.9
    final: float = 0.0

    def __post_init__(self) -> None:
        for name, value in [("warmup", self.warmup), ("every", self.every)]:
            parse_duration(value, f"schedule.{name}")
        for value in self.at:
            parse_duration(value, "schedule.at")
        if self.kind == "multistep" and not self.at:
            raise ConfigError('schedule.kind="multistep" needs schedule.at, such as ("80 epochs",)')


@dataclasses.dataclass(frozen=True)
class AfterWarmup(Schedule):
    """A Schedule whose t runs from the end of the warm-up to the end of the run.

    During the warm-up the rate depends on the warm-up alone: "linear", or "constant" at
    `warmup_from` times the rate. Durations of `at` still count from the beginning.
    """

    warmup_kind: Literal["linear", "constant"] = "linear"


def learning_rate(
    schedule: Schedule, peak: float, setting: Setting
) -> Callable[[jax.Array], jax.Array]:
    """The learning rate during update `count` (0-based, int32 scalar or array) as float32."""

    def count_of(duration: str) -> int:
        return to_steps(
            duration, steps_per_epoch=setting.steps_per_epoch, batch_size=setting.batch_size
        )

    per_epoch = setting.steps_per_epoch if schedule.per == "epoch" else 1
    total = max(setting.steps, 1)
    if schedule.per == "epoch":
        total = max(-(-setting.steps // per_epoch) * per_epoch, 1)
    every = max(count_of(schedule.every), 1)
    at = jnp.asarray(sorted(count_of(duration) for duration in schedule.at), jnp.int32)
    warmup = count_of(schedule.warmup)

    def factor(done: jax.Array) -> jax.Array:
        first = warmup if isinstance(schedule, AfterWarmup) else 0
        progress = jnp.clip((done - first) / max(total - first, 1), 0.0, 1.0)
        match schedule.kind:
            case "cosine":
                wave = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
                return schedule.final + (1.0 - schedule.final) * wave
            case "linear":
                return 1.0 + (schedule.final - 1.0) * progress
            case "poly":
                return (1.0 - progress) ** schedule.power
            case "exponential" | "exponential_rise":
                exponent = progress if schedule.kind == "exponential" else 1.0 - progress
                return schedule.final + (1.0 - schedule.final) * schedule.power**exponent
            case "step":
                return schedule.gamma ** (done // every).astype(jnp.float32)
            case "multistep":
                passed = (done[..., None] >= at).sum(axis=-1)
                return schedule.gamma ** passed.astype(jnp.float32)
        return jnp.ones_like(progress)

    def rate(count: jax.Array) -> jax.Array:
        count = jnp.asarray(count, jnp.int32)
        done = (count // per_epoch) * per_epoch
        value = factor(done)
        if warmup:
            ramp = jnp.clip(done / warmup, 0.0, 1.0)
            if isinstance(schedule, AfterWarmup) and schedule.warmup_kind == "constant":
                ramp = jnp.floor(ramp)
            ramp = schedule.warmup_from + (1.0 - schedule.warmup_from) * ramp
            if isinstance(schedule, AfterWarmup):
                value = jnp.where(done < warmup, ramp, value)
            else:
                value = value * ramp
        return jnp.asarray(peak * value, jnp.float32)

    return rate
