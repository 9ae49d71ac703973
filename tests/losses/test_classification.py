from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.losses.classification import cross_entropy, cross_entropy_per_example


def batch(rows=16, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(size=(rows, classes)), jnp.float32)
    return logits, jnp.asarray(rng.integers(classes, size=rows))


def test_uniform_logits_cost_the_logarithm_of_the_number_of_classes():
    assert cross_entropy(jnp.zeros((3, 7)), jnp.array([0, 3, 6])) == pytest.approx(np.log(7))


def test_smoothing_is_cross_entropy_with_the_smoothed_target():
    logits, labels = batch()
    target = 0.9 * jax.nn.one_hot(labels, 5) + 0.1 / 5
    expected = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
    loss = cross_entropy_per_example(logits, labels, label_smoothing=0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_masked_examples_equal_absent_ones_whatever_they_hold():
    logits, labels = batch()
    mask = jnp.arange(16) < 10
    logits = logits.at[12].set(jnp.nan)
    labels = labels.at[13].set(255)
    loss = partial(cross_entropy, label_smoothing=0.1)
    value, gradient = jax.value_and_grad(loss)(logits, labels, mask=mask)
    assert value == pytest.approx(float(loss(logits[:10], labels[:10])), rel=1e-6)
    assert np.isfinite(gradient).all()
    assert (gradient[10:] == 0).all()


def test_no_example_at_all_costs_nothing():
    logits, labels = batch()
    assert cross_entropy(logits, labels, mask=jnp.zeros(16, bool)) == 0


def test_bfloat16_logits_are_summed_in_float32():
    logits, labels = batch()
    half = logits.astype(jnp.bfloat16)
    assert cross_entropy(half, labels) == cross_entropy(half.astype(jnp.float32), labels)


@pytest.mark.parametrize("how", ["shard_map", "pmap"])
def test_sharded_equals_one_device(how):
    devices = jax.device_count()
    logits, labels = batch(4 * devices)
    mask = jnp.arange(4 * devices) < 4 * devices - 5  # one device holds nothing but padding
    whole = cross_entropy(logits, labels, mask=mask)

    def local(x, y, m):
        return cross_entropy(x, y, mask=m, axis_name="data")

    if how == "pmap":
        parts = [a.reshape(devices, 4, *a.shape[1:]) for a in (logits, labels, mask)]
        values = jax.pmap(local, axis_name="data")(*parts)
    else:
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
        values = jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P())(
            logits, labels, mask
        )
    np.testing.assert_allclose(values, np.broadcast_to(whole, np.shape(values)), rtol=1e-6)


def test_shapes_and_smoothing_are_checked():
    logits, labels = batch()
    with pytest.raises(ValueError, match="labels"):
        cross_entropy(logits, labels[:3])
    with pytest.raises(ValueError, match="mask"):
        cross_entropy(logits, labels, mask=jnp.ones((16, 1), bool))
    with pytest.raises(ValueError, match="label_smoothing"):
        cross_entropy(logits, labels, label_smoothing=1.5)
