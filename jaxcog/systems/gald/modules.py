"""Local distribution, the blocks and heads around it, and the dual graph convolution (DGCNet)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.errors import ConfigError
from jaxcog.nn.conv_norm import AxisName, Conv, ConvNorm, dropout2d
from jaxcog.nn.precision import at_least_float32
from jaxcog.nn.resize import resize_bilinear_align_corners

MIN_SIDE = 15  # what three unpadded 3x3 convolutions at stride 2 need

Aggregation = Callable[..., jax.Array]
"""A module called as ga(x, train=...) on [N, H, W, C]."""


class LocalDistribution(nn.Module):
    """A mask per channel and position from the size of the local pattern (TIP 2021, section III-B).

    Three depthwise 3x3 convolutions at stride 2 without padding, each with batch norm and ReLU,
    resized back, then a sigmoid: [N, H, W, C] -> x + x * mask.

    Attributes:
      mask_relu: whether the last of them has its ReLU. With it (the official code) the mask lies in
        [0.5, 1) and cannot close.
      return_mask: return (x + x * mask, mask).
      even: replace each channel's mask by its average over the image, to see what locality does.

    Raises:
      ConfigError: fewer than 15 rows or columns.
    """

    mask_relu: bool = True
    return_mask: bool = False
    even: bool = False
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array | tuple[jax.Array, jax.Array]:
        channels = x.shape[-1]
        if min(x.shape[1:3]) < MIN_SIDE:
            raise ConfigError(
                f"local distribution needs maps of at least {MIN_SIDE} x {MIN_SIDE}, got "
                f"{x.shape[1]} x {x.shape[2]}: use larger images or crops (at stride 8 at least "
                f"{8 * MIN_SIDE - 7} pixels a side)"
            )
        y = x
        for i in range(3):
            y = ConvNorm(
                channels,
                3,
                stride=2,
                pad=0,
                groups=channels,
                use_bias=True,
                relu=i < 2 or self.mask_relu,
                dtype=self.dtype,
                axis_name=self.axis_name,
                name=f"dconv{i + 1}",
            )(y, train=train)
        mask = nn.sigmoid(resize_bilinear_align_corners(y, x.shape[1:3]))
        if self.even:
            mask = jnp.broadcast_to(jnp.mean(mask, axis=(1, 2), keepdims=True), mask.shape)
        x = x.astype(self.dtype)
        out = x + x * mask
        return (out, mask) if self.return_mask else out


class GALDBlock(nn.Module):
    """Global aggregation at half resolution, then local distribution: [N, H, W, C] -> the same.

    Attributes:
      aggregate: makes the aggregation, given the name that it must have.
      distribute: False leaves the local distribution out.
      downsample: aggregate at half resolution (the official code; the paper's figure does not).
      block_residual: add the aggregated map once more: u * (2 + m) instead of u * (1 + m).
      mask_relu, even_mask: see LocalDistribution.
      place: says where the map to aggregate lives on a mesh; None on one device.
    """

    aggregate: Callable[[str], Aggregation]
    distribute: bool = True
    downsample: bool = True
    block_residual: bool = True
    mask_relu: bool = True
    even_mask: bool = False
    place: Callable[[jax.Array], jax.Array] | None = None
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels, shared = x.shape[-1], {"dtype": self.dtype, "axis_name": self.axis_name}
        y = x
        if self.downsample:
            y = ConvNorm(
                channels, 3, stride=2, pad=0, groups=channels, use_bias=True, name="down", **shared
            )(y, train=train)
        if self.place is not None:
            y = self.place(y)
        y = self.aggregate("long_relation")(y, train=train)
        u = resize_bilinear_align_corners(y, x.shape[1:3])
        if not self.distribute:
            return u
        local = LocalDistribution(
            self.mask_relu, True, self.even_mask, name="local_attention", **shared
        )
        out, mask = local(u, train=train)
        self.sow("intermediates", "mask", mask)
        return out + u if self.block_residual else out


class SpatialGCN(nn.Module):
    """Graph convolution over positions (DGCNet): channels attend to channels.

    S = softmax(q^T v) over channels, y = k S; then a 1x1 convolution of nodes and one back, ReLU
    after the shortcut. `q^T v` grows with the number of positions; `normalize_by_positions` divides
    it (not in the official code).
    """

    normalize_by_positions: bool = False
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        n, height, width, channels = x.shape
        inner = channels // 2

        def nodes(name: str) -> jax.Array:
            y = Conv(inner, dtype=self.dtype, name=name)(x)
            return at_least_float32(y.reshape(n, -1, inner))

        key, value, query = nodes("node_k"), nodes("node_v"), nodes("node_q")
        scores = jnp.einsum("bni,bnj->bij", query, value)
        if self.normalize_by_positions:
            scores = scores / (height * width)
        y = jnp.einsum("bni,bij->bnj", key, jax.nn.softmax(scores, axis=-1))
        y = _NodeConv(inner, self.dtype, self.axis_name, name="wg")(y, train=train)
        y = y.reshape(n, height, width, inner)
        y = ConvNorm(
            channels,
            use_bias=True,
            relu=False,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="out",
        )(y, train=train)
        return nn.relu(y + x.astype(self.dtype))


class _NodeConv(nn.Module):
    """A bias-free 1x1 convolution and batch norm over nodes: [N, nodes, C] -> [N, nodes, C']."""

    features: int
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        layer = ConvNorm(
            self.features, relu=False, dtype=self.dtype, axis_name=self.axis_name, name="node"
        )
        return layer(x[:, :, None, :], train=train)[:, :, 0, :]


class DualGCN(nn.Module):
    """Dual graph convolution (BMVC 2019): over positions at 1/8 of the map's size, over channels.

    ratio: input channels over nodes of the channel graph.
    """

    ratio: int = 4
    normalize_by_positions: bool = False
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels, shared = x.shape[-1], {"dtype": self.dtype, "axis_name": self.axis_name}
        local = x
        for i in range(3):
            local = ConvNorm(
                channels, 3, stride=2, groups=channels, relu=False, name=f"local{i}", **shared
            )(local, train=train)
        local = SpatialGCN(self.normalize_by_positions, name="gcn_local_attention", **shared)(
            local, train=train
        )
        local = resize_bilinear_align_corners(local, x.shape[1:3])
        x = x.astype(self.dtype)
        spatial = x * local + x
        channel = self._channel_graph(x, train)
        final = ConvNorm(channels, relu=False, name="final", **shared)
        return final(spatial, channel, train=train)

    def _channel_graph(self, x: jax.Array, train: bool) -> jax.Array:
        n, height, width, channels = x.shape
        shared = {"dtype": self.dtype, "axis_name": self.axis_name}

        def flat(features: int, name: str) -> jax.Array:
            y = ConvNorm(features, relu=False, name=name, **shared)(x, train=train)
            return at_least_float32(y.reshape(n, -1, features))

        states = 2 * channels // self.ratio
        nodes = channels // self.ratio
        phi, theta = flat(states, "phi"), flat(nodes, "theta")
        z = jnp.einsum("bns,bnt->bst", phi, theta)
        if self.normalize_by_positions:
            z = z / (height * width)
        # Along the nodes, then along the states: [N, states, nodes] has nodes last already.
        z = z + at_least_float32(_NodeConv(nodes, name="adj", **shared)(z, train=train))
        z = jnp.swapaxes(z, 1, 2)
        z = at_least_float32(_NodeConv(states, name="wg", **shared)(z, train=train))
        y = jnp.einsum("bnt,bts->bns", theta, z).reshape(n, height, width, states)
        y = ConvNorm(channels, relu=False, name="conv3", **shared)(
            y.astype(self.dtype), train=train
        )
        return nn.relu(x + y)


class ContextHead(nn.Module):
    """conva, a context block, convb, then beside the trunk's map into the classifier.

    [N, H, W, C] -> logits [N, H, W, num_classes] (float32).

    Attributes:
      block: makes the context block, given the name that it must have; None leaves it out.
      block_name: of the block's variables.
    """

    num_classes: int
    block: Callable[[str], Aggregation] | None
    block_name: str = "a2block"
    width: int = 512
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def layer(name: str) -> ConvNorm:
            return ConvNorm(self.width, 3, dtype=self.dtype, axis_name=self.axis_name, name=name)

        y = layer("conva")(x, train=train)
        if self.block is not None:
            y = self.block(self.block_name)(y, train=train)
        y = layer("convb")(y, train=train)
        y = layer("bottleneck")(x, y, train=train)
        logits = Conv(self.num_classes, dtype=self.dtype, name="classifier")(y)
        return at_least_float32(logits)


class AuxiliaryHead(nn.Module):
    """Classifier on layer3 that only training uses: [N, H, W, C] -> [N, H, W, num_classes].

    relu: GALD has one before its dropout, DGCNet has not.
    """

    num_classes: int
    width: int = 512
    relu: bool = True
    dropout: float = 0.1
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = ConvNorm(
            self.width,
            3,
            use_bias=True,
            relu=self.relu,
            dtype=self.dtype,
            axis_name=self.axis_name,
            name="inner",
        )(x, train=train)
        y = dropout2d(y, self.dropout, train=train)
        logits = Conv(self.num_classes, dtype=self.dtype, name="classifier")(y)
        return at_least_float32(logits)
