"""The one contract between a paper and the rest of the library: a `Task` of pure functions.

A system's `task.py` holds a frozen dataclass of hyperparameters with a method
`build(setting: Setting) -> Task`. The loop, `plan`, `bench`, `eval` and the contract tests know
nothing else about a paper. How other shapes of learning fit, without another loop:

* A GAN: State holds "params" of both networks and two optimizer states; one `train_step` does the
  D and the G update.
* Momentum encoders and queues: the EMA copy and the queue are entries of the State.
* Meta-learning, episodes: a batch is a batch of episodes; the inner loop is a `lax.scan` inside
  `train_step`.
* Several stages: several configs; a later one names the checkpoint that it starts from
  (`train.start_from`).
* Labelled and unlabelled data: two named streams, so a batch is {"labelled": {...}, ...}.
* Reinforcement learning: `act` chooses actions; the data is an Experience (jaxcog.data.types), and
  a batch is what the environments brought since the last update, one segment an environment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcog.show import Figure

State = dict[str, Any]
"""A run: {"step": int32 scalar, "params": ..., "opt": ..., and by name whatever else changes
("batch_stats", "ema", "queue", ...)}. A pytree of arrays; all of it is in every checkpoint."""


def judged(state: State) -> Any:
    """The parameters that are evaluated: their running average, where the run keeps one."""
    return state["ema"] if "ema" in state else state["params"]


Batch = Mapping[str, Any]
"""Arrays with the global batch as first axis, by name (one level deeper for named streams).
Evaluation batches also have "mask" [B] bool, False for the rows that only pad the last batch."""

Key = jax.Array
Scalars = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What a task must know about data without reading it.

    element: name -> ShapeDtypeStruct of ONE training example, as it reaches the train step
      (nested one level for named streams).
    eval_element: the same for evaluation examples (without "mask"); None: as `element`.
    num_examples: size of the training split (the published size where nothing was read yet).
    class_names: class i is called class_names[i]; empty where there are no classes.
    facts: further dataset constants a task may read (number of identities, domain names, ...).
    kept: names of facts (JSON values) that belong to a trained run, such as its vocabulary: they
      are in every checkpoint, given back where a run is restored without its data, and must not
      change while it goes on.
    """

    element: Mapping[str, Any]
    num_examples: int
    class_names: tuple[str, ...] = ()
    eval_element: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kept: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a run gives to a task when it is built.

    steps, steps_per_epoch, batch_size: length of the run in updates; batch_size is global.
    dtype: of the arithmetic (jnp.bfloat16 for mixed precision); parameters stay float32.
    mesh: for the few tasks that need `jax.shard_map`; None on one device.
    """

    data: DataInfo
    steps: int
    steps_per_epoch: int
    batch_size: int
    dtype: Any = jnp.float32
    mesh: jax.sharding.Mesh | None = None


def _no_figures(
    state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
) -> list[Figure]:
    return []


def _as_it_is(state: State) -> State:
    return state


def _any_origin(data: DataInfo | None) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Task:
    """How a system learns and how it is judged. Every callable is pure; none reads or writes files.

    init(key) -> State. Runs under jit, so arrays are created in their places.
    train_step(state, batch, key) -> (state, scalars). Jitted and donated by the loop; `key` is the
      run's root key: derive randomness with `rng.stream(key, name, state["step"])`. Increments
      state["step"]. Scalars are float32, global means over the whole batch.
    eval_step(state, batch) -> metric states (see jaxcog.metrics.state) of one batch; jitted by the
      loop, results replicated. Must honour batch["mask"].
    summarize({split: merged metric states}) -> the paper's metrics, {name: float}. NumPy, on host.
    headline: the metric in `summarize` by which "best" is chosen.
    higher_is_better: whether a larger headline is better.
    partition: ((regular expression over "params/a/b/kernel" paths, PartitionSpec), ...), first
      match wins, before the general FSDP rule; it also applies to optimizer and EMA copies.
    batch_partition: name -> PartitionSpec where a batch entry is split over more than its first
      axis (the `space` axis); all others are split over ("data", "fsdp").
    figures(state, samples, results) -> what the report shows. `samples`: {split: dict of NumPy
      arrays, the first evaluation examples, or one episode}; `results`: the merged
      metric states of the last evaluation.
    predict(state, inputs, names) -> figures for `jaxcog predict`; `inputs` are what jaxcog.data
      read from the files called `names`, by `reads`. None: this task predicts nothing.
    reads: kind of `predict`'s inputs: "images" (uint8 [H, W, 3] each), or another reader of
      jaxcog.data.inputs.
    act(state, observation, key, train) -> {"action": int32 [E], ...} where the data is an
      Experience: observation is name -> [E, ...]; what else is returned ([E, ...]: values,
      probabilities) goes into the batch beside it. `key` is the step's own; `train` is static.
      `predict` then gets the episodes that it played (see jaxcog.training.experience.recorded).
    embed(state, inputs [B, ...]) -> [B, ...]: what a network that this run does not train makes of
      the data; computed once for all of it when a run begins (see `Splits.inputs`). None: nothing.
    import_names: the room's `torch_names` table (see jaxcog.interop), or several, of which the one
      that knows the most keys is taken; None where there is none.
    import_parts: the entries of the State that an official checkpoint holds.
    import_kept: expressions of paths in them that it does not hold, because an earlier stage did.
    after_import(state) -> State with what follows from imported weights, such as their average.
    check_origin(data): called before a fresh run with the data of the run in `train.start_from`,
      None where there is none; raises where that is no start for this task.
    samples: how many evaluation examples of each split `figures` wants.
    """

    init: Callable[[Key], State]
    train_step: Callable[[State, Batch, Key], tuple[State, Scalars]]
    eval_step: Callable[[State, Batch], Any]
    summarize: Callable[[Mapping[str, Any]], dict[str, float]]
    headline: str
    higher_is_better: bool = True
    partition: Sequence[tuple[str, jax.sharding.PartitionSpec]] = ()
    batch_partition: Mapping[str, jax.sharding.PartitionSpec] = dataclasses.field(
        default_factory=dict
    )
    figures: Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]] = _no_figures
    predict: Callable[[State, Sequence[Any], Sequence[str]], list[Figure]] | None = None
    reads: str = "images"
    act: Callable[[State, Batch, Key, bool], dict[str, jax.Array]] | None = None
    embed: Callable[[State, jax.Array], jax.Array] | None = None
    import_names: Any = None
    import_parts: tuple[str, ...] = ("params", "batch_stats")
    import_kept: tuple[str, ...] = ()
    after_import: Callable[[State], State] = _as_it_is
    check_origin: Callable[[DataInfo | None], None] = _any_origin
    samples: int = 400
