"""Keys of the official checkpoints of both stages, and of the ImageNet weights they start from.

Everything is matched by name. (The released code copies stage 1 by position.)
"""

from __future__ import annotations

from jaxcog.interop.names import Ignore, NameTable, Rename, Rule, batch_norm, conv
from jaxcog.nn.attention import attention_rules
from jaxcog.nn.psp import pyramid_rules
from jaxcog.nn.resnet_dilated import CLASSIFIER, flat_stem_rules
from jaxcog.nn.resnet_names import resnet_rules
from jaxcog.nn.vgg import vgg_rules, vgg_stage_rules

_TRUNK = "encoder/trunk/"


def _stem_rules() -> tuple[Rule, ...]:
    """The deep stem as a Sequential: convolutions at places 0, 3, 6, norms behind them."""
    rules: list[Rule] = []
    for i, place in ((1, 0), (2, 3), (3, 6)):
        rules.append(Rename(rf"layer0\.{place}\.weight", f"params/{_TRUNK}conv{i}/kernel", "conv"))
        rules += batch_norm(rf"layer0\.{place + 1}", f"{_TRUNK}bn{i}")
    return tuple(rules)


_HEAD = (
    *pyramid_rules(r"ppm\.features", "encoder/ppm/"),
    *conv(r"bottleneck\.0", "encoder/bottleneck/conv"),
    *batch_norm(r"bottleneck\.1", "encoder/bottleneck/bn"),
    *conv("classifier", "classifier"),
)

RESNET = NameTable((*_stem_rules(), *resnet_rules("", _TRUNK), *_HEAD))
"""Stage 1 with a ResNet of any depth: RePRI's and CWT's `best.pth`."""

VGG16 = NameTable((*vgg_stage_rules("layer", _TRUNK, depth=16), *_HEAD))
"""Stage 1 with VGG-16."""

IMAGENET_RESNET = NameTable((*flat_stem_rules("", _TRUNK), CLASSIFIER))
"""`resnet50_v2.pth`, `resnet101_v2.pth`: the trunk alone."""

IMAGENET_VGG16 = NameTable(
    (
        *vgg_rules("features.", _TRUNK, depth=16, batch_norm=True),
        Ignore(r"classifier\.\d\.(weight|bias)"),
    )
)
"""`vgg16_bn.pth` of torchvision: the trunk alone."""

TRANSFORMER = NameTable(attention_rules("", "transformer/"))
"""Stage 2: CWT's `best.pth`, `final.pth`."""


def table_for(encoder: str) -> NameTable:
    """Stage 1's names by the name of the encoder."""
    return VGG16 if encoder == "vgg16" else RESNET


def imagenet_table_for(encoder: str) -> NameTable:
    """Names of the file that stage 1 starts from."""
    return IMAGENET_VGG16 if encoder == "vgg16" else IMAGENET_RESNET
