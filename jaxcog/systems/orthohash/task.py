"""Supervised hashing with one loss (NeurIPS 2021): training and judging by retrieval."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.metrics.retrieval import Ties
from jaxcog.metrics.state import Concat, Mean
from jaxcog.nn.resnet import DEPTHS
from jaxcog.optim import Optimizer, Rule, Schedule, gradient_step, initial_state
from jaxcog.systems.orthohash import (
    baselines,
    figures,
    judging,
    losses,
    model,
    predicting,
    torch_names,
)
from jaxcog.systems.orthohash.codebooks import CodebookKind, choose_codebook, make_codebook
from jaxcog.systems.orthohash.retrieval import pack_bits
from jaxcog.task import Batch, Key, Setting, State, Task, judged


def _adam() -> Optimizer:
    return Optimizer(
        name="adam",
        lr=1e-4,
        weight_decay=5e-4,
        schedule=Schedule("multistep", per="epoch", at=("80 epochs",)),
        rules=(Rule(r"^(features_|fc_|backbone)", lr=0.1),),
    )


@dataclasses.dataclass(frozen=True)
class Hashing:
    """K-bit codes from images or descriptors; the defaults are the paper's for AlexNet.

    Batches: "image" [B, H, W, C] float32, normalised, or "feature" [B, D] float32; "label" [B]
    int32 or multi-hot [B, C] float32. Evaluation splits "query" and "database".

    network: "alexnet", "resnet" (of `depth`), "mlp" (of `widths`), "feature" (the hash layer alone,
      on descriptors). dropout, fc_width: AlexNet's. frozen_norm: the ResNet's batch norms keep
      their running statistics, as in the authors' framework.
    codebook: see `codebooks`; `codebook_seed` draws it, independently of the run's seed.
    scale: s of the loss; None is sqrt(num_bits), the paper's, and "log_classes" its supplement's
      sqrt(2) log(C - 1). The official code has 8 throughout.
    multi_label: multi-hot labels are learned as a set. Without it a multi-hot row counts as its
      first positive class, as the official code does on MS-COCO.
    use_bn: batch norm on the codes; without it the hash layer has a bias.
    loss: another one is a baseline of the paper, with its own published hyperparameters; the fields
      of scale, margin and multi_label_loss are the paper's loss's alone. See `baselines`.
    quantization: weight of a quantization term, of `quantization_kind`.
    map_at: R of the headline metric "mAP@R"; None: "mAP@all".
    ties: how items at equal distance are ordered: as in the database ("stable"), in one random
      order of it ("random": the official code leaves the order open and advises to shuffle the
      database), or averaged over all orders ("expected").
    protocol: what counts as relevant: a common label ("category"), the database's landmark lists
      ("landmarks", GLDv2) or its easy, hard and junk images ("revisited", Oxford and Paris).
    recalibrate: judge with hash batch-norm means taken anew from the database (domain shift).
    """

    network: model.NetworkName = "alexnet"
    depth: int = 50
    widths: tuple[int, ...] = (256, 256)
    fc_width: int = 4096
    dropout: float = 0.5
    frozen_norm: bool = True
    num_bits: int = 64
    use_bn: bool = True
    codebook: CodebookKind = "bernoulli"
    codebook_seed: int = 0
    loss: Literal["orthohash"] | baselines.BaselineName = "orthohash"
    scale: float | Literal["log_classes"] | None = None
    margin: float = 0.2
    margin_type: losses.MarginType = "cos"
    multi_label: bool = False
    multi_label_loss: losses.MultiLabelLoss = "label_smoothing"
    quantization: float = 0.0
    quantization_kind: losses.QuantizationKind = "cs"
    map_at: int | None = 1000
    ties: Ties = "stable"
    protocol: judging.Protocol = "category"
    recalibrate: bool = False
    optimizer: Optimizer = dataclasses.field(default_factory=_adam)

    def __post_init__(self) -> None:
        if self.num_bits < 2:
            raise ConfigError(f"task.num_bits={self.num_bits}: codes need at least 2 bits")
        if isinstance(self.scale, (int, float)) and not self.scale > 0:
            raise ConfigError(f"task.scale={self.scale}: must be positive, or None for sqrt(bits)")
        highest = math.pi if self.margin_type == "arc" else 2
        if not 0 <= self.margin < highest:
            raise ConfigError(
                f"task.margin={self.margin}: at least 0, and below {highest:.3g} for "
                f'margin_type="{self.margin_type}"'
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"task.dropout={self.dropout}: a probability, at least 0, below 1")
        if self.quantization < 0:
            raise ConfigError(f"task.quantization={self.quantization}: a weight, not negative")
        if self.map_at is not None and self.map_at < 1:
            raise ConfigError(f"task.map_at={self.map_at}: at least 1, or None for all")
        if self.network == "resnet" and self.depth not in DEPTHS:
            raise ConfigError(f"task.depth={self.depth}: one of {DEPTHS}")
        if self.codebook_seed < 0:
            raise ConfigError(f"task.codebook_seed={self.codebook_seed}: not negative")

    def scale_for(self, classes: int) -> float:
        """s of the loss."""
        if self.scale is None:
            return math.sqrt(self.num_bits)
        if self.scale == "log_classes":
            return math.sqrt(2) * math.log(classes - 1)
        return self.scale

    def build(self, setting: Setting) -> Task:
        """The pure functions.

        Raises ConfigError where the data does not fit, or has more classes than codes exist. Warns
        where the codebook cannot be built as asked for, and says which one is used.
        """
        entry, classes = _check_data(self, setting)
        _, note = choose_codebook(self.codebook, classes, self.num_bits)
        if note:
            warnings.warn(note, stacklevel=2)
        network = self.architecture(classes, setting.dtype)
        shape = (1, *setting.data.element[entry].shape)

        def init(key: Key) -> State:
            example = jnp.zeros(shape, jnp.float32)
            params, stats = model.init(network, rng.stream(key, "init"), example)
            book = make_codebook(self.codebook, self.codebook_seed, classes, self.num_bits)
            return initial_state(params, self.optimizer, setting, batch_stats=stats, codebook=book)

        def loss(params: Any, state: State, batch: Batch, key: Key) -> Any:
            encoded = model.encode(
                network,
                params,
                state["batch_stats"],
                batch[entry],
                train=True,
                dropout_key=rng.stream(key, "dropout"),
            )
            codes, book = encoded.codes, state["codebook"]
            value, scalars = objective(
                self,
                params,
                codes,
                book,
                batch["label"],
                key=rng.stream(key, "bits"),
                step=state["step"],
            )
            return value, ({"batch_stats": encoded.batch_stats}, scalars)

        size = setting.data.element["image"].shape if entry == "image" else None
        encode = _encoder(network)
        return Task(
            init=init,
            train_step=gradient_step(loss, self.optimizer, setting),
            eval_step=_eval_step(self, network, entry),
            summarize=lambda results: judging.summarize(
                results,
                num_bits=self.num_bits,
                at=self.map_at,
                protocol=self.protocol,
                facts=setting.data.facts,
                ties=self.ties,
            ),
            headline=judging.headline(self.protocol, self.map_at),
            partition=_partition(self, setting, classes),
            figures=figures.report(setting.data, self.num_bits, self.protocol),
            predict=None
            if size is None
            else predicting.prediction(setting.data, encode, _encoding_variables, size),
            reads="images and indexes",
            import_names=torch_names.TABLES.get(self.network),
            import_parts=("params", "batch_stats", "codebook"),
        )

    def architecture(self, classes: int, dtype: Any = jnp.float32) -> model.Architecture:
        """The network; a classifier on the codes belongs to it for some of the baselines only."""
        return model.Architecture(
            network=self.network,
            num_bits=self.num_bits,
            use_bn=self.use_bn,
            depth=self.depth,
            frozen_norm=self.frozen_norm,
            dropout=self.dropout,
            widths=self.widths,
            fc_width=self.fc_width,
            classes=classes if self.loss in baselines.CLASSIFIED else 0,
            dtype=dtype,
        )


def objective(
    config: Hashing,
    params: Any,
    codes: jax.Array,
    codebook: jax.Array,
    labels: jax.Array,
    *,
    key: Key | None = None,
    step: jax.Array | int = 0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The training loss of continuous codes [B, K], and what is logged beside it.

    key, step: for baselines that draw bits, or change in training.
    """
    learned = labels
    if labels.ndim == 2 and not config.multi_label:
        learned = jnp.argmax(labels > 0, axis=1)
    if config.loss == "orthohash":
        value = losses.orthohash_loss(
            losses.cosine_logits(codes, codebook),
            learned,
            scale=config.scale_for(codebook.shape[0]),
            margin=config.margin,
            margin_type=config.margin_type,
            multi_label=config.multi_label,
            multi_label_loss=config.multi_label_loss,
        )
    else:
        value = baselines.baseline_loss(
            config.loss,
            codes,
            learned,
            codebook=codebook,
            classify=lambda codes: model.classify(params, codes),
            key=key,
            step=step,
        )
    scalars = {
        "quantization_cosine": 1 - losses.quantization_error(codes),
        "bit_imbalance": losses.bit_balance(codes),
    }
    logits = _class_logits(config.loss, params, codes, codebook)
    if logits is not None:
        scalars["accuracy"] = jnp.mean(_is_right(jnp.argmax(logits, axis=1), labels))
    if config.quantization:
        error = losses.quantization_error(codes, config.quantization_kind)
        value = value + config.quantization * error
    return value, scalars


