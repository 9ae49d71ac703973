"""`jaxcog import-torch` from files with the authors' names, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jaxcog import cli, experiments
from jaxcog.config import override
from jaxcog.systems.dlfs import torch_names
from jaxcog.training import checkpoint
from jaxcog.training.program import assemble
from jaxcog.training.sharding import abstract_mesh
from jaxcog.trees import by_path

pytestmark = pytest.mark.slow  # drawing the initial values of so many arrays takes long to compile

SMALL = {
    "width": 4,
    "blocks": 1,
    "styled_blocks": 1,
    "identity_features": 8,
    "texture_features": (8,),
    "age_features": (4,),
    "latent": 8,
    "mapping": 1,
    "discriminator_width": 4,
}
FLAGS = [
    word
    for name, value in SMALL.items()
    for word in (f"--task.{name}", str(value[0] if isinstance(value, tuple) else value))
]


def parameters(kind: str) -> dict:
    """Random parameters of the networks that FLAGS make."""
    changes = {f"task.{name}": value for name, value in SMALL.items()}
    experiment = override(experiments.load("dlfs/digits").experiment(), changes)
    experiment = override(experiment, {"task.generator": kind})
    mesh = abstract_mesh(experiment.mesh, 1)
    struct = assemble(experiment, experiment.data.describe(), mesh).state_struct["params"]
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), struct)


def run(tensors: dict, folder: Path, *flags: str) -> int:
    contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    save_file(contiguous, folder / "net.safetensors")
    command = ["import-torch", "dlfs/digits", str(folder / "net.safetensors"), *FLAGS, *flags]
    return cli.main([*command, "--out", str(folder / "out"), "--json"])


@pytest.mark.parametrize("kind", ["dlfs", "lats"])
def test_a_generator_and_what_it_paints(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    """The average that is shown is the imported generator; exported again, every key comes back."""
    ours = parameters(kind)["generator"]
    tensors = torch_names.export_generator(ours, kind)
    assert run(tensors, tmp_path, "--task.generator", kind) == 0
    report = json.loads(capsys.readouterr().out)
    constants = {key for key in tensors if ".blur." in key or "t_denorm" in key}
    assert set(report["ignored"]) == constants
    assert {key for key, _ in report["used"]} == tensors.keys() - constants
    restored = checkpoint.restore_tree(tmp_path / "out")
    for tree in (restored["params"]["generator"], restored["ema"]["generator"]):
        again = torch_names.export_generator(tree, kind)
        assert again.keys() == tensors.keys()
        for key, value in tensors.items():
            np.testing.assert_array_equal(again[key], value)

    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    command = ["predict", str(tmp_path / "out"), str(tmp_path / "face.png")]
    assert cli.main([*command, "--out", str(tmp_path / "shown")]) == 0
    assert list((tmp_path / "shown").glob("*.gif"))


def test_a_discriminator(tmp_path: Path):
    ours = parameters("dlfs")["discriminator"]
    tensors = torch_names.DISCRIMINATOR.to_torch({"params": {"discriminator": ours}})
    assert run(tensors, tmp_path) == 2
    assert run(tensors, tmp_path, "--allow-missing", "^params/generator/") == 0
    restored = by_path(checkpoint.restore_tree(tmp_path / "out")["params"]["discriminator"])
    for path, value in by_path(ours).items():
        np.testing.assert_array_equal(restored[path], value)
