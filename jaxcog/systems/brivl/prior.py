"""A VQGAN as a run of its own: to import the official one, or to train a small one."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog import rng
from jaxcog.errors import ConfigError
from jaxcog.metrics.state import Mean
from jaxcog.optim import Optimizer, gradient_step, initial_state
from jaxcog.show import Figure, File, Gallery, Picture
from jaxcog.systems.brivl import ops, torch_names, vqgan
from jaxcog.task import Batch, Key, Setting, State, Task


@dataclasses.dataclass(frozen=True)
class Prior:
    """Images to codes and back; batches: "image" [B, S, S, 3] uint8.

    Training here minimises the absolute error and the quantiser's loss. The official model's
    perceptual and adversarial losses are not part of this room: import its weights for natural
    images.
    """

    vqgan: vqgan.VQGANConfig = dataclasses.field(default_factory=vqgan.VQGANConfig)
    optimizer: Optimizer = dataclasses.field(
        default_factory=lambda: Optimizer(name="adam", lr=4.5e-6, betas=(0.5, 0.9))
    )

    def build(self, setting: Setting) -> Task:
        """Raises ConfigError where images cannot be halved as often as the VQGAN does."""
        config = self.vqgan
        shape = setting.data.element["image"].shape
        if shape[0] % config.factor:
            raise ConfigError(
                f"images of {shape[0]} pixels and task.vqgan.multipliers={config.multipliers}: the "
                f"side must be a multiple of {config.factor}"
            )

        def init(key: Key) -> State:
            params = vqgan.init_vqgan(rng.stream(key, "init"), config)
            return initial_state(params, self.optimizer, setting)

        def rebuilt(params: Any, images: jax.Array) -> Any:
            codes, extra, indices = vqgan.quantise(
                params["codebook"], vqgan.encode(params, images, config), config.beta
            )
            return vqgan.decode(params, codes, config), extra, indices

        def loss(params: Any, state: State, batch: Batch, key: Key) -> Any:
            images = 2 * ops.to_float(batch["image"]) - 1
            out, extra, _ = rebuilt(params, images)
            error = jnp.mean(jnp.abs(out - images))
            return error + extra, ({}, {"error": error, "quantisation": extra})

        def eval_step(state: State, batch: Batch) -> dict[str, Any]:
            images = 2 * ops.to_float(batch["image"]) - 1
            out, _, _ = rebuilt(state["params"], images)
            error = jnp.mean(jnp.abs(out - images), axis=(1, 2, 3))
            return {"error": Mean.of(error, batch.get("mask"))}

        return Task(
            init=init,
            train_step=gradient_step(loss, self.optimizer, setting),
            eval_step=eval_step,
            summarize=_summarize,
            headline="error",
            higher_is_better=False,
            predict=_prediction(self, jax.jit(lambda params, x: rebuilt(params, x)[0])),
            import_names=torch_names.VQGAN,
        )


def _summarize(results: Mapping[str, Any]) -> dict[str, float]:
    return {"error": next(iter(results.values()))["error"].compute()}


def _prediction(prior: Prior, rebuild: Any) -> Any:
    side = prior.vqgan.resolution

    def predict(state: State, images: Sequence[np.ndarray], names: Sequence[str]) -> list[Figure]:
        """Each image beside what its codes say, and the weights as prior.npz."""
        rows = []
        for image, name in zip(images, names, strict=True):
            x = ops.resize(ops.to_float(jnp.asarray(image)), side, antialias=True)
            out = np.asarray(rebuild(state["params"], 2 * x[None] - 1))[0]
            rgb = np.round(255 * np.clip(out / 2 + 0.5, 0, 1)).astype(np.uint8)
            rows.append((name, [Picture(image, "image"), Picture(rgb, "from its codes")]))
        buffer = io.BytesIO()
        np.savez(buffer, **vqgan.to_arrays(state["params"], prior.vqgan))
        note = "Give it to `jaxcog predict` of a BriVL run, beside sentences."
        return [
            Gallery("Reconstructions", rows),
            File("The VQGAN", "prior.npz", buffer.getvalue(), note),
        ]

    return predict
