"""GALD: aggregation modules, heads, networks, losses, training, evaluation, augmentation."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.data.datasets.parsing import CAMVID_TABLE, CITYSCAPES_TABLE
from jaxcog.data.segmentation import map_labels, scale_crop_mirror
from jaxcog.interop.names import NameTable
from jaxcog.losses import segmentation as losses
from jaxcog.metrics import segmentation as metrics
from jaxcog.optim import Optimizer, Schedule, gradient_step, initial_state
from jaxcog.systems.gald import aggregation as ga
from jaxcog.systems.gald import inference, modules, torch_names
from jaxcog.systems.gald.losses import segmentation_loss
from jaxcog.systems.gald.model import Network
from jaxcog.systems.gald.pixels import normalise
from jaxcog.task import DataInfo, Setting
from tests.parity.adapters import adapter
from tests.parity.golden import Golden, nchw, nhwc

Variables = dict[str, Any]


def _named(make: Any) -> Any:
    """What makes a module, given its name alone."""
    return lambda name: make(name=name)


def module_of(builder: str, ctor: dict[str, Any], dtype: Any) -> tuple[Any, tuple[Any, ...]]:
    """Our module for an official class with its constructor arguments, and its names."""
    c, names, of = ctor, torch_names, {"dtype": dtype}
    match builder:
        case "SpatialCGNL":
            groups, scaled = c.get("groups", 8), c.get("use_scale", False)
            made = ga.SpatialCGNL(c["planes"], groups, scaled, **of)
            return made, names.cgnl_rules()
        case "LocalAttenModule":
            return modules.LocalDistribution(**of), names.local_distribution_rules()
        case "GALDBlock":
            block = modules.GALDBlock(
                _named(functools.partial(ga.SpatialCGNL, c["plane"], **of)), **of
            )
            return block, names.gald_block_rules()
        case "GALDHead":
            width = c["interplanes"]
            aggregate = functools.partial(ga.SpatialCGNL, width // 2, **of)
            block = functools.partial(modules.GALDBlock, _named(aggregate), **of)
            made = modules.ContextHead(c["num_classes"], _named(block), "a2block", width, **of)
            return made, names.gald_head_rules()
        case "SpatialGCN":
            return modules.SpatialGCN(**of), names.spatial_gcn_rules()
        case "DualGCN":
            return modules.DualGCN(c.get("ratio", 4), **of), names.dual_gcn_rules()
        case "DualGCNHead":
            block = _named(functools.partial(modules.DualGCN, **of))
            made = modules.ContextHead(c["num_classes"], block, "dualgcn", c["interplanes"], **of)
            return made, names.dual_gcn_head_rules()
        case "PSPModule_k3" | "PSPModule_k1pad1":
            odd = builder.endswith("pad1")
            sizes = tuple(c["sizes"])
            made = ga.PSP(c["out_features"], sizes, 1 if odd else 3, odd, dropout=0.0, **of)
            return made, names.psp_rules()
        case "ASPPModule":
            dilations = tuple(c["dilations"])
            made = ga.ASPP(c["out_features"], c["inner_features"], dilations, dropout=0.0, **of)
            return made, names.aspp_rules()
        case "A2Block":
            return ga.DoubleAttention(c["plane"], **of), names.a2_rules()
        case "EMAU":
            return ga.EMAttention(c["k"], c["stage_num"], **of), names.em_rules()
        case "CrissCrossAttention":
            made = ga.CrissCrossAttention(c.get("recurrence", 1), **of)
            return made, names.criss_cross_rules()
        case "BaseOCModule":
            made = ga.ObjectContext(
                c["key_channels"],
                c["value_channels"],
                c["out_channels"],
                tuple(c["scales"]),
                c["concat"],
                dropout=0.0,
                block=7,
                **of,
            )
            return made, names.object_context_rules()
        case "ASPOCModule":
            made = ga.ASPObjectContext(
                c["out_channels"],
                c["key_channels"],
                c["value_channels"],
                tuple(c["atrous_rates"]),
                dropout=0.0,
                block=None,
                **of,
            )
            return made, names.asp_object_context_rules()
        case "SELayer":
            return ga.SEGate(c["out_planes"], c["reduction"], **of), names.se_rules()
        case "dsn":
            width = c.get("inner", c["in_channels"])
            relu = c.get("relu", True)
            made = modules.AuxiliaryHead(c["nclass"], width, relu, dropout=0.0, **of)
            return made, names.auxiliary_rules(classifier=4 if relu else 3)
    raise AssertionError(f"no module for {builder}")


def check_part(golden: Golden, name: str, value: Any) -> None:
    """Compares with an array of which the file keeps only the first rows."""
    golden.check(name, np.asarray(value)[: golden[name].shape[0]])


def check_tensors(golden: Golden, prefix: str, tensors: dict[str, np.ndarray]) -> None:
    for name in golden.under(prefix):
        if name in tensors:
            check_part(golden, f"{prefix}{name}", tensors[name])


@adapter("gald", "module_.*")
def module(golden: Golden) -> None:
    for mode in golden.meta["modes"]:
        # Under batch statistics a single ReLU that falls on the other side of zero in float32 moves
        # the gradients below it by a percent.
        wide = mode == "train"
        with jax.enable_x64(wide):
            compare_module(golden, mode, jnp.float64 if wide else jnp.float32)


def compare_module(golden: Golden, mode: str, dtype: Any) -> None:
    """One forward and backward pass."""
    made, rules = module_of(golden.meta["builder"], golden.meta["ctor"], dtype)
    table, weights = NameTable(rules), golden.weights()
    # One module under two names: PyTorch's load_state_dict leaves it with the second one's values.
    weights |= {k.replace("f_query", "f_key"): v for k, v in weights.items() if "f_query" in k}
    variables = in_dtype(table.to_ours(weights), dtype)
    x, cotangent = (jnp.asarray(nhwc(golden[f"in/{name}"]), dtype) for name in ("x", "cotangent"))
    extra = {"method": "bases"} if isinstance(made, ga.EMAttention) else {}

    def run(params: Variables, x: jax.Array) -> Any:
        seen = {**variables, "params": params}
        train = mode == "train"
        out, changed = made.apply(seen, x, train=train, mutable=["batch_stats"], **extra)
        y, bases = out if extra else (out, None)
        return jnp.sum(y * cotangent), (y, bases, changed.get("batch_stats", {}))

    step = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
    (_, (y, bases, after)), (grads, gx) = step(variables["params"], x)
    golden.check(f"out/{mode}_y", nchw(y))
    golden.check(f"grad/{mode}_x", nchw(gx))
    if extra:
        golden.check(f"out/{mode}_extra", bases)
    check_tensors(golden, f"grad/{mode}_", table.to_torch({"params": grads}, weights))
    buffers = table.to_torch({"batch_stats": after}, weights)
    check_tensors(golden, f"out/{mode}_buffer/", buffers)


def in_dtype(variables: Any, dtype: Any) -> Any:
    """Floating arrays in `dtype`."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), variables)


