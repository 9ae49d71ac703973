"""QAT: alignment, G-TAD, labels, losses, the episode, proposals, Soft-NMS, average precision."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.losses import temporal_targets as labels
from jaxcog.metrics import temporal
from jaxcog.nn.attention import DropoutMasks, QueryAttention
from jaxcog.optim import Optimizer, gradient_step, initial_state
from jaxcog.systems.qat import align, episode, losses, model, proposals
from jaxcog.systems.qat.torch_names import TRANSFORMER_NAMES, base_names
from jaxcog.task import DataInfo, Setting
from tests.parity.adapters import adapter
from tests.parity.golden import Golden


def swapped(x: Any) -> np.ndarray:
    """[B, C, T] <-> [B, T, C]."""
    return np.swapaxes(np.asarray(x), 1, 2)


@adapter("qat", r"align1d.*")
def align1d(golden: Golden) -> None:
    x, rois = jnp.asarray(swapped(golden["in/x"])), golden["in/rois"]
    for name, options in golden.meta["ctor"].items():
        apply = functools.partial(
            align.roi_align_1d,
            rois=rois,
            num_bins=options["feature_dim"],
            sampling_ratio=options["ratio"],
        )
        y, back = jax.vjp(apply, x)
        golden.check(f"out/{name}", swapped(y))
        cotangent = jnp.asarray(swapped(golden[f"in/cot_{name}"]))
        golden.check(f"grad/x_{name}", swapped(back(cotangent)[0]))


def sets(graph: Any) -> np.ndarray:
    """Neighbours in a fixed order: [B, T, k]."""
    return np.sort(np.asarray(graph), axis=-1)


def check_graph(golden: Golden, name: str, graph: Any) -> None:
    np.testing.assert_array_equal(sets(graph), sets(golden[name]))
    golden.leave_out(name, "compared as sets: the order of neighbours means nothing")


@adapter("qat", r"gcnext.*")
def gcnext(golden: Golden) -> None:
    ctor, weights = golden.meta["ctor"], golden.weights()
    prefixed = {f"backbone2.0.{name}": value for name, value in weights.items()}
    table = base_names()
    params = table.to_ours(prefixed)["params"]["backbone2_0"]
    block = model.GCNeXt(ctor["groups"], ctor["width_group"], ctor["k"])
    x = jnp.asarray(swapped(golden["in/x"]))

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return block.apply({"params": params}, x)

    y, back = jax.vjp(apply, params, x)
    graph = model.knn_graph(x, ctor["k"])
    golden.check("out/y", swapped(y))
    check_graph(golden, "out/knn_idx", graph)
    golden.check("out/context", swapped(jnp.mean(model.neighbours(x, graph), axis=2)))
    grads, gx = back(jnp.asarray(swapped(golden["in/cot"])))
    golden.check("grad/x", swapped(gx))
    tensors = table.to_torch({"params": {"backbone2_0": grads}}, prefixed)
    for name in golden.under("grad/"):
        if name != "x":
            golden.check(f"grad/{name}", tensors[f"backbone2.0.{name}"])


def network_of(golden: Golden) -> tuple[model.GTADConfig, Any]:
    """The network that a file's constructor arguments and shapes describe, and its parameters."""
    ctor, shapes = golden.meta["ctor"], golden.meta["shapes"]
    channels = shapes["backbone1.0.weight"][0]
    bins = shapes["localization.0.weight"][1] // channels
    context = bins // 2 if ctor.get("kern_2d", 1) > 1 and bins == 32 else bins - 32
    samples = ctor.get("goi_samp", 0)
    config = model.GTADConfig(
        max_duration=ctor["max_duration"],
        channels=channels,
        hidden=(shapes["localization.0.weight"][0], shapes["localization.2.weight"][0]),
        bins=(bins - context, context),
        # On THUMOS14 both branches sample alike; on ActivityNet the context goes by length.
        samples=(samples, samples if 2 * context == bins else 0),
        kernel=shapes["localization.4.weight"][-1],
    )
    return config, base_names(channels).to_ours(golden.weights())["params"]


