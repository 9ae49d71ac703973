"""Official checkpoint keys (SenHe/DLFS; LATS is royorel's) and where they lie here.

Weights are stored unscaled on both sides. The blur filters of every modulated convolution are
constants, and `t_denorm` is never used: neither has a counterpart; `export` writes them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcog.interop.names import Ignore, Layout, NameTable, Rename, Rule

_BIAS = Layout(lambda x: np.reshape(x, -1), lambda x: np.reshape(x, (1, -1, 1, 1)))


def equal_conv(torch: str, ours: str) -> tuple[Rule, ...]:
    """An EqualConv2d."""
    return (
        Rename(rf"{torch}\.conv\.weight_orig", f"{ours}/kernel", "conv"),
        Rename(rf"{torch}\.conv\.bias", f"{ours}/bias"),
    )


def equal_linear(torch: str, ours: str) -> tuple[Rule, ...]:
    """An EqualLinear."""
    return (
        Rename(rf"{torch}\.linear\.weight_orig", f"{ours}/kernel", "linear"),
        Rename(rf"{torch}\.linear\.bias", f"{ours}/bias"),
    )


def style(torch: str, ours: str) -> tuple[Rule, ...]:
    """A style layer, with and without the normalisation of its output."""
    return (
        *equal_linear(rf"{torch}\.mlp_class_std\.0", f"{ours}/affine"),
        *equal_linear(rf"{torch}\.mlp_class_std", f"{ours}/affine"),
    )


def modulated_conv(torch: str, ours: str) -> tuple[Rule, ...]:
    """A ModulatedConv2d."""
    return (
        Rename(rf"{torch}\.weight", f"{ours}/kernel", "conv"),
        Rename(rf"{torch}\.bias", f"{ours}/bias", _BIAS),
        *style(torch, f"{ours}/style"),
        Ignore(rf"{torch}\.blur\.(weight|weight_flip)"),
    )


def resnet_block(torch: str, ours: str) -> tuple[Rule, ...]:
    """A ResnetBlock."""
    return (
        *equal_conv(rf"{torch}\.conv_block\.1", f"{ours}/conv0"),
        *equal_conv(rf"{torch}\.conv_block\.5", f"{ours}/conv1"),
    )


def styled_block(torch: str, ours: str) -> tuple[Rule, ...]:
    """A modulated StyledConvBlock."""
    return tuple(
        rule
        for name in ("conv0", "conv1")
        for rule in modulated_conv(rf"{torch}\.{name}", f"{ours}/{name}")
    )


def _numbered(torch: str, ours: str, first: int, step: int, count: int) -> tuple[Rule, ...]:
    """Convolutions in an nn.Sequential, every `step` entries."""
    return tuple(
        rule
        for index in range(count)
        for rule in equal_conv(rf"{torch}\.{first + step * index}", f"{ours}{index}")
    )


def dlfs_encoder(torch: str, ours: str) -> tuple[Rule, ...]:
    """Distan_Encoder_1; `ours` such as "params/encoder"."""
    return (
        *_numbered(rf"{torch}encoder1", f"{ours}/stem/conv", 1, 4, 8),
        *resnet_block(rf"{torch}encoder2\.(\d+)", rf"{ours}/block\1"),
        *resnet_block(rf"{torch}structure_layer", f"{ours}/shape_block"),
        *resnet_block(rf"{torch}id_layer\.0", f"{ours}/identity_block"),
        *equal_conv(rf"{torch}id_layer\.2", f"{ours}/identity_conv"),
        *equal_conv(rf"{torch}text_layer\.1", f"{ours}/texture_conv0"),
        *equal_conv(rf"{torch}text_layer\.5", f"{ours}/texture_conv1"),
        *equal_conv(rf"{torch}text_layer\.9", f"{ours}/texture_out"),
    )


def lats_encoder(torch: str, ours: str, downsamples: int = 2) -> tuple[Rule, ...]:
    """LATS's IdentityEncoder: convolutions and residual blocks in one nn.Sequential."""
    first = 1 + 4 * downsamples + 3
    blocks = (
        resnet_block(rf"{torch}encoder\.{first + index}", f"{ours}/block{index}")
        for index in range(16)
    )
    convs = _numbered(rf"{torch}encoder", f"{ours}/stem/conv", 1, 4, downsamples + 1)
    return (*convs, *(rule for block in blocks for rule in block))


