"""Stopping in good order: SIGTERM (a scheduler takes the machine back) and Ctrl-C.

The loop asks once a step whether to stop, saves, and ends with the exit status that tells a
scheduler what happened:

| status | meaning |
| --- | --- |
| 0 | done |
| 2 | bad input; starting again will not help |
| 130 | Ctrl-C; a checkpoint was saved |
| 143 | SIGTERM; a checkpoint was saved, start again to go on (Slurm: requeue) |
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog.config import Mesh
from jaxcog.training import sharding

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

_EXIT = {0: EXIT_OK, signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}


class StopSignal:
    """Turns SIGTERM and the first Ctrl-C into a question that the loop asks; a context manager.

    A second Ctrl-C raises KeyboardInterrupt where the program is. Outside the main thread no
    handler can be installed: then only `request` stops the run.

    Args:
      report: told once, when a signal comes.
    """

    def __init__(self, report: Callable[[str], None] | None = None):
        self._report = report or (lambda text: None)
        self._received = 0
        self._agreed = 0
        self._vote: _Vote | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def request(self, number: int = signal.SIGTERM) -> None:
        """Asks for a stop, as the signal `number` would."""
        self._received = max(self._received, number)

    def agreed(self, step: int) -> bool:
        """Whether to stop after update `step`; every process gets the same answer.

        With several processes, all must call this after the same steps. Each call starts one tiny
        all-reduce behind the updates that are queued already and reads that of the call before, so
        the devices never wait for the host; the answer comes one call late.
        """
        if self._agreed:
            return True
        if jax.process_count() == 1:
            self._agreed = self._received
        else:
            self._vote = self._vote or _Vote()
            self._agreed = self._vote.exchange(self._received)
        return bool(self._agreed)

    @property
    def exit_status(self) -> int:
        """Of the process, if it ends because of what was agreed; 0 where nothing was."""
        return _EXIT[self._agreed]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if not self._received:
            name = signal.Signals(number).name
            again = "; once more to stop at once" if number == signal.SIGINT else ""
            self._report(f"{name}: saving a checkpoint after this step{again}")
        self.request(number)


class _Vote:
    """The largest signal number that any process received, one call late."""

    def __init__(self) -> None:
        mesh = sharding.make_mesh(Mesh())
        self._sharding = NamedSharding(mesh, P(sharding.BATCH_AXES))
        self._size = mesh.size
        self._largest = jax.jit(lambda votes: votes.max(), out_shardings=sharding.replicated(mesh))
        self._quiet = self._place(0)
        self._pending: jax.Array | None = None

    def exchange(self, received: int) -> int:
        before, votes = self._pending, self._place(received) if received else self._quiet
        self._pending = self._largest(votes)
        return 0 if before is None else int(jax.device_get(before.addressable_data(0)))

    def _place(self, value: int) -> jax.Array:
        vote = np.asarray([value], np.int32)
        return jax.make_array_from_callback((self._size,), self._sharding, lambda index: vote)
