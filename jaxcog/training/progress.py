"""What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

_REFRESH_SECONDS = 0.2
_LINE_SECONDS = 15.0


class Reporter(Protocol):
    """Where a run speaks: `say` for lines, `start`, `update` and `stop` for progress."""

    def say(self, text: str) -> None: ...

    def start(self, done: int, total: int) -> None: ...

    def update(self, done: int, values: Mapping[str, float]) -> None: ...

    def stop(self) -> None: ...


class Silent:
    """Says nothing: other processes than the first, and programs that call the loop."""

    def say(self, text: str) -> None:
        pass

    def start(self, done: int, total: int) -> None:
        pass

    def update(self, done: int, values: Mapping[str, float]) -> None:
        pass

    def stop(self) -> None:
        pass


class Terminal:
    """Progress on standard error, so that standard output holds only results."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last = 0.0
        self._total = 0

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, done: int, total: int) -> None:
        self._total, self._last = total, time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("training", completed=done, total=total, values="")

    def update(self, done: int, values: Mapping[str, float]) -> None:
        """Cheap when called at every step: draws a few times a second at most."""
        now = time.monotonic()
        if now - self._last < (_REFRESH_SECONDS if self._bar else _LINE_SECONDS):
            return
        self._last = now
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, values=text)
        else:
            self.say(f"step {done}/{self._total}  {text}")

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
