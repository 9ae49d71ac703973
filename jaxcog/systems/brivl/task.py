"""Pre-training on weakly correlated pairs by cross-modal momentum contrast (sheet 4 and 5)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.losses.contrastive import AxisName, axis_index, gathered, unit
from jaxcog.metrics.state import Concat, Mean
from jaxcog.nn.placement import whole_parameters
from jaxcog.nn.queue import check_queue_size, make_queue, momentum_update, random_unit_rows
from jaxcog.optim import Optimizer, Rule, Schedule, gradient_step, initial_state
from jaxcog.systems.brivl import figures, judging, losses, model, ops, pictures, torch_names
from jaxcog.systems.brivl.architecture import Architecture, frozen_patterns, without_trunk
from jaxcog.systems.brivl.imagination import Inversion
from jaxcog.task import Batch, Key, Setting, State, Task

Tree = Any
Contrast = Literal["queue", "batch+queue", "in_batch", "sigmoid"]

_BATCH = ("data", "fsdp")


def adam() -> Optimizer:
    """The paper's, with a schedule of ours: it states none."""
    return Optimizer(
        name="adam",
        lr=1e-4,
        weight_decay=1e-5,
        schedule=Schedule("cosine", warmup="2000 steps"),
    )


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Two towers learned from image-text pairs; the defaults are the paper's.

    Batches: "image" [B, S, S, 3] uint8 (or float32 in [0, 1]); "ids" [B, L] int32, zero-padded;
    optionally "boxes" [B, R, 4] float32 with "roi_mask" [B, R] bool, and "pair" [B] int32, a hash
    of the pair. Evaluation: also "group" [B] int32, the image behind a row where several texts
    share one, or "label" [B] int32 beside the data's fact "class_ids" [C, prompts, L].

    contrast: "queue" and "batch+queue" are momentum contrast (see `losses.momentum_contrast`);
      "in_batch" and "sigmoid" need no momentum towers and no queue.
    momentum: must keep 1 / (1 - momentum) well above the number of batches in the queue (20 times
      it, by the sheet's measurements), or nothing is learned while the loss falls.
    mask_duplicates: pairs of one hash are not each other's negatives.
    share_trunk: compute frozen beginnings once for both kinds of towers. Exact but for batch norm
      statistics and dropout, which are then shared.
    augment: colour jitter and random grey, on the device.
    noise: most deviation of the noise of brightness added to an image, in [0, 1]; each has its own.
      Towers that bear it look at shapes, so that what they imagine can be seen by a person.
    block: columns of the logits held at once.
    inversion: how `predict` makes pictures from texts.
    """

    model: Architecture = dataclasses.field(default_factory=Architecture)
    contrast: Contrast = "queue"
    queue_size: int = 13440
    momentum: float = 0.99
    temperature: float = losses.TEMPERATURE
    mask_duplicates: bool = False
    share_trunk: bool = False
    augment: bool = True
    noise: float = 0.0
    block: int = 4096
    inversion: Inversion = dataclasses.field(default_factory=Inversion)
    optimizer: Optimizer = dataclasses.field(default_factory=adam)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"task.momentum={self.momentum}: at least 0, below 1")
        if not self.temperature > 0:
            raise ConfigError(f"task.temperature={self.temperature}: must be positive")
        if self.with_queue and self.optimizer.accumulate > 1:
            raise ConfigError(
                f"task.optimizer.accumulate={self.optimizer.accumulate}: a queue takes whole "
                'batches; use 1, or task.contrast="in_batch"'
            )

    @property
    def with_queue(self) -> bool:
        return self.contrast in ("queue", "batch+queue")

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit the model."""
        check_data(self.model, setting)
        pictures.check_likeness(setting.data, self.inversion)
        if self.with_queue:
            check_queue_size(self.queue_size, setting.batch_size)
        optimizer = with_freeze(self.optimizer, self.model)
        return Task(
            init=lambda key: _init(self, setting, optimizer, key),
            train_step=gradient_step(_loss(self, setting), optimizer, setting),
            eval_step=_eval_step(self, setting),
            summarize=judging.summarize,
            headline=judging.headline(setting.data),
            partition=partition(self.model, setting) + _queue_partition(self),
            figures=figures.report(setting.data, self.model, self.inversion),
            predict=figures.prediction(setting.data, self.model, self.inversion),
            reads="images and sentences",
            import_names=torch_names.TOWERS,
        )


def check_data(architecture: Architecture, setting: Setting) -> None:
    """Raises ConfigError where images or texts are of another size than the model's."""
    element = setting.data.element
    missing = [name for name in ("image", "ids") if name not in element]
    if missing:
        raise ConfigError(
            f"brivl needs {' and '.join(missing)} in each example; the data has "
            f"{', '.join(sorted(element))}: choose image-text data"
        )
    size = architecture.image_size
    if element["image"].shape != (size, size, 3):
        raise ConfigError(
            f"task.model.image_size={size}, the data's images are {element['image'].shape}: set "
            "data.size to the same"
        )
    check_text(architecture, setting)


def check_text(architecture: Architecture, setting: Setting) -> None:
    """Raises ConfigError where texts are longer, or of more words, than the model's."""
    ids = setting.data.element["ids"]
    if ids.shape[-1] != architecture.text_length:
        raise ConfigError(
            f"task.model.text_length={architecture.text_length}, the data's texts have "
            f"{ids.shape[-1]} tokens: set data.text_length to the same"
        )
    vocab = setting.data.facts.get("vocab", architecture.bert.vocab)
    if vocab != architecture.bert.vocab:
        raise ConfigError(
            f"the data's vocabulary has {vocab} tokens and task.model.bert.vocab="
            f"{architecture.bert.vocab}: give data.vocabulary the vocab.txt that the text encoder "
            f"was trained with, or set task.model.bert.vocab={vocab} to train a new one"
        )


def with_freeze(optimizer: Optimizer, architecture: Architecture) -> Optimizer:
    """The optimizer, with what the freeze policy leaves alone."""
    frozen = tuple(Rule(p, frozen=True) for p in frozen_patterns(architecture))
    return dataclasses.replace(optimizer, rules=(*frozen, *optimizer.rules))


def partition(architecture: Architecture, setting: Setting) -> tuple[tuple[str, P], ...]:
    """Layers split over the model axis by heads and hidden units, where there is such an axis."""
    shards = 1 if setting.mesh is None else dict(setting.mesh.shape).get("model", 1)
    if shards == 1:
        return ()
    wrong = {
        name: size
        for name, size in (
            ("fusion_heads", architecture.fusion_heads),
            ("fusion_ff", architecture.fusion_ff),
            ("bert.heads", architecture.bert.heads),
        )
        if size % shards
    }
    if wrong:
        raise ConfigError(f"mesh.model={shards} does not divide task.model's {wrong}")
    return (
        ("/layer_[0-9]+/(query|key|value|linear1)/kernel$", P("fsdp", "model")),
        ("/layer_[0-9]+/(query|key|value|linear1)/bias$", P("model")),
        ("/layer_[0-9]+/(out|linear2)/kernel$", P("model", "fsdp")),
    )


def _queue_partition(config: Pretrain) -> tuple[tuple[str, P], ...]:
    return ((r"^queue/(image|text|pair)$", P(None, _BATCH)),) if config.with_queue else ()


def _init(config: Pretrain, setting: Setting, optimizer: Optimizer, key: Key) -> State:
    architecture = config.model
    params, stats = model.init_towers(rng.stream(key, "init"), architecture)
    extra: State = {"batch_stats": stats}
    if config.with_queue:
        momentum = without_trunk(params, architecture) if config.share_trunk else params
        copied = {"params": momentum, "batch_stats": stats}
        extra["momentum"] = jax.tree.map(jnp.copy, copied)
        entries: dict[str, jax.Array] = {
            name: random_unit_rows(
                rng.stream(key, f"queue {name}"), config.queue_size, architecture.embed_dim
            )
            for name in ("image", "text")
        }
        if config.mask_duplicates:
            entries["pair"] = jnp.full(config.queue_size, -1, jnp.int32)
        extra["queue"] = make_queue(entries, setting.batch_size)
    else:
        start = 10.0 if config.contrast == "sigmoid" else 1 / config.temperature
        bias = -10.0 if config.contrast == "sigmoid" else 0.0
        params = {**params, "logit": {"scale": jnp.log(start), "bias": jnp.asarray(bias)}}
    return initial_state(params, optimizer, setting, **extra)


def prepared(images: jax.Array) -> jax.Array:
    """uint8 (or [0, 1]) images as the towers want them."""
    return ops.normalise(ops.to_float(images))


def augmented(images: jax.Array, key: Key, config: Pretrain) -> jax.Array:
    """As `prepared`, changed at random as the config says."""
    x = ops.to_float(images)
    if config.augment:
        keys = jax.random.split(rng.stream(key, "augment"), x.shape[0])
        x = jax.vmap(ops.augment_image)(keys, x)
    x = ops.normalise(x)
    if config.noise:
        keys = jax.random.split(rng.stream(key, "noise"))
        most = jax.random.uniform(keys[0], (x.shape[0], 1, 1, 1))
        x = ops.add_noise(keys[1], x, config.noise * most)
    return x


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """image, text: [B, D] unit embeddings; stats: new batch statistics; trunks: of both towers."""

    image: jax.Array
    text: jax.Array
    stats: Tree
    trunks: Any


def _encode(
    config: Pretrain,
    params: Tree,
    stats: Tree,
    images: jax.Array,
    batch: Batch,
    key: Key,
    dtype: Any,
    trunks: Any = None,
) -> _Encoded:
    """Both towers in training; `trunks`: outputs of the frozen beginnings, where known."""
    architecture = config.model
    own = stats.get("image", {})
    image_key, text_key = rng.stream(key, "image"), rng.stream(key, "text")
    if trunks is None:
        trunks = (
            model.image_trunk(params["image"], own, images, architecture, train=True, dtype=dtype),
            model.text_trunk(params["text"], batch["ids"], architecture, key=text_key, dtype=dtype),
        )
    (x, changed, _), words = trunks
    image = model.image_head(
        params["image"],
        own,
        x,
        architecture,
        boxes=batch.get("boxes"),
        roi_mask=batch.get("roi_mask"),
        train=True,
        key=image_key,
        dtype=dtype,
    )
    mask = batch["ids"] != architecture.bert.pad_id
    text = model.text_head(params["text"], words, mask, architecture, key=text_key, dtype=dtype)
    new = {**changed, **image.stats.get("backbone", {})}
    stats = {"image": {"backbone": new}} if new else {}
    return _Encoded(unit(image.embedding), unit(text.embedding), stats, trunks)


def _loss(config: Pretrain, setting: Setting) -> Any:
    contrast = _contrast(config, setting.mesh)

    def loss(params: Tree, state: State, batch: Batch, key: Key) -> Any:
        images = augmented(batch["image"], key, config)
        pair = batch["pair"] if config.mask_duplicates else None
        query = _encode(
            config,
            params,
            state["batch_stats"],
            images,
            batch,
            rng.stream(key, "query"),
            setting.dtype,
        )
        changed: State = {"batch_stats": query.stats}
        if not config.with_queue:
            values, scalars = contrast(query.image, query.text, params["logit"], pair)
            return jnp.mean(values), (changed, _means(scalars))
        # At the first update the copies are made: after an import, or the start of a later stage.
        momentum = jnp.where(state["step"] == 0, 0.0, config.momentum)
        seen = without_trunk(params, config.model) if config.share_trunk else params
        slow = momentum_update(state["momentum"]["params"], seen, momentum)
        keys = _encode(
            config,
            whole_parameters(slow, setting.mesh),
            state["momentum"]["batch_stats"],
            images,
            batch,
            rng.stream(key, "key"),
            setting.dtype,
            query.trunks if config.share_trunk else None,
        )
        changed["momentum"] = {"params": slow, "batch_stats": keys.stats}
        values, changed["queue"], scalars = contrast(
            query.image, query.text, keys.image, keys.text, state["queue"], pair
        )
        changed = jax.tree.map(jax.lax.stop_gradient, changed)
        return jnp.mean(values), (changed, _means(scalars))

    return loss


def _means(scalars: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.mean(value) for name, value in scalars.items()}


def _contrast(config: Pretrain, mesh: Any) -> Any:
    """The loss of unit embeddings, by device where the batch is split over several."""
    shards = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in _BATCH)
    axis_name: AxisName = _BATCH if shards > 1 else None

    def queued(image: Any, text: Any, image_key: Any, text_key: Any, queue: Any, pair: Any) -> Any:
        return losses.momentum_contrast(
            image,
            text,
            image_key,
            text_key,
            queue,
            temperature=config.temperature,
            negatives="batch+queue" if config.contrast == "batch+queue" else "queue",
            pair=pair,
            block=config.block,
            axis_name=axis_name,
        )

    def plain(image: Any, text: Any, logit: Any, pair: Any) -> Any:
        return losses.in_batch(
            image,
            text,
            kind="sigmoid" if config.contrast == "sigmoid" else "in_batch",
            scale=jnp.exp(logit["scale"]),
            bias=logit["bias"],
            pair=pair,
            block=config.block,
            axis_name=axis_name,
        )

    if axis_name is None:
        return queued if config.with_queue else plain
    rows = P(_BATCH)
    pairs = rows if config.mask_duplicates else None
    if not config.with_queue:
        return jax.shard_map(
            plain, mesh=mesh, in_specs=(rows, rows, P(), pairs), out_specs=(rows, rows)
        )
    names = ("image", "text", "pair") if config.mask_duplicates else ("image", "text")
    slots = {**{name: P(None, _BATCH) for name in names}, "slot": P()}
    return jax.shard_map(
        queued,
        mesh=mesh,
        in_specs=(rows, rows, rows, rows, slots, pairs),
        out_specs=(rows, slots, rows),
    )


