"""TextReID: one step of momentum contrast, and training trajectories of both heads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.interop.names import NameTable
from jaxcog.nn.clip_resnet import ClipSize
from jaxcog.nn.queue import entries, of_other_identities
from jaxcog.optim import Optimizer, Rule, Schedule, gradient_step, initial_state
from jaxcog.systems.textreid import momentum as moco
from jaxcog.systems.textreid import torch_names
from jaxcog.systems.textreid.model import Network, Textual, Visual, embed
from jaxcog.systems.textreid.task import Losses, PersonSearch, objective
from jaxcog.task import DataInfo, Setting
from tests.parity.adapters import adapter
from tests.parity.adapters.textreid import check_part, part_of, smoothing
from tests.parity.golden import Golden, nhwc, relative

Shapes = Mapping[str, Sequence[int]]

COLUMNS = {
    "global_align_loss": "align",
    "instance_loss": "instance",
    "infonce_loss": "contrast",
    "total": "loss",
}


def visual_of(
    shapes: Shapes, prefix: str, image: tuple[int, ...], heads: int | None = None
) -> Visual:
    """The image encoder whose weights have these shapes, for images [H, W, 3]."""
    blocks = [
        1 + max(int(m[1]) for m in (re.match(rf"{re.escape(prefix)}layer{i}\.(\d+)", k)
                                    for k in shapes) if m)
        for i in (1, 2, 3, 4)
    ]  # fmt: skip
    if f"{prefix}attnpool.c_proj.weight" not in shapes:
        return Visual({6: "imagenet50", 23: "imagenet101"}[blocks[2]])
    tokens, _ = shapes[f"{prefix}attnpool.positional_embedding"]
    size = ClipSize(
        tuple(blocks),
        shapes[f"{prefix}conv3.weight"][0],
        shapes[f"{prefix}attnpool.c_proj.weight"][0],
        heads,
    )
    stride = 1 if tokens - 1 == (image[0] // 16) * (image[1] // 16) else 2
    return Visual("RN50", size, stride)


def textual_of(shapes: Shapes, prefix: str, given: bool) -> Textual:
    """The sentence encoder whose weights have these shapes."""
    layers = {k for k in shapes if re.match(rf"{re.escape(prefix)}gru\.weight_hh_l\d+$", k)}
    width = shapes[f"{prefix}gru.weight_ih_l0"][1]
    return Textual(
        words="given" if given else "learned",
        hidden=shapes[f"{prefix}gru.weight_hh_l0"][1],
        embedding=width,
        layers=len(layers),
        pool_floor="batch_max",
    )


def system_of(golden: Golden, prefix: str = "") -> tuple[PersonSearch, Network, NameTable]:
    """The experiment behind a file; `prefix` is what its names lack ("embed_model.")."""
    ctor = golden.meta["ctor"]
    overrides = ctor.get("overrides", {})
    shapes = {prefix + name: shape for name, shape in golden.meta["shapes"].items()}
    with_queue = "embed_model.v_queue" in shapes
    visual, textual = "visual_model.", "textual_model."
    if visual + "conv1.weight" not in shapes:
        visual, textual = "embed_model.v_encoder_q.", "embed_model.t_encoder_q."
    images, table = nhwc(golden["in/images"]), golden.arrays.get("in/vocab_table")
    batch, shape = images.shape[-4], images.shape[-3:]
    options = ctor.get("MOCO", {})
    decay = overrides.get("MODEL.MOCO.M", options.get("M", 0.999))
    momentum = moco.Momentum(
        queue=shapes["embed_model.v_queue"][1] if with_queue else 1,
        decay=decay,
        projector="embed_model.v_fc_q.0.weight" in shapes,
    )
    dim, classes = shapes["embed_model.loss_evaluator.projection"]
    epsilon = ctor.get("EMBEDDING", {}).get("EPSILON", 0.1)
    config = PersonSearch(
        visual=visual_of(shapes, visual, shape, ctor.get("visual", {}).get("heads")),
        textual=textual_of(shapes, textual, table is not None),
        embed=dim,
        momentum=momentum if with_queue else None,
        losses=Losses(epsilon=smoothing(overrides.get("MODEL.EMBEDDING.EPSILON", epsilon))),
    )
    vocabulary = len(table) if table is not None else shapes[textual + "embed.weight"][0]
    words = config.textual.words
    if table is not None and table.shape[1] != config.textual.embedding:
        words = "projected"
    network = Network(
        config.visual,
        config.textual,
        classes,
        vocabulary,
        golden["in/token_ids"].shape[-1],
        dim,
        momentum.projector,
        dtype=jnp.float64,
    )
    return config, network, torch_names.official(config.visual.is_clip, words, batch)


def state_of(golden: Golden, table: NameTable, prefix: str = "") -> dict[str, Any]:
    """Our State from a file's weights and queues, in float64."""
    weights = {prefix + name: value for name, value in golden.weights().items()}
    for name in ("v_queue", "t_queue", "id_queue", "queue_ptr"):
        if f"in/{name}" in golden:
            weights[f"embed_model.{name}"] = golden[f"in/{name}"]
    state = table.to_ours(weights)
    if "in/vocab_table" in golden:
        state["word_table"] = golden["in/vocab_table"]
    wide = {np.dtype(np.float32): jnp.float64}
    return jax.tree.map(lambda x: jnp.asarray(x, wide.get(x.dtype, x.dtype)), state)


