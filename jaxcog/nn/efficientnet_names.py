"""timm's EfficientNet key names and where those weights lie in `jaxcog.nn.efficientnet`."""

from __future__ import annotations

from jaxcog.interop.names import Ignore, Rename, batch_norm, conv


def efficientnet_rules(torch_prefix: str = "", our_prefix: str = "") -> tuple[Rename | Ignore, ...]:
    """Rules for one EfficientNet of any size; its classifier is not part of ours.

    Args:
      torch_prefix: regular expression of what stands before "conv_stem." ("backbone\\.").
      our_prefix: the path of the network below "params", with its slash.
    """
    block, ours = torch_prefix + r"blocks\.(\d+)\.(\d+)\.", our_prefix + r"blocks_\1_\2/"
    return (
        *conv(torch_prefix + "conv_(stem|head)", our_prefix + r"conv_\1"),
        *batch_norm(torch_prefix + "bn([12])", our_prefix + r"bn\1"),
        *conv(block + r"conv_(pw|dw|pwl)", ours + r"conv_\3"),
        *conv(block + r"se\.conv_(reduce|expand)", ours + r"se_\3"),
        *batch_norm(block + r"bn(\d)", ours + r"bn\3"),
        Ignore(torch_prefix + r"classifier\.(weight|bias)"),
    )
