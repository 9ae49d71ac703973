from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog.systems.mixstyle import (
    MixDraw,
    apply_draw,
    crossdomain_permutation,
    dropblock,
    efdmix,
    instance_statistics,
    mixstyle,
    random_permutation,
    sample_mixstyle,
)


def draw(shape, seed=0):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.5, 3, (shape[0], *(1,) * (len(shape) - 2), shape[-1]))
    return jnp.asarray(rng.normal(1, 1, shape) * scale, jnp.float32)


def weights(batch, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(size=batch), jnp.float32), jnp.asarray(rng.permutation(batch))


@pytest.mark.parametrize("ddof", [0, 1])
def test_result_has_the_mixed_statistics(ddof):
    x, (lam, perm) = draw((6, 9, 8, 5)), weights(6)
    mu, sigma = instance_statistics(x, ddof=ddof)
    y_mu, y_sigma = instance_statistics(mixstyle(x, lam, perm, ddof=ddof), ddof=ddof)
    own = lam[:, None]
    np.testing.assert_allclose(y_mu, own * mu + (1 - own) * mu[perm], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y_sigma, own * sigma + (1 - own) * sigma[perm], rtol=1e-4)


def test_content_is_kept():
    x, (lam, perm) = draw((4, 5, 5, 3)), weights(4)

    def content(x):
        mu, sigma = instance_statistics(x)
        return (x - mu[:, None, None]) / sigma[:, None, None]

    np.testing.assert_allclose(content(mixstyle(x, lam, perm)), content(x), atol=1e-4)


def test_unmixed_samples_are_returned_to_the_bit():
    x, (lam, perm) = draw((6, 4, 4, 3)), weights(6)
    np.testing.assert_array_equal(mixstyle(x, jnp.ones(6), perm), x)
    np.testing.assert_array_equal(mixstyle(x, lam, jnp.arange(6)), x)
    np.testing.assert_array_equal(apply_draw(x, MixDraw(jnp.array(False), lam, perm)), x)
    on = apply_draw(x, MixDraw(jnp.array(True), lam, perm))
    np.testing.assert_array_equal(on, mixstyle(x, lam, perm))


def test_gradient_sees_neither_statistics_nor_partner():
    x, (lam, perm) = draw((4, 3, 5, 2)), weights(4)
    cotangent = draw(x.shape, seed=5)
    gradient = jax.grad(lambda x: jnp.sum(cotangent * mixstyle(x, lam, perm)))(x)
    _, sigma = instance_statistics(x)
    own = lam[:, None]
    gain = (own * sigma + (1 - own) * sigma[perm]) / sigma
    np.testing.assert_allclose(gradient, cotangent * gain[:, None, None], rtol=1e-4, atol=1e-5)


def test_bfloat16_statistics_are_float32():
    x, (lam, perm) = draw((4, 8, 8, 3)).astype(jnp.bfloat16), weights(4)
    mu, sigma = instance_statistics(x)
    assert (mu.dtype, sigma.dtype) == (jnp.float32, jnp.float32)
    y = mixstyle(x, lam, perm)
    assert y.dtype == jnp.bfloat16
    exact = mixstyle(x.astype(jnp.float32), lam, perm)
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


def test_constant_channels_stay_finite():
    x = jnp.concatenate([jnp.full((1, 4, 4, 2), 3.0), draw((1, 4, 4, 2))])
    y, back = jax.vjp(lambda x: mixstyle(x, jnp.zeros(2), jnp.array([1, 0])), x)
    assert np.isfinite(y).all()
    assert np.isfinite(back(jnp.ones_like(y))[0]).all()


def test_any_number_of_spatial_axes():
    x, (lam, perm) = draw((4, 6, 6, 3)), weights(4)
    flat = mixstyle(x.reshape(4, 36, 3), lam, perm)
    np.testing.assert_allclose(mixstyle(x, lam, perm), flat.reshape(x.shape), atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 1, 3)])
