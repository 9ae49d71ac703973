from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog.nn.blockwise import blockwise_attention, plain_attention


def draw(n=24, m=20, d=5, e=3, size=1.0, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = ((2, n, d), (2, m, d), (2, m, e))
    return [jnp.asarray(size * rng.normal(size=shape), dtype) for shape in shapes]


def value_and_gradients(attend, arrays):
    def total(*arrays):
        out = attend(*arrays)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*arrays)
    return [out, *grads]


@pytest.mark.parametrize("block", [4, 7, 64])
def test_it_is_softmax_attention(block):
    """Blocks that divide the keys, that do not, and that are larger than all of them."""
    arrays = draw()
    scaled = functools.partial(blockwise_attention, scale=0.7, block=block)
    got = value_and_gradients(scaled, arrays)
    want = value_and_gradients(functools.partial(plain_attention, scale=0.7), arrays)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_large_products_do_not_overflow():
    arrays = draw(size=30.0)
    got = value_and_gradients(functools.partial(blockwise_attention, block=6), arrays)
    assert all(np.isfinite(x).all() for x in got)
    np.testing.assert_allclose(got[0], plain_attention(*arrays), rtol=1e-2, atol=1e-2)


def test_half_precision_stays_close_to_float32():
    arrays = draw(dtype=jnp.bfloat16)
    got = value_and_gradients(functools.partial(blockwise_attention, block=6), arrays)
    wide = [x.astype(jnp.float32) for x in arrays]
    want = value_and_gradients(plain_attention, wide)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.03)


def test_no_matrix_of_all_pairs_exists():
    n, block = 1024, 64
    arrays = [jax.ShapeDtypeStruct((1, n, 8), jnp.float32)] * 3

    def temporaries(attend):
        step = jax.jit(jax.grad(lambda *x: attend(*x).sum(), (0, 1, 2)))
        return step.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(plain_attention) >= 4 * n * n
    assert temporaries(functools.partial(blockwise_attention, block=block)) < 4 * n * n / 4


def test_queries_split_over_devices_give_the_same():
    arrays = draw()
    mesh = jax.make_mesh((8,), ("space",), axis_types=(AxisType.Auto,))
    placed = [
        jax.device_put(x, NamedSharding(mesh, spec))
        for x, spec in zip(arrays, (P(None, "space"), P(), P()), strict=True)
    ]
    attend = functools.partial(blockwise_attention, block=6)
    for a, b in zip(
        value_and_gradients(attend, placed), value_and_gradients(attend, arrays), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_inside_shard_map_each_device_attends_to_its_own():
    arrays = [jnp.concatenate([x] * 4) for x in draw()]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    attend = functools.partial(blockwise_attention, block=6)
    many = jax.shard_map(attend, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    for a, b in zip(
        value_and_gradients(many, arrays), value_and_gradients(attend, arrays), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
