"""Arithmetic of a program as it is written: its matrix products and convolutions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr


@dataclasses.dataclass(frozen=True)
class Window:
    """One spatial dimension of a convolution, in XLA's terms (see its operation semantics)."""

    input: int
    kernel: int
    output: int
    stride: int = 1
    pad: int = 0  # before the first element
    input_dilation: int = 1
    kernel_dilation: int = 1

    def products(self) -> int:
        """Pairs (output, kernel position) that meet an element, not padding or a dilation's gap."""
        at = (
            np.arange(self.output)[:, None] * self.stride
            + np.arange(self.kernel)[None, :] * self.kernel_dilation
            - self.pad
        )
        inside = (at >= 0) & (at <= (self.input - 1) * self.input_dilation)
        return int(np.sum(inside & (at % self.input_dilation == 0)))


def convolution_flops(
    batch: int, inputs_per_group: int, outputs: int, windows: Sequence[Window]
) -> int:
    """FLOPs (two per multiply-add) of a convolution.

    Args:
      batch: of the output. inputs_per_group: input features that one output feature sees.
      outputs: output features. windows: spatial dimensions.
    """
    positions = math.prod(window.products() for window in windows)
    return 2 * batch * inputs_per_group * outputs * positions


def program_flops(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """FLOPs of the matrix products and convolutions of a traced program, over all its devices.

    `scan` counts as often as it runs, a `while` of unknown length once, a `cond` as its most
    expensive branch, a `shard_map` once per device. Recomputation that the program asks for
    (`jax.checkpoint`) counts; what a compiler adds does not.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lhs, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        return 2 * math.prod(out) * math.prod(lhs[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "cond":
        return max(program_flops(branch) for branch in params["branches"])
    times = 1
    if name == "scan":
        times = params["length"]
    elif name == "shard_map":
        axes = params["newly_manual_axes"]
        times = math.prod(params["mesh"].shape[axis] for axis in axes)
    return times * sum(program_flops(inner) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (Jaxpr, ClosedJaxpr)):
                yield item


def _convolution(equation: Any) -> int:
    params = equation.params
    lhs, rhs = (variable.aval.shape for variable in equation.invars[:2])
    out = equation.outvars[0].aval.shape
    numbers = params["dimension_numbers"]
    windows = [
        Window(
            input=lhs[numbers.lhs_spec[axis + 2]],
            kernel=rhs[numbers.rhs_spec[axis + 2]],
            output=out[numbers.out_spec[axis + 2]],
            stride=params["window_strides"][axis],
            pad=params["padding"][axis][0],
            input_dilation=params["lhs_dilation"][axis],
            kernel_dilation=params["rhs_dilation"][axis],
        )
        for axis in range(len(lhs) - 2)
    ]
    return convolution_flops(
        batch=out[numbers.out_spec[0]],
        inputs_per_group=rhs[numbers.rhs_spec[1]],
        outputs=out[numbers.out_spec[1]],
        windows=windows,
    )
