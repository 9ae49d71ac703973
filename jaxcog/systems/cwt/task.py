"""The two stages of CWT (ICCV 2021): base classes, then episodes with a frozen encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.losses.segmentation import pixel_cross_entropy, weighted_mean
from jaxcog.metrics import segmentation as metrics
from jaxcog.metrics.state import Concat, Confusion
from jaxcog.nn.psp import BINS
from jaxcog.optim import (
    Optimizer,
    Schedule,
    gradient_step,
    initial_state,
    learning_rate,
    make_optimizer,
)
from jaxcog.systems.cwt import checks, figures, judging, ops, torch_names
from jaxcog.systems.cwt.losses import label_smoothed_cross_entropy
from jaxcog.systems.cwt.model import ClassifierWeightTransformer, Encoder, EncoderName, PSPNet
from jaxcog.systems.cwt.outer import Episodes, Updates, outer_updates
from jaxcog.task import Batch, Key, Scalars, Setting, State, Task, judged

_ENCODER = "^(params|batch_stats)/encoder/"


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Fields as in `model.PSPEncoder`; "cells" is an MLP for generated images."""

    name: EncoderName = "resnet50"
    bins: tuple[int, ...] = BINS
    width: int = 512
    dropout: float = 0.1
    remat: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"task.encoder.dropout={self.dropout}: at least 0, below 1")
        if self.width < 1 or not self.bins or min(self.bins) < 1:
            raise ConfigError(
                f"task.encoder: width={self.width} and bins={self.bins} must be positive"
            )

    def make(self, dtype: Any) -> Encoder:
        """The encoder as pure functions."""
        return Encoder(self.name, self.bins, self.width, self.dropout, self.remat, dtype)


def _base_sgd() -> Optimizer:
    schedule = Schedule("cosine", final=1e-6 / 2.5e-3)
    return Optimizer("sgd", lr=2.5e-3, nesterov=True, weight_decay=1e-4, schedule=schedule)


@dataclasses.dataclass(frozen=True)
class BaseTraining:
    """Stage 1: segmentation of the base classes; the defaults are RePRI's.

    Batches: "image" [B, H, W, C] float32, normalised; "label" [B, h, w] uint8, 255 ignored.

    smoothing: eps of the label smoothing. mixup: a of the Beta(a, a) that mixes images; 0: none.
    classifier_bias: as in RePRI's checkpoints; PSPNet of the CWT code has none.
    """

    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    classifier_bias: bool = True
    smoothing: float = 0.1
    mixup: float = 0.0
    optimizer: Optimizer = dataclasses.field(default_factory=_base_sgd)

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"task.smoothing={self.smoothing}: at least 0, below 1")
        if self.mixup < 0:
            raise ConfigError(f"task.mixup={self.mixup}: not negative; 0 turns it off")

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        element, classes = setting.data.element, setting.data.num_classes
        if set(element) != {"image", "label"} or not 2 <= classes < 255:
            raise ConfigError(
                'stage 1 of cwt learns from "image" and "label" of 2 to 254 classes; the data has '
                f"{', '.join(sorted(element))} and {classes} classes: choose data of base classes"
            )
        size = element["label"].shape
        network = PSPNet(self.encoder.make(setting.dtype), classes, self.classifier_bias)
        image = jnp.zeros((1, *element["image"].shape), jnp.float32)

        def init(key: Key) -> State:
            params, stats = network.init(rng.stream(key, "init"), image)
            return initial_state(params, self.optimizer, setting, batch_stats=stats)

        def loss(params: Any, state: State, batch: Batch, key: Key) -> Any:
            images, labels, other, share = self._mixed(batch, rng.stream(key, "mixup"))
            dropout = rng.stream(key, "dropout")
            logits, stats = network(
                params, state["batch_stats"], images, size, train=True, key=dropout
            )
            value = label_smoothed_cross_entropy(logits, labels, eps=self.smoothing)
            if self.mixup:
                second = label_smoothed_cross_entropy(logits, other, eps=self.smoothing)
                value = share * value + (1 - share) * second
            return value, ({"batch_stats": stats}, {})

        def predict(state: State, images: jax.Array) -> jax.Array:
            params = judged(state)
            logits, _ = network(params, state["batch_stats"], images, size)
            return jnp.argmax(logits, axis=-1)

        def eval_step(state: State, batch: Batch) -> dict[str, Any]:
            found = predict(state, batch["image"])
            label = batch["label"].astype(jnp.int32)
            return {"confusion": Confusion.of(found, label, classes, batch.get("mask"))}

        return Task(
            init=init,
            train_step=gradient_step(loss, self.optimizer, setting),
            eval_step=eval_step,
            summarize=_summarize_base,
            headline="miou",
            figures=figures.base_report(setting.data, predict),
            samples=figures.SAMPLES,
            import_names=(
                torch_names.table_for(self.encoder.name),
                torch_names.imagenet_table_for(self.encoder.name),
            ),
        )

    def _mixed(self, batch: Batch, key: Key) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """(images, their labels, those of the images mixed in, share of the first)."""
        images, labels = batch["image"], batch["label"]
        if not self.mixup:
            return images, labels, labels, jnp.ones(())
        first, second = jax.random.split(key)
        share = jax.random.beta(first, self.mixup, self.mixup)
        order = jax.random.permutation(second, images.shape[0])
        return share * images + (1 - share) * images[order], labels, labels[order], share


