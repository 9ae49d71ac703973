"""MixStyle with few labels: FixMatch trajectories and the augmentations they draw."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.data import images, randaugment
from jaxcog.optim import Optimizer, gradient_step, initial_state
from jaxcog.systems.mixstyle.fixmatch import statistics
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.ops import MixDraw
from jaxcog.systems.mixstyle.semi import SemiSupervised
from jaxcog.systems.mixstyle.torch_names import NAMES
from tests.parity.adapters import adapter
from tests.parity.adapters.mixstyle import check_stored, network_of, schedule_of, setting_of
from tests.parity.golden import Golden, nchw, nhwc

_LOGGED = {
    "loss_x": ("loss_x", 1.0),
    "loss_u": ("loss_u", 1.0),
    "acc_x_percent": ("accuracy", 1.0),
    "lr": ("lr", 1.0),
    "keep_rate_u": ("keep_rate", 0.01),
    "acc_raw_u": ("pseudo_accuracy", 0.01),
    "acc_thre_u": ("kept_accuracy", 0.01),
}


def draws_at(golden: Golden, kind: str, after: tuple[str, ...], step: int) -> dict[str, MixDraw]:
    """The draws of one pass ("x" or "u") in one step, by insertion point; {} where it had none."""
    if f"in/gate_{kind}" not in golden:
        return {}
    drawn = [jnp.asarray(golden[f"in/{n}_{kind}"][step]) for n in ("gate", "lmda", "perm")]
    return {stage: MixDraw(*(part[i] for part in drawn)) for i, stage in enumerate(after)}


@adapter("mixstyle", r"(semi|uda).*trajectory.*")
def semi_trajectory(golden: Golden) -> None:
    """In float64: in float32 one ReLU on the other side of zero moves what several steps learn."""
    with jax.enable_x64(True):
        compare_trajectory(golden)


def compare_trajectory(golden: Golden) -> None:
    network, after = network_of(golden)
    network = dataclasses.replace(network, dtype=jnp.float64)
    ctor = golden.meta["ctor"]
    optim, steps = ctor["optim"], len(golden["in/labels"])
    optimizer = Optimizer(
        name=optim["name"],
        lr=optim["lr"],
        momentum=optim["momentum"],
        weight_decay=optim["weight_decay"],
        schedule=schedule_of(optim),
    )
    setting = setting_of(optim["max_epoch"], optim["batches_per_epoch"])

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
        task = SemiSupervised(
            mixstyle=MixStyle(mix="crossdomain", after=after),
            threshold=ctor["conf_thre"],
            weight_u=ctor["weight_u"],
            mix_labelled=ctor["ms_labeled"],
        )
        drawn = batch["draws_u"], batch["draws_x"]
        value, parts = task.objective(network, params, state["batch_stats"], batch, *drawn)
        changed = {"batch_stats": parts.batch_stats, "pseudo": parts.pseudo}
        labels = batch["labelled"]["label"], batch["unlabelled"]["label"]
        return value, (changed, statistics(parts, *labels))

    weights = golden.weights()
    weights["classifier.weight"] = golden["in/classifier_weight"]
    variables = jax.tree.map(jnp.float64, NAMES.to_ours(weights))
    stats = {"batch_stats": variables["batch_stats"]}
    state = initial_state(variables["params"], optimizer, setting, **stats)
    train_step, seen, pseudo = jax.jit(gradient_step(loss, optimizer, setting)), [], []
    for i in range(steps):
        batch = {
            "labelled": views(golden, "x", i, "labels"),
            "unlabelled": views(golden, "u", i, "labels_u_for_stats"),
            "draws_x": draws_at(golden, "x", after, i),
            "draws_u": draws_at(golden, "u", after, i),
        }
        state, scalars = train_step(state, batch, jax.random.key(0))
        seen.append(scalars)
        pseudo.append(state["pseudo"])
    for name, (ours, factor) in _LOGGED.items():
        golden.check(f"out/{name}", [factor * scalars[ours] for scalars in seen])
    for name, ours in {"pseudo_label": "label", "mask": "keep", "max_prob": "confidence"}.items():
        golden.check(f"out/{name}", np.stack([getattr(one, ours) for one in pseudo]))
    images_0 = jnp.float64(nhwc(golden["in/x_weak"][0]))
    apply = jax.jit(functools.partial(network.apply, train=False))
    out = apply(state["params"], state["batch_stats"], images_0)
    golden.check("out/eval_logits_of_xweak0_after", out.logits)
    tensors = NAMES.to_torch({name: state[name] for name in ("params", "batch_stats")})
    golden.check_norms("out/param_norms_after", tensors, "param_order")
    check_stored(golden, "out/after/", tensors)


def views(golden: Golden, kind: str, step: int, labels: str) -> dict[str, Any]:
    """One stream of one batch."""
    both = {v: jnp.float64(nhwc(golden[f"in/{kind}_{v}"][step])) for v in ("weak", "strong")}
    return {**both, "label": jnp.asarray(golden[f"in/{labels}"][step])}


@adapter("mixstyle", r"augmentations.*")
def augmentations(golden: Golden) -> None:
    image = golden["in/image"]
    size = golden.meta["ctor"]["input_size"][0]
    for name, magnitude in golden.meta["ctor"]["ops"]:
        signed = name in randaugment.SIGNED
        for sign, factor in (("neg", -1 if signed else 1), ("pos", 1)):
            if f"out/{name}_{sign}" in golden:
                result = randaugment.apply_op(image, name, factor * magnitude)
                golden.check(f"out/{name}_{sign}", result)
    resized = images.resize(image, size, size)
    for name in golden.under("out/"):
        numbers = [int(n) for n in re.findall(r"\d+", name)]
        if name.startswith("train_resize"):
            golden.check(f"out/{name}", resized)
        elif name.startswith("translation"):
            larger = images.resize(resized, round(1.125 * size), round(1.125 * size))
            left, top = numbers
            golden.check(f"out/{name}", images.crop(larger, top, left, size, size))
        elif name.startswith("cutout"):
            row, column = numbers
            cut = randaugment.cutout(resized, row, column, 16)
            golden.check(f"out/{name}", nchw(cut / np.float32(255)))
        elif name.startswith("test_transform"):
            centre = images.centre_crop(images.resize_shorter(image, size), size)
            golden.check(f"out/{name}", nchw(images.normalise(centre)))
