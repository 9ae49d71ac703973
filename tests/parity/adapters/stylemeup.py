"""StyleMeUp: the network and its blocks, losses, metrics, drawing of strokes, unused backbones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.data import images
from jaxcog.data.strokes import rasterize_strokes
from jaxcog.interop.names import NameTable
from jaxcog.losses.contrastive import unit
from jaxcog.losses.triplet import triplet_margin_loss
from jaxcog.nn.conv_norm import Conv
from jaxcog.nn.inception import InceptionV3
from jaxcog.nn.norm import BatchNorm, instance_norm
from jaxcog.nn.resnet import ResNet
from jaxcog.nn.vgg import VGG
from jaxcog.systems.stylemeup import judging, torch_names
from jaxcog.systems.stylemeup.losses import (
    kl_standard_normal,
    mean_squared,
    weighted_l1_regularizer,
)
from jaxcog.systems.stylemeup.model import CrossModalVAE, TransposedConv, pooled
from jaxcog.systems.stylemeup.ops import feature_transform
from tests.parity.adapters import adapter
from tests.parity.golden import Golden, absolute

Variables = dict[str, Any]
Shapes = dict[str, list[int]]


def vae_of(shapes: Shapes, image_size: int) -> tuple[CrossModalVAE, NameTable]:
    """The network that has these shapes, and its names."""
    downs = sorted(n for n in shapes if n.startswith("encoder.feature.down_") and "weight" in n)
    widths = tuple(shapes[name][0] for name in downs)
    ups = sorted(n for n in shapes if n.startswith("decoder.model.deconv_") and "weight" in n)
    decoder = (shapes[ups[0]][0], *(shapes[name][1] for name in ups))
    vae = CrossModalVAE(
        latent=shapes["encoder.invar.weight"][0],
        image_size=image_size,
        channels=shapes[downs[0]][1],
        widths=widths,
        decoder=decoder,
        hidden=shapes["encoder.feature.linear_encoder.weight"][0],
    )
    return vae, torch_names.table_for(widths[-1], image_size // 2 ** len(widths))


def network_input(stored: np.ndarray, grain_seed: int) -> np.ndarray:
    """The stored clean images with the file's grain, in [-1, 1]."""
    image = stored.astype(np.int64)
    grain = np.random.default_rng(grain_seed).integers(0, 25, image.shape)
    noisy = np.where(image < 128, image + grain, image - grain).astype(np.uint8)
    return np.asarray((noisy / np.float32(255) - 0.5) / 0.5, np.float32)


def unpacked(golden: Golden, name: str, vae: CrossModalVAE) -> np.ndarray:
    """A dropout mask, bool [..., F] or [..., h, w, C]."""
    bits = np.unpackbits(golden[name], axis=-1).astype(bool)
    if "decoder" not in name:
        return bits
    h, w, c = vae.decoder_map
    return np.moveaxis(bits.reshape(*bits.shape[:-1], c, h, w), -3, -1)


