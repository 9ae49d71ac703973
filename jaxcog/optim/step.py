"""The train step of one loss and one optimizer. Tasks with more of either write their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcog.errors import ConfigError
from jaxcog.nn.placement import whole_parameters
from jaxcog.optim.optimizers import Optimizer, make_optimizer
from jaxcog.optim.schedules import learning_rate
from jaxcog.task import Batch, Key, Scalars, Setting, State

Loss = Callable[[Any, State, Batch, Key], tuple[jax.Array, tuple[State, Scalars]]]
"""loss(params, state, batch, key) -> (scalar, (entries of the State that change, scalars)).

`key` is this update's own (and this microbatch's): split it by name with `rng.stream`."""


def initial_state(params: Any, optimizer: Optimizer, setting: Setting, **extra: Any) -> State:
    """{"step", "params", "opt", "ema" if asked for, and `extra` ("batch_stats", "queue", ...)}."""
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "opt": make_optimizer(optimizer, params, setting).init(params),
        **extra,
    }
    if optimizer.ema is not None:
        state["ema"] = jax.tree.map(jnp.copy, params)
    return state


def _microbatches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]; microbatch i takes rows i, i + count, ...

    Strided, so that every device splits only its own rows and none are moved.
    """

    def split(x: jax.Array) -> jax.Array:
        if x.shape[0] % count:
            raise ConfigError(
                f"optimizer.accumulate={count}: the batch of {x.shape[0]} does not divide by it"
            )
        return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)

    return jax.tree.map(split, batch)


def _add(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def gradient_step(
    loss: Loss, optimizer: Optimizer, setting: Setting
) -> Callable[[State, Batch, Key], tuple[State, Scalars]]:
    """The train step of a Task: gradients (accumulated), clip, update, EMA.

    Scalars: "loss", "grad_norm" (before clipping), "lr", and those of `loss`. With accumulation
    gradients and scalars are means over microbatches; entries of the State (batch statistics)
    pass from one microbatch to the next.
    """

    def placed(params: Any, state: State, batch: Batch, key: Key) -> Any:
        return loss(whole_parameters(params, setting.mesh), state, batch, key)

    value_and_grad = jax.value_and_grad(placed, has_aux=True)
    rate = learning_rate(optimizer.schedule, optimizer.lr, setting)

    def gradients(state: State, batch: Batch, key: Key) -> tuple[Any, State, Scalars]:
        (value, (changed, scalars)), grads = value_and_grad(state["params"], state, batch, key)
        return grads, changed, {"loss": value, **scalars}

    def accumulated(state: State, batch: Batch, key: Key) -> tuple[Any, State, Scalars]:
        count = optimizer.accumulate
        micro = _microbatches(batch, count)
        first = jax.tree.map(lambda x: x[0], micro)
        rest = jax.tree.map(lambda x: x[1:], micro)
        grads, changed, scalars = gradients(state, first, jax.random.fold_in(key, 0))

        def body(carry: Any, item: Any) -> tuple[Any, None]:
            grads, changed, scalars = carry
            index, part = item
            new = gradients({**state, **changed}, part, jax.random.fold_in(key, index))
            return (_add(grads, new[0]), new[1], _add(scalars, new[2])), None

        carry, _ = jax.lax.scan(body, (grads, changed, scalars), (jnp.arange(1, count), rest))
        grads, scalars = jax.tree.map(lambda x: x / count, (carry[0], carry[2]))
        return grads, carry[1], scalars

    def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Scalars]:
        compute = gradients if optimizer.accumulate == 1 else accumulated
        step_key = jax.random.fold_in(key, state["step"])
        grads, changed, scalars = compute(state, batch, step_key)
        tx = make_optimizer(optimizer, state["params"], setting)
        updates, opt = tx.update(grads, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {**state, **changed, "step": state["step"] + 1, "params": params, "opt": opt}
        if optimizer.ema is not None:
            decay = optimizer.ema
            new["ema"] = jax.tree.map(
                lambda e, p: decay * e + (1 - decay) * p, state["ema"], params
            )
        scalars = {**scalars, "grad_norm": optax.tree.norm(grads), "lr": rate(state["step"])}
        return new, {name: jnp.asarray(value, jnp.float32) for name, value in scalars.items()}

    return train_step
