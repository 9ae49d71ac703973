"""A small game in the manner of CoinRun: run right, jump over spikes, reach the coin.

Every level has a layout and a theme (its colours), both from its seed, so that a policy can be
trained on some levels and judged on others, whose colours it has never seen.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxcog.data.episodes import EPISODE, segment_element
from jaxcog.data.types import Environments, Experience, Record, Splits, Transition
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo

ACTIONS = ("noop", "right", "left", "jump", "jump right", "jump left", "down")
_MOVES = np.array([0, 1, -1, 0, 2, -2, 0])
_VIEW = 8  # cells that are seen, in both directions
_SIGHT = 2  # cells behind the runner that are seen
_COIN_REWARD = 10.0
_MAX_LEVEL = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Level:
    """spikes: bool [length + view], where the ground is deadly; the coin is at `length`.

    colors: uint8 [5, 3] of sky, ground, spike, coin and runner.
    """

    length: int
    spikes: np.ndarray
    colors: np.ndarray


def make_level(seed: int) -> Level:
    """The level of one seed: 5 to 8 cells long, spikes apart enough to be jumped over."""
    random = np.random.default_rng([7, seed])
    length = int(random.integers(5, 9))
    spikes = np.zeros(length + _VIEW, bool)
    place = int(random.integers(2, 4))
    while place < length - 1:
        spikes[place] = True
        place += int(random.integers(3, 6))
    return Level(length, spikes, random.integers(0, 256, (5, 3)).astype(np.uint8))


class RunnerEnvironments:
    """See `jaxcog.data.types.Environments`; all games are drawn and moved at once."""

    def __init__(self, seeds: np.ndarray, levels: range, size: int, limit: int):
        self.random = [np.random.default_rng([11, int(seed)]) for seed in seeds]
        self.choice = levels
        self.pixels = size // _VIEW
        self.limit = limit
        self.levels = [self._next(i) for i in range(len(seeds))]
        self.place = np.zeros(len(seeds), np.int64)
        self.age = np.zeros(len(seeds), np.int64)
        self.in_air = np.zeros(len(seeds), bool)

    def _next(self, i: int) -> Level:
        return make_level(self.choice[int(self.random[i].integers(len(self.choice)))])

    def reset(self) -> Record:
        return {"image": self._draw()}

    def step(self, actions: np.ndarray) -> Transition:
        names = [ACTIONS[action] for action in actions]
        self.in_air = np.array([name.startswith("jump") for name in names])
        self.place = np.maximum(self.place + _MOVES[actions], 0)
        self.age += 1
        ends = np.array([level.length for level in self.levels])
        won = self.place >= ends
        self.place = np.minimum(self.place, ends)
        dead = np.array([lv.spikes[x] for lv, x in zip(self.levels, self.place, strict=True)])
        done = won | dead | (self.age >= self.limit)
        for i in np.flatnonzero(done):
            self.levels[i] = self._next(int(i))
            self.place[i] = self.age[i] = self.in_air[i] = 0
        reward = np.where(won, np.float32(_COIN_REWARD), np.float32(0))
        return Transition({"image": self._draw()}, reward, done)

    def close(self) -> None:
        """Nothing to give back."""

    def _draw(self) -> np.ndarray:
        """uint8 [E, size, size, 3]: sky, two rows of ground, spikes and coin above it."""
        cells = np.zeros((len(self.levels), _VIEW, _VIEW), np.int64)
        cells[:, -2:] = 1
        for i, (level, place) in enumerate(zip(self.levels, self.place, strict=True)):
            seen = np.arange(_VIEW) + place - _SIGHT
            inside = (seen >= 0) & (seen < len(level.spikes))
            spiked = np.zeros(_VIEW, bool)
            spiked[inside] = level.spikes[seen[inside]]
            cells[i, -3, spiked] = 2
            cells[i, -3, seen == level.length] = 3
            cells[i, -4 if self.in_air[i] else -3, _SIGHT] = 4
        colors = np.stack([level.colors for level in self.levels])
        picture = colors[np.arange(len(cells))[:, None, None], cells]
        return picture.repeat(self.pixels, axis=1).repeat(self.pixels, axis=2)


@dataclasses.dataclass(frozen=True)
class Runner:
    """The game as a dataset: training levels 0, 1, ..., and all other ones for testing.

    levels: how many training has. size: of the square frames, in pixels; a multiple of 8.
    horizon: steps of each environment per update. episodes: per evaluation and split.
    """

    levels: int = 20
    size: int = 32
    horizon: int = 32
    episodes: int = 100
    limit: int = 60

    def __post_init__(self) -> None:
        if self.size < _VIEW or self.size % _VIEW:
            raise ConfigError(f"data.size={self.size}: must be a multiple of {_VIEW}")
        for name in ("levels", "horizon", "episodes", "limit"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name}={getattr(self, name)}: must be at least 1")

    def describe(self) -> DataInfo:
        image = (self.size, self.size, 3)
        return DataInfo(
            element=segment_element(image, self.horizon),
            num_examples=self.levels,
            eval_element=EPISODE,
            facts={"actions": ACTIONS, "steps_per_epoch": 1},
        )

    def load(self) -> Splits:
        def experience(levels: range) -> Experience:
            def make(seeds: np.ndarray, level: int | None = None) -> Environments:
                played = levels if level is None else range(level, level + 1)
                return RunnerEnvironments(seeds, played, self.size, self.limit)

            return Experience(make, self.horizon, self.episodes, self.limit)

        seen, unseen = range(self.levels), range(self.levels, _MAX_LEVEL)
        splits = {"test": experience(unseen), "train": experience(seen)}
        return Splits(experience(seen), splits, self.describe())