KINDS = {"GALD": "gald", "DualSeg": "dgcnet", "PSPNet": "psp"}


def network_of(golden: Golden) -> tuple[Network, NameTable]:
    """The network that `builder` ("GALD_res50") names."""
    kind, _, depth = golden.meta["builder"].partition("_res")
    head = KINDS[kind]
    classes = golden.meta["ctor"]["num_classes"]
    return Network(classes, f"resnet{depth}", head), torch_names.KINDS[head]


# Official submodule -> ours, where the file keeps its output.
STAGES = {"maxpool": "stem", **{f"layer{i}": f"layer{i}" for i in (1, 2, 3, 4)}}
HEAD = {
    "head_conva": ("head", "conva"),
    "head_convb": ("head", "convb"),
    "head_a2block": ("head", "a2block"),
    "head_dualgcn": ("head", "dualgcn"),
    "head_dualgcn_local": ("head", "dualgcn", "local2"),
    "head_dualgcn_gcn_local_attention": ("head", "dualgcn", "gcn_local_attention"),
    "head_dualgcn_bn3": ("head", "dualgcn", "conv3"),
}


@adapter("gald", r"(galdnet|dualseg|pspnet)_res\d+_eval.*")
def network(golden: Golden) -> None:
    net, table = network_of(golden)
    variables = table.to_ours(golden.weights())
    image = jnp.asarray(nhwc(golden["in/image"]))
    seen = jax.jit(lambda v, x: net.intermediates(v["params"], v["batch_stats"], x))(
        variables, image
    )
    golden.check("out/logits", nchw(seen["logits"]))
    for name in golden.under("out/"):
        if "_ch" in name:
            place, _, channels = name.rpartition("_ch")
            path = ("trunk", STAGES[place]) if place in STAGES else HEAD[place]
            golden.check(f"out/{name}", nchw(seen["/".join(path)])[:, : int(channels)])


