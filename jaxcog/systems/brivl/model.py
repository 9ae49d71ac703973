"""The two towers: an image or a text to one vector each (sheet 3).

Image: convolutional map, multi-scale patch pooling, fusion layers, mean, MLP. Text: BERT, fusion
layers, masked mean, MLP. Vectors are not normalised here. All functions are pure; parameters are
{"image": {"backbone", "patch", "fusion", "fc1", "fc2"}, "text": {...}}.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxcog.losses.contrastive import unit
from jaxcog.nn import efficientnet as effnet
from jaxcog.nn.bert import bert_head, bert_trunk, init_bert
from jaxcog.nn.forward import forward
from jaxcog.nn.initializers import Linear
from jaxcog.nn.precision import at_least_float32
from jaxcog.nn.transformer import init_layers, run_layers
from jaxcog.systems.brivl.architecture import Architecture
from jaxcog.systems.brivl.ops import roi_pool
from jaxcog.systems.brivl.small import (
    init_small_convs,
    init_word_vectors,
    small_convs,
    word_vectors,
)

Tree = Any
AxisName = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What a tower gives.

    embedding: [B, D] float32, not normalised.
    stats: new batch statistics (image tower; {} otherwise).
    tokens, fused: [B, T, width] before and after the fusion layers.
    outputs: of the backbone's parts, by name.
    """

    embedding: jax.Array
    stats: Tree
    tokens: jax.Array
    fused: jax.Array
    outputs: dict[str, jax.Array]


def init_towers(key: jax.Array, architecture: Architecture) -> tuple[Tree, Tree]:
    """(params, batch statistics) of both towers, {"image": ..., "text": ...}."""
    keys = jax.random.split(key, 4)
    image_width, text_width = architecture.image_width, architecture.bert.width
    if architecture.cnn == "convs":
        backbone = init_small_convs(keys[0])
        stats: Tree = {}
    else:
        backbone, stats = effnet.init_efficientnet(keys[0], architecture.network)
    image = {"backbone": backbone, **_init_fusion(keys[1], architecture, image_width)}
    if architecture.patch_proj:
        image["patch"] = _init_linear(jax.random.fold_in(keys[1], 1), image_width, image_width)
    if architecture.patch_skip:
        wide = architecture.grids[0] ** 2 * image_width
        image["skip"] = _init_linear(jax.random.fold_in(keys[1], 2), wide, architecture.embed_dim)
    words = init_bert if architecture.bert.layers else init_word_vectors
    text = {
        "backbone": words(keys[2], architecture.bert),
        **_init_fusion(keys[3], architecture, text_width),
    }
    return {"image": image, "text": text}, ({"image": {"backbone": stats}} if stats else {})


def _init_fusion(key: jax.Array, architecture: Architecture, width: int) -> Tree:
    # The official layers are copies of one layer, so they start alike.
    first = init_layers(key, 1, width, architecture.fusion)["layer_0"]
    layers = {
        f"layer_{i}": jax.tree.map(jnp.copy, first) for i in range(architecture.fusion_layers)
    }
    keys = jax.random.split(key, 2)
    return {
        "fusion": layers,
        "fc1": _init_linear(keys[0], width, architecture.hidden),
        "fc2": _init_linear(keys[1], architecture.hidden, architecture.embed_dim),
    }


def _init_linear(key: jax.Array, inputs: int, outputs: int) -> Tree:
    return Linear(outputs).init(key, jnp.zeros((1, inputs)))["params"]


def _linear(params: Tree, x: jax.Array, dtype: Any) -> jax.Array:
    return forward(Linear(params["kernel"].shape[1], dtype=dtype), params, x)


def image_trunk(
    params: Tree,
    stats: Tree,
    images: jax.Array,
    architecture: Architecture,
    *,
    train: bool,
    dtype: Any = jnp.float32,
    axis_name: AxisName = None,
) -> tuple[jax.Array, Tree, dict[str, jax.Array]]:
    """The frozen beginning of the image backbone; see `efficientnet` for what it returns.

    params, stats: of the image tower. Without a frozen beginning images come back as they are.
    """
    parts = architecture.trunk_parts
    if not parts:
        return images, {}, {}
    x, new, outputs = effnet.efficientnet(
        jax.lax.stop_gradient(params["backbone"]),
        stats["backbone"],
        images,
        architecture.network,
        train=train,
        parts=parts,
        scan=architecture.scan,
        dtype=dtype,
        axis_name=axis_name,
    )
    return jax.lax.stop_gradient(x), new, outputs


