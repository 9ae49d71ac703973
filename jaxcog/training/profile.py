"""A trace of some updates, for people who tune a step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import jax

from jaxcog.data.pipeline import LocalBatch
from jaxcog.errors import ConfigError

PROFILE_FOLDER = "profile"


class Profile:
    """Traces the updates `first` to `last` (1-based, as in metrics.jsonl) into a folder.

    Open it with TensorBoard's profile plugin, XProf, or ui.perfetto.dev.
    """

    def __init__(self, first: int, last: int, folder: Path):
        self.first, self.last, self.folder = first, last, folder
        self._running = False

    @classmethod
    def parse(cls, text: str, workdir: Path) -> Profile:
        """From "START:STOP", in updates. Raises ConfigError where it is something else."""
        first, colon, last = text.partition(":")
        if not (colon and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
            raise ConfigError(
                f'--profile "{text}": write the first and the last update to trace, such as 10:13'
            )
        return cls(int(first), int(last), workdir / PROFILE_FOLDER)

    def starting_in(self, batches: Iterable[LocalBatch]) -> Generator[LocalBatch, None, None]:
        """`batches`, with the trace started before the first update's batch is handed over."""
        for batch in batches:
            if batch.step + 1 == self.first:
                jax.profiler.start_trace(str(self.folder))
                self._running = True
            yield batch

    def after(self, step: int, state: Any, say: Callable[[str], None]) -> None:
        """To be called after update `step`: ends the trace, once the devices are done with it."""
        if self._running and step >= self.last:
            jax.block_until_ready(state)
            self.close()
            say(f"trace of updates {self.first} to {step}: {self.folder}")

    def close(self) -> None:
        """Ends a trace that is still running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
