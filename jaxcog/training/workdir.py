"""The folder of a run: config.json, metrics.jsonl, checkpoints/, tensorboard/, report.html."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax

import jaxcog
from jaxcog.config import Experiment, differences, from_json, to_json
from jaxcog.errors import CheckpointError, ConfigError

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"
REPORT_FILE = "report.html"

# What may change between two sessions of one run: none of it changes what is learned.
_FREE = (
    "mesh",
    "train.checkpoint_every",
    "train.corrupt_limit",
    "train.eval_batch_size",
    "train.keep_best",
    "train.keep_last",
    "train.start_from",
    "train.watchdog_seconds",
    "train.workers",
    "data.root",
)


def default_workdir(name: str, experiment: Experiment) -> Path:
    """runs/<system>_<config>-<digest>: the same settings always come back to the same run."""
    text = json.dumps(to_json(experiment), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Path("runs") / f"{name.replace('/', '_')}-{digest}"


def _versions() -> dict[str, str]:
    return {"jaxcog": jaxcog.__version__, "jax": jax.__version__, "python": sys.version.split()[0]}


def claim(workdir: Path, name: str, experiment: Experiment) -> None:
    """Makes `workdir` the folder of this experiment: writes config.json, or compares with it.

    Raises:
      ConfigError: the folder belongs to a run with other settings, or is no folder.
    """
    path = workdir / CONFIG_FILE
    wanted = to_json(experiment)
    if path.is_file():
        saved = read_config(workdir)
        _compare(workdir, saved, name, wanted)
    elif workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"--workdir {workdir} is a file: name a folder")
    elif (workdir / CHECKPOINTS).exists():
        raise ConfigError(
            f"{workdir} holds checkpoints but no {CONFIG_FILE}: restore that file, or choose "
            "another --workdir"
        )
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            body = {"config": name, "versions": _versions(), "experiment": wanted}
            write_atomically(path, json.dumps(body, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write to --workdir {workdir}: {error}") from error


def _compare(workdir: Path, saved: dict[str, Any], name: str, wanted: Any) -> None:
    changed = {
        key: values
        for key, values in differences(saved["experiment"], wanted).items()
        if not any(key == free or key.startswith(free + ".") for free in _FREE)
    }
    if not changed and saved["config"] == name:
        return
    lines = [f"  {key}: {old!r} there, {new!r} now" for key, (old, new) in changed.items()]
    raise ConfigError(
        "\n".join(
            [
                f"{workdir} holds a run of {saved['config']} with other settings:",
                *lines[:20],
                "nothing was changed; choose another --workdir, or use those settings again",
            ]
        )
    )


def read_config(workdir: Path) -> dict[str, Any]:
    """config.json as JSON: {"config": name, "versions": ..., "experiment": ...}.

    Raises:
      CheckpointError: it is missing or not readable.
    """
    path = workdir / CONFIG_FILE
    try:
        body = json.loads(path.read_text())
        return {"config": body["config"], **body}
    except FileNotFoundError:
        raise CheckpointError(
            f"{workdir} is no run: it has no {CONFIG_FILE}; give the folder that "
            "`jaxcog train --workdir` or `jaxcog import-torch --out` wrote"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): restore it from a copy") from error


def read_experiment(workdir: Path) -> tuple[str, Experiment]:
    """(config name, experiment) of a run."""
    body = read_config(workdir)
    return body["config"], from_json(body["experiment"], str(workdir / CONFIG_FILE))


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` in one move, so that a reader never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