def image_head(
    params: Tree,
    stats: Tree,
    x: jax.Array,
    architecture: Architecture,
    *,
    boxes: jax.Array | None = None,
    roi_mask: jax.Array | None = None,
    train: bool,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
    axis_name: AxisName = None,
) -> Encoded:
    """The rest of the image tower, on what `image_trunk` gave. Arguments as in `image_tower`."""
    if architecture.cnn == "convs":
        x = small_convs(params["backbone"], x, dtype)
        new: Tree = {}
        outputs: Tree = {}
    else:
        x, new, outputs = effnet.efficientnet(
            params["backbone"],
            stats["backbone"],
            x,
            architecture.network,
            train=train,
            parts=effnet.PARTS[len(architecture.trunk_parts) :],
            scan=architecture.scan,
            remat=architecture.remat,
            dtype=dtype,
            axis_name=axis_name,
        )
    boxes = architecture.boxes()[None] if boxes is None else boxes
    tokens = roi_pool(
        x, boxes, architecture.image_size, architecture.roi_samples, architecture.roi_convention
    )
    if architecture.patch_proj:
        tokens = _linear(params["patch"], tokens, dtype)
    tokens = unit(tokens)
    fused = _fuse(params, tokens, roi_mask, architecture, key, dtype)
    embedding = _project(params, masked_mean(fused, roi_mask), dtype)
    if architecture.patch_skip:
        first = tokens[:, : architecture.grids[0] ** 2].reshape(tokens.shape[0], -1)
        embedding = embedding + _linear(params["skip"], first, jnp.float32)
    new = {"backbone": new} if new else {}
    return Encoded(embedding, new, tokens, fused, {**outputs, "map": x})


def image_tower(
    params: Tree,
    stats: Tree,
    images: jax.Array,
    architecture: Architecture,
    *,
    boxes: jax.Array | None = None,
    roi_mask: jax.Array | None = None,
    train: bool = False,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
    axis_name: AxisName = None,
) -> Encoded:
    """Normalised images [B, S, S, 3] -> embeddings and what lies before them.

    Args:
      params, stats: of the image tower; stats is {"backbone": ...}, {} where there are none.
      boxes: [B or 1, R, 4] pixels; None: the patch grids.
      roi_mask: [B, R] bool, False for boxes that only fill up.
      train: batch norm by the batch's statistics.
      key: for dropout; None: no dropout.
      dtype: of the arithmetic; norms, softmax and the embedding are float32.
      axis_name: mapped axis over which batch norm statistics are averaged.
    """
    options = {"train": train, "dtype": dtype, "axis_name": axis_name}
    x, new, outputs = image_trunk(params, stats, images, architecture, **options)
    encoded = image_head(
        params, stats, x, architecture, boxes=boxes, roi_mask=roi_mask, key=key, **options
    )
    new = {**new, **encoded.stats.get("backbone", {})}
    return dataclasses.replace(
        encoded,
        stats={"backbone": new} if new else {},
        outputs={**outputs, **encoded.outputs},
    )


