"""The generated game: levels that follow from their seeds, and the rules."""

from __future__ import annotations

import numpy as np
import pytest

from jaxcog.data.toy.runner import ACTIONS, Runner, make_level
from jaxcog.errors import ConfigError

RIGHT, LEFT, JUMP_RIGHT, JUMP = (
    ACTIONS.index(name) for name in ("right", "left", "jump right", "jump")
)


def play(level: int, choose, limit: int = 60):
    """(rewards, dones) of one environment in one level until its first episode ends."""
    games = Runner(limit=limit).load().train.make(np.array([0]), level)
    games.reset()
    rewards = []
    for _ in range(limit):
        transition = games.step(np.array([choose(games)]))
        rewards.append(float(transition.reward[0]))
        if transition.done[0]:
            return rewards
    raise AssertionError("the episode never ended")


def careful(games):
    """Jumps where a spike comes, else steps."""
    level, place = games.levels[0], games.place[0]
    return JUMP_RIGHT if level.spikes[place + 1] else RIGHT


@pytest.mark.parametrize("level", range(20))
def test_every_level_can_be_won_and_walking_on_dies(level: int):
    rewards = play(level, careful)
    assert rewards[-1] == 10
    assert sum(rewards[:-1]) == 0
    assert sum(play(level, lambda games: RIGHT)) == 0
    assert len(play(level, lambda games: LEFT, limit=7)) == 7


def test_levels_follow_from_their_numbers():
    one, again, other = make_level(3), make_level(3), make_level(4)
    np.testing.assert_array_equal(one.colors, again.colors)
    np.testing.assert_array_equal(one.spikes, again.spikes)
    assert (one.colors != other.colors).any()


def test_what_happens_follows_from_seed_and_actions():
    splits = Runner(size=16).load()
    seeds, actions = np.arange(4), np.random.default_rng(0).integers(7, size=(80, 4))

    def frames(seeds, actions):
        games = splits.train.make(seeds)
        return np.stack([games.reset()["image"]] +
                        [games.step(a).observation["image"] for a in actions])  # fmt: skip

    whole = frames(seeds, actions)
    np.testing.assert_array_equal(whole, frames(seeds, actions))
    # An environment does not depend on its neighbours.
    np.testing.assert_array_equal(whole[:, 1:3], frames(seeds[1:3], actions[:, 1:3]))


def test_training_and_test_levels_are_disjoint():
    splits = Runner(levels=5, limit=2).load()
    seen, unseen = splits.train, splits.evaluation["test"]
    known = {make_level(i).colors.tobytes() for i in range(5)}
    for source, inside in ((seen, True), (unseen, False)):
        games = source.make(np.arange(30))
        assert all((level.colors.tobytes() in known) == inside for level in games.levels)


def test_the_frame_shows_runner_and_ground():
    games = Runner(size=32).load().train.make(np.array([0]), 2)
    image = games.reset()["image"]
    assert image.shape == (1, 32, 32, 3)
    sky, ground, _, _, runner = games.levels[0].colors
    np.testing.assert_array_equal(image[0, -1], np.tile(ground, (32, 1)))
    np.testing.assert_array_equal(image[0, 0], np.tile(sky, (32, 1)))
    np.testing.assert_array_equal(image[0, 20:24, 8:12], np.broadcast_to(runner, (4, 4, 3)))
    image = games.step(np.array([JUMP])).observation["image"]
    np.testing.assert_array_equal(image[0, 16:20, 8:12], np.broadcast_to(runner, (4, 4, 3)))


def test_impossible_sizes_are_named():
    with pytest.raises(ConfigError, match=r"data\.size=20"):
        Runner(size=20)
    with pytest.raises(ConfigError, match=r"data\.levels=0"):
        Runner(levels=0)
