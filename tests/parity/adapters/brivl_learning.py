"""BriVL: losses, momentum training, generation and inversion."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxcog.losses.contrastive import info_nce, sigmoid_loss, unit
from jaxcog.nn.queue import entries, make_queue
from jaxcog.optim import Optimizer
from jaxcog.systems.brivl import imagination, losses, model, torch_names, vqgan
from jaxcog.systems.brivl.architecture import Architecture
from jaxcog.systems.brivl.task import Pretrain, shuffled, unshuffled
from jaxcog.task import DataInfo, Setting
from tests.parity.adapters import adapter
from tests.parity.adapters.brivl import architecture_of, pixels, tree
from tests.parity.golden import Golden, nchw, nhwc

Tree = dict[str, Any]


def queue_of(golden: Golden, image: str, text: str, batch: int, pointer: int = 0) -> Tree:
    """Official queues [D, K]; the pointer is where the next keys go."""
    rows = {"image": golden[image].T, "text": golden[text].T}
    queue = make_queue({k: jnp.asarray(v) for k, v in rows.items()}, batch)
    return {**queue, "slot": jnp.asarray(pointer // batch, jnp.int32)}


def check_queue(golden: Golden, queue: Tree) -> None:
    size = queue["image"].shape[0] * queue["image"].shape[1]
    for name in ("image", "text"):
        golden.check(f"out/{name}_queue", entries(queue, name).T)
    pointer = int(queue["slot"]) * queue["image"].shape[1] % size
    golden.check("out/queue_ptr", np.array([pointer]))


@adapter("brivl", r"contrastive_options.*")
def contrastive_options(golden: Golden) -> None:
    image, text = jnp.asarray(golden["in/image"]), jnp.asarray(golden["in/text"])
    scale, bias = jnp.asarray(golden["in/logit_scale"]), jnp.asarray(golden["in/logit_bias"])
    names = ("image", "text", "logit_scale", "logit_bias")

    def clip(image: Any, text: Any, scale: Any, bias: Any) -> Any:
        return jnp.mean(info_nce(image, text, scale=scale, block=3))

    def siglip(image: Any, text: Any, scale: Any, bias: Any) -> Any:
        return jnp.mean(sigmoid_loss(image, text, scale=scale, bias=bias, block=4))

    for name, loss in (("clip", clip), ("siglip", siglip)):
        value, grads = jax.value_and_grad(loss, (0, 1, 2, 3))(image, text, scale, bias)
        golden.check(f"out/{name}", value)
        for part, grad in zip(names, grads, strict=True):
            if f"grad/{name}/{part}" in golden:
                golden.check(f"grad/{name}/{part}", grad)


@adapter("brivl", r"losses_aux.*")
def losses_aux(golden: Golden) -> None:
    given = {name: jnp.asarray(value) for name, value in golden.under("in/").items()}
    masks = {
        name: jnp.arange(given[f"seq{name}"].shape[1]) < given[f"len{name}"][:, None]
        for name in ("1", "2")
    }
    weights = (given["att_weight"], given["att_bias"])
    cases = {
        "NCELoss": (
            ("vec1", "vec2"),
            lambda x, y: jnp.mean(info_nce(unit(x), unit(y), scale=1 / losses.TEMPERATURE)),
        ),
        "SimpTripLoss": (("vec1", "vec2"), losses.hardest_triplet),
        "pairLoss": (("seq1", "seq1b"), lambda x, y: losses.pair_loss(x, y, masks["1"])),
        "alignmentLoss": (
            ("seq1", "seq2"),
            lambda x, y: losses.alignment_loss(x, y, masks["1"], masks["2"]),
        ),
        "AlignTripLoss": (
            ("seq1", "seq2"),
            lambda x, y: losses.alignment_triplet(x, y, masks["1"], masks["2"]),
        ),
        "attAlignmentLoss": (
            ("seq1", "seq2"),
            lambda x, y: losses.attention_alignment(x, y, masks["2"], *weights),
        ),
    }
    for name, (parts, loss) in cases.items():
        value, grads = jax.value_and_grad(loss, (0, 1))(*(given[part] for part in parts))
        golden.check(f"out/{name}", value)
        for part, grad in zip(parts, grads, strict=True):
            golden.check(f"grad/{name}/{part}", grad)
    wanted = golden["out/length_mask"]
    golden.check("out/length_mask", losses.length_mask(given["len1"], wanted.shape[1]))


@adapter("brivl", r"moco_loss.*")
def moco_loss(golden: Golden) -> None:
    ctor = golden.meta["ctor"]
    queue = queue_of(golden, "in/image_queue", "in/text_queue", ctor["B"], ctor["queue_ptr"])
    keys = [unit(jnp.asarray(golden[f"in/{name}_k"])) for name in ("image", "text")]
    queries = [jnp.asarray(golden[f"in/{name}_q"]) for name in ("image", "text")]
    temperature = ctor["TEMPERATURE"]

    def single(image: Any, text: Any) -> Any:
        value, after, _ = losses.momentum_contrast(
            unit(image), unit(text), *keys, queue, temperature=temperature, block=7
        )
        return jnp.mean(value), after

    (value, after), grads = jax.value_and_grad(single, (0, 1), has_aux=True)(*queries)
    golden.check("out/single/loss", value)
    check_queue(golden, after)
    results = {"single": grads}
    for k in ctor["multi_label_topk"]:
        positives = losses.topk_agreement_positives(*keys, queue, k)

        def multi(image: Any, text: Any, positives: Any = positives) -> Any:
            options = (positives, temperature)
            value = losses.multi_label_contrast(unit(image), unit(text), *keys, queue, *options)
            return jnp.mean(value)

        value, results[f"multi_top{k}"] = jax.value_and_grad(multi, (0, 1))(*queries)
        golden.check(f"out/multi_top{k}/loss", value)
    for case, grads in results.items():
        for name, grad in zip(("image", "text"), grads, strict=True):
            golden.check(f"grad/{case}/{name}_q", grad)


def _four_towers(golden: Golden) -> tuple[Tree, Tree]:
    """(online variables, momentum batch statistics) of the official state_dict."""
    weights = golden.weights()
    online = {k: v for k, v in weights.items() if not k.split(".")[0].endswith("_mom")}
    momentum = {
        k.replace("_mom.", ".", 1): v
        for k, v in weights.items()
        if "_mom." in k.split("backbone")[0]
    }
    convert = torch_names.BRIVL.to_ours
    return tree(convert(online)), tree(convert(momentum)["batch_stats"])


def _named(golden: Golden, state: Tree) -> dict[str, np.ndarray]:
    """Both sets of towers under their official names."""
    names = list(golden.meta["shapes"])
    online = [name for name in names if "_mom." not in name]
    parts = ("params", "batch_stats")
    result = torch_names.BRIVL.to_torch({part: state[part] for part in parts}, online)
    momentum = torch_names.BRIVL.to_torch({part: state["momentum"][part] for part in parts}, online)
    for name, value in momentum.items():
        tower, rest = name.split(".", 1)
        result[f"{tower}_mom.{rest}"] = value
    return result


def _setting(batch: int, architecture: Architecture, steps: int) -> Setting:
    size = architecture.image_size
    element = {
        "image": jax.ShapeDtypeStruct((size, size, 3), np.float32),
        "ids": jax.ShapeDtypeStruct((architecture.text_length,), np.int32),
    }
    return Setting(DataInfo(element, batch * 10), steps, 10, batch)


def _batch(golden: Golden, row: Any) -> Tree:
    return {
        "image": jnp.asarray(golden["in/image_u8"][row], jnp.float32) / 255,
        "ids": jnp.asarray(golden["in/ids"][row]),
    }


@adapter("brivl", r"moco_train.*")
def moco_train(golden: Golden) -> None:
    ctor = golden.meta["ctor"]
    batch, steps = ctor["batch_size"], ctor["steps"]
    adam = ctor["optimizer"]
    # A BERT of at most four layers is trained whole by the official policy, too.
    architecture = architecture_of(ctor, freeze="official")
    config = Pretrain(
        model=architecture,
        queue_size=ctor["QUEUE_SIZE"],
        momentum=ctor["MOMENTUM"],
        temperature=ctor["TEMPERATURE"],
        augment=False,
        optimizer=Optimizer(
            name="adam",
            lr=adam["lr"],
            weight_decay=adam["weight_decay"],
            betas=tuple(adam["betas"]),
            eps=adam["eps"],
        ),
    )
    task = config.build(_setting(batch, architecture, steps))
    online, momentum_stats = _four_towers(golden)
    fresh = jax.eval_shape(task.init, jax.random.key(0))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), fresh)
    state = {
        **zeros,
        **online,
        "momentum": {"params": online["params"], "batch_stats": momentum_stats},
        "queue": queue_of(golden, "in/image_queue0", "in/text_queue0", batch),
    }
    before = _named(golden, state)
    step = jax.jit(task.train_step)
    values = []
    for i in range(steps):
        state, scalars = step(state, _batch(golden, i % len(golden["in/ids"])), jax.random.key(0))
        values.append(scalars["loss"])
    golden.check("out/losses", np.array(values), golden.meta["tolerance"]["losses"])
    named = _named(golden, state)
    for key in golden.names("out/param/*"):
        name = key.removeprefix("out/param/")
        value = np.array(steps) if name.endswith("num_batches_tracked") else named[name]
        golden.check(key, value, golden.meta["tolerance"]["param"])
    for key in golden.names("out/delta/*"):
        name = key.removeprefix("out/delta/")
        golden.check(key, named[name] - before[name], golden.meta["tolerance"]["delta"])
    for name in ("image", "text"):
        golden.check(f"out/{name}_queue", entries(state["queue"], name).T)
    golden.check("out/queue_ptr", np.array([int(state["queue"]["slot"]) * batch]))


@adapter("brivl", r"moco_ddp\d+.*")
def moco_ddp(golden: Golden) -> None:
    """Ranks are devices of a mesh: statistics per rank, keys permuted over all of them."""
    ctor = golden.meta["ctor"]
    world = ctor["world"]
    batch = world * ctor["per_rank_batch"]
    architecture = architecture_of(ctor)
    online, momentum_stats = _four_towers(golden)
    momentum = {"params": online["params"], "batch_stats": momentum_stats}
    queue = queue_of(golden, "in/image_queue0", "in/text_queue0", batch)
    images, ids = pixels(golden["in/image_u8"]), jnp.asarray(golden["in/ids"])
    mask = jnp.arange(ids.shape[1]) < jnp.asarray(golden["in/lens"])[:, None]
    boxes = jnp.asarray(golden["in/boxes"])[None]
    orders = [jnp.asarray(golden[f"in/perm_{name}"]) for name in ("image", "text")]
    mesh = jax.make_mesh(
        (world,),
        ("ranks",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:world],
    )

    def rank(params: Tree, images: Any, ids: Any, mask: Any, queue: Tree) -> Any:
        def towers(params: Tree, stats: Tree, images: Any, ids: Any, mask: Any) -> Any:
            encoded = model.image_tower(
                params["image"], stats["image"], images, architecture, boxes=boxes, train=True
            )
            texts = model.text_tower(params["text"], ids, architecture, mask=mask)
            return unit(encoded.embedding), unit(texts.embedding), encoded.stats

        image, text, stats = towers(params, online["batch_stats"], images, ids, mask)
        mixed = shuffled((images,), orders[0], "ranks") + shuffled((ids, mask), orders[1], "ranks")
        *keys, key_stats = towers(momentum["params"], momentum_stats, *mixed)
        keys = [unshuffled(k, o, "ranks") for k, o in zip(keys, orders, strict=True)]
        value, after, _ = losses.momentum_contrast(
            image, text, *keys, queue, temperature=ctor["TEMPERATURE"], axis_name="ranks"
        )
        stats = jax.tree.map(lambda x: x[None], (stats, key_stats))
        return value, after, stats

    rows, slots = P("ranks"), {"image": P(None, "ranks"), "text": P(None, "ranks"), "slot": P()}
    spread = jax.shard_map(
        rank,
        mesh=mesh,
        in_specs=(P(), rows, rows, rows, slots),
        out_specs=(rows, slots, rows),
    )

    def loss(params: Tree) -> Any:
        value, after, stats = spread(params, images, ids, mask, queue)
        return jnp.mean(value), (value, after, stats)

    (_, (value, after, stats)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        online["params"]
    )
    golden.check("out/loss_per_rank", jnp.mean(value.reshape(world, -1), axis=1))
    check_queue(golden, after)
    names = golden.meta["shapes"]
    named = torch_names.BRIVL.to_torch(
        {"params": grads}, [name for name in names if "_mom." not in name]
    )
    for key in golden.names("grad/mean_over_ranks/*"):
        golden.check(key, named[key.removeprefix("grad/mean_over_ranks/")])
    for r in range(world):
        own, key_own = jax.tree.map(lambda x, r=r: x[r], stats)
        state = {
            **online,
            "batch_stats": {"image": own},
            "momentum": {"params": online["params"], "batch_stats": {"image": key_own}},
        }
        named = _named(golden, state)
        for key in golden.names(f"out/rank{r}/*"):
            golden.check(key, named[key.removeprefix(f"out/rank{r}/")], 2e-5)


def prior_of(ctor: Tree) -> vqgan.VQGANConfig:
    sizes = ctor["ddconfig"]
    return vqgan.VQGANConfig(
        channels=sizes["ch"],
        multipliers=tuple(sizes["ch_mult"]),
        blocks=sizes["num_res_blocks"],
        attention_at=tuple(sizes["attn_resolutions"]),
        resolution=sizes["resolution"],
        z_channels=sizes["z_channels"],
        codes=ctor["n_embed"],
        code_width=ctor["embed_dim"],
        beta=ctor.get("beta", 0.25),
    )


@adapter("brivl", r"vqgan_tiny.*")
def vqgan_tiny(golden: Golden) -> None:
    prior = prior_of(golden.meta["ctor"])
    params = tree(torch_names.VQGAN.to_ours(golden.weights()))["params"]
    images, cotangent = (jnp.asarray(nhwc(golden[f"in/{n}"])) for n in ("image", "cotangent"))

    def loss(params: Tree, images: Any, shift: Any) -> Any:
        latents = vqgan.encode(params, images, prior) + shift
        codes, extra, indices = vqgan.quantise(params["codebook"], latents, prior.beta)
        out = vqgan.decode(params, codes, prior)
        kept = {"latent": latents, "quantised": codes, "reconstruction": out}
        return jnp.mean(out * cotangent) + extra, (kept, extra, indices)

    shape = jax.eval_shape(lambda x: vqgan.encode(params, x, prior), images).shape
    gradient = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    grads, (kept, extra, indices) = gradient(params, images, jnp.zeros(shape))
    for name, value in kept.items():
        golden.check(f"out/{name}", nchw(value))
    golden.check("out/codebook_loss", extra)
    golden.check("out/indices", np.asarray(indices).ravel())
    golden.check("grad/latent", nchw(grads[2]))
    golden.check("grad/image", nchw(grads[1]))
    golden.check("grad/codebook", grads[0]["codebook"])
    kernel = np.transpose(grads[0]["post_quant_conv"]["kernel"], (3, 2, 0, 1))
    golden.check("grad/post_quant_conv", kernel.reshape(golden["grad/post_quant_conv"].shape))


@adapter("brivl", r"vqgan_f\d+.*")
def vqgan_full(golden: Golden) -> None:
    prior = prior_of(golden.meta["ctor"])
    params = tree(torch_names.VQGAN.to_ours(golden.weights()))["params"]
    codes = jnp.take(params["codebook"], jnp.asarray(golden["in/indices"]), axis=0)
    golden.check("out/codes", nchw(codes))
    images = jax.jit(partial(vqgan.decode, config=prior))(params, codes)
    golden.check("out/image", nchw(images))
    latents = jax.jit(partial(vqgan.encode, config=prior))(params, jnp.tanh(images))
    golden.check("out/encoded_latent", nchw(latents))
    golden.check("out/encoded_indices", vqgan.nearest_code(params["codebook"], latents))


@adapter("brivl", r"inversion.*")
def inversion(golden: Golden) -> None:
    ctor = golden.meta["ctor"]
    architecture = architecture_of(ctor["image_encoder"])
    variables = tree(torch_names.IMAGE.to_ours(golden.weights("image_encoder")))
    prior = prior_of(ctor["vqgan"])
    params = tree(torch_names.VQGAN.to_ours(golden.weights("vqgan")))["params"]
    boxes = jnp.asarray(golden["in/boxes"])[None]
    target = jnp.asarray(golden["in/target"])
    limits = golden.meta["tolerance"]

    def embed(images: jax.Array) -> jax.Array:
        stats = variables["batch_stats"]["image"]
        return model.image_tower(
            variables["params"]["image"], stats, images, architecture, boxes=boxes
        ).embedding

    plain = imagination.Inversion(
        steps=ctor["steps"],
        lr=ctor["lr_pixel"],
        smoothness=0.0,
        jitter=0,
        clamp=False,
        frames=1,
    )
    key = jax.random.key(0)
    pixel0 = jnp.asarray(nhwc(golden["in/pixel0"]))
    found = jax.jit(
        lambda start: vars(imagination.invert_embedding(embed, target, start, key, plain))
    )(pixel0)
    golden.check("out/pixel_losses", found["losses"][:, 0], limits["losses"])
    golden.check("out/pixel_final", nchw(found["variables"]), limits["final"])
    canvas = imagination.pixels(plain, architecture.image_size)
    first = imagination.seen_loss(
        embed, lambda e: imagination.cosine_distance(e, target), canvas, plain
    )
    grad = jax.jit(jax.grad(lambda x: jnp.sum(first(x, key)[0])))(pixel0)
    golden.check("grad/pixel0", nchw(grad), limits["grad"])

    latent0 = jnp.asarray(nhwc(golden["in/latent0"]))
    size = architecture.image_size
    moved = dataclasses.replace(plain, lr=ctor["lr_latent"])

    def generate(start: jax.Array, config: imagination.Inversion) -> imagination.Imagined:
        arguments = (params, prior, embed, target, start, key, config, size)
        return imagination.guided_generate(*arguments)

    found = jax.jit(lambda start: vars(generate(start, moved)))(latent0)
    golden.check("out/latent_losses", found["losses"][:, 0], limits["losses"])
    golden.check("out/latent_final", nchw(found["variables"]), limits["final"])
    golden.check("out/image_final", nchw(found["images"]), limits["final"])
    once = dataclasses.replace(moved, steps=1)
    grad = jax.jit(jax.grad(lambda start: jnp.sum(generate(start, once).losses)))(latent0)
    golden.check("grad/latent0", nchw(grad), limits["grad"])
    indices = vqgan.nearest_code(params["codebook"], latent0)
    golden.check("out/indices0", np.asarray(indices).ravel())