def text_trunk(
    params: Tree,
    ids: jax.Array,
    architecture: Architecture,
    *,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """The frozen beginning of the text encoder: ids [B, L] -> [B, L, width]."""
    frozen = architecture.frozen_bert_layers
    backbone = jax.lax.stop_gradient(params["backbone"]) if frozen else params["backbone"]
    if not architecture.bert.layers:
        return word_vectors(backbone, ids, dtype)
    return bert_trunk(
        backbone,
        ids,
        architecture.bert,
        layers=frozen,
        mask=ids != architecture.bert.pad_id if architecture.bert_attention_mask else None,
        key=key,
        scan=architecture.scan,
        dtype=dtype,
    )


def text_head(
    params: Tree,
    x: jax.Array,
    mask: jax.Array,
    architecture: Architecture,
    *,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
) -> Encoded:
    """The rest of the text tower, on what `text_trunk` gave; mask [B, L] bool of real tokens."""
    if architecture.bert.layers:
        x = bert_head(
            params["backbone"],
            x,
            architecture.bert,
            first=architecture.frozen_bert_layers,
            mask=mask if architecture.bert_attention_mask else None,
            key=key,
            scan=architecture.scan,
            remat=architecture.remat,
            dtype=dtype,
        )
    tokens = unit(x)
    fusion_key = None if key is None else jax.random.fold_in(key, 1)
    fused = _fuse(params, tokens, mask, architecture, fusion_key, dtype)
    embedding = _project(params, masked_mean(fused, mask), dtype)
    return Encoded(embedding, {}, tokens, fused, {"hidden": x})


def text_tower(
    params: Tree,
    ids: jax.Array,
    architecture: Architecture,
    *,
    mask: jax.Array | None = None,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
) -> Encoded:
    """Token ids [B, L] -> embeddings and what lies before them.

    Args:
      params: of the text tower.
      mask: [B, L] bool of real tokens; None: those that are not the padding id.
      key: for dropout; None: no dropout.
      dtype: of the arithmetic; norms, softmax and the embedding are float32.
    """
    mask = ids != architecture.bert.pad_id if mask is None else mask
    x = text_trunk(params, ids, architecture, key=key, dtype=dtype)
    return text_head(params, x, mask, architecture, key=key, dtype=dtype)


def encode_image(
    params: Tree, stats: Tree, images: jax.Array, architecture: Architecture, **options: Any
) -> jax.Array:
    """Unit embeddings [B, D] of normalised images, in evaluation; options as in `image_tower`."""
    own = stats.get("image", {})
    return unit(image_tower(params["image"], own, images, architecture, **options).embedding)


def encode_text(
    params: Tree, ids: jax.Array, architecture: Architecture, **options: Any
) -> jax.Array:
    """Unit embeddings [B, D] of texts, in evaluation; options as in `text_tower`."""
    return unit(text_tower(params["text"], ids, architecture, **options).embedding)


def class_embeddings(
    params: Tree, class_ids: jax.Array, architecture: Architecture, dtype: Any = jnp.float32
) -> jax.Array:
    """Prompts [C, P, L] -> unit vectors [C, D]: the mean over a class's prompts, normalised."""
    count, prompts, length = class_ids.shape
    texts = encode_text(params, class_ids.reshape(-1, length), architecture, dtype=dtype)
    return unit(jnp.mean(texts.reshape(count, prompts, -1), axis=1))


def video_embedding(embeddings: jax.Array, frames: int) -> jax.Array:
    """Frames' embeddings [N * frames, D] -> one unit vector a clip, of their mean: [N, D]."""
    return unit(jnp.mean(embeddings.reshape(-1, frames, embeddings.shape[-1]), axis=1))


def masked_mean(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """[B, T, D] -> [B, D] float32, the mean over tokens that are real."""
    x = at_least_float32(x)
    if mask is None:
        return jnp.mean(x, axis=1)
    weights = mask.astype(x.dtype)[..., None]
    return jnp.sum(weights * x, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1e-12)


def _fuse(
    params: Tree,
    tokens: jax.Array,
    mask: jax.Array | None,
    architecture: Architecture,
    key: jax.Array | None,
    dtype: Any,
) -> jax.Array:
    return run_layers(
        params["fusion"],
        tokens,
        architecture.fusion,
        mask=None if mask is None else mask.astype(bool),
        key=key,
        scan=architecture.scan,
        remat=architecture.remat,
        dtype=dtype,
    )


def _project(params: Tree, x: jax.Array, dtype: Any) -> jax.Array:
    """The MLP. Its last product is float32: the loss divides by the temperature."""
    hidden = jax.nn.relu(_linear(params["fc1"], x, dtype))
    return _linear(params["fc2"], at_least_float32(hidden), jnp.promote_types(dtype, jnp.float32))
