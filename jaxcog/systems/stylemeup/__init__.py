"""StyleMeUp: sketch-based image retrieval that adapts to the sketcher (CVPR 2021).

Pure functions and networks for use without the rest of the library; see README.md. Strokes are read
and drawn by jaxcog.data.strokes.
"""

from jaxcog.losses.triplet import triplet_margin_loss
from jaxcog.systems.stylemeup.evaluating import adapt_to_user
from jaxcog.systems.stylemeup.judging import (
    accuracy_at_k,
    average_precisions,
    mean_average_precision,
    precision_at_k,
    rank_consistency,
    retrieval_ranks,
)
from jaxcog.systems.stylemeup.losses import (
    Objective,
    Pass,
    PassNoise,
    Weights,
    disentangled_translation_loss,
    draw_noise,
    kl_standard_normal,
    weighted_l1_regularizer,
)
from jaxcog.systems.stylemeup.meta import InnerLoop, MetaLearner, TaskNoise, inner_adapt
from jaxcog.systems.stylemeup.model import Codes, CrossModalVAE
from jaxcog.systems.stylemeup.ops import feature_transform, sample_transform
from jaxcog.systems.stylemeup.step import mean_gradient

__all__ = [
    "Codes",
    "CrossModalVAE",
    "InnerLoop",
    "MetaLearner",
    "Objective",
    "Pass",
    "PassNoise",
    "TaskNoise",
    "Weights",
    "accuracy_at_k",
    "adapt_to_user",
    "average_precisions",
    "disentangled_translation_loss",
    "draw_noise",
    "feature_transform",
    "inner_adapt",
    "kl_standard_normal",
    "mean_average_precision",
    "mean_gradient",
    "precision_at_k",
    "rank_consistency",
    "retrieval_ranks",
    "sample_transform",
    "triplet_margin_loss",
    "weighted_l1_regularizer",
]
