"""torchreid's OSNet key names and where those weights lie in `jaxcog.nn.osnet.OSNet`."""

from __future__ import annotations

import re

from jaxcog.interop.names import Ignore, Layout, Rename, batch_norm, layer_norm, linear

_POINTWISE = Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])


def osnet_rules(torch_prefix: str = "", our_prefix: str = "") -> tuple[Rename | Ignore, ...]:
    """Rules for one OSNet of any width, with or without instance norms.

    Args:
      torch_prefix: what stands before "conv1.conv.weight" in the file, with its dot ("module.").
      our_prefix: the module path of the OSNet below "params", with its slash ("backbone/").
    """
    torch, ours = re.escape(torch_prefix), our_prefix
    block, our_block = torch + r"conv(\d)\.(\d)\.", ours + r"conv\1_\2/"
    light, our_light = block + r"conv2([bcd])\.(\d)", our_block + r"conv2\3_\4"
    return (
        *_layer(torch + r"conv([15])", ours + r"conv\1"),
        *_layer(block + r"(conv1|conv3|downsample)", our_block + r"\3"),
        *_layer(torch + r"conv(\d)\.2\.0", ours + r"conv\1_2"),
        *_light(block + "conv2a", our_block + "conv2a_0"),
        *_light(light, our_light),
        *linear(block + r"gate\.(fc\d)", our_block + r"gate/\3", _POINTWISE),
        *layer_norm(block + "IN", our_block + "instance_norm"),
    )


def _layer(torch: str, ours: str) -> tuple[Rename | Ignore, ...]:
    return (
        Rename(rf"{torch}\.conv\.weight", f"params/{ours}/conv/kernel", "conv"),
        *batch_norm(rf"{torch}\.bn", f"{ours}/bn"),
    )


def _light(torch: str, ours: str) -> tuple[Rename | Ignore, ...]:
    return (
        Rename(rf"{torch}\.conv1\.weight", f"params/{ours}/conv1/kernel", "conv"),
        Rename(rf"{torch}\.conv2\.weight", f"params/{ours}/conv2", "conv"),
        *batch_norm(rf"{torch}\.bn", f"{ours}/bn"),
    )
