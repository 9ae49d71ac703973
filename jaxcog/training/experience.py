"""A policy acts in environments on the host; what comes of it becomes batches for the loop.

See `jaxcog.data.types.Experience` for the contract. Environments step where Python runs, actions
are chosen on the devices by the jitted `Task.act`; each process has the environments of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import numpy as np

from jaxcog.data.pipeline import SINGLE, LocalBatch
from jaxcog.data.types import Environments, Experience, Transition
from jaxcog.task import State
from jaxcog.training import sharding
from jaxcog.training.program import Program, evaluation_batch

_EVALUATION_SEED = 0  # every evaluation of every run plays the same levels
_TRAINING, _EVALUATION = 0, 1


def rollouts(
    program: Program,
    source: Experience,
    start_step: int,
    restart: int,
    current: Callable[[], State],
) -> Generator[LocalBatch, None, None]:
    """This process's segments for the updates from `start_step` to the end of the run.

    Args:
      restart: the environments begin anew before each update that is a multiple of it.
      current: returns the newest state; called once for each batch, when that is asked for.
    """
    batch_size, seed = program.setting.batch_size, program.experiment.train.seed
    rows = sharding.local_rows(sharding.batch_rows(program.mesh), (batch_size,))
    key, player = program.root_key(), None
    try:
        for step in range(start_step, program.setting.steps):
            if player is None or step % restart == 0:
                if player is not None:
                    player.environments.close()
                made = source.make(_seeds(seed, _TRAINING, step, rows))
                player = _Player(program, made, batch_size, key, train=True)
            arrays = player.segment(current(), step, source.horizon)
            yield LocalBatch(arrays, step, {SINGLE: rows}, {SINGLE: _Numbered()})
    finally:
        if player is not None:
            player.environments.close()


def episodes(
    program: Program, state: State, source: Experience
) -> Generator[LocalBatch, None, None]:
    """`source.episodes` whole episodes: {"return" [B] float32, "length" [B] int32, "mask" [B]}.

    Each environment plays exactly one, so that short episodes count no more often than long ones.
    """
    size = evaluation_batch(program.experiment, program.mesh)
    rows = sharding.local_rows(program.eval_shardings["mask"], (size,))
    key = program.root_key(_EVALUATION_SEED)
    for number in range(-(-source.episodes // size)):
        made = source.make(_seeds(_EVALUATION_SEED, _EVALUATION, number, rows))
        player = _Player(program, made, size, key, train=False)
        returns, lengths = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.int32)
        try:
            for _, transition, playing in player.first_episodes(state, source.limit):
                returns += np.where(playing, transition.reward, 0)
                lengths += playing
        finally:
            made.close()
        mask = number * size + rows < source.episodes
        arrays = {"return": returns, "length": lengths, "mask": mask}
        yield LocalBatch(arrays, number, {SINGLE: rows}, {SINGLE: _Numbered()})


def recorded(
    program: Program, state: State, source: Experience, level: int | None = None
) -> dict[str, np.ndarray]:
    """One episode, to be shown: entries of the observation, "reward", and what `act` returned.

    Each is [T, ...], by time; T is the length of the episode.

    level: which one to play; None: the first of an evaluation.
    """
    size = program.mesh.shape["data"] * program.mesh.shape["fsdp"]
    rows = sharding.local_rows(sharding.batch_rows(program.mesh), (size,))
    made = source.make(_seeds(_EVALUATION_SEED, _EVALUATION, 0, rows), level)
    player = _Player(program, made, size, program.root_key(_EVALUATION_SEED), train=False)
    kept: dict[str, list[np.ndarray]] = {}
    try:
        seen = {name: value[0].copy() for name, value in player.observation.items()}
        for chosen, transition, playing in player.first_episodes(state, source.limit):
            if not playing[0]:
                continue
            acted = {name: sharding.held(value)[0] for name, value in chosen.items()}
            for name, value in {**seen, **acted, "reward": transition.reward[0]}.items():
                kept.setdefault(name, []).append(value)
            seen = {name: value[0].copy() for name, value in transition.observation.items()}
    finally:
        made.close()
    return {name: np.stack(values) for name, values in kept.items()}


class _Player:
    """Environments, what is seen in them now, and the reward of their running episodes."""

    def __init__(
        self,
        program: Program,
        environments: Environments,
        size: int,
        key: jax.Array,
        *,
        train: bool,
    ):
        self.program = program
        self.environments = environments
        self.size = size
        self.key = key
        self.train = train
        self.observation = environments.reset()
        self.sums = np.zeros(len(next(iter(self.observation.values()))), np.float32)

    def choose(self, state: State, count: int) -> dict[str, jax.Array]:
        """What `act` returns for the present observation; `count` numbers its randomness."""
        split = sharding.batch_rows(self.program.mesh)
        structs = {
            name: jax.ShapeDtypeStruct((self.size, *value.shape[1:]), value.dtype)
            for name, value in self.observation.items()
        }
        placed = sharding.place(self.observation, dict.fromkeys(structs, split), structs)
        return self.program.act(state, placed, self.key, np.int32(count), self.train)

    def step(self, chosen: dict[str, jax.Array]) -> Transition:
        transition = self.environments.step(sharding.held(chosen["action"]))
        self.observation = transition.observation
        return transition

    def segment(self, state: State, step: int, horizon: int) -> dict[str, np.ndarray]:
        """`horizon` steps of every environment, by time in the second axis."""
        arrays: dict[str, np.ndarray] = {}

        def keep(t: int, values: dict[str, Any]) -> None:
            for name, value in values.items():
                if t == 0:
                    arrays[name] = np.empty((len(value), horizon, *value.shape[1:]), value.dtype)
                arrays[name][:, t] = value

        acted = []
        for t in range(horizon):
            acted.append(self.choose(state, step * (horizon + 1) + t))
            keep(t, self.observation)
            transition = self.step(acted[-1])
            self.sums += transition.reward
            ended = {"reward": transition.reward, "done": transition.done, "return": self.sums}
            keep(t, ended)
            self.sums[transition.done] = 0
        acted.append(self.choose(state, step * (horizon + 1) + horizon))
        for name in acted[0]:
            arrays[name] = np.stack([sharding.held(chosen[name]) for chosen in acted], axis=1)
        return arrays

    def first_episodes(
        self, state: State, limit: int
    ) -> Iterator[tuple[dict[str, jax.Array], Transition, np.ndarray]]:
        """(what was chosen, what came of it, bool [E]: the first episode still ran), by step."""
        playing = np.ones(len(self.sums), bool)
        for count in range(limit):
            chosen = self.choose(state, count)
            transition = self.step(chosen)
            yield chosen, transition, playing
            playing = playing & ~transition.done
            # Several processes act together, so that none may stop before the others.
            if jax.process_count() == 1 and not playing.any():
                return


class _Numbered:
    """What to call an environment in messages."""

    def name_of(self, index: int) -> str:
        return f"environment {index}"


def _seeds(seed: int, purpose: int, number: int, rows: np.ndarray) -> np.ndarray:
    """One seed in [0, 2**31) for each environment, whatever the processes that share them."""
    sequences = [np.random.SeedSequence([seed, purpose, number, int(row)]) for row in rows]
    return np.array([sequence.generate_state(1)[0] >> 1 for sequence in sequences], np.int64)
