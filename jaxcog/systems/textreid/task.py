"""Text-based person search (BMVC 2021): training with momentum contrast, judging by retrieval."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.interop.names import NameTable
from jaxcog.metrics.state import Concat
from jaxcog.nn.clip_resnet import grid_of
from jaxcog.optim import Optimizer, Rule, Schedule, gradient_step, initial_state
from jaxcog.systems.textreid import figures, losses, torch_names
from jaxcog.systems.textreid import momentum as moco
from jaxcog.systems.textreid.model import Network, Textual, Visual, embed
from jaxcog.systems.textreid.momentum import Momentum
from jaxcog.systems.textreid.retrieval import summarize
from jaxcog.task import Batch, Key, Setting, State, Task, judged


@dataclasses.dataclass(frozen=True)
class Losses:
    """Weights of the terms; the first two are the published ones, beside `Momentum`'s contrast.

    instance, align: see `losses`. epsilon: label smoothing of the identities. alpha, beta,
      scale_pos, scale_neg: of the alignment.
    cmpm, cmpc, sdm, itc, tal: objectives of other methods. same_person: SDM's weight of other
      images of the same person; None: 1. row_sums: CMPM's target is a distribution, which the
      official one is not.
    """

    instance: float = 1.0
    align: float = 1.0
    epsilon: float = 0.1
    alpha: float = 0.6
    beta: float = 0.4
    scale_pos: float = 10.0
    scale_neg: float = 40.0
    cmpm: float = 0.0
    cmpc: float = 0.0
    sdm: float = 0.0
    itc: float = 0.0
    tal: float = 0.0
    same_person: float | None = None
    row_sums: bool = False

    def __post_init__(self) -> None:
        names = ("instance", "align", "cmpm", "cmpc", "sdm", "itc", "tal")
        negative = [name for name in names if getattr(self, name) < 0]
        if negative:
            raise ConfigError(f"task.losses: weights must not be negative: {', '.join(negative)}")
        if not 0 <= self.epsilon < 1:
            raise ConfigError(f"task.losses.epsilon={self.epsilon}: at least 0, below 1")

    def terms(
        self, projection: jax.Array, v: jax.Array, t: jax.Array, batch: Batch
    ) -> dict[str, jax.Array]:
        """The weighted terms by name, those of weight 0 left out."""
        labels = batch["person"]
        images = None if self.same_person is None else batch["image_id"]
        make = {
            "instance": lambda: losses.instance_loss(
                projection, v, t, labels, epsilon=self.epsilon
            ),
            "align": lambda: losses.global_align_loss(
                v,
                t,
                labels,
                alpha=self.alpha,
                beta=self.beta,
                scale_pos=self.scale_pos,
                scale_neg=self.scale_neg,
            ),
            "cmpm": lambda: losses.cmpm_loss(v, t, labels, row_sums=self.row_sums),
            "cmpc": lambda: losses.cmpc_loss(projection, v, t, labels),
            "sdm": lambda: losses.sdm_loss(
                v, t, labels, image_ids=images, factor=self.same_person or 1.0
            ),
            "itc": lambda: losses.itc_loss(v, t),
            "tal": lambda: losses.triplet_alignment_loss(v, t, labels),
        }
        weights = {name: getattr(self, name) for name in make}
        return {name: w * make[name]() for name, w in weights.items() if w}


def _adam() -> Optimizer:
    return Optimizer(
        name="adam",
        lr=1e-4,
        weight_decay=4e-5,
        schedule=Schedule(
            "multistep",
            per="epoch",
            warmup="5 epochs",
            warmup_from=0.1,
            at=("40 epochs", "70 epochs"),
        ),
        rules=(Rule("bias", lr=2.0, decay=0.0),),
    )


@dataclasses.dataclass(frozen=True)
class PersonSearch:
    """Sentences and person crops in one space; the defaults are the published system.

    Batches: "image" [B, H, W, 3] float32, normalised; "words" int32 [B, T], right-padded with 0;
    "length" [B]; "person" [B], identities from 0; "image_id" [B]. In evaluation "words" is
    [B, M, T] and "length" [B, M], 0 where an image has fewer than M captions.

    embed: D, width of the space. momentum: None is the simple head, without queues.
    rerank: evaluation also reports the ranking with the neighbours' term (`retrieval`).
    """

    visual: Visual = dataclasses.field(default_factory=Visual)
    textual: Textual = dataclasses.field(default_factory=Textual)
    embed: int = 256
    momentum: Momentum | None = dataclasses.field(default_factory=Momentum)
    losses: Losses = dataclasses.field(default_factory=Losses)
    rerank: bool = False
    optimizer: Optimizer = dataclasses.field(default_factory=_adam)

    def __post_init__(self) -> None:
        if self.embed < 1:
            raise ConfigError(f"task.embed={self.embed}: a width, at least 1")
        if self.momentum is not None and self.optimizer.accumulate > 1:
            raise ConfigError(
                f"task.optimizer.accumulate={self.optimizer.accumulate}: a queue takes whole "
                "batches, one an update; set it to 1, or task.momentum to None"
            )
        if self.momentum is not None and self.momentum.official_reinit and not self.visual.is_clip:
            raise ConfigError(
                f"task.momentum.official_reinit is about CLIP's attention pool; {self.visual.name} "
                "has none: set it to False"
            )

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        shape = self._check(setting)
        network = self.network(setting)
        mesh = setting.mesh if moco.splits(setting.mesh) else None
        table = word_table(self.textual, setting)

        def init(key: Key) -> State:
            rows = None if table is None else table(rng.stream(key, "words"))
            params, stats = network.init(rng.stream(key, "init"), shape, rows)
            extra = {} if rows is None else {"word_table": rows}
            if self.momentum is not None:
                extra |= {
                    "keys": moco.init_keys(self.momentum, params, stats, rng.stream(key, "keys")),
                    "queue": moco.init_queue(
                        self.momentum, self.embed, setting.batch_size, rng.stream(key, "queue")
                    ),
                }
            return initial_state(params, self.optimizer, setting, batch_stats=stats, **extra)

        def loss(params: Any, state: State, batch: Batch, key: Key) -> Any:
            return objective(self, network, params, state, batch, mesh=mesh)

        encoders = _Encoders(network)
        return Task(
            init=init,
            train_step=gradient_step(loss, self.optimizer, setting),
            eval_step=_eval_step(encoders),
            summarize=lambda results: summarize(results, rerank=self.rerank),
            headline="R@1",
            partition=_partition(self, setting),
            figures=figures.report(setting.data),
            predict=figures.prediction(setting.data, encoders, shape),
            reads="images and sentences",
            import_names=self._import_names(setting),
            import_parts=("params", "batch_stats", "keys", "queue", *_unknown_table(setting)),
        )

    def network(self, setting: Setting) -> Network:
        """The encoders and head that this task trains."""
        momentum = self.momentum or Momentum()
        return Network(
            visual=self.visual,
            textual=self.textual,
            classes=setting.data.num_classes,
            vocabulary=int(setting.data.facts["vocabulary_size"]),
            context=setting.data.element["words"].shape[0],
            embed=self.embed,
            projector=self.momentum is not None and momentum.projector,
            official_reinit=self.momentum is not None and momentum.official_reinit,
            dtype=setting.dtype,
        )

    def _import_names(self, setting: Setting) -> tuple[NameTable, ...]:
        """The authors' checkpoints, then what a run may begin from."""
        if not self.visual.is_clip:
            start = torch_names.IMAGENET
        else:
            shape = setting.data.element["image"].shape
            grid = grid_of(shape[0], shape[1], self.visual.last_stride)
            both = self.textual.kind == "transformer"
            start = torch_names.clip_towers(grid) if both else torch_names.clip_tower(grid)
        words: torch_names.Words = self.textual.words
        if words == "given" and setting.data.facts.get("word_width") != self.textual.embedding:
            words = "projected"
        return torch_names.official(self.visual.is_clip, words, setting.batch_size), start

    def _check(self, setting: Setting) -> tuple[int, ...]:
        """Checks the data against the task; returns the shape of an image."""
        data = setting.data
        needed = {"image", "words", "length", "person"}
        if self.losses.same_person is not None:
            needed.add("image_id")
        missing = sorted(needed - data.element.keys())
        if missing or "vocabulary_size" not in data.facts:
            raise ConfigError(
                f"textreid needs {', '.join(sorted(needed))} in each example; the data lacks "
                f"{', '.join(missing) or 'a vocabulary'}: choose a dataset of persons and captions"
            )
        if data.num_classes < 2:
            raise ConfigError(
                f"textreid learns from identities, the data names {data.num_classes}: choose "
                "another dataset"
            )
        tokens = data.facts.get("tokens", "words")
        wanted = "bpe" if self.textual.kind == "transformer" else "words"
        if tokens != wanted:
            raise ConfigError(
                f'task.textual.kind="{self.textual.kind}" reads {wanted}, the data makes {tokens}: '
                f'set data.tokens to "{wanted}"'
            )
        if 0 < self.textual.rows < int(data.facts["vocabulary_size"]):
            raise ConfigError(
                f"task.textual.rows={self.textual.rows}: the vocabulary has "
                f"{data.facts['vocabulary_size']} ids; use so many rows, or 0"
            )
        shape = data.element["image"].shape
        side = 16 * self.visual.last_stride
        if self.visual.is_clip and (shape[0] % side or shape[1] % side):
            raise ConfigError(
                f"images of {shape[0]} x {shape[1]}: CLIP's ResNets with last_stride="
                f"{self.visual.last_stride} need multiples of {side}; change data.size"
            )
        return shape


