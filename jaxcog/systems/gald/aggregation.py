"""Global aggregation: modules that gather context from the whole image into every position.

All are called as ga(x, train=...) on a map [N, H, W, C] and return one of the same height and
width (`SEGate` its gate). `model.Aggregation` makes them by the names that configs use; in a
network of one's own each is a Linen module like any other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.blockwise import blockwise_attention, plain_attention
from jaxcog.nn.conv_norm import AxisName, Conv, ConvNorm, dropout2d
from jaxcog.nn.norm import BatchNorm
from jaxcog.nn.precision import at_least_float32
from jaxcog.nn.psp import PyramidPooling
from jaxcog.nn.resize import resize_bilinear_align_corners

Whole = Callable[[jax.Array], jax.Array]
"""Brings keys and values together on every device of a mesh; the identity on one device."""


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    scale: float,
    block: int | None,
    whole: Whole | None = None,
) -> jax.Array:
    """Every position of `query` attends to every position of `key`: maps [N, H, W, .].

    block: keys at a time, see `blockwise_attention`; None for the whole matrix at once.
    """
    q, k, v = (x.reshape(x.shape[0], -1, x.shape[-1]) for x in (query, key, value))
    if whole is not None:
        k, v = whole(k), whole(v)
    if block is None:
        out = plain_attention(q, k, v, scale)
    else:
        out = blockwise_attention(q, k, v, scale, block)
    return out.reshape(*query.shape[:-1], value.shape[-1])


class SpatialCGNL(nn.Module):
    """Compact generalised non-local block (Yue et al., NeurIPS 2018) as GALD's code has it.

    Per group of channels one scalar a = sum(p * g) over positions weighs `t`. With as many groups
    in the output's convolution and group norm, the scalar cancels but for its sign: for new
    trainings choose another aggregation.
    """

    planes: int
    groups: int = 8
    use_scale: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(name: str) -> jax.Array:
            return Conv(self.planes, use_bias=False, dtype=self.dtype, name=name)(x)

        t, p, g = conv("t"), conv("p"), conv("g")
        n, height, width, _ = x.shape
        size = self.planes // self.groups
        grouped = (n, height, width, self.groups, size)
        product = at_least_float32(p).reshape(grouped) * at_least_float32(g).reshape(grouped)
        weight = jnp.sum(product, axis=(1, 2, 4), keepdims=True)
        if self.use_scale:
            weight = weight / math.sqrt(size * height * width)
        y = (weight * at_least_float32(t).reshape(grouped)).reshape(t.shape).astype(self.dtype)
        z = Conv(x.shape[-1], groups=self.groups, use_bias=False, dtype=self.dtype, name="z")(y)
        z = nn.GroupNorm(
            self.groups, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name="gn"
        )(z)
        return z + x.astype(self.dtype)


class NonLocal(nn.Module):
    """Non-local block (Wang et al., CVPR 2018): softmax(q k^T) v, 1x1 convolution, plus the input.

    block: keys at a time, so that no [H*W, H*W] matrix exists; None for all at once.
    """

    planes: int
    block: int | None = 1024
    scale: float = 1.0
    dtype: Any = jnp.float32
    whole: Whole | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        query, key, value = (
            Conv(self.planes, dtype=self.dtype, name=name)(x) for name in ("query", "key", "value")
        )
        y = attend(query, key, value, scale=self.scale, block=self.block, whole=self.whole)
        return x.astype(self.dtype) + Conv(x.shape[-1], dtype=self.dtype, name="out")(y)


class DoubleAttention(nn.Module):
    """A2 block (Chen et al., NeurIPS 2018): gather by second-order pooling, then distribute."""

    planes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def flat(name: str) -> jax.Array:
            y = Conv(self.planes, dtype=self.dtype, name=name)(x)
            return y.reshape(x.shape[0], -1, self.planes)

        features, gather, distribute = flat("down"), flat("gather_down"), flat("distribute_down")
        gather, distribute = (
            jax.nn.softmax(at_least_float32(y), axis=1) for y in (gather, distribute)
        )
        pooled = jnp.einsum("bnp,bnq->bpq", at_least_float32(features), gather)
        out = jnp.einsum("bnp,bpq->bnq", distribute, pooled)
        out = out.reshape(*x.shape[:-1], self.planes).astype(self.dtype)
        return x.astype(self.dtype) + Conv(x.shape[-1], dtype=self.dtype, name="up")(out)


class CrissCrossAttention(nn.Module):
    """Attention along each position's row and column (Huang et al., ICCV 2019), `recurrence` times.

    The weights are shared between the rounds; the second lets every position reach every other.
    """

    recurrence: int = 2
    reduction: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        inner = channels // self.reduction
        query_conv = Conv(inner, dtype=self.dtype, name="query_conv")
        key_conv = Conv(inner, dtype=self.dtype, name="key_conv")
        value_conv = Conv(channels, dtype=self.dtype, name="value_conv")
        gamma = self.param("gamma", nn.initializers.zeros, (1,), jnp.float32)
        for _ in range(self.recurrence):
            attended = _criss_cross(query_conv(x), key_conv(x), value_conv(x))
            x = (gamma * attended + at_least_float32(x)).astype(self.dtype)
        return x


def _criss_cross(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    query, key, value = (at_least_float32(x) for x in (query, key, value))
    height = query.shape[1]
    columns = jnp.einsum("bhwc,bgwc->bhwg", query, key)
    # A position belongs to its row; in its column it would count twice.
    columns = jnp.where(jnp.eye(height, dtype=bool)[:, None, :], -jnp.inf, columns)
    rows = jnp.einsum("bhwc,bhvc->bhwv", query, key)
    weights = jax.nn.softmax(jnp.concatenate([columns, rows], axis=-1), axis=-1)
    along_columns = jnp.einsum("bhwg,bgwc->bhwc", weights[..., :height], value)
    return along_columns + jnp.einsum("bhwv,bhvc->bhwc", weights[..., height:], value)


class SelfAttention(nn.Module):
    """Attention with one transform for keys and queries (OCNet, Yuan and Wang 2018).

    scale: above 1, the map is max-pooled by it before, and resized back afterwards.
    """

    features: int
    key_channels: int
    value_channels: int
    scale: int = 1
    block: int | None = 1024
    dtype: Any = jnp.float32
    axis_name: AxisName = None
    whole: Whole | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        size = x.shape[1:3]
        if self.scale > 1:
            x = nn.max_pool(x, (self.scale, self.scale), (self.scale, self.scale))
        value = Conv(self.value_channels, dtype=self.dtype, name="f_value")(x)
        transform = ConvNorm(
            self.key_channels,
            use_bias=True,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="f_key",
        )
        # Called for each, as the official code does: running statistics move twice a step.
        query, key = transform(x, train=train), transform(x, train=train)
        y = attend(
            query, key, value, scale=self.key_channels**-0.5, block=self.block, whole=self.whole
        )
        y = Conv(self.features, dtype=self.dtype, zero_init=True, name="W")(y)
        return resize_bilinear_align_corners(y, size)


class ObjectContext(nn.Module):
    """Base object context (OCNet): sum of self-attentions, projected (with the map beside it).

    features: channels of the result; None: those of the input.
    """

    key_channels: int = 256
    value_channels: int = 256
    features: int | None = None
    scales: Sequence[int] = (1,)
    concat: bool = True
    dropout: float = 0.05
    block: int | None = 1024
    dtype: Any = jnp.float32
    axis_name: AxisName = None
    whole: Whole | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        features = self.features or x.shape[-1]
        contexts = [
            SelfAttention(
                features,
                self.key_channels,
                self.value_channels,
                scale,
                self.block,
                self.dtype,
                self.axis_name,
                self.whole,
                name=f"stage{i}",
            )(x, train=train)
            for i, scale in enumerate(self.scales)
        ]
        context = functools.reduce(jnp.add, contexts)
        y = ConvNorm(
            features, use_bias=True, dtype=self.dtype, axis_name=self.axis_name, name="project"
        )(*([context, x] if self.concat else [context]), train=train)
        return dropout2d(y, self.dropout, train=train)


class ASPObjectContext(nn.Module):
    """Pyramid object context (OCNet): attention on a half-size map beside dilated convolutions."""

    features: int
    key_channels: int
    value_channels: int
    dilations: Sequence[int] = (12, 24, 36)
    dropout: float = 0.1
    block: int | None = 1024
    dtype: Any = jnp.float32
    axis_name: AxisName = None
    whole: Whole | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shared = {"dtype": self.dtype, "axis_name": self.axis_name}
        y = ConvNorm(self.features, 3, use_bias=True, name="reduce", **shared)(x, train=train)
        branches = [
            ObjectContext(
                self.key_channels,
                self.value_channels,
                self.features,
                scales=(2,),
                concat=False,
                dropout=0.0,
                block=self.block,
                whole=self.whole,
                name="context",
                **shared,
            )(y, train=train)
        ]
        for i, dilation in enumerate(self.dilations):
            layer = ConvNorm(self.features, 3, dilation=dilation, name=f"b{i + 1}", **shared)
            branches.append(layer(x, train=train))
        last = ConvNorm(self.features, name=f"b{len(self.dilations) + 1}", **shared)
        branches.append(last(x, train=train))
        y = ConvNorm(self.features, name="project", **shared)(*branches, train=train)
        return dropout2d(y, self.dropout, train=train)


class PSP(nn.Module):
    """Pyramid pooling and its bottleneck (PSPNet); without ReLU in the branches, as GALD's code.

    official_padding: the 1x1 bottleneck of one official module pads by 1, which makes the map two
      rows and columns larger.
    """

    features: int
    bins: Sequence[int] = (1, 2, 3, 6)
    kernel: int = 3
    official_padding: bool = False
    dropout: float = 0.1
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shared = {"dtype": self.dtype, "axis_name": self.axis_name}
        maps = PyramidPooling(
            self.features, self.bins, relu=False, input_first=False, name="stages", **shared
        )(x, train=train)
        pad = 1 if self.official_padding else None
        y = ConvNorm(self.features, self.kernel, pad=pad, name="bottleneck", **shared)(
            *maps, train=train
        )
        return dropout2d(y, self.dropout, train=train)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017), with the image's average as a branch."""

    features: int
    inner: int = 256
    dilations: Sequence[int] = (12, 24, 36)
    dropout: float = 0.1
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shared = {"dtype": self.dtype, "axis_name": self.axis_name}
        mean = jnp.mean(at_least_float32(x), axis=(1, 2), keepdims=True).astype(self.dtype)
        pooled = ConvNorm(self.inner, name="conv1", **shared)(mean, train=train)
        # The mean stays one position: what a 1x1 convolution makes of it is the same everywhere.
        branches = [pooled, ConvNorm(self.inner, name="conv2", **shared)(x, train=train)]
        for i, dilation in enumerate(self.dilations):
            layer = ConvNorm(self.inner, 3, dilation=dilation, name=f"conv{i + 3}", **shared)
            branches.append(layer(x, train=train))
        y = ConvNorm(self.features, name="bottleneck", **shared)(*branches, train=train)
        return dropout2d(y, self.dropout, train=train)


