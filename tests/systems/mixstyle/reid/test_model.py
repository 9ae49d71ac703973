from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from jaxcog.errors import ConfigError
from jaxcog.interop.importer import choose_table
from jaxcog.systems.mixstyle.reid.model import NETWORKS, ReIDNetwork, split_official_name, stages_of
from jaxcog.systems.mixstyle.reid.torch_names import OSNET, OSNET_IMAGENET, tables_of


@functools.cache
def variables(network, persons=10):
    init = functools.partial(ReIDNetwork(network, persons).init, image_shape=(64, 32, 3))
    params, stats = jax.eval_shape(init, jax.random.key(0))
    return {"params": params, "batch_stats": stats}


def zeros(tree):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)


@pytest.mark.parametrize(
    ("network", "total"),
    [("resnet50", 24_558_144), ("osnet_x1_0", 2_169_508), ("osnet_ibn_x1_0", 2_170_532)],
)
def test_parameter_counts_are_the_official_ones(network, total):
    params = dict(variables(network)["params"])
    params.pop("classifier")
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == total


@pytest.mark.parametrize("network", ["resnet50", "osnet_x1_0", "osnet_x0_25", "osnet_ibn_x1_0"])
def test_names_lead_to_torch_and_back(network):
    tree = zeros(variables(network))
    names = tables_of(network)[0]
    tensors = names.to_torch(tree)
    again = names.to_ours(tensors)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), again, tree)


def test_official_key_names():
    tensors = tables_of("osnet_x1_0")[0].to_torch(zeros(variables("osnet_x1_0")))
    assert tensors["conv2.0.conv2a.conv2.weight"].shape == (64, 1, 3, 3)
    assert tensors["conv3.1.conv2d.3.conv1.weight"].shape == (96, 96, 1, 1)
    assert tensors["conv2.0.gate.fc1.weight"].shape == (4, 64, 1, 1)
    assert {"conv3.2.0.conv.weight", "conv5.bn.running_var", "fc.1.weight"} <= set(tensors)


def test_osnet_ibn_has_instance_norms_first_and_in_conv2():
    tensors = tables_of("osnet_ibn_x1_0")[0].to_torch(zeros(variables("osnet_ibn_x1_0")))
    assert "conv1.bn.weight" in tensors
    assert "conv1.bn.running_mean" not in tensors
    norms = [key for key in tensors if ".IN." in key]
    assert norms == [f"conv2.{i}.IN.{name}" for i in (0, 1) for name in ("bias", "weight")]


def test_imagenet_files_of_osnet_fill_all_but_the_classifier():
    tree = zeros(variables("osnet_x0_25"))
    tensors = tables_of("osnet_x0_25")[0].to_torch(tree)
    tables = tables_of("osnet_x0_25")
    assert choose_table(tensors, tables, tree) is OSNET
    tensors["classifier.weight"] = np.zeros((1000, 512), np.float32)
    assert choose_table(tensors, tables, tree) is OSNET_IMAGENET
    ours = OSNET_IMAGENET.to_ours(tensors)
    assert set(ours["params"]) == {"backbone", "fc_0", "fc_1"}


def test_official_names():
    assert split_official_name("osnet_x1_0_ms23_a0d1_domprior") == (
        "osnet_x1_0",
        ("conv2", "conv3"),
    )
    assert split_official_name("resnet50_fc512_ms12_a0d1") == ("resnet50", ("layer1", "layer2"))
    assert split_official_name("osnet_x0_5") == ("osnet_x0_5", ())
    assert all(stages_of(network) for network in NETWORKS)
    with pytest.raises(ConfigError, match="unknown; choose from osnet_x1_0"):
        stages_of("pcb")
