"""TextReID: encoders, losses, the momentum step, training, data, evaluation, checkpoints."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.interop.names import Ignore, NameTable
from jaxcog.losses.contrastive import queue_info_nce
from jaxcog.nn.clip_names import clip_resnet_rules, clip_text_rules
from jaxcog.nn.clip_resnet import AttentionPool2d, ClipResNet, resize_pos_embed
from jaxcog.nn.clip_text import ClipTextTransformer
from jaxcog.nn.gru import BiGRUEncoder
from jaxcog.nn.resnet import ResNet
from jaxcog.nn.resnet_names import resnet_rules
from jaxcog.systems.textreid import losses
from jaxcog.systems.textreid.torch_names import projected_rules, textual_rules
from tests.parity.adapters import adapter
from tests.parity.golden import Golden, nchw, nhwc


def part_of(value: Any, reference: np.ndarray) -> np.ndarray:
    """Every n-th entry of each axis, where the file kept only these (n is a power of 2)."""
    value = np.asarray(value)
    if value.ndim != reference.ndim:
        return value
    return value[tuple(map(_every, value.shape, reference.shape))]


def _every(size: int, kept: int) -> slice:
    steps = [2**n for n in range(12) if len(range(0, size, 2**n)) == kept]
    return slice(None, None, steps[0] if steps else 1)


def check_part(golden: Golden, name: str, value: Any, **options: Any) -> None:
    golden.check(name, part_of(value, golden[name]), **options)


def check_gradients(golden: Golden, tensors: dict[str, np.ndarray]) -> None:
    """All of a file's gradients with respect to weights, and their norms."""
    for key in golden.under("grad/"):
        if key in tensors:
            check_part(golden, f"grad/{key}", tensors[key])
    if "out/grad_norms" in golden:
        golden.check_norms("out/grad_norms", tensors, "grad_norm_keys")


def in_float64(variables: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), variables)


# --- image encoders ------------------------------------------------------------------------------


def clip_resnet_of(ctor: dict[str, Any], dtype: Any = jnp.float32) -> ClipResNet:
    return ClipResNet(
        blocks=tuple(ctor["layers"]),
        output_dim=ctor["output_dim"],
        heads=ctor["heads"],
        width=ctor["width"],
        last_stride=ctor["last_stride"],
        dtype=dtype,
    )


@adapter("textreid", r"m_resnet.*_(eval|train)")
def clip_resnet(golden: Golden) -> None:
    # In float32 a single ReLU that falls on the other side of zero moves early gradients by 1e-3.
    with jax.enable_x64(True):
        compare_image_encoder(
            golden,
            clip_resnet_of(golden.meta["ctor"], jnp.float64),
            NameTable(clip_resnet_rules()),
            "embedding",
        )


@adapter("textreid", r"imagenet_resnet\d+.*")
def imagenet_resnet(golden: Golden) -> None:
    ctor = golden.meta["ctor"]
    with jax.enable_x64(True):
        network = ResNet(
            int(ctor["arch"].removeprefix("resnet")),
            last_stride=ctor["res5_stride"],
            last_dilation=ctor["res5_dilation"],
            dtype=jnp.float64,
        )
        compare_image_encoder(golden, network, NameTable(resnet_rules()), "feature")


def compare_image_encoder(golden: Golden, network: Any, table: NameTable, result: str) -> None:
    """One forward and backward pass, with whatever the file keeps of it."""
    weights = golden.weights()
    variables = in_float64(table.to_ours(weights))
    train = golden.meta["mode"] == "train"
    shape = golden[f"out/{result}"].shape
    cotangent = jnp.asarray(golden["in/cotangent"], jnp.float64).reshape(shape[:2])

    def run(params: Any, image: jax.Array) -> Any:
        y, changed = network.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            image,
            train=train,
            mutable=["batch_stats", "intermediates"],
        )
        return jnp.sum(y * cotangent), (y, changed)

    image = jnp.asarray(nhwc(golden["in/image"]), jnp.float64)
    step = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
    (_, (y, changed)), (grads, gx) = step(variables["params"], image)
    golden.check(f"out/{result}", np.asarray(y).reshape(shape))
    golden.check("grad/image", nchw(gx))
    check_gradients(golden, table.to_torch({"params": grads}, weights))
    for key in golden.under("out/"):
        stage, _, every = key.rpartition("_c")
        if stage:
            (seen,) = changed["intermediates"][stage.replace("maxpool", "stem")]
            golden.check(f"out/{key}", nchw(seen)[:, :: int(every)])
    buffers = table.to_torch({"batch_stats": changed["batch_stats"]}, weights)
    for key in golden.under("out/"):
        if "running_" in key:
            golden.check(f"out/{key}", buffers[key])


