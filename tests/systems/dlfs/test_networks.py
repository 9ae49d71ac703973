"""Layers and networks by their properties: what equals what, and what must not change anything."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxcog.interop.names import flattened
from jaxcog.nn.resize import average_pool
from jaxcog.systems.dlfs import infer, losses, model, modulation, ops, torch_names

ARCH = model.Architecture(
    width=4,
    downsamples=1,
    stem=3,
    blocks=2,
    identity_features=8,
    texture_features=(8, 8),
    age_features=(4, 8),
    latent=8,
    mapping=2,
    styled_blocks=1,
    num_classes=3,
    dims_per_class=2,
    discriminator_width=4,
    discriminator_layers=2,
)


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def parameters(arch: model.Architecture, size: int) -> Any:
    """A generator's, random; drawn without compiling anything."""
    struct = jax.eval_shape(partial(model.init_generator, arch, size=size), jax.random.key(0))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), struct)


def test_fresh_weights_are_normal_and_biases_zero():
    """One draw for all arrays; what it gives has the structure that the modules ask for."""
    fresh = jax.jit(partial(model.init_generator, ARCH, size=16))(jax.random.key(0))
    image, code = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, ARCH.code_length))
    asked = jax.eval_shape(model.Generator(ARCH).init, jax.random.key(0), image, code)["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, asked)
    arrays = dict(flattened(fresh))
    assert {name.rpartition("/")[2] for name in arrays} == {"kernel", "bias"}
    assert not any(np.any(x) for name, x in arrays.items() if name.endswith("bias"))
    drawn = np.concatenate([np.ravel(x) for name, x in arrays.items() if name.endswith("kernel")])
    assert len(np.unique(drawn)) > 0.99 * len(drawn)
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0, 1], atol=0.05)


@pytest.fixture(scope="module")
def layer() -> tuple[jax.Array, ...]:
    """x, kernel, bias and style of a modulated convolution."""
    return normal(0, 2, 6, 5, 4), normal(1, 3, 3, 4, 7), normal(2, 7), normal(3, 2, 4)


def test_modulated_convolution_is_a_kernel_an_example(layer: tuple[jax.Array, ...]):
    """Scale, convolve, scale is the definition: every example with its own demodulated kernel."""
    want = jax.jit(modulation.grouped_modulated_conv2d)(*layer)
    np.testing.assert_allclose(jax.jit(ops.modulated_conv2d)(*layer), want, atol=2e-6)


def test_grouped_kernels_are_those_of_single_examples(layer: tuple[jax.Array, ...]):
    x, kernel, bias, style = map(np.asarray, layer)
    got = jax.jit(modulation.grouped_modulated_conv2d)(*layer)
    for i in range(len(x)):
        own = style[i][:, None] * kernel * ops.equalized_scale(kernel.shape)
        own = own / np.sqrt(np.sum(own**2, axis=(0, 1, 2)) + ops.EPS)
        padded = np.pad(x[i], ((1, 1), (1, 1), (0, 0)), mode="reflect")
        want = sum(padded[r : r + 6, c : c + 5] @ own[r, c] for r in range(3) for c in range(3))
        np.testing.assert_allclose(got[i], want + bias, atol=2e-6)


def test_cost_of_shared_and_grouped_kernels():
    found = modulation.compare(2, 8, 4, gradient=False)
    assert found.keys() == {"shared", "grouped"}
    multiplied = 2 * 2 * 8 * 8 * 9 * 4 * 4
    assert all(cost.flops > multiplied and cost.bytes_accessed > 0 for cost in found.values())


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_has_the_gradients_of_laxs_and_theirs(stride: int):
    x, kernel, direction = normal(0, 2, 6, 5, 3), normal(1, 3, 3, 3, 4), normal(2, 2, 6, 5, 3)

    def lax(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.conv2d(x, kernel, stride)

    def first_and_second(conv: Any) -> Any:
        def value(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sum(conv(x, kernel) ** 3)

        def penalty(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sum(jnp.square(jax.grad(value)(x, kernel)) * direction)

        both = (jax.grad(f, argnums=(0, 1)) for f in (value, penalty))
        return jax.jit(lambda *args: [gradient(*args) for gradient in both])(x, kernel)

    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-2)
    jax.tree.map(close, first_and_second(ours), first_and_second(lax))


def test_blur_is_the_depthwise_filter():
    x = np.asarray(normal(0, 1, 5, 6, 2))
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = sum(kernel[i, j] * padded[:, i : i + 5, j : j + 6] for i in range(3) for j in range(3))
    np.testing.assert_allclose(jax.jit(ops.binomial_blur)(x), want, atol=1e-6)
    weight = np.asarray(normal(1, 1, 5, 6, 2))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(ops.binomial_blur(x) * weight)))(x)
    np.testing.assert_allclose(gradient, ops.binomial_blur(weight), atol=1e-6)