@adapter("qat", r"gtad_forward.*")
def gtad_forward(golden: Golden) -> None:
    config, params = network_of(golden)
    x = jnp.asarray(swapped(golden["in/snip_feature"]))
    out = jax.jit(functools.partial(model.apply, config))(params, x)
    golden.check("out/iou_map", np.moveaxis(np.asarray(out.iou_map), -1, 1))
    golden.check("out/start", out.start)
    golden.check("out/end", out.end)
    golden.check("out/base_feature", swapped(out.base))
    golden.check("out/gcnext_feature", swapped(out.embedding))
    first = model.GTAD(config).apply(
        {"params": params}, x, method=lambda net, x: jax.nn.relu(net.backbone1_0(x))
    )
    check_graph(golden, "out/knn_idx_backbone1", model.knn_graph(first, config.k))
    check_graph(golden, "out/knn_idx_backbone2", model.knn_graph(out.base, config.k))


@adapter("qat", r"gtad_embedding.*")
def gtad_embedding(golden: Golden) -> None:
    config, params = network_of(golden)
    x = jnp.asarray(swapped(golden["in/snip_feature"]))
    y = jax.jit(functools.partial(model.embed, config))(params, x)
    golden.check("out/embedding", swapped(y)[..., None])


@adapter("qat", r"gtad_labels.*")
def gtad_labels(golden: Golden) -> None:
    scale = golden.meta["ctor"]["temporal_scale"]
    targets, masks = [], []
    for i, padded in enumerate(golden["in/segments"]):
        duration = labels.corrected_duration(
            *(golden[f"in/{name}"][i] for name in
              ("feature_frame", "duration_frame", "duration_second"))
        )  # fmt: skip
        segments = padded[padded[:, 1] >= 0]
        targets.append(labels.bmn_targets(segments, duration, scale))
        masks.append(labels.snippet_mask(segments, duration))
    golden.check("out/gt_iou_map", np.stack([target.iou_map for target in targets]))
    golden.check("out/start", np.stack([target.start for target in targets]))
    golden.check("out/end", np.stack([target.end for target in targets]))
    golden.check("out/mask", np.stack(masks))
    golden.check("out/bm_mask", labels.valid_cells(*golden["out/bm_mask"].shape[::-1]))


@adapter("qat", r"gtad_loss.*")
def gtad_loss(golden: Golden) -> None:
    iou_map = jnp.asarray(np.moveaxis(golden["in/pred_bm"], 1, -1))
    fixed = [jnp.asarray(golden[f"in/{name}"]) for name in
             ("gt_iou_map", "gt_start", "gt_end", "bm_mask")]  # fmt: skip
    draws = jnp.stack([jnp.asarray(golden["in/rand_m"]), jnp.asarray(golden["in/rand_l"])])

    def total(iou_map: jax.Array, start: jax.Array, end: jax.Array) -> Any:
        found = losses.bmn_loss(iou_map, start, end, *fixed, draws)
        return found.total, found

    inputs = iou_map, jnp.asarray(golden["in/start"]), jnp.asarray(golden["in/end"])
    grads, found = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(*inputs)
    names = ("total", "tem", "reg", "cls")
    for name, value in zip(names, found, strict=True):
        golden.check(f"out/{name}", value)
    golden.check("grad/pred_bm", np.moveaxis(np.asarray(grads[0]), -1, 1))
    golden.check("grad/start", grads[1])
    golden.check("grad/end", grads[2])


