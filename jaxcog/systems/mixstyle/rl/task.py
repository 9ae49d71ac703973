"""Learning to play with MixStyle (ICLR 2021, CoinRun): PPO on segments of many environments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.metrics.state import Mean
from jaxcog.optim import Schedule, learning_rate
from jaxcog.systems.mixstyle import ops
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.rl import figures, ppo
from jaxcog.systems.mixstyle.rl.objective import Weights, objective
from jaxcog.systems.mixstyle.rl.policy import Policy, PolicyOutput, stages_of
from jaxcog.systems.mixstyle.rl.tensorflow_names import BY_ORDER, NAMES
from jaxcog.task import Batch, Key, Scalars, Setting, State, Task

_RECENT = 100  # episodes over which the training return is averaged


def _mixstyle() -> MixStyle:
    return MixStyle(p=1.0, alpha=0.1, after=("sequence1", "sequence2"), ddof=0)


@dataclasses.dataclass(frozen=True)
class Play:
    """PPO with the IMPALA network; the defaults are the paper's for CoinRun.

    A batch is one segment of each environment (see `jaxcog.data.types.Experience`): "image"
    [E, T, H, W, 3] uint8, "reward", "done", "return" [E, T], "action", "value", "neglogp"
    [E, T + 1]. One update of the run is all `epochs` x `minibatches` gradient steps on it.

    mixstyle: acts on every frame in acting and learning (the official code's habit), among the
      environments, or the rows of a minibatch, of one worker. mix_in_evaluation: there too, among
      all environments.
    samples: of the Gaussian bottleneck for each frame (IBAC-SNI); None: a plain one.
    workers: groups of environments that shuffle, mix and normalise among themselves; gradients
      are their mean, times `gradient_factor` before clipping (the official code divides the sum
      of three workers by two).
    shuffle: minibatches of random rows of a "worker", or as many random times of each
      "environment", for which no frame leaves its device.
    lr, clip: of the first update; both fall linearly to 0 over the run.
    """

    depths: tuple[int, ...] = (16, 32, 32)
    hidden: int = 256
    mixstyle: MixStyle = dataclasses.field(default_factory=_mixstyle)
    mix_in_evaluation: bool = False
    samples: int | None = None
    weights: Weights = dataclasses.field(default_factory=Weights)
    workers: int = 3
    gradient_factor: float = 1.5
    shuffle: Literal["worker", "environment"] = "worker"
    gamma: float = 0.999
    lam: float = 0.95
    epochs: int = 3
    minibatches: int = 8
    lr: float = 5e-4
    clip: float = 0.2
    max_grad_norm: float = 0.5
    adam_eps: float = 1e-5

    def __post_init__(self) -> None:
        self.mixstyle.check_stages(stages_of(self.depths))
        if self.mixstyle.mix != "random":
            raise ConfigError(
                f'task.mixstyle.mix="{self.mixstyle.mix}": frames have no domains; use "random"'
            )
        if self.mixstyle.kind != "moments":
            raise ConfigError(
                f'task.mixstyle.kind="{self.mixstyle.kind}": the policy mixes statistics only; use '
                '"moments" (EFDMix is for classification and re-identification)'
            )
        if self.shuffle not in ("worker", "environment"):
            raise ConfigError(f'task.shuffle="{self.shuffle}": "worker" or "environment"')
        for name in ("workers", "epochs", "minibatches", "hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task.{name}={getattr(self, name)}: must be at least 1")
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"task.samples={self.samples}: must be at least 1, or None")
        for name in ("lr", "clip", "max_grad_norm", "gradient_factor"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"task.{name}={getattr(self, name)}: must be positive")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"task.{name}={getattr(self, name)}: between 0 and 1")

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where data or batch do not fit."""
        image = _image_shape(setting)
        learner = _Learner(self, setting, _policy(self, setting))

        def init(key: Key) -> State:
            params = learner.policy.init(rng.stream(key, "init"), image)
            return {
                "step": jnp.zeros((), jnp.int32),
                "params": params,
                "opt": learner.optimizer.init(params),
                "recent": jnp.zeros(_RECENT, jnp.float32),
                "episodes": jnp.zeros((), jnp.int32),
            }

        return Task(
            init=init,
            train_step=learner.train_step,
            eval_step=_eval_step,
            summarize=_summarize,
            headline="return",
            figures=figures.report(setting.data),
            predict=figures.prediction(setting.data),
            reads="levels",
            act=learner.act,
            import_names=(NAMES, BY_ORDER),
        )


def _image_shape(setting: Setting) -> tuple[int, int, int]:
    element = setting.data.element
    if "image" not in element or "action" not in element or "actions" not in setting.data.facts:
        raise ConfigError(
            "this task plays: it needs data with environments, such as CoinRun; the data has "
            f"{', '.join(sorted(element))}"
        )
    return element["image"].shape[1:]


def _policy(config: Play, setting: Setting) -> Policy:
    actions = len(setting.data.facts["actions"])
    return Policy(actions, config.depths, config.hidden, config.samples, setting.dtype)


class _Learner:
    """The functions of one run that share its network, sizes and optimizer."""

    def __init__(self, config: Play, setting: Setting, policy: Policy):
        self.config = config
        self.policy = policy
        self.environments = setting.batch_size
        self.horizon = setting.data.element["reward"].shape[0]
        if self.environments % config.workers:
            raise ConfigError(
                f"train.batch_size={self.environments} environments are not shared evenly by "
                f"task.workers={config.workers}: choose a multiple"
            )
        self.groups = config.workers if config.shuffle == "worker" else self.environments
        self.group_rows = self.environments // self.groups * self.horizon
        if self.group_rows % config.minibatches:
            raise ConfigError(
                f"{self.group_rows} steps of one {config.shuffle} do not divide into "
                f"task.minibatches={config.minibatches}: change that, data.horizon or "
                "train.batch_size"
            )
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(config.max_grad_norm),
            ppo.tensorflow_adam(eps=config.adam_eps),
        )
        self.spread = None
        if setting.mesh is not None:
            self.spread = NamedSharding(setting.mesh, P(("data", "fsdp")))
        self.decay = learning_rate(Schedule("linear"), 1.0, setting)

    def apply(
        self, params: Any, images: jax.Array, key: Key, *, groups: int, noisy: bool
    ) -> PolicyOutput:
        """The network on rows of so many groups one after another, which mix among themselves.

        groups: 0 mixes nothing. noisy: whether a Gaussian bottleneck is sampled.
        """
        draws = self.draws(rng.stream(key, "mixstyle"), len(images), groups) if groups else {}
        noise = None
        if noisy and self.config.samples is not None:
            shape = (self.config.samples, len(images), self.config.hidden)
            noise = jax.random.normal(rng.stream(key, "noise"), shape)
        style = self.config.mixstyle
        return self.policy.apply(
            params, images, draws=draws, noise=noise, eps=style.eps, ddof=style.ddof
        )

    def draws(self, key: Key, rows: int, groups: int) -> dict[str, ops.MixDraw]:
        """MixStyle's draws for a batch in which each group mixes among its own rows."""
        own = rows // groups
        keys = jax.random.split(key, groups)
        drawn = jax.vmap(lambda key: self.config.mixstyle.draws(key, own))(keys)
        first = own * jnp.arange(groups)[:, None]

        def joined(draw: ops.MixDraw) -> ops.MixDraw:
            perm = (draw.perm + first).reshape(-1)
            # A group whose gate is shut keeps its own statistics.
            lam = jnp.where(draw.gate[:, None], draw.lam, 1.0).reshape(-1)
            return ops.MixDraw(jnp.asarray(True), lam, perm)

        return {stage: joined(draw) for stage, draw in drawn.items()}

    def act(self, state: State, observation: Batch, key: Key, train: bool) -> dict[str, jax.Array]:
        """Draws actions from the run policy; with their values and -log probabilities."""
        groups = self.config.workers if train else int(self.config.mix_in_evaluation)
        images = observation["image"]
        out = self.apply(state["params"], images, key, groups=groups, noisy=False)
        action = jax.random.categorical(rng.stream(key, "action"), out.logits).astype(jnp.int32)
        neglogp = ppo.negative_log_probability(out.logits, action)
        return {"action": action, "value": out.value, "neglogp": neglogp}

    def train_step(self, state: State, batch: Batch, key: Key) -> tuple[State, Scalars]:
        """All epochs of minibatches on one batch of segments."""
        config = self.config
        key = jax.random.fold_in(key, state["step"])
        left = self.decay(state["step"])
        rows = jax.tree.map(self.grouped, self.examples(batch))

        def minibatch(carry: Any, item: Any) -> tuple[Any, Scalars]:
            (params, opt), (order, index) = carry, item
            chosen = jax.tree.map(lambda x: self.chosen(x, order), rows)

            def loss(params: Any) -> tuple[jax.Array, Scalars]:
                own = jax.random.fold_in(key, index)
                out = self.apply(params, chosen["image"], own, groups=config.workers, noisy=True)
                return objective(
                    params, out, chosen, config.clip * left, config.weights, config.workers
                )

            (value, scalars), grads = jax.value_and_grad(loss, has_aux=True)(params)
            grads = jax.tree.map(lambda g: config.gradient_factor * g, grads)
            changes, opt = self.optimizer.update(grads, opt, params)
            changes = jax.tree.map(lambda u: config.lr * left * u, changes)
            norm = optax.tree.norm(grads)
            carry = optax.apply_updates(params, changes), opt
            return carry, {**scalars, "loss": value, "grad_norm": norm}

        orders = self.orders(rng.stream(key, "order"))
        items = orders, jnp.arange(len(orders))
        (params, opt), scalars = jax.lax.scan(minibatch, (state["params"], state["opt"]), items)
        scalars = jax.tree.map(jnp.mean, scalars)
        recent, episodes = recent_returns(state["recent"], state["episodes"], batch)
        known = jnp.clip(episodes, 1, _RECENT)
        scalars |= {"lr": config.lr * left, "return": jnp.sum(recent) / known}
        scalars["episodes"] = episodes.astype(jnp.float32)
        changed = {"params": params, "opt": opt, "recent": recent, "episodes": episodes}
        return {**state, **changed, "step": state["step"] + 1}, scalars

    def examples(self, batch: Batch) -> dict[str, jax.Array]:
        """What PPO learns from, [E, T, ...] each."""
        by_time = {name: jnp.moveaxis(batch[name], 1, 0) for name in ("reward", "done", "value")}
        advantages = ppo.gae(
            by_time["reward"], by_time["done"], by_time["value"], self.config.gamma, self.config.lam
        )
        values = batch["value"][:, :-1]
        return {
            "image": batch["image"],
            "action": batch["action"][:, :-1],
            "return": advantages.T + values,
            "old_value": values,
            "old_neglogp": batch["neglogp"][:, :-1],
        }

    def grouped(self, x: jax.Array) -> jax.Array:
        """[E, T, ...] -> [groups, rows of a group, ...]."""
        return x.reshape(self.groups, self.group_rows, *x.shape[2:])

    def chosen(self, x: jax.Array, order: jax.Array) -> jax.Array:
        """Rows `order` [groups, N] of x [groups, rows, ...], one group after another."""
        picked = jax.vmap(lambda own, at: own[at])(x, order).reshape(-1, *x.shape[2:])
        if self.spread is None:
            return picked
        mesh = self.spread.mesh.shape
        if len(picked) % (mesh["data"] * mesh["fsdp"]):
            return picked
        # Else the rows would be split over as many devices as there are groups, and no more.
        return jax.lax.with_sharding_constraint(picked, self.spread)

    def orders(self, key: Key) -> jax.Array:
        """int32 [epochs x minibatches, groups, rows of a group in a minibatch]."""
        epochs, parts = self.config.epochs, self.config.minibatches
        keys = jax.random.split(key, (epochs, self.groups))
        permutation = jax.vmap(jax.vmap(lambda key: jax.random.permutation(key, self.group_rows)))
        orders = permutation(keys).reshape(epochs, self.groups, parts, -1)
        return jnp.moveaxis(orders, 2, 1).reshape(epochs * parts, self.groups, -1)


