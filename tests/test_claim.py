"""How requirements of a claim are judged."""

from __future__ import annotations

import numpy as np

from jaxcog import reproduce
from jaxcog.claim import Margin, Wins

VALUES = {"on": {"mAP": np.array([[3.0, 2.0, 5.0]])}, "off": {"mAP": np.array([[1.0, 2.5, 1.5]])}}


def test_wins_count_runs_of_the_same_seed():
    text, won, held = reproduce._check(Wins("on", "off", "mAP", 2), VALUES)
    assert (won, held) == (2, True)
    assert "in 2 of 3 runs" in text
    assert not reproduce._check(Wins("on", "off", "mAP", 3), VALUES)[2]


def test_with_fewer_seeds_all_must_win():
    one = {name: {"mAP": metrics["mAP"][:, :1]} for name, metrics in VALUES.items()}
    assert reproduce._check(Wins("on", "off", "mAP", 4), one)[1:] == (1, True)


def test_margins_are_of_the_means():
    _, measured, held = reproduce._check(Margin("on", "off", "mAP", 1.0), VALUES)
    np.testing.assert_allclose(measured, 5 / 3)
    assert held
