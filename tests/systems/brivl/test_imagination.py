from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.errors import DataError
from jaxcog.systems.brivl import imagination, ops, vqgan
from jaxcog.systems.brivl.imagination import Inversion

KEY = jax.random.key(0)
WEIGHTS = jax.random.normal(jax.random.key(1), (4 * 4 * 3, 6))
PRIOR = vqgan.VQGANConfig(
    channels=4,
    multipliers=(1,),
    blocks=1,
    attention_at=(),
    resolution=8,
    z_channels=4,
    codes=7,
    code_width=3,
    groups=2,
)


@pytest.fixture(scope="module")
def drawer():
    """Random weights, with nothing to compile."""
    random = np.random.default_rng(0)
    struct = jax.eval_shape(lambda: vqgan.init_vqgan(KEY, PRIOR))
    return jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.3, x.shape), x.dtype), struct)


def embed(images: jax.Array) -> jax.Array:
    return jnp.tanh(images.reshape(images.shape[0], -1) @ WEIGHTS)


def test_inversion_reaches_the_target_and_keeps_the_range():
    target = embed(imagination.random_images(jax.random.key(5), (2, 4, 4, 3), 0.3))
    start = imagination.random_images(KEY, (2, 4, 4, 3))
    config = Inversion(steps=60, lr=0.05, smoothness=0.0, jitter=0, frames=6)
    found = jax.jit(
        lambda start: vars(imagination.invert_embedding(embed, target, start, KEY, config))
    )(start)
    losses = np.asarray(found["losses"])
    assert losses.shape == (60, 2)
    assert np.all(losses[-1] < losses[0] - 0.3)
    assert found["frames"].shape == (6, 2, 4, 4, 3)
    np.testing.assert_array_equal(found["frames"][-1], found["images"])
    assert 0 <= found["images"].min() <= found["images"].max() <= 1


def test_rows_are_optimised_by_themselves():
    target = embed(imagination.random_images(jax.random.key(5), (1, 4, 4, 3), 0.3))[0]
    start = imagination.random_images(KEY, (2, 4, 4, 3))
    config = Inversion(steps=5, frames=1, jitter=0)
    both = imagination.invert_embedding(embed, target, start, KEY, config).images
    one = imagination.invert_embedding(embed, target, start[:1], KEY, config).images
    np.testing.assert_allclose(both[:1], one, atol=1e-6)


def test_a_unit_is_excited():
    config = Inversion(steps=20, frames=1, jitter=1, smoothness=0.0)
    start = imagination.random_images(KEY, (1, 4, 4, 3))
    found = imagination.visualise_neuron(lambda x: embed(x)[:, 2], start, KEY, config)
    assert found.losses[-1] < found.losses[0]


def test_pictures_that_vary_as_images_do():
    """Images along one line: what is found lies on it, near the middle where that is asked for."""
    shape = jax.random.normal(jax.random.key(2), (1, 4, 4, 3))
    statistics = imagination.Statistics(jnp.full((4, 4, 3), 0.5), 0.05 * shape)
    target = embed(ops.normalise(0.5 + 0.1 * shape))
    distances = []
    for likeness in (0.0, 10.0):
        config = Inversion(
            steps=40, lr=0.1, frames=1, jitter=0, noise=0.02, draws=2, likeness=likeness
        )
        canvas = imagination.components(config, statistics)
        start = canvas.start(KEY, 1)
        found = imagination.invert_embedding(embed, target, start, KEY, config, canvas)
        along = float(found.variables[0, 0])
        np.testing.assert_allclose(
            found.images, ops.denormalise(canvas.draw(found.variables)), atol=0.02
        )
        distances.append(along)
    assert distances[0] > 1.5
    assert abs(distances[1]) < 0.3


def test_several_draws_of_nothing_are_one():
    losses = []
    start = imagination.random_images(KEY, (2, 4, 4, 3))
    for draws in (1, 3):
        config = Inversion(jitter=0, draws=draws)
        canvas = imagination.pixels(config, 4)
        loss = imagination.seen_loss(embed, lambda e: jnp.sum(e, axis=1), canvas, config)
        losses.append(loss(start, KEY)[0])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_noise_is_as_strong_as_it_says_and_has_no_colour():
    grey = ops.normalise(jnp.full((1, 32, 32, 3), 0.5))
    noisy = ops.denormalise(ops.add_noise(KEY, grey, 0.2))
    assert float(jnp.std(noisy)) == pytest.approx(0.2, rel=0.1)
    np.testing.assert_allclose(noisy[..., 0], noisy[..., 2], atol=1e-5)


@pytest.mark.slow  # a decoder and its gradient to compile
def test_generation_walks_through_codes(drawer):
    params = {**drawer, "codebook": jax.random.normal(KEY, drawer["codebook"].shape)}
    start = vqgan.random_latents(KEY, params["codebook"], (1, 8, 8))
    config = Inversion(steps=3, frames=1, lr=0.1)
    found = imagination.guided_generate(
        params, PRIOR, embed, jnp.ones(6), start, KEY, config, image_size=4, cutouts=2
    )
    assert found.images.shape == (1, 8, 8, 3)
    assert np.all(np.isfinite(found.losses))


def test_a_prior_goes_into_one_file_and_back(tmp_path, drawer):
    np.savez(tmp_path / "prior.npz", **vqgan.to_arrays(drawer, PRIOR))
    with np.load(tmp_path / "prior.npz") as archive:
        again, config = vqgan.from_arrays(dict(archive))
    assert config == PRIOR
    jax.tree.map(np.testing.assert_array_equal, again, drawer)
    with pytest.raises(DataError, match=r"holds no VQGAN: give the prior\.npz"):
        vqgan.from_arrays({"x": np.zeros(1)})


def test_nearest_codes_and_the_straight_gradient():
    book = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    latents = jnp.array([[[[0.1, 0.2], [0.9, 0.7]]]])
    codes, loss, indices = vqgan.quantise(book, latents)
    np.testing.assert_array_equal(indices, [[[0, 1]]])
    np.testing.assert_allclose(codes[0, 0], [[0, 0], [1, 1]], atol=1e-7)
    assert float(loss) == pytest.approx(1.25 * np.mean(np.square([0.1, 0.2, 0.1, 0.3])))
    grad = jax.grad(lambda x: jnp.sum(3 * vqgan.quantise(book, x)[0]))(latents)
    np.testing.assert_allclose(grad, 3)


def test_frames_must_divide_the_steps():
    with pytest.raises(ValueError, match="7 frames do not divide 20 steps"):
        Inversion(steps=20, frames=7)


def test_noise_starts_around_grey():
    images = ops.denormalise(imagination.random_images(KEY, (1, 16, 16, 3)))
    assert abs(float(images.mean()) - 0.5) < 0.05
