"""TextReID: person search by sentences, with cross-modal momentum contrast and CLIP (BMVC 2021).

Pure functions and networks for use without the rest of the library; see README.md.
"""

from jaxcog.nn.clip_resnet import AttentionPool2d, ClipResNet, resize_pos_embed
from jaxcog.nn.clip_text import ClipTextTransformer
from jaxcog.nn.gru import BiGRUEncoder
from jaxcog.systems.textreid.losses import (
    cmpc_loss,
    cmpm_loss,
    global_align_loss,
    global_align_loss_from_sim,
    instance_loss,
    itc_loss,
    sdm_loss,
    triplet_alignment_loss,
)
from jaxcog.systems.textreid.model import Network, Textual, Visual
from jaxcog.systems.textreid.momentum import Momentum, contrast, init_keys, init_queue, update_keys
from jaxcog.systems.textreid.retrieval import k_reciprocal_term, retrieval_metrics
from jaxcog.systems.textreid.search import GalleryIndex, search
from jaxcog.systems.textreid.words import clip_word_table

__all__ = [
    "AttentionPool2d",
    "BiGRUEncoder",
    "ClipResNet",
    "ClipTextTransformer",
    "GalleryIndex",
    "Momentum",
    "Network",
    "Textual",
    "Visual",
    "clip_word_table",
    "cmpc_loss",
    "cmpm_loss",
    "contrast",
    "global_align_loss",
    "global_align_loss_from_sim",
    "init_keys",
    "init_queue",
    "instance_loss",
    "itc_loss",
    "k_reciprocal_term",
    "resize_pos_embed",
    "retrieval_metrics",
    "sdm_loss",
    "search",
    "triplet_alignment_loss",
    "update_keys",
]
