"""DLFS (ICCV 2021) and LATS: training on pairs of ages, and judging."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.optim import Optimizer, Rule, Schedule, learning_rate, make_optimizer
from jaxcog.systems.dlfs import figures, judging, model, steps, torch_names
from jaxcog.systems.dlfs.steps import Objective
from jaxcog.task import Batch, Key, Scalars, Setting, State, Task

SLOW = Rule(r"mlp/|style/|texture_style/", lr=0.01)
"""The mapping network and every style layer learn a hundred times slower."""


def adam(network: str) -> Optimizer:
    """Adam as the official code has it; "generator" or "discriminator"."""
    return Optimizer(
        name="adam",
        lr=1e-3,
        betas=(0.0, 0.999),
        schedule=Schedule("multistep", at=("50 epochs", "100 epochs"), gamma=0.5, per="epoch"),
        rules=(SLOW,) if network == "generator" else (),
    )


@dataclasses.dataclass(frozen=True)
class Synthesis:
    """A face at every age; the defaults are the paper's for 256 x 256.

    Batches are pairs of two age classes: "image" [P, 2, H, W, 3] float32 in [-1, 1], "label" [P, 2]
    int32. Evaluation: single images. Sizes of the networks: see `model.Architecture`.

    stddev_group: None compares the whole batch, over all devices.
    verified_above: cosine of identity features above which two faces count as one person.
    traversal_step: distance between frames of the film that `predict` makes.
    """

    generator: model.GeneratorKind = "dlfs"
    width: int = 64
    downsamples: int = 2
    stem: int = 7
    blocks: int = 4
    identity_features: int = 512
    texture_features: tuple[int, ...] = (512, 1024)
    age_features: tuple[int, ...] = (64, 128, 256, 512, 1024)
    latent: int = 256
    mapping: int = 8
    styled_blocks: int = 4
    shape_transform: bool = True
    texture_transform: bool = True
    dims_per_class: int = 50
    discriminator_width: int = 64
    discriminator_layers: int = 6
    logit_activation: bool = True
    stddev_group: int | None = None
    encoder_norm: Literal["pixel", "instance"] = "pixel"
    remat: bool = True
    objective: Objective = dataclasses.field(default_factory=Objective)
    generator_optimizer: Optimizer = dataclasses.field(default_factory=lambda: adam("generator"))
    discriminator_optimizer: Optimizer = dataclasses.field(
        default_factory=lambda: adam("discriminator")
    )
    verified_above: float = 0.8
    traversal_step: float = 0.05

    def __post_init__(self) -> None:
        for name in ("width", "latent", "mapping", "dims_per_class", "discriminator_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task.{name}={getattr(self, name)}: at least 1")
        if not 0 < self.traversal_step <= 1:
            raise ConfigError(f"task.traversal_step={self.traversal_step}: above 0, at most 1")
        for name in ("generator_optimizer", "discriminator_optimizer"):
            config = getattr(self, name)
            if config.accumulate != 1 or config.ema is not None:
                raise ConfigError(
                    f"task.{name}: accumulate and ema are not for this task; it has its own "
                    "average (task.objective.ema)"
                )

    def architecture(self, classes: int, dtype: Any = jnp.float32) -> model.Architecture:
        """The networks for a number of age classes."""
        own = {field.name for field in dataclasses.fields(model.Architecture)}
        shared = {name: getattr(self, name) for name in own if hasattr(self, name)}
        return model.Architecture(**{**shared, "num_classes": classes, "dtype": dtype})

    def build(self, setting: Setting) -> Task:
        """The pure functions. Raises ConfigError where the data does not fit."""
        size = _check_data(self, setting)
        arch = self.architecture(setting.data.num_classes, setting.dtype)
        configs = {
            "generator": self.generator_optimizer,
            "discriminator": self.discriminator_optimizer,
        }

        def optimizers(params: Any) -> dict[str, Any]:
            return {
                name: make_optimizer(config, params[name], setting)
                for name, config in configs.items()
            }

        def init(key: Key) -> State:
            params = {
                "generator": model.init_generator(arch, rng.stream(key, "generator"), size),
                "discriminator": model.init_discriminator(
                    arch, rng.stream(key, "discriminator"), size
                ),
            }
            made = optimizers(params)
            return {
                "step": jnp.zeros((), jnp.int32),
                "params": params,
                "opt": {name: made[name].init(params[name]) for name in params},
                "ema": {"generator": jax.tree.map(jnp.copy, params["generator"])},
            }

        rate = learning_rate(
            self.generator_optimizer.schedule, self.generator_optimizer.lr, setting
        )

        def train_step(state: State, batch: Batch, key: Key) -> tuple[State, dict[str, jax.Array]]:
            pairs = len(batch["label"])
            shape = (2, pairs, 4, arch.code_length)
            noise = jax.random.normal(rng.stream(key, "codes", state["step"]), shape)
            new, scalars = steps.update(
                arch,
                self.objective,
                optimizers(state["params"]),
                state,
                batch["image"],
                batch["label"],
                noise,
            )
            sums: Scalars = {
                f"{network}_loss": steps.total(
                    {k: v for k, v in scalars.items() if k.startswith(prefix)}
                )
                for network, prefix in (("discriminator", "d_"), ("generator", "g_"))
            }
            return new, {**scalars, **sums, "lr": rate(state["step"])}

        names = torch_names.DLFS if self.generator == "dlfs" else torch_names.LATS
        return Task(
            init=init,
            train_step=train_step,
            eval_step=judging.eval_step(arch, judging.judge_of(arch, setting.data)),
            summarize=judging.summarize(self.verified_above),
            headline="age_accuracy",
            figures=figures.report(arch, setting.data.class_names),
            predict=figures.prediction(arch, setting.data.class_names, size, self.traversal_step),
            import_names=(names, torch_names.DISCRIMINATOR),
            import_parts=("params",),
            import_kept=("^params/discriminator/",),  # the authors' files hold one network each
            after_import=_with_average,
        )


def _with_average(state: State) -> State:
    """The generator's average begins as the generator itself; what is shown is the average."""
    return {**state, "ema": {"generator": state["params"]["generator"]}}


def _check_data(config: Synthesis, setting: Setting) -> int:
    """The images' side."""
    image, label = (setting.data.element.get(name) for name in ("image", "label"))
    classes = setting.data.num_classes
    if image is None or len(image.shape) != 4 or image.shape[0] != 2 or label is None:
        raise ConfigError(
            'dlfs learns from pairs: "image" [2, H, W, 3] and "label" [2] in each example; choose '
            "a dataset of age classes"
        )
    if classes < 2:
        raise ConfigError(f"dlfs: {classes} age classes; at least two are needed")
    size = image.shape[1]
    if size != 4 * 2**config.discriminator_layers:
        raise ConfigError(
            f"task.discriminator_layers={config.discriminator_layers} is for images of "
            f"{4 * 2**config.discriminator_layers} pixels, the data's have {size}: set it to "
            f"log2({size} / 4)"
        )
    adult = config.objective.weights.adult
    if any(not 0 <= index < classes for index in adult):
        raise ConfigError(
            f"task.objective.weights.adult={adult}: positions in the {classes} classes "
            f"({', '.join(setting.data.class_names)}); use () for none"
        )
    vanishing = config.objective.r1 == "official" and config.objective.r1_reference_batch is None
    if vanishing and setting.batch_size > 32:
        raise ConfigError(
            f"with {setting.batch_size} pairs a step the official R1 vanishes (it falls with the "
            "square of the batch): set task.objective.r1-reference-batch, such as 12, or "
            "task.objective.r1 per_sample"
        )
    return size
