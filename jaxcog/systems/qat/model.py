"""G-TAD: the class-agnostic network of snippets whose embedding the few-shot stage uses.

Layouts are [B, T, C] and [B, D, T, C]. There is no dropout and no normalisation.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.errors import ConfigError
from jaxcog.nn.conv_norm import Conv
from jaxcog.nn.forward import forward
from jaxcog.nn.initializers import Linear, torch_default_bias
from jaxcog.systems.qat.align import Branch, sgalign

_FULL = jax.lax.Precision.HIGHEST


def knn_graph(x: jax.Array, k: int = 3) -> jax.Array:
    """int32 [B, T, k]: the nearest snippets of each, by Euclidean distance, itself among them.

    x: [B, T, C]. In full precision whatever the arithmetic, and without gradient: rounding would
    change who is a neighbour.
    """
    x = jax.lax.stop_gradient(x).astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(jnp.square(x), axis=-1)
    product = jnp.einsum("btc,bsc->bts", x, x, precision=_FULL)
    nearness = 2 * product - square[:, :, None] - square[:, None, :]
    return jax.lax.top_k(nearness, k)[1]


def neighbours(x: jax.Array, graph: jax.Array) -> jax.Array:
    """x [B, T, C], graph [B, T, k] -> [B, T, k, C]."""
    return jax.vmap(lambda rows, index: rows[index])(x, graph)


class Conv1d(nn.Module):
    """Convolution over time with PyTorch's initialisation: [B, T, C] -> [B, T, features].

    Parameters `kernel` [k, C / groups, features] and `bias`.
    """

    features: int
    kernel: int = 1
    groups: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", _uniform(shape[0] * shape[1]), shape, jnp.float32)
        bias_init = torch_default_bias(shape[0] * shape[1])
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        pad = (self.kernel - 1) // 2
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (1,),
            ((pad, pad),),
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.groups,
        )
        return y + bias.astype(self.dtype)


_uniform = torch_default_bias  # of weights too: uniform in +-1/sqrt(fan_in)


class GCNeXt(nn.Module):
    """Graph convolution over a snippet's temporal and nearest neighbours: [B, T, C] -> [B, T, C].

    Attributes:
      groups, width: of the inner layers, which have groups * width channels.
      k: semantic neighbours.
    """

    groups: int = 32
    width: int = 4
    k: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, graph: jax.Array | None = None) -> jax.Array:
        """graph: [B, T, k] as `knn_graph` gives it of x; None: computed here."""
        channels, inner = x.shape[-1], self.groups * self.width
        graph = knn_graph(x, self.k) if graph is None else graph
        t = nn.relu(Conv1d(inner, dtype=self.dtype, name="tconvs_0")(x))
        t = nn.relu(Conv1d(inner, 3, self.groups, dtype=self.dtype, name="tconvs_2")(t))
        t = Conv1d(channels, dtype=self.dtype, name="tconvs_4")(t)
        s = Pair(inner, dtype=self.dtype, name="sconvs_0")(x, graph)
        b, length, k, _ = s.shape
        s = nn.relu(s).reshape(b, length * k, inner)
        s = nn.relu(Conv1d(inner, 1, self.groups, dtype=self.dtype, name="sconvs_2")(s))
        s = Conv1d(channels, dtype=self.dtype, name="sconvs_4")(s)
        return nn.relu(t + x.astype(self.dtype) + _first_max(s.reshape(b, length, k, channels)))


class Pair(nn.Module):
    """A linear layer on (neighbour, snippet) pairs: x [B, T, C], graph [B, T, k] -> [B, T, k, O].

    Parameters `kernel` [2 C, O], the neighbour's rows first, and `bias`. Neighbours are gathered
    after their product, which is taken once for each snippet instead of k times.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, graph: jax.Array) -> jax.Array:
        fan_in = 2 * x.shape[-1]
        kernel = self.param("kernel", _uniform(fan_in), (fan_in, self.features), jnp.float32)
        bias = self.param("bias", torch_default_bias(fan_in), (self.features,), jnp.float32)
        of_neighbour, own = jnp.split(kernel.astype(self.dtype), 2)
        x = x.astype(self.dtype)
        near = neighbours(x @ of_neighbour, graph)
        return near + (x @ own)[:, :, None] + bias.astype(self.dtype)


