"""Scene parsing with global aggregation and local distribution (TIP 2021): training and judging."""

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
from jaxcog.losses.segmentation import CITYSCAPES_WEIGHTS
from jaxcog.metrics import segmentation as metrics
from jaxcog.metrics.state import Confusion
from jaxcog.nn.resnet_dilated import Place
from jaxcog.optim import Optimizer, Schedule, gradient_step, initial_state
from jaxcog.systems.gald import figures
from jaxcog.systems.gald.inference import multiscale_logits
from jaxcog.systems.gald.losses import segmentation_loss
from jaxcog.systems.gald.model import STRIDES, Aggregation, HeadName, Network, TrunkName
from jaxcog.systems.gald.modules import MIN_SIDE
from jaxcog.systems.gald.pixels import Pixels, normalise
from jaxcog.systems.gald.torch_names import tables_for
from jaxcog.task import Batch, Key, Setting, State, Task, judged

_IMAGES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Loss:
    """OHEM cross-entropy of the main head and cross-entropy of the auxiliary one.

    per_images: hard pixels are chosen, and losses averaged, among so many images at a time; 1 is
      what 8 GPUs with one crop each did, on any mesh. None: the whole batch.
    class_weights: "cityscapes": the 19 weights of the official code. "none".
    rows: rows of full-size logits that exist at a time (per shard of the height); None: all.
    """

    ohem: bool = True
    thresh: float = 0.7
    min_kept: int = 100_000
    per_images: int | None = 1
    auxiliary_weight: float = 0.4
    class_weights: Literal["none", "cityscapes"] = "none"
    rows: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.thresh <= 1:
            raise ConfigError(f"task.loss.thresh={self.thresh}: a probability, from 0 to 1")
        if self.min_kept < 0 or self.auxiliary_weight < 0:
            raise ConfigError(
                f"task.loss: min_kept={self.min_kept} and auxiliary_weight="
                f"{self.auxiliary_weight} must not be negative"
            )
        for name in ("rows", "per_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"task.loss.{name}={value}: at least 1, or None")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a trained network is applied to whole images.

    tile: side of the sliding window; None: whole images. overlap: share of a window that the next
      one covers again. scales, flip: logits are averaged over them.
    absent: what a class counts in the mean that the test split never shows: "zero", or "skip".
    """

    tile: int | None = None
    overlap: float = 1 / 3
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    absent: Literal["zero", "skip"] = "zero"

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ConfigError(f"task.protocol.scales={self.scales}: at least one, all above 0")
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"task.protocol.overlap={self.overlap}: at least 0, below 1")
        if self.tile is not None and self.tile < 1:
            raise ConfigError(f"task.protocol.tile={self.tile}: a side in pixels, or None")


def _sgd() -> Optimizer:
    poly = Schedule(kind="poly", power=0.9)
    return Optimizer(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, schedule=poly)


@dataclasses.dataclass(frozen=True)
class Parsing:
    """Scene parsing; the defaults are those of GALD's released code for Cityscapes.

    Batches: "image" [B, H, W, 3] (uint8 RGB, or float with pixels="raw"), "label" [B, H, W] uint8
    (255 ignored), and "window" [B, 4] int32 where images are padded.

    trunk, head, aggregation, ... see `model.Network`; remat: whether bottlenecks and heads compute
    their activations again in the backward pass.
    pixels: see `pixels.normalise`; it belongs to the pretrained weights and to the checkpoint.
    """

    trunk: TrunkName = "resnet50"
    stem: Literal["deep", "plain"] = "deep"
    head: HeadName = "gald"
    aggregation: Aggregation = dataclasses.field(default_factory=Aggregation)
    width: int = 512
    distribute: bool = True
    mask_relu: bool = True
    downsample: bool = True
    block_residual: bool = True
    normalize_by_positions: bool = False
    concat: bool = False
    auxiliary: bool = True
    dropout: float = 0.1
    remat: bool = True
    pixels: Pixels = "bgr"
    loss: Loss = dataclasses.field(default_factory=Loss)
    protocol: Protocol = dataclasses.field(default_factory=Protocol)
    optimizer: Optimizer = dataclasses.field(default_factory=_sgd)

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"task.dropout={self.dropout}: a probability, at least 0, below 1")
        if self.width < 1:
            raise ConfigError(f"task.width={self.width}: channels, at least 1")
        if self.head in ("gald", "light") and self.trunk != "pixels":
            self.aggregation.make(self.width if self.head == "gald" else 24)
        if self.loss.auxiliary_weight and self.head == "light" and self.auxiliary:
            raise ConfigError('task.head="light" has no auxiliary head: set task.auxiliary=False')

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        shape = self._image_shape(setting)
        mesh = _Mesh(setting.mesh)
        network = self.network(setting.data.num_classes, setting.dtype, mesh)
        weights = CITYSCAPES_WEIGHTS if self.loss.class_weights == "cityscapes" else None

        def init(key: Key) -> State:
            params, stats = network.init(rng.stream(key, "init"), shape)
            return initial_state(params, self.optimizer, setting, batch_stats=stats)

        def loss(params: Any, state: State, batch: Batch, key: Key) -> Any:
            images = normalise(batch["image"], batch.get("window"), self.pixels)
            out = network.apply(
                params,
                state["batch_stats"],
                mesh.rows(images),
                train=True,
                key=rng.stream(key, "dropout"),
            )
            value = segmentation_loss(
                out.logits,
                out.auxiliary,
                batch["label"],
                auxiliary_weight=self.loss.auxiliary_weight,
                ohem=self.loss.ohem,
                thresh=self.loss.thresh,
                min_kept=self.loss.min_kept,
                per_images=self.loss.per_images,
                class_weights=weights,
                rows=self.loss.rows,
                shards=mesh.space,
            )
            return value, ({"batch_stats": out.batch_stats}, {})

        logits = self._logits(network)

        def eval_step(state: State, batch: Batch) -> dict[str, Any]:
            predicted = jnp.argmax(logits(state, batch), axis=-1)
            mask = batch.get("mask")
            counts = Confusion.of(predicted, batch["label"], network.num_classes, mask)
            return {"confusion": counts}

        spread = P(_IMAGES, "space") if mesh.space > 1 else None
        return Task(
            init=init,
            train_step=gradient_step(loss, self.optimizer, setting),
            eval_step=eval_step,
            summarize=self._summarize(setting),
            headline="miou",
            batch_partition={"image": spread, "label": spread} if spread else {},
            figures=figures.report(setting.data, self._with_and_without(network)),
            predict=figures.prediction(setting.data, logits, network.stride),
            import_names=tables_for(self.head),
        )

    def network(self, num_classes: int, dtype: Any = jnp.float32, mesh: Any = None) -> Network:
        """The network that this task trains; `mesh` is None on one device."""
        placed = mesh is not None and mesh.many
        return Network(
            num_classes=num_classes,
            trunk=self.trunk,
            head=self.head,
            aggregation=self.aggregation,
            stem=self.stem,
            width=self.width,
            distribute=self.distribute,
            mask_relu=self.mask_relu,
            downsample=self.downsample,
            block_residual=self.block_residual,
            normalize_by_positions=self.normalize_by_positions,
            concat=self.concat,
            auxiliary=self.auxiliary,
            dropout=self.dropout,
            remat=self.remat,
            dtype=dtype,
            place=mesh.rows if placed else None,
            whole=mesh.images if placed else None,
        )

    def _logits(self, network: Network) -> figures.Logits:
        protocol = self.protocol

        def logits(state: State, batch: Mapping[str, Any]) -> jax.Array:
            """[B, H, W, K] under the protocol."""
            params, stats = judged(state), state["batch_stats"]
            images = normalise(batch["image"], batch.get("window"), self.pixels)
            return multiscale_logits(
                lambda x: network.apply(params, stats, x, train=False).logits,
                images,
                protocol.scales,
                protocol.flip,
                tile=protocol.tile,
                overlap=protocol.overlap,
            )

        return logits

    def _with_and_without(self, network: Network) -> tuple[figures.Logits, figures.Logits | None]:
        """Logits, and those of the same weights with a mask that is even over the image."""
        uses_mask = self.distribute and self.head in ("gald", "light")
        if not uses_mask:
            return self._logits(network), None
        even = dataclasses.replace(network, even_mask=True)
        return self._logits(network), self._logits(even)

    def _summarize(self, setting: Setting) -> Any:
        stuff = list(setting.data.facts.get("stuff", ()))

        def summarize(results: Mapping[str, Any]) -> dict[str, float]:
            """The first split's metrics by their plain names, others' as "split/name". Percent."""
            summary = {}
            for i, (split, states) in enumerate(results.items()):
                counts = states["confusion"].compute()
                values = {
                    "miou": metrics.mean_iou(counts, self.protocol.absent),
                    "pixel_accuracy": metrics.pixel_accuracy(counts),
                    "mean_accuracy": metrics.mean_accuracy(counts),
                }
                if stuff:
                    values["stuff_iou"] = float(metrics.class_iou(counts)[stuff].mean())
                prefix = "" if i == 0 else f"{split}/"
                summary.update({f"{prefix}{name}": 100 * v for name, v in values.items()})
            return summary

        return summarize

    def _image_shape(self, setting: Setting) -> tuple[int, ...]:
        """Checks the data against the task; returns the shape of a training image."""
        element = setting.data.element
        image, label = element.get("image"), element.get("label")
        classes = setting.data.num_classes
        if image is None or label is None or len(image.shape) != 3 or len(label.shape) != 2:
            raise ConfigError(
                'gald needs "image" [H, W, 3] and "label" [H, W] in each example; the data has '
                f"{', '.join(sorted(element))}: choose a scene-parsing dataset"
            )
        if image.shape[:2] != label.shape:
            raise ConfigError(
                f"gald: images of {image.shape[:2]} with labels of {label.shape}: they must have "
                "one size"
            )
        if not 2 <= classes < 255:
            raise ConfigError(f"gald: the data names {classes} classes; 2 to 254 are possible")
        if self.loss.class_weights == "cityscapes" and classes != len(CITYSCAPES_WEIGHTS):
            raise ConfigError(
                f'task.loss.class_weights="cityscapes" is for 19 classes, the data has {classes}: '
                'set it to "none"'
            )
        images = self.loss.per_images
        if images is not None and setting.batch_size % images:
            raise ConfigError(
                f"task.loss.per_images={images} does not divide train.batch_size="
                f"{setting.batch_size}"
            )
        self._check_sides(image.shape)
        return image.shape

    def _check_sides(self, shape: tuple[int, ...]) -> None:
        if not (self.distribute and self.head in ("gald", "light")):
            return
        needed = STRIDES[self.trunk] * (MIN_SIDE - 1) + 1
        why = f"local distribution, which needs {needed} pixels a side with trunk {self.trunk}"
        if min(shape[:2]) < needed:
            raise ConfigError(
                f"images of {shape[0]} x {shape[1]} are too small for the {why}: set a larger "
                "data.crop, or task.distribute=False"
            )
        if self.protocol.tile is not None and self.protocol.tile < needed:
            raise ConfigError(
                f"task.protocol.tile={self.protocol.tile} is too small for the {why}: set a larger "
                "one, or None for whole images"
            )


class _Mesh:
    """Where activations live: batch over data and fsdp, rows over space. `mesh` may be None."""

    def __init__(self, mesh: Any):
        self.mesh = mesh
        sizes = dict(mesh.shape) if mesh is not None else {}
        self.space: int = sizes.get("space", 1)
        self.many: bool = max(sizes.values(), default=1) > 1

    def _pin(self, x: jax.Array, spec: P) -> jax.Array:
        if not self.many:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    @property
    def rows(self) -> Place:
        """[N, H, W, C]: the batch over data and fsdp, the height over space."""
        return lambda x: self._pin(x, P(_IMAGES, "space"))

    @property
    def images(self) -> Place:
        """[N, ...]: the batch over data and fsdp, everything else together."""
        return lambda x: self._pin(x, P(_IMAGES))
