"""What goes wrong on real machines, on every system: a run goes on, or ends with one clear message.

In the default suite: bad numbers in a batch of one system, damaged records. With `-m slow`: a full
disk, and every system with bad numbers, killed and terminated at a random step, and on another
mesh. Elsewhere: several processes (tests/multiprocess), damaged checkpoints
(tests/training/test_checkpoint.py), dead workers (tests/data/test_pipeline.py).
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog import experiments
from jaxcog.config import Experiment, override
from jaxcog.data import builders, pipeline
from jaxcog.data.datasets import domains
from jaxcog.errors import DataError
from jaxcog.training import checkpoint, loop, start
from jaxcog.training.progress import Silent
from jaxcog.training.writers import read_metrics
from jaxcog.trees import by_path
from tests.data.datasets import raw as make
from tests.multiprocess.processes import xla_flags

SYSTEMS = sorted({name.split("/")[0] for name in experiments.names()})
OTHERS = [system for system in SYSTEMS if system != "orthohash"]
SHORT = {
    "train.duration": "6 steps",
    "train.checkpoint_every": "2 steps",
    "train.evaluate_every": "6 steps",
    "train.keep_last": 9,
}
FLAGS = [x for k, v in SHORT.items() for x in (f"--{k.replace('_', '-')}", str(v))]
ROOT = Path(__file__).resolve().parents[1]


def config_of(system: str) -> str:
    return experiments.default_of(system)


def tiny(system: str) -> Experiment:
    return override(experiments.load(config_of(system)).experiment(tiny=True), SHORT)


def poisoned(arrays: Any) -> Any:
    """The same batch with NaN in the first example of everything that can hold one."""

    def poison(x: np.ndarray) -> np.ndarray:
        x = np.array(x)
        if np.issubdtype(x.dtype, np.floating) or x.dtype == jnp.bfloat16:
            x[0] = np.nan
        return x

    return jax.tree.map(poison, arrays)


@pytest.mark.parametrize(
    "system", ["orthohash", *(pytest.param(s, marks=pytest.mark.slow) for s in OTHERS)]
)
def test_nan_in_a_batch(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The step, its records and the remedy are named; checkpoints from before stay as they are."""
    experiment = tiny(system)
    element = jax.tree.leaves(experiment.data.describe().element)
    if not any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in element):
        pytest.skip("its batches hold no floating-point numbers")
    honest = start.batches

    def batches(*arguments: Any) -> Iterator[pipeline.LocalBatch]:
        for batch in honest(*arguments):
            bad = batch.step == 2
            yield dataclasses.replace(batch, arrays=poisoned(batch.arrays)) if bad else batch

    monkeypatch.setattr(start, "batches", batches)
    with pytest.raises(loop.NonFiniteError, match=r"step 3: .*not finite. Records of this batch"):
        loop.train(experiment, tmp_path, config_of(system), Silent(), jax.devices()[:1])
    assert checkpoint.read_meta(tmp_path)["step"] == 2
    leaves = jax.tree.leaves(checkpoint.restore_tree(tmp_path))
    assert all(np.isfinite(x).all() for x in leaves if np.issubdtype(x.dtype, np.floating))
    monkeypatch.setattr(start, "batches", honest)
    again = loop.train(experiment, tmp_path, config_of(system), Silent(), jax.devices()[:1])
    assert again.status == "finished"
    steps = [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == list(range(1, 7))


def command(system: str, workdir: Path) -> list[str]:
    name = ["train", config_of(system), "--tiny", "--workdir", str(workdir)]
    return [sys.executable, "-m", "jaxcog.cli", *name, *FLAGS]


def environment() -> dict[str, str]:
    flags = xla_flags(1)
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def run(system: str, workdir: Path, under: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*under, *command(system, workdir)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path):
    """No file can grow as large as the checkpoint's arrays; then the disk is free again."""
    assert run("orthohash", tmp_path / "whole").returncode == 0
    arrays = max(p.stat().st_size for p in (tmp_path / "whole/checkpoints/2").rglob("*"))
    # An ignored SIGXFSZ makes it an error of the write, as on a full disk.
    small = ["bash", "-c", f"trap '' XFSZ; ulimit -f {arrays // 2048}; exec \"$@\"", "run"]
    full = run("orthohash", tmp_path / "run", under=small)
    assert full.returncode == 2, full.stderr
    assert "could not be written" in full.stderr
    assert "free disk space" in full.stderr
    assert "Traceback" not in full.stderr
    assert run("orthohash", tmp_path / "run").returncode == 0
    assert_same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_damaged_records_are_named(damage: str, tmp_path: Path):
    builders.prepare("pacs", make.pacs(tmp_path / "raw", domains.PACS.domains), tmp_path / "out")
    (file,) = (tmp_path / "out").rglob("*photo_train*array_record*")
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[64 : len(content) // 2] = bytes(len(content) // 2 - 64)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"photo/|damaged"):
        read_all(domains.PACS(target="sketch", size=16, root=str(tmp_path / "out")))


def read_all(config: domains.PACS) -> None:
    splits = config.load()
    for _ in pipeline.train_batches(splits, batch_size=8, seed=0, start_step=0, stop_step=20):
        pass


def assert_same(workdir: Path, other: Path) -> None:
    want, got = (by_path(checkpoint.restore_tree(path)) for path in (workdir, other))
    assert want.keys() == got.keys()
    for name, leaf in want.items():
        assert got[name].tobytes() == leaf.tobytes(), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Workdirs of whole runs, by system, made when they are asked for."""
    base = tmp_path_factory.mktemp("undisturbed")

    class Runs(dict):
        def __missing__(self, system: str) -> Path:
            done = run(system, base / system)
            assert done.returncode == 0, done.stderr
            self[system] = base / system
            return self[system]

    return Runs()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("system", SYSTEMS)
def test_stopped_at_a_random_step(
    system: str, number: int, undisturbed: dict[str, Path], tmp_path: Path
):
    """The same command again ends with the same bits."""
    whole = undisturbed[system]
    step = random.Random(f"{system} {number}").randint(1, 5)
    child = subprocess.Popen(
        command(system, tmp_path),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while child.poll() is None and time.monotonic() < deadline:
        if any(row["step"] >= step for row in read_metrics(tmp_path / "metrics.jsonl")):
            break
        time.sleep(0.002)
    child.send_signal(number)
    _, errors = child.communicate(timeout=120)
    assert child.returncode in (0, -signal.SIGKILL, 128 + signal.SIGTERM), errors
    assert run(system, tmp_path).returncode == 0
    assert_same(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_another_mesh_gives_the_same_numbers(
    system: str, undisturbed: dict[str, Path], tmp_path: Path
):
    """The losses of every step on four devices are those on one, to rounding."""
    experiment = tiny(system)
    sizes = {"mesh.data": 2, "mesh.fsdp": 2}
    if experiment.train.batch_size % 4:
        sizes = {"mesh.data": 2}
    if experiment.train.batch_size % 2:
        pytest.skip(f"a batch of {experiment.train.batch_size} divides over no mesh")
    whole = undisturbed[system]
    losses = values_of(whole)
    devices = jax.devices()[: int(np.prod(list(sizes.values())))]
    outcome = loop.train(
        override(experiment, sizes), tmp_path, config_of(system), Silent(), devices
    )
    assert outcome.status == "finished"
    for name, want in losses.items():
        np.testing.assert_allclose(values_of(tmp_path)[name], want, rtol=5e-3, atol=1e-4)


def values_of(workdir: Path) -> dict[str, np.ndarray]:
    rows = [row for row in read_metrics(workdir / "metrics.jsonl") if row["kind"] == "train"]
    names = [name for name in rows[0] if re.search("loss", name)]
    return {name: np.array([row[name] for row in rows]) for name in names}
