"""Optimizers against PyTorch's update rules written out, rules, accumulation, moving averages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.errors import ConfigError
from jaxcog.optim import (
    Optimizer,
    Rule,
    Schedule,
    gradient_step,
    initial_state,
    learning_rate,
    make_optimizer,
)
from jaxcog.task import DataInfo, Setting

SETTING = Setting(data=DataInfo({}, 100), steps=12, steps_per_epoch=4, batch_size=8)
PARAMS = {"body": {"kernel": jnp.array([1.0, -2.0])}, "head": {"kernel": jnp.array([0.5])}}


def rates(schedule: Schedule, setting: Setting = SETTING) -> np.ndarray:
    return np.array(learning_rate(schedule, 1.0, setting)(jnp.arange(setting.steps)))


def test_cosine_by_epoch_is_constant_inside_an_epoch():
    values = rates(Schedule("cosine", per="epoch"))
    want = np.repeat(0.5 * (1 + np.cos(np.pi * np.arange(3) / 3)), 4)
    np.testing.assert_allclose(values, want, rtol=1e-6)


def test_step_schedule_repeats():
    values = rates(Schedule("step", every="1 epoch", gamma=0.1))
    np.testing.assert_allclose(values, np.repeat([1, 0.1, 0.01], 4), rtol=1e-5)


def test_multistep_and_warmup():
    schedule = Schedule("multistep", at=("8 steps", "2.5 epochs"), warmup="4 steps")
    want = [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    np.testing.assert_allclose(rates(schedule), want, rtol=1e-5)


def test_poly_and_linear_end_at_their_final_value():
    np.testing.assert_allclose(rates(Schedule("poly"))[6], 0.5**0.9, rtol=1e-6)
    np.testing.assert_allclose(rates(Schedule("linear", final=0.5))[6], 0.75, rtol=1e-6)


def test_multistep_without_steps_is_an_error():
    with pytest.raises(ConfigError, match=r"schedule\.at"):
        Schedule("multistep")


def run(config: Optimizer, grads: list, params=PARAMS):
    tx = make_optimizer(config, params, SETTING)
    state = tx.init(params)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def test_sgd_is_pytorchs():
    grad = jax.tree.map(jnp.ones_like, PARAMS)
    got = run(Optimizer("sgd", lr=0.1, momentum=0.9, weight_decay=0.5), [grad, grad])
    value, buffer = 1.0, 0.0
    for _ in range(2):
        buffer = 0.9 * buffer + (1.0 + 0.5 * value)
        value -= 0.1 * buffer
    np.testing.assert_allclose(got["body"]["kernel"][0], value, rtol=1e-6)


def test_adam_couples_decay_and_adamw_does_not():
    grad = jax.tree.map(jnp.zeros_like, PARAMS)
    coupled = run(Optimizer("adam", lr=0.1, weight_decay=0.5), [grad])
    np.testing.assert_allclose(coupled["head"]["kernel"], 0.5 - 0.1, rtol=1e-5)  # a full Adam step
    decoupled = run(Optimizer("adamw", lr=0.1, weight_decay=0.5), [grad])
    np.testing.assert_allclose(decoupled["head"]["kernel"], 0.5 * (1 - 0.05), rtol=1e-6)


def test_rules_scale_and_freeze():
    grad = jax.tree.map(jnp.ones_like, PARAMS)
    rules = (Rule("^head/", frozen=True), Rule("kernel", lr=0.5))
    got = run(Optimizer("sgd", lr=0.1, momentum=0.0, weight_decay=0.1, rules=rules), [grad])
    np.testing.assert_array_equal(got["head"]["kernel"], PARAMS["head"]["kernel"])
    np.testing.assert_allclose(got["body"]["kernel"][0], 1 - 0.05 * (1 + 0.1), rtol=1e-6)


def test_frozen_parameters_do_not_count_in_the_clipped_norm():
    grad = {"body": {"kernel": jnp.array([0.6, 0.8])}, "head": {"kernel": jnp.array([1e6])}}
    config = Optimizer(
        "sgd", lr=1.0, momentum=0.0, clip_norm=0.5, rules=(Rule("head", frozen=True),)
    )
    got = run(config, [grad])
    np.testing.assert_allclose(got["body"]["kernel"], [1 - 0.3, -2 - 0.4], rtol=1e-5)


def test_a_rule_that_matches_nothing_is_an_error():
    with pytest.raises(ConfigError, match="hed/"):
        make_optimizer(Optimizer(rules=(Rule("hed/"),)), PARAMS, SETTING)


def quadratic(params, state, batch, key):
    error = batch["x"] * params["w"] - batch["y"]
    return jnp.mean(error**2), ({"seen": state["seen"] + 1}, {"error": jnp.mean(jnp.abs(error))})


def test_accumulation_equals_the_whole_batch():
    batch = {"x": jnp.arange(8.0), "y": jnp.ones(8)}
    out = []
    for accumulate in (1, 4):
        config = Optimizer("sgd", lr=0.01, accumulate=accumulate, ema=0.9)
        state = initial_state({"w": jnp.array(2.0)}, config, SETTING, seen=jnp.zeros(()))
        step = jax.jit(gradient_step(quadratic, config, SETTING))
        out.append(step(state, batch, jax.random.key(0)))
    (whole, scalars), (parts, part_scalars) = out
    np.testing.assert_allclose(whole["params"]["w"], parts["params"]["w"], rtol=1e-6)
    for name in scalars:
        np.testing.assert_allclose(scalars[name], part_scalars[name], rtol=1e-5)
    assert whole["seen"] == 1
    assert parts["seen"] == 4
    np.testing.assert_allclose(whole["ema"]["w"], 0.9 * 2.0 + 0.1 * whole["params"]["w"], rtol=1e-6)


def test_a_batch_that_does_not_split_is_an_error():
    config = Optimizer("sgd", lr=0.01, accumulate=3)
    state = initial_state({"w": jnp.array(2.0)}, config, SETTING, seen=jnp.zeros(()))
    with pytest.raises(ConfigError, match="accumulate=3"):
        gradient_step(quadratic, config, SETTING)(
            state, {"x": jnp.ones(8), "y": jnp.ones(8)}, jax.random.key(0)
        )
