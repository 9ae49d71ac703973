"""GALD: aggregation modules, heads, networks, losses, training, evaluation, augmentation."""

from __future__ import annotations

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


def _cgnl_block(planes: int, groups: int = 8) -> Any:
    return lambda name: ga.SpatialCGNL(planes, groups, name=name)


def module_of(builder: str, ctor: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """Our module for an official class with its constructor arguments, and its names."""
    c, names = ctor, torch_names
    match builder:
        case "SpatialCGNL":
            made = ga.SpatialCGNL(c["planes"], c.get("groups", 8), c.get("use_scale", False))
            return made, names.cgnl_rules()
        case "LocalAttenModule":
            return modules.LocalDistribution(), names.local_distribution_rules()
        case "GALDBlock":
            return modules.GALDBlock(_cgnl_block(c["plane"])), names.gald_block_rules()
        case "GALDHead":
            width = c["interplanes"]
            block = lambda name: modules.GALDBlock(_cgnl_block(width // 2), name=name)  # noqa: E731
            made = modules.ContextHead(c["num_classes"], block, "a2block", width)
            return made, names.gald_head_rules()
        case "SpatialGCN":
            return modules.SpatialGCN(), names.spatial_gcn_rules()
        case "DualGCN":
            return modules.DualGCN(c.get("ratio", 4)), names.dual_gcn_rules()
        case "DualGCNHead":
            block = lambda name: modules.DualGCN(name=name)  # noqa: E731
            made = modules.ContextHead(c["num_classes"], block, "dualgcn", c["interplanes"])
            return made, names.dual_gcn_head_rules()
        case "PSPModule_k3" | "PSPModule_k1pad1":
            odd = builder.endswith("pad1")
            sizes = tuple(c["sizes"])
            made = ga.PSP(c["out_features"], sizes, 1 if odd else 3, odd, dropout=0.0)
            return made, names.psp_rules()
        case "ASPPModule":
            dilations = tuple(c["dilations"])
            made = ga.ASPP(c["out_features"], c["inner_features"], dilations, dropout=0.0)
            return made, names.aspp_rules()
        case "A2Block":
            return ga.DoubleAttention(c["plane"]), names.a2_rules()
        case "EMAU":
            return ga.EMAttention(c["k"], c["stage_num"]), names.em_rules()
        case "CrissCrossAttention":
            return ga.CrissCrossAttention(recurrence=1), names.criss_cross_rules()
        case "BaseOCModule":
            made = ga.ObjectContext(
                c["key_channels"],
                c["value_channels"],
                c["out_channels"],
                tuple(c["scales"]),
                c["concat"],
                dropout=0.0,
                block=7,
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
            )
            return made, names.asp_object_context_rules()
        case "SELayer":
            return ga.SEGate(c["out_planes"], c["reduction"]), names.se_rules()
        case "dsn":
            width = c.get("inner", c["in_channels"])
            made = modules.AuxiliaryHead(c["nclass"], width, dropout=0.0)
            return made, names.auxiliary_rules()
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
    made, rules = module_of(golden.meta["builder"], golden.meta["ctor"])
    table, weights = NameTable(rules), golden.weights()
    # One module under two names: PyTorch's load_state_dict leaves it with the second one's values.
    weights |= {k.replace("f_query", "f_key"): v for k, v in weights.items() if "f_query" in k}
    variables = table.to_ours(weights)
    params, stats = variables["params"], variables.get("batch_stats", {})
    x, cotangent = (jnp.asarray(nhwc(golden[f"in/{name}"])) for name in ("x", "cotangent"))
    extra = isinstance(made, ga.EMAttention)

    def run(params: Variables, x: jax.Array, train: bool) -> Any:
        options = {"method": "bases"} if extra else {}
        out, changed = made.apply(
            {"params": params, "batch_stats": stats},
            x,
            train=train,
            mutable=["batch_stats"],
            **options,
        )
        y, bases = out if extra else (out, None)
        return jnp.sum(y * cotangent), (y, bases, changed.get("batch_stats", {}))

    step = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True), static_argnums=2)
    for mode in golden.meta["modes"]:
        (_, (y, bases, after)), (grads, gx) = step(params, x, mode == "train")
        golden.check(f"out/{mode}_y", nchw(y))
        golden.check(f"grad/{mode}_x", nchw(gx))
        if extra:
            golden.check(f"out/{mode}_extra", bases)
        gradients = table.to_torch({"params": grads}, weights)
        check_tensors(golden, f"grad/{mode}_", gradients)
        check_tensors(
            golden, f"out/{mode}_buffer/", table.to_torch({"batch_stats": after}, weights)
        )


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
    net, table = network_of(golden)
    weights = golden.weights()
    variables = jax.tree.map(jnp.asarray, table.to_ours(weights))
    image, label = jnp.asarray(nhwc(golden["in/image"])), jnp.asarray(golden["in/label"])

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
    meta, weights = golden.meta, golden.weights()
    head, rules = module_of(meta["ctor"]["head"], meta["ctor"]["head_ctor"])
    # The names of the two modules below "head." and "dsn." are those of a whole network.
    table = torch_names.KINDS["gald" if meta["ctor"]["head"] == "GALDHead" else "dgcnet"]
    inner = meta["shapes"]["dsn.0.weight"][0]
    auxiliary, _ = module_of("dsn", {**meta["ctor"]["dsn"], "inner": inner})
    del rules
    variables = jax.tree.map(jnp.asarray, table.to_ours(weights))

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

    optimizer = Optimizer(
        lr=meta["lr"],
        momentum=0.9,
        weight_decay=meta["wd"],
        schedule=Schedule(kind="poly", power=0.9),
    )
    images, labels = nhwc(golden["in/image"]), golden["in/label"]
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
