"""Keys of Dassl's checkpoints and of torchvision's ImageNet weights, and our paths for them."""

from __future__ import annotations

from jaxcog.interop.names import Ignore, NameTable, batch_norm, conv, linear
from jaxcog.nn.resnet_names import resnet_rules

_SMALL_CNN = (
    *conv(r"backbone\.conv(\d)\.conv", r"backbone/conv\1/conv"),
    *batch_norm(r"backbone\.conv(\d)\.bn", r"backbone/conv\1/bn"),
)
# Linear layers and batch norms are numbered within one sequence, four entries a hidden layer.
_HEAD = (
    *linear(r"head\.mlp\.(0|4|8|12)", r"head/mlp_\1"),
    *batch_norm(r"head\.mlp\.(1|5|9|13)", r"head/mlp_\1"),
)

IMAGENET = NameTable((*resnet_rules("", "backbone/"), Ignore(r"fc\.(weight|bias)")))
"""torchvision's ResNets: the backbone only; the 1000-class layer is left out."""

NAMES = NameTable(
    (
        *resnet_rules("backbone.", "backbone/"),
        *_SMALL_CNN,
        *_HEAD,
        *linear("classifier", "classifier"),
        *IMAGENET.rules,
    )
)
"""Dassl's checkpoints (`backbone.*`, `head.mlp.*`, `classifier.*`), and torchvision's files."""
