from __future__ import annotations

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.systems.orthohash import baselines, losses


def data(rows: int = 16, bits: int = 12, classes: int = 8):
    rng = np.random.default_rng(0)
    codes = jnp.asarray(rng.standard_normal((rows, bits)), jnp.float32)
    book = jnp.asarray(rng.choice([-1, 1], (classes, bits)), jnp.int8)
    labels = jnp.asarray(rng.integers(0, classes, rows), jnp.int32)
    return codes, book, labels


def loss_of(codes, book, labels, **options):
    options = {"scale": 4.0, "margin": 0.2, **options}
    return losses.orthohash_loss(losses.cosine_logits(codes, book), labels, **options)


def mesh_of(*sizes: int, names: tuple[str, ...] = ("data",)) -> jax.sharding.Mesh:
    count = int(np.prod(sizes))
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(sizes, names, axis_types=types, devices=jax.devices()[:count])


def test_length_of_the_codes_does_not_matter_and_zero_codes_have_no_gradient():
    codes, book, labels = data()
    np.testing.assert_allclose(
        loss_of(codes, book, labels), loss_of(3 * codes, book, labels), rtol=1e-5
    )
    grad = jax.grad(lambda v: loss_of(v, book, labels))(codes.at[0].set(0.0))
    assert np.isfinite(grad).all()
    assert (grad[0] == 0).all()
    # Scale invariance: the gradient is orthogonal to each code.
    np.testing.assert_allclose(np.sum(grad * codes, axis=1)[1:], 0, atol=1e-6)


def test_multi_hot_with_one_class_equals_single_label_and_margins_only_raise_the_loss():
    codes, book, labels = data()
    one_hot = jax.nn.one_hot(labels, 8)
    for kind in ("cos", "arc"):
        single = loss_of(codes, book, labels, margin_type=kind)
        multi = loss_of(codes, book, one_hot, margin_type=kind, multi_label=True)
        np.testing.assert_allclose(single, multi, rtol=1e-6)
        assert single > loss_of(codes, book, labels, margin_type=kind, margin=0.0)


def test_arc_margin_is_an_angle():
    cosine = jnp.cos(jnp.array([[0.3, 1.0]]))
    turned = losses.margin_logits(
        cosine, jnp.array([[True, False]]), scale=1.0, margin=0.5, margin_type="arc"
    )
    np.testing.assert_allclose(turned, jnp.cos(jnp.array([[0.8, 1.0]])), rtol=1e-6)


def test_a_label_out_of_range_is_loud():
    codes, book, labels = data()
    assert np.isnan(loss_of(codes, book, labels.at[3].set(8)))
    with pytest.raises(ValueError, match="multi_label=True"):
        loss_of(codes, book, jax.nn.one_hot(labels, 8))
    with pytest.raises(ValueError, match="multi-hot labels must be"):
        loss_of(codes, book, jnp.ones((16, 5)), multi_label=True)
    with pytest.raises(ValueError, match="cosine_logits"):
        losses.cosine_logits(codes, book[:, :5])


@pytest.mark.parametrize("kind", ["label_smoothing", "bce", "imbalance"])
def test_masked_rows_equal_absent_rows(kind):
    codes, book, labels = data()
    hot = jax.nn.one_hot(labels, 8).at[:, 0].set(1.0)
    options = {"multi_label": True, "multi_label_loss": kind}
    keep = jnp.arange(16) < 11
    broken = codes.at[11:].set(100.0)
    masked = loss_of(broken, book, hot, where=keep, **options)
    np.testing.assert_allclose(masked, loss_of(codes[:11], book, hot[:11], **options), rtol=1e-6)


@pytest.mark.parametrize("kind", ["single", "label_smoothing", "imbalance"])
def test_sharded_batch_equals_one_device(kind):
    codes, book, labels = data()
    options = {"scale": 4.0, "margin": 0.2}
    if kind != "single":
        labels = jax.nn.one_hot(labels, 8).at[:, 0].set(1.0)
        options |= {"multi_label": True, "multi_label_loss": kind}
    logits = losses.cosine_logits(codes, book)
    one = functools.partial(losses.orthohash_loss, **options)
    many = functools.partial(one, axis_name="data")
    spread = jax.shard_map(many, mesh=mesh_of(4), in_specs=P("data"), out_specs=P())
    np.testing.assert_allclose(spread(logits, labels), one(logits, labels), rtol=1e-6)
    split = [x.reshape(4, 4, *x.shape[1:]) for x in (logits, labels)]
    by_pmap = jax.pmap(many, axis_name="data", devices=jax.devices()[:4])(*split)
    np.testing.assert_allclose(by_pmap, one(logits, labels), rtol=1e-6)


@pytest.mark.parametrize("margin_type", ["cos", "arc"])
def test_codebook_split_over_devices_gives_the_same_loss_and_gradient(margin_type):
    codes, book, labels = data()
    options = {"scale": 4.0, "margin": 0.3, "margin_type": margin_type}

    def sharded(codes, book, labels):
        return losses.sharded_orthohash_loss(
            codes, book, labels, "model", batch_axis_name="data", **options
        )

    spread = jax.shard_map(
        sharded,
        mesh=mesh_of(2, 4, names=("data", "model")),
        in_specs=(P("data"), P("model"), P("data")),
        out_specs=P(),
    )
    whole = functools.partial(loss_of, **options)
    ours, ours_grad = jax.jit(jax.value_and_grad(spread))(codes, book, labels)
    wanted, wanted_grad = jax.value_and_grad(whole)(codes, book, labels)
    np.testing.assert_allclose(ours, wanted, rtol=1e-6)
    np.testing.assert_allclose(ours_grad, wanted_grad, rtol=1e-4, atol=1e-7)
    assert np.isnan(spread(codes, book, labels.at[0].set(8)))


