"""CWT: few-shot segmentation by rewriting a classifier after a look at the query (ICCV 2021).

Pure functions and networks for use without the rest of the library; see README.md. Episodes are
drawn by jaxcog.data.mask_episodes, folds lie in jaxcog.data.datasets.segmentation_folds.
"""

from jaxcog.systems.cwt.judging import ClassIoU, fb_iou, fewshot_iou, overlap
from jaxcog.systems.cwt.losses import (
    balanced_cross_entropy,
    foreground_weight,
    label_smoothed_cross_entropy,
)
from jaxcog.systems.cwt.model import (
    ClassifierWeightTransformer,
    Encoder,
    PSPNet,
    output_size,
)
from jaxcog.systems.cwt.ops import (
    classify,
    encode_episodes,
    fit_binary_classifier,
    initial_classifier,
    segment_episode,
    unit,
)
from jaxcog.systems.cwt.outer import Episodes, outer_updates, query_loss

__all__ = [
    "ClassIoU",
    "ClassifierWeightTransformer",
    "Encoder",
    "Episodes",
    "PSPNet",
    "balanced_cross_entropy",
    "classify",
    "encode_episodes",
    "fb_iou",
    "fewshot_iou",
    "fit_binary_classifier",
    "foreground_weight",
    "initial_classifier",
    "label_smoothed_cross_entropy",
    "outer_updates",
    "output_size",
    "overlap",
    "query_loss",
    "segment_episode",
    "unit",
]
