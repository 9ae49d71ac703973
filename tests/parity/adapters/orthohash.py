"""OrthoHash: losses, heads, networks, trajectories, codebooks and retrieval metrics."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.data import images
from jaxcog.metrics import retrieval as metrics
from jaxcog.optim import Optimizer, Rule, Schedule, gradient_step, initial_state
from jaxcog.systems.orthohash import codebooks, losses, model, retrieval, search
from jaxcog.systems.orthohash.task import Hashing, objective
from jaxcog.systems.orthohash.torch_names import ALEXNET, FEATURE, RESNET
from jaxcog.task import DataInfo, Setting
from tests.parity.adapters import adapter
from tests.parity.golden import Golden, nchw, nhwc

Tree = dict[str, Any]


def _loss_options(config: Tree) -> Tree:
    return {
        "scale": float(config.get("s", 8)),
        "margin": float(config.get("m", 0.2)),
        "margin_type": config.get("m_type", "cos"),
    }


@adapter("orthohash", r"loss_single.*")
def loss_single(golden: Golden) -> None:
    codes, book = jnp.asarray(golden["in/codes"]), jnp.asarray(golden["in/codebook"])
    labels = jnp.asarray(golden["in/labels"], jnp.int32)
    golden.check("out/cos_logits", losses.cosine_logits(codes, book))
    for config in golden.meta["ctor"]["configs"]:
        tag, kind = config["tag"], config.get("quan_type")

        def total(codes: jax.Array, config: Tree = config, kind: str | None = kind) -> Any:
            logits = losses.cosine_logits(codes, book)
            fit = losses.orthohash_loss(logits, labels, **_loss_options(config))
            error = losses.quantization_error(codes, kind) if kind else jnp.zeros(())
            return fit + config.get("quan", 0.0) * error, (fit, error)

        (value, (fit, error)), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(codes)
        golden.check(f"out/{tag}/loss", value)
        golden.check(f"out/{tag}/ce", fit)
        golden.check(f"out/{tag}/quan", error)
        golden.check(f"grad/{tag}/codes", grad)


@adapter("orthohash", r"loss_multi.*")
def loss_multi(golden: Golden) -> None:
    codes, book = jnp.asarray(golden["in/codes"]), jnp.asarray(golden["in/codebook"])
    labels = jnp.asarray(golden["in/labels_multi_hot"])
    for config in golden.meta["ctor"]["configs"]:
        tag = config["tag"]

        def total(codes: jax.Array, config: Tree = config) -> jax.Array:
            return losses.orthohash_loss(
                losses.cosine_logits(codes, book),
                labels,
                multi_label=True,
                multi_label_loss=config["multiclass_loss"],
                **_loss_options(config),
            )

        value, grad = jax.jit(jax.value_and_grad(total))(codes)
        golden.check(f"out/{tag}/loss", value)
        golden.check(f"grad/{tag}/codes", grad)
        if f"out/{tag}/multiclass_acc" in golden:
            logits = losses.cosine_logits(codes, book)
            options = {**_loss_options(config), "target": labels > 0}
            right = (jax.nn.sigmoid(losses.margin_logits(logits, **options)) >= 0.7) == (labels > 0)
            golden.check(f"out/{tag}/multiclass_acc", jnp.mean(right))


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A network with the file's weights, under the names of `table`."""

    table: Any
    config: Hashing
    architecture: model.Architecture
    variables: Tree

    @property
    def book(self) -> jax.Array:
        return jnp.asarray(self.variables["codebook"])

    def encode(self, params: Tree, x: Any, stats: Tree | None = None, **options: Any) -> Any:
        stats = self.variables["batch_stats"] if stats is None else stats
        return model.encode(self.architecture, params, stats, jnp.asarray(x), **options)

    def loss(
        self, params: Tree, x: Any, labels: Any, stats: Tree | None = None, **options: Any
    ) -> Any:
        encoded = self.encode(params, x, stats, train=True, **options)
        logits = losses.cosine_logits(encoded.codes, self.book)
        labels = jnp.asarray(labels, jnp.int32)
        value = losses.orthohash_loss(
            logits, labels, scale=self.config.scale_for(len(self.book)), margin=self.config.margin
        )
        return value, encoded

    def named(self, tree: Tree, part: str = "params") -> dict[str, np.ndarray]:
        return self.table.to_torch({part: jax.tree.map(np.asarray, tree)})


def _load(golden: Golden, table: Any, weights: Tree, **options: Any) -> Loaded:
    meta = golden.meta["ctor"]
    config = Hashing(
        num_bits=meta["nbit"], scale=float(meta.get("s", 8)), margin=meta.get("m", 0.2), **options
    )
    variables = jax.tree.map(jnp.asarray, table.to_ours(weights))
    return Loaded(table, config, config.architecture(meta["nclass"]), variables)


