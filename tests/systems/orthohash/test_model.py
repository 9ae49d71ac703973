from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.errors import CheckpointError
from jaxcog.systems.orthohash import model, torch_names


def test_adaptive_pool_averages_overlapping_bins_and_keeps_its_own_size():
    x = jnp.arange(4.0).reshape(1, 4, 1, 1)
    pooled = model.adaptive_average_pool(jnp.broadcast_to(x, (1, 4, 4, 1)), 3)
    np.testing.assert_allclose(pooled[0, :, 0, 0], [0.5, 1.5, 2.5])
    same = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    np.testing.assert_array_equal(model.adaptive_average_pool(same, 6), same)


def test_head_balances_bits_and_moves_its_statistics_only_in_training():
    network = model.Architecture("feature", num_bits=8)
    x = 5 + jax.random.normal(jax.random.key(0), (64, 16))
    params, stats = model.init(network, jax.random.key(1), x)
    trained = model.encode(network, params, stats, x, train=True)
    np.testing.assert_allclose(np.mean(trained.codes, axis=0), 0, atol=1e-4)
    assert (trained.batch_stats["hash_fc"]["bn"]["mean"] != 0).all()
    judged = model.encode(network, params, stats, x, train=False)
    assert judged.batch_stats is stats


def test_without_batch_norm_the_head_has_a_bias_and_a_classifier_only_where_asked():
    x = jnp.ones((2, 8, 8, 1))
    network = model.Architecture("mlp", num_bits=8, use_bn=False, widths=(4,), classes=3)
    params, stats = model.init(network, jax.random.key(0), x)
    assert stats == {}
    assert set(params) == {"fc_0", "hash_fc", "classifier"}
    assert params["hash_fc"]["linear"]["bias"].shape == (8,)
    codes = model.encode(network, params, stats, x, train=True).codes
    assert model.classify(params, codes).shape == (2, 3)


def test_alexnet_has_the_official_size_and_keys():
    network = model.Architecture("alexnet", num_bits=64)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params, stats = jax.eval_shape(lambda k, x: model.init(network, k, x), jax.random.key(0), x)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count + 100 * 64 == 57_272_512
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), params["hash_fc"])
    keys = torch_names.ALEXNET.to_torch({"params": {"hash_fc": zeros}})
    assert set(keys) == {"hash_fc.0.weight", "hash_fc.1.weight", "hash_fc.1.bias"}
    assert stats["hash_fc"]["bn"]["mean"].shape == (64,)


def test_alexnet_dropout_follows_its_key_and_is_off_in_evaluation():
    module = model.AlexNetHash(num_bits=8, fc_width=64)
    x = jax.random.normal(jax.random.key(0), (2, 63, 63, 3))
    variables = jax.jit(functools.partial(module.init, train=False))(jax.random.key(1), x)

    @jax.jit
    def codes(key):
        return module.apply(
            variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )[0][1]

    first, again, other = (codes(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    evaluate = jax.jit(functools.partial(module.apply, train=False))
    still = module.copy(dropout=0.0)
    judged = evaluate(variables, x)[1]
    np.testing.assert_array_equal(judged, still.apply(variables, x, train=False)[1])


def test_resnet_trunk_statistics_stay_frozen_while_the_hash_layer_learns_its_own():
    network = model.Architecture("resnet", num_bits=8, depth=18)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    params, stats = jax.jit(lambda k: model.init(network, k, x))(jax.random.key(1))
    after = jax.jit(lambda p, s: model.encode(network, p, s, x, train=True).batch_stats)(
        params, stats
    )
    jax.tree.map(np.testing.assert_array_equal, after["backbone"], stats["backbone"])
    assert (after["hash_fc"]["bn"]["mean"] != stats["hash_fc"]["bn"]["mean"]).any()


def test_recalibrated_bits_are_balanced_on_another_database():
    x = 3 + jax.random.normal(jax.random.key(0), (500, 8))
    mean, var = model.recalibrate_hash_bn(x)
    codes = (x - mean) / jnp.sqrt(var + 1e-5)
    np.testing.assert_allclose(np.mean(codes > 0, axis=0), 0.5, atol=0.1)


def test_a_learned_codebook_is_no_codebook():
    table = torch_names.FEATURE
    assert (
        table.to_ours({"ce_fc.centroids": np.ones((2, 4), np.float32)})["codebook"].dtype == np.int8
    )
    with pytest.raises(CheckpointError, match=r"only \+1 and -1"):
        table.to_ours({"ce_fc.centroids": np.full((2, 4), 0.5, np.float32)})
