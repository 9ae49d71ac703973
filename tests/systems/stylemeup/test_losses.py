"""The objective of a pass: its variants, its randomness, one value on any number of devices."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.errors import ConfigError
from jaxcog.systems.stylemeup.losses import (
    Objective,
    Pass,
    Weights,
    disentangled_translation_loss,
    draw_noise,
    kl_standard_normal,
    weighted_l1_regularizer,
)
from jaxcog.systems.stylemeup.model import CrossModalVAE
from tests.systems.stylemeup.worlds import VAE, one_pass

KEY = jax.random.key(0)
PARAMS, _ = jax.jit(VAE.init)(KEY)
CONV = CrossModalVAE(latent=3, image_size=8, channels=1, widths=(2, 3), hidden=4, dropout=0.5)


def terms(objective, batch, noise=None):
    run = functools.partial(disentangled_translation_loss, VAE, objective=objective)
    return jax.jit(run)(PARAMS, batch, noise)


def test_total_is_the_weighted_sum_of_the_terms():
    weights = Weights(kl=0.5, self_=2.0, style=3.0, domain=0.25, triplet=4.0, triplet_full=0.1)
    total, found = terms(Objective("paper", weights), one_pass(KEY))
    sizes = {name: term.size for name, term in found.items()}
    assert sizes == {
        "kl": 4, "triplet": 1, "triplet_full": 1, "self": 4, "style": 2, "domain": 4
    }  # fmt: skip
    factors = {**dataclasses.asdict(weights), "self": weights.self_}
    want = sum(factors[name] * float(jnp.mean(term)) for name, term in found.items())
    assert float(total) == pytest.approx(want, rel=1e-5)


def test_variants_differ_in_what_is_translated():
    batch = one_pass(KEY)
    _, paper = terms(Objective("paper"), batch)
    released, found = terms(Objective("released", Weights(self_=0.0)), batch)
    np.testing.assert_allclose(paper["self"], found["self"], rtol=1e-5)
    assert not np.allclose(paper["domain"], found["domain"])
    without = float(released) - sum(
        float(jnp.mean(found[name]))
        for name in ("kl", "style", "domain", "triplet", "triplet_full")
    )
    assert without == pytest.approx(0, abs=1e-5), "self reconstruction is shown and not added"


def test_one_sketch_has_no_style_to_exchange():
    _, found = terms(Objective(), one_pass(KEY, sketches=1))
    assert "style" not in found
    assert found["domain"].shape == (2,)
    assert found["kl"].shape == (3,)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("sketches", [1, 2])
def test_noise_has_a_mask_for_each_decode(variant, sketches):
    objective = Objective(variant)
    noise = jax.eval_shape(lambda: draw_noise(KEY, CONV, objective, 2, sketches))
    assert noise.decoder_keep.shape == (objective.decodes(sketches), 2, *CONV.decoder_map)
    params, _ = jax.eval_shape(CONV.init, KEY)
    batch = jax.eval_shape(lambda: one_pass(KEY, sketches=sketches))
    batch = Pass(*(jax.ShapeDtypeStruct((*x.shape[:-3], 8, 8, 1), x.dtype) for x in batch))
    run = functools.partial(disentangled_translation_loss, CONV, objective=objective)
    total, _ = jax.eval_shape(run, params, batch, noise)
    assert total.shape == ()
    nothing = Objective(weights=Weights(self_=0, style=0, domain=0))
    assert nothing.decodes(sketches) == 0
    assert draw_noise(KEY, CONV, nothing, 2, sketches).decoder_keep is None


def test_sharded_equals_one_device():
    objective, batch = Objective(), one_pass(KEY, batch=8)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    spread = Pass(P("data"), P("data"), P(None, "data"))

    def run(batch, axis_name=None):
        return disentangled_translation_loss(
            VAE, PARAMS, batch, None, objective, axis_name=axis_name
        )

    want = jax.jit(run)(batch)
    many = jax.shard_map(
        functools.partial(run, axis_name="data"), mesh=mesh, in_specs=(spread,), out_specs=P()
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), jax.jit(many)(batch), want
    )


def test_kl_is_a_mean_and_the_regulariser_a_sum():
    assert float(kl_standard_normal(jnp.zeros((2, 3)), jnp.zeros((2, 3)))) == 0
    assert float(kl_standard_normal(jnp.ones((2, 3)), jnp.zeros((2, 3)))) == pytest.approx(0.5)
    psi = jnp.arange(6.0).reshape(3, 2)
    value = weighted_l1_regularizer(psi, -jnp.ones((2, 2)), jnp.ones(2))
    assert float(value) == 15


def test_bad_options():
    with pytest.raises(ConfigError, match="must not be negative"):
        Weights(kl=-1)
    with pytest.raises(ConfigError, match="margin=0"):
        Objective(margin=0)
