"""The command line as a person meets it: each verb, and each kind of bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcog import cli, experiments

VERBS = (
    "list",
    "train",
    "eval",
    "predict",
    "plan",
    "bench",
    "reproduce",
    "import-torch",
    "prepare",
)
TINY = ["train", "orthohash/digits", "--tiny"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of `jaxcog ARGUMENTS...`."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main([*TINY, "--workdir", str(path)]) == 0
    return path


def test_list_names_every_config(capsys):
    status, out, _ = run(capsys, "list", "--json")
    assert status == 0
    assert [row["config"] for row in json.loads(out)] == experiments.names()
    assert run(capsys, "list")[0] == 0


def test_train_leaves_a_whole_workdir(workdir: Path):
    names = {path.name for path in workdir.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints", "report.html"} <= names
    assert "nearest" in (workdir / "report.html").read_text().lower()


def test_eval_gives_the_same_metrics_as_training(workdir: Path, capsys):
    status, out, _ = run(capsys, "eval", workdir, "--json")
    assert status == 0
    found = json.loads(out)
    assert (found["config"], found["step"]) == ("orthohash/digits", 4)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = next(row for row in reversed(rows) if row["kind"] == "eval")
    assert found["metrics"] == {k: v for k, v in logged.items() if k in found["metrics"]}
    step = next((workdir / "checkpoints").iterdir())
    assert run(capsys, "eval", step, "--json")[0] == 0


def test_predict_writes_pictures(workdir: Path, tmp_path: Path, capsys):
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    status, out, _ = run(capsys, "predict", workdir, tmp_path, "--out", tmp_path / "out")
    assert status == 0
    written = [Path(line) for line in out.splitlines()]
    assert all(path.is_file() for path in written)
    assert (tmp_path / "out" / "index.html").is_file()


def test_the_same_command_on_a_finished_run_changes_nothing(workdir: Path, capsys):
    before = (workdir / "metrics.jsonl").read_text()
    assert run(capsys, *TINY, "--workdir", workdir)[0] == 0
    assert (workdir / "metrics.jsonl").read_text() == before


BAD = {
    "a config that does not exist": (["train", "orthohash/digit"], "orthohash/digits"),
    "a system that does not exist": (["reproduce", "orthohas"], "orthohash"),
    "a key that does not exist": ([*TINY, "--train.sed", "3"], "--train.seed"),
    "a value of the wrong type": ([*TINY, "--train.seed", "three"], "train.seed"),
    "a value out of range": ([*TINY, "--train.batch-size", "0"], "train.batch_size=0"),
    "a mesh of other devices": ([*TINY, "--mesh.data", "3"], "8"),
    "a batch that does not divide": ([*TINY, "--train.batch-size", "12"], "12"),
    "a batch larger than the data": ([*TINY, "--train.batch-size", "4096"], "1200"),
    "a missing argument": (["train"], "CONFIG"),
    "a workdir that is not there": (["eval", "no/such/run"], "no/such/run"),
    "an input that is not there": (["predict", "{workdir}", "no.png", "--out", "x"], "no.png"),
    "a dataset that is not there": (["prepare", "pacs", "--raw", "no/such"], "no/such"),
    "a dataset that is unknown": (["prepare", "pax", "--raw", "."], "pacs"),
    "a topology that is unknown": (["plan", "orthohash/digits", "--topology", "v9:2x2"], "v5e"),
    "a torch file that is not there": (
        ["import-torch", "orthohash", "no.pth", "--out", "x"],
        "no.pth",
    ),
    "data that was not prepared": (
        ["train", "orthohash/imagenet100", "--data.root", "no/such", "--workdir", "x"],
        "jaxcog prepare imagenet100",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_status_2(case, workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, named = BAD[case]
    arguments = [argument.format(workdir=workdir) for argument in arguments]
    status, out, err = run(capsys, *arguments)
    assert status == 2, (out, err)
    assert named in err, err
    assert "Traceback" not in err
    assert not (tmp_path / "x").exists(), "nothing is written for a command that fails"


def test_a_workdir_of_another_config_stays_as_it_is(workdir: Path, capsys):
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    status, _, err = run(capsys, *TINY, "--train.seed", "5", "--workdir", workdir)
    assert status == 2
    assert "train.seed: 0 there, 5 now" in err
    assert "another --workdir" in err
    assert before == {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def test_a_foreign_checkpoint_lists_what_differs(workdir: Path, tmp_path: Path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    body = json.loads((copy / "config.json").read_text())
    body["experiment"]["task"]["num_bits"] = 24
    (copy / "config.json").write_text(json.dumps(body))
    status, _, err = run(capsys, "eval", copy)
    assert status == 2
    assert "params/hash_fc/linear/kernel" in err
    assert "config.json" in err


def test_a_damaged_newest_checkpoint_falls_back(workdir: Path, tmp_path: Path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    damaged = copy / "checkpoints" / "4"
    largest = max((p for p in damaged.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    status, out, err = run(capsys, "eval", copy, "--json")
    assert status == 0
    assert json.loads(out)["step"] == 2
    assert "4" in err


def test_help_of_every_verb(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for verb in VERBS:
        assert verb in out
        status, text, _ = run(capsys, verb, "--help")
        assert status == 0
        assert "usage: jaxcog" in text
    status, text, _ = run(capsys, "train", "orthohash/digits", "--help")
    assert status == 0
    assert "--task.num-bits" in text
