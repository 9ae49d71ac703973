"""Meshes, batches and states in their places; messages where they do not fit."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from jaxcog.config import Mesh
from jaxcog.errors import ConfigError
from jaxcog.training import sharding
from jaxcog.trees import path_name


def init():
    networks = {
        "generator": {"head": {"kernel": jnp.zeros((256, 128)), "bias": jnp.zeros(128)}},
        "critic": {"head": {"kernel": jnp.zeros((64, 512)), "bias": jnp.zeros(512)}},
        "norm": {"scale": jnp.zeros(5), "odd": jnp.zeros((3 * 49, 131))},
    }
    return {
        "step": jnp.int32(0),
        "params": networks,
        "ema": networks,
        # One optimizer per network, and one that factors its second moment over the critic.
        "opt": {
            "generator": optax.adam(1e-3).init(networks["generator"]),
            "critic": optax.adafactor(1e-3, min_dim_size_to_factor=8).init(networks["critic"]),
        },
        "queue": jnp.zeros((1024, 64)),
    }


@pytest.fixture(scope="module")
def state():
    return jax.eval_shape(init)


def specs(shardings):
    return {
        path_name(path): tuple(leaf.spec)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shardings)
    }


def struct(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (Mesh(), (8, 1, 1, 1)),
        (Mesh(fsdp=2, model=2), (2, 2, 2, 1)),
        (Mesh(data=2, space=-1), (2, 1, 1, 4)),
        (Mesh(data=1, fsdp=8), (1, 8, 1, 1)),
    ],
)
def test_meshes_use_all_devices_and_auto_axes(config, sizes):
    mesh = sharding.make_mesh(config)
    assert tuple(mesh.shape.items()) == tuple(zip(sharding.AXES, sizes, strict=True))
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert set(mesh.devices.flat) == set(jax.devices())
    abstract = sharding.abstract_mesh(config, 8)
    assert isinstance(abstract, AbstractMesh)
    assert (abstract.shape, abstract.axis_types) == (mesh.shape, mesh.axis_types)


def test_a_mesh_may_take_some_devices_only():
    assert sharding.make_mesh(Mesh(), jax.devices()[:2]).shape["data"] == 2


@dataclasses.dataclass(frozen=True)
class Chip:
    """What placing devices on a mesh asks of one chip of a v5p."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5"
    core_on_chip: int = 0
    process_index: int = 0


@pytest.mark.parametrize("slices", [1, 2])
def test_an_axis_may_be_part_of_a_dimension_of_the_torus(slices: int):
    torus = list(itertools.product(range(8), repeat=3))
    chips = [
        Chip(i + s * len(torus), coords, s) for s in range(slices) for i, coords in enumerate(torus)
    ]
    mesh = sharding.make_mesh(Mesh(fsdp=16), chips)
    assert mesh.shape["data"] == 32 * slices
    assert set(mesh.devices.flat) == set(chips)


@pytest.mark.parametrize("config", [Mesh(fsdp=3), Mesh(data=2), Mesh(fsdp=16)])
def test_a_mesh_that_does_not_fit_names_sizes_and_devices(config):
    with pytest.raises(ConfigError, match=rf"fsdp={config.fsdp}.*there are 8"):
        sharding.make_mesh(config)


def test_batches_of_named_streams_have_their_shares():
    element = {"labelled": struct(image=(4, 4, 3)), "unlabelled": struct(image=(4, 4, 3))}
    batch = sharding.batch_struct(element, 8, {"unlabelled": 7})
    assert batch["labelled"]["image"].shape == (8, 4, 4, 3)
    assert batch["unlabelled"]["image"].shape == (56, 4, 4, 3)


def test_batches_split_over_data_and_fsdp_and_where_the_task_says():
    mesh = sharding.make_mesh(Mesh(data=2, fsdp=2, space=2))
    batch = {**struct(image=(8, 6, 6, 3), label=(8,)), "more": struct(image=(8, 4, 6, 3))}
    rule = {"image": P(sharding.BATCH_AXES, "space"), "more/image": P("data")}
    found = sharding.batch_shardings(batch, mesh, rule)
    assert tuple(found["image"].spec) == (("data", "fsdp"), "space")
    assert tuple(found["label"].spec) == (("data", "fsdp"),)
    assert tuple(found["more"]["image"].spec) == ("data",)


