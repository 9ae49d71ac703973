"""`jaxcog import-torch` from files with official names: everything used, or everything listed."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxcog import cli, experiments
from jaxcog.config import override
from jaxcog.systems.mixstyle.torch_names import NAMES
from jaxcog.systems.orthohash.torch_names import ALEXNET
from jaxcog.training import checkpoint
from jaxcog.training.program import assemble
from jaxcog.training.sharding import abstract_mesh
from jaxcog.trees import by_path

SMALL = {"task.fc_width": 16, "task.num_bits": 8, "data.size": 63}
FLAGS = ["--task.fc-width", "16", "--task.num-bits", "8", "--data.size", "63"]


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    """A state dict with the authors' names for a small AlexNet of 100 classes."""
    experiment = override(experiments.load("orthohash/imagenet100").experiment(), SMALL)
    mesh = abstract_mesh(experiment.mesh, 1)
    struct = assemble(experiment, experiment.data.describe(), mesh).state_struct
    random = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = random.choice([-1.0, 1.0], leaf.shape)
        noise = 1 if leaf.dtype == np.int8 else random.uniform(0.1, 1, leaf.shape)
        return (values * noise).astype(leaf.dtype)

    parts = {part: struct[part] for part in ("params", "batch_stats", "codebook")}
    tensors = ALEXNET.to_torch(jax.tree.map(fill, parts))
    return {key: np.ascontiguousarray(value) for key, value in tensors.items()}


def run(tensors: dict, tmp_path: Path, *flags: str) -> int:
    save_file(tensors, tmp_path / "best.safetensors")
    command = ["import-torch", "orthohash", str(tmp_path / "best.safetensors"), *FLAGS, *flags]
    return cli.main([*command, "--out", str(tmp_path / "out")])


def test_every_key_is_used_and_restored(official, tmp_path, capsys):
    assert run(official, tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {key for key, _ in found["used"]} == official.keys()
    assert found["unused"] == found["missing"] == []
    restored = checkpoint.restore_tree(tmp_path / "out")
    again = ALEXNET.to_torch({p: restored[p] for p in ("params", "batch_stats", "codebook")})
    for key, value in official.items():
        np.testing.assert_array_equal(np.asarray(again[key], value.dtype), value)


def test_differences_are_listed_and_nothing_is_written(official, tmp_path, capsys):
    changed = {key: value for key, value in official.items() if key != "fc.4.bias"}
    assert run({**changed, "extra.weight": np.zeros(3)}, tmp_path) == 2
    message = capsys.readouterr().err
    assert "params/fc_4/bias" in message
    assert "extra.weight" in message
    assert not (tmp_path / "out").exists()


def test_imagenet_weights_fill_the_trunk_only(official, tmp_path):
    renamed = {
        key.replace("fc.", "classifier."): value
        for key, value in official.items()
        if key.startswith(("features.", "fc."))
    }
    head = "^(params|batch_stats)/hash_fc/"
    assert run(renamed, tmp_path) == 2
    assert run(renamed, tmp_path, "--allow-missing", head, "--allow-missing", "^codebook$") == 0
    got = by_path(checkpoint.restore_tree(tmp_path / "out"))
    want = by_path(ALEXNET.to_ours(official))
    for name in ("params/features_0/kernel", "params/fc_1/kernel"):
        np.testing.assert_array_equal(got[name], want[name])


def test_mixstyle_reads_its_own_export(tmp_path, capsys):
    experiment = experiments.load("mixstyle/digits").experiment()
    mesh = abstract_mesh(experiment.mesh, 1)
    struct = assemble(experiment, experiment.data.describe(), mesh).state_struct
    parts = {part: struct[part] for part in ("params", "batch_stats")}
    tensors = NAMES.to_torch(jax.tree.map(lambda x: np.ones(x.shape, x.dtype), parts))
    save_file(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / "model.safetensors"
    )
    out = tmp_path / "out"
    file = str(tmp_path / "model.safetensors")
    assert cli.main(["import-torch", "mixstyle/digits", file, "--out", str(out)]) == 0
    capsys.readouterr()
    assert cli.main(["eval", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 0
