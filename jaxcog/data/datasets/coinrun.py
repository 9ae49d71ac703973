"""CoinRun, the real game, through the package `envpool` (the extra `rl`)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxcog.data.episodes import EPISODE, paint_rectangles, segment_element
from jaxcog.data.types import Environments, Experience, Record, Splits, Transition
from jaxcog.errors import ConfigError, DataError
from jaxcog.task import DataInfo

ACTIONS = ("noop", "right", "left", "jump", "jump right", "jump left", "down")
# Procgen numbers the directions of a gamepad with three columns; the rest are buttons without use.
_PROCGEN = np.array([4, 7, 1, 5, 8, 2, 3], np.int32)
_HARD, _EASY = "CoinrunHard-v0", "CoinrunEasy-v0"
_FRAME = (64, 64, 3)
_LIMIT = 1000
_REMEDY = (
    "CoinRun needs the package envpool and two system libraries: pip install 'jaxcog[rl]' and (on "
    "Debian or Ubuntu) apt-get install libqt5core5a libqt5gui5"
)


def _envpool() -> Any:
    """The package, imported when it is needed. Raises DataError with the remedy."""
    try:
        import envpool

        envpool.make_spec(_HARD)
    except (ImportError, OSError) as error:
        raise DataError(f"{_REMEDY} ({error})") from error
    return envpool


class CoinRunEnvironments:
    """See `jaxcog.data.types.Environments`: Procgen's CoinRun with the paper's seven actions.

    The speed is painted into the frame's corner, as in the paper.
    """

    def __init__(self, seeds: np.ndarray, options: dict[str, Any], *, hard: bool, augment: bool):
        self.random = [np.random.default_rng([13, int(seed)]) for seed in seeds]
        self.augment = augment
        self.pool = _envpool().make(
            _HARD if hard else _EASY,
            env_type="gymnasium",
            num_envs=len(seeds),
            env_seed=[int(seed) for seed in seeds],
            channel_first=False,
            paint_vel_info=True,
            max_episode_steps=_LIMIT,
            **options,
        )

    def reset(self) -> Record:
        return self._observation(self.pool.reset()[0].copy())

    def step(self, actions: np.ndarray) -> Transition:
        images, reward, ended, cut, _ = self.pool.step(_PROCGEN[actions])
        images, done = images.copy(), ended | cut
        if done.any():
            # Left alone, the pool would waste a step of these on beginning anew.
            which = np.flatnonzero(done).astype(np.int32)
            images[which] = self.pool.reset(which)[0]
        return Transition(self._observation(images), reward.astype(np.float32), done)

    def close(self) -> None:
        self.pool.close()

    def _observation(self, images: np.ndarray) -> Record:
        if self.augment:
            paint_rectangles(images, self.random)
        return {"image": images}


@dataclasses.dataclass(frozen=True)
class CoinRun:
    """Training on some levels of CoinRun, testing on all that were never seen.

    levels: 0, 1, ..., levels - 1 are those of training.
    augment: paints random rectangles into the frames of training.
    hard: Procgen's harder distribution, with monsters, as in the original game.
    horizon: steps of each environment per update. episodes: per evaluation and split.
    threads: of the pool; 0: as many as there are processor cores.
    """

    levels: int = 500
    augment: bool = True
    hard: bool = True
    horizon: int = 256
    episodes: int = 100
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("levels", "horizon", "episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name}={getattr(self, name)}: must be at least 1")

    def describe(self) -> DataInfo:
        return DataInfo(
            element=segment_element(_FRAME, self.horizon),
            num_examples=self.levels,
            eval_element=EPISODE,
            facts={"actions": ACTIONS, "steps_per_epoch": 1},
        )

    def load(self) -> Splits:
        """Raises DataError where envpool or its system libraries are missing."""
        _envpool()
        train = self._experience(self.levels, self.augment)
        seen = self._experience(self.levels, augment=False)
        unseen = self._experience(0, augment=False)
        return Splits(train, {"test": unseen, "train": seen}, self.describe())

    def _experience(self, count: int, augment: bool) -> Experience:
        def make(seeds: np.ndarray, level: int | None = None) -> Environments:
            options = {"num_levels": count, "num_threads": self.threads}
            if level is not None:
                options |= {"num_levels": 1, "start_level": level}
            return CoinRunEnvironments(seeds, options, hard=self.hard, augment=augment)

        return Experience(make, self.horizon, self.episodes, _LIMIT)
