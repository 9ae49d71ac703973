"""Two encoders and two linear maps into one space: images and sentences as vectors [B, D].

Variables: params/{visual, textual} (see nn.clip_resnet, nn.resnet, nn.gru, nn.clip_text),
params/head/{visual, textual}/{kernel, bias}, params/head/projection [D, C] (identities), and with a
projector params/head/{visual, textual}_fc_{0, 2}.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.errors import ConfigError
from jaxcog.nn.clip_resnet import SIZES, ClipResNet, ClipSize
from jaxcog.nn.clip_text import ClipTextTransformer
from jaxcog.nn.forward import forward
from jaxcog.nn.gru import BiGRUEncoder, PoolFloor
from jaxcog.nn.initializers import Linear, torch_default_kernel
from jaxcog.nn.norm import BatchNorm
from jaxcog.nn.precision import at_least_float32
from jaxcog.nn.resnet import ResNet
from jaxcog.rng import stream

VisualName = Literal[
    "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "imagenet50", "imagenet101", "small"
]
MODALITIES = ("visual", "textual")
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "c_proj")


@dataclasses.dataclass(frozen=True)
class Visual:
    """The image encoder.

    name: CLIP's ResNets, torchvision's ("imagenet50"), or two convolutions ("small", for toy data).
    size: of a CLIP ResNet outside the published family; None: that of `name`.
    last_stride: of layer4. last_dilation: torchvision's only, in the first block of layer4.
    remat_stages: CLIP's only; see ClipResNet.
    """

    name: VisualName = "RN50"
    size: ClipSize | None = None
    last_stride: int = 1
    last_dilation: int = 1
    remat_stages: int = 0

    def __post_init__(self) -> None:
        if self.last_stride not in (1, 2) or self.last_dilation < 1:
            raise ConfigError(
                f"task.visual: last_stride={self.last_stride} must be 1 or 2, last_dilation="
                f"{self.last_dilation} at least 1"
            )

    @property
    def is_clip(self) -> bool:
        return self.name in SIZES

    def module(self, dtype: Any, axis_name: Any = None) -> nn.Module:
        """[B, H, W, 3] -> [B, F]."""
        shared = {"dtype": dtype, "axis_name": axis_name}
        if self.name == "small":
            return SmallEncoder(**shared)
        if not self.is_clip:
            depth = int(self.name.removeprefix("imagenet"))
            return ResNet(depth, self.last_stride, self.last_dilation, **shared)
        size = self.size or SIZES[self.name]
        return ClipResNet(
            size.blocks,
            size.output,
            size.pool_heads,
            size.width,
            self.last_stride,
            self.remat_stages,
            **shared,
        )


@dataclasses.dataclass(frozen=True)
class Textual:
    """The sentence encoder.

    kind: "gru" over word vectors, or CLIP's "transformer" over byte pairs.
    words: of the GRU. "given": a table that comes with the data and is never trained; "learned".
    rows: of the learned table; 0: as many as the data's vocabulary has.
    hidden, embedding, layers, pool_floor: the GRU's, see BiGRUEncoder.
    width, heads, blocks, output: the transformer's; the defaults stand beside CLIP's RN50.
    """

    kind: Literal["gru", "transformer"] = "gru"
    words: Literal["given", "learned"] = "given"
    rows: int = 0
    hidden: int = 512
    embedding: int = 512
    layers: int = 1
    pool_floor: PoolFloor = "static"
    width: int = 512
    heads: int = 8
    blocks: int = 12
    output: int = 1024

    @property
    def needs_table(self) -> bool:
        return self.kind == "gru" and self.words == "given"

    def module(self, vocabulary: int, context: int, dtype: Any) -> nn.Module:
        """(words [B, T], length [B], table) -> [B, F], for `vocabulary` ids."""
        if self.kind == "transformer":
            return ClipTextTransformer(
                self.width, self.heads, self.blocks, self.output, vocabulary, context, dtype
            )
        return BiGRUEncoder(
            self.hidden,
            self.embedding,
            None if self.words == "given" else max(self.rows, vocabulary),
            self.layers,
            self.pool_floor,
            dtype,
        )


class SmallEncoder(nn.Module):
    """Two strided convolutions and a linear layer: [B, H, W, 3] -> [B, 64]."""

    dtype: Any = jnp.float32
    axis_name: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for index, features in enumerate((16, 32), 1):
            x = nn.Conv(
                features,
                (3, 3),
                (2, 2),
                padding=((1, 1), (1, 1)),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=torch_default_kernel,
                name=f"conv{index}",
            )(x)
            norm = BatchNorm(
                not train, dtype=self.dtype, axis_name=self.axis_name, name=f"bn{index}"
            )
            x = nn.relu(norm(x))
        x = x.reshape(x.shape[0], -1)
        return nn.relu(Linear(64, dtype=self.dtype, name="fc")(x))


class Encoded(NamedTuple):
    """Features of both modalities and the image encoder's batch statistics after this batch."""

    visual: jax.Array
    textual: jax.Array
    batch_stats: Any


