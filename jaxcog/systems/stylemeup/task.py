"""StyleMeUp as a Task: meta-learning over drawing styles, retrieval of photos by sketches."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.optim import Optimizer, learning_rate, make_optimizer
from jaxcog.systems.stylemeup import evaluating, figures, predicting, torch_names
from jaxcog.systems.stylemeup.losses import Objective, Pass
from jaxcog.systems.stylemeup.meta import InnerLoop, MetaLearner
from jaxcog.systems.stylemeup.model import CrossModalVAE, TrunkName
from jaxcog.systems.stylemeup.ops import initial_theta
from jaxcog.systems.stylemeup.step import Over, carried, mean_gradient
from jaxcog.task import Batch, DataInfo, Key, Scalars, Setting, State, Task

_LEARNED = r"^params/(psi$|transform/)"
_NOT_IMAGENET = r"^params/(decoder|encoder/(content|mu|logvar))/"
_SMALLEST = {"vgg16": 32, "resnet50": 32, "inception_v3": 75}


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Fields as in `model.CrossModalVAE`, and the feature transformation layers.

    latent: d; the paper's best is 64, the released code has 128.
    transform: FT layers in the encoder, in the inner loop. sharpness: of their softplus, 100 in the
      code that they come from and 1 in its publication. per_image: a draw for each image.
    """

    trunk: TrunkName = "conv"
    latent: int = 64
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    hidden: int = 512
    decoder: tuple[int, ...] | None = None
    dropout: float = 0.5
    transform: bool = True
    sharpness: float = 100.0
    per_image: bool = False

    def __post_init__(self) -> None:
        if self.latent < 1 or self.hidden < 1 or not self.widths or min(self.widths) < 1:
            raise ConfigError(
                f"task.network: latent={self.latent}, hidden={self.hidden} and "
                f"widths={self.widths} must be positive"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"task.network.dropout={self.dropout}: at least 0, below 1")
        if self.transform and self.trunk == "mlp":
            raise ConfigError(
                'task.network.transform: the trunk "mlp" has no normalised maps to transform; set '
                "it to False"
            )

    def make(self, image: tuple[int, ...], dtype: Any) -> CrossModalVAE:
        """The network for images [S, S, C]. Raises ConfigError where they do not fit it."""
        height, width, channels = image
        strides = len(self.decoder or self.widths)
        if height != width or (self.trunk != "mlp" and height % 2**strides):
            raise ConfigError(
                f"images of {height}x{width}: task.network ({self.trunk}) wants squares whose side "
                f"divides by {1 if self.trunk == 'mlp' else 2**strides}; set data.size"
            )
        if self.trunk in _SMALLEST and (height < _SMALLEST[self.trunk] or channels != 3):
            raise ConfigError(
                f"images {list(image)}: task.network.trunk={self.trunk} reads colour images from "
                f"{_SMALLEST[self.trunk]} pixels up"
            )
        return CrossModalVAE(
            latent=self.latent,
            image_size=height,
            channels=channels,
            trunk=self.trunk,
            widths=self.widths,
            hidden=self.hidden,
            decoder=self.decoder,
            dropout=self.dropout,
            dtype=dtype,
        )


def _adam() -> Optimizer:
    return Optimizer("adam", lr=1e-4)