@adapter("qat", r"gtad_train_trajectory.*")
def gtad_train_trajectory(golden: Golden) -> None:
    config, params = network_of(golden)
    optim = golden.meta["optimizer"]
    optimizer = Optimizer(name="adam", lr=optim["lr"], weight_decay=optim["weight_decay"])
    setting = Setting(DataInfo({}, 1), optim["steps"], optim["steps"], 1)
    x = jnp.asarray(swapped(golden["in/snip_feature"]))
    targets = [jnp.asarray(golden[f"in/gt_{name}"]) for name in ("iou_map", "start", "end")]
    valid = jnp.asarray(labels.valid_cells(x.shape[1], targets[0].shape[1]))

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
        out = model.apply(config, params, x)
        found = losses.bmn_loss(out.iou_map, out.start, out.end, *targets, valid, batch["draws"])
        return found.total, ({}, {"terms": jnp.stack(found)})

    step = gradient_step(loss, optimizer, setting)
    state, seen = initial_state(params, optimizer, setting), []
    step = jax.jit(step)
    table = base_names(config.channels)
    for i in range(optim["steps"]):
        state, scalars = step(
            state, {"draws": jnp.asarray(golden["in/rand"][i])}, jax.random.key(0)
        )
        seen.append(scalars["terms"])
        name = {0: "step1", optim["steps"] - 1: "final"}.get(i)
        if name is not None:
            tensors = table.to_torch({"params": state["params"]}, golden.meta["shapes"])
            for key in golden.under(f"out/{name}/"):
                golden.check(f"out/{name}/{key}", tensors[key])
    golden.check("out/loss", np.stack(seen))


def videos(x: Any) -> jax.Array:
    """[1, K, C, T, 1] -> [K, T, C]."""
    return jnp.asarray(np.swapaxes(np.asarray(x)[0, ..., 0], -1, -2))


def masks_of(gt: Any) -> jax.Array:
    """[1, K, T, 1] -> [K, T]."""
    return jnp.asarray(np.asarray(gt)[0, ..., 0])


def channels_of(prob: Any) -> np.ndarray:
    """[K, T] foreground probability -> [1, K, 2, T, 1], the background first."""
    prob = np.asarray(prob)
    return np.stack([1 - prob, prob], axis=1)[None, ..., None]


@adapter("qat", r"classifier.*")
def classifier(golden: Golden) -> None:
    temperature, factor = golden.meta["ctor"]["temperature"], golden.meta["ctor"]["weights"][0]

    @jax.jit
    def compute(support: Any, mask: Any, query: Any, truth: Any) -> dict[str, Any]:
        start = episode.fit_prototype(support, mask, query[0], steps=0, temperature=temperature)

        def inner(prototype: jax.Array, bias: jax.Array) -> Any:
            prob = episode.foreground(support, prototype, bias, temperature)
            value = losses.released_support_loss(prob, mask)
            return factor * value, (value, prob)

        grads, (value, fore_s) = jax.grad(inner, (0, 1), has_aux=True)(*start[:2])
        fore_q = episode.foreground(query, start.prototype, start.bias, temperature)
        terms = losses.query_terms(fore_q, jnp.asarray([0.6, 0.4]), truth)
        logits = [
            episode.cosine_logits(x, start.prototype, temperature)[None, ..., None]
            for x in (support, query)
        ]
        return {
            "out/prototype": start.prototype[None],
            "out/bias": start.bias[None],
            "out/logits_s": logits[0],
            "out/logits_q": logits[1],
            "out/probas_q": fore_q,
            "out/ce_s": losses.foreground_loss(fore_s.ravel(), mask.ravel())[None],
            "out/ce_q": losses.foreground_loss(fore_q.ravel(), truth.ravel())[None],
            "out/ce_bmn_s": value,
            "out/FB_param": terms.marginal[None],
            "out/FB_delta": terms.marginal[1:] - 1,
            "out/d_kl": terms.divergence[None],
            "out/cond_entropy": terms.entropy[None],
            "out/marginal": terms.marginal[None],
            "grad/prototype": grads[0][None],
            "grad/bias": grads[1][None],
        }

    for tag in golden.meta["tags"]:
        support, query = (videos(golden[f"in/features_{x}_{tag}"]) for x in "sq")
        mask, truth = (masks_of(golden[f"in/gt_{x}_{tag}"]) for x in "sq")
        results = compute(support, mask, query, truth)
        results["out/probas_q"] = channels_of(results["out/probas_q"])
        for name, result in results.items():
            golden.check(f"{name}_{tag}", result)