def test_quantization_error_vanishes_on_codes_that_are_their_own_sign():
    codes, _, _ = data()
    for kind in ("cs", "l1", "l2"):
        assert losses.quantization_error(jnp.sign(codes), kind) == pytest.approx(0, abs=1e-6)
        assert losses.quantization_error(codes, kind) > 0.05
    # Section 3.1: for codes of length sqrt(K), the squared error is twice the cosine distance.
    scaled = losses.unit(codes) * jnp.sqrt(12.0)
    np.testing.assert_allclose(
        losses.quantization_error(scaled, "l2"),
        2 * losses.quantization_error(scaled, "cs"),
        rtol=1e-5,
    )


def test_code_statistics_know_constant_and_copied_bits():
    balanced = jnp.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], jnp.float32)
    assert losses.bit_balance(balanced) == 0
    assert losses.bit_balance(jnp.ones((4, 2))) == 0.5
    assert losses.bit_correlation(balanced) == pytest.approx(0, abs=1e-6)
    assert losses.bit_correlation(balanced[:, :1].repeat(2, axis=1)) == pytest.approx(1)


def test_baselines_prefer_codes_of_the_right_class():
    _, book, labels = data(bits=16)
    book = book.astype(jnp.float32)
    right = book[labels] * 3
    wrong = book[(labels + 1) % 8] * 3
    hot = jax.nn.one_hot(labels, 8)
    for loss in (baselines.csq_loss, baselines.dpn_loss):
        assert loss(right, book, labels) < loss(wrong, book, labels)
        np.testing.assert_allclose(loss(right, book, labels), loss(right, book, hot), rtol=1e-5)
    mixed = jnp.where(jnp.arange(16)[:, None] % 2, right, -right)
    for loss in (baselines.hashnet_loss, baselines.dtsh_loss):
        assert loss(right, labels) < loss(mixed, labels)
        np.testing.assert_allclose(loss(right, labels), loss(right, hot), rtol=1e-5)
    logits = 5.0 * hot
    for penalty in (jnp.ones((16, 4)), -jnp.ones((16, 4))):
        value = baselines.greedyhash_loss(logits, penalty, labels)
        np.testing.assert_allclose(value, baselines.classification_loss(logits, labels))
    fair = baselines.jmlh_loss(logits, jnp.full((16, 4), 0.5), labels)
    assert fair < baselines.jmlh_loss(logits, jnp.full((16, 4), 0.9), labels)
    grad = jax.grad(lambda v: baselines.straight_through_sign(v).sum())(jnp.array([0.3, -2.0]))
    np.testing.assert_array_equal(grad, 1)


@pytest.mark.parametrize("name", typing.get_args(baselines.BaselineName))
@pytest.mark.parametrize("multi_label", [False, True])
def test_every_baseline_is_lowered_by_its_gradient(name, multi_label):
    codes, book, labels = data()
    classifier = book.T.astype(jnp.float32) / 4
    if multi_label:
        labels = jax.nn.one_hot(labels, 8).at[:, 0].set(1.0)

    @jax.jit
    @jax.value_and_grad
    def value_of(codes):
        return baselines.baseline_loss(
            name,
            codes,
            labels,
            codebook=book,
            classify=lambda v: v @ classifier,
            key=jax.random.key(0),
            step=500,
        )

    before, grad = value_of(codes)
    for _ in range(30):
        codes = codes - 0.5 * grad / jnp.linalg.norm(grad)
        after, grad = value_of(codes)
    assert after < 0.9 * before


def test_balanced_and_stochastic_bits():
    codes, _, _ = data()
    np.testing.assert_array_equal(baselines.balanced_sign(codes + 5).sum(axis=0), 0)
    # The gradient of the pull is that of the paper's layer: gamma (v - b) / (B K).
    pull = jax.grad(lambda v: baselines.bihalf_loss(jnp.zeros((16, 2)), v, jnp.zeros(16, int)))
    wanted = 6 * (codes - baselines.balanced_sign(codes)) / codes.size
    np.testing.assert_allclose(pull(codes), wanted, rtol=1e-4, atol=1e-7)
    drawn = baselines.stochastic_sign(jnp.full((4000, 1), 1.0), jax.random.key(0))
    assert float(drawn.mean()) == pytest.approx(2 * 0.731 - 1, abs=0.05)
    np.testing.assert_allclose(jnp.abs(drawn), 1, rtol=1e-6)
    steep = [float(baselines.hashnet_steepness(step)) for step in (0, 199, 200, 600)]
    assert steep == pytest.approx([1, 1, 2**0.5, 2])
    with pytest.raises(ValueError, match="no loss"):
        baselines.baseline_loss("x", codes, codes, codebook=codes, classify=jnp.sign)
