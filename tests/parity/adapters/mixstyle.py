"""MixStyle: the operator, the classifiers, training, schedules, metrics, samplers."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.data import samplers
from jaxcog.metrics import classification as metrics
from jaxcog.metrics.state import Confusion
from jaxcog.optim import Optimizer, Schedule, gradient_step, initial_state, learning_rate
from jaxcog.systems.mixstyle import ops
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.model import Network, split_official_name
from jaxcog.systems.mixstyle.task import supervised_loss
from jaxcog.systems.mixstyle.torch_names import NAMES
from jaxcog.task import DataInfo, Setting
from tests.parity.adapters import adapter
from tests.parity.golden import Golden, nchw, nhwc


@adapter("mixstyle", r"op_(random|crossdomain).*")
def op(golden: Golden) -> None:
    ctor, x = golden.meta["ctor"], jnp.asarray(nhwc(golden["in/x"]))
    lam, perm = jnp.asarray(golden["in/lmda"]), jnp.asarray(golden["in/perm"])
    if "in/perm_first" in golden:
        first, second = ops.crossdomain_chunks(len(x))
        ours = [first[golden["in/perm_first"]], second[golden["in/perm_second"]]]
        np.testing.assert_array_equal(np.concatenate(ours), golden["in/perm"])
    y, back = jax.vjp(lambda x: ops.mixstyle(x, lam, perm, eps=ctor["eps"]), x)
    golden.check("out/y", nchw(y))
    golden.check("grad/x", nchw(back(jnp.asarray(nhwc(golden["in/gy"])))[0]))


@adapter("mixstyle", r"op_efdmix.*")
def op_efdmix(golden: Golden) -> None:
    lam, perm = jnp.asarray(golden["in/lmda"]), jnp.asarray(golden["in/perm"])
    x = jnp.asarray(nhwc(golden["in/x"]))
    y, back = jax.vjp(lambda x: ops.efdmix(x, lam, perm), x)
    golden.check("out/y", nchw(y))
    golden.check("grad/x", nchw(back(jnp.asarray(nhwc(golden["in/gy"])))[0]))


@adapter("mixstyle", r"op_dropblock.*")
def op_dropblock(golden: Golden) -> None:
    ctor, uniform = golden.meta["ctor"], jnp.asarray(golden["in/uniform"])
    x = jnp.asarray(nhwc(golden["in/x"]))
    y = ops.dropblock(x, uniform, ctor["drop_prob"], ctor["block_size"])
    golden.check("out/y", nchw(y))


def network_of(golden: Golden) -> tuple[Network, tuple[str, ...]]:
    """The network that a file's constructor arguments and shapes describe, and where it mixes."""
    ctor, head = golden.meta["ctor"], golden.meta["ctor"].get("head") or {}
    backbone, after = split_official_name(ctor.get("backbone", "cnn_digitsdg"))
    hidden, dropout = tuple(head.get("hidden", ())), head.get("dropout", 0.5)
    network = Network(
        backbone, ctor["num_classes"], hidden, dropout, width=ctor.get("c_hidden", 64) / 64
    )
    return network, tuple(ctor.get("mixstyle_after", after))


def draws_of(golden: Golden, after: tuple[str, ...], step: tuple[int, ...] = ()) -> dict[str, Any]:
    """The draws of one forward pass, by insertion point."""
    gate, lam, perm = (jnp.asarray(golden[f"in/{n}"])[step] for n in ("gate", "lmda", "perm"))
    return {stage: ops.MixDraw(gate[i], lam[i], perm[i]) for i, stage in enumerate(after)}


def check_stored(golden: Golden, prefix: str, tensors: dict[str, np.ndarray]) -> None:
    """Checks every array of the file below `prefix`."""
    for key in golden.under(prefix):
        golden.check(prefix + key, tensors[key])


@adapter("mixstyle", r"(resnet\d+|cnn)(?!.*trajectory).*")
def classifier(golden: Golden) -> None:
    if golden.meta["mode"] == "eval":
        compare_evaluation(golden)
        return
    # In float32 a single ReLU that falls on the other side of zero moves early gradients by 1e-3.
    with jax.enable_x64(True):
        compare_training(golden)


