"""ResNet that keeps a map at stride 8, for segmentation (Chen et al. 2017; Zhao et al. 2017)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.interop.names import Ignore, Rename, Rule, batch_norm
from jaxcog.nn.norm import BatchNorm
from jaxcog.nn.resize import max_pool_ceil
from jaxcog.nn.resnet import STAGES, Bottleneck, conv, max_pool
from jaxcog.nn.resnet_names import resnet_rules

DEPTHS = (50, 101, 152)
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_STRIDES = (1, 2, 1, 1)

Place = Callable[[jax.Array], jax.Array]
"""Says where an activation [N, H, W, C] lives on a mesh; the identity on one device."""


class DilatedResNet(nn.Module):
    """Bottleneck ResNet whose layer3 and layer4 dilate instead of striding.

    Images [N, H, W, 3] -> {"stem", "layer1" .. "layer4"}: maps at stride 4, 4, 8, 8, 8 with 128 (64
    with the plain stem), 256, 512, 1024, 2048 channels.

    Variables: conv{1,2,3}, bn{1,2,3} of the stem (plain: conv1, bn1), layer{k}_{i}/..., as ResNet.

    Attributes:
      depth: 50, 101 or 152.
      stem: "deep": three 3x3 convolutions (64, 64, 128); "plain": one 7x7 (64), as torchvision.
      multi_grid: factors on the dilation of layer4's three blocks; (1, 1, 1) for PSPNet and CWT.
      dilations: of layer3 and layer4.
      pool_ceil: whether the max pooling rounds its size up (GALD, PSANet) or down (semseg).
      width: channels of layer1's inner convolutions; 64 but for tiny networks. The stem has as
        many (twice as many at its end), the other stages 2, 4 and 8 times as many.
      blocks: bottlenecks per stage, instead of those of `depth`.
      remat: compute each block's activations again in the backward pass instead of keeping them.
      place: see Place; applied after the stem and every block.
    """

    depth: int = 50
    stem: Literal["deep", "plain"] = "deep"
    multi_grid: Sequence[int] = (1, 2, 4)
    dilations: Sequence[int] = (2, 4)
    pool_ceil: bool = True
    width: int = 64
    blocks: Sequence[int] | None = None
    remat: bool = False
    dtype: Any = jnp.float32
    axis_name: str | tuple[str, ...] | None = None
    place: Place | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """train: batch norms use and update batch statistics.

        Raises:
          ValueError: a depth without published layout.
        """
        if self.depth not in _BLOCKS:
            raise ValueError(f"DilatedResNet depth {self.depth}: one of {DEPTHS}")
        place = self.place or (lambda y: y)
        x = self._stem(x.astype(self.dtype), train)
        x = place(max_pool_ceil(x) if self.pool_ceil else max_pool(x))
        maps = {"stem": x}

        def run(block: Bottleneck, y: jax.Array) -> jax.Array:
            return block(y, norm_train=train)

        step = nn.remat(run) if self.remat and train else run
        counts = self.blocks or _BLOCKS[self.depth]
        for stage, (name, count) in enumerate(zip(STAGES, counts, strict=True)):
            for i in range(count):
                block = Bottleneck(
                    self.width * 2**stage,
                    stride=_STRIDES[stage] if i == 0 else 1,
                    dilation=self._dilation(stage, i),
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f"{name}_{i}",
                )
                x = place(step(block, x))
            maps[name] = x
        return maps

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        shared = {"dtype": self.dtype, "axis_name": self.axis_name}

        def layer(x: jax.Array, i: int, features: int, kernel: int, stride: int) -> jax.Array:
            x = conv(features, kernel, stride=stride, dtype=self.dtype, name=f"conv{i}")(x)
            return nn.relu(BatchNorm(not train, name=f"bn{i}", **shared)(x))

        if self.stem == "plain":
            return layer(x, 1, self.width, 7, 2)
        x = layer(x, 1, self.width, 3, 2)
        x = layer(x, 2, self.width, 3, 1)
        return layer(x, 3, 2 * self.width, 3, 1)

    def _dilation(self, stage: int, block: int) -> int:
        if stage < 2:
            return 1
        factor = self.multi_grid[block % len(self.multi_grid)] if stage == 3 else 1
        return self.dilations[stage - 2] * factor


def flat_stem_rules(torch_prefix: str = "", our_prefix: str = "") -> tuple[Rule, ...]:
    """Trunk names with the stem's layers side by side: conv1, bn1, conv2, bn2, conv3, bn3.

    Also torchvision's (conv1, bn1). Prefixes as in `resnet_rules`.
    """
    torch = re.escape(torch_prefix)
    return (
        Rename(torch + r"conv(\d)\.weight", rf"params/{our_prefix}conv\1/kernel", "conv"),
        *batch_norm(torch + r"bn(\d)", rf"{our_prefix}bn\1"),
        *resnet_rules(torch_prefix, our_prefix),
    )


def sequential_stem_rules(torch_prefix: str = "", our_prefix: str = "") -> tuple[Rule, ...]:
    """Trunk names with the stem in a Sequential: conv1.0, .1, .3, .4, .6, then bn1 after it."""
    torch, ours = re.escape(torch_prefix), our_prefix
    rules: list[Any] = [
        Rename(torch + rf"conv1\.{index}\.weight", f"params/{ours}conv{i}/kernel", "conv")
        for i, index in ((1, 0), (2, 3), (3, 6))
    ]
    norms = ((1, r"conv1\.1"), (2, r"conv1\.4"), (3, "bn1"))
    rules += [rule for i, name in norms for rule in batch_norm(torch + name, f"{ours}bn{i}")]
    return (*rules, *resnet_rules(torch_prefix, our_prefix))


CLASSIFIER = Ignore(r"fc\.(weight|bias)")
"""ImageNet files hold a classifier that segmentation has no use for."""
