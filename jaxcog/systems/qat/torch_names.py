"""Official checkpoint keys and where they lie here: the base stage's, then the transformer's."""

from __future__ import annotations

import numpy as np

from jaxcog.interop.names import Layout, NameTable, Rule, conv, linear
from jaxcog.nn.attention import attention_rules


def _conv1d(torch: str, ours: str) -> tuple[Rule, ...]:
    return linear(torch, ours, "conv1d")


# A 1x1 convolution [out, in, 1, 1] as a linear layer [in, out], and one over [N, C, T, k].
_POINT = Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
_POINT_1D = Layout(lambda x: x[:, :, 0].T, lambda x: x.T[:, :, None])
_GROUPED = Layout(
    lambda x: np.transpose(x[..., 0], (2, 1, 0)), lambda x: np.transpose(x, (2, 1, 0))[..., None]
)


def bins(channels: int) -> Layout:
    """[out, C * P, 1, 1], channel-major, <-> [P, C, out]."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        return np.transpose(x.reshape(len(x), channels, -1), (2, 1, 0))

    def to_torch(x: np.ndarray) -> np.ndarray:
        return np.transpose(x, (2, 1, 0)).reshape(x.shape[2], -1, 1, 1)

    return Layout(to_ours, to_torch)


_BLOCKS = r"(backbone1|backbone2|regu_s|regu_e)\.(0|2)"


def base_names(channels: int = 256) -> NameTable:
    """G-TAD's checkpoints; `channels` of the embedding."""
    prefix = r"(?:module\.)?"
    block, ours = prefix + _BLOCKS, r"\1_\2"
    return NameTable(
        (
            *_conv1d(prefix + r"(backbone1)\.(0)", r"\1_\2"),
            *_conv1d(rf"{block}\.(tconvs)\.(0|2|4)", rf"{ours}/\3_\4"),
            *linear(rf"{block}\.(sconvs)\.(0)", rf"{ours}/\3_\4", _POINT),
            *linear(rf"{block}\.(sconvs)\.(2|4)", rf"{ours}/\3_\4", _GROUPED),
            *linear(prefix + r"(regu_s|regu_e)\.(1)", r"\1_\2", _POINT_1D),
            *linear(prefix + r"(localization)\.(0)", r"\1_\2", bins(channels)),
            *linear(prefix + r"(localization)\.(2|8)", r"\1_\2", _POINT),
            *conv(prefix + r"(localization)\.(4|6)", r"\1_\2"),
        )
    )


TRANSFORMER_NAMES = NameTable(attention_rules(our_prefix="transformer/"))
