"""Joining the processes of one run, as the environment describes them.

Recognised, in this order: `JAXCOG_COORDINATOR` (host:port), `JAXCOG_NUM_PROCESSES` and
`JAXCOG_PROCESS_ID`, set by hand or by a launcher (`JAXCOG_NUM_PROCESSES=1` alone: one process,
whatever else is set); a Slurm step of several tasks; a TPU slice of several hosts (GKE or a Cloud
TPU VM); an indexed Kubernetes Job or JobSet (needs `jax[k8s]`). Anything else is a run of one
process.
"""

from __future__ import annotations

import glob
import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import jax

from jaxcog.errors import ConfigError

VARIABLES = ("JAXCOG_COORDINATOR", "JAXCOG_NUM_PROCESSES", "JAXCOG_PROCESS_ID")


def initialize_from_environment(environment: Mapping[str, str] | None = None) -> bool:
    """Joins the other processes of this run; to be called before any device is used.

    Args:
      environment: `os.environ` by default.

    Returns:
      Whether this run has several processes.

    Raises:
      ConfigError: the JAXCOG_ variables are set in part or make no sense, or the other processes
        could not be reached.
    """
    environment = os.environ if environment is None else environment
    if environment.get("JAXCOG_NUM_PROCESSES") == "1":
        return False
    if any(environment.get(name) for name in VARIABLES):
        coordinator, count, index = _explicit(environment)
        _initialize(
            coordinator_address=coordinator,
            num_processes=count,
            process_id=index,
            cluster_detection_method="deactivate",
        )
        return True
    if not is_cluster(environment):
        return False
    _initialize()
    return jax.process_count() > 1


# Not every name with TPU_: libtpu and JAX set some of those themselves when they are imported.
_TPU_DESCRIBED = ("TPU_ACCELERATOR_TYPE", "TPU_NAME", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID")


def leave_out_absent_tpu(environment: Mapping[str, str] | None = None) -> bool:
    """Uses the CPU alone where libtpu is installed (for `jaxcog plan`) and no accelerator is there.

    JAX would try the TPU first, and libtpu complain at length. To be called before any device is
    used. Nothing is changed where JAX_PLATFORMS is set, a TPU is described or found, or another
    plugin of JAX is installed. Returns whether something was changed.
    """
    environment = os.environ if environment is None else environment
    told = environment.get("JAX_PLATFORMS") or any(name in environment for name in _TPU_DESCRIBED)
    others = importlib.metadata.entry_points(group="jax_plugins")
    if told or others or _tpu_chips() or importlib.util.find_spec("libtpu") is None:
        return False
    jax.config.update("jax_platforms", "cpu")
    return True


def _tpu_chips() -> bool:
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def is_cluster(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this process is one of several that JAX can find itself."""
    # SLURM_NTASKS alone is also set in a batch script that runs one process outside of srun.
    slurm = {"SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= environment.keys()
    if slurm and int(environment.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return True
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    if hosts:
        return "," in hosts or int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return True
    return _on_tpu_vm(environment)


def _on_tpu_vm(environment: Mapping[str, str]) -> bool:
    """A Cloud TPU VM describes its slice in the metadata server only, which JAX asks."""
    wanted = environment.get("JAX_PLATFORMS", "")
    if (wanted and "tpu" not in wanted) or environment.get("TPU_SKIP_MDS_QUERY"):
        return False
    return _tpu_chips() and importlib.util.find_spec("libtpu") is not None


def _explicit(environment: Mapping[str, str]) -> tuple[str, int, int]:
    values = {name: environment.get(name, "") for name in VARIABLES}
    missing = [name for name, value in values.items() if not value]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} not set, though {', '.join(sorted(values.keys() - missing))} "
            f"is: a run of several processes needs all of {', '.join(VARIABLES)}"
        )
    coordinator, *numbers = values.values()
    count, index = (int(number) if number.isdigit() else -1 for number in numbers)
    if count < 1 or not 0 <= index < count:
        raise ConfigError(
            f"JAXCOG_NUM_PROCESSES={numbers[0]}, JAXCOG_PROCESS_ID={numbers[1]}: write the number "
            "of processes and, in each, another number from 0 to that minus 1"
        )
    if not coordinator.rpartition(":")[2].isdigit() or coordinator.startswith(":"):
        raise ConfigError(
            f"JAXCOG_COORDINATOR={coordinator}: write host:port of process 0, the same in all"
        )
    return coordinator, count, index


def _initialize(**arguments: Any) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its handler would take SIGTERM away from preemption.StopSignal, which also agrees on Ctrl-C.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**arguments)
    except (ValueError, RuntimeError, OSError) as error:
        if "before" in str(error) and "backend" in str(error).lower():
            raise  # called too late: a defect of ours
        raise ConfigError(
            f"the processes of this run could not be joined: {error}\n"
            f"set {', '.join(VARIABLES)} in each process, or JAXCOG_NUM_PROCESSES=1 to run alone"
        ) from error