released_fit = functools.partial(episode.fit_prototype, loss=episode.released_objective)


@adapter("qat", r"repri_trajectory.*")
def repri_trajectory(golden: Golden) -> None:
    support, query = (videos(golden[f"in/features_{x}"]) for x in "sq")
    mask, ctor = masks_of(golden["in/gt_s"]), golden.meta["ctor"]
    after = {
        steps: released_fit(support, mask, query[0], steps=steps, lr=ctor["lr"])
        for steps in (0, *ctor["steps"])
    }
    for steps, fitted in after.items():
        golden.check(f"out/prototype_{steps}", fitted.prototype[None])
        golden.check(f"out/bias_{steps}", fitted.bias[None])
    last = max(after)
    golden.check("out/loss", after[last].losses / ctor["l1"])
    bound = golden.meta["tolerance_delta"]
    for name in ("prototype", "bias"):
        change = getattr(after[last], name) - getattr(after[0], name)
        golden.check(f"out/delta_{name}_{last}", change[None], bound)


def transformer_of(golden: Golden) -> tuple[episode.QueryAdaptiveTransformer, Any]:
    ctor = golden.meta["ctor"]
    block = episode.QueryAdaptiveTransformer(ctor["n_head"], ctor["d_k"], (0.1, ctor["dropout"]))
    return block, TRANSFORMER_NAMES.to_ours(golden.weights())["params"]["transformer"]


def torch_tensors(golden: Golden, params: Any) -> dict[str, np.ndarray]:
    return TRANSFORMER_NAMES.to_torch({"params": {"transformer": params}}, golden.meta["shapes"])


def by_head(x: np.ndarray, heads: int) -> jax.Array:
    """[heads * B, ...], head-major -> [B, heads, ...]."""
    return jnp.asarray(np.swapaxes(x.reshape(heads, -1, *x.shape[1:]), 0, 1))


def dropout_masks(attention: np.ndarray, output: np.ndarray, heads: int) -> DropoutMasks:
    return DropoutMasks(by_head(attention, heads) > 0, jnp.asarray(output) > 0)


@adapter("qat", r"mha.*")
def mha(golden: Golden) -> None:
    ctor = golden.meta["ctor"]
    heads = ctor["n_head"]
    module = QueryAttention(heads, ctor["d_k"], attention_dropout=0.1, dropout=ctor["dropout"])
    _, params = transformer_of(golden)
    q, kv, cotangent = (jnp.asarray(golden[f"in/{name}"]) for name in ("q", "kv", "cot"))
    keep = dropout_masks(golden["in/keep_attn"], golden["in/keep_fc"], heads)
    for suffix, masks in (("", None), ("_train", keep)):

        def apply(params: Any, q: jax.Array, kv: jax.Array, masks=masks) -> Any:
            out = module.apply({"params": params}, q, kv, train=masks is not None, masks=masks)
            return out.output, out.weights

        @jax.jit
        def both(params: Any, q: jax.Array, kv: jax.Array, apply=apply) -> Any:
            y, back, weights = jax.vjp(apply, params, q, kv, has_aux=True)
            return y, weights, back(cotangent)

        y, weights, (grads, gq, gkv) = both(params, q, kv)
        golden.check(f"out/y{suffix}", y)
        if not suffix:
            flat = np.swapaxes(np.asarray(weights), 0, 1).reshape(-1, *weights.shape[2:])
            golden.check("out/attn", flat)
        tensors = {**torch_tensors(golden, grads), "q": gq, "kv": gkv}
        for name in golden.under("grad/"):
            match = re.fullmatch(r"(.+?)(?:_rows(\d+)_(\d+))?(_train)?", name)
            if (match[4] or "") == suffix:
                rows = slice(int(match[2]), int(match[3])) if match[2] else slice(None)
                golden.check(f"grad/{name}", tensors[match[1]][rows])


