"""BriVL: towers, pooling, preprocessing, tokens and metrics. Learning is in brivl_learning."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.data.wordpiece import WordPiece
from jaxcog.losses.contrastive import unit
from jaxcog.nn.bert import BertConfig
from jaxcog.systems.brivl import judging, model, ops, torch_names
from jaxcog.systems.brivl.architecture import Architecture
from tests.parity.adapters import adapter
from tests.parity.golden import Golden, nchw, nhwc

Tree = dict[str, Any]


def bert_of(ctor: Tree, length: int) -> BertConfig:
    sizes = ctor["bert"]
    return BertConfig(
        vocab=sizes["vocab_size"],
        width=sizes["hidden_size"],
        layers=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        hidden=sizes["intermediate_size"],
        positions=max(sizes["max_position_embeddings"], length),
        types=sizes.get("type_vocab_size", 2),
        dropout=0.0,
        eps=sizes.get("layer_norm_eps", 1e-12),
    )


def architecture_of(ctor: Tree, **changes: Any) -> Architecture:
    """The architecture of a file's `ctor`: of an image tower, a text tower, or both."""
    options: Tree = {"dropout": 0.0, "freeze": "none", "scan": False, "remat": False}
    if "CNN" in ctor:
        name = ctor["CNN"]
        if name == "tiny":
            options["cnn"] = "custom"
            options["cnn_width"] = ctor.get("channel_multiplier", 0.25)
            options["cnn_depth"] = ctor.get("depth_multiplier", 0.35)
        else:
            options["cnn"] = name.removeprefix("tf_efficientnet_").split("_")[0]
        grids = ctor["GRID_SIZE"] if "BOX_GRID" not in ctor else (ctor["BOX_GRID"], 1)
        samples = ctor.get("ROI_GRID_SIZE", ctor["GRID_SIZE"])
        options |= {
            "image_size": ctor["IMG_SIZE"],
            "grids": tuple(grids),
            "roi_samples": samples,
            "fusion_heads": ctor["IMG_TRANSFORMER_HEAD"],
            "fusion_layers": ctor["IMG_TRANSFORMER_LAYER"],
        }
    if "bert" in ctor:
        length = ctor["MAX_TEXT_LEN"]
        options |= {
            "bert": bert_of(ctor, length),
            "text_length": length,
            "fusion_heads": ctor["TEXT_TRANSFORMER_HEAD"],
            "fusion_layers": ctor["TEXT_TRANSFORMER_LAYER"],
        }
    options["embed_dim"] = ctor["IMG_FEATURE_DIM"]
    return Architecture(**{**options, **changes})


def pixels(images: np.ndarray, dtype: Any = jnp.float32) -> jax.Array:
    return ops.normalise(jnp.asarray(images, dtype) / 255)


def tree(values: Tree, dtype: Any = jnp.float32) -> Tree:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), values)


EARLY = ("stem_mean", "stage0_mean", "stage1_mean", "stage2_mean")
"""What "early_stages" of a file means; later ones have the tolerance of the map."""


def check_image_outputs(golden: Golden, encoded: model.Encoded, prefix: str = "") -> None:
    """Whatever of the image tower's stages the file holds, below `prefix`."""
    outputs = {"stem": encoded.outputs["stem"]}
    outputs |= {f"stage{i}": encoded.outputs[f"stage{i}"] for i in range(7)}
    values = {f"{name}_mean": jnp.mean(x, axis=(1, 2)) for name, x in outputs.items()}
    features = nchw(encoded.outputs["map"])
    values["feature_map"] = features
    values["feature_map_0"] = features[0]
    values["feature_map_mean"] = np.mean(features, axis=(2, 3))
    values["embedding"] = encoded.embedding
    values["embedding_norm"] = unit(encoded.embedding)
    rows = np.array([0, 7, 20, 35, 36])
    for name, tokens in (("tokens", encoded.tokens), ("fused", encoded.fused)):
        values[name] = tokens
        if tokens.shape[1] > rows[-1]:
            values[f"{name}_0"] = tokens[0, rows]
    for name, value in values.items():
        key = f"out/{prefix}{name}"
        if key in golden:
            early = name in EARLY
            golden.check(key, value, _tolerance(golden, name, early))