@adapter("textreid", "attnpool.*")
def attention_pool(golden: Golden) -> None:
    ctor, weights = golden.meta["ctor"], golden.weights()
    table = NameTable(clip_resnet_rules())
    prefixed = {f"attnpool.{name}": value for name, value in weights.items()}
    params = table.to_ours(prefixed)["params"]["attnpool"]
    pool = AttentionPool2d(ctor["num_heads"], ctor["output_dim"])

    def run(params: Any, x: jax.Array) -> Any:
        y = pool.apply({"params": params}, x)
        return jnp.sum(y * golden["in/cotangent"]), y

    step = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
    (_, y), (grads, gx) = step(params, jnp.asarray(nhwc(golden["in/feature"])))
    golden.check("out/embedding", y)
    golden.check("grad/feature", nchw(gx))
    tensors = table.to_torch({"params": {"attnpool": grads}}, prefixed)
    check_gradients(golden, {k.removeprefix("attnpool."): v for k, v in tensors.items()})


@adapter("textreid", "pos_embed_resize.*")
def positions(golden: Golden) -> None:
    for name in golden.under("out/"):
        height, width = map(int, name.split("x"))
        ours = resize_pos_embed(jnp.asarray(golden["in/positional_embedding"]), (height, width))
        golden.check(f"out/{name}", ours)


# --- sentence encoders ---------------------------------------------------------------------------


def bigru_of(ctor: dict[str, Any], table: np.ndarray | None, dtype: Any = jnp.float32) -> Any:
    """(the encoder of the official constructor arguments, its name table below "textual/")."""
    learned = ctor["use_onehot"] == "yes"
    encoder = BiGRUEncoder(
        hidden=ctor["hidden_dim"],
        embedding=ctor["embed_size"],
        vocabulary=ctor["vocab_size"] if learned else None,
        layers=ctor["num_layers"],
        pool_floor="batch_max",
        dtype=dtype,
    )
    projected = table is not None and table.shape[1] != ctor["embed_size"]
    return encoder, NameTable(projected_rules("") if projected else textual_rules(""))


@adapter("textreid", "bigru.*")
def bigru(golden: Golden) -> None:
    weights = golden.weights()
    given = golden.arrays.get("in/vocab_table")
    encoder, names = bigru_of(golden.meta["ctor"], given)
    params = names.to_ours(weights)["params"]["textual"]
    words, length = jnp.asarray(golden["in/token_ids"]), jnp.asarray(golden["in/length"])

    def run(params: Any) -> Any:
        table = None if given is None else jnp.asarray(given)
        y, seen = encoder.apply({"params": params}, words, length, table, mutable=["intermediates"])
        return jnp.sum(y * golden["in/cotangent"]), (y, seen["intermediates"]["states"][0])

    (_, (y, states)), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    golden.check("out/text_feature", y)
    (name,) = golden.names("out/gru_states_c*")
    steps, every = golden[name].shape[1], int(name.rpartition("_c")[2])
    golden.check(name, states[:, :steps, ::every])
    check_gradients(golden, names.to_torch({"params": {"textual": grads}}, weights))


@adapter("textreid", "clip_text_transformer.*")
def text_transformer(golden: Golden) -> None:
    ctor, weights = golden.meta["ctor"], golden.weights()
    tower = ClipTextTransformer(
        width=ctor["transformer_width"],
        heads=ctor["transformer_heads"],
        layers=ctor["transformer_layers"],
        out_dim=ctor["embed_dim"],
        vocabulary=ctor["vocab_size"],
        context=ctor["context_length"],
    )
    table = NameTable((*clip_text_rules(), Ignore("logit_scale")))
    params, tokens = table.to_ours(weights)["params"], jnp.asarray(golden["in/tokens"])

    def run(params: Any) -> Any:
        y = tower.apply({"params": params}, tokens)
        return jnp.sum(y * golden["in/cotangent"]), y

    (_, y), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    golden.check("out/text_features", y)
    every = jax.jit(lambda p: tower.apply({"params": p}, tokens, all_tokens=True))(params)
    for name in golden.names("out/token_features_c*"):
        golden.check(name, every[..., :: int(name.rpartition("_c")[2])])
    check_gradients(golden, table.to_torch({"params": grads}, weights))


# --- losses --------------------------------------------------------------------------------------


def smoothing(epsilon: float) -> float:
    """The official code smooths by 0.1 for any value above 0."""
    return 0.1 if epsilon > 0 else 0.0


def value_and_grads(loss: Any, inputs: dict[str, np.ndarray], names: list[str]) -> Any:
    """(value, {name: gradient}) of loss(**inputs) with respect to the inputs called `names`."""
    fixed = {name: jnp.asarray(value) for name, value in inputs.items() if name not in names}
    varied = {name: jnp.asarray(inputs[name]) for name in names}
    return jax.jit(jax.value_and_grad(lambda x: loss(**x, **fixed)))(varied)


