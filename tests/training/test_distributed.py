"""What the environment says about other processes, and messages where it says half of it."""

from __future__ import annotations

import pytest

from jaxcog.errors import ConfigError
from jaxcog.training import distributed
from jaxcog.training.distributed import initialize_from_environment, is_cluster

WHOLE = {
    "JAXCOG_COORDINATOR": "host:1234",
    "JAXCOG_NUM_PROCESSES": "2",
    "JAXCOG_PROCESS_ID": "0",
}


def test_a_single_process_is_left_alone():
    assert not initialize_from_environment({"JAX_PLATFORMS": "cpu"})
    assert not initialize_from_environment(WHOLE | {"JAXCOG_NUM_PROCESSES": "1"})
    job = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
    assert not initialize_from_environment(job | {"JAXCOG_NUM_PROCESSES": "1"})


@pytest.mark.parametrize("missing", sorted(WHOLE))
def test_a_part_of_the_variables_is_an_error(missing):
    with pytest.raises(ConfigError, match=f"^{missing} not set"):
        initialize_from_environment({k: v for k, v in WHOLE.items() if k != missing})


@pytest.mark.parametrize(
    "wrong",
    [
        {"JAXCOG_PROCESS_ID": "2"},
        {"JAXCOG_PROCESS_ID": "-1"},
        {"JAXCOG_NUM_PROCESSES": "two"},
        {"JAXCOG_COORDINATOR": "host"},
        {"JAXCOG_COORDINATOR": ":1234"},
    ],
)
def test_values_that_make_no_sense_are_named(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        initialize_from_environment(WHOLE | wrong)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, False),  # sbatch without srun
        (
            {
                "SLURM_STEP_NODELIST": "n[1-2]",
                "SLURM_PROCID": "0",
                "SLURM_LOCALID": "0",
                "SLURM_STEP_NUM_TASKS": "2",
            },
            True,
        ),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t-0.svc,t-1.svc"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t-0.svc", "MEGASCALE_NUM_SLICES": "2"}, True),
        (
            {
                "TPU_WORKER_HOSTNAMES": "t-0.svc",
                "KUBERNETES_SERVICE_HOST": "10.0.0.1",
                "JOB_COMPLETION_INDEX": "0",
            },
            False,
        ),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # any pod, not a job
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_clusters_are_recognised(environment, several):
    assert is_cluster({"JAX_PLATFORMS": "cpu"} | environment) is several


@pytest.mark.parametrize(
    ("environment", "chips", "library", "changed"),
    [
        ({}, [], True, True),
        ({}, [], False, False),
        ({}, ["/dev/accel0"], True, False),
        ({"JAX_PLATFORMS": "cpu"}, [], True, False),
        ({"TPU_WORKER_ID": "0"}, [], True, False),
        ({"TPU_LIBRARY_PATH": "libtpu.so", "TPU_SKIP_MDS_QUERY": "1"}, [], True, True),
    ],
)
def test_a_tpu_that_is_not_there_is_left_out(environment, chips, library, changed, monkeypatch):
    found = {}
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: library or None)
    monkeypatch.setattr(distributed.importlib.metadata, "entry_points", lambda group: [])
    monkeypatch.setattr(distributed.glob, "glob", lambda pattern: chips)
    monkeypatch.setattr(distributed.jax.config, "update", found.__setitem__)
    assert distributed.leave_out_absent_tpu(environment) is changed
    assert found == ({"jax_platforms": "cpu"} if changed else {})
