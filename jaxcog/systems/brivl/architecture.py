"""Sizes of both towers, and what of them is trained (sheet 3.1 and 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from jaxcog.errors import ConfigError
from jaxcog.nn import efficientnet as effnet
from jaxcog.nn.bert import BertConfig
from jaxcog.nn.transformer import LayerConfig
from jaxcog.systems.brivl.ops import Convention, grid_boxes
from jaxcog.systems.brivl.small import SMALL_FEATURES

Tree = Any
Freeze = Literal["none", "official", "towers"]

FROZEN_STAGES = 3
"""Stem and stages 0..2 of the image backbone are frozen by the official policy."""
TRAINED_LAYERS = 4
"""Last BERT layers that the official policy trains: 8..11 of 12, 20..23 of 24."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of both towers; the defaults are the paper's full model (601 M parameters).

    cnn: "b0".."b7", "custom" (`cnn_width` and `cnn_depth` times B0) or "convs", two small layers
      for toy images.
    image_size: S; images come as [S, S, 3].
    grids: cells a side of each patch grid, in the order of the tokens.
    roi_samples, roi_convention: see `ops.roi_axis_weights`.
    patch_proj: a linear layer on pooled patches (the released models have it).
    patch_skip: a linear path from the first grid's flattened tokens to the embedding (toy models).
    embed_dim: width of the shared space; mlp_hidden: inside both MLPs; None: that of the image.
    fusion_ff: feed-forward width of the fusion layers, the same for every width of tokens.
    bert: sizes of the text encoder; no layers: word and position vectors alone.
    bert_attention_mask: hide padding from BERT. The official code does not, so that an embedding
      depends on the length that its text is padded to.
    freeze: "official" trains stages 3-6 and the last four BERT layers besides what is new;
      "towers" only what is new.
    dropout: of the fusion layers; BERT has its own.
    scan, remat: one compiled body for equal layers; recomputation in the gradient.
    """

    cnn: Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "custom", "convs"] = "b7"
    cnn_width: float = 1.0
    cnn_depth: float = 1.0
    image_size: int = 600
    grids: tuple[int, ...] = (6, 1)
    roi_samples: int = 4
    roi_convention: Convention = "official"
    patch_proj: bool = True
    patch_skip: bool = False
    fusion_layers: int = 4
    fusion_heads: int = 4
    fusion_ff: int = 2048
    embed_dim: int = 2560
    mlp_hidden: int | None = None
    bert: BertConfig = dataclasses.field(
        default_factory=lambda: BertConfig(width=1024, layers=24, heads=16, hidden=4096)
    )
    text_length: int = 80
    bert_attention_mask: bool = False
    freeze: Freeze = "official"
    dropout: float = 0.1
    scan: bool = True
    remat: bool = True

    def __post_init__(self) -> None:
        for name, width in (("image", self.image_width), ("text", self.bert.width)):
            if width % self.fusion_heads:
                raise ConfigError(
                    f"model.fusion_heads={self.fusion_heads} does not divide the width {width} of "
                    f"{name} tokens"
                )
        if self.bert.layers and self.bert.width % self.bert.heads:
            raise ConfigError(
                f"model.bert.heads={self.bert.heads} does not divide model.bert.width="
                f"{self.bert.width}"
            )
        if self.text_length > self.bert.positions:
            raise ConfigError(
                f"model.text_length={self.text_length} is more than model.bert.positions="
                f"{self.bert.positions}"
            )
        if not self.grids or min(self.grids) < 1:
            raise ConfigError(f"model.grids={self.grids}: at least one grid, of at least one cell")

    @property
    def network(self) -> effnet.EfficientNetConfig:
        if self.cnn == "custom":
            return effnet.EfficientNetConfig(self.cnn_width, self.cnn_depth)
        return effnet.EfficientNetConfig(*effnet.VARIANTS[self.cnn])

    @property
    def image_width(self) -> int:
        """Width of image tokens."""
        return SMALL_FEATURES if self.cnn == "convs" else self.network.features

    @property
    def hidden(self) -> int:
        return self.mlp_hidden or self.image_width

    @property
    def fusion(self) -> LayerConfig:
        return LayerConfig(
            self.fusion_heads,
            self.fusion_ff,
            "relu",
            1e-5,
            self.dropout,
            inner_dropout=True,
            init="torch",
        )

    @property
    def frozen_bert_layers(self) -> int:
        """Layers that get no gradient, together with the embeddings."""
        if self.freeze == "none":
            return 0
        trained = 0 if self.freeze == "towers" else TRAINED_LAYERS
        return max(self.bert.layers - trained, 0)

    @property
    def trunk_parts(self) -> tuple[str, ...]:
        """Parts of the image backbone that get no gradient and are not behind ones that do."""
        if self.cnn == "convs" or self.freeze == "none":
            return ()
        return effnet.PARTS[: 1 + FROZEN_STAGES] if self.freeze == "official" else effnet.PARTS

    def boxes(self) -> Any:
        """float32 [R, 4] of the patch grids."""
        return grid_boxes(self.image_size, self.grids)


def without_trunk(params: Tree, architecture: Architecture) -> Tree:
    """Both towers' parameters less those that the functions called trunk read."""
    image_parts = architecture.trunk_parts

    def in_trunk(name: str) -> bool:
        if name.startswith("blocks_"):
            return f"stage{name.split('_')[1]}" in image_parts
        return (name in ("conv_stem", "bn1") and "stem" in image_parts) or (
            name in ("conv_head", "bn2") and "head" in image_parts
        )

    layers = architecture.frozen_bert_layers
    frozen_text = {"embeddings", *(f"layer_{i}" for i in range(layers))} if layers else set()

    def kept(tower: Tree, drop: Any) -> Tree:
        backbone = {name: x for name, x in tower["backbone"].items() if not drop(name)}
        return {**tower, "backbone": backbone}

    return {
        "image": kept(params["image"], in_trunk),
        "text": kept(params["text"], frozen_text.__contains__),
    }


def frozen_patterns(architecture: Architecture) -> Sequence[str]:
    """Regular expressions of the parameters (below "params") that the freeze policy leaves alone.

    The official policy also freezes the last convolution of the image backbone and its batch norm,
    although the layers before them are trained.
    """
    if architecture.freeze == "none":
        return ()
    image = "^image/backbone/"
    if architecture.freeze == "official" and architecture.cnn != "convs":
        early = "|".join(str(stage) for stage in range(FROZEN_STAGES))
        image = rf"^image/backbone/(conv_stem|bn1|conv_head|bn2|blocks_({early})_\d+)/"
    frozen = architecture.frozen_bert_layers
    if not frozen:  # a BERT of no more layers than are trained is trained whole
        return (image,)
    layers = "|".join(str(i) for i in range(frozen))
    return image, rf"^text/backbone/(embeddings|layer_({layers}))/"
