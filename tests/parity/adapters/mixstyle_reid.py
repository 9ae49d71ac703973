"""Person re-identification: networks, one training step, losses, ranking."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcog.losses.classification import cross_entropy
from jaxcog.losses.triplet import batch_hard_triplet
from jaxcog.metrics import ranking
from jaxcog.optim import Optimizer, Rule, gradient_step, initial_state
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.reid.model import ReIDNetwork, split_official_name
from jaxcog.systems.mixstyle.reid.task import ReID
from jaxcog.systems.mixstyle.reid.torch_names import tables_of
from tests.parity.adapters import adapter
from tests.parity.adapters.mixstyle import draws_of, setting_of
from tests.parity.golden import Golden, nhwc


def optimizer_of(optim: dict[str, Any]) -> Optimizer:
    """torchreid's two rates: `new_layers` learn at the full one."""
    new = "|".join(optim["new_layers"])
    return Optimizer(
        name=optim["name"],
        lr=optim["lr"],
        momentum=optim["momentum"],
        weight_decay=optim["weight_decay"],
        rules=(Rule(rf"^(?!({new}))", lr=optim["base_lr_mult"]),),
    )


@adapter("mixstyle", r"reid_(osnet|resnet).*")
def reid_network(golden: Golden) -> None:
    ctor = golden.meta["ctor"]
    name, after = split_official_name(ctor["name"])
    (names, *_), weights = tables_of(name), golden.weights()
    network = ReIDNetwork(name, ctor["num_classes"], weights["classifier.weight"].shape[1])
    variables = jax.tree.map(jnp.asarray, names.to_ours(weights))
    images = jnp.asarray(nhwc(golden["in/x"]))
    apply = jax.jit(functools.partial(network.apply, train=False))
    out = apply(variables["params"], variables["batch_stats"], images)
    golden.check("out/eval_features", out.features)
    # In float32 a single ReLU that falls on the other side of zero moves early gradients by 1e-2.
    with jax.enable_x64(True):
        one_step(golden, network, after, names)


def one_step(golden: Golden, network: ReIDNetwork, after: tuple[str, ...], names: Any) -> None:
    """One training step in float64, with its gradients."""
    ctor = golden.meta["ctor"]
    network = dataclasses.replace(network, dtype=jnp.float64)
    variables = jax.tree.map(np.float64, names.to_ours(golden.weights()))
    style, smoothing = MixStyle(after=after), ctor["label_smoothing"]
    task = ReID(network.network, style, label_smoothing=smoothing)
    optimizer, setting = optimizer_of(ctor["optim"]), setting_of(1)
    draws, persons = draws_of(golden, after), jnp.asarray(golden["in/labels"])

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
        stats = state["batch_stats"]
        out = network.apply(params, stats, batch["image"], train=True, draws=batch["draws"])
        value, scalars = task.objective(out, persons)
        return value, ({"batch_stats": out.batch_stats, "logits": out.logits}, scalars)

    state = initial_state(
        variables["params"], optimizer, setting, batch_stats=variables["batch_stats"]
    )
    batch = {"image": jnp.asarray(nhwc(golden["in/x"]), jnp.float64), "draws": draws}
    step, key = gradient_step(loss, optimizer, setting), jax.random.key(0)

    before = state["params"]
    state, scalars = jax.jit(step)(state, batch, key)
    # The first momentum is the gradient and its weight decay; the step itself need not return it.
    momentum = optax.tree.get(state["opt"], "trace")
    decay = optimizer.weight_decay
    gradients = jax.tree.map(lambda m, p: m - decay * p, momentum, before)
    golden.check("out/loss", scalars["loss"])
    golden.check("out/train_logits", state["logits"])
    gradients = names.to_torch({"params": gradients})
    tensors = names.to_torch({name: state[name] for name in ("params", "batch_stats")})
    golden.check_norms("out/param_grad_norms", gradients, "param_order")
    order = golden.meta.get("buffer_order") or running_statistics(golden)
    golden.check_norms("out/buffer_norms_after", tensors, order)
    for key in golden.under("grad/"):
        golden.check(f"grad/{key}", gradients[key])
    for key in golden.under("out/after_one_step/"):
        golden.check(f"out/after_one_step/{key}", tensors[key])


def running_statistics(golden: Golden) -> list[str]:
    """Names of the batch-norm buffers in the order of the file's shapes."""
    return [name for name in golden.meta["shapes"] if "running_" in name]


@adapter("mixstyle", r"reid_losses_metrics.*")
def losses_and_metrics(golden: Golden) -> None:
    ctor, labels = golden.meta["ctor"], jnp.asarray(golden["in/labels"])
    smoothed = functools.partial(cross_entropy, label_smoothing=ctor["label_smoothing"])
    value, gradient = jax.value_and_grad(smoothed)(jnp.asarray(golden["in/logits"]), labels)
    golden.check("out/ce_smooth", value)
    golden.check("grad/logits", gradient)

    triplet = functools.partial(batch_hard_triplet, margin=ctor["triplet_margin"])
    features, ids = (jnp.asarray(golden[f"in/triplet_{n}"]) for n in ("features", "labels"))
    value, gradient = jax.value_and_grad(triplet)(features, ids)
    golden.check("out/triplet", value)
    golden.check("grad/triplet_features", gradient)

    both = golden["in/query_features"], golden["in/gallery_features"]
    protocol = [
        golden[f"in/{which}_{what}"]
        for what in ("pids", "camids")
        for which in ("query", "gallery")
    ]
    for metric, distance in (("cosine", "cosine"), ("sq_euclidean", "euclidean")):
        distances = ranking.pairwise_distances(*both, metric)
        golden.check(f"out/dist_{metric}", distances)
        found, curve = ranking.market1501_metrics(distances, *protocol, ctor["max_rank"])
        golden.check(f"out/mAP_{distance}", found)
        golden.check(f"out/cmc_{distance}", curve)