@adapter("gald", r"(galdnet|dualseg|pspnet)_res\d+_train.*")
def network_train(golden: Golden) -> None:
    with jax.enable_x64(True):  # as in `module`
        compare_training(golden)


def compare_training(golden: Golden) -> None:
    """One training step in float64."""
    net, table = network_of(golden)
    net = dataclasses.replace(net, dtype=jnp.float64)
    weights = golden.weights()
    variables = in_dtype(table.to_ours(weights), jnp.float64)
    image = jnp.asarray(nhwc(golden["in/image"]), jnp.float64)
    label = jnp.asarray(golden["in/label"])

    def loss(params: Variables) -> Any:
        out = net.apply(params, variables["batch_stats"], image, train=True)
        value = segmentation_loss(
            out.logits,
            out.auxiliary,
            label,
            thresh=golden.meta["thresh"],
            min_kept=golden.meta["min_kept"],
        )
        return value, out

    (value, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    golden.check("out/loss", value)
    golden.check("out/logits", nchw(out.logits))
    golden.check("out/logits_aux", nchw(out.auxiliary))
    check_tensors(golden, "grad/", table.to_torch({"params": grads}, weights))
    check_tensors(golden, "out/buffer/", table.to_torch({"batch_stats": out.batch_stats}, weights))


@adapter("gald", "losses.*")
def loss_functions(golden: Golden) -> None:
    logits, second = (jnp.asarray(nhwc(golden[f"in/{name}"])) for name in ("logits", "logits2"))
    label = jnp.asarray(golden["in/label"])
    for name, thresh, kept in golden.meta["regimes"]:
        value, grad = jax.value_and_grad(losses.ohem_cross_entropy)(
            logits, label, thresh=thresh, min_kept=kept
        )
        golden.check(f"out/ohem_{name}", value)
        golden.check(f"grad/ohem_{name}", nchw(grad))
        pixels = np.abs(grad).sum(-1) > 0
        golden.check(f"out/ohem_kept_{name}", pixels.sum())
    low = [jnp.asarray(nhwc(golden[f"in/low_{name}"])) for name in ("main", "aux")]
    for rows in (None, 5):  # in one piece, and row by row
        value, grads = jax.value_and_grad(segmentation_loss, argnums=(0, 1))(
            *low, label, thresh=0.7, min_kept=golden.meta["dsn_keep"], rows=rows
        )
        golden.check("out/ohem_dsn", value)
        golden.check("grad/ohem_dsn_main", nchw(grads[0]))
        golden.check("grad/ohem_dsn_aux", nchw(grads[1]))
    value, grads = jax.value_and_grad(segmentation_loss, argnums=(0, 1))(
        logits, second, label, ohem=False
    )
    golden.check("out/dsn", value)
    for name, grad in zip(("main", "aux"), grads, strict=True):
        kept = golden[f"grad/dsn_{name}"].shape[1]
        golden.check(f"grad/dsn_{name}", nchw(grad)[:, :kept])
    weighted = [
        losses.ohem_cross_entropy(
            logits, label, thresh=t, min_kept=k, class_weights=losses.CITYSCAPES_WEIGHTS
        )
        for _, t, k in golden.meta["regimes"]
    ]
    golden.check("out/ohem_weighted", weighted[0])


@adapter("gald", "train_trajectory.*")
def trajectory(golden: Golden) -> None:
    with jax.enable_x64(True):  # as in `module`
        compare_trajectory(golden)


def compare_trajectory(golden: Golden) -> None:
    """A few optimizer steps of a head and an auxiliary head on stored features, in float64."""
    meta, weights = golden.meta, golden.weights()
    relu = "dsn.4.weight" in weights
    head, _ = module_of(meta["ctor"]["head"], meta["ctor"]["head_ctor"], jnp.float64)
    inner = {"inner": meta["shapes"]["dsn.0.weight"][0], "relu": relu}
    auxiliary, _ = module_of("dsn", {**meta["ctor"]["dsn"], **inner}, jnp.float64)
    head_rules = {
        "GALDHead": torch_names.gald_head_rules,
        "DualGCNHead": torch_names.dual_gcn_head_rules,
    }[meta["ctor"]["head"]]
    aux_rules = torch_names.auxiliary_rules(r"dsn\.", "aux/", classifier=4 if relu else 3)
    table = NameTable((*head_rules(r"head\.", "head/"), *aux_rules))
    variables = in_dtype(table.to_ours(weights), jnp.float64)

    def loss(params: Variables, state: Any, batch: Any, key: Any) -> Any:
        logits, changed = {}, {}
        for name, made in (("head", head), ("aux", auxiliary)):
            logits[name], new = made.apply(
                {"params": params[name], "batch_stats": state["batch_stats"][name]},
                batch["image"],
                train=True,
                mutable=["batch_stats"],
            )
            changed[name] = new["batch_stats"]
        value = segmentation_loss(
            logits["head"], logits["aux"], batch["label"], min_kept=meta["min_kept"]
        )
        return value, ({"batch_stats": changed}, {})

    poly = Schedule(kind="poly", power=0.9)
    optimizer = Optimizer(lr=meta["lr"], momentum=0.9, weight_decay=meta["wd"], schedule=poly)
    images, labels = nhwc(golden["in/image"]).astype(np.float64), golden["in/label"]
    setting = Setting(DataInfo({}, 1), meta["total_steps"], 1, images.shape[1])
    state = initial_state(
        variables["params"], optimizer, setting, batch_stats=variables["batch_stats"]
    )
    step, seen = jax.jit(gradient_step(loss, optimizer, setting)), []
    for i in range(meta["steps"]):
        batch = {"image": images[i % len(images)], "label": labels[i % len(labels)]}
        state, scalars = step(state, batch, jax.random.key(0))
        seen.append(scalars)
    golden.check("out/losses", [s["loss"] for s in seen])
    golden.check("out/lr", [s["lr"] for s in seen])
    final = table.to_torch({"params": state["params"]}, weights)
    check_tensors(golden, "out/final/", final)
    check_tensors(golden, "out/delta/", {k: v - weights[k] for k, v in final.items()})
    check_tensors(
        golden, "out/buffer/", table.to_torch({"batch_stats": state["batch_stats"]}, weights)
    )


@adapter("gald", "evaluation.*")
def evaluation(golden: Golden) -> None:
    image = jnp.asarray(nhwc(golden["in/image"])[0])
    kernel = jnp.asarray(golden["in/w"].transpose(2, 3, 1, 0))

    def net(x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x, kernel, (4, 4), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.tanh(y + golden["in/b"])

    for height, width in golden.meta["tiles"]:
        ours = inference.sliding_window_logits(net, image, (height, width))
        golden.check(f"out/sliding_{height}x{width}", ours)
    scales = golden.meta["scales"]
    for name in golden.under("out/multiscale_"):
        used = scales if name == "flip" else [float(name.rpartition("_")[2])]
        ours = inference.multiscale_logits(net, image, used, flip=name == "flip")
        golden.check(f"out/multiscale_{name}", ours)
    counts = metrics.confusion_matrix(golden["in/pred"], golden["in/gt"], golden.meta["classes"])
    golden.check("out/confusion", counts)
    golden.check("out/iou", metrics.class_iou(counts))
    golden.check("out/miou", metrics.mean_iou(counts))


@adapter("gald", "augmentation.*")
def augmentation(golden: Golden) -> None:
    image = np.ascontiguousarray(golden["in/image_bgr"][..., ::-1])
    city = map_labels(golden["in/label_ids"], CITYSCAPES_TABLE)
    camvid_label = map_labels(golden["in/label_camvid"], CAMVID_TABLE)
    for case in golden.meta["cases"]:
        of_city = case["set"] == "cityscapes"
        example = scale_crop_mirror(
            image,
            city if of_city else camvid_label,
            scale=(0.7 if of_city else 0.5) + case["k"] / 10,
            crop=tuple(case["crop"]),
            offset=(case["h_off"], case["w_off"]),
            mirror=case["flip"] == 0,
        )
        batch = {name: value[None] for name, value in example.items()}
        ours = normalise(batch["image"], batch["window"], "rgb" if case["rgb"] else "bgr")
        golden.check(f"out/image_{case['name']}", nchw(ours)[0])
        golden.check(f"out/label_{case['name']}", example["label"])