def _summarize_base(results: Mapping[str, Any]) -> dict[str, float]:
    """In percent, of the first (and only) split."""
    counts = next(iter(results.values()))["confusion"].compute()
    return {
        "miou": 100 * metrics.mean_iou(counts, "skip"),
        "pixel_accuracy": 100 * metrics.pixel_accuracy(counts),
    }


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """Gradient descent on the support: plain, full batch, float32.

    normalize: features of unit length, as the query's are; the released code leaves them raw.
    """

    lr: float = 0.1
    steps: int = 200
    normalize: bool = False

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.steps < 1:
            raise ConfigError(f"task.inner: lr={self.lr} and steps={self.steps} must be positive")


def _meta_sgd() -> Optimizer:
    return Optimizer("sgd", lr=1e-3, nesterov=True, weight_decay=1e-4)


@dataclasses.dataclass(frozen=True)
class MetaTraining:
    """Stage 2: the classifier weight transformer learns from episodes; the encoder is frozen.

    Batches of episodes: "support" [E, k, H, W, C], "query" [E, H, W, C] float32, normalised;
    "support_mask" [E, k, h, w], "query_mask" [E, h, w] uint8: 0, 1, 255 void; "class" [E] int32.
    Evaluation episodes also have "episode" and "run" [E] int32; where they have "original_mask"
    (see data.mask_episodes.EpisodeTransform), that is what the metric is taken on.

    heads, share_qkv, ...: see ClassifierWeightTransformer; the paper has share_qkv=False.
    updates: see `outer.outer_updates`; "sequential" is the published batch of one, on any number
      of devices.
    skip_empty: leave out training episodes whose query lost its object in resizing.
    select_on: the split by which the best checkpoint is chosen. The released code chose on
      "novel", the classes that are then reported.
    control: also judge with another query of the evaluation batch in place of the query.
    pretrained: training demands `train.start_from`, a stage 1 of the same base classes.
    reproduce_first_step_train_mode: as in the released code, the first support of every epoch is
      encoded in training mode and changes the running statistics of the frozen encoder.
    eval_seed: of the initial classifiers of evaluation episodes.
    """

    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    heads: int = 4
    share_qkv: bool = True
    attention_dropout: float = 0.1
    dropout: float = 0.5
    inner: InnerLoop = dataclasses.field(default_factory=InnerLoop)
    updates: Updates = "sequential"
    skip_empty: bool = False
    select_on: Literal["base", "novel"] = "base"
    control: bool = False
    pretrained: bool = True
    reproduce_first_step_train_mode: bool = False
    eval_seed: int = 0
    optimizer: Optimizer = dataclasses.field(default_factory=_meta_sgd)

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ConfigError(f"task.heads={self.heads}: at least 1")
        for name in ("attention_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"task.{name}={getattr(self, name)}: at least 0, below 1")
        for name, plain in (("ema", None), ("accumulate", 1)):
            if getattr(self.optimizer, name) != plain:
                raise ConfigError(
                    f"task.optimizer.{name} has no meaning here: leave it at {plain} (batches of "
                    'episodes are what task.updates="mean" averages over)'
                )

    @property
    def transformer(self) -> ClassifierWeightTransformer:
        return ClassifierWeightTransformer(
            self.heads, self.attention_dropout, self.dropout, self.share_qkv
        )

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        checks.check_episodes(setting.data)
        encoder, transformer = self.encoder.make(setting.dtype), self.transformer
        # The optimizer counts episodes where each is an update of its own.
        each = setting.batch_size if self.updates == "sequential" else 1
        fine = dataclasses.replace(
            setting,
            steps=setting.steps * each,
            steps_per_epoch=setting.steps_per_epoch * each,
            batch_size=setting.batch_size // each,
        )
        rate = learning_rate(self.optimizer.schedule, self.optimizer.lr, fine)
        image = jnp.zeros((1, *setting.data.element["query"].shape), jnp.float32)

        def init(key: Key) -> State:
            params, stats = encoder.init(rng.stream(key, "encoder"), image)
            adapter = transformer.init(rng.stream(key, "init"), self.encoder.width)
            return {
                "step": jnp.zeros((), jnp.int32),
                "params": {"encoder": params, "transformer": adapter},
                "batch_stats": {"encoder": stats},
                "opt": make_optimizer(self.optimizer, adapter, fine).init(adapter),
            }

        def train_step(state: State, batch: Batch, key: Key) -> tuple[State, Scalars]:
            key = jax.random.fold_in(key, state["step"])
            count = batch["class"].shape[0]
            keys = jax.random.split(rng.stream(key, "classifier"), count)
            dropped = rng.stream(key, "first_support")
            first = state["step"] % setting.steps_per_epoch == 0
            fitted = self._fit(encoder, state, batch, keys, (first, dropped))
            empty = ~jnp.any(batch["query_mask"] == 1, axis=(1, 2))
            counts = ~empty if self.skip_empty else jnp.ones(count, bool)
            episodes = Episodes(fitted.weights, fitted.features, batch["query_mask"], counts)
            if self.updates == "sequential":
                episodes = _everywhere(episodes, setting.mesh)
            params = state["params"]
            tx = make_optimizer(self.optimizer, params["transformer"], fine)
            done = outer_updates(
                transformer,
                tx,
                params["transformer"],
                state["opt"],
                episodes,
                rng.stream(key, "dropout"),
                self.updates,
            )
            new = {
                **state,
                "step": state["step"] + 1,
                "params": {**params, "transformer": done.params},
                "batch_stats": {"encoder": fitted.stats},
                "opt": done.opt,
            }
            scalars = {
                "loss": jnp.mean(done.losses),
                "support_loss": jnp.mean(fitted.losses[:, -1]),
                "grad_norm": done.grad_norm,
                "lr": rate(state["step"] * each),
                "empty_queries": jnp.mean(empty),
                "empty_supports": jnp.mean(_empty_supports(batch)),
            }
            return new, scalars

        segment = self._segmenter(encoder)
        return Task(
            init=init,
            train_step=train_step,
            eval_step=lambda state, batch: _eval_step(segment, self.control, state, batch),
            summarize=judging.summarize,
            headline=f"{self.select_on}_miou",
            figures=figures.report(setting.data, segment),
            samples=figures.SAMPLES,
            predict=figures.prediction(setting.data, segment),
            reads="images and masks",
            check_origin=lambda origin: checks.check_origin(setting.data, origin, self.pretrained),
            import_names=torch_names.TRANSFORMER,
            import_kept=(_ENCODER,),
        )

    def _fit(
        self,
        encoder: Encoder,
        state: State,
        batch: Batch,
        keys: Key,
        training: tuple[jax.Array, Key] | None = None,
    ) -> _Fitted:
        """Features of the episodes, and a classifier of each support; keys [E].

        training: whether an epoch begins, and the key of its first support's dropout.
        """
        params, stats = state["params"]["encoder"], state["batch_stats"]["encoder"]
        images, masks, first = batch["support"], batch["support_mask"], None
        if training is not None and self.reproduce_first_step_train_mode:
            if images.shape[1] == 1:
                images, masks = (jnp.repeat(x, 2, axis=1) for x in (images, masks))
            begins, key = training
            first, stats = ops.first_support_in_training_mode(
                encoder, params, stats, images[0], key, begins
            )
        support, query = ops.encode_episodes(encoder, params, stats, images, batch["query"])
        if first is not None:
            support = support.at[0].set(jnp.where(begins, first, support[0]))
        if self.inner.normalize:
            support = ops.unit(support)
        start = jax.vmap(ops.initial_classifier, (0, None))(keys, support.shape[-1])

        def fit(features: jax.Array, masks: jax.Array, init: jax.Array) -> Any:
            return ops.fit_binary_classifier(
                features, masks, init, lr=self.inner.lr, steps=self.inner.steps
            )

        weights, losses = jax.vmap(fit)(support, masks, start)
        return _Fitted(weights, losses, query, stats)

    def _segmenter(self, encoder: Encoder) -> figures.Segment:
        transformer = self.transformer

        def segment(state: State, batch: Batch) -> ops.Segmented:
            key = rng.stream(jax.random.key(self.eval_seed), "classifier")
            keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(batch["episode"])
            fitted = self._fit(encoder, state, batch, keys)
            params, size = state["params"]["transformer"], batch["query_mask"].shape[1:]

            def adapted(seen: jax.Array) -> jax.Array:
                rows = transformer(params, fitted.weights, seen)
                return ops.classify(rows, fitted.features, size)

            return ops.Segmented(
                support_only=ops.classify(fitted.weights, fitted.features, size),
                adapted=adapted(fitted.features),
                other_query=lambda: adapted(jnp.roll(fitted.features, 1, axis=0)),
                attention=lambda: transformer.attention(params, fitted.weights, fitted.features),
            )

        return segment


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Fitted:
    """weights [E, 2, D], losses [E, steps], features [E, h, w, D] of the queries; stats: running
    statistics of the encoder, as they were but for `reproduce_first_step_train_mode`."""

    weights: jax.Array
    losses: jax.Array
    features: jax.Array
    stats: Any


def _everywhere(episodes: Episodes, mesh: Any) -> Episodes:
    """A copy on every device, gathered once instead of in every one of the updates."""
    if mesh is None or max(dict(mesh.shape).values()) == 1:
        return episodes
    return jax.lax.with_sharding_constraint(episodes, NamedSharding(mesh, P()))


def _empty_supports(batch: Batch) -> jax.Array:
    """[E] bool: no pixel of the object in any support."""
    return ~jnp.any(batch["support_mask"] == 1, axis=(1, 2, 3))


def _eval_step(
    segment: figures.Segment, control: bool, state: State, batch: Batch
) -> dict[str, Any]:
    found, mask = segment(state, batch), batch["query_mask"]
    truth = batch.get("original_mask", mask)
    rows = {"class": batch["class"], "run": batch["run"]}
    maps = {judging.ADAPTED: found.adapted, judging.SUPPORT_ONLY: found.support_only}
    if control:
        maps[judging.OTHER_QUERY] = found.other_query()
    for name, logits in maps.items():
        if "original_mask" in batch:
            content, size = batch["content"], batch["original_size"]
            logits = judging.at_original(logits, content, size, truth.shape[-1])
        rows[f"{name}/both"], rows[f"{name}/either"] = judging.overlap(
            jnp.argmax(logits, axis=-1), truth
        )
    losses = pixel_cross_entropy(found.adapted, mask)
    rows["loss"] = jax.vmap(weighted_mean)(losses, mask)
    rows["empty_query"] = ~jnp.any(mask == 1, axis=(1, 2))
    rows["empty_support"] = _empty_supports(batch)
    return {"episodes": Concat.of(rows, batch.get("mask"))}
