"""Schedules that begin after their warm-up, and warm-ups that change between epochs."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxcog.optim import AfterWarmup, Schedule, learning_rate
from jaxcog.task import DataInfo, Setting

SETTING = Setting(DataInfo({}, 40), steps=40, steps_per_epoch=4, batch_size=10)


def test_a_warm_up_by_epochs_is_constant_within_them():
    schedule = Schedule(per="epoch", warmup="2 epochs", warmup_from=0.1)
    rates = np.asarray(learning_rate(schedule, 1.0, SETTING)(jnp.arange(12)))
    np.testing.assert_allclose(rates, np.repeat([0.1, 0.55, 1.0], 4), rtol=1e-6)


def test_after_the_warm_up_a_schedule_begins_from_its_start():
    schedule = AfterWarmup("cosine", warmup="10 steps", warmup_from=0.5, final=0.2)
    rates = np.asarray(learning_rate(schedule, 2.0, SETTING)(jnp.array([0, 5, 10, 25, 40])))
    np.testing.assert_allclose(rates, [1.0, 1.5, 2.0, 1.2, 0.4], rtol=1e-6)


def test_a_constant_warm_up():
    schedule = AfterWarmup("linear", warmup="10 steps", warmup_from=0.3, warmup_kind="constant")
    rates = np.asarray(learning_rate(schedule, 1.0, SETTING)(jnp.array([0, 9, 10, 25])))
    np.testing.assert_allclose(rates, [0.3, 0.3, 1.0, 0.5], rtol=1e-6)
