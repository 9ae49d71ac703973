from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.systems.qat import align
from jaxcog.systems.qat.align import Branch

BRANCHES = (Branch(5), Branch(2))


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_bins_average_linear_samples():
    x = jnp.arange(10.0)[None, :, None]
    rois = np.array([[0, 2.0, 6.0], [0, -1.0, 1.0], [0, 8.0, 11.0], [0, 20.0, 24.0]])
    bins = align.roi_align_1d(x, rois, 2)[..., 0]
    # On a ramp a bin is its centre; beyond the edges by up to one snippet it is the edge's value.
    np.testing.assert_allclose(bins[0], [3.0, 5.0])
    np.testing.assert_allclose(bins[1], [0.0, 0.5])
    np.testing.assert_allclose(bins[2], [(8.375 + 9) / 2, (9 + 0) / 2])
    np.testing.assert_allclose(bins[3], [0.0, 0.0])


def test_anchors_are_widened_by_half_on_both_sides():
    anchors = align.proposal_anchors(6, 3)
    np.testing.assert_allclose(anchors[0, 2], [1.5, 2.5])
    np.testing.assert_allclose(anchors[2, 1], [-0.5, 4.5])
    np.testing.assert_allclose(anchors[2, 4], [0, 0])  # 4 + 3 > 6: the dummy


@pytest.mark.parametrize(("length", "durations", "block"), [(13, 13, (4, 3)), (12, 5, (10, 20))])
def test_the_layer_may_come_first(length, durations, block):
    inner, context = normal(2, length, 3), normal(2, length, 3, seed=1)
    kernel = normal(7, 3, 4, seed=2)

    def ours(inner, context, kernel):
        return align.sgalign(
            inner, context, kernel, BRANCHES, durations, durations=block[0], starts=block[1]
        )

    def plain(inner, context, kernel):
        return align.plain_sgalign(inner, context, kernel, BRANCHES, durations)

    cotangent = normal(2, durations, length, 4, seed=3)

    @jax.jit
    def both(*inputs):
        results = [jax.vjp(align_it, *inputs) for align_it in (ours, plain)]
        return [(y, *back(cotangent)) for y, back in results]

    mine, theirs = both(inner, context, kernel)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_what_follows_is_applied_to_every_window():
    inner, kernel = normal(1, 9, 3), normal(7, 3, 4, seed=2)
    y = jax.jit(lambda x: align.sgalign(x, x, kernel, BRANCHES, 9, jnp.tanh))(inner)
    plain = jax.jit(lambda x: align.plain_sgalign(x, x, kernel, BRANCHES, 9))(inner)
    np.testing.assert_allclose(y, jnp.tanh(plain), rtol=1e-5, atol=1e-5)
