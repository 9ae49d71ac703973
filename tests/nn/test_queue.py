from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog.errors import ConfigError
from jaxcog.nn import queue as queues

K, N, D = 24, 8, 3


def start() -> queues.Queue:
    keys = queues.random_unit_rows(jax.random.key(0), K, D)
    return queues.make_queue({"key": keys, "id": jnp.full(K, -1)}, N)


def batch(i: int) -> dict[str, jax.Array]:
    return {"key": jnp.full((N, D), float(i)), "id": jnp.arange(N) + N * i}


def test_the_oldest_batch_is_replaced_in_the_order_of_the_ring():
    queue = start()
    for i in range(4):
        queue = queues.enqueue(queue, batch(i))
    want = np.concatenate([batch(i)["id"] for i in (3, 1, 2)])
    np.testing.assert_array_equal(queues.entries(queue, "id"), want)
    assert queue["slot"] == 1
    newest = np.asarray(queues.from_newest(queue, "id"))
    np.testing.assert_array_equal(newest[:, 0], [24, 16, 8])


def test_a_queue_split_over_eight_devices_is_the_same_queue():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = {name: P(None, "data") if name != "slot" else P() for name in start()}
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), spread)
    rows = NamedSharding(mesh, P("data"))
    step = jax.jit(queues.enqueue, out_shardings=shardings)
    one, many = start(), jax.device_put(start(), shardings)
    for i in range(4):
        one = queues.enqueue(one, batch(i))
        many = step(many, jax.device_put(batch(i), rows))
    jax.tree.map(np.testing.assert_array_equal, one, many)
    text = step.lower(many, jax.device_put(batch(0), rows)).compile().as_text()
    assert "all-" not in text, "enqueueing moves nothing between devices"


def test_initial_rows():
    rows = queues.random_unit_rows(jax.random.key(1), 50, 7, "uniform")
    np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert np.all(np.asarray(rows) >= 0)


def test_a_batch_must_divide_the_queue():
    with pytest.raises(ConfigError, match=r"queue size 24 with train.batch_size=9.*queue of 27"):
        queues.make_queue({"key": jnp.zeros((24, 2))}, 9)


def test_identities_of_the_whole_batch_are_no_negatives():
    held, new = jnp.array([-1, 3, 4, 5, -1, 3, 9, 9]), jnp.arange(8)
    keep = queues.of_other_identities(held, new)
    np.testing.assert_array_equal(keep, [1, 0, 0, 0, 1, 0, 1, 1])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(
        lambda a, b: queues.of_other_identities(a, b, "data"),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )
    np.testing.assert_array_equal(split(held, new), keep)


def test_momentum_keeps_small_steps_of_half_precision():
    old, new = {"w": jnp.ones(3)}, {"w": jnp.full(3, 1 + 1 / 128, jnp.bfloat16)}
    mixed = queues.momentum_update(old, new, 0.99)["w"]
    np.testing.assert_allclose(mixed, 1 + 0.01 / 128, rtol=1e-7)
