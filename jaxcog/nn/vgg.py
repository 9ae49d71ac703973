"""VGG (Simonyan and Zisserman 2015) as in torchvision, and as a trunk for segmentation."""

from __future__ import annotations

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.interop.names import Rule, flatten_chw, linear
from jaxcog.interop.names import batch_norm as norm_rules
from jaxcog.interop.names import conv as conv_rules
from jaxcog.nn.conv_norm import AxisName
from jaxcog.nn.initializers import kaiming_normal_fan_out
from jaxcog.nn.norm import BatchNorm
from jaxcog.nn.resize import adaptive_avg_pool, max_pool_ceil
from jaxcog.nn.resnet import Between, max_pool

STAGES = ("stage1", "stage2", "stage3", "stage4", "stage5")
_LAYERS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
DEPTHS = tuple(_LAYERS)
_POOLED = 7  # side of the map that the classifier reads


class VGG(nn.Module):
    """The convolutions of VGG.

    Images [N, H, W, 3] -> {"stage1" .. "stage5"}: the map after each stage's convolutions and
    pooling, with width, 2, 4, 8, 8 times width channels at stride 2, 4, 8, 16, 32.

    Variables: conv{stage}_{i}, and bn{stage}_{i} with `batch_norm`; i counts from 1.

    Attributes:
      depth: 11, 13, 16 or 19.
      batch_norm: between each convolution and its ReLU.
      last_pool: whether stage5 ends with a pooling; without it the stride stays 16.
      pool_ceil: whether pooling rounds odd sizes up instead of dropping a row.
      width: channels of stage1; 64 but for tiny networks.
    """

    depth: int = 16
    batch_norm: bool = False
    last_pool: bool = True
    pool_ceil: bool = False
    width: int = 64
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, between: Between | None = None
    ) -> dict[str, jax.Array]:
        """train: batch norms use and update batch statistics.

        between: called after each stage with its name and output.

        Raises:
          ValueError: a depth without published layout.
        """
        if self.depth not in _LAYERS:
            raise ValueError(f"VGG depth {self.depth}: one of {DEPTHS}")
        x = x.astype(self.dtype)
        maps = {}
        for stage, (name, count) in enumerate(zip(STAGES, _LAYERS[self.depth], strict=True), 1):
            for i in range(1, count + 1):
                x = nn.Conv(
                    self.width * min(2 ** (stage - 1), 8),
                    (3, 3),
                    padding=((1, 1), (1, 1)),
                    dtype=self.dtype,
                    kernel_init=kaiming_normal_fan_out,
                    name=f"conv{stage}_{i}",
                )(x)
                if self.batch_norm:
                    x = BatchNorm(
                        not train,
                        dtype=self.dtype,
                        axis_name=self.axis_name,
                        name=f"bn{stage}_{i}",
                    )(x)
                x = nn.relu(x)
            if stage < len(STAGES) or self.last_pool:
                x = (max_pool_ceil if self.pool_ceil else max_pool)(x, 2, 2, 0)
            x = x if between is None else between(name, x)
            maps[name] = x
        return maps


class VGGClassifier(nn.Module):
    """The three linear layers behind "stage5": [N, H, W, C] -> logits [N, classes].

    Variables fc1, fc2, fc3. The random stream is called "dropout".

    Attributes:
      width: of fc1 and fc2.
    """

    classes: int = 1000
    width: int = 4096
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = adaptive_avg_pool(x, (_POOLED, _POOLED)).astype(self.dtype)
        x = x.reshape(x.shape[0], -1)
        init = nn.initializers.normal(0.01)
        for name in ("fc1", "fc2"):
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, dtype=self.dtype, kernel_init=init, name="fc3")(x)


def vgg_rules(
    torch_prefix: str = "features.",
    our_prefix: str = "",
    *,
    depth: int = 16,
    batch_norm: bool = False,
) -> tuple[Rule, ...]:
    """torchvision's key names of the convolutions, "features.0.weight".

    Args:
      torch_prefix: what stands before the index in the file, with its dot.
      our_prefix: the module path of the VGG below "params", with its slash.
    """
    rules: list[Rule] = []
    first = 0
    for stage, count in enumerate(_LAYERS[depth], 1):
        ours = f"{our_prefix}%s{stage}_%d"
        rules += _sequence(re.escape(torch_prefix), first, ours, count, batch_norm)
        first += count * (3 if batch_norm else 2) + 1
    return tuple(rules)


def vgg_stage_rules(
    torch_prefix: str = "layer", our_prefix: str = "", *, depth: int = 16
) -> tuple[Rule, ...]:
    """Names where each stage is a Sequential of its own, with batch norms: "layer0.1.weight".

    The arguments are those of `vgg_rules`; `torch_prefix` stands before the stage's number, which
    counts from 0.
    """
    rules: list[Rule] = []
    for stage, count in enumerate(_LAYERS[depth]):
        torch = rf"{re.escape(torch_prefix)}{stage}\."
        rules += _sequence(torch, 0, f"{our_prefix}%s{stage + 1}_%d", count, True)
    return tuple(rules)


def _sequence(torch: str, first: int, ours: str, count: int, batch_norm: bool) -> list[Rule]:
    """A Sequential of `count` times convolution, batch norm (if any), ReLU from place `first` on.

    ours: path with places for "conv" or "bn" and the number of the layer.
    """
    rules: list[Rule] = []
    for i in range(count):
        index = first + i * (3 if batch_norm else 2)
        rules += conv_rules(f"{torch}{index}", ours % ("conv", i + 1))
        if batch_norm:
            rules += norm_rules(f"{torch}{index + 1}", ours % ("bn", i + 1))
    return rules


def vgg_classifier_rules(
    torch_prefix: str = "classifier.", our_prefix: str = "", *, channels: int = 512
) -> tuple[Rule, ...]:
    """torchvision's names of the linear layers. channels: of "stage5"."""
    torch = re.escape(torch_prefix)
    return (
        *linear(rf"{torch}0", f"{our_prefix}fc1", flatten_chw(channels, _POOLED, _POOLED)),
        *linear(rf"{torch}3", f"{our_prefix}fc2"),
        *linear(rf"{torch}6", f"{our_prefix}fc3"),
    )
