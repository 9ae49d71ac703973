"""The networks: a trunk, a head with global and local context, an auxiliary head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.errors import ConfigError
from jaxcog.nn.conv_norm import AxisName, Conv, ConvNorm
from jaxcog.nn.precision import at_least_float32
from jaxcog.nn.resnet_dilated import DilatedResNet, Place
from jaxcog.systems.gald import aggregation as ga
from jaxcog.systems.gald.modules import AuxiliaryHead, ContextHead, DualGCN, GALDBlock

Layer = Callable[..., jax.Array]

AggregationName = Literal[
    "none", "mean", "cgnl", "non_local", "psp", "aspp", "a2", "em", "criss_cross", "oc", "asp_oc",
    "se",
]  # fmt: skip
TrunkName = Literal["resnet50", "resnet101", "resnet152", "tiny", "strided", "pixels"]
HeadName = Literal["gald", "dgcnet", "psp", "light"]

STRIDES = {"resnet50": 8, "resnet101": 8, "resnet152": 8, "tiny": 8, "strided": 2, "pixels": 1}


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """Which global aggregation, and its sizes; None stands for the usual share of the channels.

    name: "cgnl" is what the released code used; its scalar cancels (see README), so that
      "non_local" or "psp" are the better choice for new trainings.
    planes: inner channels. groups, use_scale: of cgnl. block: keys at a time in the non-local and
      object-context modules, None for the whole matrix. recurrence: of criss_cross. bases: of em.
    """

    name: AggregationName = "cgnl"
    planes: int | None = None
    groups: int = 8
    use_scale: bool = False
    block: int | None = 1024
    bins: tuple[int, ...] = (1, 2, 3, 6)
    dilations: tuple[int, ...] = (12, 24, 36)
    recurrence: int = 2
    bases: int = 64

    def __post_init__(self) -> None:
        if self.block is not None and self.block < 1:
            raise ConfigError(f"task.aggregation.block={self.block}: at least 1, or None")
        if self.recurrence < 1:
            raise ConfigError(f"task.aggregation.recurrence={self.recurrence}: at least 1")

    def make(
        self,
        channels: int,
        name: str | None = None,
        *,
        dtype: Any = jnp.float32,
        axis_name: AxisName = None,
        whole: Place | None = None,
    ) -> nn.Module:
        """The module for maps of `channels`, called `name` inside its parent."""
        planes = self.planes or max(channels // 2, 1)
        common = {"dtype": dtype, "name": name}
        normed = {**common, "axis_name": axis_name}
        attending = {**normed, "block": self.block, "whole": whole}
        match self.name:
            case "mean":
                return ga.GlobalMean(**normed)
            case "cgnl":
                if planes % self.groups or channels % self.groups:
                    raise ConfigError(
                        f"task.aggregation: {channels} channels and {planes} planes must divide "
                        f"by groups={self.groups}"
                    )
                return ga.SpatialCGNL(planes, self.groups, self.use_scale, **common)
            case "non_local":
                return ga.NonLocal(planes, self.block, whole=whole, **common)
            case "psp":
                return ga.PSP(channels, self.bins, **normed)
            case "aspp":
                return ga.ASPP(channels, planes, self.dilations, **normed)
            case "a2":
                return ga.DoubleAttention(planes, **common)
            case "em":
                return ga.EMAttention(self.bases, **normed)
            case "criss_cross":
                return ga.CrissCrossAttention(self.recurrence, **common)
            case "oc":
                return ga.ObjectContext(planes, planes, channels, **attending)
            case "asp_oc":
                return ga.ASPObjectContext(channels, planes, channels, self.dilations, **attending)
            case "se":
                return ga.Squeeze(**common)
        return ga.NoAggregation(name=name)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """logits, auxiliary: [N, h, w, K] float32 at the trunk's stride; auxiliary None in evaluation.

    mask: [N, h, w, C] of the local distribution if asked for, else None.
    """

    logits: jax.Array
    auxiliary: jax.Array | None
    batch_stats: Any
    mask: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Network:
    """Which network; `init` and `apply` are pure functions.

    trunk: a dilated ResNet at stride 8, or one of the small trunks of generated scenes: "tiny" (a
      narrow dilated ResNet), "strided" (two 3x3 convolutions, stride 2), "pixels" (one 1x1).
    stem: "deep" (three 3x3 convolutions) or "plain" (7x7, as torchvision's ImageNet weights).
    head: "gald", "dgcnet" or "psp" as published, "light": a context block and a classifier.
    distribute, mask_relu, downsample, block_residual, even_mask: see GALDBlock.
    concat: of the light head: the classifier also sees the block's input.
    auxiliary: whether there is an auxiliary head. auxiliary_relu: None means as published: not in
      DGCNet's.
    remat: recompute activations of bottlenecks and head in the backward pass.
    place: see DilatedResNet. whole: see aggregation.Whole.
    """

    num_classes: int
    trunk: TrunkName = "resnet50"
    head: HeadName = "gald"
    aggregation: Aggregation = dataclasses.field(default_factory=Aggregation)
    stem: Literal["deep", "plain"] = "deep"
    multi_grid: tuple[int, ...] | None = None
    width: int = 512
    distribute: bool = True
    mask_relu: bool = True
    downsample: bool = True
    block_residual: bool = True
    even_mask: bool = False
    normalize_by_positions: bool = False
    concat: bool = False
    auxiliary: bool = True
    auxiliary_relu: bool | None = None
    dropout: float = 0.1
    remat: bool = False
    dtype: Any = jnp.float32
    axis_name: AxisName = None
    place: Place | None = None
    whole: Place | None = None

    @property
    def stride(self) -> int:
        return STRIDES[self.trunk]

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> tuple[Any, Any]:
        """(params, batch_stats) as PyTorch would draw them; image_shape is H, W, 3."""
        module = _Net(dataclasses.replace(self, axis_name=None, remat=False))
        images = jnp.zeros((1, *image_shape), jnp.float32)
        # Auxiliary and main head alike must exist, hence train=True; nothing is normalised yet.
        variables = module.init({"params": key, "dropout": key}, images, train=True)
        return variables["params"], variables.get("batch_stats", {})

    def apply(
        self,
        params: Any,
        batch_stats: Any,
        images: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
        with_mask: bool = False,
    ) -> Output:
        """Runs the network.

        Args:
          params, batch_stats: from `init` or a checkpoint.
          images: [N, H, W, 3] float, normalised.
          train: batch norms use and update batch statistics, dropout acts, the auxiliary head runs.
          key: for dropout.
          with_mask: also return the local distribution's mask.
        """
        rngs = {"dropout": key} if key is not None else {}
        spec = self if key is not None or not train else dataclasses.replace(self, dropout=0.0)
        mutable = (["batch_stats"] if train else []) + (["intermediates"] if with_mask else [])
        out: Any = _Net(spec).apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=train,
            rngs=rngs,
            mutable=mutable or False,
        )
        (logits, auxiliary), changed = out if mutable else (out, {})
        stats: Any = changed.get("batch_stats", batch_stats)
        masks = jax.tree.leaves(changed.get("intermediates", {}))
        mask: Any = masks[0] if masks else None
        return Output(logits, auxiliary, stats, mask)

    def intermediates(self, params: Any, batch_stats: Any, images: jax.Array) -> dict[str, Any]:
        """Evaluation with what every submodule returned: {"trunk/layer1": ..., "logits": ...}.

        Keys are paths of variables; the trunk's maps stand under "trunk/stem", "trunk/layer1".
        """
        (logits, _), seen = _Net(self).apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=False,
            capture_intermediates=True,
            mutable=["intermediates"],
        )
        found: dict[str, Any] = {"logits": logits}
        for path, value in jax.tree_util.tree_leaves_with_path(seen["intermediates"]):
            names = [str(getattr(entry, "key", "")) for entry in path]
            found["/".join(name for name in names if name and name != "__call__")] = value
        return found


class _Net(nn.Module):
    spec: Network

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array | None]:
        spec = self.spec
        shared = {"dtype": spec.dtype, "axis_name": spec.axis_name}
        deep, middle = self._trunk(x, train)

        def run(head: nn.Module, y: jax.Array) -> jax.Array:
            return head(y, train=train)

        step = nn.remat(run) if spec.remat and train else run
        logits = step(_head(spec), deep)
        if not (train and spec.auxiliary):
            return logits, None
        relu = spec.head != "dgcnet" if spec.auxiliary_relu is None else spec.auxiliary_relu
        auxiliary = AuxiliaryHead(
            spec.num_classes, spec.width, relu, spec.dropout, name="aux", **shared
        )
        return logits, step(auxiliary, middle)

    def _trunk(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """(map of the last stage, map of the stage before)."""
        spec = self.spec
        shared = {"dtype": spec.dtype, "axis_name": spec.axis_name}
        if spec.trunk == "pixels":
            y = ConvNorm(32, name="trunk", **shared)(x, train=train)
            return y, y
        if spec.trunk == "strided":
            y = ConvNorm(24, 3, stride=2, name="trunk1", **shared)(x, train=train)
            return ConvNorm(24, 3, name="trunk2", **shared)(y, train=train), y
        tiny = spec.trunk == "tiny"
        grid = spec.multi_grid or ((1, 1, 1) if spec.head == "psp" else (1, 2, 4))
        maps = DilatedResNet(
            50 if tiny else int(spec.trunk.removeprefix("resnet")),
            spec.stem,
            grid,
            width=8 if tiny else 64,
            blocks=(1, 1, 1, 1) if tiny else None,
            remat=spec.remat,
            place=spec.place,
            name="trunk",
            **shared,
        )(x, train=train)
        return maps["layer4"], maps["layer3"]


def gald_block(
    channels: int,
    aggregation: Aggregation | None = None,
    *,
    dtype: Any = jnp.float32,
    axis_name: AxisName = None,
    place: Place | None = None,
    whole: Place | None = None,
    name: str | None = None,
    **options: bool,
) -> GALDBlock:
    """Global aggregation, then local distribution, for maps [N, H, W, channels] of any network.

    Args:
      aggregation: which one; None: `Aggregation()`, that of the released code.
      dtype, axis_name, name: as of every layer here; place, whole: see `Network`.
      options: distribute, downsample, block_residual, mask_relu, even_mask; see GALDBlock.
    """
    spec = aggregation or Aggregation()
    shared: dict[str, Any] = {"dtype": dtype, "axis_name": axis_name}

    switches: dict[str, Any] = options

    def aggregate(inner: str) -> nn.Module:
        return spec.make(channels, inner, whole=whole, **shared)

    return GALDBlock(aggregate, place=place, name=name, **shared, **switches)


def gald_head(
    num_classes: int,
    aggregation: Aggregation | None = None,
    width: int = 512,
    *,
    dtype: Any = jnp.float32,
    axis_name: AxisName = None,
    name: str | None = None,
    **options: Any,
) -> ContextHead:
    """GALD's head: a trunk's last map [N, H, W, C] -> logits [N, H, W, num_classes] float32.

    width: channels of its convolutions. The rest as in `gald_block`.
    """
    shared = {"dtype": dtype, "axis_name": axis_name}

    def block(inner: str) -> GALDBlock:
        return gald_block(width, aggregation, name=inner, **shared, **options)

    return ContextHead(num_classes, block, "a2block", width, name=name, **shared)


def dual_gcn_head(
    num_classes: int,
    width: int = 512,
    *,
    normalize_by_positions: bool = False,
    dtype: Any = jnp.float32,
    axis_name: AxisName = None,
    name: str | None = None,
) -> ContextHead:
    """DGCNet's head: a trunk's last map [N, H, W, C] -> logits [N, H, W, num_classes] float32."""
    shared = {"dtype": dtype, "axis_name": axis_name}

    def block(inner: str) -> DualGCN:
        return DualGCN(4, normalize_by_positions, name=inner, **shared)

    return ContextHead(num_classes, block, "dualgcn", width, name=name, **shared)


def _head(spec: Network) -> nn.Module:
    """The head, to be called inside a parent module; its variables lie below "head"."""
    shared = {"dtype": spec.dtype, "axis_name": spec.axis_name}
    options = {
        "distribute": spec.distribute,
        "downsample": spec.downsample,
        "block_residual": spec.block_residual,
        "mask_relu": spec.mask_relu,
        "even_mask": spec.even_mask,
        "place": spec.place,
        "whole": spec.whole,
        **shared,
    }
    match spec.head:
        case "gald":
            return gald_head(spec.num_classes, spec.aggregation, spec.width, name="head", **options)
        case "dgcnet":
            normalize = spec.normalize_by_positions
            return dual_gcn_head(
                spec.num_classes,
                spec.width,
                normalize_by_positions=normalize,
                name="head",
                **shared,
            )
        case "psp":
            bins = spec.aggregation.bins
            return PSPHead(spec.num_classes, spec.width, bins, spec.dropout, name="head", **shared)

    def block(channels: int) -> GALDBlock:
        return gald_block(channels, spec.aggregation, name="block", **options)

    return LightHead(spec.num_classes, block, spec.concat, spec.dtype, name="head")


class PSPHead(nn.Module):
    """Pyramid pooling, then the classifier (PSPNet): [N, H, W, C] -> logits."""

    num_classes: int
    width: int = 512
    bins: tuple[int, ...] = (1, 2, 3, 6)
    dropout: float = 0.1
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = ga.PSP(
            self.width,
            self.bins,
            dropout=self.dropout,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="psp",
        )(x, train=train)
        logits = Conv(self.num_classes, dtype=self.dtype, name="classifier")(y)
        return at_least_float32(logits)


class LightHead(nn.Module):
    """A context block and a classifier: the head of the small networks of generated scenes."""

    num_classes: int
    block: Callable[[int], Layer]
    concat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.block(x.shape[-1])(x, train=train)
        classifier = Conv(self.num_classes, dtype=self.dtype, name="classifier")
        logits = classifier(x, y) if self.concat else classifier(y)
        return at_least_float32(logits)