def small_search(
    momentum: Momentum | None, words: Literal["given", "learned"] = "given"
) -> PersonSearch:
    """The task of the generated persons, with networks that a laptop trains in seconds."""
    return PersonSearch(
        visual=Visual("small"),
        textual=Textual(words=words, hidden=32, embedding=24),
        embed=32,
        momentum=momentum,
        optimizer=Optimizer(
            name="adam", lr=4e-3, schedule=Schedule("multistep", at=("400 steps",))
        ),
    )


def objective(
    config: PersonSearch,
    network: Network,
    params: Any,
    state: State,
    batch: Batch,
    *,
    mesh: Any = None,
) -> tuple[jax.Array, tuple[State, dict[str, jax.Array]]]:
    """(loss, (entries of the State that change, scalars)) of one update."""
    table = state.get("word_table")
    encoded = network.encode(
        params,
        state["batch_stats"],
        batch["image"],
        batch["words"],
        batch["length"],
        table,
        train=True,
    )
    features = {"visual": encoded.visual, "textual": encoded.textual}
    head = params["head"]
    v, t = (embed(head, modality, features[modality]) for modality in ("visual", "textual"))
    scalars = config.losses.terms(head["projection"], v, t, batch)
    changed = {"batch_stats": encoded.batch_stats}
    if config.momentum is not None:
        first = state["step"] == 0
        keys = moco.update_keys(config.momentum, state["keys"], params, state["batch_stats"], first)
        made = moco.contrast(
            config.momentum,
            network,
            params,
            keys,
            state["queue"],
            batch,
            features,
            table=table,
            mesh=mesh,
        )
        scalars |= {"contrast": made.loss}
        changed |= {"keys": made.keys, "queue": made.queue}
    total = sum(scalars.values(), jnp.zeros(()))
    if config.momentum is not None:
        scalars |= {"negatives": made.negatives}
    return total, (changed, scalars)