def queue_loss(positive: jax.Array, negatives: jax.Array, temperature: float) -> jax.Array:
    """The contrast of rows whose cosines are given: row i is the i-th unit vector."""
    rows = jnp.eye(len(positive))
    return queue_info_nce(rows, positive * rows, negatives.T, scale=1 / temperature)


def official_loss(function: str, options: dict[str, Any]) -> Any:
    """The loss that a case names, as a function of the file's inputs."""
    if function == "instance_loss":
        epsilon = smoothing(options.get("epsilon", 0.0))
        scale, normalize = options.get("scale", 1.0), options.get("norm", False)
        return lambda projection, visual_embed, textual_embed, labels: losses.instance_loss(
            projection,
            visual_embed,
            textual_embed,
            labels,
            epsilon=epsilon,
            scale=scale,
            normalize=normalize,
        )
    if function == "global_align_loss":
        return lambda visual_embed, textual_embed, labels: losses.global_align_loss(
            visual_embed, textual_embed, labels, **options
        )
    if function == "global_align_loss_from_sim":
        return lambda similarity, labels: losses.global_align_loss_from_sim(
            similarity, labels, **options
        )
    if function == "infonce_loss":
        return lambda v_pos, v_neg, t_pos, t_neg: jnp.mean(
            queue_loss(v_pos, v_neg, options["T"]) + queue_loss(t_pos, t_neg, options["T"])
        )
    if function == "cmpm_loss":
        return lambda visual_embed, textual_embed, labels: losses.cmpm_loss(
            visual_embed, textual_embed, labels
        )
    if function == "cmpc_loss":
        return lambda projection, visual_embed, textual_embed, labels: losses.cmpc_loss(
            projection, visual_embed, textual_embed, labels
        )
    raise AssertionError(f"no loss called {function}")


@adapter("textreid", "losses.*")
def loss_functions(golden: Golden) -> None:
    for case, stated in golden.meta["cases"].items():
        options = {k: v for k, v in stated["kwargs"].items() if k != "verbose"}
        inputs = golden.under(f"in/{case}/")
        varied = list(golden.under(f"grad/{case}/"))
        value, grads = value_and_grads(official_loss(stated["function"], options), inputs, varied)
        golden.check(f"out/{case}/loss", value)
        for name in varied:
            golden.check(f"grad/{case}/{name}", grads[name])
        check_diagnostics(golden, case, inputs)


def check_diagnostics(golden: Golden, case: str, inputs: dict[str, np.ndarray]) -> None:
    """What the official losses report beside their values."""
    if f"out/{case}/pos_avg_sim" in golden:
        cosine = losses.unit(inputs["visual_embed"]) @ losses.unit(inputs["textual_embed"]).T
        same = inputs["labels"][:, None] == inputs["labels"]
        golden.check(f"out/{case}/pos_avg_sim", jnp.mean(cosine, where=same))
        golden.check(f"out/{case}/neg_avg_sim", jnp.mean(cosine, where=~same))
    if f"out/{case}/image_precision" in golden:
        arguments = (inputs[n] for n in ("projection", "visual_embed", "textual_embed"))
        image, text = losses.cmpc_logits(*map(jnp.asarray, arguments))
        for name, logits in (("image", image), ("text", text)):
            right = jnp.mean(jnp.argmax(logits, axis=1) == inputs["labels"])
            golden.check(f"out/{case}/{name}_precision", right)


@adapter("textreid", "modern_losses.*")
def modern_losses(golden: Golden) -> None:
    ctor, inputs = golden.meta["ctor"], golden.under("in/")
    temperature, tal = 1 / ctor["logit_scale"], ctor["tal"]
    labels, image_ids = jnp.asarray(inputs["person_id"]), jnp.asarray(inputs["image_id"])
    cases = {
        "sdm": lambda v, t: losses.sdm_loss(v, t, labels, temperature=temperature),
        "sdm_image_id": lambda v, t: losses.sdm_loss(
            v,
            t,
            labels,
            temperature=temperature,
            image_ids=image_ids,
            factor=ctor["sdm_factor"],
        ),
        "itc": lambda v, t: losses.itc_loss(v, t, temperature=temperature),
        "tal": lambda v, t: losses.triplet_alignment_loss(
            v, t, labels, temperature=tal["tau"], margin=tal["margin"]
        ),
    }
    v, t = jnp.asarray(inputs["visual_embed"]), jnp.asarray(inputs["textual_embed"])
    for name in golden.under("out/"):
        value, grads = jax.jit(jax.value_and_grad(cases[name], argnums=(0, 1)))(v, t)
        golden.check(f"out/{name}", value)
        golden.check(f"grad/{name}/visual_embed", grads[0])
        golden.check(f"grad/{name}/textual_embed", grads[1])
