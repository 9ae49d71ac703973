"""The batch of tasks: its gradient, one task after another on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

Params = Any
Scalars = dict[str, jax.Array]
TaskLoss = Callable[[Params, Any, Any, jax.Array], tuple[jax.Array, Scalars]]
"""(meta-parameters, what is frozen, one task, its key) -> (outer loss, scalars)."""

Over = Literal["scan", "vmap"]

_BATCH_AXES = ("data", "fsdp")


def mean_gradient(
    loss: TaskLoss,
    params: Params,
    frozen: Any,
    tasks: Any,
    keys: jax.Array,
    *,
    over: Over,
    mesh: Any = None,
) -> tuple[Params, Scalars]:
    """Mean over all tasks of the gradient and of the scalars ("loss" added).

    After its inner step every task has weights of its own. "scan" takes the tasks of a device in
    turn and keeps one task's activations and one sum of gradients, whatever their number; "vmap"
    takes them at once, which is faster where the network is tiny.

    Args:
      tasks: arrays [T, ...]. keys: [T].
      mesh: tasks are spread over its axes data and fsdp, with one mean of gradients at the end;
        None or one device: no `shard_map`.
    """
    count = keys.shape[0]
    split = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    spread = split > 1

    def one(params: Params, frozen: Any, task: Any, key: jax.Array) -> tuple[Params, Scalars]:
        (value, scalars), grads = jax.value_and_grad(loss, has_aux=True)(params, frozen, task, key)
        return grads, {"loss": value, **scalars}

    def together(
        params: Params, frozen: Any, tasks: Any, keys: jax.Array
    ) -> tuple[Params, Scalars]:
        def mean(params: Params) -> tuple[jax.Array, Scalars]:
            values, scalars = jax.vmap(loss, (None, None, 0, 0))(params, frozen, tasks, keys)
            return jnp.mean(values), {"loss": values, **scalars}

        grads, scalars = jax.grad(mean, has_aux=True)(params)
        return grads, jax.tree.map(jnp.mean, scalars)

    def in_turn(params: Params, frozen: Any, tasks: Any, keys: jax.Array) -> tuple[Params, Scalars]:
        def body(total: Any, item: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, one(params, frozen, *item)), None

        # Starting from the first task's gradients would compile the network twice.
        first = jax.tree.map(lambda x: x[0], (tasks, keys))
        shapes = jax.eval_shape(lambda item: one(params, frozen, *item), first)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        if spread:
            nothing = jax.lax.pcast(nothing, _BATCH_AXES, to="varying")
        total, _ = jax.lax.scan(body, nothing, (tasks, keys))
        return jax.tree.map(lambda x: x / keys.shape[0], total)

    local = in_turn if over == "scan" else together
    if not spread:
        return local(params, frozen, tasks, keys)
    if count % split:
        raise ValueError(f"{count} tasks do not divide over {split} devices")

    def on_device(
        params: Params, frozen: Any, tasks: Any, keys: jax.Array
    ) -> tuple[Params, Scalars]:
        # Without the cast each gradient inside would be summed over devices, once a task.
        varying = jax.lax.pcast(params, _BATCH_AXES, to="varying")
        return jax.lax.pmean(local(varying, frozen, tasks, keys), _BATCH_AXES)

    rows = P(_BATCH_AXES)
    run = jax.shard_map(on_device, mesh=mesh, in_specs=(P(), P(), rows, rows), out_specs=P())
    return run(params, frozen, tasks, keys)


def carried(buffer: Any, total: Any, tasks: int, *, new_epoch: Any) -> Any:
    """The released code's gradient buffer: (what was left + sum over tasks) / tasks.

    It is emptied at the start of an epoch only, so 1 / tasks of each step leaks into the next.
    """
    kept = jnp.where(new_epoch, 0.0, 1.0)
    return jax.tree.map(lambda b, t: (kept * b + t) / tasks, buffer, total)
