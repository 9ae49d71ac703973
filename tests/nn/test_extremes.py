from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.nn.extremes import larger, largest, smallest
from jaxcog.nn.norm import BatchNorm

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_values_are_those_of_numpy(axis):
    np.testing.assert_array_equal(largest(X, axis), np.max(X, axis))
    np.testing.assert_array_equal(smallest(X, axis), np.min(X, axis))
    np.testing.assert_array_equal(larger(X, -X), np.maximum(X, -X))


def test_of_equal_entries_the_first_gets_the_gradient():
    x = jnp.asarray([1.0, 3.0, 3.0])
    np.testing.assert_array_equal(jax.grad(lambda x: largest(x, 0))(x), [0, 1, 0])
    np.testing.assert_array_equal(jax.grad(lambda x: smallest(-x, 0))(x), [0, -1, 0])
    np.testing.assert_array_equal(jax.grad(lambda x: larger(x[1], x[2]))(x), [0, 1, 0])


def test_nothing_real_is_minus_infinity_and_has_a_gradient():
    x = jnp.where(jnp.asarray([[True, True], [False, False]]), 1.0, -jnp.inf)
    np.testing.assert_array_equal(largest(x, 1), [1, -jnp.inf])
    assert np.isfinite(jax.grad(lambda x: largest(x, 1)[0])(x)).all()


def pairs_by_place(x):
    return larger(x[:, 0], x[:, 1])


@pytest.mark.parametrize("maximum", [lambda x: largest(x, 1), pairs_by_place])
def test_entries_that_are_computed_twice_have_a_gradient(maximum):
    """Without optimisation the CPU computes a norm once for the maximum and, rounded otherwise,
    once for its gradient: `jnp.max` in this place gives NaN."""
    norm = BatchNorm(use_running_average=False)
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(64, 2, 32)), jnp.float32)
    variables = {
        "params": {
            name: jnp.asarray(random.normal(size=32), jnp.float32) for name in ("scale", "bias")
        },
        "batch_stats": {
            "mean": jnp.asarray(random.normal(size=32), jnp.float32),
            "var": jnp.ones(32),
        },
    }

    def loss(x):
        y, _ = norm.apply(variables, x, mutable=["batch_stats"])
        return jnp.sum(jnp.square(maximum(y)))

    quick = jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})
    np.testing.assert_allclose(quick(x), jax.grad(loss)(x), rtol=1e-3, atol=1e-3)
