from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.errors import ConfigError
from jaxcog.nn.efficientnet import VARIANTS, EfficientNetConfig, same_padding
from jaxcog.systems.brivl import model, ops
from jaxcog.systems.brivl.architecture import frozen_patterns
from jaxcog.systems.brivl.presets import PRESETS, preset

KEY = jax.random.key(0)
TINY = preset("tiny")
PLAIN = dataclasses.replace(
    TINY,
    bert=dataclasses.replace(TINY.bert, layers=2),
    freeze="none",
    fusion_layers=2,
    scan=False,
    remat=False,
)
ONE = dataclasses.replace(PLAIN, bert=dataclasses.replace(TINY.bert, layers=1), fusion_layers=1)
IDS = jnp.array([[2, 7, 8, 9, 3] + [0] * 11, [2, 20, 3] + [0] * 13])
encode_text = jax.jit(model.encode_text, static_argnums=2)


@functools.partial(jax.jit, static_argnums=1)
def gradient(params, architecture):
    def loss(params):
        return jnp.sum(jnp.sin(model.encode_text(params, IDS, architecture)))

    return jax.value_and_grad(loss)(params)


def randomly(architecture):
    """Random (parameters, statistics), with nothing to compile."""
    random = np.random.default_rng(0)
    struct = jax.eval_shape(lambda key: model.init_towers(key, architecture), KEY)
    return jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.3, x.shape), x.dtype), struct)


def test_the_paper_s_sizes():
    b7 = EfficientNetConfig(*VARIANTS["b7"])
    assert [len(stage) for stage in b7.stages] == [4, 7, 7, 10, 10, 13, 4]
    assert (b7.stem, b7.features, b7.stages[5][0].outputs) == (64, 2560, 384)
    assert PRESETS["base"].image_width == 2048
    struct = jax.eval_shape(lambda key: model.init_towers(key, preset("huge"))[0], KEY)
    assert sum(x.size for x in jax.tree.leaves(struct)) > 1.5e9
    assert same_padding(7, 3, 2) == (1, 1)
    assert same_padding(8, 3, 2) == (0, 1)


def test_scanned_rematerialised_layers_equal_unrolled_ones():
    params, _ = randomly(PLAIN)
    got = gradient(params, dataclasses.replace(PLAIN, scan=True, remat=True))
    want = gradient(params, PLAIN)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_frozen_layers_get_no_gradient_and_new_ones_do():
    params, _ = randomly(ONE)
    text = gradient(params, dataclasses.replace(ONE, freeze="towers"))[1]["text"]
    assert not any(np.any(x) for x in jax.tree.leaves(text["backbone"]))
    assert np.any(text["fusion"]["layer_0"]["query"]["kernel"])


def test_padding_matters_to_bert_unless_it_is_hidden():
    params, _ = randomly(ONE)
    masked = dataclasses.replace(ONE, bert_attention_mask=True)
    short = IDS[:, :6]
    for architecture, same in ((ONE, False), (masked, True)):
        a, b = (encode_text(params, ids, architecture) for ids in (IDS, short))
        assert np.allclose(a, b, atol=1e-5) == same


def test_boxes_that_only_fill_up_change_nothing():
    params, stats = randomly(ONE)
    images = jax.random.normal(KEY, (2, 8, 8, 3))
    boxes = jnp.asarray(ONE.boxes())[None]
    more = jnp.concatenate([boxes, jnp.zeros((1, 2, 4))], axis=1)
    encode = jax.jit(functools.partial(model.encode_image, architecture=ONE))
    a = encode(params, stats, images)
    mask = jnp.broadcast_to(jnp.arange(7) < 5, (2, 7))
    np.testing.assert_allclose(
        a, encode(params, stats, images, boxes=more, roi_mask=mask), atol=1e-5
    )


def test_area_pooling_is_the_mean_of_the_covered_cells():
    features = jax.random.normal(KEY, (1, 8, 8, 3))
    pooled = ops.roi_pool(features, ops.grid_boxes(8, (4, 1))[None], 8, convention="area")
    blocks = features.reshape(1, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    # Boxes go down the first column, then the next.
    np.testing.assert_allclose(pooled[0, :16].reshape(4, 4, 3), blocks[0].swapaxes(0, 1), atol=1e-6)
    np.testing.assert_allclose(pooled[0, 16], features.mean(axis=(1, 2))[0], atol=1e-6)


@pytest.mark.slow  # an initialisation to compile
def test_all_fusion_layers_start_alike():
    small = dataclasses.replace(PLAIN, bert=dataclasses.replace(PLAIN.bert, layers=0))
    params, _ = jax.jit(lambda key: model.init_towers(key, small))(KEY)
    layers = params["image"]["fusion"]
    jax.tree.map(np.testing.assert_array_equal, layers["layer_0"], layers["layer_1"])


def test_the_official_policy_freezes_what_the_paper_s_code_does():
    import re

    image, text = frozen_patterns(preset("base"))
    frozen = ("conv_stem", "bn1", "blocks_2_4", "conv_head", "bn2")
    assert all(re.search(image, f"image/backbone/{name}/kernel") for name in frozen)
    assert not re.search(image, "image/backbone/blocks_3_0/conv_pw/kernel")
    assert re.search(text, "text/backbone/layer_7/out/kernel")
    assert not re.search(text, "text/backbone/layer_8/out/kernel")
    assert not re.search(text, "text/backbone/layer_11/out/kernel")


def test_augmentation_keeps_the_range_and_is_a_function_of_the_key():
    image = jax.random.uniform(KEY, (6, 7, 3))
    augment = jax.jit(ops.augment_image)
    once, again = (augment(jax.random.key(3), image) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert 0 <= float(once.min()) <= float(once.max()) <= 1
    gray = augment(KEY, image, p_jitter=0.0, p_gray=1.0)
    np.testing.assert_allclose(gray, ops.grayscale(image), rtol=1e-5)


def test_what_does_not_divide_is_named():
    with pytest.raises(ConfigError, match="fusion_heads=5 does not divide the width 64"):
        dataclasses.replace(TINY, fusion_heads=5)
    with pytest.raises(ConfigError, match="text_length=80 is more than"):
        dataclasses.replace(TINY, text_length=80)
    with pytest.raises(ConfigError, match='no preset "vast"'):
        preset("vast")
