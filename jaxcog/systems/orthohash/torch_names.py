"""Official checkpoint keys and where they lie here.

Sources: kamwoh/orthohash (AlexNet), CISiPLab/cisip-FIRe (ResNet below "backbone."), torchvision's
ImageNet AlexNet and ResNet. Our AlexNet flattens channel-major, as the official one, so its first
linear layer is only transposed.
"""

from __future__ import annotations

import numpy as np

from jaxcog.interop.names import (
    Ignore,
    Layout,
    NameTable,
    Rename,
    batch_norm,
    conv,
    linear,
)
from jaxcog.nn.resnet_names import resnet_rules


def _signs(centroids: np.ndarray) -> np.ndarray:
    """Class codes as the int8 that our State holds."""
    if not np.all(np.abs(centroids) == 1):
        raise ValueError("a codebook holds only +1 and -1; this one was learned or damaged")
    return centroids.astype(np.int8)


HASH_RULES = (
    *linear(r"hash_fc\.0", "hash_fc/linear"),
    *batch_norm(r"hash_fc\.1", "hash_fc/bn"),
    Rename(r"ce_fc\.centroids", "codebook", Layout(_signs, lambda x: np.asarray(x, np.float32))),
)

ALEXNET = NameTable(
    (
        *conv(r"features\.(\d+)", r"features_\1"),
        *linear(r"fc\.(1|4)", r"fc_\1"),
        *HASH_RULES,
    )
)

RESNET = NameTable(
    (
        *resnet_rules("backbone.", "backbone/"),
        Ignore(r"backbone\.classifier\.(weight|bias)"),
        *HASH_RULES,
    )
)

FEATURE = NameTable(HASH_RULES)

TORCHVISION_ALEXNET = NameTable(
    (
        *conv(r"features\.(\d+)", r"features_\1"),
        *linear(r"classifier\.(1|4)", r"fc_\1"),
        Ignore(r"classifier\.6\.(weight|bias)"),
    )
)

TORCHVISION_RESNET = NameTable((*resnet_rules("", "backbone/"), Ignore(r"fc\.(weight|bias)")))

TABLES = {
    "alexnet": (ALEXNET, TORCHVISION_ALEXNET),
    "resnet": (RESNET, TORCHVISION_RESNET),
    "feature": FEATURE,
}
"""Network -> tables: the authors' checkpoints, then ImageNet weights without a hash layer."""