def recent_returns(
    recent: jax.Array, episodes: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """(the returns of the last episodes, 0 where there were fewer; episodes so far).

    recent: [N] float32, the newest last. batch: "done" bool and "return" float, [E, T].
    """
    done, returns = (jnp.moveaxis(batch[name], 1, 0).reshape(-1) for name in ("done", "return"))
    ended = jnp.concatenate([jnp.ones(len(recent), bool), done])
    newest = jnp.argsort(ended, stable=True)[-len(recent) :]
    everything = jnp.concatenate([recent, returns])
    return everything[newest], episodes + jnp.sum(done, dtype=jnp.int32)


def _eval_step(state: State, batch: Batch) -> dict[str, Any]:
    mask = batch.get("mask")
    return {
        "return": Mean.of(batch["return"], mask),
        "length": Mean.of(batch["length"], mask),
        "finished": Mean.of(batch["return"] > 0, mask),
    }


def _summarize(results: Mapping[str, Any]) -> dict[str, float]:
    """Of the test levels by plain names, of others as "split/name"; the gap between the two.

    return: mean over episodes. finished: percent of episodes with a reward. length: steps.
    """
    main = "test" if "test" in results else next(iter(results))
    summary = {}
    for split, states in results.items():
        prefix = "" if split == main else f"{split}/"
        summary[f"{prefix}return"] = states["return"].compute()
        summary[f"{prefix}finished"] = 100 * states["finished"].compute()
        summary[f"{prefix}length"] = states["length"].compute()
    if "train" in results and main == "test":
        summary["gap"] = summary["train/return"] - summary["return"]
    return summary
