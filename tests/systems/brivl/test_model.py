from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.errors import ConfigError
from jaxcog.nn.efficientnet import VARIANTS, EfficientNetConfig, same_padding
from jaxcog.systems.brivl import model, ops
from jaxcog.systems.brivl.presets import PRESETS, preset

KEY = jax.random.key(0)
TINY = dataclasses.replace(preset("tiny"), fusion_layers=2)
IDS = jnp.array([[2, 7, 8, 9, 3] + [0] * 11, [2, 20, 3] + [0] * 13])


@pytest.fixture(scope="module")
def towers():
    return jax.jit(lambda key: model.init_towers(key, TINY))(KEY)


def test_the_paper_s_sizes():
    b7 = EfficientNetConfig(*VARIANTS["b7"])
    assert [len(stage) for stage in b7.stages] == [4, 7, 7, 10, 10, 13, 4]
    assert (b7.stem, b7.features, b7.stages[5][0].outputs) == (64, 2560, 384)
    assert PRESETS["base"].image_width == 2048
    assert same_padding(7, 3, 2) == (1, 1)
    assert same_padding(8, 3, 2) == (0, 1)


def test_scanned_rematerialised_layers_equal_unrolled_ones(towers):
    params, _ = towers
    plain = dataclasses.replace(TINY, scan=False, remat=False)

    def loss(params, architecture):
        return jnp.sum(jnp.sin(model.encode_text(params, IDS, architecture)))

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    got, want = gradient(params, TINY), gradient(params, plain)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_frozen_layers_get_no_gradient_and_trained_ones_do(towers):
    params, _ = towers
    grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(model.encode_text(p, IDS, TINY)))))(params)
    backbone = grads["text"]["backbone"]
    assert not np.any(backbone["layer_0"]["query"]["kernel"])
    assert not np.any(backbone["embeddings"]["word"])
    assert np.any(backbone["layer_1"]["query"]["kernel"])


def test_padding_matters_to_bert_unless_it_is_hidden(towers):
    params, _ = towers
    masked = dataclasses.replace(TINY, bert_attention_mask=True)
    short = IDS[:, :6]
    for architecture, same in ((TINY, False), (masked, True)):
        a = model.encode_text(params, IDS, architecture)
        b = model.encode_text(params, short, architecture)
        assert np.allclose(a, b, atol=1e-5) == same


def test_boxes_that_only_fill_up_change_nothing(towers):
    params, stats = towers
    images = jax.random.normal(KEY, (2, 8, 8, 3))
    boxes = jnp.asarray(TINY.boxes())[None]
    more = jnp.concatenate([boxes, jnp.zeros((1, 2, 4))], axis=1)
    mask = jnp.broadcast_to(jnp.arange(7) < 5, (2, 7))
    a = model.encode_image(params, stats, images, TINY)
    b = model.encode_image(params, stats, images, TINY, boxes=more, roi_mask=mask)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_area_pooling_is_the_mean_of_the_covered_cells():
    features = jax.random.normal(KEY, (1, 8, 8, 3))
    pooled = ops.roi_pool(features, ops.grid_boxes(8, (4, 1))[None], 8, convention="area")
    blocks = features.reshape(1, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    # Boxes go down the first column, then the next.
    np.testing.assert_allclose(pooled[0, :16].reshape(4, 4, 3), blocks[0].swapaxes(0, 1), atol=1e-6)
    np.testing.assert_allclose(pooled[0, 16], features.mean(axis=(1, 2))[0], atol=1e-6)


def test_all_fusion_layers_start_alike(towers):
    params, _ = towers
    layers = params["image"]["fusion"]
    jax.tree.map(np.testing.assert_array_equal, layers["layer_0"], layers["layer_1"])


def test_the_official_policy_freezes_what_the_paper_s_code_does():
    import re

    image, text = model.frozen_patterns(preset("base"))
    frozen = ("conv_stem", "bn1", "blocks_2_4", "conv_head", "bn2")
    assert all(re.search(image, f"image/backbone/{name}/kernel") for name in frozen)
    assert not re.search(image, "image/backbone/blocks_3_0/conv_pw/kernel")
    assert re.search(text, "text/backbone/layer_7/out/kernel")
    assert not re.search(text, "text/backbone/layer_8/out/kernel")
    assert not re.search(text, "text/backbone/layer_11/out/kernel")


def test_augmentation_keeps_the_range_and_is_a_function_of_the_key():
    image = jax.random.uniform(KEY, (6, 7, 3))
    once, again = (ops.augment_image(jax.random.key(3), image) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert 0 <= float(once.min()) <= float(once.max()) <= 1
    gray = ops.augment_image(KEY, image, p_jitter=0.0, p_gray=1.0)
    np.testing.assert_allclose(gray, ops.grayscale(image))


def test_what_does_not_divide_is_named():
    with pytest.raises(ConfigError, match="fusion_heads=5 does not divide the width 64"):
        dataclasses.replace(TINY, fusion_heads=5)
    with pytest.raises(ConfigError, match="text_length=80 is more than"):
        dataclasses.replace(TINY, text_length=80)
    with pytest.raises(ConfigError, match='no preset "huge"'):
        preset("huge")
