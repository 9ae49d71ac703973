"""Official checkpoint keys and where they lie here.

Sources: neilfei/brivl-nmi and BAAI-WuDao/BriVL (entry `learnable` of the file: four encoders),
rucmlcv/Wenlan-Video-Public (prefix `learnable.`, no momentum encoders); timm's EfficientNet and
Hugging Face's BERT by themselves; CompVis/taming-transformers (VQGAN).
"""

from __future__ import annotations

import numpy as np

from jaxcog.interop.names import (
    Ignore,
    Layout,
    NameTable,
    Rename,
    Rule,
    conv,
    layer_norm,
    linear,
)
from jaxcog.nn.bert_names import bert_rules
from jaxcog.nn.efficientnet_names import efficientnet_rules

_POINTWISE = Layout(  # [out, in, 1, 1] of a 1x1 convolution and [in, out] of a linear layer
    lambda x: np.transpose(x[:, :, 0, 0]), lambda x: np.transpose(x)[:, :, None, None]
)


def _fusion(torch_prefix: str, our_prefix: str) -> tuple[Rule, ...]:
    layer, ours = torch_prefix + r"layers\.(\d+)\.", our_prefix + r"fusion/layer_\1/"
    parts = ("query", "key", "value")
    return (
        Rename(
            layer + r"self_attn\.in_proj_weight",
            tuple(f"params/{ours}{part}/kernel" for part in parts),
            "linear",
        ),
        Rename(
            layer + r"self_attn\.in_proj_bias",
            tuple(f"params/{ours}{part}/bias" for part in parts),
        ),
        *linear(layer + r"self_attn\.out_proj", ours + "out"),
        *linear(layer + r"linear([12])", ours + r"linear\2"),
        *layer_norm(layer + r"norm([12])", ours + r"norm\2"),
    )


def image_rules(torch_prefix: str = "", our_prefix: str = "image/") -> tuple[Rule, ...]:
    """The image tower; `torch_prefix` is a regular expression, such as "imgencoder\\."."""
    learnable = torch_prefix + r"learnable\."
    return (
        *efficientnet_rules(torch_prefix + r"backbone\.", our_prefix + "backbone/"),
        Rename(learnable + r"max_pool\.0\.weight", f"params/{our_prefix}patch/kernel", _POINTWISE),
        Rename(learnable + r"max_pool\.0\.bias", f"params/{our_prefix}patch/bias"),
        *_fusion(learnable + r"imgAtt\.", our_prefix),
        *linear(learnable + r"imgFC\.fc([12])", our_prefix + r"fc\1"),
    )


def text_rules(torch_prefix: str = "", our_prefix: str = "text/") -> tuple[Rule, ...]:
    """The text tower; `torch_prefix` is a regular expression, such as "textencoder\\."."""
    learnable = torch_prefix + r"learnable\."
    return (
        *bert_rules(torch_prefix + r"backbone\.(?:bert\.)?", our_prefix + "backbone/"),
        *_fusion(learnable + r"textAtt\.", our_prefix),
        *linear(learnable + r"textFC\.fc([12])", our_prefix + r"fc\1"),
    )


_IMAGE_KEY, _TEXT_KEY = r"imgencoder\.", r"textencoder\."

BRIVL = NameTable(
    (
        *image_rules(_IMAGE_KEY),
        *text_rules(_TEXT_KEY),
        # The momentum encoders of a file are of no use: queues are not stored with them.
        Ignore(r"(img|text)encoder_mom\..*"),
    )
)
"""The entry `learnable` of BriVL-1.0-5500w.pth and brivl-with-roberta-base.pth."""

VIDEO = NameTable(
    (
        *image_rules(r"learnable\." + _IMAGE_KEY),
        *text_rules(r"learnable\." + _TEXT_KEY),
        Ignore(r"learnable\.videoAtt\..*"),
    )
)
"""WenLan-2 for video."""

IMAGE, TEXT = NameTable(image_rules()), NameTable(text_rules())
"""One tower by itself, without a prefix."""

TIMM = NameTable(efficientnet_rules("", "image/backbone/"))
"""ImageNet weights of the image backbone (tf_efficientnet_*)."""

HUGGING_FACE = NameTable(
    (
        *bert_rules("bert\\.", "text/backbone/"),
        *bert_rules("", "text/backbone/"),
        Ignore(r"cls\..*"),
    )
)
"""BERT or RoBERTa-wwm by itself, with or without its pre-training heads."""

TOWERS = (BRIVL, VIDEO, TIMM, HUGGING_FACE)
"""What `import-torch` chooses from, by the keys of the file."""


def _vqgan_rules() -> tuple[Rule, ...]:
    half = r"(encoder|decoder)\."
    inner = "(conv1|conv2|nin_shortcut|q|k|v|proj_out)"
    return (
        *conv(half + "conv_(in|out)", r"\1/conv_\2"),
        *layer_norm(half + "norm_out", r"\1/norm_out"),
        *conv(half + r"mid\.(block|attn)_(\d)\." + inner, r"\1/mid_\2_\3/\4"),
        *layer_norm(half + r"mid\.(block|attn)_(\d)\.(norm|norm1|norm2)", r"\1/mid_\2_\3/\4"),
        *conv(half + r"(down|up)\.(\d+)\.(block|attn)\.(\d+)\." + inner, r"\1/\2_\3_\4_\5/\6"),
        *layer_norm(
            half + r"(down|up)\.(\d+)\.(block|attn)\.(\d+)\.(norm|norm1|norm2)",
            r"\1/\2_\3_\4_\5/\6",
        ),
        *conv(half + r"(down|up)\.(\d+)\.(downsample|upsample)\.conv", r"\1/\2_\3_\4"),
        *conv("(quant_conv|post_quant_conv)", r"\1"),
        Rename(r"quantize\.embedding\.weight", "params/codebook"),
        Ignore(r"loss\..*"),
    )


VQGAN = NameTable(_vqgan_rules())
"""CompVis/taming-transformers: the entry `state_dict` of a VQModel's checkpoint."""
