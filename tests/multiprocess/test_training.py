"""The command itself under fault and on several processes: same numbers, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxcog.training import checkpoint
from jaxcog.training.writers import read_metrics
from jaxcog.trees import by_path
from tests.multiprocess.processes import ROOT, Signal, run_processes, xla_flags

CONFIG = "orthohash/digits"
LENGTH = ["--train.duration", "60 steps", "--train.checkpoint-every", "10 steps"]
TRAIN = ["-m", "jaxcog.cli", "train", CONFIG, "--train.evaluate-every", "60 steps", *LENGTH]


def start(workdir: Path, devices: int = 1, *flags: str) -> subprocess.Popen:
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(devices),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, *TRAIN, "--workdir", str(workdir), *flags],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workdir: Path, devices: int = 1, *flags: str) -> None:
    child = start(workdir, devices, *flags)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors


def weights(workdir: Path) -> dict[str, np.ndarray]:
    tree = checkpoint.restore_tree(workdir)
    return by_path(tree)


def losses(workdir: Path) -> dict[int, float]:
    rows = [row for row in read_metrics(workdir / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 61)), "every step once, in order"
    return {row["step"]: row["loss"] for row in rows}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(workdir)
    return workdir


def wait_for_step(workdir: Path, step: int, child: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and child.poll() is None:
        if (workdir / "checkpoints" / str(step)).is_dir():
            return
        time.sleep(0.005)
    raise AssertionError(f"no checkpoint of step {step}: {child.stderr.read()}")


def test_killed_twice_it_ends_with_the_same_bits(undisturbed: Path, tmp_path: Path):
    for step in (10, 40):
        child = start(tmp_path)
        wait_for_step(tmp_path, step, child)
        child.kill()
        child.wait()
        assert child.returncode == -signal.SIGKILL
    finish(tmp_path)
    want, got = weights(undisturbed), weights(tmp_path)
    assert want.keys() == got.keys()
    for name, leaf in want.items():
        assert got[name].tobytes() == leaf.tobytes(), name
    assert losses(tmp_path) == losses(undisturbed)


def test_sigterm_saves_and_says_so_by_its_status(undisturbed: Path, tmp_path: Path):
    child = start(tmp_path)
    wait_for_step(tmp_path, 10, child)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 143, errors
    assert "the same command goes on" in errors
    finish(tmp_path)
    assert losses(tmp_path) == losses(undisturbed)


def test_two_processes_equal_one_and_hand_over(undisturbed: Path, tmp_path: Path):
    """SIGTERM to one of two processes: both save the same step; one process ends the run."""
    results = run_processes(
        arguments=[*TRAIN, "--workdir", str(tmp_path)],
        devices=2,
        send=Signal(1, once=tmp_path / "checkpoints" / "10"),
        check=False,
    )
    assert [result.status for result in results] == [143, 143], results
    stopped = checkpoint.read_meta(tmp_path)["step"]
    assert stopped >= 10
    finish(tmp_path, 4, "--mesh.fsdp", "2")  # another mesh, too
    want, got = losses(undisturbed), losses(tmp_path)
    np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=2e-3)
    assert json.loads((tmp_path / "config.json").read_text())["config"] == CONFIG