def _tolerance(golden: Golden, name: str, early: bool) -> float | None:
    stated = golden.meta["tolerance"]
    if not isinstance(stated, dict):
        return None
    if early:
        # The file of full size gives early stages no number of their own.
        return stated.get("early_stages", stated["feature_map"])
    if name.startswith("embedding"):
        return stated["embedding"]
    return stated["tokens" if name.startswith(("tokens", "fused")) else "feature_map"]


@adapter("brivl", r"image_encoder_b\d.*")
def image_encoder_full(golden: Golden) -> None:
    architecture = architecture_of(golden.meta["ctor"], scan=True)
    train = golden.meta["mode"].startswith("train")
    variables = tree(torch_names.IMAGE.to_ours(golden.weights()))

    def encode(images: Any, boxes: Any, mask: Any, size: int) -> model.Encoded:
        sized = dataclasses.replace(architecture, image_size=size)

        @jax.jit
        def run(variables: Tree, images: Any) -> Tree:
            encoded = model.image_tower(
                variables["params"]["image"],
                variables["batch_stats"]["image"],
                images,
                sized,
                boxes=jnp.asarray(boxes),
                roi_mask=mask,
                train=train,
            )
            return vars(encoded)

        return model.Encoded(**run(variables, images))

    mask = jnp.asarray(golden["in/mask"]) > 0
    size = architecture.image_size
    encoded = encode(pixels(golden["in/image_u8"]), golden["in/boxes"], mask, size)
    check_image_outputs(golden, encoded)
    for name in golden.names("in/native_image_u8_*"):
        small = golden[name]
        native = int(np.max(golden["in/native_boxes"]))
        large = np.repeat(
            np.repeat(small, native // small.shape[1], 1), native // small.shape[2], 2
        )
        encoded = encode(pixels(large), golden["in/native_boxes"], None, native)
        check_image_outputs(golden, encoded, "native_")


def _cut(golden: Golden, key: str, value: np.ndarray) -> np.ndarray:
    """Long gradients are stored flattened, and cut."""
    stored = golden[key]
    return value if value.shape == stored.shape else value.ravel()[: stored.size]


@adapter("brivl", r"image_encoder_tiny.*")
def image_encoder_tiny(golden: Golden) -> None:
    architecture = architecture_of(golden.meta["ctor"])
    variables = tree(torch_names.IMAGE.to_ours(golden.weights()))
    stats = variables["batch_stats"]["image"]
    images = pixels(golden["in/image_u8"])
    mask, cotangent = jnp.asarray(golden["in/mask"]) > 0, jnp.asarray(golden["in/cotangent"])
    for mode in ("eval", "train"):

        def loss(params: Tree, images: Any, train: bool = mode == "train") -> Any:
            encoded = model.image_tower(
                params,
                stats,
                images,
                architecture,
                boxes=jnp.asarray(golden["in/boxes"]),
                roi_mask=mask,
                train=train,
            )
            value = jnp.sum(unit(encoded.embedding) * cotangent)
            kept = (encoded.embedding, encoded.stats, encoded.tokens, encoded.fused)
            return value, (*kept, encoded.outputs)

        gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (value, kept), grads = gradient(variables["params"]["image"], images)
        encoded = model.Encoded(*kept)
        check_image_outputs(golden, encoded, f"{mode}/")
        golden.check(f"out/{mode}/loss", value)
        named = torch_names.IMAGE.to_torch({"params": {"image": grads[0]}}, golden.meta["shapes"])
        for key in golden.names(f"grad/{mode}/param/*"):
            name = key.removeprefix(f"grad/{mode}/param/")
            golden.check(key, _cut(golden, key, named[name]))
        if f"grad/{mode}/image_0" in golden:
            golden.check(f"grad/{mode}/image_0", nchw(grads[1])[0])
        after = torch_names.IMAGE.to_torch(
            {"batch_stats": {"image": encoded.stats}}, golden.meta["shapes"]
        )
        for key in golden.names(f"out/{mode}/new_state/*"):
            golden.check(key, after[key.removeprefix(f"out/{mode}/new_state/")])


@adapter("brivl", r"wenlan2_image_encoder.*")
def video_encoder(golden: Golden) -> None:
    ctor = golden.meta["ctor"]
    changes = {
        "patch_proj": False,
        "mlp_hidden": ctor["HIDDEN_DIM_1"],
        "embed_dim": ctor["HIDDEN_DIM_2"],
    }
    architecture = architecture_of(ctor, **changes)
    variables = tree(torch_names.IMAGE.to_ours(golden.weights()))
    np.testing.assert_allclose(architecture.boxes(), golden["in/boxes"], rtol=1e-6)
    encoded = jax.jit(
        lambda images: (
            model.image_tower(
                variables["params"]["image"],
                variables["batch_stats"]["image"],
                images,
                architecture,
            ).embedding
        )
    )(pixels(golden["in/image_u8"]))
    golden.check("out/embedding", encoded)
    frames = len(encoded) // len(golden["out/video_embedding"])
    golden.check("out/video_embedding", model.video_embedding(encoded, frames))


@adapter("brivl", r"text_encoder_(base|large).*")
def text_encoder_full(golden: Golden) -> None:
    architecture = architecture_of(golden.meta["ctor"], scan=True)
    params = tree(torch_names.TEXT.to_ours(golden.weights()))["params"]["text"]
    lengths = jnp.asarray(golden["in/lens"])

    for name in golden.names("out/embedding_[0-9]*"):
        length = int(name.rsplit("_", 1)[1])
        given = golden[next(iter(golden.names("in/ids_*")))]
        ids = np.zeros((len(given), length), np.int32)
        ids[:, : given.shape[1]] = given
        mask = jnp.arange(length) < lengths[:, None]
        encoded = jax.jit(
            lambda params, ids, mask: vars(model.text_tower(params, ids, architecture, mask=mask))
        )(params, ids, mask)
        golden.check(name, encoded["embedding"])
        if f"out/embedding_norm_{length}" in golden:
            golden.check(f"out/embedding_norm_{length}", unit(encoded["embedding"]))
            rows = np.array([0, 1, 10, 19, 25])
            hidden = encoded["outputs"]["hidden"][0]
            golden.check(f"out/hidden_{length}_0", hidden[rows])
            golden.check(f"out/tokens_{length}_0", encoded["tokens"][0, rows[:4]])


@adapter("brivl", r"text_encoder_tiny.*")
def text_encoder_tiny(golden: Golden) -> None:
    architecture = architecture_of(golden.meta["ctor"])
    params = tree(torch_names.TEXT.to_ours(golden.weights()))["params"]["text"]
    ids, mask = jnp.asarray(golden["in/ids"]), jnp.asarray(golden["in/mask"]) > 0
    cotangent = jnp.asarray(golden["in/cotangent"])

    def loss(params: Tree) -> Any:
        encoded = model.text_tower(params, ids, architecture, mask=mask)
        return jnp.sum(unit(encoded.embedding) * cotangent), vars(encoded)

    (value, encoded), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    for name in ("tokens", "fused", "embedding"):
        golden.check(f"out/{name}", encoded[name])
    golden.check("out/embedding_norm", unit(encoded["embedding"]))
    golden.check("out/loss", value)
    named = torch_names.TEXT.to_torch({"params": {"text": grads}}, golden.meta["shapes"])
    for key in golden.names("grad/param/*"):
        golden.check(key, _cut(golden, key, named[key.removeprefix("grad/param/")]))


@adapter("brivl", r"mspp_roi_pool.*")
def roi_pool(golden: Golden) -> None:
    for case, sizes in golden.meta["ctor"].items():
        given = golden.under(f"in/{case}/")

        def total(features: Any, weight: Any, given: Tree = given, sizes: Tree = sizes) -> Any:
            pooled = ops.roi_pool(features, given["boxes"], sizes["IMG_SIZE"], sizes["GRID_SIZE"])
            tokens = pooled @ weight.T + given["conv_bias"]
            return jnp.sum(tokens * given["cotangent"]), tokens

        features = jnp.asarray(nhwc(given["feature_map"]))
        weight = jnp.asarray(given["conv_weight"])
        grads, tokens = jax.grad(total, (0, 1), has_aux=True)(features, weight)
        golden.check(f"out/{case}/tokens", tokens)
        golden.check(f"grad/{case}/feature_map", nchw(grads[0]))
        golden.check(f"grad/{case}/conv_weight", grads[1])


@adapter("brivl", r"preprocess.*")
def preprocess(golden: Golden) -> None:
    ctor, image = golden.meta["ctor"], jnp.asarray(golden["in/image_u8"])
    size = ctor["size"]
    golden.check("out/eval_no_antialias", nchw(ops.preprocess_image(image, size)))
    golden.check("out/eval_antialias", nchw(ops.preprocess_image(image, size, antialias=True)))
    x = ops.resize(ops.to_float(image), size)
    names = ("brightness", "contrast", "saturation", "hue")
    factors = jnp.asarray([ctor["factors"][name] for name in names], jnp.float32)
    jittered = ops.color_jitter(x, factors, jnp.asarray(ctor["order"]))
    golden.check("out/jitter", nchw(jittered))
    golden.check("out/gray", nchw(ops.grayscale(x)))
    golden.check("out/train_jitter_gray_normalised", nchw(ops.normalise(ops.grayscale(jittered))))
    for i, name in enumerate(names):
        golden.check(f"out/{name}", nchw(getattr(ops, f"adjust_{name}")(x, factors[i])))
    golden.check("out/boxes_6x6_1", ops.grid_boxes(456, (6, 1)))
    golden.check("out/boxes_1_5x5_384", ops.grid_boxes(384, (1, 5)))
    boxes = golden["in/det_boxes"]
    height, width = image.shape[:2]
    scaled, _ = ops.scale_boxes(boxes, width, height, 380, len(boxes) + 1)
    golden.check("out/det_boxes_380", scaled[: len(boxes)])


@adapter("brivl", r"tokenizer.*")
def tokenizer(golden: Golden) -> None:
    pieces = WordPiece.from_bytes(golden["in/vocab_utf8"].tobytes())
    texts = json.loads(golden["in/texts_json"].tobytes())
    for length in golden.meta["ctor"]["max_length"]:
        ids, lengths = pieces.encode(texts, length)
        golden.check(f"out/ids_{length}", ids)
        golden.check(f"out/len_{length}", lengths)


@adapter("brivl", r"retrieval_metrics.*")
def retrieval_metrics(golden: Golden) -> None:
    images, texts = golden["in/image_features"], golden["in/text_features"]
    ranks = judging.retrieval_ranks(images, texts)
    total = 0.0
    for way in ("i2t", "t2i"):
        golden.check(f"out/{way}_rank", ranks[way])
        for k in (1, 5, 10):
            recall = judging.recall_at(ranks[way], k)
            golden.check(f"out/{way}_recall{k}", recall)
            total += recall
    golden.check("out/recall_sum", total)


@adapter("brivl", r"released_features.*")
def released_features(golden: Golden) -> None:
    """The checkpoint is not here; what can be checked is how its features are compared."""
    images, texts = golden["out/image_features"], golden["out/text_features"]
    golden.check("out/similarity", judging.similarity(images, texts))
    for name, features in (("image", images), ("text", texts)):
        # Unit vectors stay what they are under our normalisation.
        golden.check(f"out/{name}_features", unit(jnp.asarray(features)))
    boxes = golden["in/boxes"]
    for detected, (width, height) in zip(boxes, golden.meta["ctor"]["image_sizes_wh"], strict=True):
        size = golden.meta["ctor"]["IMG_SIZE"]
        scaled, real = ops.scale_boxes(detected, width, height, size, len(detected) + 1)
        assert real.all()
        assert scaled.max() <= size
