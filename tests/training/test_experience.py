"""Data that depends on the state: what the loop feeds to a task whose policy acts."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.config import Experiment, Mesh, Train
from jaxcog.data.types import Experience, Splits, Transition
from jaxcog.metrics.state import Mean
from jaxcog.task import DataInfo, Task
from jaxcog.training import evaluation, experience, loop, start
from jaxcog.training.progress import Silent
from jaxcog.training.writers import StepLog
from tests.multiprocess.processes import run_processes

HORIZON, ENVIRONMENTS = 5, 8


class Counting:
    """Counts its steps; an episode ends after 2 + seed % 3 of them."""

    made: ClassVar[list[np.ndarray]] = []

    def __init__(self, seeds, level=None):
        self.made.append(seeds)
        self.age = np.zeros(len(seeds), np.float32)
        self.end = 2 + seeds % 3
        self.level = 0 if level is None else level

    def reset(self):
        return {"age": self.age.copy()}

    def step(self, actions):
        self.age += 1
        done = self.age >= self.end
        self.age[done] = 0
        return Transition(self.reset(), actions.astype(np.float32) + self.level, done)

    def close(self):
        pass


@dataclasses.dataclass(frozen=True)
class Counts:
    episodes: int = 12

    def describe(self):
        names = ("age", "reward", "return")
        times = {name: jax.ShapeDtypeStruct((HORIZON,), jnp.float32) for name in names}
        times["done"] = jax.ShapeDtypeStruct((HORIZON,), jnp.bool_)
        times["action"] = jax.ShapeDtypeStruct((HORIZON + 1,), jnp.int32)
        episode = {
            "return": jax.ShapeDtypeStruct((), jnp.float32),
            "length": jax.ShapeDtypeStruct((), jnp.int32),
        }
        return DataInfo(times, 1, eval_element=episode, facts={"steps_per_epoch": 1})

    def load(self):
        source = Experience(Counting, HORIZON, self.episodes, limit=10)
        return Splits(source, {"test": source}, self.describe())


@dataclasses.dataclass(frozen=True)
class Stepping:
    """Acts with the number of the update; learns nothing."""

    def build(self, setting):
        def train_step(state, batch, key):
            kept = {name: batch[name] for name in state["last"]}
            return {**state, "step": state["step"] + 1, "last": kept}, {"sum": batch["age"].sum()}

        def init(key):
            last = {
                name: jnp.zeros((setting.batch_size, *leaf.shape), leaf.dtype)
                for name, leaf in setting.data.element.items()
            }
            return {"step": jnp.zeros((), jnp.int32), "params": {}, "last": last}

        def act(state, observation, key, train):
            action = jnp.zeros(len(observation["age"]), jnp.int32) + (state["step"] if train else 7)
            return {"action": action}

        def eval_step(state, batch):
            return {name: Mean.of(batch[name], batch["mask"]) for name in ("return", "length")}

        def summarize(results):
            return {name: mean.compute() for name, mean in results["test"].items()}

        return Task(init, train_step, eval_step, summarize, "return", act=act)


def program_of(devices: int, **train):
    settings = Train(duration="6 steps", batch_size=ENVIRONMENTS, eval_batch_size=8, **train)
    experiment = Experiment("standin", Stepping(), Counts(), settings, Mesh())
    splits = experiment.data.load()
    return start.assemble_for(experiment, splits, jax.devices()[:devices]), splits


def train(program, splits, first=0):
    key, states = program.root_key(), []
    state = {**program.init(key), "step": jnp.asarray(first, jnp.int32)}
    batches = start.batches(program, splits, first, Silent())
    log = StepLog(program.scalar_names, lambda *row: None)
    for _, after in loop.updates(program, state, batches, key, log):
        states.append(jax.device_get(after["last"]))
    return states


@pytest.mark.parametrize("devices", [1, 8])
def test_segments_follow_one_another_and_act_on_the_newest_state(devices: int):
    Counting.made.clear()
    seen = train(*program_of(devices, checkpoint_every="6 steps"))
    assert len(seen) == 6
    (seeds,) = Counting.made
    ends = 2 + seeds % 3
    for update, last in enumerate(seen):
        # One row more of what was chosen than of what came of it.
        assert last["action"].shape == (ENVIRONMENTS, HORIZON + 1)
        assert (last["action"] == update).all()
        assert (last["reward"] == update).all()
        for i in range(ENVIRONMENTS):
            steps = update * HORIZON + np.arange(HORIZON)
            np.testing.assert_array_equal(last["age"][i], steps % ends[i])
            np.testing.assert_array_equal(last["done"][i], (steps + 1) % ends[i] == 0)
        first = last["age"] == 0
        np.testing.assert_array_equal(last["return"][first], last["reward"][first])


def test_environments_begin_anew_at_regular_checkpoints_and_where_a_run_goes_on():
    Counting.made.clear()
    program, splits = program_of(1, checkpoint_every="2 steps")
    whole = train(program, splits)
    made = list(Counting.made)
    assert len(made) == 3
    assert len({tuple(seeds) for seeds in made}) == 3
    Counting.made.clear()
    later = train(program, splits, first=4)
    np.testing.assert_array_equal(Counting.made, made[2:])
    jax.tree.map(np.testing.assert_array_equal, whole[4:], later)


def test_every_episode_of_an_evaluation_counts_once():
    program, splits = program_of(1)
    state = program.init(program.root_key())
    Counting.made.clear()
    metrics, _ = evaluation.evaluate(program, state, splits)
    # 12 episodes in batches of 8: two batches of environments, the last four masked.
    first, second = Counting.made
    lengths = 2 + np.concatenate([first, second[:4]]) % 3
    assert metrics["length"] == pytest.approx(np.mean(lengths))
    assert metrics["return"] == pytest.approx(7 * np.mean(lengths))


def test_a_recorded_episode_ends_where_it_ended():
    program, splits = program_of(1)
    state = program.init(program.root_key())
    Counting.made.clear()
    episode = experience.recorded(program, state, splits.evaluation["test"], level=3)
    length = int(2 + Counting.made[0][0] % 3)
    np.testing.assert_array_equal(episode["age"], np.arange(length))
    np.testing.assert_array_equal(episode["reward"], [10] * length)
    np.testing.assert_array_equal(episode["action"], [7] * length)


def sums(program, splits):
    """The sum of all ages that each update was given."""
    rows, key = [], program.root_key()
    log = StepLog(program.scalar_names, lambda step, values, batch: rows.append(values["sum"]))
    batches = start.batches(program, splits, 0, Silent())
    for _ in loop.updates(program, program.init(key), batches, key, log):
        pass
    log.flush()
    return rows


def test_each_process_has_the_environments_of_its_rows():
    script = """
    from jaxcog.training import evaluation
    from tests.training.test_experience import program_of, sums

    program, splits = program_of(4)
    metrics, _ = evaluation.evaluate(program, program.init(program.root_key()), splits)
    print(sums(program, splits), metrics)
    """
    program, splits = program_of(4)
    metrics, _ = evaluation.evaluate(program, program.init(program.root_key()), splits)
    wanted = f"{sums(program, splits)} {metrics}"
    for result in run_processes(script, n=2, devices=2):
        assert result.out.strip() == wanted
