"""PSPNet with the trunks of CWT, and the transformer that rewrites a classifier's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.attention import ATTENTION_DROPOUT, OUTPUT_DROPOUT, DropoutMasks, QueryAttention
from jaxcog.nn.conv_norm import AxisName, Conv, ConvNorm, dropout2d
from jaxcog.nn.forward import forward
from jaxcog.nn.psp import BINS, PyramidPooling
from jaxcog.nn.resize import Size, resize_bilinear_align_corners
from jaxcog.nn.resnet_dilated import DilatedResNet
from jaxcog.nn.vgg import VGG

EncoderName = Literal["resnet50", "resnet101", "resnet152", "vgg16", "tiny", "cells"]
RESNET_DEPTHS = {"resnet50": 50, "resnet101": 101, "resnet152": 152}
Variables = dict[str, Any]
ZOOM = 8
CELL = 8


class PSPEncoder(nn.Module):
    """Trunk, pyramid pooling, bottleneck: images [N, H, W, 3] -> features [N, h, w, width].

    h = (H - 1) / 8 + 1 with a ResNet, about H / 16 with VGG. Variables trunk/, ppm/, bottleneck/.

    Attributes:
      trunk: "tiny" is a ResNet of one narrow block a stage, for tests.
      dropout: share of the features' channels that training drops.
      remat: bottlenecks compute their activations again in the backward pass.
    """

    trunk: EncoderName = "resnet50"
    bins: Sequence[int] = BINS
    width: int = 512
    dropout: float = 0.1
    remat: bool = False
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shared = {"dtype": self.dtype, "axis_name": self.axis_name}
        x = self._trunk(shared)(x, train=train)["stage5" if self.trunk == "vgg16" else "layer4"]
        pyramid = PyramidPooling(x.shape[-1] // len(self.bins), self.bins, name="ppm", **shared)
        maps = pyramid(x, train=train)
        x = ConvNorm(self.width, 3, name="bottleneck", **shared)(*maps, train=train)
        return dropout2d(x, self.dropout, train=train)

    def _trunk(self, shared: dict[str, Any]) -> nn.Module:
        if self.trunk == "vgg16":
            return VGG(16, batch_norm=True, last_pool=False, pool_ceil=True, name="trunk", **shared)
        tiny: dict[str, Any] = {"width": 4, "blocks": (1, 1, 1, 1)} if self.trunk == "tiny" else {}
        return DilatedResNet(
            RESNET_DEPTHS.get(self.trunk, 50),
            multi_grid=(1, 1, 1),
            pool_ceil=False,
            remat=self.remat,
            name="trunk",
            **tiny,
            **shared,
        )


class CellEncoder(nn.Module):
    """An MLP on every 8 x 8 cell: images [N, H, W, C] -> features [N, H/8, W/8, width].

    128, 128 and `width` units with a ReLU after each; for generated images made of cells.
    """

    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(Conv(128, CELL, stride=CELL, pad=0, dtype=self.dtype, name="fc1")(x))
        x = nn.relu(Conv(128, dtype=self.dtype, name="fc2")(x))
        return nn.relu(Conv(self.width, dtype=self.dtype, name="fc3")(x))


class Encoded(NamedTuple):
    """features [N, h, w, D]; batch_stats: running statistics after this batch."""

    features: jax.Array
    batch_stats: Variables


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder as pure functions; fields as in PSPEncoder, "cells" is CellEncoder."""

    name: EncoderName = "resnet50"
    bins: Sequence[int] = BINS
    width: int = 512
    dropout: float = 0.1
    remat: bool = False
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @property
    def module(self) -> nn.Module:
        if self.name == "cells":
            return CellEncoder(self.width, self.dtype)
        return PSPEncoder(
            self.name,
            self.bins,
            self.width,
            self.dropout,
            self.remat,
            self.dtype,
            self.axis_name,
        )

    def init(self, key: jax.Array, images: jax.Array) -> tuple[Variables, Variables]:
        """(params, batch_stats)."""
        variables = self.module.init(key, images, train=False)
        return variables["params"], variables.get("batch_stats", {})

    def __call__(
        self,
        params: Variables,
        stats: Variables,
        images: jax.Array,
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> Encoded:
        """images [N, H, W, C], normalised. key: of the dropout, needed in training."""
        variables = {"params": params, "batch_stats": stats}
        if not train:
            out: Any = self.module.apply(variables, images, train=False)
            return Encoded(out, stats)
        rngs = {} if key is None else {"dropout": key}
        features, changed = self.module.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs=rngs
        )
        return Encoded(features, changed.get("batch_stats", stats))