class EMAttention(nn.Module):
    """Expectation-maximisation attention (Li et al., ICCV 2019): the map rebuilt from k bases.

    The bases are found by `stages` rounds without gradient, starting from `batch_stats/mu` [C, k],
    which follows them slowly while training. Returns the map; `bases` gives (map, bases [N, C, k]).
    """

    k: int = 64
    stages: int = 3
    momentum: float = 0.9
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.bases(x, train=train)[0]

    @nn.compact
    def bases(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        channels = x.shape[-1]

        def start() -> jax.Array:
            mu = jax.random.normal(self.make_rng("params"), (channels, self.k), jnp.float32)
            return _unit(mu * math.sqrt(2 / self.k), axis=0)

        stored = self.variable("batch_stats", "mu", start)
        flat = at_least_float32(Conv(channels, dtype=self.dtype, name="conv1")(x))
        flat = flat.reshape(x.shape[0], -1, channels)
        mu = jnp.broadcast_to(stored.value, (x.shape[0], channels, self.k)).astype(flat.dtype)
        fixed = jax.lax.stop_gradient(flat)
        for _ in range(self.stages):
            z = jax.nn.softmax(jnp.einsum("bnc,bck->bnk", fixed, mu), axis=-1)
            shares = z / (1e-6 + jnp.sum(z, axis=1, keepdims=True))
            mu = _unit(jnp.einsum("bnc,bnk->bck", fixed, shares), axis=1)
        if train and not self.is_initializing():
            mean = jnp.mean(mu, axis=0)
            if self.axis_name is not None:
                mean = jax.lax.pmean(mean, self.axis_name)
            stored.value = self.momentum * stored.value + (1 - self.momentum) * mean
        y = nn.relu(jnp.einsum("bck,bnk->bnc", mu, z)).reshape(x.shape).astype(self.dtype)
        y = ConvNorm(
            channels, relu=False, dtype=self.dtype, axis_name=self.axis_name, name="conv2"
        )(y, train=train)
        return nn.relu(y + x.astype(self.dtype)), mu


def _unit(x: jax.Array, axis: int) -> jax.Array:
    return x / (1e-6 + jnp.linalg.norm(x, axis=axis, keepdims=True))


class SEGate(nn.Module):
    """Squeeze-and-excitation's gate (Hu et al., CVPR 2018): [N, H, W, C] -> [N, 1, 1, features]."""

    features: int
    reduction: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = jnp.mean(at_least_float32(x), axis=(1, 2), keepdims=True).astype(self.dtype)
        y = nn.relu(Conv(self.features // self.reduction, dtype=self.dtype, name="fc0")(y))
        return nn.sigmoid(Conv(self.features, dtype=self.dtype, name="fc2")(y))


class Squeeze(nn.Module):
    """The map scaled by its own SEGate."""

    reduction: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        gate = SEGate(x.shape[-1], self.reduction, self.dtype, name="gate")(x, train=train)
        return x.astype(self.dtype) * gate


class GlobalMean(nn.Module):
    """The plainest aggregation: BN(x + 1x1 convolution of the image's average)."""

    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        mean = jnp.mean(at_least_float32(x), axis=(1, 2), keepdims=True).astype(self.dtype)
        y = x.astype(self.dtype) + Conv(x.shape[-1], dtype=self.dtype, name="conv")(mean)
        return BatchNorm(not train, dtype=self.dtype, axis_name=self.axis_name, name="bn")(y)


class NoAggregation(nn.Module):
    """Passes its input on: the network without global aggregation."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x