def batch_of(golden: Golden, step: tuple[int, ...] = ()) -> dict[str, jax.Array]:
    return {
        "image": jnp.asarray(nhwc(golden["in/images"])[step], jnp.float64),
        "words": jnp.asarray(golden["in/token_ids"][step], jnp.int32),
        "length": jnp.asarray(golden["in/length"][step], jnp.int32),
        "person": jnp.asarray(golden["in/person_id"][step], jnp.int32),
    }


def official_names(
    golden: Golden, table: NameTable, tree: dict[str, Any], prefix: str = ""
) -> dict[str, np.ndarray]:
    """Ours under the official names that the file knows."""
    keys = [prefix + name for name in golden.meta["shapes"]]
    return {k.removeprefix(prefix): v for k, v in table.to_torch(tree, keys).items()}


def evaluation_embeddings(network: Network, state: Any, batch: Any) -> tuple[Any, Any]:
    encoded = jax.jit(
        lambda s, b: network.encode(
            s["params"],
            s["batch_stats"],
            b["image"],
            b["words"],
            b["length"],
            s.get("word_table"),
            train=False,
        )
    )(state, batch)
    head = state["params"]["head"]
    return embed(head, "visual", encoded.visual), embed(head, "textual", encoded.textual)


@adapter("textreid", "moco_step.*")
def momentum_step(golden: Golden) -> None:
    with jax.enable_x64(True):
        compare_step(golden)


def compare_step(golden: Golden) -> None:
    """One step whose query and key encoders begin with different weights."""
    prefix = "embed_model."
    config, network, table = system_of(golden, prefix)
    batch = batch_of(golden)
    # Not the first update: that one would make the key encoders copies.
    state = {**state_of(golden, table, prefix), "step": jnp.ones((), jnp.int32)}
    v, t = evaluation_embeddings(network, state, batch)
    golden.check("out/eval_visual_embed", v)
    golden.check("out/eval_textual_embed", t)

    def loss(params: Any) -> Any:
        total, (changed, scalars) = objective(config, network, params, state, batch)
        return total, (changed, {**scalars, "loss": total})

    (_, (changed, scalars)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        state["params"]
    )
    for name in golden.under("out/loss/"):
        golden.check(f"out/loss/{name}", scalars[COLUMNS[name]])
    gradients = official_names(golden, table, {"params": grads}, prefix)
    for name in golden.under("grad/"):
        check_part(golden, f"grad/{name}", gradients[name])
    check_logits(golden, config, network, state, batch)
    after = official_names(golden, table, changed, prefix)
    for name in golden.under("out/after/"):
        check_part(golden, f"out/after/{name}", after[name])


