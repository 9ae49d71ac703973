"""Says where a run hangs: all Python stacks, when no step has ended for too long."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO


class Watchdog:
    """A daemon thread that reports a hang once, and lets the run live; a context manager.

    A hung collective shows up in every process at another place: the stacks of all of them, in
    their logs, name the one that is missing.

    Args:
      seconds: without a beat until it reports.
      on_hang: called with (last step, seconds since its beat) after the stacks were printed.
      clock: seconds, monotonic.
      stream: where stacks go; needs a file descriptor. stderr by default.
    """

    def __init__(
        self,
        seconds: float,
        on_hang: Callable[[int | None, float], None] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
    ):
        self._seconds = seconds
        self._on_hang = on_hang
        self._clock = clock
        self._stream = stream
        self._last: tuple[int | None, float] = (None, clock())
        self._reported: tuple[int | None, float] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        self._last = (None, self._clock())
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def beat(self, step: int) -> None:
        """The run is alive, at `step`."""
        self._last = (step, self._clock())

    def check(self) -> bool:
        """Reports, if there was no beat for too long and none was reported yet; whether it did."""
        last = self._last
        step, since = last[0], self._clock() - last[1]
        if since < self._seconds or self._reported is last:
            return False
        self._reported = last
        stream = self._stream or sys.__stderr__
        if stream is not None:
            where = "before the first step" if step is None else f"after step {step}"
            stream.write(f"\nno step has ended for {since:.0f} s, {where}; all stacks:\n")
            stream.flush()
            faulthandler.dump_traceback(file=stream, all_threads=True)
        if self._on_hang is not None:
            self._on_hang(step, since)
        return True

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self._seconds / 4)):
            self.check()