def _first_max(x: jax.Array) -> jax.Array:
    """Largest over axis 2; the gradient goes to one element also where several are equal."""
    place = jnp.argmax(jax.lax.stop_gradient(x), axis=2, keepdims=True)
    return jnp.take_along_axis(x, place, axis=2)[:, :, 0]


@dataclasses.dataclass(frozen=True)
class GTADConfig:
    """The network's sizes; the defaults are ActivityNet's (5.6 million parameters for F = 400).

    max_duration: D, windows of up to so many snippets; None: T.
    channels: of the embedding. hidden: of the two layers behind the alignment.
    bins, samples: of SGAlign's inner and context branch; samples a bin, 0: by its length.
    kernel: side of the two convolutions over the map of windows (1 for ActivityNet, 3 for THUMOS).
    k: semantic neighbours. groups, width: of GCNeXt.
    """

    max_duration: int | None = None
    channels: int = 256
    hidden: tuple[int, int] = (512, 128)
    bins: tuple[int, int] = (32, 4)
    samples: tuple[int, int] = (0, 0)
    kernel: int = 1
    k: int = 3
    groups: int = 32
    width: int = 4

    def __post_init__(self) -> None:
        for name in ("channels", "k", "groups", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"network.{name}={getattr(self, name)}: must be at least 1")
        if self.kernel % 2 == 0:
            raise ConfigError(f"network.kernel={self.kernel}: must be odd")
        if self.channels % 4:
            raise ConfigError(f"network.channels={self.channels}: must be a multiple of 4")

    @property
    def branches(self) -> tuple[Branch, Branch]:
        """SGAlign's inner and context branch."""
        return Branch(self.bins[0], self.samples[0]), Branch(self.bins[1], self.samples[1])


class GTADOutput(NamedTuple):
    """iou_map [B, D, T, 2] (regression, classification), start and end [B, T], all in (0, 1);
    base and embedding [B, T, channels]."""

    iou_map: jax.Array
    start: jax.Array
    end: jax.Array
    base: jax.Array
    embedding: jax.Array