def _class_logits(
    loss: str, params: Any, codes: jax.Array, codebook: jax.Array
) -> jax.Array | None:
    """Logits [B, C] by which codes [B, K] are classified; None for losses that know only pairs."""
    if loss == "cross_entropy":
        return model.classify(params, codes)
    if loss in baselines.CLASSIFIED:
        return model.classify(params, jnp.sign(codes))
    if loss == "orthohash" or loss in baselines.TARGETED:
        return losses.cosine_logits(codes, codebook)
    return None


def _is_right(predicted: jax.Array, labels: jax.Array) -> jax.Array:
    """[B] float32: whether the predicted class is the label, or one of them."""
    if labels.ndim == 1:
        return (predicted == labels).astype(jnp.float32)
    chosen = jnp.take_along_axis(labels, predicted[:, None], axis=1)[:, 0]
    return (chosen > 0).astype(jnp.float32)


def _check_data(config: Hashing, setting: Setting) -> tuple[str, int]:
    """(the entry of a batch that the network reads, number of classes)."""
    element = setting.data.element
    entry = "feature" if "feature" in element else "image"
    if entry not in element or "label" not in element:
        raise ConfigError(
            'orthohash needs "image" or "feature", and "label", in each example; the data has '
            f"{', '.join(sorted(element))}: choose a retrieval dataset"
        )
    if config.network in ("alexnet", "resnet") and entry != "image":
        raise ConfigError(
            f'task.network="{config.network}" reads images, the data has only "feature": use '
            '"feature" or "mlp"'
        )
    classes = setting.data.num_classes or int(setting.data.facts.get("num_classes", 0))
    if classes < 2:
        raise ConfigError(
            f"orthohash learns from classes, the data names {classes}: choose another"
        )
    label = element["label"].shape
    if label not in ((), (classes,)):
        raise ConfigError(
            f"orthohash: labels of shape {list(label)} for {classes} classes: they must be class "
            f"indices [] or multi-hot [{classes}]"
        )
    if config.scale == "log_classes" and classes < 3:
        raise ConfigError('task.scale="log_classes" is 0 for 2 classes: give a number')
    if config.multi_label and label == ():
        raise ConfigError("task.multi_label needs multi-hot labels; this data has class indices")
    return entry, classes