def _check_gradients(golden: Golden, loaded: Loaded, grads: Tree) -> None:
    named = loaded.named(grads)
    for name in golden.names("grad/*"):
        if name != "grad/features":
            golden.check(name, named[name.removeprefix("grad/")])


def _check_after(golden: Golden, named: dict[str, np.ndarray]) -> None:
    for name in golden.names("out/after/*"):
        key, _, rows = name.removeprefix("out/after/").partition("_rows_")
        value = named[key]
        if rows:
            first, last = map(int, rows.split("_"))
            value = value[first : last + 1]
        golden.check(name, value)


def _check_evaluation(golden: Golden, loaded: Loaded, x: Any) -> None:
    result = jax.jit(lambda params, x: loaded.encode(params, x, train=False))(
        loaded.variables["params"], x
    )
    if "out/eval_features" in golden:
        golden.check("out/eval_features", result.features)
    golden.check("out/eval_codes", result.codes)
    golden.check("out/eval_cos_logits", losses.cosine_logits(result.codes, loaded.book))


def _check_training(golden: Golden, loaded: Loaded, x: Any, **options: Any) -> Any:
    def total(params: Tree, x: Any) -> Any:
        return loaded.loss(params, x, golden["in/labels"], **options)

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (value, encoded), (grads, inputs) = step(loaded.variables["params"], jnp.asarray(x))
    golden.check("out/loss", value)
    golden.check("out/train_codes", encoded.codes)
    _check_gradients(golden, loaded, grads)
    _check_after(
        golden,
        {
            **loaded.named(loaded.variables["params"]),
            **loaded.named(encoded.batch_stats, "batch_stats"),
        },
    )
    return encoded, inputs


@adapter("orthohash", r"hash_head.*")
def hash_head(golden: Golden) -> None:
    loaded = _load(golden, FEATURE, golden.weights(), network="feature")
    _check_evaluation(golden, loaded, golden["in/features"])
    encoded, inputs = _check_training(golden, loaded, golden["in/features"])
    golden.check("out/train_cos_logits", losses.cosine_logits(encoded.codes, loaded.book))
    golden.check("grad/features", inputs)


def _dropout_mask(packed: np.ndarray, size: int) -> jax.Array:
    return jnp.asarray(np.unpackbits(packed, axis=1)[:, :size].astype(bool))


@adapter("orthohash", r"alexnet(?!_trajectory).*")
def alexnet(golden: Golden) -> None:
    loaded = _load(golden, ALEXNET, golden.weights(), network="alexnet")
    x = nhwc(golden["in/x"])
    _check_evaluation(golden, loaded, x)
    masks = tuple(
        _dropout_mask(golden[f"in/dropout_keep_{i}"], size) for i, size in ((1, 9216), (2, 4096))
    )
    _check_training(golden, loaded, x, dropout_masks=masks)


@adapter("orthohash", r"resnet(18|34|50|101|152).*")
def resnet(golden: Golden) -> None:
    depth = int(golden.meta["ctor"]["backbone"].removeprefix("resnet"))
    loaded = _load(golden, RESNET, golden.weights(), network="resnet", depth=depth)
    x = nhwc(golden["in/x"])
    _check_evaluation(golden, loaded, x)
    _check_training(golden, loaded, x)


def _train(golden: Golden, loaded: Loaded, optimizer: Optimizer, x: np.ndarray) -> tuple[Tree, Any]:
    """The state after the file's steps, checking the loss of each; and the learning rates."""
    setting = Setting(DataInfo({}, 0), steps=len(x), steps_per_epoch=1, batch_size=x.shape[1])

    def loss(params: Tree, state: Tree, batch: Tree, key: Any) -> Any:
        encoded = loaded.encode(params, batch["image"], state["batch_stats"], train=True)
        value, scalars = objective(
            loaded.config, params, encoded.codes, state["codebook"], batch["label"]
        )
        return value, ({"batch_stats": encoded.batch_stats}, scalars)

    state = initial_state(
        loaded.variables["params"],
        optimizer,
        setting,
        batch_stats=loaded.variables["batch_stats"],
        codebook=loaded.book,
    )
    step = jax.jit(gradient_step(loss, optimizer, setting))
    values, rates = [], []
    for image, label in zip(x, golden["in/labels"], strict=True):
        batch = {"image": jnp.asarray(image), "label": jnp.asarray(label, jnp.int32)}
        state, scalars = step(state, batch, jax.random.key(0))
        values.append(scalars["loss"])
        rates.append(scalars["lr"])
    golden.check("out/loss", np.asarray(values))
    named = {**loaded.named(state["params"]), **loaded.named(state["batch_stats"], "batch_stats")}
    _check_after(golden, named)
    return state, np.asarray(rates)


