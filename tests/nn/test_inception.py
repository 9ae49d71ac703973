from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.interop.names import NameTable
from jaxcog.nn.inception import CHANNELS, InceptionV3, inception_rules


def shapes(size=299, **options):
    """Variables and result as shapes, nothing computed."""
    net = InceptionV3()
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), images)
    variables = {name: variables[name] for name in ("params", "batch_stats")}
    run = jax.eval_shape(lambda v, x: net.apply(v, x, train=False, **options), variables, images)
    return variables, run


def test_parameter_count_is_the_published_one():
    variables, features = shapes()
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    # torchvision: 27,161,264 with the auxiliary head (3,326,696) and the classifier (2,049,000)
    assert count == 27_161_264 - 3_326_696 - 2_049_000
    assert features.shape == (2, 2048)


def test_maps_and_blocks_in_between():
    seen = {}
    shapes(between=lambda name, x: seen.setdefault(name, x))
    assert {name: x.shape[-1] for name, x in seen.items()} == CHANNELS
    assert shapes(pool=False)[1].shape == (2, 8, 8, 2048)
    with pytest.raises(ValueError, match="from 75 pixels up"):
        shapes(size=74)


def test_names_go_both_ways():
    variables, _ = shapes(75)
    table = NameTable(inception_rules("encoder.", "trunk/"))
    tree = {
        kind: {"trunk": jax.tree.map(lambda x: np.zeros(x.shape, np.float32), part)}
        for kind, part in variables.items()
    }
    torch = table.to_torch(tree)
    assert torch["encoder.Mixed_7b.branch3x3dbl_3a.conv.weight"].shape == (384, 384, 1, 3)
    back = table.to_ours({**torch, "encoder.AuxLogits.fc.bias": np.zeros(3)})
    assert jax.tree.structure(back) == jax.tree.structure(tree)