def test_a_batch_that_does_not_divide_names_size_axes_and_remedy():
    mesh = sharding.make_mesh(Mesh(data=4, fsdp=2))
    with pytest.raises(ConfigError, match=r"batch of 12 .*data=4 \* fsdp=2 = 8.*multiple of 8"):
        sharding.batch_shardings(struct(x=(12, 3)), mesh)
    with pytest.raises(ConfigError, match=r"image: axis 1 of shape \(8, 3\).*fsdp=2"):
        sharding.batch_shardings(struct(image=(8, 3)), mesh, {"image": P("data", "fsdp")})


def test_large_arrays_are_split_along_their_largest_divisible_axis(state):
    found = specs(sharding.state_shardings(state, sharding.make_mesh(Mesh(fsdp=4))))
    assert found["params/generator/head/kernel"] == ("fsdp",)
    assert found["params/critic/head/kernel"] == (None, "fsdp")
    assert found["params/norm/odd"] == ()  # nothing divides
    assert found["params/norm/scale"] == found["step"] == ()
    assert found["opt/generator/0/mu/head/kernel"] == found["params/generator/head/kernel"]
    assert found["ema/critic/head/kernel"] == found["params/critic/head/kernel"]


def test_depthwise_kernels_are_whole():
    state = {"params": {"depthwise": jnp.zeros((5, 5, 1, 960)), "dense": jnp.zeros((5, 5, 8, 960))}}
    found = specs(sharding.state_shardings(state, sharding.make_mesh(Mesh(fsdp=4))))
    assert found == {"params/depthwise": (), "params/dense": (None, None, None, "fsdp")}


def test_without_fsdp_everything_is_replicated(state):
    found = specs(sharding.state_shardings(state, sharding.make_mesh(Mesh())))
    assert set(found.values()) == {()}


def test_rules_reach_every_copy_of_a_parameter_and_nothing_else(state):
    mesh = sharding.abstract_mesh(Mesh(fsdp=2, model=2), 8)
    rules = [
        (r"params/generator/.*kernel$", P(None, "model")),
        (r"kernel$", P("model")),
        (r"queue", P("fsdp")),
    ]
    found = specs(sharding.state_shardings(state, mesh, rules))
    for name in ("params/generator", "ema/generator", "opt/generator/0/mu", "opt/generator/0/nu"):
        assert found[f"{name}/head/kernel"] == (None, "model"), name
    for name in ("params/critic", "ema/critic"):
        assert found[f"{name}/head/kernel"] == ("model",), name
    assert found["queue"] == ("fsdp",)
    factored = {name: spec for name, spec in found.items() if name.startswith("opt/critic")}
    assert any(name.endswith("v_row/head/kernel") for name in factored)
    assert set(factored.values()) == {()}  # of another shape than the parameter


def test_rules_that_do_not_fit(state):
    mesh = sharding.make_mesh(Mesh(fsdp=2, model=4))
    with pytest.raises(ConfigError, match=r"\['nowhere'\] match no parameter.*params/critic"):
        sharding.state_shardings(state, mesh, [("nowhere", P())])
    with pytest.raises(ConfigError, match=r"norm/odd.*\(147, 131\).*model=4"):
        sharding.state_shardings(state, mesh, [("odd$", P("model"))])
    with pytest.raises(ConfigError, match=r"axes \['modle'\] do not exist; there are data"):
        sharding.state_shardings(state, mesh, [("odd$", P("modle"))])
    with pytest.raises(ConfigError, match="more entries"):
        sharding.state_shardings(state, mesh, [("scale$", P(None, "model"))])


def test_a_jitted_init_creates_arrays_in_place(state):
    mesh = sharding.make_mesh(Mesh(fsdp=8))
    places = sharding.state_shardings(state, mesh)
    made = jax.jit(init, out_shardings=places)()
    kernel = made["params"]["generator"]["head"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (32, 128)


def test_rows_of_one_process_and_placement():
    mesh = sharding.make_mesh(Mesh(data=2, fsdp=2, space=2))
    batch = {"x": np.arange(24, dtype=np.uint8).reshape(8, 3), "named": {"y": np.arange(8.0)}}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    places = sharding.batch_shardings(shapes, mesh)
    np.testing.assert_array_equal(sharding.local_rows(places["x"], (8, 3)), np.arange(8))
    placed = sharding.place(batch, places, shapes)
    assert placed["x"].sharding == places["x"]
    assert placed["x"].dtype == np.uint8
    np.testing.assert_array_equal(placed["x"], batch["x"])
    np.testing.assert_array_equal(placed["named"]["y"], batch["named"]["y"])
