"""Momentum contrast: which entries count, what moves the keys, and the queue over a mesh."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog import config
from jaxcog.errors import ConfigError
from jaxcog.nn.queue import entries
from jaxcog.systems.textreid import momentum as moco
from jaxcog.systems.textreid.model import Network, Textual, Visual
from jaxcog.systems.textreid.momentum import Momentum
from jaxcog.training import sharding

B, D, K = 8, 4, 16
NETWORK = Network(
    Visual("small"), Textual(hidden=3, embedding=5), classes=6, vocabulary=7, context=3, embed=D
)


@dataclasses.dataclass
class Case:
    network: Network
    params: Any
    stats: Any
    batch: dict[str, jax.Array]
    table: jax.Array


@pytest.fixture(scope="module")
def case() -> Case:
    random = np.random.default_rng(0)
    network = NETWORK
    table = jnp.asarray(random.normal(size=(7, 5)), jnp.float32)
    params, stats = jax.jit(lambda key: network.init(key, (8, 8, 3), table))(jax.random.key(0))
    batch = {
        "image": jnp.asarray(random.normal(size=(B, 8, 8, 3)), jnp.float32),
        "words": jnp.asarray(random.integers(1, 7, (B, 3))),
        "length": jnp.asarray(random.integers(1, 4, B)),
        "person": jnp.asarray([0, 0, 1, 1, 2, 2, 3, 3]),
    }
    return Case(network, params, stats, batch, table)


def queue_of(options: Momentum) -> Any:
    """Half written: persons 0, 1, 4, 5, 0, 1, 4, 5 and then empty entries."""
    queue = moco.init_queue(options, D, B, jax.random.key(1))
    return {**queue, "ids": queue["ids"].at[0].set(jnp.asarray([0, 1, 4, 5] * 2))}


def contrast(case: Case, options: Momentum, mesh: Any = None) -> moco.Contrast:
    keys = moco.init_keys(options, case.params, case.stats, jax.random.key(2))

    @jax.jit
    def run(params: Any, keys: Any, queue: Any, batch: Any) -> moco.Contrast:
        encoded = case.network.encode(
            params,
            case.stats,
            batch["image"],
            batch["words"],
            batch["length"],
            case.table,
            train=True,
        )
        features = {"visual": encoded.visual, "textual": encoded.textual}
        return moco.contrast(
            options,
            case.network,
            params,
            keys,
            queue,
            batch,
            features,
            table=case.table,
            mesh=mesh,
        )

    return run(case.params, keys, queue_of(options), case.batch)


@pytest.mark.parametrize("mask", ["batch", "per_row"])
@pytest.mark.parametrize("mask_empty", [False, True])
def test_entries_that_count(case: Case, mask: Any, mask_empty: bool):
    options = Momentum(queue=K, mask=mask, mask_empty=mask_empty)
    made = contrast(case, options)
    queue, labels = queue_of(options), np.asarray(case.batch["person"])
    ids = np.asarray(entries(queue, "ids"))
    keep = labels[:, None] != ids
    if mask == "batch":
        keep = np.broadcast_to(keep.all(axis=0), keep.shape)
    if mask_empty:
        keep = keep & (ids >= 0)
    total = 0.0
    for query, key in (("visual", "textual"), ("textual", "visual")):
        q, k = np.asarray(made.queries[query]), np.asarray(made.positives[key])
        positive = np.exp(np.sum(q * k, axis=1) / 0.07)
        negative = np.exp(q @ np.asarray(entries(queue, key)).T / 0.07)
        total += np.mean(-np.log(positive / (positive + np.sum(negative * keep, axis=1))))
    np.testing.assert_allclose(made.loss, total, rtol=1e-5)
    np.testing.assert_allclose(made.negatives, keep.sum(axis=1).mean(), rtol=1e-6)
    after = np.asarray(entries(made.queue, "ids"))
    np.testing.assert_array_equal(after, [*labels, *ids[B:]])


def test_queue_over_a_mesh_as_on_one_device(case: Case):
    mesh = sharding.make_mesh(config.Mesh(data=4, fsdp=2))
    for mask in ("batch", "per_row"):
        options = Momentum(queue=K, mask=mask)
        one, many = contrast(case, options), contrast(case, options, mesh)
        np.testing.assert_allclose(many.loss, one.loss, rtol=1e-5)
        for name, value in one.queue.items():
            np.testing.assert_allclose(many.queue[name], value, atol=1e-6, err_msg=name)


def test_the_first_update_copies_and_later_ones_average(case: Case):
    options = Momentum(decay=0.9)
    other, stats = jax.jit(lambda key: case.network.init(key, (8, 8, 3), case.table))(
        jax.random.key(7)
    )
    keys = moco.init_keys(options, case.params, case.stats, jax.random.key(2))
    first = moco.update_keys(options, keys, other, stats, jnp.asarray(True))
    jax.tree.map(np.testing.assert_array_equal, first["params"], moco.tracked(options, other))
    later = moco.update_keys(options, keys, other, stats, jnp.asarray(False))
    jax.tree.map(
        lambda k, old, new: np.testing.assert_allclose(k, 0.9 * old + 0.1 * new, atol=1e-6),
        later["params"],
        keys["params"],
        moco.tracked(options, other),
    )
    jax.tree.map(np.testing.assert_array_equal, later["batch_stats"], keys["batch_stats"])


def test_keys_pass_through_the_head_that_is_asked_for(case: Case):
    options = Momentum(projector=case.network.projector, keys="momentum")
    head = moco.tracked(options, case.params)["head"]
    assert head.keys() == {"visual", "textual"}
    assert "head" not in moco.tracked(Momentum(), case.params)
    live = contrast(case, Momentum(queue=K))
    copied = contrast(case, Momentum(queue=K, keys="momentum"))
    np.testing.assert_allclose(live.loss, copied.loss, rtol=1e-6)  # while they are still equal


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match=r"task.momentum.decay=1.0"):
        Momentum(decay=1.0)
    with pytest.raises(ConfigError, match=r"task.momentum.temperature=0"):
        Momentum(temperature=0)
    with pytest.raises(ConfigError, match=r"queue size 20 with train.batch_size=8"):
        moco.init_queue(Momentum(queue=20), D, B, jax.random.key(0))