class PixelClassifier(nn.Module):
    """1x1 convolution: features [N, h, w, D] -> logits [N, h, w, classes], float32."""

    classes: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layer = Conv(self.classes, use_bias=self.use_bias, name="classifier")
        return layer(x.astype(jnp.float32))


def output_size(height: int, width: int, zoom: int = ZOOM) -> tuple[int, int]:
    """Size of PSPNet's logits for images of that size: themselves where they are 8 k + 1."""
    return (height - 1) // 8 * zoom + 1, (width - 1) // 8 * zoom + 1


@dataclasses.dataclass(frozen=True)
class PSPNet:
    """Encoder and classifier of stage 1 as pure functions.

    Parameters {"encoder": ..., "classifier": {"kernel", "bias"}}; batch_stats {"encoder": ...}.
    """

    encoder: Encoder
    num_classes: int
    classifier_bias: bool = False

    @property
    def classifier(self) -> PixelClassifier:
        return PixelClassifier(self.num_classes, self.classifier_bias)

    def init(self, key: jax.Array, images: jax.Array) -> tuple[Variables, Variables]:
        """(params, batch_stats)."""
        first, second = jax.random.split(key)
        params, stats = self.encoder.init(first, images)
        features = jnp.zeros((1, 1, 1, self.encoder.width), jnp.float32)
        head = self.classifier.init(second, features)["params"]
        return {"encoder": params, **head}, {"encoder": stats}

    def classify(self, params: Variables, features: jax.Array, size: Size) -> jax.Array:
        """features [N, h, w, D] -> logits [N, *size, K], enlarged with aligned corners."""
        head = {"classifier": params["classifier"]}
        return resize_bilinear_align_corners(forward(self.classifier, head, features), size)

    def __call__(
        self,
        params: Variables,
        stats: Variables,
        images: jax.Array,
        size: tuple[int, int],
        *,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Variables]:
        """(logits [N, *size, K], batch statistics after this batch)."""
        encoded = self.encoder(params["encoder"], stats["encoder"], images, train=train, key=key)
        logits = self.classify(params, encoded.features, size)
        return logits, {"encoder": encoded.batch_stats}


@dataclasses.dataclass(frozen=True)
class ClassifierWeightTransformer:
    """Rewrites the weights of a pixel classifier after a look at the query image (section 3.3).

    heads, head_dim: each of full width where head_dim is None. share_qkv: one projection for
      queries, keys and values, as the released code; the paper has three.
    """

    heads: int = 4
    attention_dropout: float = ATTENTION_DROPOUT
    dropout: float = OUTPUT_DROPOUT
    share_qkv: bool = True
    head_dim: int | None = None

    @property
    def module(self) -> QueryAttention:
        return QueryAttention(
            self.heads, self.head_dim, self.share_qkv, self.attention_dropout, self.dropout
        )

    def init(self, key: jax.Array, width: int) -> Variables:
        """Parameters for features of `width` channels."""
        return self.module.init(key, *(jnp.zeros((1, n, width)) for n in (2, 1)))["params"]

    def __call__(
        self,
        params: Variables,
        weights: jax.Array,
        features: jax.Array,
        *,
        key: jax.Array | None = None,
        masks: DropoutMasks | None = None,
    ) -> jax.Array:
        """The rewritten weights.

        Args:
          weights: [B, 2, D], background first.
          features: [B, h, w, D], of unit length (see `ops.unit`).
          key: of the dropout; masks: to give it. Neither: no dropout.

        Returns:
          [B, 2, D] float32; every row has the length that LayerNorm gives it.
        """
        memory = features.reshape(features.shape[0], -1, features.shape[-1])
        rngs = {} if key is None else {"dropout": key}
        train = key is not None or masks is not None
        return forward(
            self.module, params, weights, memory, train=train, masks=masks, rngs=rngs
        ).output

    def attention(self, params: Variables, weights: jax.Array, features: jax.Array) -> jax.Array:
        """[B, heads, 2, h, w]: where each row looks; sums to one over the image."""
        memory = features.reshape(features.shape[0], -1, features.shape[-1])
        seen = forward(self.module, params, weights, memory).weights
        return seen.reshape(*seen.shape[:3], *features.shape[1:3])
