"""What the report and `jaxcog predict` show of a player: an episode, what it did and expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcog.show import Animation, Figure, Lines, Table
from jaxcog.task import DataInfo, State

_LONGEST = 300  # frames of an animation
_FRAMES_PER_SECOND = 15.0


def report(
    data: DataInfo,
) -> Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    """The `figures` of a Task: one episode in a level of each split."""

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        return [
            figure
            for split, episode in samples.items()
            for figure in (_animation(f"An episode, {split} levels", episode),
                           _expectation(f"What was expected, {split} levels", episode))
        ]  # fmt: skip

    return figures


def prediction(
    data: DataInfo,
) -> Callable[[State, Sequence[Mapping[str, Any]], Sequence[str]], list[Figure]]:
    """The `predict` of a Task: the episodes that were played, and what was done in them."""

    def predict(
        state: State, episodes: Sequence[Mapping[str, Any]], names: Sequence[str]
    ) -> list[Figure]:
        shown: list[Figure] = []
        for name, episode in zip(names, episodes, strict=True):
            shown.append(_animation(f"Episode, {name}", episode))
            shown.append(_expectation(f"What was expected, {name}", episode))
        return [*shown, _table(data.facts["actions"], episodes, names)]

    return predict


def _outcome(episode: Mapping[str, Any]) -> str:
    return f"{len(episode['reward'])} steps, return {np.sum(episode['reward']):g}"


def _animation(title: str, episode: Mapping[str, Any]) -> Animation:
    frames = np.asarray(episode["image"])
    note = _outcome(episode)
    if len(frames) > _LONGEST:
        frames, note = frames[:_LONGEST], f"{note}; its first {_LONGEST} frames"
    return Animation(title, frames, _FRAMES_PER_SECOND, note)


def _expectation(title: str, episode: Mapping[str, Any]) -> Lines:
    steps = np.arange(len(episode["value"]))
    to_come = np.cumsum(np.asarray(episode["reward"])[::-1])[::-1]
    series = {"value": (steps, np.asarray(episode["value"])), "return to come": (steps, to_come)}
    return Lines(title, series, x_label="step", y_label="reward", note=_outcome(episode))


def _table(
    actions: Sequence[str], episodes: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Table:
    rows = []
    for name, episode in zip(names, episodes, strict=True):
        counts = np.bincount(episode["action"], minlength=len(actions))
        shares = [f"{100 * count / max(counts.sum(), 1):.0f}%" for count in counts]
        rows.append([name, len(episode["reward"]), float(np.sum(episode["reward"])), *shares])
    return Table("Episodes", ["", "steps", "return", *actions], rows)
