"""The classifiers of the paper: a backbone, an optional MLP head, a linear classifier."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.errors import ConfigError
from jaxcog.nn.extremes import larger
from jaxcog.nn.initializers import Linear, kaiming_normal_fan_in, torch_default_kernel
from jaxcog.nn.norm import BatchNorm
from jaxcog.nn.precision import at_least_float32
from jaxcog.nn.resnet import DEPTHS, STAGES, Between, ResNet
from jaxcog.systems.mixstyle import ops

AxisName = ops.AxisName

_CNN_WIDTHS = {"cnn_digitsdg": (64, 64, 64, 64), "cnn_toy": (32, 32, 64)}
BACKBONES = (*(f"resnet{depth}" for depth in DEPTHS), *_CNN_WIDTHS)


def stages_of(backbone: str) -> tuple[str, ...]:
    """Names of a backbone's stages, first to last. Raises ConfigError for an unknown backbone."""
    if backbone not in BACKBONES:
        raise ConfigError(f'network="{backbone}": unknown; choose from {", ".join(BACKBONES)}')
    if backbone in _CNN_WIDTHS:
        return tuple(f"conv{i + 1}" for i in range(len(_CNN_WIDTHS[backbone])))
    return STAGES


def split_official_name(name: str) -> tuple[str, tuple[str, ...]]:
    """Dassl's name of a network: "resnet18_ms_l12" -> ("resnet18", ("layer1", "layer2"))."""
    match = re.fullmatch(r"(.+?)(?:_(?:ms|efdmix)_l(\d+))?", name)
    if match is None:
        raise ValueError(f'split_official_name: "{name}" names no network')
    prefix = stages_of(match[1])[0].rstrip("0123456789")
    return match[1], tuple(f"{prefix}{digit}" for digit in match[2] or "")


def halved(x: jax.Array) -> jax.Array:
    """2x2 max pooling of [B, H, W, C]; an odd last row or column is dropped, as in PyTorch.

    Chosen in pairs: the gradient takes a CPU a fortieth of the time of a window's, and stays
    defined where the batch norm before it is computed twice (see `jaxcog.nn.extremes`).
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = larger(x[:, :, 0], x[:, :, 1])
    return larger(x[:, :, :, 0], x[:, :, :, 1])


class ConvPool(nn.Module):
    """3x3 convolution with bias, ReLU, 2x2 max pooling: [B, H, W, .] -> [B, H/2, W/2, features]."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(
            self.features,
            (3, 3),
            padding=((1, 1), (1, 1)),
            dtype=self.dtype,
            kernel_init=kaiming_normal_fan_in,
            name="conv",
        )(x)
        return nn.relu(halved(x))


class ConvNormPool(nn.Module):
    """3x3 convolution, batch norm, ReLU, 2x2 max pooling."""

    features: int
    dtype: Any = jnp.float32
    axis_name: AxisName | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, norm_train: bool) -> jax.Array:
        x = nn.Conv(
            self.features,
            (3, 3),
            padding=((1, 1), (1, 1)),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=torch_default_kernel,
            name="conv",
        )(x)
        x = BatchNorm(not norm_train, dtype=self.dtype, axis_name=self.axis_name, name="bn")(x)
        return nn.relu(halved(x))


class SmallCNN(nn.Module):
    """Convolution stages and a flattened map: the network of Digits-DG, and a toy one with norms.

    Features are flattened channel by channel (c, h, w), as official checkpoints expect.
    """

    widths: tuple[int, ...]
    norm: bool
    dtype: Any = jnp.float32
    axis_name: AxisName | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        between: Between | None = None,
        norm_train: bool | None = None,
    ) -> jax.Array:
        norm_train = train if norm_train is None else norm_train
        x = x.astype(self.dtype)
        for i, width in enumerate(self.widths):
            name = f"conv{i + 1}"
            if self.norm:
                stage = ConvNormPool(width, self.dtype, self.axis_name, name=name)
                x = stage(x, norm_train=norm_train)
            else:
                x = ConvPool(width, self.dtype, name=name)(x)
            if between is not None:
                x = between(name, x)
        return jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)


