from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.losses.segmentation import ohem_cross_entropy
from jaxcog.nn.resize import resize_bilinear_align_corners
from jaxcog.systems.gald import segmentation_loss


def draw(n=8):
    keys = jax.random.split(jax.random.key(0), 3)
    main, auxiliary = (jax.random.normal(key, (n, 4, 5, 3)) for key in keys[:2])
    labels = jax.random.randint(keys[2], (n, 9, 11), 0, 3).at[:, 0].set(255)
    return main, auxiliary, labels


LOSS = jax.jit(
    functools.partial(segmentation_loss, thresh=0.3, min_kept=30),
    static_argnames=("per_images", "axis_name"),
)


def test_it_is_mining_on_the_main_head_and_a_share_of_the_auxiliary_one():
    main, auxiliary, labels = draw()
    main_large, aux_large = (resize_bilinear_align_corners(x, (9, 11)) for x in (main, auxiliary))
    hard = ohem_cross_entropy(main_large, labels, thresh=0.3, min_kept=30)
    plain = ohem_cross_entropy(aux_large, labels, min_kept=0)
    np.testing.assert_allclose(LOSS(main, auxiliary, labels), hard + 0.4 * plain, rtol=1e-5)
    np.testing.assert_allclose(LOSS(main, None, labels), hard, rtol=1e-5)


def test_groups_of_images_are_what_one_gpu_each_did():
    main, auxiliary, labels = draw()
    parts = [LOSS(*(x[i : i + 2] for x in (main, auxiliary, labels))) for i in range(0, 8, 2)]
    got = LOSS(main, auxiliary, labels, per_images=2)
    np.testing.assert_allclose(got, np.mean(parts), rtol=1e-5)
    assert abs(float(got) - float(LOSS(main, auxiliary, labels))) > 1e-4


def test_one_batch_over_devices():
    arrays = draw()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    loss = functools.partial(LOSS, axis_name="data")
    sharded = jax.shard_map(loss, mesh=mesh, in_specs=P("data"), out_specs=P())
    np.testing.assert_allclose(sharded(*arrays), LOSS(*arrays), rtol=1e-5)


@pytest.mark.parametrize("options", [{"per_images": 3}, {"per_images": 1, "axis_name": "data"}])
def test_groups_that_do_not_fit_are_named(options):
    with pytest.raises(ValueError, match="per_images="):
        segmentation_loss(*draw(), **options)


def test_half_precision_logits_give_a_float32_loss():
    main, auxiliary, labels = draw()
    half = LOSS(main.astype(jnp.bfloat16), auxiliary.astype(jnp.bfloat16), labels)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, LOSS(main, auxiliary, labels), rtol=0.02)
