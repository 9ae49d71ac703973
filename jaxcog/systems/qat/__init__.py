"""QAT: few-shot temporal action localization with a query adaptive transformer (BMVC 2021).

Pure functions and networks for use without the rest of the library; see README.md.
"""

from jaxcog.losses.temporal_targets import bmn_targets, snippet_mask, valid_cells
from jaxcog.metrics.temporal import (
    Segments,
    detection_map,
    fixed_box_baselines,
    soft_nms,
    temporal_iou,
)
from jaxcog.systems.qat.align import proposal_anchors, roi_align_1d, sgalign
from jaxcog.systems.qat.episode import (
    QueryAdaptiveTransformer,
    cosine_logits,
    episode_predict,
    fit_prototype,
    foreground,
    masked_prototype,
)
from jaxcog.systems.qat.judging import Detector
from jaxcog.systems.qat.losses import balanced_bce, bmn_loss, released_support_loss
from jaxcog.systems.qat.model import GTAD, GCNeXt, GTADConfig, apply, embed, init, knn_graph
from jaxcog.systems.qat.proposals import bmn_proposals, detections, probability_to_segments

__all__ = [
    "GTAD",
    "Detector",
    "GCNeXt",
    "GTADConfig",
    "QueryAdaptiveTransformer",
    "Segments",
    "apply",
    "balanced_bce",
    "bmn_loss",
    "bmn_proposals",
    "bmn_targets",
    "cosine_logits",
    "detection_map",
    "detections",
    "embed",
    "episode_predict",
    "fit_prototype",
    "fixed_box_baselines",
    "foreground",
    "init",
    "knn_graph",
    "masked_prototype",
    "probability_to_segments",
    "proposal_anchors",
    "released_support_loss",
    "roi_align_1d",
    "sgalign",
    "snippet_mask",
    "soft_nms",
    "temporal_iou",
    "valid_cells",
]
