"""Learning to adapt: gradient steps on one style, judged on another (MAML, Finn et al. 2017)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxcog.errors import ConfigError
from jaxcog.systems.stylemeup.losses import (
    Objective,
    Pass,
    PassNoise,
    Terms,
    disentangled_translation_loss,
    draw_noise,
    weighted_l1_regularizer,
)
from jaxcog.systems.stylemeup.model import CrossModalVAE, Modulation, Variables
from jaxcog.systems.stylemeup.ops import sample_transform
from jaxcog.trees import path_name

Adapted = Literal["all", "encoder", "heads"]
_ADAPTED = {"all": ("",), "encoder": ("encoder/",), "heads": ("encoder/content/", "encoder/mu/",
            "encoder/logvar/")}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """Plain gradient descent from the meta-parameters on one task's support.

    lr, steps: of the descent. first_order: its gradient counts as a constant in the outer loop, and
    the regulariser and the feature transformations then learn nothing.
    adapt: which parameters move. clip_norm: of the inner gradient; None: never clipped.
    remat: activations of a pass are computed again for the gradient instead of being kept.
    """

    lr: float = 0.005
    steps: int = 1
    first_order: bool = False
    adapt: Adapted = "all"
    clip_norm: float | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        if not self.lr > 0 or self.steps < 0:
            raise ConfigError(
                f"task.inner: lr={self.lr} must be positive, steps={self.steps} not negative"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"task.inner.clip_norm={self.clip_norm}: positive, or None")


def trainable_mask(params: Variables, adapt: Adapted) -> Any:
    """1.0 for the parameters that the inner loop changes, 0.0 for the others."""

    def moves(path: Any, _: Any) -> float:
        return float(path_name(path).startswith(_ADAPTED[adapt]))

    return jax.tree_util.tree_map_with_path(moves, params)


def inner_adapt(
    params: Variables,
    loss: Callable[[Variables, int], tuple[jax.Array, Any]],
    inner: InnerLoop,
) -> tuple[Variables, list[Any]]:
    """Parameters after `inner.steps` steps of gradient descent, and what the loss gave besides.

    loss(params, step) -> (scalar, anything). Differentiable: the derivative of the result passes
    through every inner gradient, unless `inner.first_order`.
    """
    mask = trainable_mask(params, inner.adapt)
    seen = []
    for step in range(inner.steps):
        grads, found = jax.grad(loss, has_aux=True)(params, step)
        if inner.first_order:
            grads = jax.lax.stop_gradient(grads)
        grads = jax.tree.map(jnp.multiply, grads, mask)
        if inner.clip_norm is not None:
            norm = jnp.sqrt(jnp.maximum(optax.tree.norm(grads, squared=True), 1e-24))
            factor = jnp.minimum(1.0, inner.clip_norm / norm)
            grads = jax.tree.map(lambda g, f=factor: g * f, grads)
        params = jax.tree.map(lambda p, g: p - inner.lr * g, params, grads)
        seen.append(found)
    return params, seen


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskNoise:
    """The randomness of one task; one entry an inner step. transform: None: no layers."""

    inner: tuple[PassNoise | None, ...]
    transform: tuple[Modulation | None, ...]
    outer: PassNoise | None


@dataclasses.dataclass(frozen=True)
class MetaLearner:
    """What the inner and the outer loop optimise.

    Parameters are {"encoder", "decoder"} of the network and, learned through the inner step only,
    "psi" [F + 1, d] of the regulariser and "transform" (see `ops.Theta`), each where it is used.

    stats: frozen statistics of the trunk.
    """

    vae: CrossModalVAE
    objective: Objective
    inner: InnerLoop
    sharpness: float = 100.0
    per_image: bool = False

    def inner_loss(
        self,
        params: Variables,
        learned: Variables,
        batch: Pass,
        noise: PassNoise | None,
        transform: Modulation | None,
        stats: Variables | None,
    ) -> tuple[jax.Array, Terms]:
        """L_trn: the objective and the regulariser. learned: "psi", where there is one."""
        total, terms = disentangled_translation_loss(
            self.vae, params, batch, noise, self.objective, stats=stats, transform=transform
        )
        weight = self.objective.weights.reg
        if weight and "psi" in learned:
            head = params["encoder"]["content"]
            terms = {**terms, "reg": weighted_l1_regularizer(learned["psi"], **head)}
            total = total + weight * terms["reg"]
        return total, {**terms, "total": total}

    def adapt(
        self,
        params: Variables,
        support: Pass,
        noise: TaskNoise | None = None,
        stats: Variables | None = None,
    ) -> tuple[Variables, list[Terms]]:
        """The network's parameters {"encoder", "decoder"} after a look at the support.

        noise: None: as at test time, without dropout and transformations, styles at their means.
        """
        network, learned = split(params)

        def loss(network: Variables, step: int) -> tuple[jax.Array, Terms]:
            own = None if noise is None else noise.inner[step]
            transform = None if noise is None else noise.transform[step]
            return self.inner_loss(network, learned, support, own, transform, stats)

        # Both arguments are closed over or static: only the network is differentiated inside.
        if self.inner.remat and self.inner.steps:
            loss = jax.checkpoint(loss, static_argnums=(1,))
        return inner_adapt(network, loss, self.inner)

    def objective_of(
        self,
        params: Variables,
        support: Pass,
        query: Pass,
        noise: TaskNoise | None,
        stats: Variables | None = None,
    ) -> tuple[jax.Array, tuple[list[Terms], Terms]]:
        """(L_tst after adaptation, (terms of the inner steps, terms of the outer pass))."""
        adapted, inner_terms = self.adapt(params, support, noise, stats)

        def outer(network: Variables) -> tuple[jax.Array, Terms]:
            own = None if noise is None else noise.outer
            return disentangled_translation_loss(
                self.vae, network, query, own, self.objective, stats=stats
            )

        total, terms = (jax.checkpoint(outer) if self.inner.remat else outer)(adapted)
        return total, (inner_terms, {**terms, "total": total})

    def joint(
        self,
        params: Variables,
        batches: tuple[Pass, ...],
        keys: jax.Array,
        stats: Variables | None = None,
    ) -> tuple[jax.Array, Terms]:
        """Without meta-learning: the mean objective of the passes, each with its own key."""
        network, _ = split(params)
        totals: list[jax.Array] = []
        last: Terms = {}
        for batch, key in zip(batches, keys, strict=True):
            noise = self.noise_of(key, batch)
            total, last = disentangled_translation_loss(
                self.vae, network, batch, noise, self.objective, stats=stats
            )
            totals.append(total)
        total = jnp.mean(jnp.stack(totals))
        return total, {**last, "total": total}

    def noise_of(self, key: jax.Array, batch: Pass) -> PassNoise:
        """The randomness of one pass."""
        sketches, examples = batch.sketches.shape[:2]
        return draw_noise(key, self.vae, self.objective, examples, sketches)

    def draw(self, params: Variables, key: jax.Array, support: Pass, query: Pass) -> TaskNoise:
        """The randomness of one task; depends on "transform", so that it is learned."""
        inner, transforms = [], []
        for step in range(self.inner.steps):
            first, second = jax.random.split(jax.random.fold_in(key, step))
            inner.append(self.noise_of(first, support))
            theta = params.get("transform")
            images = None
            if self.per_image:
                images = (2 + support.sketches.shape[0]) * support.positive.shape[0]
            transforms.append(
                None
                if theta is None
                else sample_transform(theta, second, images=images, sharpness=self.sharpness)
            )
        outer = self.noise_of(jax.random.fold_in(key, self.inner.steps), query)
        return TaskNoise(tuple(inner), tuple(transforms), outer)


def split(params: Variables) -> tuple[Variables, Variables]:
    """(what the inner loop starts from, what is learned beside it)."""
    network: Variables = {n: params[n] for n in ("encoder", "decoder") if n in params}
    return network, {name: value for name, value in params.items() if name not in network}
