from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcog.interop.names import NameTable
from jaxcog.nn.resnet_dilated import (
    CLASSIFIER,
    DilatedResNet,
    flat_stem_rules,
    sequential_stem_rules,
)


def shapes(net, height, width):
    """(variables, maps) as shapes; nothing is computed."""

    def run(images):
        return net.init_with_output(jax.random.key(0), images, train=False)

    maps, variables = jax.eval_shape(run, jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32))
    return variables, maps


@pytest.mark.parametrize(
    ("image", "stem", "last"),
    [
        ((769, 769), (193, 193), (97, 97)),
        ((832, 832), (209, 209), (105, 105)),
        ((1024, 2048), (257, 513), (129, 257)),
    ],
)
def test_sizes_with_ceil_mode_pooling(image, stem, last):
    _, maps = shapes(DilatedResNet(50), *image)
    assert maps["stem"].shape == (1, *stem, 128)
    assert maps["layer1"].shape == (1, *stem, 256)
    for name, channels in (("layer2", 512), ("layer3", 1024), ("layer4", 2048)):
        assert maps[name].shape == (1, *last, channels)


def test_floor_mode_pooling_and_the_plain_stem():
    _, maps = shapes(DilatedResNet(50, stem="plain", pool_ceil=False), 832, 832)
    assert maps["stem"].shape == (1, 208, 208, 64)
    assert maps["layer4"].shape == (1, 104, 104, 2048)


@pytest.mark.parametrize(
    ("stem", "rules", "first"),
    [
        ("deep", sequential_stem_rules, {"conv1.0.weight", "conv1.3.weight", "conv1.6.weight"}),
        ("deep", flat_stem_rules, {"conv1.weight", "conv2.weight", "conv3.weight"}),
        ("plain", flat_stem_rules, {"conv1.weight"}),
    ],
)
def test_names_of_pretrained_files(stem, rules, first):
    """ImageNet files in the deep-stem namings and in torchvision's, classifier included."""
    variables, _ = shapes(DilatedResNet(50, stem), 65, 65)
    table = NameTable((*rules("", "trunk/"), CLASSIFIER))
    inside = {part: {"trunk": tree} for part, tree in variables.items()}
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), inside)
    tensors = table.to_torch(zeros)
    assert {key for key, x in tensors.items() if "layer" not in key and x.ndim == 4} == first
    assert tensors["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    assert tensors["layer1.0.downsample.1.running_var"].shape == (256,)
    again = table.to_ours({**tensors, "fc.weight": np.zeros((1000, 2048))})
    assert jax.tree.structure(again) == jax.tree.structure(zeros)


def test_a_depth_without_layout_is_named():
    with pytest.raises(ValueError, match="depth 34"):
        shapes(DilatedResNet(34), 65, 65)
