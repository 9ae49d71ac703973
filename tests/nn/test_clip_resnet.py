"""CLIP's image tower: attention pooling in full, sizes, positions on other grids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.nn.clip_resnet import (
    SIZES,
    AttentionPool2d,
    ClipResNet,
    grid_of,
    resize_pos_embed,
    resized_to,
)


def test_one_query_gives_what_full_attention_gives():
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, 3, 2, 8)), jnp.float32)
    pool = AttentionPool2d(heads=2, output_dim=5)
    shapes = jax.eval_shape(pool.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda p: np.float32(random.normal(size=p.shape)), shapes)

    def project(name: str, tokens: np.ndarray) -> np.ndarray:
        return tokens @ params[name]["kernel"] + params[name]["bias"]

    flat = np.asarray(x).reshape(2, 6, 8)
    tokens = np.concatenate([flat.mean(axis=1, keepdims=True), flat], axis=1)
    tokens = tokens + params["positional_embedding"]
    q, k, v = (project(f"{n}_proj", tokens).reshape(2, 7, 2, 4) for n in "qkv")
    weights = jax.nn.softmax(np.einsum("bqhd,bkhd->bhqk", q, k) / 2, axis=-1)
    whole = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 7, 8)
    want = project("c_proj", whole)[:, 0]
    got = jax.jit(pool.apply)({"params": params}, x)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-5)


def test_the_published_sizes_have_heads_of_64():
    for size in SIZES.values():
        assert 32 * size.width == 64 * size.pool_heads


@pytest.mark.parametrize(("last_stride", "tokens"), [(1, 9), (2, 3)])
def test_positions_belong_to_the_grid(last_stride: int, tokens: int):
    network = ClipResNet((1, 1, 1, 1), 6, 2, 8, last_stride)
    shapes = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, 64, 32, 3)), train=False), jax.random.key(0)
    )
    assert shapes["params"]["attnpool"]["positional_embedding"].shape == (tokens, 256)
    height, width = grid_of(64, 32, last_stride)
    assert height * width + 1 == tokens


def test_resized_positions():
    table = np.arange(10, dtype=np.float32)[:, None] * np.ones(2, np.float32)
    same = resize_pos_embed(jnp.asarray(table), (3, 3))
    np.testing.assert_allclose(same, table, atol=1e-6)
    larger = np.asarray(resize_pos_embed(jnp.asarray(table), (6, 3)))
    assert larger.shape == (19, 2)
    np.testing.assert_array_equal(larger[0], table[0])
    np.testing.assert_allclose(larger[1], table[1], atol=1e-6)  # clamped at the edge
    with pytest.raises(ValueError, match="8 tokens are no square grid"):
        resize_pos_embed(jnp.zeros((9, 2)), (2, 2))
    assert resized_to((4, 2))(np.zeros((9, 2))).shape == (9, 2)
