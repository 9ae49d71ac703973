from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxcog.errors import CheckpointError
from jaxcog.interop.names import (
    LAYOUTS,
    Ignore,
    Layout,
    NameTable,
    Rename,
    batch_norm,
    conv,
    flatten_chw,
    flattened,
    linear,
    reshaped,
)

SHAPES = {
    "conv1.weight": (8, 3, 7, 7),
    "bn1.weight": (8,),
    "bn1.bias": (8,),
    "bn1.running_mean": (8,),
    "bn1.running_var": (8,),
    "bn1.num_batches_tracked": (),
    "layer1.0.conv1.weight": (8, 8, 3, 3),
    "layer1.0.bn1.weight": (8,),
    "layer1.0.bn1.bias": (8,),
    "layer1.0.bn1.running_mean": (8,),
    "layer1.0.bn1.running_var": (8,),
    "layer1.11.dw.weight": (8, 1, 3, 3),
    "gru.weight_ih_l0": (12, 5),
    "gru.weight_hh_l0_reverse": (12, 4),
    "attn.in_proj_weight": (18, 6),
    "attn.in_proj_bias": (18,),
    "fc.weight": (5, 8 * 2 * 3),
    "fc.bias": (5,),
    "emau.mu": (1, 4, 2),
    "up.weight": (4, 6, 3, 3),
    "temporal.weight": (4, 2, 3),
}

TABLE = NameTable(
    (
        conv(r"conv(\d)", r"conv\1"),
        batch_norm(r"bn(\d)", r"bn\1"),
        conv(r"layer(\d)\.(\d+)\.(conv\d|dw)", r"layer\1_\2/\3"),
        batch_norm(r"layer(\d)\.(\d+)\.bn(\d)", r"layer\1_\2/bn\3"),
        Rename(
            r"gru\.weight_(ih|hh)_l(\d)",
            tuple(rf"params/gru/layer\2/\1_{gate}/kernel" for gate in "rzn"),
            "linear",
        ),
        Rename(
            r"gru\.weight_(ih|hh)_l(\d)_reverse",
            tuple(rf"params/gru/layer\2_reverse/\1_{gate}/kernel" for gate in "rzn"),
            "linear",
        ),
        Rename(r"attn\.in_proj_weight", tuple(f"params/attn/{x}/kernel" for x in "qkv"), "linear"),
        Rename(r"attn\.in_proj_bias", tuple(f"params/attn/{x}/bias" for x in "qkv")),
        linear("fc", "fc", flatten_chw(8, 2, 3)),
        Rename(r"emau\.mu", "batch_stats/emau/mu", reshaped((1, 4, 2), (4, 2))),
        Rename(r"up\.weight", "params/up/kernel", "conv_transpose"),
        Rename(r"temporal\.weight", "params/temporal/kernel", "conv1d"),
    )
)


