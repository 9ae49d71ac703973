"""StyleMeUp: the objective of a pass, one meta-step of both orders, the released training loop."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcog.systems.stylemeup.losses import (
    Objective,
    Pass,
    PassNoise,
    Weights,
    disentangled_translation_loss,
    weighted_l1_regularizer,
)
from jaxcog.systems.stylemeup.meta import InnerLoop, MetaLearner, TaskNoise
from jaxcog.systems.stylemeup.step import carried
from tests.parity.adapters import adapter
from tests.parity.adapters.stylemeup import (
    check_all_gradients,
    network_input,
    thinned,
    unpacked,
    vae_of,
)
from tests.parity.golden import Golden

Variables = dict[str, Any]

RELEASED = Weights(self_=0.0)
"""Self reconstruction is computed there, and not added."""


def objective_of(golden: Golden) -> Objective:
    return Objective("released", RELEASED, margin=golden.meta["ctor"]["margin"])


def psi_of(golden: Golden, params: Variables) -> jax.Array:
    features, width = params["encoder"]["content"]["kernel"].shape
    draws = np.random.default_rng(golden.meta["psi_seed"])
    return jnp.asarray(draws.random((width, features + 1), dtype=np.float32).T)


def summary(terms: Variables) -> list[jax.Array]:
    """The files' seven numbers."""
    mean = {name: jnp.mean(value) for name, value in terms.items()}
    triplet = mean["triplet"] + mean["triplet_full"]
    names = ("kl", "self", "style", "domain")
    return [*(mean[name] for name in names), triplet, mean.get("reg", 0.0), mean["total"]]


@adapter("stylemeup", "objective.*")
def objective(golden: Golden) -> None:
    images = jnp.asarray(network_input(golden["in/images"], golden.meta["grain_seed"]))
    vae, table = vae_of(golden.meta["shapes"], images.shape[2])
    params = table.to_ours(golden.weights())["params"]
    psi = psi_of(golden, params)
    batch = Pass(images[0], images[1], images[2:])
    noise = PassNoise(
        jnp.asarray(golden["in/eps"]),
        unpacked(golden, "in/encoder_dropout_keep", vae),
        unpacked(golden, "in/decoder_dropout_keep", vae),
    )
    loss = functools.partial(disentangled_translation_loss, vae, objective=objective_of(golden))
    step = jax.jit(jax.value_and_grad(lambda p: loss(p, batch, noise), has_aux=True))
    (total, terms), grads = step(params)

    def regulariser(psi: jax.Array, head: Variables) -> jax.Array:
        return weighted_l1_regularizer(psi, **head)

    head = params["encoder"]["content"]
    reg, (grad_psi, grad_head) = jax.value_and_grad(regulariser, (0, 1))(psi, head)
    golden.check("out/terms", summary({**terms, "reg": reg, "total": total + reg}))
    style = terms["style"]
    golden.check("out/mse_terms", np.concatenate([terms["self"], style, terms["domain"]]))
    golden.check("out/kl_terms", terms["kl"])
    golden.check("out/triplet_terms", [terms["triplet"], terms["triplet_full"]])
    golden.check("grad/reg/encoder.invar.weight", thinned(np.asarray(grad_head["kernel"]).T))
    golden.check("grad/reg/encoder.invar.bias", grad_head["bias"])
    golden.check("grad/reg/psi", thinned(np.asarray(grad_psi).T))
    check_all_gradients(golden, table, grads)


def passes(images: np.ndarray, styles: tuple[int, int, int]) -> tuple[Pass, Pass]:
    """Inner and outer pass of one task [5, S, S, C]; styles: two to adapt to, the held-out one."""
    first, second, held = (2 + i for i in styles)
    positive, negative = jnp.asarray(images[:1]), jnp.asarray(images[1:2])

    def sketches(*rows: int) -> jax.Array:
        return jnp.asarray(images[list(rows)][:, None])

    return (
        Pass(positive, negative, sketches(first, second)),
        Pass(positive, negative, sketches(second, held)),
    )


