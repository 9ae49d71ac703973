"""EfficientNet (Tan and Le 2019) with TensorFlow's padding, as the `tf_efficientnet_*` weights.

Pure functions over named variables. The network runs in parts, so that a frozen beginning can be
computed by itself: PARTS are the stem, seven stages and the head.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.conv_norm import depthwise
from jaxcog.nn.layers import fold_layers
from jaxcog.nn.norm import BatchNorm
from jaxcog.nn.precision import at_least_float32

Tree = Any
AxisName = str | tuple[str, ...] | None

BN_EPS = 1e-3
PARTS = ("stem", *(f"stage{i}" for i in range(7)), "head")

# stage: (kernel, stride, expansion, channels of B0, blocks of B0)
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)

VARIANTS = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
"""Name -> (width, depth) multipliers."""


@dataclasses.dataclass(frozen=True)
class Block:
    """One block: `expansion` 1 is depthwise-separable, others are inverted residuals."""

    kernel: int
    stride: int
    expansion: int
    inputs: int
    outputs: int

    @property
    def squeezed(self) -> int:
        return max(round(0.25 * self.inputs), 1)


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
    """Multipliers of B0's channels and blocks (see VARIANTS)."""

    width: float = 1.0
    depth: float = 1.0

    def channels(self, of_b0: int) -> int:
        """Nearest multiple of 8, at least 8, and not below 90 % of the exact number."""
        exact = of_b0 * self.width
        rounded = max(8, int(exact + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * exact else rounded

    @property
    def stem(self) -> int:
        return self.channels(32)

    @property
    def features(self) -> int:
        """Channels of the resulting map."""
        return self.channels(1280)

    @property
    def stages(self) -> tuple[tuple[Block, ...], ...]:
        inputs, stages = self.stem, []
        for kernel, stride, expansion, channels, count in _STAGES:
            outputs = self.channels(channels)
            blocks = [Block(kernel, stride, expansion, inputs, outputs)]
            repeats = math.ceil(self.depth * count) - 1
            blocks += [Block(kernel, 1, expansion, outputs, outputs)] * repeats
            stages.append(tuple(blocks))
            inputs = outputs
        return tuple(stages)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after, by which TensorFlow gives ceil(size / stride) outputs."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


_fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class _Conv(nn.Module):
    """Convolution with TensorFlow's SAME padding: [N, H, W, C] -> [N, ceil(H/s), ceil(W/s), F]."""

    features: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = 1 if self.depthwise else x.shape[-1]
        shape = (self.kernel, self.kernel, inputs, self.features)
        kernel = self.param("kernel", _fan_out_normal, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        pads = [same_padding(size, self.kernel, self.stride) for size in x.shape[1:3]]
        if self.depthwise:
            y = _depthwise(x, kernel, self.stride, pads)
        else:
            y = _convolve(x, kernel, self.stride, pads)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        return y


def _convolve(
    x: jax.Array, kernel: jax.Array, stride: int, pads: Any, groups: int = 1
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _depthwise(x: jax.Array, kernel: jax.Array, stride: int, pads: Any) -> jax.Array:
    """A grouped convolution on accelerators, shifted products on the CPU, where it is slow."""

    def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return depthwise(jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel, stride)

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _convolve(x, kernel, stride, pads, x.shape[-1])

    return jax.lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


class _Block(nn.Module):
    """[N, H, W, inputs] -> [N, ceil(H/stride), ceil(W/stride), outputs]."""

    block: Block
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        block, separable = self.block, self.block.expansion == 1
        # Official names: batch norms are counted, and a separable block has one convolution less.
        norms = iter(("bn1", "bn2", "bn3"))

        def norm(y: jax.Array) -> jax.Array:
            return BatchNorm(
                not train, BN_EPS, dtype=self.dtype, axis_name=self.axis_name, name=next(norms)
            )(y)

        def conv(features: int, name: str, **options: Any) -> _Conv:
            return _Conv(features, dtype=self.dtype, name=name, **options)

        y, middle = x, block.inputs * block.expansion
        if not separable:
            y = nn.swish(norm(conv(middle, "conv_pw")(y)))
        y = conv(middle, "conv_dw", kernel=block.kernel, stride=block.stride, depthwise=True)(y)
        y = nn.swish(norm(y))
        squeezed = jnp.mean(at_least_float32(y), axis=(1, 2), keepdims=True)
        gate = nn.swish(conv(block.squeezed, "se_reduce", use_bias=True)(squeezed))
        y = y * nn.sigmoid(conv(middle, "se_expand", use_bias=True)(gate))
        y = norm(conv(block.outputs, "conv_pw" if separable else "conv_pwl")(y))
        return x + y if block.stride == 1 and block.inputs == block.outputs else y


class _ConvNorm(nn.Module):
    """Stem and head: convolution, batch norm, swish, under the official names."""

    features: int
    kernel: int
    stride: int
    names: tuple[str, str]
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, bn = self.names
        y = _Conv(self.features, self.kernel, self.stride, dtype=self.dtype, name=conv)(x)
        norm = BatchNorm(not train, BN_EPS, dtype=self.dtype, axis_name=self.axis_name, name=bn)
        return nn.swish(norm(y))


def init_efficientnet(key: jax.Array, config: EfficientNetConfig) -> tuple[Tree, Tree]:
    """(params, batch statistics): {"conv_stem", "bn1", "blocks_0_0", ..., "conv_head", "bn2"}."""
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}

    def add(module: nn.Module, inputs: int, number: int, name: str | None = None) -> None:
        made = _initialiser(module, inputs)(jax.random.fold_in(key, number))
        params.update(made["params"] if name is None else {name: made["params"]})
        stats.update(made["batch_stats"] if name is None else {name: made["batch_stats"]})

    add(_end("stem", config), 3, 0)
    for s, stage in enumerate(config.stages):
        for b, block in enumerate(stage):
            add(_Block(block), block.inputs, 1 + len(params), f"blocks_{s}_{b}")
    add(_end("head", config), config.stages[-1][-1].outputs, 1 + len(params))
    return params, stats


def _end(part: str, config: EfficientNetConfig, **options: Any) -> _ConvNorm:
    if part == "stem":
        return _ConvNorm(config.stem, 3, 2, ("conv_stem", "bn1"), **options)
    return _ConvNorm(config.features, 1, 1, ("conv_head", "bn2"), **options)


def efficientnet(
    params: Tree,
    stats: Tree,
    x: jax.Array,
    config: EfficientNetConfig,
    *,
    train: bool,
    parts: Sequence[str] = PARTS,
    scan: bool = False,
    remat: bool = False,
    dtype: Any = jnp.float32,
    axis_name: AxisName = None,
) -> tuple[jax.Array, Tree, dict[str, jax.Array]]:
    """Images [N, H, W, 3] (normalised) -> map [N, ceil(H/32), ceil(W/32), features].

    Args:
      params, stats: as `init_efficientnet` makes them; may hold only what `parts` need.
      train: normalise with the batch's statistics.
      parts: consecutive PARTS; x is then the output of the part before the first.
      scan: one compiled block for the equal blocks of a stage.
      remat: keep only the inputs of blocks for the gradient.
      dtype: of the arithmetic; statistics are float32.
      axis_name: mapped axis over which batch norm statistics are averaged.

    Returns:
      (activations, new batch statistics of these parts, output of every part by name).
    """
    options = {"dtype": dtype, "axis_name": axis_name}
    new: dict[str, Any] = {}
    outputs: dict[str, jax.Array] = {}
    x = x.astype(dtype)
    for part in parts:
        if part in ("stem", "head"):
            module = _end(part, config, **options)
            x, changed = _apply(module, params, stats, module.names, x, train)
            new.update(changed)
        else:
            stage = int(part.removeprefix("stage"))
            x, changed = _run_stage(params, stats, x, config, stage, train, scan, remat, options)
            new.update(changed)
        outputs[part] = x
    return x, new, outputs


@functools.cache
def _body(module: nn.Module, train: bool) -> Any:
    """(x, variables) -> (y, new statistics), jitted so that equal blocks are traced once."""

    @jax.jit
    def body(x: jax.Array, layer: Tree) -> tuple[jax.Array, Tree]:
        y, changed = module.apply(layer, x, train=train, mutable=["batch_stats"])
        return y, changed["batch_stats"]

    return body


@functools.cache
def _initialiser(module: nn.Module, inputs: int) -> Any:
    """key -> variables of one block, traced once for equal blocks."""
    return jax.jit(lambda key: module.init(key, jnp.zeros((1, 8, 8, inputs)), train=False))


def _apply(
    module: nn.Module, params: Tree, stats: Tree, names: Sequence[str], x: jax.Array, train: bool
) -> tuple[jax.Array, Tree]:
    def own(tree: Tree) -> Tree:
        return {name: tree[name] for name in names if name in tree}

    variables = {"params": own(params), "batch_stats": own(stats)}
    return _body(module, train)(x, variables)


def _run_stage(
    params: Tree,
    stats: Tree,
    x: jax.Array,
    config: EfficientNetConfig,
    stage: int,
    train: bool,
    scan: bool,
    remat: bool,
    options: dict[str, Any],
) -> tuple[jax.Array, Tree]:
    """The first block of a stage by itself, then the others, which are equal."""
    blocks = config.stages[stage]
    new: dict[str, Any] = {}
    for group in (range(1), range(1, len(blocks))):
        if not len(group):
            continue
        module = _Block(blocks[group[0]], **options)

        names = [f"blocks_{stage}_{i}" for i in group]
        layers = [{"params": params[name], "batch_stats": stats[name]} for name in names]
        x, changed = fold_layers(_body(module, train), x, layers, scan=scan, remat=remat)
        new.update(zip(names, changed, strict=True))
    return x, new
