from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog.nn.norm import BatchNorm, InstanceNorm

EPS = 1e-5


def draw(shape, seed=0, mean=2.0):
    return jnp.asarray(np.random.default_rng(seed).normal(mean, 1.5, shape), jnp.float32)


def variables(channels):
    rng = np.random.default_rng(7)
    return {
        "params": {
            "scale": jnp.asarray(rng.uniform(0.5, 1.5, channels), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=channels), jnp.float32),
        },
        "batch_stats": {
            "mean": jnp.asarray(rng.normal(size=channels), jnp.float32),
            "var": jnp.asarray(rng.uniform(0.5, 1.5, channels), jnp.float32),
        },
    }


def run_training(norm, vs, x):
    y, new = norm.apply(vs, x, mutable=["batch_stats"])
    return y, new["batch_stats"]


def test_normalises_with_biased_and_keeps_unbiased_variance():
    x, vs = draw((3, 2, 2, 4)), variables(4)
    y, stats = run_training(BatchNorm(False, momentum=0.9), vs, x)
    rows = np.asarray(x, np.float64).reshape(-1, 4)
    params, old = vs["params"], vs["batch_stats"]
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + EPS) * params["scale"] + params["bias"]
    np.testing.assert_allclose(np.reshape(y, (-1, 4)), expected, atol=1e-5)
    np.testing.assert_allclose(stats["mean"], 0.9 * old["mean"] + 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        stats["var"], 0.9 * old["var"] + 0.1 * rows.var(0, ddof=1), rtol=1e-5
    )


def test_instance_norm_is_blind_to_shift_and_scale_of_each_sample():
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 4, 5, 3)).astype(np.float32)
    params = {"scale": jnp.array([1.0, 2, 3]), "bias": jnp.array([0.0, 1, -1])}
    norm = jax.jit(functools.partial(InstanceNorm().apply, {"params": params}))
    y = norm(x)
    np.testing.assert_allclose(np.mean(y, (1, 2)), [[0, 1, -1]] * 2, atol=1e-5)
    np.testing.assert_allclose(np.std(y, (1, 2)), [[1, 2, 3]] * 2, rtol=1e-3)
    moved = x * np.array([2, 5])[:, None, None, None] + np.arange(3, dtype=np.float32)
    np.testing.assert_allclose(norm(moved), y, atol=1e-4)


def test_evaluation_uses_and_keeps_the_running_statistics():
    x, vs = draw((3, 4)), variables(4)
    y, stats = run_training(BatchNorm(True), vs, x)
    old = vs["batch_stats"]
    normalised = (x - old["mean"]) / np.sqrt(old["var"] + EPS)
    expected = normalised * vs["params"]["scale"] + vs["params"]["bias"]
    np.testing.assert_allclose(y, expected, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stats, old)


def test_initialisation_leaves_statistics_at_zero_and_one():
    vs = BatchNorm(False, axis_name="absent").init(jax.random.key(0), draw((5, 3)))
    np.testing.assert_array_equal(vs["batch_stats"]["mean"], np.zeros(3))
    np.testing.assert_array_equal(vs["batch_stats"]["var"], np.ones(3))


def test_gradient_is_blind_to_shift_and_scale_of_a_channel():
    vs = variables(3)
    vs["params"]["bias"] = jnp.zeros(3)
    weight = draw((6, 3), seed=3)

    def loss(x):
        return jnp.sum(weight * run_training(BatchNorm(False), vs, x)[0])

    x = draw((6, 3))
    gradient = jax.grad(loss)(x)
    np.testing.assert_allclose(gradient.sum(0), np.zeros(3), atol=1e-5)
    centred = x - x.mean(0)
    np.testing.assert_allclose((gradient * centred).sum(0), np.zeros(3), atol=1e-4)


def test_statistics_stay_accurate_when_the_running_mean_knows_a_large_offset():
    x, vs = draw((64, 2), mean=1000.0), variables(2)
    vs["batch_stats"]["mean"] = jnp.full(2, 1001.0)
    y, _ = run_training(BatchNorm(False, use_scale=False, use_bias=False), vs, x)
    np.testing.assert_allclose(np.std(y, axis=0), np.ones(2), rtol=1e-3)


def test_bfloat16_activations_have_float32_statistics():
    x, vs = draw((256, 4)).astype(jnp.bfloat16), variables(4)
    y, stats = run_training(BatchNorm(False), vs, x)
    exact_y, exact = run_training(BatchNorm(False), vs, x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    assert stats["var"].dtype == jnp.float32
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stats, exact)
    np.testing.assert_allclose(y.astype(jnp.float32), exact_y, atol=0.03)


@pytest.mark.parametrize("how", ["jit", "shard_map", "pmap"])
def test_sharded_equals_one_device(how):
    devices = jax.devices()
    x, vs = draw((2 * len(devices), 3, 4)), variables(4)
    y, stats = run_training(BatchNorm(False), vs, x)
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,))
    if how == "jit":
        sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
        many_y, many = jax.jit(lambda x: run_training(BatchNorm(False), vs, x))(sharded)
    elif how == "shard_map":
        norm = BatchNorm(False, axis_name="data")
        step = jax.shard_map(
            lambda x: run_training(norm, vs, x),
            mesh=mesh,
            in_specs=P("data"),
            out_specs=(P("data"), P()),
        )
        many_y, many = jax.jit(step)(x)
    else:
        norm = BatchNorm(False, axis_name="data")
        step = jax.pmap(lambda x: run_training(norm, vs, x), axis_name="data")
        many_y, many = step(x.reshape(len(devices), 2, 3, 4))
        many_y, many = many_y.reshape(x.shape), jax.tree.map(lambda a: a[0], many)
    np.testing.assert_allclose(many_y, y, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), many, stats)