@adapter("qat", r"qat_meta_test.*")
def qat_meta_test(golden: Golden) -> None:
    block, params = transformer_of(golden)
    support, query = (videos(golden[f"in/features_{x}"]) for x in "sq")
    fitted = jax.jit(released_fit)(support, masks_of(golden["in/gt_s"]), query[0])
    adapted = block(params, fitted.prototype[None], query)[0]
    golden.check("out/prototype", fitted.prototype[None])
    golden.check("out/bias", fitted.bias[None])
    golden.check("out/prototype_updated", adapted[None])
    logits = episode.cosine_logits(query, adapted)
    golden.check("out/logits", np.asarray(logits)[None, ..., None])
    for name, prototype in (("probas", adapted), ("probas_before", fitted.prototype)):
        prob = episode.foreground(query, prototype, fitted.bias)
        golden.check(f"out/{name}", channels_of(prob))


def stored_rows(initial: np.ndarray, reference: np.ndarray) -> slice:
    """Which rows of a parameter a file holds; it does not say so, and they moved only a little."""
    if len(initial) == len(reference):
        return slice(None)
    distance = [np.linalg.norm(row - reference[0]) for row in initial]
    first = int(np.argmin(distance))
    return slice(first, first + len(reference))


@adapter("qat", r"qat_meta_train.*")
def qat_meta_train(golden: Golden) -> None:
    block, params = transformer_of(golden)
    rate, heads = golden.meta["optimizer"]["lr"], golden.meta["ctor"]["n_head"]

    @jax.jit
    def step(params: Any, support: Any, mask: Any, query: Any, truth: Any, keep: Any) -> Any:
        fitted = released_fit(support, mask, query[0])

        def outer(params: Any) -> Any:
            adapted = block(params, fitted.prototype[None], query, masks=keep)[0]
            prob = episode.foreground(query, adapted, fitted.bias)
            return losses.foreground_loss(prob[0], truth[0]), adapted

        (value, adapted), grads = jax.value_and_grad(outer, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), value, adapted

    values, initial = [], torch_tensors(golden, params)
    for i in range(len(golden["in/features_s"])):
        support, query = (videos(golden[f"in/features_{x}"][i]) for x in "sq")
        mask, truth = (masks_of(golden[f"in/gt_{x}"][i]) for x in "sq")
        keep = dropout_masks(golden["in/keep_attn"][i], golden["in/keep_fc"][i], heads)
        params, value, adapted = step(params, support, mask, query, truth, keep)
        values.append(value)
        golden.check(f"out/prototype_updated_{i + 1}", adapted[None])
        tensors = torch_tensors(golden, params)
        for name in golden.under("out/"):
            key, _, number = name.rpartition("_")
            if number == str(i + 1) and key in tensors:
                rows = stored_rows(initial[key], golden[f"out/{name}"])
                golden.check(f"out/{name}", tensors[key][rows])
    golden.check("out/loss", np.stack(values))


