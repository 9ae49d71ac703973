from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.nn.resize import (
    adaptive_avg_pool,
    average_pool,
    max_pool_ceil,
    resize_bilinear_align_corners,
)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def interpolated(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Linear interpolation between samples at 0 .. 1, ends included."""
    old, new = np.linspace(0, 1, x.shape[axis]), np.linspace(0, 1, size)
    return np.apply_along_axis(lambda row: np.interp(new, old, row), axis, x)


@pytest.mark.parametrize("size", [(9, 4), (3, 11), (1, 1), (5, 2)])
def test_bilinear_keeps_the_corners(size):
    x = draw(2, 5, 7, 3)
    got = resize_bilinear_align_corners(jnp.asarray(x), size)
    want = interpolated(interpolated(x, size[0], 1), size[1], 2)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_same_size_and_one_sample_are_copies():
    x = jnp.asarray(draw(1, 4, 6, 2))
    assert resize_bilinear_align_corners(x, (4, 6)) is x
    one = resize_bilinear_align_corners(x[:, :1, :1], (3, 5))
    np.testing.assert_allclose(one, jnp.broadcast_to(x[:, :1, :1], one.shape), rtol=1e-6)


def test_half_precision_is_only_rounded_at_the_end():
    x = jnp.asarray(draw(1, 6, 6, 4), jnp.bfloat16)
    got = resize_bilinear_align_corners(x, (13, 17))
    wide = resize_bilinear_align_corners(x.astype(jnp.float32), (13, 17))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_adaptive_pooling_averages_overlapping_windows(bins):
    x = draw(2, 7, 10, 3)
    got = adaptive_avg_pool(jnp.asarray(x), (bins, bins))
    for i in range(bins):
        rows = slice(i * 7 // bins, -(-(i + 1) * 7 // bins))
        for j in range(bins):
            columns = slice(j * 10 // bins, -(-(j + 1) * 10 // bins))
            want = x[:, rows, columns].mean((1, 2))
            np.testing.assert_allclose(got[:, i, j], want, atol=1e-5)


@pytest.mark.parametrize("size", [(7, 8), (8, 9), (2, 3), (1, 416)])
def test_ceil_mode_pooling_counts_partial_windows(size):
    x = draw(1, *size, 2)
    got = max_pool_ceil(jnp.asarray(x))
    # 3x3 windows at stride 2 that begin one sample outside, as long as they touch the map.
    want = np.full(got.shape, -np.inf, np.float32)
    for i in range(got.shape[1]):
        for j in range(got.shape[2]):
            window = x[:, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
            want[:, i, j] = window.max((1, 2))
    np.testing.assert_array_equal(got, want)
    assert got.shape[1:3] == tuple(-(-(n - 1) // 2) + 1 for n in size)
    assert np.isfinite(jax.grad(lambda y: max_pool_ceil(y).sum())(jnp.asarray(x))).all()


def test_average_pool_leaves_out_what_fills_no_window():
    x = draw(2, 7, 4, 3)
    want = x[:, :6].reshape(2, 2, 3, 4, 3)[:, :, :, :3].mean(axis=(2, 3))[:, :, None]
    np.testing.assert_allclose(average_pool(jnp.asarray(x), 3), want, atol=1e-6)
    assert average_pool(jnp.asarray(x, jnp.bfloat16), 2).dtype == jnp.bfloat16
    np.testing.assert_array_equal(average_pool(jnp.asarray(x), 1), x)
