"""BriVL: weakly correlated images and texts in one space, and what such a model can then do.

from jaxcog.systems.brivl import encode_image, encode_text, init_towers, preset
params, stats = init_towers(jax.random.key(0), preset("small"))
scores = encode_image(params, stats, images, preset("small")) @ encode_text(...).T
"""

from jaxcog.systems.brivl.architecture import Architecture
from jaxcog.systems.brivl.heads import apply_head, init_head
from jaxcog.systems.brivl.imagination import (
    Inversion,
    guided_generate,
    invert_embedding,
    visualise_neuron,
)
from jaxcog.systems.brivl.judging import retrieval_metrics, retrieval_ranks
from jaxcog.systems.brivl.losses import in_batch, momentum_contrast, topk_agreement_positives
from jaxcog.systems.brivl.model import (
    class_embeddings,
    encode_image,
    encode_text,
    image_tower,
    init_towers,
    text_tower,
)
from jaxcog.systems.brivl.ops import (
    augment_image,
    color_jitter,
    grid_boxes,
    preprocess_image,
    roi_pool,
    scale_boxes,
)
from jaxcog.systems.brivl.presets import preset

__all__ = [
    "Architecture",
    "Inversion",
    "apply_head",
    "augment_image",
    "class_embeddings",
    "color_jitter",
    "encode_image",
    "encode_text",
    "grid_boxes",
    "guided_generate",
    "image_tower",
    "in_batch",
    "init_head",
    "init_towers",
    "invert_embedding",
    "momentum_contrast",
    "preprocess_image",
    "preset",
    "retrieval_metrics",
    "retrieval_ranks",
    "roi_pool",
    "scale_boxes",
    "text_tower",
    "topk_agreement_positives",
    "visualise_neuron",
]