def test_too_few_positions_are_refused(shape):
    with pytest.raises(ValueError, match="positions"):
        instance_statistics(jnp.ones(shape))


def test_lam_and_perm_of_another_batch_are_refused():
    with pytest.raises(ValueError, match="lam"):
        mixstyle(draw((4, 3, 3, 2)), jnp.ones(3), jnp.arange(4))


@pytest.mark.parametrize("how", ["jit", "shard_map", "shard_map rows", "pmap", "vmap"])
@pytest.mark.parametrize("op", [mixstyle, efdmix])
def test_same_value_and_gradient_however_it_is_mapped(op, how):
    devices = jax.device_count()
    batch = 2 * devices
    x, (lam, perm) = draw((batch, 3, 4, 2)), weights(batch)
    cotangent = draw(x.shape, seed=4)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    rows = P("data")
    if how == "jit":
        mapped = jax.jit(op)
        x = jax.device_put(x, NamedSharding(mesh, rows))
    elif how == "vmap":

        def mapped(x, lam, perm):
            return jax.vmap(op)(x[None], lam[None], perm[None])[0]

    elif how == "pmap":

        def mapped(x, lam, perm):
            each = jax.pmap(partial(op, axis_name="data"), axis_name="data")
            split = (a.reshape(devices, -1, *a.shape[1:]) for a in (x, lam, perm))
            return each(*split).reshape(x.shape)

    else:
        draws = rows if how == "shard_map rows" else P()
        mapped = jax.jit(
            jax.shard_map(
                partial(op, axis_name="data"),
                mesh=mesh,
                in_specs=(rows, draws, draws),
                out_specs=rows,
            )
        )
    expected, back = jax.vjp(lambda x: op(x, lam, perm), x)
    y, mapped_back = jax.vjp(lambda x: mapped(x, lam, perm), x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mapped_back(cotangent)[0], back(cotangent)[0], rtol=1e-4, atol=1e-4)


def test_local_scope_mixes_within_each_device():
    devices = jax.device_count()
    x = draw((2 * devices, 3, 3, 2))
    lam, perm = jnp.full(2 * devices, 0.3), jnp.tile(jnp.array([1, 0]), devices)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    local = jax.shard_map(
        partial(mixstyle, axis_name="data", scope="local"),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )
    neighbours = jnp.arange(2 * devices) ^ 1
    np.testing.assert_allclose(local(x, lam, perm), mixstyle(x, lam, neighbours), atol=1e-5)


def test_sharded_features_are_never_gathered():
    """Only [B, C] statistics may travel: no collective of the compiled layer is larger."""
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct(
        (4 * devices, 16, 16, 8), jnp.float32, sharding=NamedSharding(mesh, P("data"))
    )
    whole = NamedSharding(mesh, P())
    lam = jax.ShapeDtypeStruct((4 * devices,), jnp.float32, sharding=whole)
    perm = jax.ShapeDtypeStruct((4 * devices,), jnp.int32, sharding=whole)
    layer = jax.jit(mixstyle, out_shardings=NamedSharding(mesh, P("data")))
    text = layer.lower(x, lam, perm).compile().as_text()
    collectives = [
        line for line in text.splitlines() if "all-gather(" in line or "all-reduce(" in line
    ]
    assert collectives
    assert not [line for line in collectives if "16,16" in line]


def test_random_permutation_is_one_and_varies():
    perms = np.stack([random_permutation(jax.random.key(i), 9) for i in range(20)])
    np.testing.assert_array_equal(np.sort(perms, axis=1), np.tile(np.arange(9), (20, 1)))
    assert len({tuple(p) for p in perms}) == 20


@pytest.mark.parametrize("batch", [2, 7, 8])
def test_crossdomain_halves_swap(batch):
    half = (batch + 1) // 2
    perm = np.asarray(crossdomain_permutation(jax.random.key(3), batch))
    np.testing.assert_array_equal(np.sort(perm), np.arange(batch))
    # For odd batches the middle sample is in the first half and may stay with it.
    assert set(perm[:half]) == set(range(batch - half, batch))
    assert set(perm[half:]) == set(range(batch - half))


