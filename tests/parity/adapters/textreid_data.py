"""TextReID: schedules, batches, images, words, evaluation, checkpoint keys."""

from __future__ import annotations

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.data import images
from jaxcog.data.clip_bpe import ClipBpeTokenizer, token_array
from jaxcog.data.datasets.person_tables import convert_annotations
from jaxcog.data.persons import Draw, PersonCrop
from jaxcog.data.samplers import IdentityChunks
from jaxcog.interop.importer import import_checkpoint
from jaxcog.optim import AfterWarmup, learning_rate
from jaxcog.systems.textreid import retrieval
from jaxcog.systems.textreid.model import Textual, Visual
from jaxcog.systems.textreid.momentum import Momentum
from jaxcog.systems.textreid.search import cosines
from jaxcog.systems.textreid.task import PersonSearch
from jaxcog.task import DataInfo, Setting
from tests.parity.adapters import adapter
from tests.parity.golden import Golden, absolute, nchw

KINDS = {
    "step": "multistep",
    "cosine": "cosine",
    "linear": "linear",
    "exp": "exponential",
    "poly": "exponential_rise",  # what the official "poly" is
}


@adapter("textreid", "lr_schedule.*")
def lr_schedule(golden: Golden) -> None:
    for case, options in golden.meta["cases"].items():
        epochs = options["total_epochs"]
        base = options.get("base_lr", 1e-4)
        milestones = tuple(f"{m} epochs" for m in options["milestones"])
        schedule = AfterWarmup(
            KINDS[options["mode"]] if milestones or options["mode"] != "step" else "constant",
            per="epoch",
            at=milestones,
            gamma=options.get("gamma", 0.1),
            power=options.get("power", 0.9),
            final=options.get("target_lr", 0.0) / base,
            warmup=f"{options['warmup_epochs']} epochs",
            warmup_from=options["warmup_factor"],
            warmup_kind=options["warmup_method"],
        )
        rate = learning_rate(schedule, base, Setting(DataInfo({}, 1), epochs, 1, 1))
        golden.check(f"out/{case}", rate(jnp.arange(epochs)))


@adapter("textreid", "identity_sampler.*")
def identity_sampler(golden: Golden) -> None:
    ctor, identities = golden.meta["ctor"], golden["in/person_id"]
    sampler = IdentityChunks(
        len(identities),
        ctor["batch_size"],
        0,
        identities=identities,
        per_identity=ctor["images_per_pid"],
    )
    picks, order = iter(golden["in/identity_picks"]), golden["in/permutation"]

    def pick(left: np.ndarray) -> np.ndarray:
        places = np.searchsorted(sampler.group_names, next(picks))
        assert set(places) <= set(left)
        return places

    drawn = sampler.drawn(order, pick)
    golden.check("out/batches_drawn", drawn)
    golden.check("out/batches", sampler.in_order(drawn, order))


@adapter("textreid", "transforms.*")
def transforms(golden: Golden) -> None:
    ctor = golden.meta["ctor"]
    crop = PersonCrop(
        (ctor["height"], ctor["width"]),
        tuple(ctor["mean"]),
        tuple(ctor["std"]),
        ctor["padding"],
    )
    for place, row in enumerate(golden["in/params"].tolist()):
        flip, top, left, erase = row[:4]
        image = golden[f"in/image{place}"]
        resized = images.resize(image, *crop.size)
        golden.check(f"out/resized{place}", resized, 1, measure=absolute)
        golden.check(f"out/eval{place}", nchw(crop(image)))
        draw = Draw(bool(flip), top, left, tuple(row[4:8]) if erase else None)
        golden.check(f"out/train{place}", nchw(crop(image, draw)))


@adapter("textreid", "clip_bpe.*")
def clip_bpe(golden: Golden) -> None:
    tokenizer, texts = ClipBpeTokenizer(), json.loads(str(golden["in/strings"]))
    ids = [tokenizer.encode(text) for text in texts]
    golden.check("out/ids", np.concatenate(ids).astype(int))
    golden.check("out/offsets", np.cumsum([0, *map(len, ids)]))
    golden.check("out/tokens", token_array(tokenizer, texts, golden["out/tokens"].shape[1]))


@adapter("textreid", "word_vocabulary.*")
def word_vocabulary(golden: Golden) -> None:
    ctor = golden.meta["ctor"]
    ids, converted = convert_annotations(
        json.loads(str(golden["in/reid_raw"])),
        max_length=ctor["max_length"],
        min_count_exclusive=ctor["word_count_threshold"],
    )
    assert list(ids.items()) == list(json.loads(str(golden["out/word_to_id"])).items())
    for split in ("train", "val", "test"):
        theirs = json.loads(str(golden[f"out/{split}"]))
        assert converted[split]["annotations"] == theirs["annotations"]
        assert sorted(converted[split]["categories"]) == sorted(theirs["categories"])
    golden.leave_out("out/*", "JSON text: compared above as values")