def _eval_step(config: Pretrain, setting: Setting) -> Any:
    classes = setting.data.facts.get("class_ids")

    def eval_step(state: State, batch: Batch) -> dict[str, Any]:
        return evaluate_pairs(
            state["params"], state["batch_stats"], batch, config.model, classes, setting.dtype
        )

    return eval_step


def evaluate_pairs(
    params: Tree,
    stats: Tree,
    batch: Batch,
    architecture: Architecture,
    classes: Any,
    dtype: Any,
) -> dict[str, Any]:
    """Metric states of one batch: rows for retrieval, and whether the nearest class is right."""
    mask = batch.get("mask")
    image = model.encode_image(
        params,
        stats,
        prepared(batch["image"]),
        architecture,
        boxes=batch.get("boxes"),
        roi_mask=batch.get("roi_mask"),
        dtype=dtype,
    )
    found: dict[str, Any] = {}
    if "ids" in batch:
        text = model.encode_text(params, batch["ids"], architecture, dtype=dtype)
        rows = {"image": image, "text": text}
        rows |= {name: batch[name] for name in ("group", "label") if name in batch}
        found["pairs"] = Concat.of(rows, mask)
    if classes is not None and "label" in batch:
        names = model.class_embeddings(params, jnp.asarray(classes), architecture, dtype)
        nearest = jnp.argmax(image @ names.T, axis=1)
        found["zero_shot"] = Mean.of(nearest == batch["label"], mask)
    return found


def shuffled(arrays: tuple[jax.Array, ...], order: jax.Array, axis_name: str) -> tuple[Any, ...]:
    """This device's rows of a batch that is permuted over all devices (shuffled batch norm).

    order: [N], a permutation of the whole batch, the same on all devices.
    """
    own = _own(order, arrays[0].shape[0], axis_name)
    return tuple(jnp.take(x, own, axis=0) for x in gathered(arrays, axis_name))


def unshuffled(x: jax.Array, order: jax.Array, axis_name: str) -> jax.Array:
    """The inverse of `shuffled`, of what was computed from its rows."""
    own = _own(jnp.argsort(order), x.shape[0], axis_name)
    return jnp.take(gathered(x, axis_name), own, axis=0)


def _own(order: jax.Array, rows: int, axis_name: str) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(order, axis_index(axis_name) * rows, rows)
