"""Keys of the official checkpoints, with and without the prefix "module." of their MAML wrapper."""

from __future__ import annotations

from jaxcog.interop.names import (
    Ignore,
    Layout,
    NameTable,
    Rename,
    Rule,
    conv,
    flatten_chw,
    linear,
)
from jaxcog.nn.inception import inception_rules
from jaxcog.nn.resnet_names import resnet_rules
from jaxcog.nn.vgg import vgg_rules

_TRUNK = "encoder/feature/trunk/"


def unflatten_chw(channels: int, height: int, width: int) -> Layout:
    """A linear layer in front of a feature map: weight [C*H*W, in] <-> kernel [in, H*W*C]."""
    flat = flatten_chw(channels, height, width)
    return Layout(lambda x: flat.to_ours(x.T).T, lambda x: flat.to_torch(x.T).T)


def _map_bias(channels: int, height: int, width: int) -> Layout:
    """[C*H*W] <-> [H*W*C]."""
    flat = flatten_chw(channels, height, width)
    return Layout(lambda x: flat.to_ours(x[None])[:, 0], lambda x: flat.to_torch(x[:, None])[0])


def vae_rules(prefix: str = "", *, channels: int = 256, side: int = 8) -> tuple[Rule, ...]:
    """The released network. channels, side: of its smallest map.

    prefix: regular expression of what stands before "encoder.".
    """
    encoder, decoder = prefix + r"encoder\.", prefix + r"decoder\.model\."
    shape = (channels, side, side)
    return (
        *conv(encoder + r"feature\.(down_\d+)\.model\.0", r"encoder/feature/\1"),
        *linear(
            encoder + r"feature\.linear_encoder",
            "encoder/feature/linear_encoder",
            flatten_chw(*shape),
        ),
        *linear(encoder + "invar", "encoder/content"),
        *linear(encoder + "fc_mu", "encoder/mu"),
        *linear(encoder + "fc_std", "encoder/logvar"),
        Rename(
            decoder + r"linear_1\.weight", "params/decoder/linear_1/kernel", unflatten_chw(*shape)
        ),
        Rename(decoder + r"linear_1\.bias", "params/decoder/linear_1/bias", _map_bias(*shape)),
        *transposed_rules(decoder + r"(deconv_\d+)\.model\.0", r"decoder/\1"),
        *transposed_rules(decoder + r"final_image\.0", "decoder/final_image"),
    )


def transposed_rules(torch_prefix: str, our_prefix: str) -> tuple[Rule, ...]:
    return (
        Rename(rf"{torch_prefix}\.weight", f"params/{our_prefix}/kernel", "conv_transpose"),
        Rename(rf"{torch_prefix}\.bias", f"params/{our_prefix}/bias"),
    )


def table_for(channels: int = 256, side: int = 8) -> NameTable:
    """`VGG_ShoeV2_model_best.pth` and its like. channels, side: of the network's smallest map."""
    bare = vae_rules(channels=channels, side=side)
    return NameTable((*bare, *vae_rules(r"module\.", channels=channels, side=side)))


VAE = table_for()

BACKBONES = {
    "vgg16": NameTable(
        (
            *vgg_rules("features.", _TRUNK, depth=16),
            *vgg_rules("backbone.", _TRUNK, depth=16),
            Ignore(r"classifier\.\d\.(weight|bias)"),
        )
    ),
    "resnet50": NameTable(
        (
            *resnet_rules("", _TRUNK),
            *resnet_rules("features.", _TRUNK),
            Ignore(r"fc\.(weight|bias)"),
        )
    ),
    "inception_v3": NameTable(inception_rules("", _TRUNK)),
}
"""ImageNet weights of torchvision, and the released code's classes around them: the trunk alone."""
