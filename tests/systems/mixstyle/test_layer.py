from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.errors import ConfigError
from jaxcog.systems.mixstyle import MixStyle, efdmix


def features(rows=16, seed=0):
    rng = np.random.default_rng(seed)
    offset = rng.normal(size=(rows, 1, 1, 3))
    return jnp.asarray(rng.normal(size=(rows, 4, 4, 3)) + offset, jnp.float32)


def test_identity_in_evaluation_and_when_off():
    x, key = features(), jax.random.key(0)
    assert MixStyle(p=1.0)(x, train=False) is x
    assert MixStyle(p=0.0)(x, train=True, key=key) is x
    assert MixStyle(p=0.0).draws(key, 16) == {}


def test_acts_in_training_by_key_or_draw():
    x, key, layer = features(), jax.random.key(0), MixStyle(p=1.0, alpha=1.0)
    y = jax.jit(lambda key: layer(x, train=True, key=key))(key)
    assert np.abs(y - x).max() > 0.1
    again = jax.jit(lambda key: layer(x, train=True, draw=layer.draw(key, 16)))(key)
    np.testing.assert_array_equal(y, again)
    with pytest.raises(ValueError, match="key or a draw"):
        layer(x, train=True)


def test_insertion_points_draw_independently():
    drawn = jax.jit(lambda key: MixStyle().draws(key, 32))(jax.random.key(0))
    assert list(drawn) == ["layer1", "layer2", "layer3"]
    assert len({tuple(np.asarray(draw.perm)) for draw in drawn.values()}) == 3
    only = MixStyle(after=("layer2",))
    alone = jax.jit(lambda key: only.draws(key, 32))(jax.random.key(0))["layer2"]
    np.testing.assert_array_equal(alone.perm, drawn["layer2"].perm)
    np.testing.assert_allclose(alone.lam, drawn["layer2"].lam, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mix", ["random", "crossdomain"])
def test_global_scope_on_many_devices_equals_one(mix):
    x, key = features(), jax.random.key(3)
    domains = jnp.arange(16) % 3 if mix == "crossdomain" else jnp.zeros(16, jnp.int32)
    layer = MixStyle(p=1.0, alpha=1.0, mix=mix)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))

    def apply(x, domains):
        return layer(x, train=True, key=key, domains=domains, axis_name="data")

    rows = P("data")
    many = jax.jit(jax.shard_map(apply, mesh=mesh, in_specs=rows, out_specs=rows))(x, domains)
    one = jax.jit(lambda x, domains: layer(x, train=True, key=key, domains=domains))(x, domains)
    np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-5)


def test_local_scope_draws_differently_on_each_device():
    x = jnp.tile(features(2), (jax.device_count(), 1, 1, 1))
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    layer, key = MixStyle(p=1.0, alpha=1.0), jax.random.key(0)

    def apply(x):
        return layer(x, train=True, key=key, axis_name="data", scope="local")

    y = jax.jit(jax.shard_map(apply, mesh=mesh, in_specs=P("data"), out_specs=P("data")))(x)
    assert len(np.unique(np.asarray(y).reshape(jax.device_count(), -1), axis=0)) > 1


def test_whole_distributions_may_be_mixed():
    x, key = features(), jax.random.key(0)
    layer = MixStyle(p=1.0, alpha=1.0, kind="distribution")
    draw = jax.jit(lambda key: layer.draw(key, 16))(key)
    mixed = layer(x, train=True, draw=draw)
    np.testing.assert_array_equal(mixed, efdmix(x, draw.lam, draw.perm))


def test_the_last_stage_is_refused_unless_the_ablation_is_meant():
    with pytest.raises(ConfigError, match=r"last stage.*mixstyle\.even_last"):
        MixStyle(after=("a", "c")).check_stages("abc")
    MixStyle(after=("a", "c"), even_last=True).check_stages("abc")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"p": 1.5}, "mixstyle.p"),
        ({"p": float("nan")}, "mixstyle.p"),
        ({"alpha": 0.0}, "mixstyle.alpha"),
        ({"mix": "domain"}, "mixstyle.mix"),
        ({"eps": 0.0}, "mixstyle.eps"),
        ({"ddof": 2}, "mixstyle.ddof"),
        ({"kind": "values"}, "mixstyle.kind"),
        ({"after": ("layer1", "layer1")}, "mixstyle.after"),
    ],
)
def test_bad_settings_name_their_key(options, key):
    with pytest.raises(ConfigError, match=key):
        MixStyle(**options)
