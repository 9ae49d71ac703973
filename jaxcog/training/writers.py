"""Metrics of a run: JSON lines always, TensorBoard events where tensorboardX is installed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

METRICS_FILE = "metrics.jsonl"
_EVENT_SECONDS = 0.25  # between training events: each costs more than a tiny step


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file; a last line that was cut by a crash is dropped."""
    rows = []
    if path.is_file():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def _encode(row: Mapping[str, Any]) -> str:
    """One JSON line. JSON has no NaN or infinity: such values become null."""
    return json.dumps(
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    )


class MetricsWriter:
    """Appends {"step", "kind", "time", ...} lines and, if it can, TensorBoard events.

    Opening it for a run that resumes at `step` drops every line after that step, so that the file
    has each step once however often the run was killed. Inactive (process > 0): does nothing.
    """

    def __init__(self, workdir: Path, *, resume_step: int, active: bool = True):
        self.path = workdir / METRICS_FILE
        self._file = None
        self._events = None
        self._last_event = -_EVENT_SECONDS
        if not active:
            return
        kept = [row for row in read_metrics(self.path) if row["step"] <= resume_step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(_encode(row) + "\n" for row in kept))
        os.replace(temporary, self.path)
        self._file = self.path.open("a")
        self._events = _tensorboard(workdir, resume_step)

    def write(self, step: int, kind: str, time: float, values: Mapping[str, float]) -> None:
        """One line. `time`: seconds since the run began, earlier sessions counted in."""
        if self._file is None:
            return
        self._file.write(_encode({"step": step, "kind": kind, "time": round(time, 3), **values}))
        self._file.write("\n")
        now = monotonic()
        if self._events is not None and (
            kind != "train" or now - self._last_event > _EVENT_SECONDS
        ):
            self._last_event = now
            for name, value in values.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        """Puts all lines on disk: a checkpoint must never be newer than its metrics."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None
        if self._events is not None:
            self._events.close()


def _tensorboard(workdir: Path, resume_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1 or None)


class StepLog:
    """Reads each step's scalars one step late, so that the device never waits for the host.

    `on_row(step, values, ids)` gets every step exactly once, in order.
    """

    def __init__(
        self, names: tuple[str, ...], on_row: Callable[[int, dict[str, float], Any], None]
    ):
        self._names = names
        self._on_row = on_row
        self._pending: tuple[int, Any, Any] | None = None

    def push(self, step: int, vector: Any, ids: Any) -> None:
        self.flush()
        self._pending = (step, vector, ids)

    def flush(self) -> None:
        """Reads what is pending: waits for the device."""
        if self._pending is not None:
            (step, vector, ids), self._pending = self._pending, None
            values = dict(zip(self._names, _to_floats(vector), strict=True))
            self._on_row(step, values, ids)


def _to_floats(vector: Any) -> list[float]:
    return vector.addressable_data(0).tolist() if hasattr(vector, "addressable_data") else vector