def _partition(config: Hashing, setting: Setting, classes: int) -> tuple[tuple[str, P], ...]:
    """Classes of a large codebook over the model axis, where they divide."""
    shards = 1 if setting.mesh is None else dict(setting.mesh.shape).get("model", 1)
    if shards == 1:
        return ()
    rules = [("^codebook$", P("model"))] if classes % shards == 0 else []
    if config.network == "alexnet" and config.fc_width % shards == 0:
        rules.append((r"^params/fc_[14]/kernel$", P(None, "model")))
    return tuple(rules)


def _weights(state: State) -> Any:
    return judged(state)


def _encoding_variables(state: State) -> Any:
    """What of a State makes the codes."""
    return {"params": _weights(state), "batch_stats": state["batch_stats"]}


def _encoder(network: model.Architecture) -> predicting.Encode:
    @jax.jit
    def encode(state: State, x: jax.Array) -> jax.Array:
        return model.encode(network, _weights(state), state["batch_stats"], x, train=False).codes

    return encode


def _eval_step(config: Hashing, network: model.Architecture, entry: str) -> Any:
    def eval_step(state: State, batch: Batch) -> dict[str, Any]:
        params = _weights(state)
        encoded = model.encode(network, params, state["batch_stats"], batch[entry], train=False)
        codes, mask = encoded.codes, batch.get("mask")
        signs = jnp.sign(codes)
        cosine = jnp.sum(losses.unit(codes) * losses.unit(signs), axis=1)
        found = {"quantization_cosine": Mean.of(cosine, mask)}
        logits = _class_logits(config.loss, params, codes, state["codebook"])
        if logits is not None:
            right = _is_right(jnp.argmax(logits, axis=1), batch["label"])
            found["accuracy"] = Mean.of(right, mask)
        if config.loss not in baselines.CLASSIFIED and logits is not None:
            nearest = jnp.argmax(losses.cosine_logits(signs, state["codebook"]), axis=1)
            found["codebook_accuracy"] = Mean.of(_is_right(nearest, batch["label"]), mask)
        kept = codes if config.recalibrate else pack_bits(codes)
        return {"rows": Concat.of({"codes": kept, "label": batch["label"]}, mask), **found}

    return eval_step
