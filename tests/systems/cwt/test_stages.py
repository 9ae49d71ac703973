"""Both stages from the command line, on generated pictures: what fits, and what does not."""

from __future__ import annotations

import json
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jaxcog import cli, experiments, reproduce
from jaxcog.config import override
from jaxcog.data.toy.grids import draw_pictures
from jaxcog.systems.cwt.claims import CLAIMS
from jaxcog.training import checkpoint, loop
from jaxcog.training.progress import Silent

META = ["train", "cwt/digits_meta", "--tiny", "--task.pretrained"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cwt") / "base"
    assert cli.main(["train", "cwt/digits_base", "--tiny", "--workdir", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def meta(base: Path) -> Path:
    path = base.parent / "meta"
    assert cli.main([*META, "--workdir", str(path), "--train.start-from", str(base)]) == 0
    return path


def test_the_encoder_stays_as_the_first_stage_left_it(base: Path, meta: Path):
    before, after = (checkpoint.restore_tree(path)["params"] for path in (base, meta))
    for name, layer in before["encoder"].items():
        np.testing.assert_array_equal(layer["kernel"], after["encoder"][name]["kernel"])
    assert "transformer" in after
    assert "Foreground IoU" in (meta / "report.html").read_text()


def test_many_devices_do_what_one_does(base: Path, meta: Path, tmp_path: Path):
    """The fixtures ran on eight: episodes are spread, and their updates follow one another."""
    changes = {"task.pretrained": True, "train.start_from": str(base)}
    experiment = override(experiments.load("cwt/digits_meta").experiment(tiny=True), changes)
    one = loop.train(experiment, tmp_path, "cwt/digits_meta", Silent(), jax.devices()[:1])
    many = checkpoint.restore_tree(meta)["params"]["transformer"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        jax.device_get(one.state["params"]["transformer"]),
        many,
    )


def test_another_folds_first_stage_is_an_error(base: Path, tmp_path: Path, capsys):
    command = [*META, "--workdir", str(tmp_path / "run"), "--data.fold", "1"]
    assert cli.main([*command, "--train.start-from", str(base)]) == 2
    said = capsys.readouterr().err
    assert "novel classes here: it belongs to another fold" in said
    assert "4, 4 90" in said
    assert cli.main(command) == 2
    assert "--train.start-from" in capsys.readouterr().err


def test_a_run_is_not_judged_on_another_fold(meta: Path, capsys):
    assert cli.main(["eval", str(meta), "--data.fold", "1"]) == 2
    assert "trained on 56 classes" in capsys.readouterr().err


def test_a_fold_that_does_not_exist(capsys):
    assert cli.main(["train", "cwt/digits_meta", "--tiny", "--data.fold", "3"]) == 2
    assert "the folds are 0, 1, 2" in capsys.readouterr().err


def pictures(folder: Path) -> list[Path]:
    """support, its mask, query."""
    folder.mkdir()
    images, inside = draw_pictures(np.random.default_rng(0), np.array([56, 56]), np.array([64, 70]))
    files = [folder / name for name in ("support.png", "support_mask.png", "query.png")]
    shown = (255 * np.clip(images, 0, 1)).astype(np.uint8).repeat(3, axis=-1)
    Image.fromarray(shown[0]).save(files[0])
    Image.fromarray(inside[0].repeat(8, 0).repeat(8, 1).astype(np.uint8)).save(files[1])
    Image.fromarray(shown[1]).save(files[2])
    return files


def test_predict(meta: Path, tmp_path: Path, capsys):
    support, mask, query = pictures(tmp_path / "in")
    out = tmp_path / "out"

    def run(*files: Path) -> int:
        return cli.main(["predict", str(meta), *map(str, files), "--out", str(out)])

    assert run(support, mask, query) == 0
    assert {"support.png", "queries.png", "index.html"} <= {p.name for p in out.iterdir()}
    for files, problem in (
        ([mask, query], "no image before it"),
        ([query], "no support image with a mask"),
        ([support, mask], "no query"),
    ):
        assert run(*files) == 2
        assert problem in capsys.readouterr().err
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(mask)
    assert run(support, mask, query) == 2
    assert "the mask is empty" in capsys.readouterr().err
    Image.fromarray(np.eye(64, dtype=np.uint8) * 3 + 1).save(mask)
    assert run(support, mask, query) == 2
    assert "several classes (1, 4)" in capsys.readouterr().err
    Image.fromarray(np.ones((32, 64), np.uint8)).save(mask)
    assert run(support, mask, query) == 2
    assert "a mask has the size of its image" in capsys.readouterr().err


def test_an_official_transformer_is_laid_over_the_first_stage(base: Path, tmp_path: Path, capsys):
    random = np.random.default_rng(0)
    shapes = {"w_qkvs.weight": (256, 64), "fc.weight": (64, 256), "fc.bias": (64,)}
    shapes |= {f"layer_norm.{name}": (64,) for name in ("weight", "bias")}
    tensors = {f"module.{k}": random.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    save_file(tensors, tmp_path / "best.safetensors")
    out = tmp_path / "out"
    command = ["import-torch", "cwt/digits_meta", str(tmp_path / "best.safetensors")]
    assert cli.main([*command, "--out", str(out)]) == 2
    assert "--train.start-from" in capsys.readouterr().err
    start = ["--train.start-from", str(base), "--data.episodes", "8", "--task.inner.steps", "4"]
    assert cli.main([*command, "--out", str(out), *start]) == 0
    params = checkpoint.restore_tree(out)["params"]
    wanted = checkpoint.restore_tree(base)["params"]["encoder"]["fc1"]["kernel"]
    np.testing.assert_array_equal(params["encoder"]["fc1"]["kernel"], wanted)
    np.testing.assert_array_equal(params["transformer"]["qkv"], tensors["module.w_qkvs.weight"].T)
    capsys.readouterr()
    assert cli.main(["eval", str(out), "--json"]) == 0
    assert "novel_miou" in json.loads(capsys.readouterr().out)["metrics"]


def test_claims_may_follow_an_earlier_stage(monkeypatch: pytest.MonkeyPatch):
    load = experiments.load

    def tiny(name: str) -> types.SimpleNamespace:
        changes = {"task.pretrained": True} if name.endswith("meta") else {}
        experiment = override(load(name).experiment(tiny=True), changes)
        return types.SimpleNamespace(experiment=lambda: experiment)

    monkeypatch.setattr(reproduce.experiments, "load", tiny)
    (result,) = reproduce.reproduce("cwt", Silent(), seeds=1)
    assert len(result.checks) == len(CLAIMS[0].requirements)
    values = result.values["with transformer"]
    gain = values["novel_miou"] - values["novel_support_miou"]
    assert result.checks[0][1] == pytest.approx(float(gain.mean()))
