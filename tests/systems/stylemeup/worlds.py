"""Networks and passes small enough to be compiled in a second."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxcog.systems.stylemeup.losses import Objective, Pass, Weights
from jaxcog.systems.stylemeup.meta import InnerLoop, MetaLearner
from jaxcog.systems.stylemeup.model import CrossModalVAE

SIDE = 4
VAE = CrossModalVAE(
    latent=3, image_size=SIDE, channels=1, trunk="mlp", widths=(5,), decoder=(4,), dropout=0.5
)


def learner(*, objective: Objective | None = None, **inner: object) -> MetaLearner:
    inner = {"lr": 0.1, "remat": False, **inner}
    return MetaLearner(VAE, objective or Objective(weights=Weights(reg=0.1)), InnerLoop(**inner))


def images(key: jax.Array, *leading: int) -> jax.Array:
    return jax.random.uniform(key, (*leading, SIDE, SIDE, 1), minval=-1, maxval=1)


def one_pass(key: jax.Array, batch: int = 2, sketches: int = 2) -> Pass:
    keys = jax.random.split(key, 3)
    return Pass(images(keys[0], batch), images(keys[1], batch), images(keys[2], sketches, batch))


def params_with_psi(key: jax.Array) -> dict:
    params, _ = jax.jit(VAE.init)(key)
    params["psi"] = jnp.abs(jax.random.normal(key, (VAE.feature_size + 1, VAE.latent)))
    return params
