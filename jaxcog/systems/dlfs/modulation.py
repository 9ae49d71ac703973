"""What a modulated convolution costs: one shared kernel against a kernel for each example.

`ops.modulated_conv2d` scales, convolves with the stored kernel, and scales. The definition, which
the official code runs, makes a kernel for each example and convolves in groups. `compare` compiles
both, and runs neither.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcog.nn.precision import at_least_float32
from jaxcog.systems.dlfs import ops

Convolution = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def grouped_modulated_conv2d(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, style: jax.Array
) -> jax.Array:
    """`ops.modulated_conv2d` by definition: a kernel for each example, examples as groups.

    x: [B, H, W, Cin], kernel [k, k, Cin, Cout], bias [Cout], style [B, Cin] -> [B, H, W, Cout].
    """
    b, h, w, channels = x.shape
    k, _, _, features = kernel.shape
    wide = at_least_float32(kernel) * ops.equalized_scale(kernel.shape)
    own = at_least_float32(style)[:, None, None, :, None] * wide
    own = own * jax.lax.rsqrt(jnp.sum(own**2, axis=(1, 2, 3), keepdims=True) + ops.EPS)
    own = jnp.moveaxis(own, 0, 3).reshape(k, k, channels, b * features).astype(x.dtype)
    padded = ops.reflect_pad(x, k // 2)
    together = jnp.moveaxis(padded, 0, 2).reshape(1, *padded.shape[1:3], b * channels)
    y = jax.lax.conv_general_dilated(
        together,
        own,
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=b,
    )
    return jnp.moveaxis(y.reshape(h, w, b, features), 2, 0) + bias.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run, as XLA's cost analysis counts it after optimisation.

    flops, bytes_accessed: all operations. temporary_bytes: memory beside arguments and results.
    """

    flops: float
    bytes_accessed: float
    temporary_bytes: int


def compare(
    batch: int,
    size: int,
    channels: int,
    *,
    dtype: str = "bfloat16",
    gradient: bool = True,
    device: jax.Device | None = None,
) -> dict[str, Cost]:
    """Costs of "shared" (ours) and "grouped" kernels, 3 x 3, as many channels out as in.

    Args:
      batch, size: images [batch, size, size, channels].
      gradient: with the gradients of x, kernel, bias and style; otherwise the output alone.
      device: what is compiled for, such as one of `jaxcog.planning.topology.devices`; None: the
        first of this machine.
    """
    place = jax.sharding.SingleDeviceSharding(device or jax.devices()[0])

    def array(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    arguments = (
        array(batch, size, size, channels, dtype=dtype),
        array(3, 3, channels, channels),
        array(channels),
        array(batch, channels),
    )
    convolutions = {"shared": ops.modulated_conv2d, "grouped": grouped_modulated_conv2d}
    return {
        name: _cost(_with_gradients(run) if gradient else run, arguments)
        for name, run in convolutions.items()
    }


def _with_gradients(run: Convolution) -> Callable[..., object]:
    def loss(*arguments: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(at_least_float32(run(*arguments))))

    return jax.grad(loss, argnums=(0, 1, 2, 3))


def _cost(run: Callable[..., object], arguments: tuple[jax.ShapeDtypeStruct, ...]) -> Cost:
    compiled = jax.jit(run).lower(*arguments).compile()
    analysis: Any = compiled.cost_analysis()
    memory: Any = compiled.memory_analysis()
    return Cost(analysis["flops"], analysis["bytes accessed"], memory.temp_size_in_bytes)