@pytest.mark.parametrize("side", [1, 3])
def test_halving_and_doubling_are_in_the_convolution(side: int):
    x, kernel = normal(0, 2, 5, 8, 3), normal(1, side, side, 3, 4)

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.conv2d(ops.reflect_pad(x, side // 2), kernel)

    close = partial(np.testing.assert_allclose, atol=2e-5)

    def halved(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return average_pool(plain(x, kernel), 2)

    def doubled(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return plain(x.repeat(2, axis=1).repeat(2, axis=2), kernel)

    def with_gradients(conv: Any) -> Any:
        def value(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(conv(x, kernel)))

        return jax.jit(lambda: (conv(x, kernel), jax.grad(value, argnums=(0, 1))(x, kernel)))()

    close = partial(np.testing.assert_allclose, atol=2e-4)
    for ours, theirs in ((ops.halving_conv2d, halved), (ops.doubling_conv2d, doubled)):
        jax.tree.map(close, with_gradients(ours), with_gradients(theirs))


def test_what_cannot_be_halved_or_doubled():
    x, kernel = normal(0, 1, 8, 8, 2), normal(1, 5, 5, 2, 2)
    with pytest.raises(ValueError, match="not 5 x 5"):
        ops.doubling_conv2d(x, kernel)
    with pytest.raises(ValueError, match="up and down"):
        ops.modulated_conv2d(x, kernel, jnp.zeros(2), jnp.ones((1, 2)), up=True, down=True)


def test_reflection_leaves_the_edge_out():
    x = np.asarray(normal(0, 1, 5, 6, 2))
    for width in (0, 1, 3):
        want = np.pad(x, ((0, 0), (width, width), (width, width), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(ops.reflect_pad(x, width), want)


def test_deviation_of_the_batch():
    x = normal(0, 4, 2, 2, 3)
    deviation = jax.jit(ops.minibatch_stddev, static_argnums=1)
    want = np.mean(np.sqrt(np.var(x, axis=0) + 1e-8))
    np.testing.assert_allclose(deviation(x)[..., 3], np.full((4, 2, 2), want), rtol=1e-6)
    halves = deviation(x, 2)
    np.testing.assert_allclose(halves[:2], deviation(x[:2]), rtol=1e-6)
    with pytest.raises(ValueError, match="groups of 3"):
        ops.minibatch_stddev(x, 3)


def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def test_deviation_and_losses_are_those_of_one_device():
    x = normal(0, 8, 2, 2, 3)
    shard = partial(jax.shard_map, mesh=mesh(), in_specs=P("data"))
    spread = shard(lambda x: ops.minibatch_stddev(x, axis_name="data"), out_specs=P("data"))
    many = jax.jit(spread)(x)
    np.testing.assert_allclose(many, ops.minibatch_stddev(x), rtol=1e-5)

    def value(x: jax.Array, ids: jax.Array, axis_name: str | None = None) -> jax.Array:
        gan = losses.selected_class_gan(x, ids, real=True, axis_name=axis_name)
        shape = losses.adult_shape(x, 2 * x, ids, ids[::-1], (1, 2), axis_name)
        return gan + losses.feature_l1(x, x**2, axis_name) + shape

    ids = jnp.tile(jnp.array([1, 2]), 4)  # reversed, each device's part is what it was on one
    want = jax.jit(value)(x, ids)
    many = jax.shard_map(
        partial(value, axis_name="data"),
        mesh=mesh(),
        in_specs=(P("data"), P("data")),
        out_specs=P(),
    )
    np.testing.assert_allclose(jax.jit(many)(x, ids), want, rtol=1e-5)
    mapped = jax.pmap(partial(value, axis_name="data"), axis_name="data", devices=jax.devices()[:4])
    split = mapped(x.reshape(4, 2, *x.shape[1:]), ids.reshape(4, 2))
    np.testing.assert_allclose(split, jnp.full(4, want), rtol=1e-5)


def test_r1_is_that_of_one_device_and_falls_with_the_batch():
    x = normal(0, 8, 4, 4, 3)
    kernel = normal(1, 3, 3, 3, 3)

    def logits(x: jax.Array, axis_name: str | None = None) -> jax.Array:
        y = ops.conv2d(ops.minibatch_stddev(x**2, axis_name=axis_name)[..., :3] + x, kernel)
        return ops.minibatch_stddev(y, axis_name=axis_name)

    one = jax.jit(partial(losses.r1, logits))(x)
    many = jax.jit(
        jax.shard_map(
            lambda x: losses.r1(partial(logits, axis_name="data"), x, axis_name="data"),
            mesh=mesh(),
            in_specs=P("data"),
            out_specs=P(),
        )
    )(x)
    np.testing.assert_allclose(many, one, rtol=1e-5)

    def plain(x: jax.Array) -> jax.Array:
        return ops.conv2d(x, kernel)

    twice = jnp.concatenate([x, x])
    np.testing.assert_allclose(losses.r1(plain, twice) * 4, losses.r1(plain, x), rtol=1e-5)
    kept = losses.r1(plain, twice, reference_batch=8)
    np.testing.assert_allclose(kept, losses.r1(plain, x), rtol=1e-5)
    ids = jnp.zeros(8, jnp.int32)
    each = losses.r1(plain, x, mode="per_sample", class_ids=ids)
    again = losses.r1(plain, twice, mode="per_sample", class_ids=jnp.zeros(16, jnp.int32))
    np.testing.assert_allclose(again, each, rtol=1e-5)
    with pytest.raises(ValueError, match="class_ids"):
        losses.r1(plain, x, mode="per_sample")


def test_codes_of_a_pair():
    classes, noise = jnp.array([[0, 2]]), normal(0, 1, 4, 6)
    codes = losses.conditions(classes, noise, num_classes=3, sigma=0.2)
    np.testing.assert_array_equal(codes["cyc"], codes["gen"][:, ::-1])
    plain = losses.conditions(classes, noise, num_classes=3, sigma=0.0)
    assert plain["gen"][0].tolist() == [[0, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0]]
    assert plain["orig"][0].tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]]
    np.testing.assert_allclose(codes["gen"] - plain["gen"], 0.2 * noise[:, :2], atol=1e-6)


@pytest.mark.parametrize("kind", ["dlfs", "lats"])
def test_export_is_the_inverse_of_import(kind: str):
    arch = model.dataclasses.replace(ARCH, generator=kind, downsamples=2)
    params = parameters(arch, 32)
    tensors = torch_names.export_generator(params, kind)
    assert any("blur.weight_flip" in key for key in tensors)
    table = torch_names.DLFS if kind == "dlfs" else torch_names.LATS
    back = dict(flattened(table.to_ours(tensors)["params"]["generator"]))
    want = dict(flattened(params))
    assert back.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(back[name], value)


def test_traversal_passes_every_age():
    latents = jnp.eye(3)
    frames = infer.traversal(latents, 0.25)
    assert frames.shape == (9, 3)
    np.testing.assert_allclose(frames[::4], latents)
    np.testing.assert_allclose(frames[1], [0.75, 0.25, 0])
    assert len(infer.traversal(latents, 0.3)) == 9  # weights 1, .7, .4, .1
    with pytest.raises(ValueError, match="step"):
        infer.traversal(latents, 0.0)


@pytest.mark.slow
def test_frames_do_not_depend_on_the_chunk():
    params = parameters(ARCH, 16)
    image = normal(0, 16, 16, 3)
    small, large = (infer.traverse(ARCH, params, image, step=0.5, chunk=n) for n in (2, 5))
    assert small.shape == (5, 16, 16, 3)
    assert np.abs(small.astype(int) - large).max() <= 1
    strip = infer.age_strip(ARCH, params, image)
    assert np.abs(strip.astype(int) - small[::2]).max() <= 1
    between = infer.interpolate_classes(ARCH, params, image, 0, 1, 3)
    assert np.abs(between.astype(int) - small[:3]).max() <= 1


def decoded(arch: model.Architecture, params: Any, x: jax.Array) -> jax.Array:
    code = ops.age_code(jnp.zeros(1, jnp.int32), jax.random.key(1), num_classes=3, dims_per_class=2)
    return jnp.sum(model.decode(arch, params, model.encode(arch, params, x), code) ** 2)


REMAT = model.dataclasses.replace(ARCH, remat=True)


def test_every_block_is_rematerialised():
    """Residual blocks (shape, one of two, identity), styled blocks (one, one that enlarges)."""
    traced = jax.make_jaxpr(partial(decoded, REMAT))(parameters(ARCH, 16), normal(0, 1, 16, 16, 3))
    recomputed = [
        one for one in traced.eqns if one.primitive.name in ("remat", "remat2", "checkpoint")
    ]
    assert len(recomputed) == 3 + 2


@pytest.mark.slow
def test_rematerialisation_changes_nothing():
    x, params = normal(0, 1, 16, 16, 3), parameters(ARCH, 16)
    gradients = [jax.jit(jax.grad(partial(decoded, a)))(params, x) for a in (ARCH, REMAT)]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *gradients)
