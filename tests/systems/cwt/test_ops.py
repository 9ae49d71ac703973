"""The inner loop, the losses and the outer updates, against what they abbreviate."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxcog.systems.cwt import judging, ops
from jaxcog.systems.cwt.losses import balanced_cross_entropy, label_smoothed_cross_entropy
from jaxcog.systems.cwt.model import ClassifierWeightTransformer
from jaxcog.systems.cwt.outer import Episodes, outer_updates, query_loss

D = 6


def support(shots=2, size=(9, 17), low=(2, 3), seed=0):
    random = np.random.default_rng(seed)
    features = random.normal(size=(shots, *low, D)).astype(np.float32)
    masks = random.choice([0, 0, 0, 1, 255], (shots, *size)).astype(np.uint8)
    init = random.uniform(-0.4, 0.4, (2, D)).astype(np.float32)
    return jnp.asarray(features), jnp.asarray(masks), jnp.asarray(init)


@pytest.mark.parametrize("low", [(2, 3), (9, 17)])
def test_the_closed_form_is_gradient_descent_on_the_loss(low):
    features, masks, init = support(low=low)

    def loss(rows):
        return balanced_cross_entropy(ops.classify(rows, features, masks.shape[1:]), masks)

    def step(rows, _):
        value, grad = jax.value_and_grad(loss)(rows)
        return rows - 0.3 * grad, value

    want, losses = jax.jit(lambda rows: jax.lax.scan(step, rows, None, length=20))(init)
    got, ours = jax.jit(functools.partial(ops.fit_binary_classifier, lr=0.3, steps=20))(
        features, masks, init
    )
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(ours, losses, rtol=2e-5)


def test_vmapped_episodes_are_single_episodes_and_shard():
    cases = [support(seed=seed) for seed in range(8)]
    batch = [jnp.stack(parts) for parts in zip(*cases, strict=True)]
    fit = functools.partial(ops.fit_binary_classifier, lr=0.3, steps=5)
    weights, _ = jax.jit(jax.vmap(fit))(*batch)
    single = jax.jit(fit)
    alone = [single(*case)[0] for case in cases]
    np.testing.assert_allclose(weights, alone, rtol=1e-5, atol=1e-6)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    many = jax.shard_map(
        jax.vmap(fit), mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
    )
    np.testing.assert_allclose(jax.jit(many)(*batch)[0], weights, rtol=1e-5, atol=1e-6)


def test_supports_without_an_object_or_without_anything():
    features, masks, init = support()
    fit = jax.jit(functools.partial(ops.fit_binary_classifier, lr=0.3, steps=30))
    weights, losses = fit(features, masks * 0, init)
    assert np.isfinite(weights).all()
    assert losses[-1] < losses[0]
    weights, losses = fit(features, masks * 0 + 255, init)
    np.testing.assert_array_equal(weights, init)
    np.testing.assert_array_equal(losses, 0)


def test_label_smoothing_over_devices_is_that_of_one():
    random = np.random.default_rng(0)
    logits = jnp.asarray(random.normal(size=(8, 5, 5, 4)), jnp.float32)
    labels = jnp.asarray(random.choice([0, 1, 2, 3, 255], (8, 5, 5)))
    labels = labels.at[0].set(255)
    one = label_smoothed_cross_entropy(logits, labels)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    loss = functools.partial(label_smoothed_cross_entropy, axis_name="data")
    many = jax.shard_map(loss, mesh=mesh, in_specs=P("data"), out_specs=P())
    np.testing.assert_allclose(many(logits, labels), one, rtol=1e-6)
    mapped = jax.pmap(loss, axis_name="data")(logits[:, None], labels[:, None])
    np.testing.assert_allclose(mapped, one, rtol=1e-6)


def test_unit_is_torchs_normalize():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(ops.unit(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: ops.unit(x).sum())(x)).all()


def episodes(count=4):
    random = np.random.default_rng(1)
    return Episodes(
        jnp.asarray(random.normal(size=(count, 2, D)), jnp.float32),
        ops.unit(jnp.asarray(random.normal(size=(count, 3, 3, D)), jnp.float32)),
        jnp.asarray(random.choice([0, 1, 255], (count, 9, 9))),
        jnp.ones(count, bool),
    )


NET = ClassifierWeightTransformer(2)
TX = optax.sgd(0.1, momentum=0.9, nesterov=True)
UPDATE = jax.jit(functools.partial(outer_updates, NET, TX), static_argnames="updates")


@pytest.fixture(scope="module")
def start():
    params = jax.jit(NET.init, static_argnums=1)(jax.random.key(0), D)
    return params, TX.init(params)


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def test_sequential_updates_are_batches_of_one(start):
    batch = episodes()
    done = UPDATE(*start, batch, None)
    (params, opt), losses = start, []
    for i in range(4):
        single = jax.tree.map(lambda x, i=i: x[i : i + 1], batch)
        after = UPDATE(params, opt, single, None, updates="mean")
        params, opt = after.params, after.opt
        losses.append(after.losses[0])
    np.testing.assert_allclose(done.losses, losses, rtol=1e-5)
    assert_close((done.params, done.opt), (params, opt))
    # An episode that is left out moves nothing, momentum and all.
    dropped = batch._replace(counts=jnp.asarray([True, False, True, False]))
    twice = jax.tree.map(lambda x: x[jnp.asarray([0, 2, 0, 2])], batch)
    twice = twice._replace(counts=jnp.asarray([True, True, False, False]))
    assert_close(UPDATE(*start, dropped, None).params, UPDATE(*start, twice, None).params)


def test_the_mean_update(start):
    batch = episodes(1)
    double = jax.tree.map(lambda x: x[jnp.asarray([0, 0, 0, 0])], batch)
    double = double._replace(counts=jnp.asarray([True, True, True, False]))
    assert_close(
        UPDATE(*start, double, None, updates="mean").params,
        UPDATE(*start, batch, None, updates="mean").params,
    )
    single = jax.tree.map(lambda x: x[0], batch)
    loss = jax.jit(query_loss, static_argnums=0)(NET, start[0], single, None)
    done = UPDATE(*start, double, None, updates="mean")
    np.testing.assert_allclose(done.losses, [loss, loss, loss, 0], rtol=1e-5)


def test_dropout_draws_from_the_key(start):
    batch = episodes(1)
    run = functools.partial(UPDATE, *start, batch, updates="mean")
    first, second, other = (run(jax.random.key(seed)).losses for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, other)


def test_iou_by_hand():
    prediction = jnp.asarray([[[1, 1], [0, 0]], [[1, 0], [0, 1]]])
    labels = jnp.asarray([[[1, 0], [0, 255]], [[1, 1], [0, 255]]])
    both, either = judging.overlap(prediction, labels)
    np.testing.assert_array_equal(both, [[1, 1], [1, 1]])
    np.testing.assert_array_equal(either, [[2, 2], [2, 2]])
    judged = judging.fewshot_iou([1, 1, 3], [2, 2, 4], [7, 7, 2])
    np.testing.assert_array_equal(judged.classes, [2, 7])
    np.testing.assert_allclose(judged.iou, [0.75, 0.5])
    assert judged.mean == pytest.approx(0.625)
    assert judging.fb_iou([[1, 1], [3, 0]], [[4, 2], [4, 2]]) == pytest.approx((0.5 + 0.25) / 2)
    assert np.isnan(judging.fewshot_iou([], [], []).mean)
