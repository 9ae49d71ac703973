"""The primitive operations of the DLFS networks, as pure functions (NHWC, float).

Sheet of the layers: the "equalised" and modulated layers of StyleGAN2 as the predecessor LATS has
them, with reflection padding, an epsilon of 1e-5 inside every root, and the bias added before the
blur. Sums of squares and roots are taken in float32 whatever the arithmetic's type.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from jaxcog.nn.precision import at_least_float32

EPS = 1e-5


def _root_mean_square(x: jax.Array, eps: float, *, mean: bool) -> jax.Array:
    """rsqrt of the mean (or sum) of squares over the last axis, plus eps; float32, keepdims."""
    wide = jnp.square(at_least_float32(x))
    reduce = jnp.mean if mean else jnp.sum
    return jax.lax.rsqrt(reduce(wide, axis=-1, keepdims=True) + eps)


def pixel_norm(x: jax.Array, eps: float = EPS) -> jax.Array:
    """x over the root mean square of its last axis; same shape and dtype."""
    return (x * _root_mean_square(x, eps, mean=True)).astype(x.dtype)


def modulate_vector(t: jax.Array, style: jax.Array, eps: float = EPS) -> jax.Array:
    """The texture transformation: t * style, scaled to unit length. [B, C], [B, C] -> [B, C]."""
    product = t * style
    return (product * _root_mean_square(product, eps, mean=False)).astype(t.dtype)


def equalized_scale(kernel_shape: tuple[int, ...]) -> float:
    """sqrt(2 / fan_in), by which stored weights [..., in, out] are multiplied at run time."""
    return math.sqrt(2.0 / math.prod(kernel_shape[:-1]))


def leaky_relu(x: jax.Array) -> jax.Array:
    """Slope 0.2 below zero."""
    return jax.nn.leaky_relu(x, 0.2)


def reflect_pad(x: jax.Array, width: int) -> jax.Array:
    """[B, H, W, C] mirrored by `width` pixels on every side, without repeating the edge."""
    return _mirror(x, width, skip=1)


def _mirror(x: jax.Array, width: int, *, skip: int) -> jax.Array:
    """Mirrored by `width` pixels on every side, the first of them `skip` pixels from the edge."""
    if width == 0:
        return x
    for axis in (1, 2):  # twice as fast on CPUs as jnp.pad, five times backwards
        far = x.shape[axis] - skip
        first = jax.lax.slice_in_dim(x, skip, skip + width, axis=axis)
        last = jax.lax.slice_in_dim(x, far - width, far, axis=axis)
        if width > 1:
            first, last = jnp.flip(first, axis), jnp.flip(last, axis)
        x = jnp.concatenate([first, x, last], axis=axis)
    # XLA's TPU compiler would merge this with its neighbours, and a convolution of 64 channels at
    # 256 x 256 with both gradients would take three times the cycles.
    return jax.lax.optimization_barrier(x)


def _correlate(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    sides = [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _for_kernel(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, stride: int, padding: int
) -> jax.Array:
    """What the gradient of `_correlate`'s output is for its kernel."""

    def of_kernel(kernel: jax.Array) -> jax.Array:
        return _correlate(x, kernel, stride, padding)

    return jax.vjp(of_kernel, kernel)[1](gradient)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _for_input(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, stride: int, padding: int
) -> jax.Array:
    """What it is for the input x, of which the type alone counts."""
    return jax.vjp(lambda x: _correlate(x, kernel, stride, padding), x)[1](gradient)[0]


