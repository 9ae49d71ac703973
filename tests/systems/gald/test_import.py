"""`jaxcog import-torch gald` from files with official names."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxcog import cli
from jaxcog.systems.gald import Network
from jaxcog.systems.gald.torch_names import KINDS, TRUNKS
from jaxcog.training import checkpoint
from jaxcog.trees import by_path

pytestmark = pytest.mark.slow  # drawing the initial values of so many arrays takes long to compile
FLAGS = ["--task.trunk", "tiny", "--task.width", "32", "--data.crop", "121", "121"]


def weights(stem):
    """Random variables of the network that FLAGS make."""
    network = Network(19, trunk="tiny", width=32, stem=stem)
    struct = jax.eval_shape(lambda: network.init(jax.random.key(0), (121, 121, 3)))
    random = np.random.default_rng(0)

    def fill(leaf):
        return random.normal(size=leaf.shape).astype(leaf.dtype)

    return dict(zip(("params", "batch_stats"), jax.tree.map(fill, struct), strict=True))


def run(tensors, tmp_path, *flags):
    contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    save_file(contiguous, tmp_path / "x.safetensors")
    command = ["import-torch", "gald", str(tmp_path / "x.safetensors"), *FLAGS, *flags]
    return cli.main([*command, "--out", str(tmp_path / "out"), "--json"])


def trunk(tree):
    return {part: {"trunk": values["trunk"]} for part, values in tree.items()}


def test_an_official_checkpoint(tmp_path, capsys):
    ours = weights("deep")
    tensors = KINDS["gald"].to_torch(ours)
    assert run(tensors, tmp_path) == 0
    report = json.loads(capsys.readouterr().out)
    assert {key for key, _ in report["used"]} == tensors.keys()
    restored = by_path(checkpoint.restore_tree(tmp_path / "out"))
    for path, value in by_path(ours).items():
        np.testing.assert_array_equal(restored[path], value)


@pytest.mark.parametrize(
    ("stem", "table"), [("deep", TRUNKS[0]), ("deep", TRUNKS[1]), ("plain", TRUNKS[1])]
)
def test_imagenet_weights_fill_the_trunk(stem, table, tmp_path, capsys):
    """GALD's deep stem, a deep stem side by side, torchvision's; each with its classifier."""
    ours = weights(stem)
    tensors = {**table.to_torch(trunk(ours)), "fc.weight": np.zeros((1000, 2048), np.float32)}
    flags = ["--task.stem", stem]
    assert run(tensors, tmp_path, *flags) == 2
    assert "head/conva" in capsys.readouterr().err
    assert run(tensors, tmp_path, *flags, "--allow-missing", "/(head|aux)/") == 0
    assert json.loads(capsys.readouterr().out)["ignored"] == ["fc.weight"]
    restored = by_path(checkpoint.restore_tree(tmp_path / "out"))
    for path, value in by_path(trunk(ours)).items():
        np.testing.assert_array_equal(restored[path], value)