@adapter("textreid", "evaluation.*")
def evaluation(golden: Golden) -> None:
    ctor, stated = golden.meta["ctor"], golden.meta["tolerance"]["metrics_percent_abs"]
    rows, topk = retrieval.first_rows(golden["in/image_id"]), ctor["topk"]
    golden.check("out/gallery_rows", rows)
    image = (golden["in/visual_embed"][rows], golden["in/person_id"][rows])
    text = (golden["in/textual_embed"], golden["in/person_id"])
    neighbours = {"n": ctor["neighbor_num"], "alpha": ctor["alpha"]}
    for name, query, gallery in (("t2i", text, image), ("i2t", image, text)):
        for prefix, rerank in (("", False), ("rerank_", True)):
            values = retrieval.retrieval_metrics(
                query[0],
                gallery[0],
                query[1],
                gallery[1],
                topk=topk,
                rerank=rerank,
                neighbours=neighbours["n"],
                alpha=neighbours["alpha"],
                block=200,
            )
            case, within = f"out/{prefix}{name}", {"measure": absolute, "tolerance": stated}
            golden.check(f"{case}/cmc", [values[f"R@{k}"] for k in topk], **within)
            golden.check(f"{case}/mAP", values["mAP"], **within)
        term = retrieval.k_reciprocal_term(query[0], gallery[0], **neighbours)
        golden.check(f"out/jaccard_term_{name}", scaled_as(golden, name, term, ctor["alpha"]))
    golden.check("out/similarity_t2i", cosines(text[0], image[0]))


def scaled_as(golden: Golden, name: str, term: np.ndarray, alpha: float) -> np.ndarray:
    """The file keeps the term itself, or the overlap that alpha multiplies."""
    largest = float(golden[f"out/jaccard_term_{name}"].max())
    return term if largest <= alpha * 1.0001 else term / alpha


def published(name: str) -> PersonSearch:
    """The task of an official config, such as moco_gru_cliprn50_ls_bs128_2048."""
    depth = re.search(r"(clip)?rn(\d+)", name)
    visual = Visual(f"RN{depth[2]}" if depth[1] else f"imagenet{depth[2]}")
    textual = Textual() if depth[1] else Textual(words="learned", rows=12000)
    queue = re.search(r"_(\d+)$", name)
    momentum = Momentum(queue=int(queue[1])) if name.startswith("moco") else None
    return PersonSearch(visual=visual, textual=textual, momentum=momentum)


@adapter("textreid", "checkpoint_keys.*")
def checkpoint_keys(golden: Golden) -> None:
    """Every key of an official checkpoint goes somewhere, and fills our State completely."""
    for name in golden.under("out/"):
        if not name.startswith("trainable/"):
            check_keys(golden, name)
    golden.leave_out("out/*", "JSON text: compared above as keys and shapes")


def check_keys(golden: Golden, name: str) -> None:
    stated = json.loads(str(golden[f"out/{name}"]))
    batch = int(re.search(r"bs(\d+)", name)[1])
    classes = stated["embed_model.loss_evaluator.projection"][0][1]
    element = {
        "image": jax.ShapeDtypeStruct((384, 128, 3), np.float32),
        "words": jax.ShapeDtypeStruct((105,), np.int32),
        "length": jax.ShapeDtypeStruct((), np.int32),
        "person": jax.ShapeDtypeStruct((), np.int32),
    }
    facts: dict[str, Any] = {"vocabulary_size": 100, "word_width": 512, "mean": 0, "std": 1}
    people = tuple(map(str, range(classes)))
    setting = Setting(DataInfo(element, batch, people, facts=facts), 1, 1, batch)
    task = published(name).build(setting)
    state = jax.eval_shape(task.init, jax.random.key(0))
    parts = [part for part in task.import_parts if part in state and part != "word_table"]
    # One number repeated takes no memory, whatever the shape.
    tensors = {
        key: np.broadcast_to(np.zeros((), dtype), shape) for key, (shape, dtype) in stated.items()
    }
    _, report = import_checkpoint(tensors, task.import_names[0], {n: state[n] for n in parts})
    assert {key for key, _ in report.used} | set(report.ignored) == set(stated)
    assert all(key.endswith("num_batches_tracked") for key in report.ignored)
    trained = {path for _, path in report.used if path.startswith("params/")}
    of_key = dict(report.used)
    for key in json.loads(str(golden[f"out/trainable/{name}"])):
        trained.discard(of_key[key])
    assert not trained, f"{name}: we train what the official code does not: {sorted(trained)[:5]}"
