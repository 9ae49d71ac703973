"""Inner and outer loop: orders, what is learned through the step, tasks over devices."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.config import Mesh
from jaxcog.errors import ConfigError
from jaxcog.systems.stylemeup.meta import InnerLoop, inner_adapt, split, trainable_mask
from jaxcog.systems.stylemeup.step import carried, mean_gradient
from jaxcog.training.sharding import make_mesh
from tests.systems.stylemeup.worlds import VAE, learner, one_pass, params_with_psi

KEY = jax.random.key(0)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_orders_on_a_parabola(steps, first_order):
    """x -> x - lr * a * x, `steps` times: the derivative of the result is (1 - lr a)^steps."""
    a, lr, x = 0.7, 0.3, {"encoder": {"w": jnp.float32(2.0)}}

    def adapted(x):
        inner = InnerLoop(lr=lr, steps=steps, first_order=first_order)
        moved, seen = inner_adapt(x, lambda p, i: (0.5 * a * p["encoder"]["w"] ** 2, i), inner)
        assert seen == list(range(steps))
        return moved["encoder"]["w"]

    value, grad = jax.value_and_grad(adapted)(x)
    shrunk = (1 - lr * a) ** steps
    np.testing.assert_allclose(value, 2.0 * shrunk, rtol=1e-6)
    np.testing.assert_allclose(grad["encoder"]["w"], 1.0 if first_order else shrunk, rtol=1e-6)


def test_only_what_is_asked_for_adapts_and_gradients_are_clipped():
    params, _ = jax.jit(VAE.init)(KEY)
    support = one_pass(KEY)
    for adapt, moves in (("heads", {"content", "mu", "logvar"}), ("encoder", {"encoder"})):
        adapted, _ = jax.jit(learner(adapt=adapt).adapt)(params, support)
        changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), adapted, params)
        assert not any(jax.tree.leaves(changed["decoder"]))
        if adapt == "heads":
            moved = {n for n, tree in changed["encoder"].items() if any(jax.tree.leaves(tree))}
            assert moved == moves
    assert all(jax.tree.leaves(trainable_mask(params, "all")))
    adapted, _ = jax.jit(learner(clip_norm=1e-3, lr=1.0).adapt)(params, support)
    change = jax.tree.leaves(jax.tree.map(jnp.subtract, adapted, params))
    norm = float(jnp.sqrt(sum(jnp.sum(x**2) for x in change)))
    assert norm == pytest.approx(1e-3, rel=1e-2)


@pytest.fixture(scope="module")
def gradients():
    """First and second order, with the outer gradient at the adapted parameters."""
    params, support, query = params_with_psi(KEY), one_pass(KEY), one_pass(jax.random.key(1))
    key = jax.random.key(2)

    def run(params, **inner):
        own = learner(**inner)
        noise = own.draw(params, key, support, query)
        return own.objective_of(params, support, query, noise)[0]

    found = {
        name: jax.jit(jax.grad(functools.partial(run, **options)))(params)
        for name, options in (
            ("second", {}),
            ("first", {"first_order": True}),
            ("remat", {"remat": True}),
        )
    }
    return params, found


def test_first_order_never_teaches_the_regulariser(gradients):
    _, found = gradients
    assert not np.any(found["first"]["psi"])
    assert np.any(found["second"]["psi"])


def test_second_order_teaches_the_regulariser_through_the_step_alone(gradients):
    """d L_tst / d psi = -lr * weight * sign([W; b]) * d L_tst / d [W'; b']."""
    params, found = gradients
    head = params["encoder"]["content"]
    outer = found["first"]["encoder"]["content"]  # the gradient at the adapted parameters
    sign = jnp.concatenate([jnp.sign(head["kernel"]), jnp.sign(head["bias"])[None]])
    grad = jnp.concatenate([outer["kernel"], outer["bias"][None]])
    np.testing.assert_allclose(found["second"]["psi"], -0.1 * 0.1 * sign * grad, rtol=2e-4)


def test_rematerialisation_changes_nothing(gradients):
    _, found = gradients
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        found["remat"],
        found["second"],
    )


def test_tasks_in_turn_at_once_and_over_devices_agree():
    params = params_with_psi(KEY)
    tasks = jax.vmap(one_pass)(jax.random.split(KEY, 8))
    keys = jax.random.split(jax.random.key(3), 8)

    def loss(params, frozen, task, key):
        own = learner()
        noise = own.draw(params, key, task, task)
        total, (_, outer) = own.objective_of(params, task, task, noise, frozen)
        return total, {"kl": jnp.mean(outer["kl"])}

    mesh = make_mesh(Mesh(), jax.devices()[:4])
    want = None
    for over, where in (("vmap", None), ("scan", None), ("scan", mesh)):
        run = functools.partial(mean_gradient, loss, over=over, mesh=where)
        got = jax.jit(run)(params, {}, tasks, keys)
        want = got if want is None else want
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), got, want)
    mesh = make_mesh(Mesh(), jax.devices()[:3])
    with pytest.raises(ValueError, match="8 tasks do not divide over 3 devices"):
        mean_gradient(loss, params, {}, tasks, keys, over="scan", mesh=mesh)


def test_the_released_buffer_leaks_within_an_epoch():
    buffer = {"w": jnp.zeros(())}
    seen = []
    for step in range(4):
        buffer = carried(buffer, {"w": jnp.float32(6.0)}, 3, new_epoch=step % 2 == 0)
        seen.append(float(buffer["w"]))
    assert seen == pytest.approx([2.0, 2.0 + 2.0 / 3, 2.0, 2.0 + 2.0 / 3])


def test_bad_options():
    for options, message in (
        ({"lr": 0.0}, "lr=0.0 must be positive"),
        ({"steps": -1}, "steps=-1 not negative"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            InnerLoop(**options)
    assert set(split(params_with_psi(KEY))[1]) == {"psi"}