def _for_input_forward(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, stride: int, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _for_input(x, kernel, gradient, stride, padding), (kernel, gradient)


def _for_input_backward(
    stride: int, padding: int, saved: tuple[jax.Array, jax.Array], second: jax.Array
) -> tuple[None, jax.Array, jax.Array]:
    kernel, gradient = saved
    of_kernel = _for_kernel(second, kernel, gradient, stride, padding)
    return None, of_kernel, _correlate(second, kernel, stride, padding)


_for_input.defvjp(_for_input_forward, _for_input_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Cross-correlation without padding: [B, H, W, Cin], [k, k, Cin, Cout], of one dtype.

    The gradients, and theirs, are those of `lax.conv_general_dilated`, but the derivative of the
    input's gradient with respect to the kernel, which R1 needs, is written as a kernel's gradient.
    JAX writes a reversed convolution, for which XLA's CPU compiler has nothing but plain loops: R1
    takes six times as long. Forward-mode differentiation is not supported.
    """
    return _correlate(x, kernel, stride, 0)


def _conv2d_forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv2d(x, kernel, stride), (x, kernel)


def _conv2d_backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    of_x = _for_input(x, kernel, gradient, stride, 0)
    return of_x, _for_kernel(x, kernel, gradient, stride, 0)


conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _over_pairs(kernel: jax.Array) -> jax.Array:
    """The kernel [k + 1, k + 1, Cin, Cout] that sums 2 x 2 neighbours of what `kernel` gives."""
    for axis in (0, 1):
        before, after = ([(0, 0)] * 4 for _ in range(2))
        before[axis], after[axis] = (1, 0), (0, 1)
        kernel = jnp.pad(kernel, before) + jnp.pad(kernel, after)
    return kernel


def halving_conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Reflection padding, convolution, means over 2 x 2: [B, H, W, C] -> [B, H // 2, W // 2, Cout].

    As one convolution of stride 2, whose kernel is a pixel larger: 4/9 of the arithmetic for 3 x 3,
    and no map at full resolution in between.

    Args:
      x: [B, H, W, Cin].
      kernel: [k, k, Cin, Cout], k odd; cast to the dtype of `x` after the means are in it.
    """
    x = reflect_pad(x, kernel.shape[0] // 2)
    return conv2d(x, (_over_pairs(kernel) / 4).astype(x.dtype), 2)


def doubling_conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Nearest neighbour to twice the size, reflection padding, convolution.

    [B, H, W, Cin] -> [B, 2H, 2W, Cout], in the dtype of `x`.

    As one transposed convolution, which is the gradient of `halving_conv2d`'s but for the border:
    4/9 of the arithmetic, and no map of Cin channels at full resolution.

    Args:
      x: [B, H, W, Cin].
      kernel: [k, k, Cin, Cout], k 1 or 3; cast to the dtype of `x` when its neighbours are summed.

    Raises:
      ValueError: a larger kernel; what it would mirror is not in the small map's border.
    """
    side = kernel.shape[0]
    if side not in (1, 3):
        raise ValueError(f"doubling_conv2d: the kernel must be 1 x 1 or 3 x 3, not {side} x {side}")
    batch, height, width, _ = x.shape
    # One pixel mirrored behind doubling is one pixel repeated before it.
    x = _mirror(x, side // 2, skip=0)
    transposed = jnp.flip(_over_pairs(kernel), (0, 1)).swapaxes(2, 3).astype(x.dtype)
    doubled = jnp.zeros((batch, 2 * height, 2 * width, kernel.shape[3]), x.dtype)
    return _for_input(doubled, transposed, x, 2, side // 2 * 3)


@jax.custom_vjp
def binomial_blur(x: jax.Array) -> jax.Array:
    """Each channel with outer([1, 2, 1], [1, 2, 1]) / 16; zeros outside; same shape.

    As shifted sums: a depthwise convolution of three by three is slow on every accelerator. The
    filter is symmetric, so the gradient is blurred likewise.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)])
        before, after = (jax.lax.slice_in_dim(padded, at, at + size, axis=axis) for at in (0, 2))
        x = 0.5 * x + 0.25 * (before + after)
    return x


def _blur_forward(x: jax.Array) -> tuple[jax.Array, None]:
    return binomial_blur(x), None


def _blur_backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (binomial_blur(gradient),)


binomial_blur.defvjp(_blur_forward, _blur_backward)


