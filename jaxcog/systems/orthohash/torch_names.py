"""Official checkpoint keys and where they lie here.

Sources: kamwoh/orthohash (AlexNet), CISiPLab/cisip-FIRe (ResNet below "backbone."), torchvision's
ImageNet AlexNet and ResNet. Our AlexNet flattens channel-major, as the official one, so its first
linear layer is only transposed.
"""

from __future__ import annotations

from jaxcog.interop.names import Ignore, NameTable, Rename, batch_norm, conv, linear
from jaxcog.nn.resnet_names import resnet_rules

HASH_RULES = (
    *linear(r"hash_fc\.0", "hash_fc/linear"),
    *batch_norm(r"hash_fc\.1", "hash_fc/bn"),
    Rename(r"ce_fc\.centroids", "codebook"),
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

TORCHVISION_RESNET = NameTable(
    (*resnet_rules("", "backbone/"), Ignore(r"fc\.(weight|bias)"))
)

TABLES = {"alexnet": ALEXNET, "resnet": RESNET, "feature": FEATURE}