def age_encoder(torch: str, ours: str, convolutions: int = 5) -> tuple[Rule, ...]:
    """AgeEncoder; its last layer is counted like the others."""
    return (
        *_numbered(rf"{torch}encoder", f"{ours}/conv", 1, 3, convolutions),
        *equal_conv(rf"{torch}encoder\.{3 * convolutions}", f"{ours}/out"),
    )


def decoder(torch: str, ours: str) -> tuple[Rule, ...]:
    """Distan_StyledDecoder, and LATS's without the two transformations."""
    return (
        *styled_block(rf"{torch}StyledConvBlock_(\d+)", rf"{ours}/blocks_\1"),
        *styled_block(rf"{torch}StyledConvBlock_up(\d+)", rf"{ours}/ups_\1"),
        *modulated_conv(rf"{torch}s_transform", f"{ours}/shape_modulation"),
        *style(rf"{torch}t_transform", f"{ours}/texture_style"),
        *mapping(rf"{torch}mlp\.", f"{ours}/mlp"),
        *equal_conv(rf"{torch}conv_img\.0", f"{ours}/to_rgb"),
        Ignore(rf"{torch}t_denorm\.(weight|bias)"),
    )


def mapping(torch: str, ours: str, layers: int = 16) -> tuple[Rule, ...]:
    """MLP: a linear layer in every third place."""
    return tuple(
        rule
        for index in range(layers)
        for rule in equal_linear(rf"{torch}model\.{1 + 3 * index}", f"{ours}/dense{index}")
    )


def discriminator_block(torch: str, ours: str) -> tuple[Rule, ...]:
    """The plain StyledConvBlock."""
    return (
        *equal_conv(rf"{torch}conv0\.1", f"{ours}/conv0"),
        *equal_conv(rf"{torch}conv1\.2", f"{ours}/conv1"),
        Ignore(rf"{torch}conv1\.0\.(weight|weight_flip)"),
    )


def discriminator(torch: str, ours: str, layers: int = 12) -> tuple[Rule, ...]:
    """StyleGANDiscriminator."""
    blocks = (
        discriminator_block(rf"{torch}model\.{3 + index}\.", f"{ours}/block{index}")
        for index in range(layers)
    )
    return (
        *equal_conv(rf"{torch}model\.1", f"{ours}/stem"),
        *(rule for block in blocks for rule in block),
        *equal_conv(rf"{torch}gan_head\.1", f"{ours}/head"),
        *equal_conv(rf"{torch}gan_head\.3", f"{ours}/out"),
    )


def generator(encoder: tuple[Rule, ...], ours: str) -> NameTable:
    """A whole generator below `ours`, with the encoder of DLFS or of LATS."""
    return NameTable(
        (
            *encoder,
            *age_encoder(r"age_encoder\.", f"{ours}/age_encoder"),
            *decoder(r"decoder\.", f"{ours}/decoder"),
        )
    )


_GENERATOR = "params/generator"
DLFS = generator(dlfs_encoder(r"id_encoder\.", f"{_GENERATOR}/encoder"), _GENERATOR)
LATS = generator(lats_encoder(r"id_encoder\.", f"{_GENERATOR}/encoder"), _GENERATOR)
DISCRIMINATOR = NameTable(discriminator("", "params/discriminator"))

_FILTER = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16


def export_generator(params: Mapping[str, Any], kind: str = "dlfs") -> dict[str, np.ndarray]:
    """Generator parameters under the official keys and layouts, constants included.

    Args:
      params: of `model.Generator`.
      kind: "dlfs" or "lats".

    Raises:
      CheckpointError: parameters that the official networks do not have.
    """
    table = DLFS if kind == "dlfs" else LATS
    tensors = table.to_torch({"params": {"generator": params}})
    for key in [key for key in tensors if key.endswith("weight") and tensors[key].ndim == 4]:
        blur = np.broadcast_to(_FILTER, (tensors[key].shape[0], 1, 3, 3)).copy()
        prefix = key.removesuffix("weight")
        tensors[f"{prefix}blur.weight"] = tensors[f"{prefix}blur.weight_flip"] = blur
    if kind == "dlfs":
        latent = len(tensors["decoder.mlp.model.1.linear.bias"])
        tensors["decoder.t_denorm.weight"] = np.zeros((2, latent), np.float32)
        tensors["decoder.t_denorm.bias"] = np.zeros(2, np.float32)
    return tensors
