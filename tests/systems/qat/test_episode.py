from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.systems.qat import episode
from jaxcog.systems.qat.proposals import probability_to_segments


def world(seed: int = 0, shots: int = 2, length: int = 24, channels: int = 12):
    """(supports, masks, query, its mask): an event that its class's direction tells apart."""
    random = np.random.default_rng(seed)
    direction = 2 * random.standard_normal(channels)
    masks = np.zeros((shots + 1, length), np.float32)
    for row, start in zip(masks, random.integers(0, length - 8, shots + 1), strict=True):
        row[start : start + 8] = 1
    videos = random.standard_normal((shots + 1, length, channels)) + masks[..., None] * direction
    videos = np.asarray(videos, np.float32)
    return videos[:shots], masks[:shots], videos[shots], masks[shots]


def test_a_prototype_is_the_mean_over_all_shots_together():
    features, mask = jnp.arange(12.0).reshape(2, 3, 2), jnp.asarray([[1.0, 0, 0], [1, 1, 1]])
    found = episode.masked_prototype(features, mask)
    np.testing.assert_allclose(found, np.mean([[0, 1], [6, 7], [8, 9], [10, 11]], axis=0))


def test_logits_are_cosines_and_padding_has_none():
    features = jnp.asarray([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    logits = episode.cosine_logits(features, jnp.asarray([5.0, 0.0]), 20.0)
    np.testing.assert_allclose(logits, [20, 0, 0], atol=1e-5)
    gradient = jax.grad(lambda x: episode.cosine_logits(x, jnp.ones(2)).sum())(features)
    assert np.isfinite(gradient).all()


def test_the_inner_loop_separates_the_support():
    support, mask, query, truth = world(shots=5)
    fitted = jax.jit(episode.fit_prototype)(support, mask, query)
    assert fitted.losses.shape == (99,)
    assert fitted.losses[-1] < fitted.losses[0]
    prob = episode.foreground(jnp.asarray(query), fitted.prototype, fitted.bias)
    assert np.mean((prob > 0.5) == (truth > 0)) > 0.85
    # The released loss moves the bias only, and little.
    released = jax.jit(
        lambda *x: episode.fit_prototype(*x, loss=episode.released_objective)
    )(support, mask, query)  # fmt: skip
    start = episode.fit_prototype(support, mask, query, steps=0)
    moved = [np.linalg.norm(f.prototype - start.prototype) for f in (released, fitted)]
    assert moved[0] < 0.1 * moved[1]


def test_the_bias_starts_from_the_query_or_the_support():
    support, mask, query, _ = world()
    prototype = episode.masked_prototype(support, mask)
    for bias, videos in (("query", query), ("support", support)):
        fitted = episode.fit_prototype(support, mask, query, steps=0, bias=bias)
        want = np.mean(episode.cosine_logits(jnp.asarray(videos), prototype))
        np.testing.assert_allclose(fitted.bias, want, rtol=1e-5)


def test_many_episodes_at_once_equal_one_at_a_time():
    worlds = [world(seed) for seed in range(3)]
    support, mask, query, _ = (jnp.stack(x) for x in zip(*worlds, strict=True))
    transformer = episode.QueryAdaptiveTransformer(head_dim=6)
    params = transformer.init(jax.random.key(0), 12)

    def one(support, mask, query):
        return episode.episode_predict(params, support, mask, query, transformer, steps=5)

    many = jax.jit(jax.vmap(one))(support, mask, query)
    alone = jax.jit(one)
    single = jnp.stack([alone(*x) for x in zip(support, mask, query, strict=True)])
    np.testing.assert_allclose(many, single, rtol=1e-4, atol=1e-6)


def test_released_inference_sees_nothing_and_the_default_does_not_do_so():
    """On non-negative embeddings and with the transformer at its initial values."""
    transformer = episode.QueryAdaptiveTransformer(head_dim=64)
    released = jax.jit(
        lambda *x: episode.episode_predict(*x, transformer, loss=episode.released_objective)
    )
    default = jax.jit(lambda *x: episode.episode_predict(*x, transformer))
    boxes, ours = set(), set()
    for seed in range(4):
        random = np.random.default_rng(seed)
        support, query = (
            np.maximum(random.standard_normal(shape), 0).astype(np.float32)
            for shape in ((5, 100, 64), (100, 64))
        )
        mask = np.asarray(np.abs(np.arange(100) - 50) < 20, np.float32)[None].repeat(5, 0)
        params = transformer.init(jax.random.key(seed), 64)
        prob = np.asarray(released(params, support, mask, query))
        segments, _ = probability_to_segments(1 - prob, mode="released")
        boxes |= {tuple(x) for x in np.round(segments, 2).tolist()}
        prob = np.asarray(default(params, support, mask, query))
        ours |= {tuple(x) for x in np.round(probability_to_segments(prob)[0], 2).tolist()}
    assert boxes == {(0.0, 0.99), (0.0, 0.87)}
    assert not ours & boxes