@pytest.mark.parametrize(
    "domains",
    [
        [0, 0, 1, 1],
        [0, 1, 2, 0, 1, 2, 2, 0, 1],
        [5, 5, 5, 5, 1, 2, 3, 9],
        [-1, 7, 7, -1, 3],
        [0, 0, 0, 0, 0, 1, 2],
        [4, 4, 4],
    ],
)
def test_explicit_domains_meet_others_as_often_as_possible(domains):
    domains = np.array(domains)
    largest = np.unique(domains, return_counts=True)[1].max()
    possible = min(len(domains), 2 * (len(domains) - largest))
    permutation = jax.jit(partial(crossdomain_permutation, batch=len(domains)))
    for seed in range(10):
        perm = np.asarray(permutation(jax.random.key(seed), domains=jnp.asarray(domains)))
        np.testing.assert_array_equal(np.sort(perm), np.arange(len(domains)))
        assert np.sum(domains[perm] != domains) == possible


def test_explicit_domains_reach_every_other_domain_alike():
    domains = jnp.array([0, 0, 1, 1, 2, 2])
    keys = jax.random.split(jax.random.key(0), 2000)
    perms = jax.vmap(lambda key: crossdomain_permutation(key, 6, domains))(keys)
    share = np.stack([np.mean(np.asarray(perms) == j, axis=0) for j in range(6)], axis=1)
    other = np.asarray(domains)[:, None] != np.asarray(domains)[None, :]
    np.testing.assert_allclose(share[other], 0.25, atol=0.05)
    assert (share[~other] == 0).all()


def test_draws_follow_their_distributions():
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = jax.jit(jax.vmap(lambda key: sample_mixstyle(key, 8, p=0.3, alpha=0.1)))(keys)
    assert np.mean(drawn.gate) == pytest.approx(0.3, abs=0.03)
    lam = np.asarray(drawn.lam)
    assert np.isfinite(lam).all()
    assert np.mean(lam) == pytest.approx(0.5, abs=0.01)
    # Beta(a, a) has variance 1 / (4 (2 a + 1)).
    assert np.var(lam) == pytest.approx(1 / 4.8, abs=0.005)
    gates = jax.jit(lambda key: [sample_mixstyle(key, 8, p=p).gate for p in (1.0, 0.0)])
    always, never = gates(keys[0])
    assert bool(always)
    assert not bool(never)


def test_unknown_mix_is_refused():
    with pytest.raises(ValueError, match="crossdomain"):
        sample_mixstyle(jax.random.key(0), 4, mix="cross")


def test_efdmix_takes_the_partner_s_values():
    x, perm = draw((4, 3, 5, 2)), jnp.array([2, 0, 3, 1])
    y = efdmix(x, jnp.zeros(4), perm)
    values, taken = (np.sort(np.reshape(a, (4, -1, 2)), axis=1) for a in (x[perm], y))
    np.testing.assert_allclose(taken, values, atol=1e-6)
    ranks = [np.argsort(np.reshape(a, (4, -1, 2)), axis=1) for a in (y, x)]
    np.testing.assert_array_equal(*ranks)


@pytest.mark.parametrize("block", [3, 4])
def test_dropblock_drops_squares_and_keeps_the_sum_of_ones(block):
    uniform = jnp.ones((2, 9, 9)).at[0, 4, 4].set(0.0)
    y = np.asarray(dropblock(jnp.ones((2, 9, 9, 3)), uniform, 0.1, block))
    assert (y[0] == 0).sum() == block * block * 3
    assert (y[1] > 1).all()
    assert y.sum() == pytest.approx(2 * 9 * 9 * 3, rel=1e-5)


def test_dropblock_of_everything_is_zero():
    y = dropblock(jnp.ones((1, 4, 4, 2)), jnp.zeros((1, 4, 4)), 1.0, 3)
    np.testing.assert_array_equal(y, np.zeros((1, 4, 4, 2)))