def modulated_conv2d(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    style: jax.Array,
    *,
    up: bool = False,
    down: bool = False,
    demodulate: bool = True,
    eps: float = EPS,
) -> jax.Array:
    """A convolution whose kernel is scaled by each example's style (StyleGAN2, with LATS's order).

    Computed as scale, convolve, scale: one shared kernel for the whole batch instead of a kernel
    an example. Reflection padding commutes with scaling a channel, so this is exact.

    Args:
      x: [B, H, W, Cin].
      kernel: [k, k, Cin, Cout], as stored; multiplied by sqrt(2 / (Cin k k)) here.
      bias: [Cout], added before the blur, whose zero padding so attenuates it at the border.
      style: [B, Cin], scales of the input channels.
      up, down: double or halve height and width; one of them at most.
      demodulate: every output channel's effective kernel gets unit length (not for k = 1).

    Returns:
      [B, H', W', Cout].

    Raises:
      ValueError: both `up` and `down`; or `up` with a kernel larger than 3 x 3.
    """
    if up and down:
        raise ValueError("modulated_conv2d: up and down exclude each other")
    scaled = kernel * equalized_scale(kernel.shape)
    if down:
        x = binomial_blur(x)
    x = x * style[:, None, None, :].astype(x.dtype)
    if up:
        y = doubling_conv2d(x, scaled)
    elif down:
        y = halving_conv2d(x, scaled)
    else:
        y = conv2d(reflect_pad(x, kernel.shape[0] // 2), scaled.astype(x.dtype))
    if demodulate:
        power = jnp.sum(jnp.square(at_least_float32(scaled)), axis=(0, 1))  # [Cin, Cout]
        squared = jnp.square(at_least_float32(style)) @ power
        y = y * jax.lax.rsqrt(squared + eps)[:, None, None, :].astype(y.dtype)
    y = y + bias.astype(y.dtype)
    return binomial_blur(y) if up else y


def minibatch_stddev(
    x: jax.Array,
    group_size: int | None = None,
    eps: float = 1e-8,
    axis_name: str | None = None,
) -> jax.Array:
    """Appends one channel: the mean over pixels and channels of the batch's deviation.

    Args:
      x: [B, H, W, C].
      group_size: examples that are compared with one another (neighbours in the batch); None is
        the whole batch, over all devices of `axis_name` where it is given.
      axis_name: mapped axis whose devices share one batch (pmap, shard_map).

    Returns:
      [B, H, W, C + 1].

    Raises:
      ValueError: the batch does not divide into groups.
    """
    b, h, w, _ = x.shape
    group = b if group_size is None else group_size
    if b % group:
        raise ValueError(f"minibatch_stddev: a batch of {b} does not divide into groups of {group}")
    grouped = at_least_float32(x).reshape(b // group, group, h, w, -1)
    mean = jnp.mean(grouped, axis=1, keepdims=True)
    if axis_name is not None and group_size is None:
        mean = jax.lax.pmean(mean, axis_name)
    variance = jnp.mean(jnp.square(grouped - mean), axis=1)
    if axis_name is not None and group_size is None:
        variance = jax.lax.pmean(variance, axis_name)
    deviation = jnp.mean(jnp.sqrt(variance + eps), axis=(1, 2, 3))
    channel = jnp.broadcast_to(jnp.repeat(deviation, group)[:, None, None, None], (b, h, w, 1))
    return jnp.concatenate([x, channel.astype(x.dtype)], axis=-1)


def age_code(
    class_ids: jax.Array,
    key: jax.Array,
    *,
    num_classes: int = 6,
    dims_per_class: int = 50,
    sigma: float = 0.2,
) -> jax.Array:
    """Codes of age classes: ones on a class's own dimensions, normal noise on all of them.

    class_ids: [B] int32. Returns [B, num_classes * dims_per_class] float32.
    """
    shape = (*class_ids.shape, num_classes * dims_per_class)
    noise = jax.random.normal(key, shape)
    return age_code_from_noise(class_ids, noise, num_classes=num_classes, sigma=sigma)


def age_code_from_noise(
    class_ids: jax.Array, noise: jax.Array, *, num_classes: int = 6, sigma: float = 0.2
) -> jax.Array:
    """As `age_code`, from standard normal `noise` [B, num_classes * dims_per_class]."""
    dims = noise.shape[-1] // num_classes
    own = jnp.repeat(jax.nn.one_hot(class_ids, num_classes), dims, axis=-1)
    return own + sigma * noise
