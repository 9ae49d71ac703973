"""GALD and DGCNet: scene parsing with global aggregation, then local distribution."""

from jaxcog.systems.gald.aggregation import (
    ASPP,
    PSP,
    ASPObjectContext,
    CrissCrossAttention,
    DoubleAttention,
    EMAttention,
    GlobalMean,
    NonLocal,
    ObjectContext,
    SEGate,
    SpatialCGNL,
)
from jaxcog.systems.gald.inference import multiscale_logits, sliding_window_logits
from jaxcog.systems.gald.losses import segmentation_loss
from jaxcog.systems.gald.model import (
    Aggregation,
    Network,
    Output,
    dual_gcn_head,
    gald_block,
    gald_head,
)
from jaxcog.systems.gald.modules import (
    AuxiliaryHead,
    DualGCN,
    GALDBlock,
    LocalDistribution,
    SpatialGCN,
)
from jaxcog.systems.gald.pixels import normalise
from jaxcog.systems.gald.torch_names import load_torch_checkpoint

__all__ = [
    "ASPP",
    "PSP",
    "ASPObjectContext",
    "Aggregation",
    "AuxiliaryHead",
    "CrissCrossAttention",
    "DoubleAttention",
    "DualGCN",
    "EMAttention",
    "GALDBlock",
    "GlobalMean",
    "LocalDistribution",
    "Network",
    "NonLocal",
    "ObjectContext",
    "Output",
    "SEGate",
    "SpatialCGNL",
    "SpatialGCN",
    "dual_gcn_head",
    "gald_block",
    "gald_head",
    "load_torch_checkpoint",
    "multiscale_logits",
    "normalise",
    "segmentation_loss",
    "sliding_window_logits",
]