class MLPHead(nn.Module):
    """For each hidden size: linear, batch norm, ReLU, dropout (the head used for VisDA-17).

    Modules are numbered as in the official checkpoints: mlp_0, mlp_1, mlp_4, mlp_5, ...
    """

    hidden: tuple[int, ...]
    dropout: float
    dtype: Any = jnp.float32
    axis_name: AxisName | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, norm_train: bool) -> jax.Array:
        norm = functools.partial(
            BatchNorm, not norm_train, dtype=self.dtype, axis_name=self.axis_name
        )
        for i, size in enumerate(self.hidden):
            x = Linear(size, dtype=self.dtype, name=f"mlp_{4 * i}")(x)
            x = nn.relu(norm(name=f"mlp_{4 * i + 1}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return x


class _Classifier(nn.Module):
    spec: Network

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        between: Between | None,
        norm_train: bool,
        axis_name: AxisName | None,
    ) -> tuple[jax.Array, jax.Array]:
        spec = self.spec
        shared = {"dtype": spec.dtype, "axis_name": axis_name}
        if spec.backbone in _CNN_WIDTHS:
            widths = tuple(round(spec.width * n) for n in _CNN_WIDTHS[spec.backbone])
            norm = spec.backbone == "cnn_toy"
            backbone: nn.Module = SmallCNN(widths, norm, name="backbone", **shared)
        else:
            depth = int(spec.backbone.removeprefix("resnet"))
            backbone = ResNet(depth, name="backbone", **shared)
        features = backbone(x, train=train, between=between, norm_train=norm_train)
        if spec.hidden:
            head = MLPHead(spec.hidden, spec.dropout, name="head", **shared)
            features = head(features, train=train, norm_train=norm_train)
        logits = Linear(spec.num_classes, dtype=spec.dtype, name="classifier")(features)
        return at_least_float32(logits), features


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """logits [B, K] float32; features [B, D], which the classifier sees; batch_stats afterwards."""

    logits: jax.Array
    features: jax.Array
    batch_stats: Any


@dataclasses.dataclass(frozen=True)
class Network:
    """Which classifier; its two functions are pure.

    backbone: one of BACKBONES. hidden: sizes of the MLP head, none as a rule. dropout: of that
    head. width: factor on the channels of the small CNNs. dtype: of the arithmetic; parameters and
    statistics are float32.
    """

    backbone: str
    num_classes: int
    hidden: tuple[int, ...] = ()
    dropout: float = 0.5
    width: float = 1.0
    dtype: Any = jnp.float32

    def init(self, key: jax.Array, image_shape: tuple[int, int, int]) -> tuple[Any, Any]:
        """(params, batch_stats), drawn as the official code draws them; image_shape is H, W, 3."""
        images = jnp.zeros((1, *image_shape), jnp.float32)
        variables = _Classifier(self).init(
            key, images, train=False, between=None, norm_train=False, axis_name=None
        )
        return variables["params"], variables.get("batch_stats", {})

    def apply(
        self,
        params: Any,
        batch_stats: Any,
        images: jax.Array,
        *,
        train: bool,
        draws: Mapping[str, ops.MixDraw] | None = None,
        eps: float = 1e-6,
        ddof: int = 1,
        kind: ops.Kind = "moments",
        key: jax.Array | None = None,
        norm_train: bool | None = None,
        axis_name: AxisName | None = None,
        scope: ops.Scope = "global",
    ) -> Output:
        """Runs the network.

        Args:
          params, batch_stats: from `init` or a checkpoint.
          images: [B, H, W, 3] float, normalised.
          train: batch norms use and update batch statistics; dropout and `draws` act.
          draws: stage -> what MixStyle drew there; None or {} for a network without MixStyle.
          eps, ddof, kind: see `ops.apply_draw`.
          key: for dropout; needed only while training with an MLP head.
          norm_train: False keeps batch norms in evaluation behaviour while training.
          axis_name: mapped axis whose devices share one batch, for batch norm and MixStyle.
          scope: see `ops.mixstyle`.
        """
        norm_train = train if norm_train is None else norm_train

        def between(stage: str, x: jax.Array) -> jax.Array:
            if not train or not draws or stage not in draws:
                return x
            return ops.apply_draw(
                x, draws[stage], eps=eps, ddof=ddof, kind=kind, axis_name=axis_name, scope=scope
            )

        (logits, features), new = _Classifier(self).apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=train,
            between=between,
            norm_train=norm_train,
            axis_name=axis_name,
            mutable=["batch_stats"] if norm_train else [],
            rngs=None if key is None else {"dropout": key},
        )
        return Output(logits, features, new.get("batch_stats", batch_stats))
