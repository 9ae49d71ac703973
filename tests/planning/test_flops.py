"""FLOPs of programs as written: by hand, and against what XLA counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.planning.flops import Window, program_flops

IMAGE = jax.ShapeDtypeStruct((2, 9, 9, 4), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 4, 8), jnp.float32)


def conv(image, kernel, stride=1, groups=1):
    return jax.lax.conv_general_dilated(
        image,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def written(function, *arguments):
    return program_flops(jax.jit(function).trace(*arguments).jaxpr)


def test_products_count_neither_padding_nor_gaps():
    assert Window(input=5, kernel=1, output=5).products() == 5
    assert Window(input=5, kernel=3, output=5, pad=1).products() == 13
    assert Window(input=3, kernel=1, output=5, input_dilation=2).products() == 3
    assert Window(input=5, kernel=2, output=3, kernel_dilation=2).products() == 6


def test_matrix_product_with_batch():
    a = jax.ShapeDtypeStruct((3, 5, 7), jnp.float32)
    b = jax.ShapeDtypeStruct((3, 7, 11), jnp.float32)
    assert written(lambda a, b: a @ b, a, b) == 2 * 3 * 5 * 7 * 11


def test_grouped_convolution():
    kernel = jax.ShapeDtypeStruct((3, 3, 1, 8), jnp.float32)
    assert written(lambda x, k: conv(x, k, groups=4), IMAGE, kernel) == 2 * 2 * 8 * 25 * 25


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_and_its_gradients_are_what_xla_counts(stride):
    def loss(image, kernel):
        return conv(image, kernel, stride).sum()

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    counted = step.lower(IMAGE, KERNEL).cost_analysis()["flops"]
    # XLA also counts elementwise work, of which a sum has next to none.
    assert program_flops(step.trace(IMAGE, KERNEL).jaxpr) == pytest.approx(counted, rel=0.02)


def test_loops_branches_and_recomputation():
    x = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    product = 2 * 4**3

    def scanned(x):
        return jax.lax.scan(lambda h, _: (h @ h, None), x, length=6)[0]

    def branched(x):
        return jax.lax.cond(x[0, 0] > 0, lambda h: h @ h @ h, lambda h: h @ h, x)

    def remembered(x):
        return jax.grad(lambda h: jnp.sum(jax.checkpoint(lambda h: jnp.sin(h @ h) @ h)(h)))(x)

    assert written(scanned, x) == 6 * product
    assert written(branched, x) == 2 * product
    # Two forward, four backward, one product computed anew.
    assert written(remembered, x) in (6 * product, 7 * product)


def test_shard_map_counts_every_device():
    mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    x = jax.ShapeDtypeStruct((8, 4), jnp.float32)

    def everyone(x):
        inner = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
        return inner(x)

    assert written(everyone, x) == 8 * (2 * 2 * 4 * 2)