def word_table(textual: Textual, setting: Setting) -> Any:
    """A function key -> word vectors [V, W] for the State, or None where they are learned.

    Data that was only described may know no more than their width; random ones stand in for them.

    Raises ConfigError where there are none, or they belong to another vocabulary.
    """
    if not textual.needs_table:
        return None
    facts = setting.data.facts
    size, width, table = int(facts["vocabulary_size"]), facts.get("word_width"), None
    if not width:
        raise ConfigError(
            'task.textual.words="given" needs word vectors: name a table with data.word_table '
            '(.npy, one row an id), or set task.textual.words="learned"'
        )
    if facts.get("word_table") is not None:
        table = np.asarray(facts["word_table"], np.float32)
        if table.shape != (size, width):
            raise ConfigError(
                f"data.word_table is {list(table.shape)}, the vocabulary has {size} ids (id 0 is "
                "padding): they belong to different vocabularies; use the table made for this one, "
                "or name the table's own word list with data.vocabulary"
            )
    if table is None:
        return lambda key: 0.5 * jax.random.normal(key, (size, width), jnp.float32)
    return lambda key: jnp.asarray(table)


def _unknown_table(setting: Setting) -> tuple[str, ...]:
    """The word table counts as missing from an imported checkpoint unless the data brought it."""
    facts = setting.data.facts
    return ("word_table",) if facts.get("word_table") is None else ()


class _Encoders:
    """State and inputs to embeddings [B, D], un-normalised, by the query encoders."""

    def __init__(self, network: Network):
        self.network = network

    def images(self, state: State, images: jax.Array) -> jax.Array:
        params = judged(state)
        features, _ = self.network.images(params, state["batch_stats"], images, train=False)
        return embed(params["head"], "visual", features)

    def sentences(self, state: State, words: jax.Array, length: jax.Array) -> jax.Array:
        params = judged(state)
        features = self.network.sentences(params, words, length, state.get("word_table"))
        return embed(params["head"], "textual", features)


def _eval_step(encoders: _Encoders) -> Any:
    def eval_step(state: State, batch: Batch) -> dict[str, Any]:
        words, length = batch["words"], batch["length"]
        flat = encoders.sentences(state, words.reshape(-1, words.shape[-1]), length.reshape(-1))
        rows = {
            "visual": encoders.images(state, batch["image"]),
            "textual": flat.reshape(*length.shape, -1),
            "captions": jnp.sum(length > 0, axis=1),
            "person": batch["person"],
        }
        return {"rows": Concat.of(rows, batch.get("mask"))}

    return eval_step


def _partition(config: PersonSearch, setting: Setting) -> tuple[tuple[str, P], ...]:
    """The queue over the batch axes; identities and large projections over the model axis."""
    sizes = {} if setting.mesh is None else dict(setting.mesh.shape)
    rules = list(moco.PARTITION) if config.momentum is not None else []
    shards = sizes.get("model", 1)
    if shards > 1 and setting.data.num_classes % shards == 0:
        rules.append((r"^params/head/projection$", P(None, "model")))
    if shards > 1 and config.visual.is_clip:
        rules.append((r"^params/visual/attnpool/[qkv]_proj/kernel$", P(None, "model")))
    return tuple(rules)
