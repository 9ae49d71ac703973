"""The network by its shapes and names, feature transformations, trunks of ImageNet."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.losses.contrastive import unit
from jaxcog.nn.norm import instance_norm
from jaxcog.systems.stylemeup import torch_names
from jaxcog.systems.stylemeup.model import CrossModalVAE, modulated
from jaxcog.systems.stylemeup.ops import (
    feature_transform,
    initial_theta,
    sample_transform,
    strength,
)

RELEASED = CrossModalVAE(latent=128)


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_released_network_has_its_size_and_names():
    params, stats = jax.eval_shape(RELEASED.init, jax.random.key(0))
    assert (count(params["encoder"]), count(params["decoder"])) == (10_325_088, 3_852_259)
    assert not jax.tree.leaves(stats)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), params)
    torch = torch_names.VAE.to_torch({"params": zeros})
    assert torch["decoder.model.linear_1.weight"].shape == (16384, 128)
    assert torch["encoder.feature.linear_encoder.weight"].shape == (512, 16384)
    wrapped = {f"module.{name}": value for name, value in torch.items()}
    for tensors in (torch, wrapped):
        back = torch_names.VAE.to_ours(tensors)["params"]
        assert jax.tree.map(jnp.shape, back) == jax.tree.map(jnp.shape, zeros)


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "inception_v3"])
def test_trunks_of_imagenet(name):
    vae = CrossModalVAE(latent=8, image_size=96, trunk=name)
    params, stats = jax.eval_shape(vae.init, jax.random.key(0))
    assert bool(stats["encoder"]) == (name != "vgg16")
    images = jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.float32)
    theta = jax.eval_shape(lambda: initial_theta(vae.transformed))

    def run(params, stats, x, theta):
        transform = sample_transform(theta, jax.random.key(1))
        return vae.encode(params, x, stats=stats, transform=transform)

    codes = jax.eval_shape(run, params, stats, images, theta)
    assert codes.content.shape == (2, 8)
    assert codes.feature.shape == (2, vae.feature_size)
    keys = torch_names.BACKBONES[name].to_torch(
        jax.tree.map(
            lambda x: np.zeros(x.shape, np.float32),
            {
                "params": {"encoder": {"feature": params["encoder"]["feature"]}},
                "batch_stats": {"encoder": stats["encoder"]},
            },
        )
    )
    assert len(keys) > 20


def test_feature_transformations():
    assert RELEASED.transformed == {"down_2": 64, "down_3": 128, "down_4": 256, "down_5": 256}
    theta = initial_theta({"a": 3})
    assert count(theta) == 6
    np.testing.assert_allclose(strength(theta["gamma"]["a"]), 0.3, rtol=1e-5)
    np.testing.assert_allclose(strength(jnp.float32(0.3), 1.0), np.log1p(np.exp(0.3)), rtol=1e-5)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    drawn = sample_transform(theta, jax.random.key(1))
    gamma, beta = drawn["a"]
    np.testing.assert_allclose(modulated(x, "a", drawn), gamma * x + beta, rtol=1e-6)
    assert modulated(x, "b", drawn) is x
    each = sample_transform(theta, jax.random.key(1), images=2)["a"][0]
    assert each.shape == (2, 3)
    assert not np.allclose(each[0], each[1])
    ours = feature_transform(x, gamma * 0 + 1, gamma * 0, theta["gamma"]["a"], theta["beta"]["a"])
    np.testing.assert_allclose(ours, 1.3 * x, rtol=1e-5)


def test_norms():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 5, 3))
    y = instance_norm(x)
    np.testing.assert_allclose(jnp.mean(y, (1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(jnp.var(y, (1, 2)), 1, rtol=1e-3)
    assert np.isfinite(jax.grad(lambda z: jnp.sum(unit(z)))(jnp.zeros(3))).all()