def thinned(x: np.ndarray, pieces: int = 300) -> np.ndarray:
    """Every n-th element of the flattened array."""
    flat = np.ravel(x)
    return flat[:: max(1, flat.size // pieces)]


def sampled(a: Any) -> np.ndarray:
    """What the files keep of an activation."""
    if a.ndim != 4:
        return np.asarray(a)
    h, w, c = (max(1, size // n) for size, n in zip(a.shape[1:], (6, 6, 8), strict=True))
    return np.asarray(a)[:, 1::h, 1::w, ::c]


def check_gradients(golden: Golden, prefix: str, grads: dict[str, np.ndarray]) -> None:
    """All arrays under `prefix` that are named as parameters."""
    for name in golden.under(prefix):
        if name in grads:
            golden.check(f"{prefix}{name}", thinned(grads[name]))


@adapter("stylemeup", "vae_(train|eval).*")
def vae(golden: Golden) -> None:
    x = network_input(golden["in/images"], golden.meta["grain_seed"])
    net, table = vae_of(golden.meta["shapes"], x.shape[1])
    params = table.to_ours(golden.weights())["params"]
    encoder_keep = decoder_keep = None
    if golden.meta["mode"] == "train":
        encoder_keep = unpacked(golden, "in/encoder_dropout_keep", net)
        decoder_keep = unpacked(golden, "in/decoder_dropout_keep", net)
    height, width, channels = x.shape[1:]
    c, yy, xx = np.meshgrid(*(np.arange(n) for n in (channels, height, width)), indexing="ij")
    cotangent = np.moveaxis(np.cos((c + 1) * xx / 17) * np.sin((c + 2) * yy / 23), 0, -1)
    cotangent = cotangent.astype(np.float32)

    def run(params: Variables, x: jax.Array) -> tuple[jax.Array, Any]:
        codes, seen = net.encoder_module.apply(
            {"params": params["encoder"]}, x, encoder_keep, None, mutable=["intermediates"]
        )
        std = jnp.exp(0.5 * codes.logvar)
        z = codes.mu + std * golden["in/eps"]
        made, shown = net.decoder_module.apply(
            {"params": params["decoder"]}, z + codes.content, decoder_keep,
            mutable=["intermediates"],
        )  # fmt: skip
        loss = (
            100 * jnp.mean(made * cotangent)
            + jnp.mean(codes.mu**2)
            + jnp.mean(std)
            + jnp.mean(jnp.sum(codes.content[:, :64], axis=1) ** 2)
            + jnp.mean(jnp.sum(codes.feature[:, ::3], axis=1))
        )
        acts = _named("encoder.feature.", seen["intermediates"]["feature"])
        acts |= _named("decoder.model.", shown["intermediates"])
        return loss, (codes, std, z, made, acts)

    step = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))
    (loss, (codes, std, z, made, acts)), (grads, grad_x) = step(params, x)
    golden.check("out/loss", loss)
    for name, value in (("mu", codes.mu), ("std", std), ("inv", codes.content),
                        ("feat", codes.feature), ("z", z)):  # fmt: skip
        golden.check(f"out/{name}", value)
    golden.check("out/rec_every8", made[:, ::8, ::8])
    golden.check("out/rec_top_left", made[:, :24, :24])
    golden.check("out/rec_bottom_right", made[:, -24:, -24:])
    statistics = np.stack([np.mean(made, axis=(1, 2)), np.std(made, axis=(1, 2))], axis=1)
    golden.check("out/rec_channel_mean_std", statistics)
    for name in golden.under("out/act/"):
        golden.check(f"out/act/{name}", sampled(acts[name]))
    golden.check("grad/images_every16", grad_x[:, ::16, ::16])
    check_all_gradients(golden, table, grads)


def _named(prefix: str, sown: Variables) -> dict[str, jax.Array]:
    return {prefix + key.removesuffix("_out"): value[0] for key, value in sown.items()}


def check_all_gradients(golden: Golden, table: NameTable, grads: Variables) -> None:
    """Gradients and their norms; those of biases that a normalisation cancels are noise."""
    named = table.to_torch({"params": grads}, golden.meta["shapes"])
    check_gradients(golden, "grad/", named)
    norms = golden["grad_norm/values"]
    scale = dict(zip(golden.meta["grad_norm_names"], norms, strict=True))
    real = np.array([
        norm > 1e-4 * scale.get(name.replace("bias", "weight"), norm)
        for name, norm in scale.items()
    ])  # fmt: skip
    ours = np.array([np.linalg.norm(named[name].astype(np.float64)) for name in scale])
    golden.check("grad_norm/values", np.where(real, ours, norms))


@adapter("stylemeup", "unet_blocks.*")
def blocks(golden: Golden) -> None:
    tolerance = golden.meta["grad_tolerance"]
    for name in golden.meta["shapes"]:
        weights = golden.weights(name)
        prefix = next(key.removesuffix("weight") for key in weights if key.endswith("weight"))
        up = name in ("up", "final")
        layout = torch_names.NameTable(
            torch_names.transposed_rules(prefix.rstrip("."), "layer")
            if up
            else torch_names.conv(prefix.rstrip("."), "layer")
        )
        params = layout.to_ours(weights)["params"]["layer"]
        width = params["bias"].shape[0]
        layer = TransposedConv(width) if up else Conv(width, 4, 2, pad=1)
        cotangent = golden[f"in/{name}/cotangent"]

        def run(params: Variables, x: jax.Array, name=name, layer=layer) -> jax.Array:
            y = layer.apply({"params": params}, x)
            if name == "final":
                return jnp.tanh(y)
            y = y if name == "down_plain" else instance_norm(y)
            return jax.nn.relu(y) if name == "up" else jax.nn.leaky_relu(y, 0.2)

        y, pull = jax.vjp(run, params, jnp.asarray(golden[f"in/{name}/x"]))
        grads, grad_x = pull(jnp.asarray(cotangent))
        golden.check(f"out/{name}/y", y)
        golden.check(f"grad/{name}/x", grad_x, tolerance)
        named = layout.to_torch({"params": {"layer": grads}}, weights)
        for key in golden.under(f"grad/{name}/"):
            if key in named:
                pieces = 2000 if key.endswith("weight") else 1 << 30
                golden.check(f"grad/{name}/{key}", thinned(named[key], pieces), tolerance)


@adapter("stylemeup", "losses.*")
def losses(golden: Golden) -> None:
    weight = golden["in/W"]
    psi = np.random.default_rng(golden.meta["psi_seed"])
    psi = psi.random((weight.shape[0], weight.shape[1] + 1), dtype=np.float32).T
    margin = golden.meta["ctor"]["margin"]

    def run(name: str, function: Any, *inputs: str) -> tuple[jax.Array, ...]:
        arrays = [jnp.asarray(golden[f"in/{key}"]) for key in inputs]
        value, grads = jax.value_and_grad(function, tuple(range(len(arrays))))(*arrays)
        golden.check(f"out/{name}", value)
        return grads

    for name, function, inputs in (
        ("kl", kl_standard_normal, ("mu", "log_var")),
        ("mse", mean_squared, ("a", "b")),
        (
            "triplet",
            lambda *x: triplet_margin_loss(*x, margin=margin),
            ("anchor", "positive", "negative"),
        ),
    ):
        for key, grad in zip(inputs, run(name, function, *inputs), strict=True):
            golden.check(f"grad/{name}/{key}", grad)
    each = [
        [triplet_margin_loss(*triple, margin=margin) for triple in zip(*rows, strict=True)]
        for rows in zip(*(golden[f"in/{k}"] for k in ("anchor", "positive", "negative")),
                        strict=True)
    ]  # fmt: skip
    golden.check("out/triplet_each", np.array(each))
    grads = run(
        "regulariser", lambda w, b: weighted_l1_regularizer(jnp.asarray(psi), w.T, b), "W", "bias"
    )
    golden.check("grad/regulariser/W_rows", grads[0][::8])
    golden.check("grad/regulariser/bias", grads[1])


@adapter("stylemeup", "feature_transform.*")
def transformation(golden: Golden) -> None:
    norm = golden.under("state/")
    x, cotangent = jnp.asarray(golden["in/x"]), golden["in/cotangent"]
    variables = {
        "params": {"scale": norm["bn.weight"], "bias": norm["bn.bias"]},
        "batch_stats": {"mean": np.zeros(x.shape[-1]), "var": np.ones(x.shape[-1])},
    }
    keep = 1 - golden.meta["ctor"]["momentum"]

    def run(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> Any:
        normalised, new = BatchNorm(False, momentum=keep).apply(
            variables, x, mutable=["batch_stats"]
        )
        y = feature_transform(
            normalised, golden["in/eps_gamma"], golden["in/eps_beta"], gamma, beta
        )
        return jnp.sum(y * cotangent), (normalised, y, new["batch_stats"])

    theta = jnp.asarray(norm["theta_gamma"]), jnp.asarray(norm["theta_beta"])
    grads, (normalised, y, stats) = jax.grad(run, argnums=(0, 1, 2), has_aux=True)(x, *theta)
    golden.check("out/normalised", normalised)
    golden.check("out/y_train", y)
    calm = BatchNorm(True).apply({**variables, "batch_stats": stats}, x)
    golden.check("out/y_eval", calm)
    for name, grad in zip(("x", "theta_gamma", "theta_beta"), grads, strict=True):
        golden.check(f"grad/{name}", grad)


def _maps(name: str, variables: Variables, x: jax.Array) -> tuple[jax.Array, Variables]:
    """(the last map, the maps inside by name)."""
    if name == "vgg16":
        maps = jax.jit(lambda v, x: VGG(16).apply(v, x, train=False))(variables, x)
        return maps["stage5"], maps
    net = ResNet(50) if name == "resnet50" else InceptionV3()
    every = True if name == "inception_v3" else None
    maps, seen = jax.jit(
        lambda v, x: net.apply(
            v, x, train=False, pool=False, capture_intermediates=every, mutable=["intermediates"]
        )
    )(variables, x)
    seen = seen["intermediates"]
    found = {key: value for key, value in seen.items() if key != "__call__"}
    return maps, {k: (v["__call__"] if every else v)[0] for k, v in found.items()}


@adapter("stylemeup", r"backbone_(vgg|resnet|inception)\w*")
def backbone(golden: Golden) -> None:
    component = golden.meta["component"]
    name = next(n for n in torch_names.BACKBONES if n.startswith(component.split("_")[1][:3]))
    how = "average" if "Avg" in str(golden.meta["ctor"].get("pool_method")) else "max"
    variables = torch_names.BACKBONES[name].to_ours(golden.weights())
    variables = {k: v["encoder"]["feature"]["trunk"] for k, v in variables.items()}
    maps, acts = _maps(name, variables, jnp.asarray(golden["in/x"]))
    feature = pooled(maps, how)
    golden.check("out/feature", feature if name == "resnet50" else unit(feature))
    for key in golden.under("out/act/"):
        a = np.asarray(acts[_ACTIVATIONS.get(key, key.removeprefix("features."))])
        h, w, c = (max(1, size // n) for size, n in zip(a.shape[1:], (5, 5, 8), strict=True))
        golden.check(f"out/act/{key}", a[:, ::h, ::w, ::c])


_ACTIVATIONS = {
    "features.maxpool": "stem",
    **{f"backbone.{i}": f"stage{n}" for n, i in enumerate((4, 9, 16, 23, 30), 1)},
}


@adapter("stylemeup", "metrics.*")
def metrics(golden: Golden) -> None:
    ranks = judging.retrieval_ranks(golden["in/fg_sketch"], golden["in/fg_photo"],
                                    golden["in/fg_target"])  # fmt: skip
    golden.check("out/fg_rank", ranks)
    ks = [int(name.removeprefix("out/fg_acc")) for name in golden.names("out/fg_acc*")]
    for k, value in judging.accuracy_at_k(ranks, ks).items():
        golden.check(f"out/fg_acc{k}", value)
    grouped = ranks.reshape(-1, golden.meta["sketches_per_photo"])
    mean, population = judging.rank_consistency(grouped)
    golden.check("out/style_mean_rank", mean)
    golden.check("out/style_mean_variance_population", population)
    golden.check("out/style_mean_variance_sample", judging.rank_consistency(grouped, ddof=1)[1])
    relevance = golden["in/cat_sketch_class"][:, None] == golden["in/cat_photo_class"][None]
    for case in ("plain", "ties"):
        blocks = judging.sketch_distances(
            golden[f"in/cat_{case}_sketch"], golden[f"in/cat_{case}_photo"], eps=0.0
        )
        scores = np.concatenate([1 / (1 + distances) for _, distances in blocks])
        golden.check(f"out/cat_{case}_ap", judging.average_precisions(scores, relevance))
        golden.check(f"out/cat_{case}_map", judging.mean_average_precision(scores, relevance))


@adapter("stylemeup", "rasterize.*")
def rasterize(golden: Golden) -> None:
    for name, strokes in golden.under("in/").items():
        kind, _, i = name.rpartition("_")
        if kind == "strokes":
            side = golden[f"out/raster_{i}"].shape[0]
            golden.check(f"out/raster_{i}", rasterize_strokes(strokes, side))
            continue
        side = 2 * golden[f"out/photo_resized_{i}"].shape[0]
        image = images.resize(strokes, side, side)
        golden.check(f"out/photo_resized_{i}", image[::2, ::2], 1, measure=absolute)
        x = images.normalise(image, images.HALF, images.HALF)
        statistics = np.concatenate([x.mean(axis=(0, 1)), x.std(axis=(0, 1))])
        golden.check(f"out/photo_stats_{i}", statistics, 1 / 255, measure=absolute)