@dataclasses.dataclass(frozen=True)
class StyleMeUp:
    """The paper's method by default; the `released` code's differences are options.

    Batches of tasks: "positive", "negative" [T, N, S, S, C], "sketches" [T, N, K, S, S, C], float32
    in [-1, 1]: N photos, for each another photo and K sketches. With K = 3 (styles) the inner loop
    sees two sketches of each photo and the outer loop the second of them and the third, which one
    by chance. With K = 1 (users) the inner loop has the first N/2 photos, the outer loop the rest.
    With K = 2 there is only `meta=False`. Evaluation: see `evaluating`.

    meta: False: no inner step; the objective's mean over both passes of all tasks at once.
    over: tasks of a device in turn ("scan") or at once ("vmap").
    carry_gradients: the released code's buffer, see `step.carried`.
    shots: sketches of a new user that are adapted to, where the data has users; 0: none.
    """

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    objective: Objective = dataclasses.field(default_factory=Objective)
    inner: InnerLoop = dataclasses.field(default_factory=InnerLoop)
    meta: bool = True
    over: Over = "scan"
    carry_gradients: bool = False
    shots: tuple[int, ...] = (0, 1, 5, 10)
    optimizer: Optimizer = dataclasses.field(default_factory=_adam)

    def __post_init__(self) -> None:
        for name, plain in (("ema", None), ("accumulate", 1)):
            if getattr(self.optimizer, name) != plain:
                raise ConfigError(
                    f"task.optimizer.{name} has no meaning here: leave it at {plain} (a batch of "
                    "tasks is what is averaged over)"
                )
        if not self.shots or min(self.shots) < 0:
            raise ConfigError(f"task.shots={self.shots}: name numbers of sketches, 0 or larger")
        if self.meta and not self.inner.steps:
            raise ConfigError("task.inner.steps=0: set task.meta=False for training without it")

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        image = _check_tasks(setting.data, self.meta)
        vae = self.network.make(image, setting.dtype)
        network = self.network
        learner = MetaLearner(vae, self.objective, self.inner, network.sharpness, network.per_image)
        rate = learning_rate(self.optimizer.schedule, self.optimizer.lr, setting)
        judge = evaluating.judge_of(setting.data, learner, self.shots, self.over)

        def init(key: Key) -> State:
            params, stats = vae.init(rng.stream(key, "init"))
            params = self._with_learned(params, vae, rng.stream(key, "psi"))
            state = {
                "step": jnp.zeros((), jnp.int32),
                "params": params,
                "opt": make_optimizer(self.optimizer, params, setting).init(params),
            }
            if stats["encoder"]:
                state["batch_stats"] = stats
            if self.carry_gradients:
                state["buffer"] = jax.tree.map(jnp.zeros_like, params)
            return state

        def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Scalars]:
            key, params = jax.random.fold_in(key, state["step"]), state["params"]
            gradient = self._meta_gradient if self.meta else self._joint_gradient
            grads, scalars = gradient(learner, state, batch, key, setting.mesh)
            changed = {}
            if self.carry_gradients:
                count = batch["positive"].shape[0]
                total = jax.tree.map(lambda g: g * count, grads)
                fresh = state["step"] % setting.steps_per_epoch == 0
                grads = carried(state["buffer"], total, count, new_epoch=fresh)
                changed["buffer"] = grads
            tx = make_optimizer(self.optimizer, params, setting)
            updates, opt = tx.update(grads, state["opt"], params)
            new = {
                **state,
                **changed,
                "step": state["step"] + 1,
                "params": optax.apply_updates(params, updates),
                "opt": opt,
            }
            scalars |= {"grad_norm": optax.tree.norm(grads), "lr": rate(state["step"])}
            return new, {name: jnp.asarray(x, jnp.float32) for name, x in scalars.items()}

        backbone = network.trunk in torch_names.BACKBONES
        return Task(
            init=init,
            train_step=train_step,
            eval_step=judge.step,
            summarize=judge.summarize,
            headline=judge.headline,
            figures=figures.report(judge, learner),
            samples=figures.SAMPLES,
            predict=predicting.prediction(learner, image),
            reads="sketches and photos",
            import_names=self._names(vae) if network.trunk != "mlp" else None,
            import_kept=(_LEARNED, _NOT_IMAGENET) if backbone else (_LEARNED,),
        )

    def _with_learned(self, params: Any, vae: CrossModalVAE, key: Key) -> Any:
        """With what is learned through the inner step."""
        if not self.meta:
            return params
        if self.objective.weights.reg:
            shape = (vae.feature_size + 1, vae.latent)
            params = {**params, "psi": jax.random.uniform(key, shape)}
        if self.network.transform:
            params = {**params, "transform": initial_theta(vae.transformed)}
        return params

    def _meta_gradient(
        self, learner: MetaLearner, state: State, batch: Batch, key: Key, mesh: Any
    ) -> tuple[Any, Scalars]:
        def loss(params: Any, stats: Any, task: Any, key: Key) -> tuple[jax.Array, Scalars]:
            first, second = jax.random.split(key)
            support, query = passes_of(task, first)
            noise = learner.draw(params, second, support, query)
            total, (inner, outer) = learner.objective_of(params, support, query, noise, stats)
            scalars = {name: jnp.mean(x) for name, x in outer.items() if name != "total"}
            scalars["inner_loss"] = inner[0]["total"]
            if "reg" in inner[0]:
                scalars["regulariser"] = inner[0]["reg"]
            return total, scalars

        keys = jax.random.split(rng.stream(key, "tasks"), batch["positive"].shape[0])
        tasks = {name: batch[name] for name in ("positive", "negative", "sketches")}
        frozen = state.get("batch_stats", {})
        return mean_gradient(loss, state["params"], frozen, tasks, keys, over=self.over, mesh=mesh)

    def _joint_gradient(
        self, learner: MetaLearner, state: State, batch: Batch, key: Key, mesh: Any
    ) -> tuple[Any, Scalars]:
        keys = jax.random.split(rng.stream(key, "tasks"), batch["positive"].shape[0])
        tasks = {name: batch[name] for name in ("positive", "negative", "sketches")}
        apart = jax.vmap(passes_of)(tasks, keys)
        passes = tuple(_merged(one) for one in apart)
        own = jax.random.split(rng.stream(key, "noise"), len(passes))

        def loss(params: Any) -> tuple[jax.Array, Scalars]:
            total, terms = learner.joint(params, passes, own, state.get("batch_stats"))
            return total, {name: jnp.mean(x) for name, x in terms.items() if name != "total"}

        (value, scalars), grads = jax.value_and_grad(loss, has_aux=True)(state["params"])
        return grads, {"loss": value, **scalars}

    def _names(self, vae: CrossModalVAE) -> Any:
        height, _, channels = vae.decoder_map
        own = torch_names.table_for(channels, height)
        if self.network.trunk == "conv":
            return own
        return (own, torch_names.BACKBONES[self.network.trunk])


