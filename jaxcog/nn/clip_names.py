"""Key names of CLIP checkpoints and of PyTorch GRUs, and where those weights lie here."""

from __future__ import annotations

import re

from jaxcog.interop.names import Layout, Rename, Rule, batch_norm, conv, layer_norm, linear
from jaxcog.nn.clip_resnet import resized_to


def clip_resnet_rules(
    torch_prefix: str = "", our_prefix: str = "", grid: tuple[int, int] | None = None
) -> tuple[Rule, ...]:
    """Rules for one `ClipResNet` of any size.

    Args:
      torch_prefix: what stands before "conv1.weight" in the file, with its dot ("visual.").
      our_prefix: the module path below "params", with its slash ("visual/").
      grid: the positional embedding is resized to it; None: it is taken as it is.
    """
    torch, ours = re.escape(torch_prefix), our_prefix
    block, our_block = torch + r"layer(\d)\.(\d+)\.", ours + r"layer\1_\2/"
    position = "same" if grid is None else Layout(resized_to(grid), lambda x: x)
    return (
        *conv(torch + r"conv(\d)", ours + r"conv\1"),
        *batch_norm(torch + r"bn(\d)", ours + r"bn\1"),
        *conv(block + r"conv(\d)", our_block + r"conv\3"),
        *batch_norm(block + r"bn(\d)", our_block + r"bn\3"),
        *conv(block + r"downsample\.0", our_block + "downsample_conv"),
        *batch_norm(block + r"downsample\.1", our_block + "downsample_bn"),
        *linear(torch + r"attnpool\.([qkvc])_proj", ours + r"attnpool/\1_proj"),
        Rename(
            torch + r"attnpool\.positional_embedding",
            f"params/{ours}attnpool/positional_embedding",
            position,
        ),
    )


def clip_text_rules(torch_prefix: str = "", our_prefix: str = "") -> tuple[Rule, ...]:
    """Rules for one `ClipTextTransformer`; arguments as in `clip_resnet_rules`."""
    torch, ours = re.escape(torch_prefix), our_prefix
    block, our_block = torch + r"transformer\.resblocks\.(\d+)\.", ours + r"block\1/"
    own = f"params/{ours}"
    return (
        Rename(torch + r"token_embedding\.weight", own + "token_embedding"),
        Rename(torch + r"positional_embedding", own + "positional_embedding"),
        Rename(torch + r"text_projection", own + "text_projection"),
        *layer_norm(torch + "ln_final", ours + "ln_final"),
        *layer_norm(block + r"ln_(\d)", our_block + r"ln_\2"),
        Rename(block + r"attn\.in_proj_weight", f"params/{our_block}attn/in_proj/kernel", "linear"),
        Rename(block + r"attn\.in_proj_bias", f"params/{our_block}attn/in_proj/bias"),
        *linear(block + r"attn\.out_proj", our_block + "attn/out_proj"),
        *linear(block + r"mlp\.c_(fc|proj)", our_block + r"c_\2"),
    )


def bigru_rules(torch_prefix: str = "", our_prefix: str = "") -> tuple[Rule, ...]:
    """Rules for one `BiGRU` of any depth; arguments as in `clip_resnet_rules`."""
    torch, ours = re.escape(torch_prefix), our_prefix
    rules = []
    for suffix, direction in ((r"_reverse", "backward"), ("", "forward")):
        for kind, name in (("ih", "input"), ("hh", "recurrent")):
            path = rf"params/{ours}layer\1_{direction}/{name}"
            rules.append(Rename(torch + rf"weight_{kind}_l(\d+){suffix}", path, "linear"))
    return tuple(rules)
