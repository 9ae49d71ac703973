from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.systems.gald import multiscale_logits, sliding_window_logits
from jaxcog.systems.gald.inference import tile_starts, whole_logits


def pixelwise(x):
    """Logits at stride 1 that no window can change."""
    return jnp.concatenate([x, x[..., :1] * 2 - 1], axis=-1)


def image(height=30, width=41):
    return jax.random.normal(jax.random.key(0), (height, width, 3))


def test_windows_of_cityscapes():
    """Two by four tiles of 832, a third overlapping, the last ones moved back inside."""
    assert tile_starts(1024, 832, 555) == (0, 192)
    assert tile_starts(2048, 832, 555) == (0, 555, 1110, 1216)
    assert tile_starts(500, 832, 555) == (0,)


@pytest.mark.parametrize("tile", [16, (16, 24), 64])
def test_overlapping_windows_are_averaged(tile):
    x = image()
    got = sliding_window_logits(pixelwise, x, tile)
    np.testing.assert_allclose(got, pixelwise(x), atol=1e-5)
    batch = sliding_window_logits(pixelwise, jnp.stack([x, -x]), tile)
    np.testing.assert_allclose(batch[1], sliding_window_logits(pixelwise, -x, tile), atol=1e-5)


def test_windows_see_only_themselves():
    def mean_of_window(x):
        return jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape)

    x = jnp.zeros((20, 20, 3)).at[:10].set(1.0)
    got = sliding_window_logits(mean_of_window, x, 10, overlap=0.0)
    np.testing.assert_allclose(got, x, atol=1e-6)


def test_mirroring_makes_the_result_symmetric():
    def lopsided(x):
        return x * jnp.linspace(0, 1, x.shape[2])[:, None]

    x = image()
    for logits in (
        lambda y: sliding_window_logits(lopsided, y, 16, flip=True),
        lambda y: multiscale_logits(lopsided, y, (1.0, 1.5), flip=True),
    ):
        np.testing.assert_allclose(logits(x[:, ::-1]), logits(x)[:, ::-1], atol=1e-5)


def test_scales_are_averaged_at_the_size_of_the_image():
    x, scales = image(), (0.5, 1.0, 2.0)
    got = multiscale_logits(pixelwise, x, scales)
    apart = [multiscale_logits(pixelwise, x, (scale,)) for scale in scales]
    assert got.shape == (30, 41, 4)
    np.testing.assert_allclose(got, sum(apart) / 3, atol=1e-5)
    np.testing.assert_allclose(apart[1], whole_logits(pixelwise, x[None])[0], atol=1e-6)
    tiled = multiscale_logits(pixelwise, x, scales, tile=16)
    np.testing.assert_allclose(tiled, got, atol=1e-4)


def test_an_overlap_out_of_range_is_named():
    with pytest.raises(ValueError, match="overlap=1"):
        sliding_window_logits(pixelwise, image(), 16, overlap=1.0)