def _adam(options: Tree, **more: Any) -> Optimizer:
    return Optimizer(
        name=options["name"],
        lr=options["lr"],
        betas=tuple(options.get("betas", (0.9, 0.999))),
        eps=options["eps"],
        weight_decay=options["weight_decay"],
        **more,
    )


@adapter("orthohash", r"head_trajectory.*")
def head_trajectory(golden: Golden) -> None:
    meta, weights = golden.meta["ctor"], golden.weights()
    bits = meta["nbit"]
    fresh = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
    for name, value in fresh.items():
        weights.setdefault(f"hash_fc.1.{name}", np.full(bits, value, np.float32))
    loaded = _load(golden, FEATURE, weights, network="feature")
    drops = tuple(f"{step} steps" for step in meta["lr_drops_at_steps"])
    schedule = Schedule("multistep", at=drops, gamma=meta["gamma"])
    optimizer = _adam(meta["optim"], schedule=schedule)
    _, rates = _train(golden, loaded, optimizer, golden["in/features"])
    golden.check("out/lr", rates)


@adapter("orthohash", r"alexnet_trajectory.*")
def alexnet_trajectory(golden: Golden) -> None:
    options = golden.meta["ctor"]["optim"]
    loaded = _load(golden, ALEXNET, golden.weights(), network="alexnet", dropout=0.0)
    rule = Rule(r"^(features_|fc_)", lr=options.get("backbone_lr_scale", 1.0))
    x = nhwc(golden["in/x"])
    state, _ = _train(golden, loaded, _adam(options, rules=(rule,)), x)
    after = loaded.encode(state["params"], x[0], state["batch_stats"], train=False)
    golden.check("out/eval_codes_of_x0_after", after.codes)


@adapter("orthohash", r"codebooks.*")
def codebook_constructions(golden: Golden) -> None:
    for config in golden.meta["ctor"].get("maxhd", ()):
        tag, bits = config["tag"], config["nbit"]
        packed = golden[f"in/{tag}/candidates_packed"]
        candidates = 2 * np.unpackbits(packed, axis=1)[:, :bits].astype(np.int8) - 1
        remaining = [candidates]

        def draw(count: int, remaining: list[np.ndarray] = remaining) -> np.ndarray:
            taken, remaining[0] = remaining[0][:count], remaining[0][count:]
            return taken

        rows = codebooks.greedy_rows(
            draw,
            config["nclass"],
            max_tries=config["maxtries"],
            init_distance=config["initdist"],
            min_distance=config["mindist"],
            step=config["reducedist"],
        )
        book = rows[golden[f"in/{tag}/perm"]]
        golden.check(f"out/{tag}/codebook", book)
        words = retrieval.pack_bits(jnp.asarray(book))
        apart = np.asarray(retrieval.hamming_distance(words, words))
        golden.check(f"out/{tag}/min_hamming", apart[~np.eye(len(book), dtype=bool)].min())
    for name in golden.names("out/hadamard_*"):
        classes, bits = map(int, name.removeprefix("out/hadamard_").split("_"))
        golden.check(name, codebooks.hadamard_codebook(classes, bits))


@adapter("orthohash", r"codes_and_quantization.*")
def codes_and_quantization(golden: Golden) -> None:
    codes, book = jnp.asarray(golden["in/codes"]), jnp.asarray(golden["in/codebook"])
    labels, bits = golden["in/labels"], codes.shape[1]
    distance = _distances(codes, book)
    golden.check("out/hamming", distance)
    golden.check("out/hamming_normalized", distance / bits)
    for name in golden.names("out/hamming_ternary_*"):
        threshold = float(name.removeprefix("out/hamming_ternary_"))
        golden.check(name, _distances(codes, book, threshold))
    cosine = np.asarray(losses.cosine_logits(codes, book))
    golden.check("out/acc_top1_cosine", np.mean(cosine.argmax(axis=1) == labels))
    golden.check("out/acc_top1_codebook", np.mean(distance.argmin(axis=1) == labels))
    first = golden["in/labels_multi_hot"].argmax(axis=1)
    top = np.argsort(-cosine, axis=1, kind="stable")[:, :5]
    hit = np.mean((top == first[:, None]).any(axis=1))
    golden.check("out/acc_top5_cosine_multi", hit.reshape(1))
    golden.check("out/codebook_similarity", losses.codebook_similarity(book))
    for kind in ("cs", "l1", "l2"):
        golden.check(f"out/quan_{kind}", losses.quantization_error(codes, kind))


