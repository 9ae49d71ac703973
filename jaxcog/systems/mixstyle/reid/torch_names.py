"""Keys of torchreid's checkpoints and of ImageNet weights, and our paths for them."""

from __future__ import annotations

from jaxcog.interop.names import Ignore, NameTable, batch_norm, linear
from jaxcog.nn.osnet_names import osnet_rules
from jaxcog.nn.resnet_names import resnet_rules

_HEAD = (
    *linear(r"fc\.0", "fc_0"),
    *batch_norm(r"fc\.1", "fc_1"),
    *linear("classifier", "classifier"),
)
_RESNET = resnet_rules("", "backbone/")

OSNET = NameTable((*osnet_rules("", "backbone/"), *_HEAD))
RESNET = NameTable((*_RESNET, *_HEAD))
"""torchreid's checkpoints: the backbone at top level, `fc.*`, `classifier.*`."""

OSNET_IMAGENET = NameTable(
    (
        *osnet_rules("module.", "backbone/"),
        *linear(r"module\.fc\.0", "fc_0"),
        *batch_norm(r"module\.fc\.1", "fc_1"),
        Ignore(r"module\.classifier\.(weight|bias)"),
    )
)
"""OSNet's ImageNet weights: everything but the 1000-class layer."""

RESNET_IMAGENET = NameTable((*_RESNET, Ignore(r"fc\.(weight|bias)")))
"""torchvision's ResNets: the backbone only."""


def tables_of(network: str) -> tuple[NameTable, ...]:
    """Which tables may hold the weights of a network."""
    if network.startswith("osnet"):
        return OSNET, OSNET_IMAGENET
    return RESNET, RESNET_IMAGENET
