"""CoinRun: what is said where it is missing, and a few steps of it where it is there."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from jaxcog import cli
from jaxcog.data.datasets.coinrun import ACTIONS, CoinRun
from jaxcog.data.episodes import paint_rectangles
from jaxcog.errors import ConfigError, DataError

SEEDS = np.arange(4)
RIGHT, JUMP_RIGHT = ACTIONS.index("right"), ACTIONS.index("jump right")


@pytest.fixture
def game() -> CoinRun:
    pytest.importorskip("envpool", reason="the real game needs the extra: jaxcog[rl]")
    data = CoinRun(threads=1)
    try:
        data.load()
    except DataError as error:
        pytest.skip(str(error))
    return data


def test_without_the_package_one_message_names_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(DataError, match=r"jaxcog\[rl\].*libqt5core5a libqt5gui5"):
        CoinRun().load()
    assert cli.main(["train", "mixstyle/coinrun", "--workdir", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert "libqt5gui5" in message
    assert "Traceback" not in message


def test_rectangles_cover_parts_of_frames():
    images = np.zeros((200, 64, 64, 3), np.uint8)
    paint_rectangles(images, [np.random.default_rng([1, i]) for i in range(200)])
    touched = (images > 0).any(-1)
    shares = touched.mean((1, 2))
    assert 0.05 < (shares == 0).mean() < 0.35, "about one in six frames stays as it was"
    assert shares.max() < 5 * 0.36**2
    one = np.zeros((1, 64, 64, 3), np.uint8)
    paint_rectangles(one, [np.random.default_rng([1, 0])])
    np.testing.assert_array_equal(one[0], images[0])


def frames(source, seeds, steps=60, level=None):
    games = source.make(seeds, level)
    seen, ended = [games.reset()["image"]], 0
    for t in range(steps):
        transition = games.step(np.full(len(seeds), JUMP_RIGHT if t % 3 else RIGHT, np.int32))
        seen.append(transition.observation["image"])
        ended += int(transition.done.sum())
    games.close()
    return np.stack(seen), ended


def test_the_game_is_a_function_of_seeds_and_actions(game):
    train = game.load().train
    whole, ended = frames(train, SEEDS, steps=200)
    assert whole.shape == (201, 4, 64, 64, 3)
    assert whole.dtype == np.uint8
    assert ended > 0, "no episode ended, so that beginning anew was not tried"
    np.testing.assert_array_equal(whole[:, 1:3], frames(train, SEEDS[1:3], steps=200)[0])


def test_levels_can_be_chosen_and_frames_of_tests_are_bare(game):
    test = game.load().evaluation["test"]
    two, _ = frames(test, np.array([5, 6]), steps=3, level=7)
    np.testing.assert_array_equal(two[:, 0], two[:, 1])
    other, _ = frames(test, np.array([5]), steps=0, level=8)
    assert (two[0, 0] != other[0, 0]).any()


def test_settings_out_of_range_are_named():
    with pytest.raises(ConfigError, match=r"data\.levels=0"):
        CoinRun(levels=0)
