"""A run's compiled parts: built once from an experiment, used by the loop, `plan` and `bench`."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp

from jaxcog import rng
from jaxcog.config import Experiment, steps
from jaxcog.data.device_normalise import Normalises, as_bytes, normalised
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo, Setting, Task
from jaxcog.training import sharding


@dataclasses.dataclass(frozen=True)
class Program:
    """A task on a mesh, with everything that must be static.

    train_step(state, batch, key) -> (state, scalars): jitted, donates the state. `scalars` is one
      float32 vector in the order of `scalar_names`, so that reading a step's metrics is one copy.
      None, as batch_shardings and scalar_names are empty, where nothing is trained.
    eval_step(state, batch) -> metric states, replicated.
    init(key) -> State, every array created in its place.
    act(state, observation, key, count, train) -> what `Task.act` returns, split as a batch; `count`
      (int32) is the number of the step in the run, `train` is static. None where the task has none.
    normalises, eval_normalises: what both steps do first to arrays that travel as bytes (see
      jaxcog.data.device_normalise); batch_struct and eval_struct are those of the bytes.
    """

    experiment: Experiment
    task: Task
    setting: Setting
    mesh: Any
    state_struct: Any
    state_shardings: Any
    batch_struct: Any
    batch_shardings: Any
    eval_struct: Any
    eval_shardings: Any
    scalar_names: tuple[str, ...]
    init: Any
    train_step: Any
    eval_step: Any
    act: Any = None
    normalises: Normalises = dataclasses.field(default_factory=dict)
    eval_normalises: Normalises = dataclasses.field(default_factory=dict)

    def root_key(self, seed: int | None = None) -> jax.Array:
        """The run's root key on the mesh; all randomness derives from it."""
        seed = self.experiment.train.seed if seed is None else seed
        return jax.jit(jax.random.key, out_shardings=sharding.replicated(self.mesh))(seed)

    def lower_train_step(self, platform: str | None = None) -> jax.stages.Lowered:
        """The train step lowered from shapes alone, for `platform` ("tpu") or the default one."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        traced = self.train_step.trace(self.state_struct, self.batch_struct, key)
        return traced.lower(lowering_platforms=(platform,)) if platform else traced.lower()

    def compiled(self) -> tuple[Program, float]:
        """(this program with its train step compiled ahead of time, seconds that it took).

        A jitted function does not find an executable that was compiled ahead of time, so the
        result must be used instead of this program, or the step is compiled again.
        """
        lowered = self.lower_train_step()
        began = time.perf_counter()
        step = lowered.compile()
        return dataclasses.replace(self, train_step=step), time.perf_counter() - began


def evaluation_batch(experiment: Experiment, mesh: Any) -> int:
    """`eval_batch_size`, rounded up to what divides over the mesh (the padding is masked)."""
    split = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-experiment.train.eval_batch_size // split) * split


def assemble(
    experiment: Experiment,
    info: DataInfo,
    mesh: Any,
    *,
    steps_per_epoch: int | None = None,
    shares: dict[str, int] | None = None,
    trains: bool = True,
    normalises: Normalises | None = None,
    eval_normalises: Normalises | None = None,
) -> Program:
    """The program of `experiment` on `mesh` (a Mesh, or an AbstractMesh for lowering only).

    Args:
      info: of the data, loaded or described.
      steps_per_epoch: by the data's sampler; None: as in info.facts, or examples // batch size.
      shares: batch share of each named stream (see `Stream`); None: as in info.facts["shares"].
      trains: False: for evaluation and prediction alone. There is no train step then, and the
        training batch need not divide over the mesh.
      normalises, eval_normalises: see Program; None: batches come as the task wants them.

    Raises:
      ConfigError: the batch does not divide over the mesh, or the task does not fit the data.
    """
    train = experiment.train
    known = steps_per_epoch or info.facts.get("steps_per_epoch")
    per_epoch = known or info.num_examples // train.batch_size
    if per_epoch < 1:
        raise ConfigError(
            f"train.batch_size={train.batch_size} is larger than the training split of "
            f"{info.num_examples} examples: set a smaller one"
        )
    total = steps(
        train.duration,
        steps_per_epoch=per_epoch,
        batch_size=train.batch_size,
        what="train.duration",
    )
    concrete = isinstance(mesh, jax.sharding.Mesh)
    setting = Setting(
        data=info,
        steps=total,
        steps_per_epoch=per_epoch,
        batch_size=train.batch_size,
        dtype=jnp.dtype(train.dtype),
        mesh=mesh,
    )
    task: Task = experiment.task.build(setting)
    shares = shares or info.facts.get("shares")
    normalises, eval_normalises = normalises or {}, eval_normalises or {}
    batch_struct = sharding.batch_struct(info.element, train.batch_size, shares)
    batch_struct = as_bytes(batch_struct, normalises)
    batch_shardings: dict[str, Any] = {}
    if trains:
        batch_shardings = sharding.batch_shardings(batch_struct, mesh, task.batch_partition)
    eval_struct = sharding.batch_struct(
        info.eval_element or info.element, evaluation_batch(experiment, mesh)
    )
    eval_struct = as_bytes(eval_struct, eval_normalises)
    eval_struct["mask"] = jax.ShapeDtypeStruct((evaluation_batch(experiment, mesh),), jnp.bool_)
    eval_shardings = sharding.batch_shardings(eval_struct, mesh, task.batch_partition)

    key = jax.eval_shape(lambda: jax.random.key(0))
    # Jitted for their traces: Python runs through a big model once, for shapes and for programs.
    init, update = (
        jax.jit(f, inline=True) for f in (task.init, _normalising(task.train_step, normalises))
    )
    state_struct = jax.eval_shape(init, key)
    state_shardings = sharding.state_shardings(state_struct, mesh, task.partition)
    replicated = sharding.replicated(mesh)
    names: tuple[str, ...] = ()
    train_step = None
    if trains:
        scalars = jax.eval_shape(update, state_struct, batch_struct, key)[1]
        names = tuple(sorted(scalars))
        train_step = jax.jit(
            _stacked(update, names),
            in_shardings=(state_shardings, batch_shardings, replicated),
            out_shardings=(state_shardings, replicated),
            donate_argnums=0,
        )
    return Program(
        experiment=experiment,
        task=task,
        setting=setting,
        mesh=mesh,
        state_struct=state_struct,
        state_shardings=state_shardings,
        batch_struct=batch_struct,
        batch_shardings=batch_shardings,
        eval_struct=eval_struct,
        eval_shardings=eval_shardings,
        scalar_names=names,
        init=jax.jit(init, out_shardings=state_shardings) if concrete else task.init,
        train_step=train_step,
        eval_step=jax.jit(
            _normalising(task.eval_step, eval_normalises),
            in_shardings=(state_shardings, eval_shardings),
            out_shardings=replicated,
        ),
        act=_act(task, state_shardings, mesh),
        normalises=normalises,
        eval_normalises=eval_normalises,
    )


def _normalising(step: Any, normalises: Normalises) -> Any:
    """step(state, batch, ...) that normalises what of the batch came as bytes first."""
    if not normalises:
        return step

    @functools.wraps(step)
    def whole(state: Any, batch: Any, *rest: Any) -> Any:
        return step(state, normalised(batch, normalises), *rest)

    return whole


def _stacked(update: Any, names: tuple[str, ...]) -> Any:
    """The train step of a task with its scalars as one array in the order of `names`."""

    def train_step(state: Any, batch: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        state, scalars = update(state, batch, key)
        return state, jnp.stack([scalars[name].astype(jnp.float32) for name in names])

    return train_step


def _act(task: Task, state_shardings: Any, mesh: Any) -> Any:
    play = task.act
    if play is None:
        return None

    def act(state: Any, observation: Any, key: jax.Array, count: Any, train: bool) -> Any:
        return play(state, observation, rng.stream(key, "act", count), train)

    split, whole = sharding.batch_rows(mesh), sharding.replicated(mesh)
    return jax.jit(
        act,
        static_argnums=4,
        in_shardings=(state_shardings, split, whole, whole),
        out_shardings=split,
    )
