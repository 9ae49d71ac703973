from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxcog.losses.contrastive import (
    blockwise_logsumexp,
    info_nce,
    queue_info_nce,
    sigmoid_loss,
    unit,
)

N, D, K = 16, 6, 40
MESH = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
AXES = ("a", "b")


def rows(seed: int, count: int = N) -> jax.Array:
    return unit(jax.random.normal(jax.random.key(seed), (count, D)))


X, Y, QUEUE = rows(0), rows(1), rows(2, K)
IDS = jnp.array([0, 1, 2, 2, 4, 5, 6, 7, 8, 9, 10, 10, 10, 13, 14, 15])


def dense_nce(x, y, scale, ids=None):
    logits = scale * x @ y.T
    if ids is not None:
        same = (ids[:, None] == ids) & ~jnp.eye(len(ids), dtype=bool)
        logits = jnp.where(same, -jnp.inf, logits)
    both = [jax.nn.logsumexp(logits, axis=axis) - jnp.diag(logits) for axis in (0, 1)]
    return 0.5 * (both[0] + both[1])


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("block", [3, 40, 4096])
def test_logsumexp_in_blocks(block: int):
    keep = jnp.arange(K) % 3 > 0
    got = blockwise_logsumexp(X, QUEUE, 7.0, where=keep, block=block)
    close(got, jax.nn.logsumexp(jnp.where(keep, 7.0 * X @ QUEUE.T, -jnp.inf), axis=1))


def test_a_row_without_columns_has_finite_gradients():
    def total(x):
        return jnp.sum(jnp.exp(blockwise_logsumexp(x, QUEUE, where=jnp.zeros(K, bool))))

    value, grad = jax.value_and_grad(total)(X)
    assert value == 0
    assert not np.any(grad)


@pytest.mark.parametrize("ids", [None, IDS])
def test_info_nce_and_its_gradient_equal_the_dense_ones(ids):
    got = jax.value_and_grad(lambda x, y: info_nce(x, y, scale=9.0, ids=ids, block=5).sum(), (0, 1))
    want = jax.value_and_grad(lambda x, y: dense_nce(x, y, 9.0, ids).sum(), (0, 1))
    jax.tree.map(close, got(X, Y), want(X, Y))


def test_masked_rows_equal_absent_rows():
    keep = jnp.arange(N) < 10
    got = info_nce(X, Y, scale=9.0, where=keep)
    close(got[:10], info_nce(X[:10], Y[:10], scale=9.0))
    assert not np.any(got[10:])


def one_queue(x, y, queue, keep, ids, queue_ids, **options):
    return queue_info_nce(
        x, y, queue, scale=9.0, where=keep, ids=ids, queue_ids=queue_ids, block=7, **options
    )


def test_queue_loss_equals_cross_entropy_against_the_queue():
    logits = 9.0 * jnp.concatenate([jnp.sum(X * Y, axis=1, keepdims=True), X @ QUEUE.T], axis=1)
    want = -jax.nn.log_softmax(logits)[:, 0]
    close(queue_info_nce(X, Y, QUEUE, scale=9.0, block=7), want)
    joined = jnp.concatenate([Y, QUEUE])
    want = jax.nn.logsumexp(9.0 * X @ joined.T, axis=1) - 9.0 * jnp.sum(X * Y, axis=1)
    close(queue_info_nce(X, Y, joined, scale=9.0, includes_positive=True), want)


def test_entries_of_the_own_id_are_no_negatives():
    queue_ids = jnp.arange(K) % 20
    got = queue_info_nce(X, Y, QUEUE, scale=9.0, ids=IDS, queue_ids=queue_ids)
    for row in (0, 11):
        others = QUEUE[queue_ids != IDS[row]]
        close(got[row], queue_info_nce(X[row : row + 1], Y[row : row + 1], others, scale=9.0)[0])


def dense_sigmoid(x, y, scale, bias):
    signs = 2 * jnp.eye(len(x)) - 1
    return -jnp.sum(jax.nn.log_sigmoid(signs * (scale * x @ y.T + bias)), axis=1)


def test_sigmoid_loss_equals_the_dense_one():
    def ours(x, y, bias):
        return sigmoid_loss(x, y, scale=10.0, bias=bias, block=5).sum()

    def dense(x, y, bias):
        return dense_sigmoid(x, y, 10.0, bias).sum()

    got, want = (jax.value_and_grad(f, (0, 1, 2))(X, Y, -10.0) for f in (ours, dense))
    jax.tree.map(close, got, want)


WHOLE = P(AXES)
LOSSES = {
    "in_batch": (partial(info_nce, scale=9.0, block=3), (X, Y), (WHOLE, WHOLE)),
    "in_batch_ids": (
        lambda x, y, ids, **kw: info_nce(x, y, scale=9.0, ids=ids, **kw),
        (X, Y, IDS),
        (WHOLE,) * 3,
    ),
    "queue": (
        one_queue,
        (X, Y, QUEUE, jnp.arange(K) % 3 > 0, IDS, jnp.arange(K)),
        (WHOLE,) * 6,
    ),
    "sigmoid": (partial(sigmoid_loss, scale=10.0, bias=-10.0, block=3), (X, Y), (WHOLE,) * 2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_eight_devices_equal_one(name: str):
    loss, arguments, specs = LOSSES[name]
    first, rest = arguments[:2], arguments[2:]

    def many(x, y):
        split = jax.shard_map(
            partial(loss, axis_name=AXES), mesh=MESH, in_specs=specs, out_specs=WHOLE
        )
        values = split(x, y, *rest)
        return values.sum(), values

    def one(x, y):
        values = loss(x, y, *rest)
        return values.sum(), values

    got, want = (jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(*first) for f in (many, one))
    jax.tree.map(close, got, want)


@pytest.mark.parametrize("name", LOSSES)
def test_pmap_equals_one_device(name: str):
    loss, arguments, _ = LOSSES[name]
    parts = [x.reshape(8, -1, *x.shape[1:]) for x in arguments]
    got = jax.pmap(partial(loss, axis_name="devices"), axis_name="devices")(*parts)
    close(got.ravel(), loss(*arguments))


def test_shapes_are_named():
    with pytest.raises(ValueError, match=r"info_nce.*got \(16, 6\) and \(40, 6\)"):
        info_nce(X, QUEUE, scale=1.0)
    with pytest.raises(ValueError, match="both of query_ids and key_ids"):
        blockwise_logsumexp(X, QUEUE, query_ids=IDS)