def padded(rows: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Rows below one another, filled with -1 to the reference's number of rows."""
    fill = np.full((max(len(like) - len(rows), 0), like.shape[1]), -1.0)
    return np.concatenate([np.asarray(rows).reshape(-1, like.shape[1]), fill])


def check_lists(golden: Golden, name: str, count: str, lists: list[np.ndarray]) -> None:
    golden.check(f"out/{count}", np.array([len(rows) for rows in lists], np.int32))
    reference = golden[f"out/{name}"]
    filled = [padded(rows, like) for rows, like in zip(lists, reference, strict=True)]
    golden.check(f"out/{name}", np.stack(filled))


@adapter("qat", r"find_tal.*")
def find_tal(golden: Golden) -> None:
    lists = []
    for background in golden["in/probas"][:, 0]:
        segments, scores = proposals.probability_to_segments(
            background, golden.meta["ctor"]["thresholds"], "released"
        )
        lists.append(np.column_stack([segments, scores, scores]))
    check_lists(golden, "proposals", "count", lists)


@adapter("qat", r"bmn_proposals.*")
def bmn_proposals(golden: Golden) -> None:
    lists, bins = [], []
    for start, end, confidence in zip(
        *(golden[f"in/{name}"] for name in ("start", "end", "confidence")), strict=True
    ):
        lists.append(proposals.bmn_proposals(start, end, np.moveaxis(confidence, 0, -1)))
        bins.append(proposals.boundary_bins(start, end))
    check_lists(golden, "proposals", "count", lists)
    for i, name in enumerate(("start_bins", "end_bins")):
        golden.check(f"out/{name}", np.stack([pair[i] for pair in bins]).astype(np.float64))


@adapter("qat", r"soft_nms.*")
def soft_nms(golden: Golden) -> None:
    for sigma in golden.meta["ctor"]["sigmas"]:
        lists = []
        for rows in golden["in/proposals"]:
            rows = rows[rows[:, 0] >= 0]
            kept = temporal.soft_nms(
                rows[:, :2],
                rows[:, 2],
                sigma=sigma,
                max_keep=golden.meta["ctor"]["num_prop"],
                drop_last=True,
            )
            lists.append(np.column_stack(kept))
        check_lists(golden, f"kept_{sigma}", f"count_{sigma}", lists)


@adapter("qat", r"postprocess.*")
def postprocess(golden: Golden) -> None:
    lists: dict[str, list[np.ndarray]] = {"c3d": [], "main_single5": [], "main_other": []}
    for rows, video, seconds in zip(
        *(golden[f"in/{name}"] for name in ("proposals", "video_score", "duration_second")),
        strict=True,
    ):
        rows, best = rows[rows[:, 0] >= 0], np.sort(video)[::-1]
        copies = {"c3d": best[:2], "main_single5": best[:1], "main_other": (best[0], 1.0)}
        for name, factors in copies.items():
            found = proposals.detections(
                rows[:, :2],
                rows[:, 2],
                seconds,
                sigma=golden.meta["ctor"]["nms_thr"],
                copies=factors,
                drop_last=True,
            )
            lists[name].append(np.column_stack(found))
    for name, found in lists.items():
        check_lists(golden, f"detections_{name}", f"count_{name}", found)


@adapter("qat", r"anet_eval.*")
def anet_eval(golden: Golden) -> None:
    gt, pred = golden["in/gt"], golden["in/pred"]
    truth = temporal.Segments(gt[:, 0].astype(int), gt[:, 1].astype(int), gt[:, 2:])
    guesses = temporal.Segments(
        pred[:, 0].astype(int), pred[:, 1].astype(int), pred[:, 2:4], pred[:, 4]
    )
    for suffix, thresholds in (("", temporal.ACTIVITYNET), ("_thumos", temporal.THUMOS)):
        found = temporal.detection_map(truth, guesses, thresholds)
        golden.check(f"out/ap{suffix}", found.ap)
        golden.check(f"out/map{suffix}", found.by_threshold)
        golden.check(f"out/average_map{suffix}", np.asarray(found.average))
    golden.check("out/class_order", found.classes.astype(np.int32))
    golden.check("out/iou", temporal.temporal_iou(pred[:1, 2:4], gt[:, 2:])[0])
    check_interpolated(golden)


def check_interpolated(golden: Golden) -> None:
    """Precision, recall and the average precision of them, one after the other."""
    reference = golden["out/interp_example"]
    precision, recall = np.split(reference[:-1], 2)
    ours = temporal.interpolated_ap(precision, recall)
    golden.check("out/interp_example", np.concatenate([precision, recall, [ours]]))