def tensors(shapes=SHAPES, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("with_keys", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_there_and_back_is_the_identity(with_keys, seed):
    rng = np.random.default_rng(seed)
    names = [name for name in SHAPES if rng.random() < 0.7]
    before = tensors({name: SHAPES[name] for name in names}, seed)
    after = TABLE.to_torch(TABLE.to_ours(before), keys=names if with_keys else None)
    kept = {name: x for name, x in before.items() if not name.endswith("num_batches_tracked")}
    assert after.keys() == kept.keys()
    for name, tensor in kept.items():
        np.testing.assert_array_equal(after[name], tensor, err_msg=name)


def test_paths_and_shapes():
    ours = {path: x.shape for path, x in flattened(TABLE.to_ours(tensors()))}
    assert ours["params/conv1/kernel"] == (7, 7, 3, 8)
    assert ours["params/layer1_11/dw/kernel"] == (3, 3, 1, 8)
    assert ours["params/layer1_0/bn1/scale"] == (8,)
    assert ours["batch_stats/layer1_0/bn1/var"] == (8,)
    assert ours["params/gru/layer0/ih_z/kernel"] == (5, 4)
    assert ours["params/gru/layer0_reverse/hh_n/kernel"] == (4, 4)
    assert ours["params/attn/k/kernel"] == (6, 6)
    assert ours["params/fc/kernel"] == (48, 5)


def test_fused_parts_keep_their_order():
    whole = tensors()["attn.in_proj_weight"]
    attn = TABLE.to_ours({"attn.in_proj_weight": whole})["params"]["attn"]
    for i, name in enumerate("qkv"):
        np.testing.assert_array_equal(attn[name]["kernel"], whole[6 * i : 6 * i + 6].T)


def test_flattened_features_meet_the_same_weights():
    rng = np.random.default_rng(0)
    features, weight = rng.standard_normal((4, 8, 2, 3)), rng.standard_normal((5, 48))
    kernel = flatten_chw(8, 2, 3).to_ours(weight)
    ours = np.transpose(features, (0, 2, 3, 1)).reshape(4, -1) @ kernel
    np.testing.assert_allclose(ours, features.reshape(4, -1) @ weight.T, rtol=1e-10)


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_conv_transpose_scatters_the_kernel_as_pytorch_does(transpose_kernel):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4, 2)).astype(np.float32)
    weight = rng.standard_normal((2, 5, 3, 3)).astype(np.float32)
    expected = np.zeros((7, 9, 5), np.float32)
    for i, j in np.ndindex(3, 4):
        patch = np.einsum("c,cohw->hwo", x[i, j], weight)
        expected[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += patch
    layout = LAYOUTS["conv" if transpose_kernel else "conv_transpose"]
    layer = nn.ConvTranspose(
        5, (3, 3), (2, 2), "VALID", use_bias=False, transpose_kernel=transpose_kernel
    )
    ours = layer.apply({"params": {"kernel": layout.to_ours(weight)}}, x[None])[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_gradients_go_back_without_batch_statistics():
    grads = {"params": TABLE.to_ours(tensors())["params"]}
    names = {name for name in SHAPES if not ("running" in name or "num_batches" in name)}
    assert TABLE.to_torch(grads, keys=SHAPES).keys() == names - {"emau.mu"}
    assert TABLE.to_torch(jax.tree.map(np.asarray, grads)).keys() == names - {"emau.mu"}


def test_the_first_matching_rule_decides_in_both_directions():
    table = NameTable(
        (
            Rename(r"head\.weight", "params/classifier/kernel", "linear"),
            Rename(r"(\w+)\.weight", r"params/\1/kernel", "linear"),
        )
    )
    tree = table.to_ours({"head.weight": np.ones((2, 3)), "fc.weight": np.ones((4, 5))})
    assert set(tree["params"]) == {"classifier", "fc"}
    assert set(table.to_torch(tree)) == {"head.weight", "fc.weight"}
    with pytest.raises(CheckpointError, match="params/head/kernel"):
        table.to_torch({"params": {"head": {"kernel": np.ones((3, 2))}}})


def test_an_expression_without_inverse_needs_keys():
    table = NameTable([Rename(r"(?:encoder|trunk)\.weight", "params/encoder/kernel", "linear")])
    tree = table.to_ours({"trunk.weight": np.ones((2, 3))})
    with pytest.raises(CheckpointError, match="keys="):
        table.to_torch(tree)
    assert table.to_torch(tree, keys=["trunk.weight"])["trunk.weight"].shape == (2, 3)


def test_a_tensor_under_two_names_must_have_one_value():
    table = NameTable([Rename(r"(model|copy)\.weight", "params/shared/kernel", "linear")])
    one = np.ones((2, 3))
    tree = table.to_ours({"model.weight": one, "copy.weight": one})
    assert tree["params"]["shared"]["kernel"].shape == (3, 2)
    assert set(table.to_torch(tree, keys=["model.weight", "copy.weight"])) == {
        "model.weight",
        "copy.weight",
    }
    with pytest.raises(CheckpointError, match="different values"):
        table.to_ours({"model.weight": one, "copy.weight": 2 * one})


def test_every_unknown_or_unfit_key_is_named():
    wrong = {"extra.weight": np.ones(3), "attn.in_proj_bias": np.ones(7), "fc.weight": np.ones(3)}
    with pytest.raises(CheckpointError) as error:
        TABLE.to_ours(wrong)
    for name in wrong:
        assert name in str(error.value)


def test_an_unknown_layout_is_refused_where_it_is_written():
    with pytest.raises(ValueError, match="linaer"):
        Rename(r"fc\.weight", "params/fc/kernel", "linaer")


def test_ignored_keys_and_own_layouts():
    halved = Layout(lambda x: x / 2, lambda x: x * 2)
    table = NameTable([Ignore(r"optimizer\..*"), Rename(r"scale", "params/scale", halved)])
    tree, report = table.convert({"optimizer.step": np.ones(()), "scale": np.full((2,), 4.0)})
    assert report.ok
    assert report.ignored == ("optimizer.step",)
    assert report.used == (("scale", "params/scale"),)
    np.testing.assert_array_equal(tree["params"]["scale"], [2.0, 2.0])
    np.testing.assert_array_equal(table.to_torch(tree)["scale"], [4.0, 4.0])
