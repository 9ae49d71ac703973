from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.errors import CheckpointError
from jaxcog.interop.names import flattened
from jaxcog.systems.gald import Aggregation, Network, load_torch_checkpoint
from jaxcog.systems.gald.torch_names import KINDS, TRUNKS, tables_for

TINY = Network(5, trunk="tiny", head="gald", aggregation=Aggregation("non_local"), width=16)


@functools.cache
def variables_of(network, side=121):
    """{"params", "batch_stats"} as shapes."""
    params, stats = jax.eval_shape(lambda: network.init(jax.random.key(0), (side, side, 3)))
    return {"params": params, "batch_stats": stats}


def zeros(struct):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), struct)


@pytest.mark.parametrize(
    ("head", "trunk", "millions"),
    [
        ("gald", "resnet50", 52.40),
        ("gald", "resnet101", 71.39),
        ("dgcnet", "resnet50", 53.51),
        ("psp", "resnet50", 51.45),
    ],
)
def test_parameter_counts_are_those_of_the_released_code(head, trunk, millions):
    params = variables_of(Network(19, trunk=trunk, head=head))["params"]
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


KEYS = {
    "gald": {
        "conv1.3.weight": (64, 64, 3, 3),
        "bn1.running_mean": (128,),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "head.conva.0.weight": (512, 2048, 3, 3),
        "head.a2block.down.0.bias": (512,),
        "head.a2block.long_relation.z.weight": (512, 32, 1, 1),
        "head.a2block.long_relation.gn.weight": (512,),
        "head.a2block.local_attention.dconv3.0.weight": (512, 1, 3, 3),
        "head.bottleneck.3.bias": (19,),
        "dsn.4.weight": (19, 512, 1, 1),
    },
    "dgcnet": {
        "head.dualgcn.conv_adj.weight": (128, 128, 1),
        "head.dualgcn.local.4.weight": (512, 1, 3, 3),
        "head.dualgcn.gcn_local_attention.conv_wg.weight": (256, 256, 1),
        "head.dualgcn.gcn_local_attention.out.1.running_var": (512,),
        "head.dualgcn.final.0.weight": (512, 1024, 1, 1),
        "dsn.3.bias": (19,),
    },
    "psp": {
        "conv3.weight": (128, 64, 3, 3),
        "head.0.stages.3.1.weight": (512, 2048, 1, 1),
        "head.0.bottleneck.0.weight": (512, 4096, 3, 3),
        "head.1.weight": (19, 512, 1, 1),
    },
}


@pytest.mark.parametrize("head", KEYS)
def test_the_keys_of_official_checkpoints(head):
    ours = zeros(variables_of(Network(19, head=head)))
    tensors = KINDS[head].to_torch(ours)
    assert {key: tensors[key].shape for key in KEYS[head]} == KEYS[head]
    again = KINDS[head].to_ours({**tensors, "bn1.num_batches_tracked": np.zeros(())})
    assert jax.tree.structure(again) == jax.tree.structure(ours)
    assert len(dict(flattened(ours))) == len(tensors)


def test_a_checkpoint_is_read_into_a_network(tmp_path):
    network = dataclasses.replace(TINY, aggregation=Aggregation("cgnl"), width=32)
    random = np.random.default_rng(0)
    ours = jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape).astype(np.float32), variables_of(network)
    )
    np.savez(tmp_path / "x.npz", **KINDS["gald"].to_torch(ours))
    jax.tree.map(np.testing.assert_array_equal, load_torch_checkpoint(tmp_path / "x.npz"), ours)
    np.savez(tmp_path / "y.npz", **{"strange.weight": np.zeros(3)})
    with pytest.raises(CheckpointError, match=r"y\.npz as a gald checkpoint.*(?s:.*)strange"):
        load_torch_checkpoint(tmp_path / "y.npz")


def test_tables_that_an_import_tries():
    assert tables_for("gald") == (KINDS["gald"], *TRUNKS)
    assert tables_for("light") is None


def gradients(network, params, stats, images):
    """(logits, auxiliary logits, statistics) and gradients, without dropout."""

    def loss(params):
        out = network.apply(params, stats, images, train=True)
        return jnp.sum(out.logits**2) + jnp.sum(out.auxiliary), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return {"out": (out.logits, out.auxiliary, out.batch_stats), "grads": grads}


@pytest.mark.slow
def test_remat_changes_memory_only():
    params, stats = jax.jit(lambda key: TINY.init(key, (121, 121, 3)))(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 121, 121, 3))
    plain, saved = (
        gradients(dataclasses.replace(TINY, remat=remat), params, stats, images)
        for remat in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), plain, saved)


def test_evaluation_has_main_logits_only_and_the_mask_on_request():
    def apply(variables, images):
        return TINY.apply(**variables, images=images, train=False, with_mask=True)

    images, variables = jax.ShapeDtypeStruct((2, 121, 121, 3), jnp.float32), variables_of(TINY)
    out = jax.eval_shape(apply, variables, images)
    assert out.logits.shape == (2, 16, 16, 5)
    assert out.logits.dtype == jnp.float32
    assert out.auxiliary is None
    assert out.mask.shape == (2, 16, 16, 16)
    assert out.batch_stats == variables["batch_stats"]


@pytest.mark.parametrize(("trunk", "stride"), [("tiny", 8), ("strided", 2)])
def test_the_stride_is_what_it_says(trunk, stride):
    network = Network(4, trunk=trunk, head="psp", width=16)
    images = jax.ShapeDtypeStruct((1, 121, 137, 3), jnp.float32)
    variables = variables_of(network)
    out = jax.eval_shape(
        lambda v, x: network.apply(v["params"], v["batch_stats"], x, train=True), variables, images
    )
    assert network.stride == stride
    assert out.logits.shape == (1, 120 // stride + 1, 136 // stride + 1, 4)
    assert out.auxiliary.shape == out.logits.shape