def passes_of(task: Batch, key: Key) -> tuple[Pass, ...]:
    """(inner pass, outer pass) of one task, or the only pass where K = 2; see `StyleMeUp`."""
    sketches = jnp.moveaxis(task["sketches"], 1, 0)
    count, pairs = sketches.shape[:2]
    positive, negative = task["positive"], task["negative"]
    if count == 2:
        return (Pass(positive, negative, sketches),)
    if count == 1:
        first, second = slice(0, pairs // 2), slice(pairs // 2, None)
        return tuple(
            Pass(positive[part], negative[part], sketches[:, part]) for part in (first, second)
        )
    held = jax.random.randint(key, (), 0, 3)
    lower, upper = jnp.where(held == 0, 1, 0), jnp.where(held == 2, 1, 2)
    return (
        Pass(positive, negative, sketches[jnp.stack([lower, upper])]),
        Pass(positive, negative, sketches[jnp.stack([upper, held])]),
    )


def _merged(batch: Pass) -> Pass:
    """Passes of T tasks [T, N, ...] as one pass [T * N, ...]."""

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *x.shape[2:])

    sketches = jnp.moveaxis(batch.sketches, 1, 0)
    sketches = sketches.reshape(sketches.shape[0], -1, *sketches.shape[3:])
    return Pass(flat(batch.positive), flat(batch.negative), sketches)


def _check_tasks(data: DataInfo, meta: bool) -> tuple[int, ...]:
    """[S, S, C] of the images. Raises ConfigError where the data is of another kind."""
    element = data.element
    if set(element) != {"positive", "negative", "sketches"}:
        raise ConfigError(
            'stylemeup learns from tasks of "positive", "negative" and "sketches"; the data has '
            f"{', '.join(sorted(element))}: choose data of sketches"
        )
    pairs, count, *image = element["sketches"].shape
    if count not in (1, 2, 3) or (meta and count == 2) or (meta and count == 1 and pairs < 2):
        raise ConfigError(
            f"tasks of {pairs} photos with {count} sketches each: meta-learning holds out one of 3 "
            "sketches (set data.sketches=3), or the second half of the photos of one drawer with 1 "
            "sketch each; 2 sketches are for task.meta=False"
        )
    return tuple(image)