def check_logits(golden: Golden, config: Any, network: Any, state: Any, batch: Any) -> None:
    """The embeddings, and the cosines that the contrast is computed from."""

    @jax.jit
    def run(state: Any) -> Any:
        params, table = state["params"], state.get("word_table")
        inputs = (batch["image"], batch["words"], batch["length"], table)
        encoded = network.encode(params, state["batch_stats"], *inputs, train=True)
        features = {"visual": encoded.visual, "textual": encoded.textual}
        keys = moco.update_keys(
            config.momentum, state["keys"], params, state["batch_stats"], jnp.asarray(False)
        )
        made = moco.contrast(
            config.momentum, network, params, keys, state["queue"], batch, features, table=table
        )
        own = {m: embed(params["head"], m, features[m]) for m in features}
        return own, made.queries, made.positives

    own, queries, positives = run(state)
    queue = state["queue"]
    keep = np.flatnonzero(of_other_identities(entries(queue, "ids"), batch["person"]))
    golden.check("out/kept_columns", keep)
    for letter, query, key in (("v", "visual", "textual"), ("t", "textual", "visual")):
        golden.check(f"out/{letter}_embed", own[query])
        positive = np.sum(queries[query] * positives[key], axis=1, keepdims=True)
        golden.check(f"out/{letter}_pos", positive)
        golden.check(f"out/{letter}_neg", queries[query] @ entries(queue, key)[keep].T)


@adapter("textreid", r"(moco|baseline)_(?!step).*train.*")
def trajectory(golden: Golden) -> None:
    with jax.enable_x64(True):
        compare_trajectory(golden)


def optimizer_of(stated: Mapping[str, Any]) -> Optimizer:
    """The published optimizer; the file steps its schedule after every update."""
    return Optimizer(
        name="adam",
        lr=stated["base_lr"],
        betas=tuple(stated["betas"]),
        eps=stated["eps"],
        weight_decay=stated["weight_decay"],
        schedule=Schedule(
            "multistep",
            per="epoch",
            warmup="5 epochs",
            warmup_from=0.1,
            at=("40 epochs", "70 epochs"),
        ),
        rules=(Rule("bias", lr=float(stated["bias_lr_factor"]), decay=0.0),),
    )


def compare_trajectory(golden: Golden) -> None:
    meta, tolerance = golden.meta, golden.meta["tolerance"]
    config, network, table = system_of(golden)
    optimizer, images = optimizer_of(meta["optimizer"]), golden["in/images"]
    setting = Setting(DataInfo({}, 1), 80, 1, images.shape[1])
    begun = state_of(golden, table)
    state = initial_state(begun.pop("params"), optimizer, setting, **begun)

    def loss(params: Any, state: Any, batch: Any, key: Any) -> Any:
        return objective(config, network, params, state, batch)

    gradients = jax.jit(lambda *x: jax.grad(loss, has_aux=True)(*x)[0])
    first = gradients(state["params"], state, batch_of(golden, (0,)), jax.random.key(0))
    named = official_names(golden, table, {"params": first})
    for name in golden.under("grad/step0/"):
        check_part(golden, f"grad/step0/{name}", named[name], tolerance=tolerance["grad"][name])
    del first, named
    step, seen = jax.jit(gradient_step(loss, optimizer, setting), donate_argnums=0), []
    for i in range(len(images)):
        state, scalars = step(state, batch_of(golden, (i,)), jax.random.key(0))
        seen.append(scalars)
    columns = [COLUMNS[name] for name in meta["loss_columns"]]
    golden.check("out/losses", [[float(s[c]) for c in columns] for s in seen])
    if "out/num_negatives" in golden:
        golden.check("out/num_negatives", [int(s["negatives"]) for s in seen])
    v, t = evaluation_embeddings(network, state, batch_of(golden, (0,)))
    golden.check("out/eval_visual_embed", v, tolerance=tolerance["eval_embed"])
    golden.check("out/eval_textual_embed", t, tolerance=tolerance["eval_embed"])
    parts = ("params", "batch_stats", "keys", "queue")
    final = official_names(golden, table, {n: state[n] for n in parts if n in state})
    check_final(golden, final, tolerance)


def check_final(golden: Golden, final: dict[str, np.ndarray], tolerance: Any) -> None:
    """Values after the last step, and how far they moved from the first."""
    start = golden.weights()
    moved = tolerance.get("final_update_relative", {})
    for name, reference in golden.under("out/final/").items():
        limit = tolerance["final_relative_to_value"][name]
        check_part(golden, f"out/final/{name}", final[name], tolerance=limit)
        if name in moved and "queue" not in name:
            begin = part_of(start[name], reference)
            error = relative(part_of(final[name], reference) - begin, reference - begin)
            assert error <= moved[name], f"{name}: moved by {error:.3g}, tolerance {moved[name]}"
