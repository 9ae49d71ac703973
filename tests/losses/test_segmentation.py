from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.losses.segmentation import (
    CITYSCAPES_WEIGHTS,
    hard_pixels,
    kth_smallest,
    ohem_cross_entropy,
    pixel_cross_entropy,
    upsampled_cross_entropy,
    weighted_mean,
)
from jaxcog.nn.resize import resize_bilinear_align_corners

K = 5


def draw(n=8, height=6, width=7, seed=0):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(2 * rng.normal(size=(n, height, width, K)), jnp.float32)
    labels = rng.integers(K, size=(n, height, width))
    labels[rng.random(labels.shape) < 0.2] = 255
    return logits, jnp.asarray(labels, jnp.int32)


def over_devices(function, transform):
    """`function(logits, labels)` of a batch of which each of 8 devices holds one image."""
    if transform == "pmap":
        mapped = jax.pmap(function, "data")
        return lambda x, y: mapped(x[:, None], y[:, None])[0]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    return jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=P())


def test_cross_entropy_is_that_of_the_true_class():
    logits, labels = draw()
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    valid = labels != 255
    own = np.take_along_axis(p, np.where(valid, labels, 0)[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        pixel_cross_entropy(logits, labels), np.where(valid, -np.log(own), 0), atol=1e-5
    )
    smooth = pixel_cross_entropy(logits, labels, label_smoothing=0.1)
    target = np.full((*labels.shape, K), 0.1 / (K - 1))
    np.put_along_axis(target, np.where(valid, labels, 0)[..., None], 0.9, -1)
    want = np.where(valid, -(target * np.log(p)).sum(-1), 0)
    np.testing.assert_allclose(smooth, want, atol=1e-5)


def test_cross_entropy_says_what_does_not_fit():
    logits, labels = draw()
    with pytest.raises(ValueError, match="resize the logits"):
        pixel_cross_entropy(logits, labels[:, 1:])
    with pytest.raises(ValueError, match="label_smoothing"):
        pixel_cross_entropy(logits, labels, label_smoothing=1.0)


@pytest.mark.parametrize(
    ("size", "rows", "shards"), [((13, 9), 5, 1), ((13, 9), 3, 2), ((4, 3), 50, 4), ((4, 3), 1, 3)]
)
def test_row_blocks_change_nothing(size, rows, shards):
    """Values and gradients of pieces of rows are those of the whole, enlarging and reducing."""
    low, _ = draw(2)
    labels = jnp.asarray(np.random.default_rng(1).integers(K, size=(2, *size)))
    labels = labels.at[0, 0].set(255)

    def pieces(x):
        losses = upsampled_cross_entropy(x, labels, rows=rows, shards=shards)
        return jnp.sum(losses**2), losses

    def whole(x):
        losses = pixel_cross_entropy(resize_bilinear_align_corners(x, size), labels)
        return jnp.sum(losses**2), losses

    (_, got), got_grad = jax.jit(jax.value_and_grad(pieces, has_aux=True))(low)
    (_, want), want_grad = jax.jit(jax.value_and_grad(whole, has_aux=True))(low)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(got_grad, want_grad, atol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 17, 40])
def test_kth_smallest_is_exact(k):
    values = np.random.default_rng(0).random(40).astype(np.float32)
    values[[3, 9, 20]] = [0.0, 1.0, values[4]]  # both ends, and a tie
    assert float(jax.jit(kth_smallest)(values, k)) == np.sort(values)[k - 1]
    found = over_devices(lambda x, _: kth_smallest(x, k, "data"), "shard_map")
    assert float(jax.jit(found)(jnp.asarray(values), jnp.asarray(values))) == np.sort(values)[k - 1]


def test_hard_pixels_follow_the_definition():
    logits, labels = draw()
    losses, valid = pixel_cross_entropy(logits, labels), np.asarray(labels) != 255
    p = np.where(valid, np.exp(-np.asarray(losses)), 1)
    for thresh, least in ((0.7, 20), (0.1, 150), (0.0, 1)):
        threshold = max(thresh, np.sort(p.ravel())[least - 1])
        kept = hard_pixels(losses, labels, thresh=thresh, min_kept=least)
        np.testing.assert_array_equal(kept, valid & (p <= threshold))
        assert kept.sum() >= least
    for least in (0, valid.sum() + 1):  # no mining, and fewer pixels than must be kept
        np.testing.assert_array_equal(hard_pixels(losses, labels, min_kept=least), valid)
    with pytest.raises(ValueError, match="thresh"):
        hard_pixels(losses, labels, thresh=1.5)


@pytest.mark.parametrize("transform", ["pmap", "shard_map"])
def test_mining_over_devices_is_mining_over_the_batch(transform):
    logits, labels = draw()
    loss = functools.partial(
        ohem_cross_entropy, thresh=0.3, min_kept=60, class_weights=np.arange(1, K + 1)
    )
    many = over_devices(functools.partial(loss, axis_name="data"), transform)
    np.testing.assert_allclose(many(logits, labels), loss(logits, labels), rtol=1e-6)


def test_local_mining_is_each_devices_own():
    logits, labels = draw()
    loss = functools.partial(ohem_cross_entropy, thresh=0.2, min_kept=10)

    def local(x, y):
        return jax.lax.pmean(loss(x, y), "data")

    apart = [loss(logits[i : i + 1], labels[i : i + 1]) for i in range(8)]
    together = over_devices(local, "shard_map")(logits, labels)
    np.testing.assert_allclose(together, np.mean(apart), rtol=1e-6)


def test_weighted_means():
    losses, labels = jnp.asarray([1.0, 2.0, 4.0]), jnp.asarray([0, 1, 255])
    assert float(weighted_mean(losses, labels)) == 1.5
    assert float(weighted_mean(losses, labels, class_weights=[3.0, 1.0])) == pytest.approx(1.25)
    assert len(CITYSCAPES_WEIGHTS) == 19


def test_nothing_but_ignored_pixels_is_zero_with_zero_gradients():
    logits, labels = draw(1)
    value, grad = jax.value_and_grad(ohem_cross_entropy)(logits, jnp.full_like(labels, 255))
    assert float(value) == 0
    assert np.all(np.asarray(grad) == 0)
