"""Real multi-process JAX on one machine: CPU devices, gloo collectives, a free port."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PREAMBLE = """
from jaxcog.training.distributed import initialize_from_environment
initialize_from_environment()
"""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    """How one process ended. `out` (without gloo's own lines) and `err`: what it printed."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Signal:
    """Sent to process `index` as soon as the file `once` exists."""

    index: int
    once: Path
    number: int = signal.SIGTERM


def run_processes(
    script: str | None = None,
    n: int = 2,
    *,
    arguments: list[str] | None = None,
    devices: int = 2,
    timeout: float = 90.0,
    environment: Mapping[str, str] | None = None,
    send: Signal | None = None,
    check: bool = True,
) -> list[Result]:
    """Runs a program in `n` processes of `devices` virtual devices each; returns how they ended.

    Args:
      script: Python source (indented as you like); joins the other processes before its first line.
      arguments: instead of `script`: what to run with `python`, such as ["-m", "jaxcog", ...]; it
        must call `initialize_from_environment` itself.
      send: a signal for one of them.
      check: fail, with everything they printed, unless all end with status 0.
    """
    command = arguments or ["-c", PREAMBLE + textwrap.dedent(script or "")]
    shared = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(devices),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "JAXCOG_COORDINATOR": f"127.0.0.1:{free_port()}",
        "JAXCOG_NUM_PROCESSES": str(n),
        **(environment or {}),
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error::DeprecationWarning", *command],
            env=shared | {"JAXCOG_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(n)
    ]
    deadline = time.monotonic() + timeout
    try:
        if send is not None:
            while not send.once.exists() and time.monotonic() < deadline:
                if any(child.poll() is not None for child in children):
                    break
                time.sleep(0.02)
            children[send.index].send_signal(send.number)
        results = []
        for child in children:
            out, err = child.communicate(timeout=max(0.1, deadline - time.monotonic()))
            own = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
            results.append(Result(child.returncode, "\n".join(own), err))
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    if check and any(result.status for result in results):
        told = [f"process {i}: status {r.status}\n{r.out}\n{r.err}" for i, r in enumerate(results)]
        raise AssertionError("\n".join(told))
    return results


def xla_flags(devices: int) -> str:
    """This session's flags of XLA for a process with so many virtual devices."""
    name = "--xla_force_host_platform_device_count"
    return re.sub(rf"{name}=\d+", f"{name}={devices}", os.environ["XLA_FLAGS"])


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
