"""torchvision's ResNet key names and where those weights lie in `jaxcog.nn.resnet.ResNet`."""

from __future__ import annotations

import re

from jaxcog.interop.names import Ignore, Rename, batch_norm


def resnet_rules(torch_prefix: str = "", our_prefix: str = "") -> tuple[Rename | Ignore, ...]:
    """Rules for one ResNet of any depth.

    Args:
      torch_prefix: what stands before "conv1.weight" in the file, with its dot ("backbone.").
      our_prefix: the module path of the ResNet below "params", with its slash ("backbone/").
    """
    torch, ours = re.escape(torch_prefix), our_prefix
    block, our_block = torch + r"layer(\d)\.(\d+)\.", ours + r"layer\1_\2/"
    return (
        Rename(torch + r"conv1\.weight", f"params/{ours}conv1/kernel", "conv"),
        *batch_norm(torch + "bn1", ours + "bn1"),
        Rename(block + r"conv(\d)\.weight", rf"params/{our_block}conv\3/kernel", "conv"),
        *batch_norm(block + r"bn(\d)", our_block + r"bn\3"),
        Rename(
            block + r"downsample\.0\.weight", f"params/{our_block}downsample_conv/kernel", "conv"
        ),
        *batch_norm(block + r"downsample\.1", our_block + "downsample_bn"),
    )
