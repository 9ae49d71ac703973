"""Bidirectional GRU over padded captions, and the maximum over time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.nn.clip_text import ClipTextTransformer
from jaxcog.nn.gru import BiGRU, BiGRUEncoder, max_over_time, reverse_within


@pytest.fixture(scope="module")
def captions() -> tuple[jax.Array, jax.Array]:
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray([6, 2, 4])


def test_rows_are_reversed_within_their_length(captions):
    x, length = captions
    back = np.asarray(reverse_within(x, length))
    for row, n in enumerate(np.asarray(length)):
        np.testing.assert_array_equal(back[row, :n], np.asarray(x)[row, :n][::-1])
        np.testing.assert_array_equal(back[row, n:], np.asarray(x)[row, n:])


def test_padding_has_no_influence(captions):
    x, length = captions
    gru = BiGRU(hidden=5, layers=2)
    params = jax.jit(gru.init)(jax.random.key(0), x, length)
    run = jax.jit(gru.apply)
    states = run(params, x, length)
    assert not np.asarray(states)[1, 2:].any()
    alone = jax.jit(gru.apply)(params, x[1:2, :2], length[1:2])
    np.testing.assert_allclose(states[1, :2], alone[0], atol=1e-6)
    noisy = jnp.where((jnp.arange(6) < length[:, None])[..., None], x, 99.0)
    np.testing.assert_allclose(run(params, noisy, length), states, atol=1e-6)


def test_floors_of_the_maximum():
    states = jnp.asarray([[[-1.0], [-2.0], [0.0]], [[-3.0], [0.0], [0.0]], [[2.0], [1.0], [4.0]]])
    length = jnp.asarray([2, 1, 2])
    none, static, batch = (
        np.asarray(max_over_time(states, length, floor))[:, 0]
        for floor in ("none", "static", "batch_max")
    )
    np.testing.assert_array_equal(none, [-1, -3, 2])
    np.testing.assert_array_equal(static, [0, 0, 2])
    np.testing.assert_array_equal(batch, [-1, 0, 2])
    with pytest.raises(ValueError, match="max_over_time floor"):
        max_over_time(states, length, "zero")


def test_padding_word_is_never_trained_and_empty_captions_count_as_one():
    encoder = BiGRUEncoder(hidden=3, embedding=4, vocabulary=5)
    words = jnp.asarray([[1, 2, 0], [0, 0, 0]])
    params = jax.jit(encoder.init)(jax.random.key(0), words, jnp.asarray([2, 0]))["params"]
    assert not np.asarray(params["embed"]["embedding"])[0].any()

    def total(params):
        return jnp.sum(encoder.apply({"params": params}, words, jnp.asarray([2, 0])))

    value, grads = jax.jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    table = np.asarray(grads["embed"]["embedding"])
    assert not table[0].any()
    assert table[1:3].any()
    with pytest.raises(ValueError, match="either a table of word vectors or a vocabulary"):
        encoder.init(jax.random.key(0), words, jnp.asarray([2, 0]), jnp.zeros((5, 4)))


def test_what_follows_the_end_token_cannot_matter():
    tower = ClipTextTransformer(8, 2, 1, 3, vocabulary=20, context=6)
    tokens = jnp.asarray([[18, 3, 19, 0, 0, 0], [18, 3, 19, 5, 7, 1]])
    params = jax.jit(tower.init)(jax.random.key(0), tokens)
    features = np.asarray(jax.jit(tower.apply)(params, tokens))
    np.testing.assert_allclose(features[0], features[1], rtol=1e-6)
    with pytest.raises(ValueError, match="7 tokens, but only 6 positions"):
        tower.init(jax.random.key(0), jnp.zeros((1, 7), int))
