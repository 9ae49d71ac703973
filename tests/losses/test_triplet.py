from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.losses.triplet import batch_hard_triplet, triplet_margin_loss


def rows(seed=0):
    random = np.random.default_rng(seed)
    return jnp.asarray(random.normal(size=(8, 5)), jnp.float32), jnp.arange(8) // 2 % 3


def test_value_by_definition():
    features, ids = rows()
    distances = np.linalg.norm(features[:, None] - features[None, :], axis=-1)
    same = np.asarray(ids)[:, None] == np.asarray(ids)[None, :]
    positive = np.where(same, distances, 0).max(axis=1)
    negative = np.where(same, np.inf, distances).min(axis=1)
    expected = np.maximum(0, 0.5 + positive - negative).mean()
    np.testing.assert_allclose(batch_hard_triplet(features, ids, margin=0.5), expected, rtol=1e-5)


def test_devices_share_one_batch():
    features, ids = rows()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    many = jax.shard_map(
        lambda f, i: batch_hard_triplet(f, i, axis_name="data"),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P(),
    )
    both = [jax.value_and_grad(f)(features, ids) for f in (many, batch_hard_triplet)]
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_equal_rows_have_finite_gradients():
    gradient = jax.grad(batch_hard_triplet)(jnp.ones((4, 3)), jnp.array([0, 0, 1, 1]))
    assert np.isfinite(gradient).all()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="ids"):
        batch_hard_triplet(jnp.ones((4, 3)), jnp.zeros(3, int))


def test_triplet_margin_by_definition_and_over_devices():
    anchor, positive, negative = (rows(seed)[0] for seed in range(3))
    near = np.linalg.norm(anchor - positive + 1e-6, axis=1)
    far = np.linalg.norm(anchor - negative + 1e-6, axis=1)
    expected = np.maximum(0, near - far + 0.5).mean()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    many = jax.shard_map(
        lambda *x: triplet_margin_loss(*x, margin=0.5, axis_name="data"),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P(),
    )
    for value in (many, lambda *x: triplet_margin_loss(*x, margin=0.5)):
        np.testing.assert_allclose(jax.jit(value)(anchor, positive, negative), expected, rtol=1e-5)
    gradient = jax.grad(triplet_margin_loss)(anchor, anchor, anchor)
    assert np.isfinite(gradient).all()
