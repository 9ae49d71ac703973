"""Whole runs of playing: longer than the default suite allows."""

from __future__ import annotations

import dataclasses
import functools
import shlex

import jax
import joblib
import numpy as np
import pytest
from PIL import Image

from jaxcog import cli, experiments
from jaxcog.config import override
from jaxcog.data.toy.runner import Runner
from jaxcog.systems.mixstyle.rl.tensorflow_names import NAMES
from jaxcog.training import checkpoint, loop, sharding, start
from jaxcog.training.program import assemble
from jaxcog.training.progress import Silent
from jaxcog.training.writers import read_metrics

pytestmark = pytest.mark.slow

TINY = experiments.load("mixstyle/coinrun").experiment(tiny=True)
SMALL = (
    "--task.depths 4 8 --task.mixstyle.after sequence1 --task.hidden 16 --task.workers 1 "
    "--task.minibatches 2 --train.batch-size 8 --train.eval-batch-size 8 --data.horizon 16 "
    "--data.episodes 8 --data.threads 1 --train.checkpoint-every '2 steps' "
    "--train.evaluate-every '4 steps' --train.duration '4 steps'"
)


def test_a_policy_learns_the_generated_game(tmp_path):
    task = dataclasses.replace(TINY.task, hidden=64, samples=None, minibatches=4, lr=2e-3)
    task = dataclasses.replace(task, gradient_factor=1.0)
    experiment = override(
        dataclasses.replace(TINY, task=task, data=Runner(size=16, horizon=32, levels=10)),
        {
            "train.duration": "80 steps",
            "train.batch_size": 16,
            "train.evaluate_every": "80 steps",
            "train.checkpoint_every": "40 steps",
        },
    )
    outcome = loop.train(experiment, tmp_path, "runner", Silent(), jax.devices()[:1])
    returns = [row["return"] for row in read_metrics(tmp_path / "metrics.jsonl")
               if row["kind"] == "train"]  # fmt: skip
    assert returns[0] < 2, "by chance"
    assert returns[-1] > 4.5
    assert outcome.metrics["train/return"] > 4.5


def test_one_update_is_the_same_on_every_mesh():
    after = []
    for devices in (1, 8):
        splits = TINY.data.load()
        program = start.assemble_for(TINY, splits, jax.devices()[:devices])
        key = program.root_key()
        state = program.init(key)
        batches = start.batches(program, splits, 0, Silent())
        batch = next(batches(functools.partial(dict, state)))
        state, _ = program.train_step(state, batch.arrays, key)
        after.append((batch.arrays, jax.device_get(state["params"])))
    (segments, params), (others, sharded) = after
    np.testing.assert_array_equal(segments["image"], others["image"])
    np.testing.assert_array_equal(segments["action"], others["action"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, sharded)


def test_the_real_game_trains_resumes_and_is_shown(tmp_path, capsys):
    pytest.importorskip("envpool", reason="the real game needs the extra: jaxcog[rl]")
    run, flags = str(tmp_path / "run"), shlex.split(SMALL)
    assert cli.main(["train", "mixstyle/coinrun", "--workdir", run, *flags]) == 0
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4]
    evaluated = next(row for row in rows if row["kind"] == "eval")
    assert 0 <= evaluated["return"] <= 10
    assert 0 < evaluated["length"] <= 1000
    (tmp_path / "levels.txt").write_text("3, 700\n")
    out = tmp_path / "out"
    assert cli.main(["predict", run, str(tmp_path / "levels.txt"), "--out", str(out)]) == 0
    with Image.open(out / "episode-level-700.gif") as episode:
        assert episode.n_frames > 1


@pytest.mark.parametrize("kind", ["npz", "joblib"])
def test_official_variables_are_imported(tmp_path, kind):
    experiment = experiments.load("mixstyle/coinrun").experiment()
    mesh = sharding.abstract_mesh(experiment.mesh, 1)
    program = assemble(experiment, experiment.data.describe(), mesh)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape).astype(leaf.dtype),
        program.state_struct["params"],
    )
    tensors = NAMES.to_torch({"params": params})
    assert len(tensors) == 36
    assert tensors["model/conv2d_14/kernel"].shape == (3, 3, 32, 32)
    file = tmp_path / f"official.{kind}"
    if kind == "npz":
        np.savez(file, **tensors)
    else:
        in_order = [tensors[rule.torch] for rule in NAMES.rules]
        joblib.dump({"params": {"model": in_order}, "args": {"mixstyle": True}}, file)
    command = ["import-torch", "mixstyle/coinrun", str(file)]
    assert cli.main([*command, "--out", str(tmp_path / "run")]) == 0
    restored = checkpoint.restore_tree(tmp_path / "run")["params"]
    jax.tree.map(np.testing.assert_array_equal, params, restored)
