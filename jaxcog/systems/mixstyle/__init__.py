"""MixStyle: domain generalisation by mixing the feature statistics of training images."""

from jaxcog.systems.mixstyle.fixmatch import fixmatch_mixstyle_loss, pseudo_labels
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.model import BACKBONES, Network, Output
from jaxcog.systems.mixstyle.ops import (
    MixDraw,
    apply_draw,
    crossdomain_permutation,
    dropblock,
    efdmix,
    instance_statistics,
    mixstyle,
    random_permutation,
    sample_mixstyle,
)

__all__ = [
    "BACKBONES",
    "MixDraw",
    "MixStyle",
    "Network",
    "Output",
    "apply_draw",
    "crossdomain_permutation",
    "dropblock",
    "efdmix",
    "fixmatch_mixstyle_loss",
    "instance_statistics",
    "mixstyle",
    "pseudo_labels",
    "random_permutation",
    "sample_mixstyle",
]
