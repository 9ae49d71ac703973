"""Pyramid pooling (Zhao et al., CVPR 2017): averages over regions of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.interop.names import Rename, Rule, batch_norm
from jaxcog.nn.conv_norm import AxisName, ConvNorm
from jaxcog.nn.resize import adaptive_avg_pool, resize_bilinear_align_corners

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """Branches of pooled context beside the map itself.

    For each b of `bins`: adaptive average to b x b, `stage{i}` = 1x1 convolution to `width`, batch
    norm (and ReLU), bilinear back with aligned corners.

    [N, H, W, C] -> that and one map [N, H, W, width] for each bin, to be convolved side by side.

    Attributes:
      relu: after each branch's batch norm. Semantic-segmentation toolboxes have it (semseg, CWT),
        the GALD repository has not.
      input_first: whether the map stands before its branches, or behind them.
    """

    width: int
    bins: Sequence[int] = BINS
    relu: bool = True
    input_first: bool = True
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        branches = []
        for i, bins in enumerate(self.bins):
            y = adaptive_avg_pool(x, (bins, bins))
            y = ConvNorm(
                self.width,
                relu=self.relu,
                dtype=self.dtype,
                axis_name=self.axis_name,
                name=f"stage{i}",
            )(y, train=train)
            branches.append(resize_bilinear_align_corners(y, x.shape[1:3]))
        x = x.astype(self.dtype)
        return [x, *branches] if self.input_first else [*branches, x]


def pyramid_rules(torch_prefix: str, our_prefix: str) -> tuple[Rule, ...]:
    """Names of the branches.

    Args:
      torch_prefix: regular expression of what stands before ".0.1.weight" (r"ppm\\.features").
      our_prefix: module path of the PyramidPooling, with its slash.
    """
    return (
        Rename(
            torch_prefix + r"\.(\d)\.1\.weight", rf"params/{our_prefix}stage\1/conv/kernel", "conv"
        ),
        *batch_norm(torch_prefix + r"\.(\d)\.2", rf"{our_prefix}stage\1/bn"),
    )
