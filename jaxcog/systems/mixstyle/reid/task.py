"""Person re-identification across datasets with MixStyle (ICLR 2021): training and judging."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.losses.classification import cross_entropy
from jaxcog.losses.triplet import batch_hard_triplet
from jaxcog.metrics import ranking
from jaxcog.metrics.state import Concat
from jaxcog.optim import Optimizer, Rule, Schedule, gradient_step, initial_state
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.reid import figures
from jaxcog.systems.mixstyle.reid.model import Embedding, ReIDNetwork, stages_of
from jaxcog.systems.mixstyle.reid.torch_names import tables_of
from jaxcog.task import Batch, Key, Scalars, Setting, State, Task, judged

RANKS = (1, 5, 10, 20)


def _sgd() -> Optimizer:
    return Optimizer(
        name="sgd",
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-5,
        schedule=Schedule("step", every="20 epochs", gamma=0.1),
        rules=(Rule("^backbone/", lr=0.2),),
    )


def _mixstyle() -> MixStyle:
    return MixStyle(after=("layer1", "layer2"))


@dataclasses.dataclass(frozen=True)
class ReID:
    """Embeddings from classifying persons; the defaults are the paper's for ResNet-50.

    Batches: "image" [B, H, W, 3] float32, normalised; "person" [B] int32, from 0 in training;
    "camera" [B] int32, by which "crossdomain" finds partners. Evaluation splits "query" and
    "gallery", whose persons are others.

    network: see `model.NETWORKS`. features: size of an embedding.
    label_smoothing: of the classification. triplet, margin: weight of a batch-hard triplet loss on
      the embeddings, 0 in the paper; it needs a sampler of identities.
    """

    network: str = "resnet50"
    mixstyle: MixStyle = dataclasses.field(default_factory=_mixstyle)
    features: int = 512
    label_smoothing: float = 0.1
    triplet: float = 0.0
    margin: float = 0.3
    optimizer: Optimizer = dataclasses.field(default_factory=_sgd)

    def __post_init__(self) -> None:
        self.mixstyle.check_stages(stages_of(self.network))
        if self.features < 1:
            raise ConfigError(f"task.features={self.features}: at least 1")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"task.label_smoothing={self.label_smoothing}: from 0 to below 1")
        if self.triplet < 0 or self.margin <= 0:
            raise ConfigError(
                f"task.triplet={self.triplet}, task.margin={self.margin}: a weight that is not "
                "negative, and a margin above 0"
            )

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        shape = _image_shape(setting)
        network = ReIDNetwork(
            self.network, setting.data.num_classes, self.features, dtype=setting.dtype
        )

        def init(key: Key) -> State:
            params, stats = network.init(rng.stream(key, "init"), shape)
            return initial_state(params, self.optimizer, setting, batch_stats=stats)

        def loss(params: Any, state: State, batch: Batch, key: Key) -> Any:
            persons, cameras = batch["person"], batch["camera"]
            draws = self.mixstyle.draws(rng.stream(key, "mixstyle"), len(persons), cameras)
            out = network.apply(
                params,
                state["batch_stats"],
                batch["image"],
                train=True,
                draws=draws,
                **self.mixstyle.options,
            )
            value, scalars = self.objective(out, persons)
            return value, ({"batch_stats": out.batch_stats}, scalars)

        embed = _embedder(network)
        return Task(
            init=init,
            train_step=gradient_step(loss, self.optimizer, setting),
            eval_step=_eval_step(embed),
            summarize=summarize,
            headline="mAP",
            figures=figures.report(setting.data, embed),
            predict=figures.prediction(setting.data, embed, shape[:2]),
            import_names=tables_of(self.network),
        )

    def objective(self, out: Embedding, persons: jax.Array) -> tuple[jax.Array, Scalars]:
        """The loss of one batch's output, and what is logged beside it."""
        value = cross_entropy(out.logits, persons, label_smoothing=self.label_smoothing)
        right = (jnp.argmax(out.logits, axis=-1) == persons).astype(jnp.float32)
        scalars = {"accuracy": 100 * jnp.mean(right)}
        if self.triplet:
            scalars["triplet"] = batch_hard_triplet(out.features, persons, margin=self.margin)
            value = value + self.triplet * scalars["triplet"]
        return value, scalars


def _image_shape(setting: Setting) -> tuple[int, int, int]:
    missing = [n for n in ("image", "person", "camera") if n not in setting.data.element]
    if missing or setting.data.num_classes < 2:
        raise ConfigError(
            'person re-identification needs "image", "person" and "camera" in each example and at '
            f"least 2 persons; the data has {', '.join(sorted(setting.data.element))} and "
            f"{setting.data.num_classes} persons: choose such a dataset (data/datasets/reid.py)"
        )
    return setting.data.element["image"].shape


def _embedder(network: ReIDNetwork) -> figures.Embed:
    @jax.jit
    def embed(state: State, images: jax.Array) -> jax.Array:
        params = judged(state)
        return network.apply(params, state["batch_stats"], images, train=False).features

    return embed


def _eval_step(embed: figures.Embed) -> Any:
    def eval_step(state: State, batch: Batch) -> dict[str, Any]:
        rows = {"features": embed(state, batch["image"])}
        rows.update({name: batch[name] for name in ("person", "camera")})
        return {"rows": Concat.of(rows, batch.get("mask"))}

    return eval_step


def summarize(results: Mapping[str, Any]) -> dict[str, float]:
    """mAP and CMC in percent: cosine distance, no re-ranking, Market-1501's protocol."""
    query, gallery = (results[split]["rows"].compute() for split in ("query", "gallery"))
    found = ranking.rank(
        query["features"],
        gallery["features"],
        query_ids=query["person"],
        gallery_ids=gallery["person"],
        query_cameras=query["camera"],
        gallery_cameras=gallery["camera"],
    )
    curve = found.cmc(max(RANKS))
    return {
        "mAP": 100 * found.mean_average_precision,
        **{f"rank-{k}": float(100 * curve[k - 1]) for k in RANKS},
        "queries": float(np.int64(found.counted)),
    }
