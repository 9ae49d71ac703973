from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxcog.losses.contrastive import unit
from jaxcog.nn.queue import entries, make_queue, random_unit_rows
from jaxcog.systems.brivl import judging, losses

N, D, K = 6, 5, 18
MANY = 8
MESH = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
AXES = ("a", "b")


def rows(seed: int, count: int = N) -> jax.Array:
    return unit(jax.random.normal(jax.random.key(seed), (count, D)))


QUERIES, KEYS = (rows(0), rows(1)), (rows(2), rows(3))


def queue(pair: bool = False, size: int = K, batch: int = N):
    held = {
        name: random_unit_rows(jax.random.key(i), size, D)
        for i, name in enumerate(("image", "text"))
    }
    if pair:
        held["pair"] = jnp.full(size, -1)
    return make_queue(held, batch)


def test_the_batch_counts_only_where_it_was_enqueued_first():
    value, after, _ = losses.momentum_contrast(*QUERIES, *KEYS, queue())
    both, _, _ = losses.momentum_contrast(*QUERIES, *KEYS, queue(), negatives="batch+queue")

    def against(query, key, name, held):
        logits = query @ entries(held, name).T / 0.07
        own = jnp.sum(query * key, axis=1, keepdims=True) / 0.07
        return own, logits

    want = want_both = 0.0
    pairs = ((QUERIES[0], KEYS[1], "text"), (QUERIES[1], KEYS[0], "image"))
    for query, key, name in pairs:
        own, logits = against(query, key, name, queue())
        joined = jnp.concatenate([own, logits], axis=1)
        want = want + jax.nn.logsumexp(joined, axis=1) - own[:, 0]
        own, logits = against(query, key, name, after)
        want_both = want_both + jax.nn.logsumexp(logits, axis=1) - own[:, 0]
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(both, want_both, rtol=1e-5)


def test_duplicates_are_no_negatives():
    pair = jnp.array([1, 1, 2, 3, 4, 5])
    first, _, _ = losses.momentum_contrast(
        *QUERIES, *KEYS, queue(pair=True), negatives="batch+queue", pair=pair
    )
    plain, _, _ = losses.momentum_contrast(*QUERIES, *KEYS, queue(), negatives="batch+queue")
    assert np.all(np.asarray(first[:2]) < np.asarray(plain[:2]))
    np.testing.assert_allclose(first[2:], plain[2:], rtol=1e-5)


@pytest.mark.parametrize("kind", ["queue", "batch+queue", "in_batch", "sigmoid"])
def test_a_split_batch_and_queue_lose_what_whole_ones_do(kind: str):
    queries, keys = (tuple(rows(seed, MANY) for seed in seeds) for seeds in ((0, 1), (2, 3)))

    def lost(axis_name, queries, keys, held):
        if kind in ("in_batch", "sigmoid"):
            return losses.in_batch(
                *queries, kind=kind, scale=9.0, bias=-1.0, block=3, axis_name=axis_name
            )
        options = {"negatives": kind, "block": 3, "axis_name": axis_name}
        value, after, scalars = losses.momentum_contrast(*queries, *keys, held, **options)
        return value, {**scalars, **{name: after[name] for name in ("image", "text")}}

    split, slots = P(AXES), {"image": P(None, AXES), "text": P(None, AXES)}
    held = queue(size=5 * MANY, batch=MANY)
    out = jax.eval_shape(lambda *a: lost(None, *a), queries, keys, held)[1]
    over = jax.shard_map(
        lambda *arguments: lost(AXES, *arguments),
        mesh=MESH,
        in_specs=(split, split, {**slots, "slot": P()}),
        out_specs=(split, {name: slots.get(name, split) for name in out}),
    )

    def both(f):
        def total(queries):
            value, scalars = f(queries, keys, held)
            return jnp.sum(value), (value, scalars)

        return jax.jit(jax.value_and_grad(total, has_aux=True))(queries)

    whole = both(lambda *arguments: lost(None, *arguments))
    for a, b in zip(jax.tree.leaves(both(over)), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_scalars_tell_pairs_from_freshness():
    same = (KEYS[1], KEYS[0])  # queries equal to their keys: every pair is the nearest
    _, _, scalars = losses.momentum_contrast(*same, *KEYS, queue())
    assert np.all(np.asarray(scalars["in_batch_top1"]) == 1)
    np.testing.assert_allclose(scalars["positive_similarity"], 1, rtol=1e-5)
    want = same[0] @ jnp.mean(queue()["text"][-1], axis=0)
    np.testing.assert_allclose(scalars["similarity_new"], want, atol=1e-6)


def test_no_gradient_reaches_keys():
    def loss(key):
        return jnp.sum(losses.momentum_contrast(*QUERIES, key, KEYS[1], queue())[0])

    assert not np.any(jax.grad(loss)(KEYS[0]))


def test_recall_with_several_texts_an_image():
    images = np.eye(3)[[0, 0, 1, 1, 2, 2]]
    texts = np.array(
        [[1, 0, 0], [0, 1, 0.9], [0, 1, 0], [0, 1, 0], [1, 0.5, 0], [1, 0.2, 0.1]], float
    )
    ranks = judging.retrieval_ranks(images, texts, np.array([0, 0, 1, 1, 2, 2]))
    np.testing.assert_array_equal(ranks["t2i"], [0, 2, 0, 0, 2, 2])
    np.testing.assert_array_equal(ranks["i2t"], [0, 1, 1])
    metrics = judging.retrieval_metrics(images, texts, np.array([0, 0, 1, 1, 2, 2]))
    assert metrics["i2t_R@1"] == pytest.approx(100 / 3)
    assert metrics["t2i_R@1"] == pytest.approx(50)
