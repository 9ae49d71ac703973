from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.losses.temporal_targets import valid_cells
from jaxcog.systems.qat import losses

B, D, T = 4, 6, 8
BMN = jax.jit(losses.bmn_loss)


def inputs(seed: int = 0):
    random = np.random.default_rng(seed)
    arrays = [random.uniform(0.05, 0.95, shape) for shape in
              ((B, D, T, 2), (B, T), (B, T), (B, D, T), (B, T), (B, T))]  # fmt: skip
    draws = random.uniform(size=(2, B, D, T))
    return [jnp.asarray(x, jnp.float32) for x in (*arrays, valid_cells(T, D), draws)]


def test_both_classes_weigh_one_half():
    prob = jnp.asarray([0.9, 0.2, 0.3, 0.4])
    target = jnp.asarray([1.0, 0.0, 0.0, 0.0])
    want = -0.5 * (np.log(0.9) + np.mean(np.log([0.8, 0.7, 0.6])))
    np.testing.assert_allclose(losses.balanced_bce(prob, target), want, rtol=1e-4)
    rows = jnp.stack([prob, 1 - prob])
    each = losses.balanced_bce(rows, jnp.stack([target, target]), axis=-1)
    np.testing.assert_allclose(each[0], want, rtol=1e-4)
    kept = losses.balanced_bce(
        jnp.append(prob, jnp.nan), jnp.append(target, 0.0), where=jnp.asarray([1, 1, 1, 1, 0])
    )
    assert not np.isfinite(kept)  # a masked entry must be a number: NaN times 0
    kept = losses.balanced_bce(
        jnp.append(prob, 0.5), jnp.append(target, 0.0), where=jnp.asarray([1, 1, 1, 1, 0])
    )
    np.testing.assert_allclose(kept, want, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_missing_class_leaves_a_finite_loss(value):
    prob = jnp.full(5, 0.3)
    loss, gradient = jax.value_and_grad(losses.balanced_bce)(prob, jnp.full(5, value))
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_masked_rows_equal_absent_rows():
    *arrays, valid, draws = inputs()
    where = jnp.asarray([1.0, 1, 1, 0])
    masked = BMN(*arrays, valid, draws, where=where)
    absent = BMN(*(x[:3] for x in arrays), valid, draws[:, :3])
    np.testing.assert_allclose(masked, absent, rtol=1e-5)


def test_a_batch_without_actions_has_a_finite_loss():
    iou_map, start, end, *_, valid, draws = inputs()
    nothing = jnp.zeros((B, D, T)), jnp.zeros((B, T)), jnp.zeros((B, T))
    assert np.isfinite(BMN(iou_map, start, end, *nothing, valid, draws)).all()


@pytest.mark.parametrize("how", ["shard_map", "pmap", "jit"])
def test_normalisers_count_over_all_devices(how):
    *arrays, valid, draws = inputs()
    grad = jax.jit(jax.value_and_grad(_total))
    want, gradient = grad(arrays[0], arrays[1:], valid, draws)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    local = functools.partial(_total, axis_name="data")
    if how == "shard_map":
        spread = jax.shard_map(
            local, mesh=mesh, in_specs=(P("data"), P("data"), P(), P(None, "data")), out_specs=P()
        )
        value, found = jax.jit(jax.value_and_grad(spread))(arrays[0], arrays[1:], valid, draws)
    elif how == "pmap":

        def split(x, axis=0):
            return jnp.moveaxis(x.reshape(*x.shape[:axis], 4, -1, *x.shape[axis + 1 :]), axis, 0)

        each = jax.pmap(local, axis_name="data", in_axes=(0, 0, None, 0), devices=jax.devices()[:4])
        parts = [split(x) for x in arrays]
        value, found = each(parts[0], parts[1:], valid, split(draws, 1)), gradient
        np.testing.assert_allclose(value, np.full(4, want), rtol=1e-5)
        value = value[0]
    else:
        place = jax.sharding.NamedSharding(mesh, P("data"))
        moved = [jax.device_put(x, place) for x in arrays]
        value, found = grad(moved[0], moved[1:], valid, draws)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-6)


def _total(iou_map, rest, valid, draws, axis_name=None):
    return losses.bmn_loss(iou_map, *rest, valid, draws, axis_name=axis_name).total


def test_the_released_inner_loss_likes_foreground_on_background():
    mask = jnp.asarray(np.arange(20) < 8, jnp.float32)[None]
    prob = jnp.full((1, 20), 0.5)
    gradient = jax.grad(losses.released_support_loss)(prob, mask)[0]
    assert (gradient < 0).all()  # more foreground lowers it everywhere
    intended = jax.grad(losses.balanced_bce)(prob, mask)[0]
    assert (intended[:8] < 0).all()
    assert (intended[8:] > 0).all()
    everything = jnp.full((1, 20), 1 - 1e-6)
    assert losses.foreground_loss(everything, mask)[0] < 1e-5
    assert losses.balanced_bce(everything, mask) > 1
