"""Parameters split over "fsdp" are whole while they are used."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog.config import Mesh
from jaxcog.nn.placement import whole_parameters
from jaxcog.training import sharding


def loss(params, x):
    hidden = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.mean(jnp.square(hidden))


def test_weights_travel_and_activations_do_not():
    mesh = sharding.make_mesh(Mesh(data=2, fsdp=4))
    params = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 8, 32))}
    x = jax.random.normal(jax.random.key(1), (8, 6, 6, 8))
    split = {"kernel": NamedSharding(mesh, P(None, None, None, "fsdp"))}
    rows = NamedSharding(mesh, P(("data", "fsdp")))

    def placed(params, x):
        return loss(whole_parameters(params, mesh), x)

    step = jax.jit(jax.grad(placed), in_shardings=(split, rows), out_shardings=split)
    compiled = step.lower(params, x).compile()
    found = compiled(jax.device_put(params, split), jax.device_put(x, rows))
    want = jax.grad(loss)(params, x)
    np.testing.assert_allclose(found["kernel"], want["kernel"], rtol=1e-5, atol=1e-7)
    gathers = re.findall(r"= f32\[([\d,]+)\]\S* all-gather", compiled.as_text())
    assert gathers == ["3,3,8,32"]


def test_one_device_and_split_layers_are_left_alone():
    params = {"kernel": jnp.ones((4, 4))}
    assert whole_parameters(params, None) is params
    assert whole_parameters(params, sharding.make_mesh(Mesh(data=8))) is params
    assert whole_parameters(params, sharding.make_mesh(Mesh(fsdp=4, model=2))) is params