@adapter("stylemeup", "maml_step.*")
def maml_step(golden: Golden) -> None:
    # In float32 an activation whose sign flips by rounding moves these gradients by percents.
    with jax.enable_x64(True):
        _maml_step(golden)


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def _maml_step(golden: Golden) -> None:
    ctor, meta = golden.meta["ctor"], golden.meta
    images = _wide(network_input(golden["in/images"], meta["grain_seed"]))
    vae, table = vae_of(meta["shapes"], images.shape[1])
    vae = dataclasses.replace(vae, dtype=jnp.float64)
    weights = golden.weights()
    params = table.to_ours(weights)["params"]
    params["psi"] = psi_of(golden, params)
    params = _wide(params)
    steps = ctor["inner_steps"]
    encoder_keep = unpacked(golden, "in/encoder_dropout_keep", vae)
    decoder_keep = unpacked(golden, "in/decoder_dropout_keep", vae)

    def noise_of(i: int) -> PassNoise:
        return PassNoise(
            _wide(golden["in/eps"][4 * i : 4 * i + 4]),
            encoder_keep[4 * i : 4 * i + 4],
            decoder_keep[6 * i : 6 * i + 6],
        )

    inner_noise = tuple(noise_of(i) for i in range(steps))
    noise = TaskNoise(inner_noise, (None,) * steps, noise_of(steps))
    support, query = passes(images, (0, 1, 2))

    def learner(first_order: bool) -> MetaLearner:
        inner = InnerLoop(lr=ctor["fast_lr"], steps=steps, first_order=first_order)
        return MetaLearner(vae, objective_of(golden), inner)

    @functools.partial(jax.jit, static_argnums=1)
    def run(params: Variables, first_order: bool) -> Any:
        def outer(params: Variables) -> Any:
            return learner(first_order).objective_of(params, support, query, noise)

        return jax.value_and_grad(outer, has_aux=True)(params)

    adapted, _ = jax.jit(lambda p: learner(True).adapt(p, support, noise))(params)
    change = {k: jax.tree.map(jnp.subtract, adapted[k], params[k]) for k in adapted}
    named = table.to_torch({"params": change}, weights)
    for name in golden.under("out/update/"):
        golden.check(f"out/update/{name}", thinned(named[name]), meta["update_tolerance"])

    for order in ("first_order", "second_order"):
        (_, (inner_terms, outer_terms)), grads = run(params, order == "first_order")
        golden.check("out/inner_terms", [summary(terms) for terms in inner_terms])
        golden.check("out/outer_terms", summary(outer_terms), meta["outer_tolerance"])
        psi = np.asarray(grads.pop("psi")).T
        named = table.to_torch({"params": grads}, weights)
        for name in golden.under(f"grad/{order}/"):
            value = psi if name == "psi" else named[name]
            golden.check(f"grad/{order}/{name}", thinned(value))
        golden.check_norms(f"grad_norm/{order}", named, "grad_norm_names")
        if order == "first_order":
            assert not psi.any(), "first order must leave the regulariser alone"
        else:
            golden.check("grad_norm/second_order_psi", np.linalg.norm(psi))


@adapter("stylemeup", "train_trajectory.*")
def train_trajectory(golden: Golden) -> None:
    ctor, meta = golden.meta["ctor"], golden.meta
    images = network_input(golden["in/images"], meta["grain_seed"])
    vae, table = vae_of(meta["shapes"], images.shape[3])
    weights = golden.weights()
    start = jax.tree.map(jnp.asarray, table.to_ours(weights)["params"])
    psi = psi_of(golden, start)
    inner = InnerLoop(
        lr=ctor["fast_lr"], steps=ctor["adaptation_steps"], first_order=ctor["first_order"]
    )
    learner = MetaLearner(vae, objective_of(golden), inner)
    encoder_keep = unpacked(golden, "in/encoder_dropout_keep", vae)
    decoder_keep = unpacked(golden, "in/decoder_dropout_keep", vae)
    size, batches = ctor["batchsize"], ctor["batches_per_epoch"]

    @jax.jit
    def task(params: Variables, support: Pass, query: Pass, noise: TaskNoise) -> Any:
        def outer(params: Variables) -> Any:
            return learner.objective_of({**params, "psi": psi}, support, query, noise)

        return jax.value_and_grad(outer, has_aux=True)(params)

    optimizer = optax.adam(ctor["meta_lr"])
    params, state = start, optimizer.init(start)
    buffer = jax.tree.map(jnp.zeros_like, start)
    found: dict[str, list[Any]] = {"reg": [], "inner": [], "outer": [], "norm": []}
    for step in range(len(golden["in/test_style"])):
        total = jax.tree.map(jnp.zeros_like, start)
        rows: dict[str, list[float]] = {"reg": [], "inner": [], "outer": []}
        for i in range(size):
            held = int(golden["in/test_style"][step, i]) - 1
            first, second = (style for style in range(3) if style != held)
            support, query = passes(images[step % batches, i], (first, second, held))
            both = [
                PassNoise(golden["in/eps"][step, i, p][:, None],
                          encoder_keep[step, i, p][:, None], decoder_keep[step, i, p][:, None])
                for p in range(2)
            ]  # fmt: skip
            noise = TaskNoise((both[0],), (None,), both[1])
            (outer, (inner_terms, _)), grads = task(params, support, query, noise)
            total = jax.tree.map(jnp.add, total, grads)
            rows["reg"].append(inner_terms[0]["reg"])
            rows["inner"].append(inner_terms[0]["total"] - inner_terms[0]["reg"])
            rows["outer"].append(outer)
        buffer = carried(buffer, total, size, new_epoch=step % batches == 0)
        named = table.to_torch({"params": buffer}, weights)
        found["norm"].append([np.linalg.norm(named[name]) for name in meta["update_names"]])
        updates, state = optimizer.update(buffer, state)
        params = optax.apply_updates(params, updates)
        for name, values in rows.items():
            found[name].append(values)
    tolerance = meta["inner_tolerance"]
    golden.check("out/inner_reg", np.array(found["reg"]), tolerance)
    golden.check("out/inner_total_without_reg", np.array(found["inner"]), tolerance)
    golden.check("out/outer_total", np.array(found["outer"]))
    limits = [meta["grad_norm_tolerance"]] * len(found["norm"])
    limits[0] = meta["first_step_grad_norm_tolerance"]
    golden.check("out/grad_norm", np.array(found["norm"]), limits)
    change = jax.tree.map(jnp.subtract, params, start)
    named = table.to_torch({"params": change}, weights)
    for name in golden.under("out/update/"):
        golden.check(f"out/update/{name}", thinned(named[name]), meta["update_tolerance"])
    golden.check_norms("out/update_norm", named, "update_names", tolerance=meta["update_tolerance"])
