"""Keys of the official checkpoints, and of the modules GALD borrows, for our paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxcog.errors import CheckpointError
from jaxcog.interop.names import (
    Layout,
    NameTable,
    Rename,
    Rule,
    batch_norm,
    conv,
    layer_norm,
)
from jaxcog.interop.read import read_checkpoint
from jaxcog.nn.psp import pyramid_rules
from jaxcog.nn.resnet_dilated import CLASSIFIER, flat_stem_rules, sequential_stem_rules

# A conv1d over graph nodes, [out, in, 1], is a 1x1 convolution of ours.
_NODE_CONV = Layout(
    lambda x: np.transpose(x, (2, 1, 0))[None], lambda x: np.transpose(x[0], (2, 1, 0))
)
_WITHOUT_FIRST = Layout(lambda x: np.asarray(x)[0], lambda x: np.asarray(x)[None])


def _conv_norm(torch_conv: str, torch_norm: str, ours: str) -> tuple[Rule, ...]:
    return (*conv(torch_conv, f"{ours}/conv"), *batch_norm(torch_norm, f"{ours}/bn"))


def _sequence(torch: str, ours: str) -> tuple[Rule, ...]:
    """A convolution and a batch norm at places 0 and 1 of a Sequential."""
    return _conv_norm(torch + r"\.0", torch + r"\.1", ours)


def cgnl_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """SpatialCGNL. Here and below: `torch` is a regular expression with its dot ("a2block\\.") and
    `ours` a path with its slash ("a2block/"), both empty for a module that stands alone."""
    return (
        Rename(torch + r"([tpgz])\.weight", rf"params/{ours}\1/kernel", "conv"),
        *layer_norm(torch + "gn", f"{ours}gn"),
    )


def local_distribution_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """LocalDistribution."""
    return _sequence(torch + r"dconv(\d)", rf"{ours}dconv\1")


def gald_block_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """GALDBlock with SpatialCGNL."""
    return (
        *_sequence(torch + "down", f"{ours}down"),
        *cgnl_rules(torch + r"long_relation\.", f"{ours}long_relation/"),
        *local_distribution_rules(torch + r"local_attention\.", f"{ours}local_attention/"),
    )


def _context_head_rules(torch: str, ours: str) -> tuple[Rule, ...]:
    return (
        *_sequence(torch + "(conva|convb|bottleneck)", rf"{ours}\1"),
        *conv(torch + r"bottleneck\.3", f"{ours}classifier"),
    )


def gald_head_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """ContextHead around a GALDBlock."""
    return (
        *_context_head_rules(torch, ours),
        *gald_block_rules(torch + r"a2block\.", f"{ours}a2block/"),
    )


def spatial_gcn_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """SpatialGCN."""
    return (
        *conv(torch + "(node_[kvq])", rf"{ours}\1"),
        Rename(torch + r"conv_wg\.weight", f"params/{ours}wg/node/conv/kernel", _NODE_CONV),
        *batch_norm(torch + "bn_wg", f"{ours}wg/node/bn"),
        *_sequence(torch + "out", f"{ours}out"),
    )


def dual_gcn_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """DualGCN."""
    local = [
        rule
        for i in range(3)
        for rule in _conv_norm(
            torch + rf"local\.{2 * i}", torch + rf"local\.{2 * i + 1}", f"{ours}local{i}"
        )
    ]
    return (
        *conv(torch + "(phi|theta)", rf"{ours}\1/conv"),
        *batch_norm(torch + "bn_(phi|theta)", rf"{ours}\1/bn"),
        Rename(torch + r"conv_(adj|wg)\.weight", rf"params/{ours}\1/node/conv/kernel", _NODE_CONV),
        *batch_norm(torch + "bn_(adj|wg)", rf"{ours}\1/node/bn"),
        *_conv_norm(torch + "conv3", torch + "bn3", f"{ours}conv3"),
        *local,
        *spatial_gcn_rules(torch + r"gcn_local_attention\.", f"{ours}gcn_local_attention/"),
        *_sequence(torch + "final", f"{ours}final"),
    )


def dual_gcn_head_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """ContextHead around a DualGCN."""
    return (
        *_context_head_rules(torch, ours),
        *dual_gcn_rules(torch + r"dualgcn\.", f"{ours}dualgcn/"),
    )


def psp_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """PSP."""
    return (
        *pyramid_rules(torch + "stages", f"{ours}stages/"),
        *_sequence(torch + "bottleneck", f"{ours}bottleneck"),
    )


def auxiliary_rules(torch: str = "", ours: str = "", classifier: int = 4) -> tuple[Rule, ...]:
    """AuxiliaryHead; its classifier is layer 4 with a ReLU before it (GALD), 3 without (DGCNet)."""
    return (
        *_conv_norm(torch + "0", torch + "1", f"{ours}inner"),
        *conv(torch + str(classifier), f"{ours}classifier"),
    )


def aspp_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """ASPP."""
    return (
        *_conv_norm(torch + r"conv1\.1", torch + r"conv1\.2", f"{ours}conv1"),
        *_sequence(torch + r"(conv[2-9]|bottleneck)", rf"{ours}\1"),
    )


def a2_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """DoubleAttention."""
    return (
        *conv(torch + "(down|up|gather_down)", rf"{ours}\1"),
        *conv(torch + "distribue_down", f"{ours}distribute_down"),
    )


def em_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """EMAttention."""
    return (
        Rename(torch + "mu", f"batch_stats/{ours}mu", _WITHOUT_FIRST),
        *conv(torch + "conv1", f"{ours}conv1"),
        *_sequence(torch + "conv2", f"{ours}conv2"),
    )


def criss_cross_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """CrissCrossAttention."""
    return (
        *conv(torch + "(query_conv|key_conv|value_conv)", rf"{ours}\1"),
        Rename(torch + "gamma", f"params/{ours}gamma"),
    )


def object_context_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """ObjectContext; the file holds the one transform of keys and queries under both names."""
    return (
        *conv(torch + r"stages\.(\d)\.(f_value|W)", rf"{ours}stage\1/\2"),
        *_sequence(torch + r"stages\.(\d)\.f_key", rf"{ours}stage\1/f_key"),
        *_sequence(torch + r"stages\.(\d)\.f_query", rf"{ours}stage\1/f_key"),
        *_sequence(torch + "project", f"{ours}project"),
    )


def asp_object_context_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """ASPObjectContext."""
    return (
        *_sequence(torch + "context", f"{ours}reduce"),
        *object_context_rules(torch + r"context\.3\.", f"{ours}context/"),
        *_sequence(torch + r"(b\d|project)", rf"{ours}\1"),
    )


def se_rules(torch: str = "", ours: str = "") -> tuple[Rule, ...]:
    """SEGate; its linear layers are 1x1 convolutions of ours."""
    as_conv = Layout(lambda x: np.transpose(x)[None, None], lambda x: np.transpose(x[0, 0]))
    return (
        Rename(torch + r"fc\.(\d)\.weight", rf"params/{ours}fc\1/kernel", as_conv),
        Rename(torch + r"fc\.(\d)\.bias", rf"params/{ours}fc\1/bias"),
    )


_AUX = auxiliary_rules(r"dsn\.", "aux/")

GALD = NameTable(
    (*sequential_stem_rules("", "trunk/"), *gald_head_rules(r"head\.", "head/"), *_AUX, CLASSIFIER)
)
"""`GALD_res50`, `GALD_res101`; also the trunk of `resnet{50,101}-deep.pth`."""

DUALSEG = NameTable(
    (
        *sequential_stem_rules("", "trunk/"),
        *dual_gcn_head_rules(r"head\.", "head/"),
        *auxiliary_rules(r"dsn\.", "aux/", classifier=3),
        CLASSIFIER,
    )
)
"""`DualSeg_res50`, `DualSeg_res101`."""

PSPNET = NameTable(
    (
        *flat_stem_rules("", "trunk/"),
        *psp_rules(r"head\.0\.", "head/psp/"),
        *conv(r"head\.1", "head/classifier"),
        *_AUX,
        CLASSIFIER,
    )
)
"""`PSPNet_res50`, `PSPNet_res101` with their flat stem."""

KINDS = {"gald": GALD, "dgcnet": DUALSEG, "psp": PSPNET}
"""By the head of `model.Network`."""

TRUNKS = tuple(
    NameTable((*rules("", "trunk/"), CLASSIFIER))
    for rules in (sequential_stem_rules, flat_stem_rules)
)
"""ImageNet weights: with the stem in a Sequential (`resnet{50,101}-deep.pth`), or with its layers
side by side (three of them, or torchvision's one)."""


def tables_for(head: str) -> tuple[NameTable, ...] | None:
    """Names of official checkpoints with that head, and of ImageNet weights for its trunk."""
    return (KINDS[head], *TRUNKS) if head in KINDS else None


def load_torch_checkpoint(path: str | Path, head: str = "gald") -> dict[str, Any]:
    """An official checkpoint as variables of `model.Network`.

    Args:
      path: .pth, .safetensors or .npz; PyTorch is not needed.
      head: whose: "gald", "dgcnet" or "psp".

    Returns:
      {"params": ..., "batch_stats": ...}, nested dicts of NumPy arrays.

    Raises:
      CheckpointError: not readable, or with keys that such a checkpoint has not.
    """
    try:
        return KINDS[head].to_ours(read_checkpoint(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path} as a {head} checkpoint: {error}") from None
