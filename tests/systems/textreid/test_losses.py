"""Losses: by hand, masked rows, and the same over eight devices as on one."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.systems.textreid import losses

B, D, C = 16, 6, 9


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    random = np.random.default_rng(0)
    return {
        "projection": jnp.asarray(random.normal(size=(D, C)), jnp.float32),
        "v": jnp.asarray(random.normal(size=(B, D)), jnp.float32),
        "t": jnp.asarray(random.normal(size=(B, D)), jnp.float32),
        "labels": jnp.asarray(random.integers(0, C, B)),
        "image_ids": jnp.arange(B) // 2,
    }


def all_losses(batch: dict[str, jax.Array], axis_name: str | None = None) -> dict[str, jax.Array]:
    p, v, t, labels = (batch[name] for name in ("projection", "v", "t", "labels"))
    shared = {"axis_name": axis_name}
    return {
        "instance": losses.instance_loss(p, v, t, labels, **shared),
        "align": losses.global_align_loss(v, t, labels, **shared),
        "cmpm": losses.cmpm_loss(v, t, labels, row_sums=True, **shared),
        "cmpc": losses.cmpc_loss(p, v, t, labels, **shared),
        "sdm": losses.sdm_loss(v, t, labels, image_ids=batch["image_ids"], **shared),
        "itc": losses.itc_loss(v, t, **shared),
        "tal": losses.triplet_alignment_loss(v, t, labels, **shared),
    }


def test_over_eight_devices_as_on_one(batch):
    one = jax.jit(all_losses)(batch)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = {name: P() if name == "projection" else P("data") for name in batch}
    many = jax.jit(
        jax.shard_map(
            functools.partial(all_losses, axis_name="data"),
            mesh=mesh,
            in_specs=(split,),
            out_specs=P(),
        )
    )(batch)
    for name, value in one.items():
        np.testing.assert_allclose(many[name], value, rtol=1e-5, err_msg=name)


def test_gradients_over_eight_devices_as_on_one(batch):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def one(v: jax.Array) -> jax.Array:
        return losses.global_align_loss(v, batch["t"], batch["labels"])

    def many(v: jax.Array) -> jax.Array:
        loss = functools.partial(losses.global_align_loss, axis_name="data")
        specs = (P("data"),) * 3
        sharded = jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P())
        return sharded(v, batch["t"], batch["labels"])

    expected, got = (jax.jit(jax.grad(f))(batch["v"]) for f in (one, many))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_under_pmap_as_on_one(batch):
    one = losses.instance_loss(*(batch[n] for n in ("projection", "v", "t", "labels")))
    parts = [batch[n].reshape(8, 2, *batch[n].shape[1:]) for n in ("v", "t", "labels")]
    mapped = jax.pmap(
        lambda *x: losses.instance_loss(batch["projection"], *x, axis_name="b"), axis_name="b"
    )(*parts)
    np.testing.assert_allclose(mapped, np.full(8, one), rtol=1e-6)


def test_alignment_by_hand():
    v = jnp.asarray([[1.0, 0.0], [0.0, 2.0]])
    t = jnp.asarray([[3.0, 0.0], [1.0, 1.0]])
    s = np.array([[1, 0.5**0.5], [0, 0.5**0.5]])
    same = np.eye(2, dtype=bool)
    pairs = np.where(same, np.log1p(np.exp(-10 * (s - 0.6))), np.log1p(np.exp(40 * (s - 0.4))))
    loss = losses.global_align_loss(v, t, jnp.asarray([4, 7]))
    np.testing.assert_allclose(loss, 2 / 2 * pairs.sum(), rtol=1e-5)


def test_smoothing_is_honoured(batch):
    arguments = [batch[n] for n in ("projection", "v", "t", "labels")]
    values = [float(losses.instance_loss(*arguments, epsilon=e)) for e in (0.0, 0.1, 0.3)]
    np.testing.assert_allclose(values[2] - values[0], 3 * (values[1] - values[0]), rtol=1e-4)


def test_a_batch_of_one_person_has_no_triplets(batch):
    def loss(v: jax.Array) -> jax.Array:
        return losses.triplet_alignment_loss(v, batch["t"], jnp.zeros(B, int))

    value, grad = jax.jit(jax.value_and_grad(loss))(batch["v"])
    assert value == 0
    assert not np.asarray(grad).any()


def test_zero_embeddings_have_finite_gradients(batch):
    def loss(v: jax.Array) -> jax.Array:
        return sum(all_losses({**batch, "v": v}).values())

    assert np.isfinite(jax.jit(jax.grad(loss))(batch["v"].at[0].set(0))).all()