class GTAD(nn.Module):
    """The network. Submodules are named as in the official checkpoints."""

    config: GTADConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        c = self.config
        block = {"groups": c.groups, "width": c.width, "k": c.k, "dtype": self.dtype}
        self.backbone1_0 = Conv1d(c.channels, 3, 4, dtype=self.dtype)
        self.backbone1_2 = GCNeXt(**block)
        self.regu_s_0 = GCNeXt(**block)
        self.regu_s_1 = Linear(1, dtype=self.dtype)
        self.regu_e_0 = GCNeXt(**block)
        self.regu_e_1 = Linear(1, dtype=self.dtype)
        self.backbone2_0 = GCNeXt(**block)
        self.localization_0 = BinLayer(c.hidden[0], sum(c.bins))
        self.localization_2 = Linear(c.hidden[1], dtype=self.dtype)
        self.localization_4 = Conv(c.hidden[1], c.kernel, dtype=self.dtype)
        self.localization_6 = Conv(c.hidden[1], c.kernel, dtype=self.dtype)
        self.localization_8 = Linear(2, dtype=self.dtype)

    def embed(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Snippet features [B, T, F] -> (embedding, base feature, its graph)."""
        base = self.backbone1_2(nn.relu(self.backbone1_0(x)))
        graph = knn_graph(base, self.config.k)
        return self.backbone2_0(base, graph), base, graph

    def __call__(self, x: jax.Array) -> GTADOutput:
        """Snippet features [B, T, F] -> all outputs."""
        embedding, base, graph = self.embed(x)
        start = self.regu_s_1(self.regu_s_0(base, graph))[..., 0]
        end = self.regu_e_1(self.regu_e_0(base, graph))[..., 0]
        near = neighbours(embedding, knn_graph(embedding, self.config.k))
        iou_map = self._localize(embedding, jnp.mean(near, axis=2))
        wide = jnp.promote_types(self.dtype, jnp.float32)
        iou_map, start, end = (nn.sigmoid(y.astype(wide)) for y in (iou_map, start, end))
        return GTADOutput(iou_map, start, end, base, embedding)

    def _localize(self, embedding: jax.Array, context: jax.Array) -> jax.Array:
        c = self.config
        kernel, bias = self.localization_0(embedding.shape[-1])
        if self.is_initializing():
            self.localization_2(jnp.zeros((1, c.hidden[0])))
        second = self.localization_2.variables["params"]

        def per_window(x: jax.Array) -> jax.Array:
            # Plain functions: a Linen module cannot be called inside jax.checkpoint.
            x = nn.relu(x + bias.astype(x.dtype))
            y = x @ second["kernel"].astype(x.dtype) + second["bias"].astype(x.dtype)
            return nn.relu(y)

        duration = c.max_duration or embedding.shape[1]
        y = sgalign(
            embedding,
            context.astype(embedding.dtype),
            kernel.astype(embedding.dtype),
            c.branches,
            duration,
            per_window,
        )
        y = nn.relu(self.localization_4(y))
        return self.localization_8(nn.relu(self.localization_6(y)))


class BinLayer(nn.Module):
    """Weights of a linear layer on all bins of a window: kernel [bins, C, features] and bias."""

    features: int
    bins: int

    @nn.compact
    def __call__(self, channels: int) -> tuple[jax.Array, jax.Array]:
        fan_in = self.bins * channels
        shape = (self.bins, channels, self.features)
        return (
            self.param("kernel", _uniform(fan_in), shape, jnp.float32),
            self.param("bias", torch_default_bias(fan_in), (self.features,), jnp.float32),
        )


EMBEDDING_LAYERS = ("backbone1_0", "backbone1_2", "backbone2_0")
"""The parameters that the embedding needs."""


def init(
    config: GTADConfig,
    key: jax.Array,
    num_snippets: int,
    width: int,
    *,
    embedding_only: bool = False,
) -> Any:
    """Parameters for features [T, F]; those of `EMBEDDING_LAYERS` alone, if asked for.

    All are uniform in +-1/sqrt(fan_in), PyTorch's default, so one draw serves them all: fifty
    would take longer to compile than the network.
    """
    method = GTAD.embed if embedding_only else None
    x = jax.ShapeDtypeStruct((1, num_snippets, width), jnp.float32)
    shapes = jax.eval_shape(lambda x: GTAD(config).init(jax.random.key(0), x, method=method), x)
    layers, tree = jax.tree.flatten(
        shapes["params"], is_leaf=lambda node: isinstance(node, dict) and "kernel" in node
    )
    sizes = [sum(math.prod(leaf.shape) for leaf in layer.values()) for layer in layers]
    flat = jax.random.uniform(key, (sum(sizes),), jnp.float32, -1, 1)
    parts = jnp.split(flat, list(itertools.accumulate(sizes))[:-1])
    drawn = [_layer(layer, part) for layer, part in zip(layers, parts, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def _layer(shapes: Any, flat: jax.Array) -> dict[str, jax.Array]:
    """One layer's kernel [..., out] and bias [out] from numbers in (-1, 1)."""
    *inputs, outputs = shapes["kernel"].shape
    flat = flat / math.sqrt(math.prod(inputs))
    return {"kernel": flat[outputs:].reshape(*inputs, outputs), "bias": flat[:outputs]}


def apply(config: GTADConfig, params: Any, x: jax.Array, dtype: Any = jnp.float32) -> GTADOutput:
    """The network on snippet features [B, T, F]."""
    return forward(GTAD(config, dtype), params, x)


def embed(config: GTADConfig, params: Any, x: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """Snippet features [B, T, F] -> [B, T, channels], not negative: the few-shot stage's input."""
    return GTAD(config, dtype).apply({"params": params}, x, method=GTAD.embed)[0]
