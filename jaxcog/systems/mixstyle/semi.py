"""Semi-supervised domain generalisation and domain adaptation with MixStyle (IJCV 2023)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.optim import Optimizer, Schedule, gradient_step, initial_state
from jaxcog.systems.mixstyle import figures, judging
from jaxcog.systems.mixstyle.fixmatch import Draws, Parts, Pass, fixmatch_mixstyle_loss, statistics
from jaxcog.systems.mixstyle.layer import MixStyle
from jaxcog.systems.mixstyle.model import Network, stages_of
from jaxcog.systems.mixstyle.torch_names import NAMES
from jaxcog.task import Batch, Key, Setting, State, Task

_STREAMS = ("labelled", "unlabelled")
_VIEWS = ("weak", "strong", "label")


def _sgd() -> Optimizer:
    cosine = Schedule(kind="cosine", per="epoch")
    return Optimizer(name="sgd", lr=3e-3, momentum=0.9, weight_decay=5e-4, schedule=cosine)


def _crossdomain() -> MixStyle:
    return MixStyle(mix="crossdomain")


@dataclasses.dataclass(frozen=True)
class SemiSupervised:
    """FixMatch with MixStyle; the defaults are the paper's for PACS with few labels.

    Batches: {"labelled": {...}, "unlabelled": {...}}, each with "weak" and "strong" [B, H, W, 3]
    float32, two views of the same images, and "label" [B] int32; the unlabelled labels are only
    measured with. Evaluation batches have "image" and "label".

    mixstyle: between the two halves of the joined batch; p=0 is plain FixMatch.
    threshold: least probability of a pseudo label that counts. weight_u: of its loss.
    mix_labelled: random MixStyle in the supervised pass too (multi-source adaptation).
    pseudo_labels: "train" makes them with batch statistics, which they change, as the official
      code; "eval" with running ones.
    hidden, dropout, headline: as in `Classification`.
    """

    network: str = "resnet18"
    mixstyle: MixStyle = dataclasses.field(default_factory=_crossdomain)
    threshold: float = 0.95
    weight_u: float = 1.0
    mix_labelled: bool = False
    pseudo_labels: Literal["train", "eval"] = "train"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.5
    optimizer: Optimizer = dataclasses.field(default_factory=_sgd)
    headline: judging.Headline = "accuracy"

    def __post_init__(self) -> None:
        self.mixstyle.check_stages(stages_of(self.network))
        judging.check_head(self.hidden, self.dropout)
        judging.check_headline(self.headline)
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"task.threshold={self.threshold}: a probability, between 0 and 1")
        if self.weight_u < 0:
            raise ConfigError(f"task.weight_u={self.weight_u}: a weight, not negative")
        if self.pseudo_labels not in ("train", "eval"):
            raise ConfigError(f'task.pseudo_labels="{self.pseudo_labels}": "train" or "eval"')

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        _check_streams(setting)
        eval_element = setting.data.eval_element or {}
        height, width, channels = judging.image_shape(setting, eval_element)
        network = Network(
            backbone=self.network,
            num_classes=setting.data.num_classes,
            hidden=self.hidden,
            dropout=self.dropout,
            dtype=setting.dtype,
        )
        probabilities = judging.probabilities(network)

        def init(key: Key) -> State:
            params, stats = network.init(rng.stream(key, "init"), (height, width, channels))
            return initial_state(params, self.optimizer, setting, batch_stats=stats)

        def loss(params: Any, state: State, batch: Batch, key: Key) -> Any:
            rows = len(batch["labelled"]["label"])
            both = rows + len(batch["unlabelled"]["label"])
            alone = dataclasses.replace(self.mixstyle, mix="random")
            draws_x = alone.draws(rng.stream(key, "labelled"), rows) if self.mix_labelled else {}
            draws = self.mixstyle.draws(rng.stream(key, "mixstyle"), both)
            stats = state["batch_stats"]
            value, parts = self.objective(network, params, stats, batch, draws, draws_x, key)
            labels = batch["labelled"]["label"], batch["unlabelled"]["label"]
            return value, ({"batch_stats": parts.batch_stats}, statistics(parts, *labels))

        return Task(
            init=init,
            train_step=gradient_step(loss, self.optimizer, setting),
            eval_step=judging.eval_step(network),
            summarize=judging.summarize,
            headline=self.headline,
            figures=figures.report(setting.data, probabilities),
            predict=figures.prediction(setting.data, probabilities, (height, width)),
            import_names=NAMES,
        )

    def objective(
        self,
        network: Network,
        params: Any,
        batch_stats: Any,
        batch: Batch,
        draws: Draws,
        draws_labelled: Draws,
        key: Key | None = None,
    ) -> tuple[jax.Array, Parts]:
        """The loss of one batch under given draws, and its parts; `key` is for dropout."""

        def apply(which: Pass, stats: Any, images: jax.Array, draws: Draws) -> Any:
            pseudo = which == "pseudo"
            out = network.apply(
                jax.lax.stop_gradient(params) if pseudo else params,
                stats,
                images,
                train=not pseudo or self.pseudo_labels == "train",
                draws=draws,
                key=None if key is None else rng.stream(key, f"dropout {which}"),
                **self.mixstyle.options,
            )
            return out.logits, out.batch_stats

        return fixmatch_mixstyle_loss(
            apply,
            batch_stats,
            batch["labelled"],
            batch["unlabelled"],
            draws=draws,
            draws_labelled=draws_labelled,
            threshold=self.threshold,
            weight_u=self.weight_u,
        )


def _check_streams(setting: Setting) -> None:
    element = setting.data.element
    missing = [name for name in _STREAMS if name not in element] or [
        f"{name}.{view}" for name in _STREAMS for view in _VIEWS if view not in element[name]
    ]
    if missing:
        raise ConfigError(
            f"semi-supervised training needs the streams {' and '.join(_STREAMS)}, each with "
            f"{', '.join(_VIEWS)}; the data has no {', '.join(missing)}: choose a dataset with "
            "few labels or for adaptation, such as data/datasets/semi.py has"
        )
