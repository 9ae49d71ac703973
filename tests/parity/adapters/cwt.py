"""CWT: PSPNet and its first stage, losses, the transformer, episodes, metrics, the data."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.data.datasets.segmentation_folds import coco20i_folds, pascal5i_folds
from jaxcog.data.images import normalise
from jaxcog.data.mask_episodes import count_pixels, usable_images
from jaxcog.interop.names import NameTable
from jaxcog.losses.segmentation import pixel_cross_entropy, weighted_mean
from jaxcog.metrics.segmentation import class_iou, confusion_matrix, mean_iou
from jaxcog.nn.attention import DropoutMasks
from jaxcog.nn.canvas import resize_pad_square
from jaxcog.nn.resize import resize_bilinear_align_corners
from jaxcog.nn.resnet import STAGES as RESNET_STAGES
from jaxcog.nn.vgg import STAGES as VGG_STAGES
from jaxcog.optim import Optimizer, make_optimizer
from jaxcog.systems.cwt import judging, ops, torch_names
from jaxcog.systems.cwt.losses import (
    balanced_cross_entropy,
    foreground_weight,
    label_smoothed_cross_entropy,
)
from jaxcog.systems.cwt.model import ClassifierWeightTransformer, Encoder, PSPNet, output_size
from jaxcog.systems.cwt.outer import Episodes, outer_updates
from jaxcog.task import DataInfo, Setting
from tests.parity.adapters import adapter
from tests.parity.golden import Golden, nchw, nhwc

Variables = dict[str, Any]


def encoder_of(ctor: dict[str, Any]) -> Encoder:
    name = "vgg16" if ctor["arch"] == "vgg" else f"resnet{ctor['layers']}"
    return Encoder(
        name, tuple(ctor["bins"]), ctor["bottleneck_dim"], dropout=ctor.get("dropout", 0.0)
    )


def network_of(ctor: dict[str, Any], bias: bool = False) -> tuple[PSPNet, NameTable]:
    encoder = encoder_of(ctor)
    return PSPNet(encoder, ctor["num_classes_tr"], bias), torch_names.table_for(encoder.name)


@adapter("cwt", r"pspnet_\w+_eval.*")
def pspnet(golden: Golden) -> None:
    ctor, part = golden.meta["ctor"], golden.meta["slice"]
    net, table = network_of(ctor)
    variables = table.to_ours(golden.weights())
    params, stats = variables["params"], variables["batch_stats"]
    image = jnp.asarray(nhwc(golden["in/image"]))
    size = output_size(*image.shape[1:3], ctor["zoom_factor"])

    @jax.jit
    def run(params: Variables, stats: Variables) -> tuple[jax.Array, jax.Array, Any]:
        features, seen = net.encoder.module.apply(
            {"params": params["encoder"], "batch_stats": stats["encoder"]},
            image,
            train=False,
            capture_intermediates=True,
        )
        return features, net.classify(params, features, size), seen["intermediates"]

    features, logits, seen = run(params, stats)
    maps = seen["trunk"]["__call__"][0]
    stages = VGG_STAGES if ctor["arch"] == "vgg" else ("stem", *RESNET_STAGES)
    for i, name in enumerate(stages):
        golden.check(f"out/layer{i}_ch{part}", nchw(maps[name])[:, :part])
    pyramid = nchw(np.concatenate(seen["ppm"]["__call__"][0], axis=-1))
    branches = np.split(pyramid[:, maps[stages[-1]].shape[-1] :], len(ctor["bins"]), axis=1)
    golden.check(
        f"out/ppm_branches_ch{part}", np.concatenate([b[:, :part] for b in branches], axis=1)
    )
    golden.check("out/features", nchw(features))
    golden.check("out/logits", nchw(logits))


@adapter("cwt", r"stage1_\w+_train.*")
def stage1(golden: Golden) -> None:
    weights, eps = golden.weights(), 0.1 if golden.meta["smoothing"] else 0.0
    net, table = network_of(golden.meta["ctor"], "classifier.bias" in weights)
    variables = jax.tree.map(jnp.asarray, table.to_ours(weights))
    image, label = jnp.asarray(nhwc(golden["in/image"])), jnp.asarray(golden["in/label"])

    def loss(params: Variables) -> tuple[jax.Array, Variables]:
        logits, stats = net(params, variables["batch_stats"], image, label.shape[1:], train=True)
        return label_smoothed_cross_entropy(logits, label, eps=eps), stats

    (value, stats), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    golden.check("out/loss", value)
    gradients = table.to_torch({"params": grads}, weights)
    for name in golden.under("grad/"):
        golden.check(f"grad/{name}", gradients[name][: golden.meta["gslice"]])
    buffers = table.to_torch({"batch_stats": stats}, weights)
    for name in golden.under("out/buffer/"):
        if name.endswith("num_batches_tracked"):
            golden.leave_out(f"out/buffer/{name}", "a counter that our batch norms do not keep")
        else:
            golden.check(f"out/buffer/{name}", buffers[name])


@adapter("cwt", "losses.*")
def loss_functions(golden: Golden) -> None:
    logits, label = jnp.asarray(nhwc(golden["in/logits"])), jnp.asarray(golden["in/label"])
    for name, eps in (("smooth", 0.1), ("hard", 0.0)):
        loss = functools.partial(label_smoothed_cross_entropy, labels=label, eps=eps)
        value, grad = jax.jit(jax.value_and_grad(loss))(logits)
        golden.check(f"out/loss_{name}", value)
        golden.check(f"grad/logits_{name}", nchw(grad))
    low, label = jnp.asarray(nhwc(golden["in/ep_logits"])), jnp.asarray(golden["in/ep_label"])

    def weighted(low: jax.Array) -> jax.Array:
        return balanced_cross_entropy(resize_bilinear_align_corners(low, label.shape[1:]), label)

    value, grad = jax.jit(jax.value_and_grad(weighted))(low)
    golden.check("out/fg_weight", foreground_weight(label))
    golden.check("out/loss_weighted", value)
    golden.check("grad/ep_logits", nchw(grad))


@adapter("cwt", r"transformer_heads\d+.*")
def transformer(golden: Golden) -> None:
    ctor, weights = golden.meta["ctor"], golden.weights()
    net = ClassifierWeightTransformer(ctor["n_head"], dropout=ctor["dropout"], head_dim=ctor["d_k"])
    params = torch_names.TRANSFORMER.to_ours(weights)["params"]["transformer"]
    features = jnp.asarray(nhwc(golden["in/features"]))
    cotangent = jnp.asarray(golden["in/cotangent"])
    batch, heads = features.shape[0], ctor["n_head"]

    def head_major(x: Any) -> np.ndarray:
        """[B, heads, 2, M] -> [heads * B, 2, M]."""
        return np.swapaxes(x, 0, 1).reshape(heads * batch, *x.shape[2:])

    def run(params: Variables, rows: jax.Array, features: jax.Array) -> Any:
        updated = net(params, rows, features)
        return jnp.sum(updated * cotangent), updated

    step = jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True))
    for name in golden.names("in/weights_*"):
        case = name.rpartition("_")[2]
        rows = jnp.asarray(golden[name])
        (_, updated), grads = step(params, rows, features)
        golden.check(f"out/updated_{case}", updated)
        golden.check(f"grad/weights_{case}", grads[1])
        golden.check(f"grad/features_{case}", nchw(grads[2]))
        tensors = torch_names.TRANSFORMER.to_torch({"params": {"transformer": grads[0]}}, weights)
        for key, value in tensors.items():
            own = f"grad/{key}_{case}"
            golden.check(own, value[: len(golden[own])])
        seen = net.attention(params, rows, features)
        golden.check(f"out/attn_{case}", head_major(seen.reshape(*seen.shape[:3], -1)))
    keep = golden["in/attn_keep"] > 0
    masks = DropoutMasks(
        np.swapaxes(keep.reshape(heads, batch, *keep.shape[1:]), 0, 1), golden["in/out_keep"] > 0
    )
    for name in golden.under("out/updated_train_"):
        rows = jnp.asarray(golden[f"in/weights_{name}"])
        golden.check(f"out/updated_train_{name}", net(params, rows, features, masks=masks))


@adapter("cwt", r"train_trajectory_\d+shot.*")
def trajectory(golden: Golden) -> None:
    meta, weights = golden.meta, golden.weights()
    net = ClassifierWeightTransformer(meta["ctor"]["n_head"], head_dim=meta["ctor"]["d_k"])
    table = torch_names.TRANSFORMER
    params = table.to_ours(weights)["params"]["transformer"]
    support, query = (nhwc(golden[f"in/{name}_features"]) for name in ("support", "query"))
    masks = jnp.asarray(golden["in/support_label"])
    fit = functools.partial(ops.fit_binary_classifier, lr=meta["cls_lr"], steps=meta["adapt_iter"])
    fitted, losses = jax.jit(jax.vmap(fit))(support, masks, golden["in/cls_init"])
    golden.check("out/inner_losses", losses)
    golden.check("out/cls_final", fitted)
    labels = jnp.asarray(golden["in/query_label"])
    golden.check("out/fg_weight_support", jax.vmap(foreground_weight)(masks))
    golden.check("out/fg_weight_query", jax.vmap(foreground_weight)(labels))
    optimizer = Optimizer(
        "sgd",
        lr=meta["trans_lr"],
        momentum=meta["momentum"],
        nesterov=meta["nesterov"],
        weight_decay=meta["weight_decay"],
    )
    count = len(labels)
    tx = make_optimizer(optimizer, params, Setting(DataInfo({}, 1), count, count, 1))
    episodes = Episodes(fitted, ops.unit(query), labels, jnp.ones(count, bool))
    done = jax.jit(lambda p, o: outer_updates(net, tx, p, o, episodes, None))(
        params, tx.init(params)
    )
    golden.check("out/query_losses", done.losses)
    final = table.to_torch({"params": {"transformer": done.params}}, weights)
    for name, value in final.items():
        rows = len(golden[f"out/final/{name}"])
        golden.check(f"out/final/{name}", value[:rows])
        golden.check(f"out/delta/{name}", (value - weights[name])[:rows])


@adapter("cwt", r"episode_eval_\d+shot.*")
def episode(golden: Golden) -> None:
    meta = golden.meta
    net, table = network_of(meta["ctor"]["pspnet"])
    stage1 = jax.tree.map(jnp.asarray, table.to_ours(golden.weights("pspnet")))
    weights = golden.weights("transformer", seed=meta["seed"] + 1)
    params = torch_names.TRANSFORMER.to_ours(weights)["params"]["transformer"]
    ctor = meta["ctor"]["transformer"]
    rewriter = ClassifierWeightTransformer(ctor["n_head"], head_dim=ctor["d_k"])
    support, query = nhwc(golden["in/support"]), nhwc(golden["in/query"])
    masks, label = (jnp.asarray(golden[f"in/{n}_label"]) for n in ("support", "query"))

    @jax.jit
    def run(stage1: Variables, params: Variables) -> tuple[jax.Array, ...]:
        frozen = stage1["params"]["encoder"], stage1["batch_stats"]["encoder"]
        shots, seen = ops.encode_episodes(net.encoder, *frozen, support, query)
        fit = functools.partial(
            ops.fit_binary_classifier, lr=meta["cls_lr"], steps=meta["adapt_iter"]
        )
        fitted, losses = jax.vmap(fit)(shots, masks, golden["in/cls_init"])
        updated = rewriter(params, fitted, seen)
        low = ops.classify(updated, seen, seen.shape[1:3])
        logits = ops.classify(updated, seen, label.shape[1:])
        return shots, losses, fitted, updated, low, logits

    shots, losses, fitted, updated, low, logits = run(stage1, params)
    for name in golden.names("out/support_features*"):
        golden.check(name, nchw(shots)[:, :, : golden[name].shape[2]])
    golden.check("out/inner_losses", losses)
    golden.check("out/cls_final", fitted)
    golden.check("out/cls_updated", updated)
    golden.check("out/query_logits", nchw(low))
    found = jnp.argmax(logits, axis=-1)
    golden.check("out/pred_mask", np.asarray(found, np.uint8))
    both, either = judging.overlap(found, label)
    judged = judging.fewshot_iou(both[:, 1], either[:, 1], golden["in/class_id"])
    golden.check("out/class_iou_ids", judged.classes)
    golden.check("out/class_iou_4dp", np.round(judged.iou, 4))
    golden.check("out/miou", judged.mean)
    losses = jax.vmap(weighted_mean)(pixel_cross_entropy(logits, label), label)
    golden.check("out/val_loss", np.mean(losses))


@adapter("cwt", "metrics.*")
def metrics(golden: Golden) -> None:
    logits, target = jnp.asarray(nhwc(golden["in/logits"])), jnp.asarray(golden["in/target"])
    whole = resize_bilinear_align_corners(logits, target.shape[-2:])
    both, either = judging.overlap(jnp.argmax(whole, axis=-1), target)
    golden.check("out/intersection", both.astype(np.float32))
    golden.check("out/union", either.astype(np.float32))
    counts = [jnp.sum(target == c, axis=(-2, -1)) for c in range(logits.shape[-1])]
    golden.check("out/target", jnp.stack(counts, axis=-1).astype(np.float32))

    classes = int(golden["in/n_cls"])
    preds, labels = jnp.asarray(golden["in/preds"]), jnp.asarray(golden["in/labels"])
    preds = jnp.where(labels == 255, 255, preds)
    both, either = judging.overlap(preds, labels, classes)
    golden.check("out/mc_intersection", both.astype(np.float32))
    golden.check("out/mc_union", either.astype(np.float32))
    sizes = np.bincount(np.asarray(labels).ravel(), minlength=256)[:classes]
    golden.check("out/mc_target", sizes.astype(np.float32))

    binary = jnp.asarray(golden["in/target_binary"])
    found = jnp.argmax(logits.reshape(-1, *logits.shape[2:]), axis=-1)
    both, either = judging.overlap(found, binary)
    judged = judging.fewshot_iou(both[:, 1], either[:, 1], golden["in/class_ids"])
    golden.check("out/binary_class_ids", judged.classes)
    golden.check("out/binary_class_iou", judged.iou)
    golden.check("out/binary_mean_iou", judged.mean)
    pooled = judging.fewshot_iou(both[:, 1], either[:, 1], np.zeros(len(both)))
    golden.check("out/binary_fg_pooled_iou", pooled.mean)

    scores = jnp.argmax(jnp.asarray(golden["in/mc_scores"]), axis=1)
    counts = confusion_matrix(scores, labels[None], golden["in/mc_scores"].shape[1])
    golden.check("out/full_class_iou", class_iou(counts))
    golden.check("out/full_mean_iou", mean_iou(counts))


@adapter("cwt", "preprocess.*")
def preprocess(golden: Golden) -> None:
    size = golden.meta["image_size"]
    for case in golden.meta["cases"]:
        image, label = golden[f"in/image_{case}"], golden[f"in/label_{case}"]
        canvas, squared = resize_pad_square(image, label, size)
        golden.check(f"out/image_{case}", nchw(normalise(canvas)))
        golden.check(f"out/label_{case}", squared)
        for name, axis in (("hflip", 1), ("vflip", 0)):
            canvas, squared = resize_pad_square(np.flip(image, axis), np.flip(label, axis), size)
            golden.check(f"out/{name}_label_{case}", squared)
            golden.check(f"out/{name}_image_row_{case}", nchw(normalise(canvas))[:, size // 3])


@adapter("cwt", "listing.*")
def listing(golden: Golden) -> None:
    meta = golden.meta
    pixels = np.stack([count_pixels(label, 256) for label in golden["in/labels"]])
    for name in golden.under("out/keep_s"):
        fold, part = name.split("_")
        if meta["dataset"] == "pascal":
            base, novel = pascal5i_folds(int(fold))
        else:
            base, novel = coco20i_folds(int(fold), meta["use_split_coco"])
        ids = list(base if part == "train" else novel)
        keep, enough = usable_images(pixels, ids)
        golden.check(f"out/keep_s{name}", keep.astype(np.uint8))
        wanted = np.zeros_like(golden[f"out/classes_s{name}"])
        wanted[:, ids] = enough
        golden.check(f"out/classes_s{name}", wanted)
