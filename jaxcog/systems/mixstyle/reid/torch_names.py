"""Keys of torchreid's checkpoints and of ImageNet weights, and our paths for them."""

from __future__ import annotations

from jaxcog.interop.names import Ignore, NameTable, batch_norm, linear
from jaxcog.nn.osnet_names import osnet_rules
from jaxcog.nn.resnet_names import resnet_rules

_FEATURES = (*linear(r"fc\.0", "fc_0"), *batch_norm(r"fc\.1", "fc_1"))
_HEAD = (*_FEATURES, *linear("classifier", "classifier"))
_RESNET = resnet_rules("", "backbone/")
_OSNET = osnet_rules("", "backbone/")

OSNET = NameTable((*_OSNET, *_HEAD))
RESNET = NameTable((*_RESNET, *_HEAD))
"""torchreid's checkpoints: the backbone at top level, `fc.*`, `classifier.*`."""

OSNET_IMAGENET = NameTable((*_OSNET, *_FEATURES, Ignore(r"classifier\.(weight|bias)")))
"""OSNet's ImageNet weights (their "module." taken off): all but the 1000-class layer."""

RESNET_IMAGENET = NameTable((*_RESNET, Ignore(r"fc\.(weight|bias)")))
"""torchvision's ResNets: the backbone only."""


def tables_of(network: str) -> tuple[NameTable, ...]:
    """Which tables may hold the weights of a network."""
    if network.startswith("osnet"):
        return OSNET, OSNET_IMAGENET
    return RESNET, RESNET_IMAGENET