def _distances(a: jax.Array, b: jax.Array, threshold: float = 0.0) -> np.ndarray:
    """Hamming distances of sign codes; half-integers where ternary codes hold zeros."""
    signs = [np.asarray(retrieval.binarize(x, threshold), np.float32) for x in (a, b)]
    return 0.5 * (a.shape[1] - signs[0] @ signs[1].T)


@adapter("orthohash", r"map_at_R.*")
def map_at_r(golden: Golden) -> None:
    meta = golden.meta["ctor"]
    at, threshold = meta["R"], meta["threshold_ternary"]
    query, database = (jnp.asarray(golden[f"in/{name}_codes"]) for name in ("query", "db"))
    labels = [golden[f"in/{name}_labels"] for name in ("query", "db")]
    relevant = retrieval.share_label(*labels)
    words = [retrieval.pack_bits(codes) for codes in (query, database)]
    distance = np.asarray(retrieval.hamming_distance(*words))
    golden.check("out/hamming", distance.astype(np.float32))
    order = np.asarray(search.hamming_topk(*words, at, query_block=4)[1])
    golden.check("out/topk_ids_stable", order)
    official = golden["out/topk_ids_official"]
    # The official ranking is itself an input here: only its measure is ours to compute.
    golden.leave_out("out/topk_ids_official", "torch.topk leaves the order of ties open")
    by_official = metrics.mean_average_precision(distance, relevant, at=at, order=official)
    golden.check("out/mAP_R_official", by_official)
    golden.check("out/mAP_R_stable", metrics.mean_average_precision(distance, relevant, at=at))
    golden.check("out/mAP_all_stable", metrics.mean_average_precision(distance, relevant))
    ternary = _distances(query, database, threshold)
    value = metrics.mean_average_precision(ternary, relevant, at=at)
    golden.check("out/mAP_R_stable_ternary", value)

    parts = (words[0], jnp.asarray(labels[0]), words[1], jnp.asarray(labels[1]))
    for cut, name in ((at, "out/mAP_R_stable"), (None, "out/mAP_all_stable")):
        on_device = retrieval.gallery_average_precision(*parts, num_bits=query.shape[1], at=cut)
        golden.check(name, np.mean(np.asarray(on_device, np.float64)))
        on_host = retrieval.mean_average_precision(query, labels[0], database, labels[1], at=cut)
        golden.check(name, on_host)


@adapter("orthohash", r"instance_retrieval.*")
def instance_retrieval(golden: Golden) -> None:
    meta, kind = golden.meta["ctor"], golden["in/kind"]
    words = [retrieval.pack_bits(jnp.asarray(golden[f"in/{n}_codes"])) for n in ("query", "db")]
    ranks = metrics.rank(np.asarray(retrieval.hamming_distance(*words)))
    golden.check("out/ranks_stable", ranks.T)
    results = metrics.revisited_map(ranks, kind == 1, kind == 2, kind == 3, meta["kappas"])
    suffix = "_".join(map(str, meta["kappas"]))
    for name, values in results.items():
        golden.check(f"out/{name}_mAP", values["mAP"])
        golden.check(f"out/{name}_aps", np.nan_to_num(values["aps"], nan=-1.0))
        golden.check(f"out/{name}_mP_at_{suffix}", values["mP"])
    wanted = [set(np.flatnonzero((row == 1) | (row == 2)).tolist()) for row in kind]
    for at in meta["gld_R"]:
        value = metrics.landmark_map(ranks.tolist(), wanted, at)
        golden.check(f"out/gld_mAP_at_{at}", value)
    _check_recalibration(golden)


def _check_recalibration(golden: Golden) -> None:
    weight = golden["in/recal_weight"].T
    bits = weight.shape[1]
    mean, var = model.recalibrate_hash_bn(jnp.asarray(golden["in/recal_db_features"] @ weight))
    params = {
        "hash_fc": {
            "linear": {"kernel": weight},
            "bn": {"scale": jnp.ones(bits), "bias": jnp.zeros(bits)},
        }
    }
    stats = {"hash_fc": {"bn": {"mean": mean, "var": var}}}
    architecture = model.Architecture("feature", bits)
    for name in ("query", "db"):
        x = jnp.asarray(golden[f"in/recal_{name}_features"])
        encoded = model.encode(architecture, params, stats, x, train=False)
        golden.check(f"out/recal_{name}_codes", encoded.codes)


@adapter("orthohash", r"test_transforms.*")
def test_transforms(golden: Golden) -> None:
    for name, config in golden.meta["ctor"].items():
        image = images.resize_shorter(golden["in/image"], config["resize"])
        if config["resize"] != config["crop"]:
            image = images.centre_crop(image, config["crop"])
        golden.check(f"out/{name}", nchw(images.normalise(image)))
