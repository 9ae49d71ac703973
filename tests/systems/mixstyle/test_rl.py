"""Playing with MixStyle: advantages, clipped losses, the optimizer, who mixes with whom."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.data.toy.runner import Runner
from jaxcog.errors import ConfigError
from jaxcog.systems.mixstyle import MixStyle
from jaxcog.systems.mixstyle.rl import ppo
from jaxcog.systems.mixstyle.rl.objective import Weights, objective
from jaxcog.systems.mixstyle.rl.policy import Policy, PolicyOutput, information
from jaxcog.systems.mixstyle.rl.task import Play, recent_returns
from jaxcog.task import DataInfo, Setting

HORIZON, ENVIRONMENTS, ACTIONS = 6, 8, 4
STAGE = MixStyle(p=1.0, alpha=0.1, after=("sequence1",), ddof=0)


def small(**changes) -> Play:
    default = Play(depths=(2, 2), hidden=4, mixstyle=STAGE, workers=2, minibatches=3)
    return dataclasses.replace(default, **changes)


def setting(batch_size: int = ENVIRONMENTS, horizon: int = HORIZON) -> Setting:
    return Setting(Runner(size=8, horizon=horizon).describe(), 10, 1, batch_size)


def normal(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def rewards_and_values(seed=0):
    random = np.random.default_rng(seed)
    rewards = random.normal(size=(HORIZON, 3)).astype(np.float32)
    dones = random.random((HORIZON, 3)) < 0.3
    return rewards, dones, random.normal(size=(HORIZON + 1, 3)).astype(np.float32)


def test_advantages_are_the_sum_over_the_rest_of_the_episode():
    rewards, dones, values = rewards_and_values()
    found = ppo.gae(rewards, dones, values, 0.9, 0.8)
    for env in range(3):
        for t in range(HORIZON):
            total, weight = 0.0, 1.0
            for k in range(t, HORIZON):
                ahead = 0.0 if dones[k, env] else 0.9 * values[k + 1, env]
                total += weight * (rewards[k, env] + ahead - values[k, env])
                if dones[k, env]:
                    break
                weight *= 0.9 * 0.8
            assert found[t, env] == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_with_lambda_one_returns_are_discounted_rewards():
    rewards, _, values = rewards_and_values()
    dones = np.zeros_like(rewards, bool)
    returns = ppo.gae(rewards, dones, values, 0.5, 1.0) + values[:-1]
    powers = 0.5 ** np.arange(HORIZON + 1)
    everything = np.concatenate([rewards, values[-1:]])
    np.testing.assert_allclose(returns[0], powers @ everything, rtol=1e-4)


def test_shapes_that_do_not_fit_are_named():
    rewards, dones, values = rewards_and_values()
    with pytest.raises(ValueError, match=r"T \+ 1"):
        ppo.gae(rewards, dones, values[:-1], 0.9, 0.8)


def test_probabilities_of_a_mixture():
    logits, actions = normal((5, 3, ACTIONS)), jnp.arange(5) % ACTIONS
    of_mixture = jax.jit(ppo.mixture_negative_log_probability)
    p = np.asarray(jax.nn.softmax(logits))[np.arange(5), :, np.asarray(actions)].mean(1)
    np.testing.assert_allclose(of_mixture(logits, actions), -np.log(p), rtol=1e-5)
    same = jnp.broadcast_to(logits[:, :1], logits.shape)
    one = ppo.negative_log_probability(logits[:, 0], actions)
    np.testing.assert_allclose(of_mixture(same, actions), one, rtol=1e-5)
    assert ppo.entropy(jnp.zeros(ACTIONS)) == pytest.approx(np.log(ACTIONS))


def test_the_clipped_losses():
    old, advantages = jnp.zeros(4), jnp.array([1.0, 1.0, -1.0, -1.0])
    neglogp = -jnp.log(jnp.array([1.5, 0.5, 1.5, 0.5]))
    loss = ppo.policy_loss(neglogp, old, advantages, 0.2)
    np.testing.assert_allclose(loss, [-1.2, -0.5, 1.5, 0.8], rtol=1e-6)
    values = jnp.array([0.1, 1.0])
    found = ppo.value_loss(values, jnp.zeros(2), jnp.array([1.0, 1.0]), 0.2)
    np.testing.assert_allclose(found, [0.5 * 0.9**2, 0.5 * 0.8**2], rtol=1e-6)
    moved, clipped = ppo.change(neglogp, old, 0.6)
    np.testing.assert_allclose(moved, 0.5 * neglogp**2)
    np.testing.assert_array_equal(clipped, [0, 0, 0, 0])


@pytest.mark.parametrize("how", ["shard_map", "pmap"])
def test_advantages_are_normalized_over_all_devices(how):
    devices = jax.device_count()
    x = normal((2 * devices,)) * 3 + 1
    each = partial(ppo.normalized, axis_name="data")
    if how == "pmap":
        found = jax.pmap(each, axis_name="data")(x.reshape(devices, -1)).reshape(-1)
    else:
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
        found = jax.shard_map(each, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(x)
    np.testing.assert_allclose(found, ppo.normalized(x), rtol=1e-4, atol=1e-6)
    assert np.std(found) == pytest.approx(1, rel=1e-4)


def test_tensorflow_adam_is_adam_but_for_where_eps_stands():
    params = {"w": normal((3,))}
    grads = [{"w": normal((3,), seed)} for seed in (1, 2, 3)]

    def path(tx):
        state, now, update = tx.init(params), params, jax.jit(tx.update)
        for g in grads:
            updates, state = update(g, state, now)
            now = optax.apply_updates(now, updates)
        return now["w"]

    ours, optaxs = path(ppo.tensorflow_adam(eps=0.0)), path(optax.adam(1.0, eps=0.0))
    np.testing.assert_allclose(ours, optaxs, rtol=1e-4)
    tx = ppo.tensorflow_adam(eps=0.1)
    update, _ = tx.update(grads[0], tx.init(params))
    m, v = 0.1 * grads[0]["w"], 0.001 * grads[0]["w"] ** 2
    rate = np.sqrt(1 - 0.999) / (1 - 0.9)
    np.testing.assert_allclose(update["w"], -rate * m / (np.sqrt(v) + 0.1), rtol=1e-4)


def test_information_is_the_divergence_in_bits():
    assert information(jnp.zeros((1, 3)), jnp.ones((1, 3)))[0] == 0
    found = information(jnp.full((1, 2), 1.0), jnp.full((1, 2), 0.5))[0]
    one = np.log(2) + (0.25 + 1) / 2 - 0.5
    assert found == pytest.approx(2 * one / np.log(2), rel=1e-6)


def minibatch(rows=6):
    return {
        "action": jnp.arange(rows) % ACTIONS,
        "return": normal((rows,), 3),
        "old_value": normal((rows,), 4),
        "old_neglogp": jnp.full(rows, np.log(ACTIONS)),
    }


def test_a_bottleneck_without_noise_is_no_bottleneck():
    logits, value = normal((6, ACTIONS), 1), normal((6,), 2)
    params = {"a": {"kernel": normal((2, 2)), "bias": jnp.full(2, 100.0)}}
    plain = PolicyOutput(logits, value, jnp.zeros((6, 2)))
    noisy = dataclasses.replace(
        plain, noisy_logits=jnp.repeat(logits[:, None], 5, 1), information=jnp.full(6, 7.0)
    )
    measure = jax.jit(partial(objective, clip=0.2, weights=Weights()))
    loss, parts = measure(params, plain, minibatch())
    with_noise, its_parts = measure(params, noisy, minibatch())
    assert with_noise == pytest.approx(float(loss) + 1e-4 * 7.0, rel=1e-5)
    assert its_parts["policy_loss"] == pytest.approx(float(parts["policy_loss"]), rel=1e-4)
    kernels = float(jnp.sum(params["a"]["kernel"] ** 2)) / 2
    assert parts["l2_loss"] == pytest.approx(kernels, rel=1e-5)


def test_each_worker_normalizes_its_own_advantages():
    batch, other = minibatch(), minibatch()
    shift = jnp.array([0, 0, 0, 50.0, 50.0, 50.0])
    other["return"] = batch["return"] + shift
    out = PolicyOutput(normal((6, ACTIONS), 1), jnp.zeros(6), jnp.zeros((6, 2)))
    measure = jax.jit(partial(objective, clip=0.2, weights=Weights(kernels=0), workers=2))
    first, second = (measure({}, out, rows)[1] for rows in (batch, other))
    assert second["policy_loss"] == pytest.approx(float(first["policy_loss"]), abs=1e-4)


@pytest.fixture(scope="module")
def learner():
    return small().build(setting()).train_step.__self__


def test_workers_mix_among_themselves(learner):
    draws = learner.draws(jax.random.key(0), 12, 2)
    perm = np.asarray(draws["sequence1"].perm)
    np.testing.assert_array_equal(np.sort(perm), np.arange(12))
    np.testing.assert_array_equal(perm // 6, np.arange(12) // 6)
    shut = small(mixstyle=dataclasses.replace(STAGE, p=1e-9)).build(setting())
    drawn = shut.train_step.__self__.draws(jax.random.key(0), 12, 2)
    np.testing.assert_array_equal(drawn["sequence1"].lam, 1)


@pytest.mark.parametrize("shuffle", ["worker", "environment"])
def test_every_row_is_learnt_from_once_an_epoch(shuffle):
    learner = small(shuffle=shuffle, epochs=2).build(setting()).train_step.__self__
    orders = np.asarray(learner.orders(jax.random.key(0)))
    groups = 2 if shuffle == "worker" else ENVIRONMENTS
    rows = ENVIRONMENTS * HORIZON // groups
    assert orders.shape == (2 * 3, groups, rows // 3)
    for epoch in orders.reshape(2, 3, groups, -1):
        for group in range(groups):
            np.testing.assert_array_equal(np.sort(epoch[:, group].ravel()), np.arange(rows))
    segments = jnp.arange(ENVIRONMENTS * HORIZON).reshape(ENVIRONMENTS, HORIZON)
    grouped = learner.grouped(segments)
    np.testing.assert_array_equal(grouped.ravel(), segments.ravel())


def test_the_last_hundred_episodes():
    batch = {
        "done": jnp.array([[True, False], [False, True], [True, True]]),
        "return": jnp.array([[1.0, 9.0], [9.0, 4.0], [2.0, 5.0]]),
    }
    recent, count = recent_returns(jnp.arange(3.0), jnp.asarray(7), batch)
    # By time, then by environment: 1, 2, 4, 5.
    np.testing.assert_array_equal(recent, [2, 4, 5])
    assert count == 11
    recent, count = recent_returns(jnp.zeros(6), jnp.asarray(0), batch)
    np.testing.assert_array_equal(recent, [0, 0, 1, 2, 4, 5])


def test_the_actions_are_those_of_the_policy():
    policy = Policy(ACTIONS, (2,), 4)
    images = jnp.zeros((3, 8, 8, 3), jnp.uint8)
    params = jax.jit(lambda key: policy.init(key, (8, 8, 3)))(jax.random.key(0))
    out = jax.jit(policy.apply)(params, images)
    assert out.logits.shape == (3, ACTIONS)
    assert np.abs(out.logits).max() < 0.1, "begins with a nearly uniform policy"
    assert params["encoder"]["sequence1"]["block2"]["conv2"]["kernel"].shape == (3, 3, 2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixstyle": dataclasses.replace(STAGE, after=("sequence2",))}, "last stage"),
        ({"mixstyle": dataclasses.replace(STAGE, mix="crossdomain")}, "no domains"),
        ({"mixstyle": dataclasses.replace(STAGE, kind="distribution")}, "mixes statistics only"),
        ({"workers": 0}, "task.workers=0"),
        ({"samples": 0}, "task.samples=0"),
        ({"gamma": 1.5}, "task.gamma=1.5"),
        ({"lr": 0.0}, "task.lr=0.0"),
        ({"shuffle": "all"}, "task.shuffle"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        small(**changes)


def test_batches_that_do_not_divide_are_named():
    with pytest.raises(ConfigError, match=r"task\.workers=2"):
        small().build(setting(batch_size=7))
    with pytest.raises(ConfigError, match=r"task\.minibatches=5"):
        small(minibatches=5).build(setting())
    photos = DataInfo({"image": jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)}, 10)
    with pytest.raises(ConfigError, match="environments, such as CoinRun"):
        small().build(Setting(photos, 10, 1, 8))
