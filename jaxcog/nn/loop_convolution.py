"""A convolution whose gradient stays cheap inside `lax.scan` on a CPU."""

from __future__ import annotations

import jax

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _convolve(
    x: jax.Array, kernel: jax.Array, padding: str | tuple[tuple[int, int], ...]
) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_DIMENSIONS)


@jax.custom_vjp
def same_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution of stride 1 that keeps the size: [B, H, W, I], [h, w, I, O] -> [B, H, W, O].

    h and w are odd. The value and both gradients are those of `lax.conv_general_dilated`, but the
    gradients are written as convolutions in the usual layout. XLA's CPU compiler brings others into
    that layout only outside of loops; within one, the gradient takes fifteen times as long.
    Forward-mode differentiation is not supported.

    Raises:
      ValueError: a kernel with an even side.
    """
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"same_convolution: the kernel's sides must be odd, got {kernel.shape}")
    return _convolve(x, kernel, "SAME")


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return same_convolution(x, kernel), (x, kernel)


def _backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    of_x = _convolve(gradient, turned, "SAME")
    sides = tuple((n // 2, n // 2) for n in kernel.shape[:2])
    # Channels take the place of the batch, and the batch that of the channels.
    of_kernel = _convolve(x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), sides)
    return of_x, of_kernel.transpose(1, 2, 0, 3)


same_convolution.defvjp(_forward, _backward)