def compare_evaluation(golden: Golden) -> None:
    """One forward pass in float32."""
    network, _ = network_of(golden)
    variables = NAMES.to_ours(golden.weights())
    apply = jax.jit(functools.partial(network.apply, train=False))
    images = jnp.asarray(nhwc(golden["in/x"]))
    out = apply(variables["params"], variables.get("batch_stats", {}), images)
    golden.check("out/features", out.features)
    golden.check("out/logits", out.logits)


def compare_training(golden: Golden) -> None:
    """One forward and backward pass in float64, with all that the file stores of it."""
    network, after = network_of(golden)
    network = dataclasses.replace(network, dtype=jnp.float64)
    variables = jax.tree.map(np.float64, NAMES.to_ours(golden.weights()))
    state = {"batch_stats": variables.get("batch_stats", {})}
    draws, labels = draws_of(golden, after), jnp.asarray(golden["in/labels"])
    ctor = golden.meta["ctor"]
    mixstyle = MixStyle(p=ctor.get("p", 0.5), alpha=ctor.get("alpha", 0.1), after=after)

    def loss(params: Any, images: jax.Array) -> Any:
        batch = {"image": images, "label": labels}
        value, (changed, _) = supervised_loss(network, mixstyle, params, state, batch, draws)
        out = network.apply(params, state["batch_stats"], images, train=True, draws=draws)
        return value, (changed["batch_stats"], out)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    images = jnp.asarray(nhwc(golden["in/x"]), jnp.float64)
    (value, (stats, out)), (grads, gx) = step(variables["params"], images)
    gradients = NAMES.to_torch({"params": grads})
    buffers = NAMES.to_torch({"batch_stats": stats})
    results = {"out/loss": value, "out/logits": out.logits, "out/features": out.features}
    results["grad/x"] = nchw(gx)
    for name, result in results.items():
        if name in golden:
            golden.check(name, result)
    golden.check_norms("out/param_grad_norms", gradients, "param_order")
    if "out/buffer_norms_after" in golden:
        golden.check_norms("out/buffer_norms_after", buffers, "buffer_order")
    for key in [key for key in golden.under("grad/") if key != "x"]:
        golden.check(f"grad/{key}", gradients[key])
    check_stored(golden, "out/after/", buffers)


def schedule_of(optim: dict[str, Any]) -> Schedule:
    """Dassl's learning-rate options; a stepsize of -1 means none."""
    if optim["schedule"] == "cosine":
        return Schedule(kind="cosine", per="epoch")
    every = optim.get("stepsize", -1)
    if every < 1:
        return Schedule()
    return Schedule(
        kind="step", per="epoch", every=f"{every} epochs", gamma=optim.get("gamma", 0.1)
    )


def setting_of(epochs: int, steps_per_epoch: int = 1, batch_size: int = 1) -> Setting:
    return Setting(DataInfo({}, 1), epochs * steps_per_epoch, steps_per_epoch, batch_size)