@dataclasses.dataclass(frozen=True)
class Network:
    """Both encoders and the head as data; its methods are pure functions of variables.

    embed: D. classes: C, training identities. vocabulary: ids that words can have. context: T.
    projector: two further layers on the features, for contrast only (MOCO.FC).
    official_reinit: the attention pool's projections begin as the official MoCo head leaves them,
      normal with deviation sqrt(2/out) and without bias, instead of as CLIP's.
    """

    visual: Visual
    textual: Textual
    classes: int
    vocabulary: int
    context: int
    embed: int = 256
    projector: bool = False
    official_reinit: bool = False
    dtype: Any = jnp.float32
    axis_name: Any = None

    def init(self, key: jax.Array, image_shape: tuple[int, ...], table: Any) -> tuple[Any, Any]:
        """(params, batch_stats) for images [H, W, 3] and word vectors `table` (or None)."""
        image = jnp.zeros((1, *image_shape), jnp.float32)
        variables = self._visual().init(stream(key, "visual"), image, train=False)
        words, length = jnp.zeros((1, self.context), jnp.int32), jnp.ones(1, jnp.int32)
        inputs = self._text_inputs(words, length, table)
        textual = self._textual().init(stream(key, "textual"), *inputs)
        params = {"visual": variables["params"], "textual": textual["params"]}
        if self.official_reinit:
            params["visual"] = reinitialised(params["visual"], stream(key, "reinit"))
        stats = {"visual": variables["batch_stats"]}
        features = jax.eval_shape(
            lambda p: self.encode(p, stats, image, words, length, table, train=False), params
        )
        params["head"] = self._head(stream(key, "head"), features)
        return params, stats

    def encode(
        self,
        params: Any,
        batch_stats: Any,
        images: jax.Array,
        words: jax.Array,
        length: jax.Array,
        table: Any = None,
        *,
        train: bool,
    ) -> Encoded:
        """Features before the head, at least float32.

        images: [B, H, W, 3] normalised. words: int [B, T]; length: int [B]. table: [V, W] or None.
        """
        visual, stats = self.images(params, batch_stats, images, train=train)
        return Encoded(visual, self.sentences(params, words, length, table), stats)

    def images(
        self, params: Any, batch_stats: Any, images: jax.Array, *, train: bool
    ) -> tuple[jax.Array, Any]:
        """(features [B, F], batch statistics after them)."""
        y, changed = self._visual().apply(
            {"params": params["visual"], "batch_stats": batch_stats["visual"]},
            images,
            train=train,
            mutable=["batch_stats"] if train else [],
        )
        stats = {"visual": changed["batch_stats"]} if train else batch_stats
        return at_least_float32(y), stats

    def sentences(self, params: Any, words: jax.Array, length: jax.Array, table: Any) -> jax.Array:
        """Features [B, F] of captions."""
        inputs = self._text_inputs(words, length, table)
        return at_least_float32(forward(self._textual(), params["textual"], *inputs))

    def _visual(self) -> nn.Module:
        return self.visual.module(self.dtype, self.axis_name)

    def _textual(self) -> nn.Module:
        return self.textual.module(self.vocabulary, self.context, self.dtype)

    def _text_inputs(self, words: jax.Array, length: jax.Array, table: Any) -> tuple[Any, ...]:
        if self.textual.kind == "transformer":
            return (words,)
        return (words, length, table) if self.textual.needs_table else (words, length)

    def _head(self, key: jax.Array, features: Encoded) -> dict[str, Any]:
        head: dict[str, Any] = {}
        for modality in MODALITIES:
            width = getattr(features, modality).shape[-1]
            head[modality] = _linear_params(stream(key, modality), width, self.embed)
            if self.projector:
                for layer, size in (("0", width), ("2", self.embed)):
                    name = f"{modality}_fc_{layer}"
                    head[name] = _linear_params(stream(key, name), size, self.embed)
        shape = (self.embed, self.classes)
        head["projection"] = nn.initializers.glorot_uniform()(stream(key, "projection"), shape)
        return head


def _linear_params(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    deviation = (2 / outputs) ** 0.5
    kernel = deviation * jax.random.normal(key, (inputs, outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(outputs, jnp.float32)}


def reinitialised(visual: Any, key: jax.Array) -> Any:
    """An image encoder whose attention pool has the official MoCo head's random projections."""
    pool = dict(visual["attnpool"])
    for name in ATTENTION_PROJECTIONS:
        pool[name] = _linear_params(stream(key, name), *pool[name]["kernel"].shape)
    return {**visual, "attnpool": pool}


def linear(params: Any, x: jax.Array) -> jax.Array:
    """x [B, F] through a linear layer's {"kernel", "bias"}, in full float32."""
    product = jnp.matmul(x, params["kernel"], precision=jax.lax.Precision.HIGHEST)
    return product + params["bias"]


def embed(head: Any, modality: str, features: jax.Array) -> jax.Array:
    """Features [B, F] in the common space [B, D], un-normalised."""
    return linear(head[modality], features)


def project(head: Any, modality: str, features: jax.Array) -> jax.Array:
    """Features [B, F] through the projector [B, D], un-normalised."""
    hidden = nn.relu(linear(head[f"{modality}_fc_0"], features))
    return linear(head[f"{modality}_fc_2"], hidden)
