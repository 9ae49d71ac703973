from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.errors import ConfigError
from jaxcog.systems.qat import model
from jaxcog.systems.qat.model import GTADConfig
from jaxcog.systems.qat.torch_names import base_names
from tests.systems.qat.worlds import NETWORK


def test_neighbours_are_the_nearest_and_the_snippet_itself():
    x = jnp.asarray([[[0.0], [1.0], [1.4], [9.0], [9.2]]])
    graph = np.sort(model.knn_graph(x, 3)[0], axis=1)
    np.testing.assert_array_equal(graph[0], [0, 1, 2])
    np.testing.assert_array_equal(graph[4], [2, 3, 4])
    assert all(i in row for i, row in enumerate(graph))
    near = model.neighbours(x, model.knn_graph(x, 2))
    assert near.shape == (1, 5, 2, 1)


def test_of_equal_neighbours_one_gets_the_gradient():
    gradient = jax.grad(lambda x: model._first_max(x).sum())(jnp.ones((1, 1, 3, 1)))
    np.testing.assert_array_equal(gradient[0, 0, :, 0], [1, 0, 0])


def test_initial_values_are_those_of_the_modules():
    config = GTADConfig()
    drawn = jax.eval_shape(lambda key: model.init(config, key, 100, 400), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(drawn)) == 5_563_268
    wide = jax.eval_shape(
        lambda key: model.init(GTADConfig(kernel=3), key, 100, 400), jax.random.key(0)
    )
    assert sum(x.size for x in jax.tree.leaves(wide)) == 5_825_412

    params = jax.jit(lambda key: model.init(NETWORK, key, 10, 8))(jax.random.key(0))
    kernel, bias = params["localization_0"]["kernel"], params["localization_0"]["bias"]
    bound = 1 / np.sqrt(6 * 16)
    for x in (kernel, bias):
        assert 0.7 * bound < np.abs(x).max() <= bound
    assert np.abs(np.mean(kernel)) < 0.1 * bound


def test_outputs_have_the_layouts_that_are_promised():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 10, 8)), jnp.float32)
    config = GTADConfig(**{**vars(NETWORK), "max_duration": 6, "kernel": 3})
    params = jax.jit(lambda key: model.init(config, key, 10, 8))(jax.random.key(0))
    out = jax.jit(lambda params, x: model.apply(config, params, x))(params, x)
    assert out.iou_map.shape == (2, 6, 10, 2)
    assert out.start.shape == out.end.shape == (2, 10)
    assert out.embedding.shape == (2, 10, 16)
    assert float(out.embedding.min()) >= 0
    np.testing.assert_allclose(model.embed(config, params, x), out.embedding, atol=1e-6)
    part = {name: params[name] for name in model.EMBEDDING_LAYERS}
    np.testing.assert_allclose(model.embed(config, part, x), out.embedding, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"channels": 6}, "multiple of 4"), ({"kernel": 2}, "odd"), ({"k": 0}, "network.k")],
)
def test_sizes_that_make_no_sense_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        GTADConfig(**options)


def test_official_checkpoints_carry_a_prefix():
    params = jax.jit(lambda key: model.init(NETWORK, key, 10, 8))(jax.random.key(0))
    table = base_names(NETWORK.channels)
    keys = [
        f"{block}.{branch}.{i}.{kind}"
        for block in ("backbone1.2", "backbone2.0", "regu_s.0", "regu_e.0")
        for branch in ("tconvs", "sconvs")
        for i in (0, 2, 4)
        for kind in ("weight", "bias")
    ] + [
        f"{layer}.{kind}"
        for layer in ("backbone1.0", "regu_s.1", "regu_e.1",
                      *(f"localization.{i}" for i in (0, 2, 4, 6, 8)))
        for kind in ("weight", "bias")
    ]  # fmt: skip
    tensors = table.to_torch({"params": params}, keys)
    assert set(tensors) == set(keys)
    assert tensors["localization.0.weight"].shape == (16, 6 * 16, 1, 1)
    prefixed = {f"module.{name}": value for name, value in tensors.items()}
    back = table.to_ours(prefixed)["params"]
    jax.tree.map(np.testing.assert_array_equal, back, jax.device_get(params))
