"""launch/: what each script would do, and what launch/tpu does when a slice is taken away."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.iterdir())
RUN = ("--", "train", "brivl/web", "--workdir", "/shared/my run", "--train.seed", "3")
TPU = ("--name", "pod", "--zone", "us-west4-a", "--type", "v5litepod-256")
SLURM = ("--nodes", "2", "--gpus", "8")
GKE = ("--name", "pod", "--image", "an/image:1", "--topology", "v5e:16x16")
NEEDED = {"tpu": TPU, "slurm": SLURM, "gke": GKE}


def launch(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LAUNCH / script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck(script: str):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", "-x", str(LAUNCH / script)], check=True)


@pytest.mark.parametrize("script", NEEDED)
def test_help_shows_an_example(script: str):
    shown = launch(script, "--help")
    assert shown.returncode == 0
    assert f"launch/{script} --n" in shown.stdout
    assert "--dry-run" in shown.stdout


@pytest.mark.parametrize("script", NEEDED)
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (RUN, "missing: --n"),
        (("--no-such-option",), "unknown option --no-such-option"),
        (("NEEDED",), "nothing to run"),
        (("NEEDED", "--", "train", "brivl/web"), "train needs --workdir"),
        (("NEEDED", "--", "train", "a/b", "--workdir", "gs://bucket/run"), "mounted as a folder"),
        (("--name",), "--name needs a value"),
    ],
)
def test_bad_input(script: str, arguments: tuple[str, ...], why: str):
    full = [x for a in arguments for x in (NEEDED[script] if a == "NEEDED" else (a,))]
    done = launch(script, "--dry-run", *full)
    assert done.returncode == 2
    assert why in done.stderr
    assert f"launch/{script}: " in done.stderr


def test_tpu_asks_for_a_slice_and_runs_on_all_workers():
    done = launch("tpu", "--dry-run", *TPU, "--spot", "--setup", "mount it", *RUN)
    assert done.returncode == 0
    create, scp, unpack, setup, train, delete = (
        line for line in done.stdout.splitlines() if not line.startswith("#")
    )
    assert create.startswith("gcloud compute tpus queued-resources create pod --node-id pod")
    assert create.endswith("--zone us-west4-a --spot")
    assert "v2-alpha-tpuv5-lite" in create
    for line in (scp, unpack, setup, train):
        assert "--worker=all" in line
    assert "mount it" in setup
    assert "launch/local train brivl/web --workdir" in train
    assert "--train.seed 3" in train
    assert "queued-resources delete pod" in delete


def test_slurm_starts_a_process_a_gpu_and_queues_itself_again():
    script = launch("slurm", "--dry-run", *SLURM, "--partition", "gpu", *RUN).stdout
    for line in ("--nodes=2", "--ntasks-per-node=8", "--partition=gpu", "--signal=TERM@180"):
        assert f"#SBATCH {line}\n" in script
    assert "launch/local train brivl/web --workdir '/shared/my run'" in script
    assert 'scontrol requeue "$SLURM_JOB_ID"' in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(("status", "again"), [(0, False), (2, False), (130, False), (143, True)])
def test_slurm_queues_again_only_what_may_go_on(status: int, again: bool, tmp_path: Path):
    script = launch("slurm", "--dry-run", *SLURM, *RUN).stdout
    for name, body in (("srun", f"exit {status}"), ("scontrol", f'echo "$@" >{tmp_path}/again')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash"], input=script, text=True, env=environment, check=False)
    assert done.returncode == status
    assert (tmp_path / "again").exists() == again


def test_gke_writes_a_jobset():
    text = launch("gke", "--dry-run", *GKE, "--bucket", "runs", "--spot", *RUN).stdout
    spec = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 64
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "16x16"
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    container = pod["containers"][0]
    assert tuple(container["args"]) == RUN[1:]
    assert container["resources"]["limits"]["google.com/tpu"] == 4
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "runs"


@pytest.mark.parametrize(("shape", "hosts", "chips"), [("v5e:1x1", 1, 1), ("v5p:4x4x4", 16, 4)])
def test_gke_counts_hosts(shape: str, hosts: int, chips: int):
    arguments = ("--name", "a", "--image", "i", "--topology", shape)
    text = launch("gke", "--dry-run", *arguments, "--", "list").stdout
    spec = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert spec["completions"] == hosts
    resources = spec["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"]["google.com/tpu"] == chips


# A cluster that takes the slice away during the first try, and on which the second one ends well.
FAKE_GCLOUD = """#!/bin/bash
cd "$(dirname "$0")"
echo "$*" >>calls
case "$*" in
  *create*) echo ACTIVE >state ;;
  *delete*) rm -f state ;;
  *describe*) cat state 2>/dev/null || exit 1 ;;
  *'launch/local'*)
    if [ -f lost ]; then echo "worker 0: jaxcog ended with STATUS"; [ STATUS = 0 ]; exit; fi
    touch lost; echo SUSPENDED >state; exit 255 ;;
esac
"""


@pytest.mark.parametrize("status", [0, 2])
def test_a_lost_slice_is_asked_for_again(status: int, tmp_path: Path):
    fake = tmp_path / "gcloud"
    fake.write_text(FAKE_GCLOUD.replace("STATUS", str(status)))
    fake.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = launch("tpu", *TPU, *RUN, PATH=path, JAXCOG_POLL_SECONDS="0")
    assert done.returncode == status, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sum("queued-resources create" in call for call in calls) == 2
    assert sum("launch/local" in call for call in calls) == 2
    assert "delete" in calls[-1]
    assert "beginning again from the last checkpoint" in done.stderr
