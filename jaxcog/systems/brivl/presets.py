"""The family of sizes, from one that trains in seconds to the paper's (sheet 3.1)."""

from __future__ import annotations

from typing import Literal

from jaxcog.errors import ConfigError
from jaxcog.nn.bert import BertConfig
from jaxcog.systems.brivl.architecture import Architecture
from jaxcog.systems.brivl.task import Pretrain

Preset = Literal["huge", "paper", "base", "v1", "video", "small", "tiny", "digits"]

BASE_BERT = BertConfig(width=768, layers=12, heads=12, hidden=3072)
LARGE_BERT = BertConfig(width=1024, layers=24, heads=16, hidden=4096)
HUGE_BERT = BertConfig(width=2048, layers=24, heads=16, hidden=8192)
SMALL_BERT = BertConfig(width=312, layers=4, heads=12, hidden=1200)

PRESETS = {
    "huge": Architecture(
        cnn="b7",
        image_size=600,
        grids=(1, 3, 6),
        roi_convention="aligned",
        fusion_layers=8,
        embed_dim=2560,
        bert=HUGE_BERT,
        bert_attention_mask=True,
        freeze="none",
    ),
    "paper": Architecture(cnn="b7", image_size=600, embed_dim=2560, bert=LARGE_BERT),
    "base": Architecture(cnn="b5", image_size=456, embed_dim=2048, bert=BASE_BERT),
    "v1": Architecture(cnn="b5", image_size=380, embed_dim=2048, bert=BASE_BERT),
    "video": Architecture(
        cnn="b7",
        image_size=384,
        grids=(1, 5),
        patch_proj=False,
        embed_dim=2560,
        bert=LARGE_BERT,
    ),
    "small": Architecture(
        cnn="b0",
        image_size=224,
        grids=(3, 1),
        fusion_layers=2,
        embed_dim=512,
        bert=SMALL_BERT,
        freeze="none",
    ),
    "tiny": Architecture(
        cnn="convs",
        image_size=8,
        grids=(2, 1),
        fusion_layers=1,
        fusion_ff=32,
        embed_dim=32,
        bert=BertConfig(
            vocab=103, width=32, layers=5, heads=4, hidden=32, positions=16, dropout=0.0
        ),
        text_length=16,
        dropout=0.0,
    ),
    "digits": Architecture(
        cnn="convs",
        image_size=8,
        grids=(4, 1),
        roi_convention="area",
        patch_proj=False,
        patch_skip=True,
        fusion_layers=1,
        fusion_ff=128,
        embed_dim=64,
        bert=BertConfig(vocab=103, width=64, layers=0, positions=16),
        text_length=16,
        freeze="none",
        dropout=0.0,
        scan=False,
        remat=False,
    ),
}
"""huge: ours, larger than the paper's and trained whole, with none of the official code's oddities;
paper: B7 and RoBERTa-large; base: the released B5 and RoBERTa-base; v1: WenLan 1.0 (detector
boxes); video: WenLan-2 for video; small, tiny, digits: ours."""


def preset(name: Preset) -> Architecture:
    """Raises ConfigError where there is no such size."""
    if name not in PRESETS:
        raise ConfigError(f'no preset "{name}": there are {", ".join(PRESETS)}')
    return PRESETS[name]


def tiny_pretraining() -> Pretrain:
    """What all pre-training configs' tiny variants train: frozen trunks, scans and a queue."""
    return Pretrain(
        model=preset("tiny"),
        contrast="batch+queue",
        queue_size=40,
        share_trunk=True,
        augment=False,
        block=16,
    )