@adapter("mixstyle", r"vanilla.*trajectory.*")
def trajectory(golden: Golden) -> None:
    network, after = network_of(golden)
    optim, labels = golden.meta["ctor"]["optim"], jnp.asarray(golden["in/labels"])
    images = jnp.asarray(nhwc(golden["in/x"]))
    optimizer = Optimizer(
        name=optim["name"],
        lr=optim["lr"],
        momentum=optim["momentum"],
        nesterov=optim["nesterov"],
        weight_decay=optim["weight_decay"],
        schedule=schedule_of(optim),
    )
    setting = setting_of(optim["max_epoch"], optim["batches_per_epoch"], images.shape[1])

    def loss(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
        return supervised_loss(network, MixStyle(), params, state, batch, batch["draws"])

    variables = NAMES.to_ours(golden.weights())
    params = jax.tree.map(jnp.asarray, variables["params"])
    state = initial_state(params, optimizer, setting, batch_stats=variables["batch_stats"])
    train_step, seen = jax.jit(gradient_step(loss, optimizer, setting)), []
    for i in range(len(images)):
        draws = draws_of(golden, after, (i,))
        batch = {"image": images[i], "label": labels[i], "draws": draws}
        state, scalars = train_step(state, batch, jax.random.key(0))
        seen.append(scalars)
    golden.check("out/loss", [s["loss"] for s in seen])
    golden.check("out/acc_percent", [s["accuracy"] for s in seen])
    golden.check("out/lr", [s["lr"] for s in seen])
    out = network.apply(state["params"], state["batch_stats"], images[0], train=False)
    golden.check("out/eval_logits_of_x0_after", out.logits)
    tensors = NAMES.to_torch({k: state[k] for k in ("params", "batch_stats")})
    golden.check_norms("out/param_norms_after", tensors, "param_order")
    check_stored(golden, "out/after/", tensors)


@adapter("mixstyle", r"lr_schedules.*")
def lr_schedules(golden: Golden) -> None:
    for name, reference in golden.under("out/").items():
        epochs, step = len(reference), re.search(r"step(\d+)", name)
        if "cosine" in name:
            schedule = Schedule(kind="cosine", per="epoch")
        elif name.startswith("visda"):
            schedule = Schedule()
        else:
            every = int(step[1]) if step else 20
            schedule = Schedule(kind="step", per="epoch", every=f"{every} epochs")
        # The first entry is the base rate; columns differ by a factor (new and pretrained layers).
        rates = [
            learning_rate(schedule, float(peak), setting_of(epochs))(jnp.arange(epochs))
            for peak in np.atleast_1d(reference[0])
        ]
        golden.check(f"out/{name}", np.stack(rates, axis=-1).reshape(reference.shape))


@adapter("mixstyle", r"classification_metrics.*")
def classification_metrics(golden: Golden) -> None:
    logits, labels = jnp.asarray(golden["in/logits"]), jnp.asarray(golden["in/labels"])
    predicted = jnp.argmax(logits, axis=-1)
    counts = Confusion.of(predicted, labels, logits.shape[-1]).compute()
    golden.check("out/accuracy", metrics.accuracy(counts))
    golden.check("out/error_rate", 100 - metrics.accuracy(counts))
    golden.check("out/macro_f1", metrics.macro_f1(counts))
    golden.check("out/perclass_accuracy", metrics.per_class_accuracy(counts))
    golden.check("out/batch_top1", [metrics.accuracy(counts)])


@adapter("mixstyle", r"samplers.*")
def domain_samplers(golden: Golden) -> None:
    domains, ctor = golden["in/domains"], golden.meta["ctor"]
    random, seq = ctor["random_domain"], ctor["seq_domain"]
    names = np.unique(domains)

    def check_epoch(rows: np.ndarray, blocks: int) -> None:
        """Nothing twice, and each batch in `blocks` equal blocks, each of one domain."""
        assert len(np.unique(rows)) == rows.size
        by_block = domains[rows].reshape(len(rows), blocks, -1)
        assert (by_block == by_block[..., :1]).all()
        assert all(len(set(row)) == blocks for row in by_block[..., 0])

    def lengths_and_checks(seed: int) -> int:
        sampler = samplers.RandomDomain(
            len(domains),
            random["batch_size"],
            seed,
            domains=domains,
            per_batch=random["n_domain"],
        )
        rows = np.stack([sampler.indices(i) for i in range(sampler.steps_per_epoch)])
        check_epoch(rows, random["n_domain"])
        return len(rows)

    reference = golden["out/random_domain_batches_hist"]
    lengths = [lengths_and_checks(seed) for seed in range(int(reference.sum()))]
    # Two samples of the same distribution: the mean length differs by its standard error.
    ours = np.bincount(lengths, minlength=len(reference))
    spread = math.sqrt(2 * np.var(lengths) / len(lengths))
    mean = np.average(np.arange(len(reference)), weights=reference)
    assert abs(np.mean(lengths) - mean) < 4 * spread
    assert set(np.flatnonzero(ours)) <= set(range(reference.nonzero()[0].max() + 2))

    sequential = samplers.SeqDomain(len(domains), seq["batch_size"], 0, domains=domains)
    steps = sequential.steps_per_epoch
    rows = np.stack([sequential.indices(i) for i in range(steps)])
    check_epoch(rows, len(names))
    assert steps == len(golden["out/seq_domain_idx"])
    first_of_each = domains[rows][:, :: seq["batch_size"] // len(names)]
    assert (first_of_each == names).all()
    check_epoch(golden["out/random_domain_idx"], random["n_domain"])
    check_epoch(golden["out/seq_domain_idx"], len(names))
    golden.leave_out("out/*", "examples of random epochs: their properties are checked above")
