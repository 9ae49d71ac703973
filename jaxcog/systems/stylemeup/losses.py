"""What the cross-modal VAE is trained with: one pass over photos and sketches, and its terms."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxcog.errors import ConfigError
from jaxcog.losses.triplet import triplet_margin_loss
from jaxcog.systems.stylemeup.model import Codes, CrossModalVAE, Modulation, Variables

Variant = Literal["paper", "released"]
AxisName = str | tuple[str, ...] | None


class Pass(NamedTuple):
    """Images of one pass, float32 in [-1, 1].

    positive, negative [B, S, S, C]: the photo, and another one. sketches [K, B, S, S, C]: of the
    positive photo, in K = 1 or 2 styles.
    """

    positive: jax.Array
    negative: jax.Array
    sketches: jax.Array

    def images(self) -> jax.Array:
        """[2 + K, B, S, S, C] in the order positive, negative, sketches."""
        return jnp.concatenate([self.positive[None], self.negative[None], self.sketches])


class PassNoise(NamedTuple):
    """The randomness of one pass; every encode and decode has its own.

    eps [2 + K, B, d]: standard normal. encoder_keep [2 + K, B, F], decoder_keep [D, B, h, w, C]
    bool: dropout masks, None without dropout; D decodes in the order of `disentangled_translation`.
    """

    eps: jax.Array
    encoder_keep: jax.Array | None = None
    decoder_keep: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Weights:
    """Factors of the terms; a term of weight 0 is not computed.

    kl: of the style's distribution to the standard normal. self_: reconstruction of each image from
    its own codes. style: sketches from the content of one and the style of another. domain: between
    photo and sketch. triplet, triplet_full: on the content, and on content + style. reg: of the
    learned regulariser, in the inner loop.
    """

    kl: float = 1.0
    self_: float = 1.0
    style: float = 1.0
    domain: float = 1.0
    triplet: float = 1.0
    triplet_full: float = 1.0
    reg: float = 1.0

    def __post_init__(self) -> None:
        negative = {n: x for n, x in dataclasses.asdict(self).items() if not x >= 0}
        if negative:
            raise ConfigError(
                f"task.weights: {negative}: must not be negative; 0 leaves a term out"
            )


@dataclasses.dataclass(frozen=True)
class Objective:
    """Which terms, and how much of each.

    variant: of the term "domain". "paper" translates: content of one and style of the other give
      the other. "released" asks one image, made of both codes of a sketch (or the photo), to equal
      the photo (or the sketches), and never adds "self" to its total: `weights.self_` is 0 there.
    """

    variant: Variant = "paper"
    weights: Weights = dataclasses.field(default_factory=Weights)
    margin: float = 0.2

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ConfigError(f"task.objective.margin={self.margin}: must be positive")

    @property
    def reconstructs(self) -> bool:
        """Whether images are decoded from their own codes."""
        released = self.variant == "released" and self.weights.domain > 0
        return released or self.weights.self_ > 0

    def decodes(self, sketches: int) -> int:
        """D, how many images a pass decodes for each example."""
        count = 2 + sketches if self.reconstructs else 0
        count += 2 if self.weights.style > 0 and sketches == 2 else 0
        translates = self.variant == "paper" and self.weights.domain > 0
        return count + (2 * sketches if translates else 0)


def kl_standard_normal(
    mu: jax.Array, logvar: jax.Array, *, axis_name: AxisName = None
) -> jax.Array:
    """KL divergence of normal distributions to the standard one: mean over rows AND dimensions.

    mu, logvar: [..., d] float; logvar is log sigma^2. The device's part if `axis_name` is given.
    """
    each = 0.5 * (jnp.square(mu) + jnp.exp(logvar) - 1 - logvar)
    value = jnp.mean(each)
    return value if axis_name is None else jax.lax.pmean(value, axis_name)


def weighted_l1_regularizer(psi: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """sum(psi * |[kernel; bias]|): a learned, weighted L1 norm of the content head.

    psi [F + 1, d], its last row for the bias; kernel [F, d]; bias [d]. Nothing keeps psi positive.
    """
    return jnp.sum(psi[:-1] * jnp.abs(kernel)) + jnp.sum(psi[-1] * jnp.abs(bias))


def mean_squared(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean over all elements, in float32."""
    return jnp.mean(jnp.square(a - b))


def draw_noise(
    key: jax.Array, vae: CrossModalVAE, objective: Objective, batch: int, sketches: int
) -> PassNoise:
    """The randomness of one pass over `batch` examples with K sketches each."""
    first, second, third = jax.random.split(key, 3)
    images = 2 + sketches
    eps = jax.random.normal(first, (images, batch, vae.latent))
    if not vae.dropout:
        return PassNoise(eps)
    keep = 1 - vae.dropout
    encoder = jax.random.bernoulli(second, keep, (images, batch, vae.feature_size))
    decodes = objective.decodes(sketches)
    if not decodes or not vae.decoder_map:
        return PassNoise(eps, encoder)
    shape = (decodes, batch, *vae.decoder_map)
    return PassNoise(eps, encoder, jax.random.bernoulli(third, keep, shape))


Terms = dict[str, jax.Array]
"""Parts of the objective before weighting, one number an image or pair: "kl" [2 + K]; "self" [2 +
K]; "style" [2]; "domain" [2K] (photo from each sketch, then each sketch from the photo; the
released code takes the second half for the last sketch first); "triplet", "triplet_full" []."""


def disentangled_translation_loss(
    vae: CrossModalVAE,
    params: Variables,
    batch: Pass,
    noise: PassNoise | None,
    objective: Objective,
    *,
    stats: Variables | None = None,
    transform: Modulation | None = None,
    axis_name: AxisName = None,
) -> tuple[jax.Array, Terms]:
    """The objective of one pass without the regulariser: (total, its terms).

    Decodes, in this order and as far as the objective needs them: each image from its own style and
    content; sketch 2 and sketch 1 from the other's content and their own style; the photo from each
    sketch's content and its own style; each sketch from the photo's content and its own style.

    Args:
      batch: the device's part if `axis_name` is given.
      noise: None: styles are their means, and there is no dropout.
      transform: feature transformations of the encoder (inner loop); None: none.

    Returns:
      total: float32 scalar, the weighted sum of the terms' means.
    """
    weights = objective.weights
    images = batch.images()
    codes = _encode(vae, params, images, noise, stats, transform)
    style = codes.mu
    if noise is not None:
        style = style + jnp.exp(0.5 * codes.logvar) * noise.eps
    content, full = codes.content, style + codes.content
    terms: Terms = {}
    if weights.kl:
        terms["kl"] = jax.vmap(kl_standard_normal)(codes.mu, codes.logvar)
    for name, code in (("triplet", content), ("triplet_full", full)):
        if getattr(weights, name):
            terms[name] = triplet_margin_loss(code[2:], code[0], code[1], margin=objective.margin)
    terms |= _reconstruction_terms(vae, params, images, style, content, noise, objective)
    if axis_name is not None:
        terms = jax.lax.pmean(terms, axis_name)
    factors = {**dataclasses.asdict(weights), "self": weights.self_}
    total = sum((factors[name] * jnp.mean(term) for name, term in terms.items()), jnp.zeros(()))
    return total, terms


def _encode(
    vae: CrossModalVAE,
    params: Variables,
    images: jax.Array,
    noise: PassNoise | None,
    stats: Variables | None,
    transform: Modulation | None,
) -> Codes:
    """All images of a pass at once: entries [2 + K, B, ...]."""
    groups, batch = images.shape[:2]
    keep = None if noise is None else noise.encoder_keep
    codes = vae.encode(
        params,
        images.reshape(-1, *images.shape[2:]),
        stats=stats,
        keep=None if keep is None else keep.reshape(-1, keep.shape[-1]),
        transform=transform,
    )
    return jax.tree.map(lambda x: x.reshape(groups, batch, x.shape[-1]), codes)


def _reconstruction_terms(
    vae: CrossModalVAE,
    params: Variables,
    images: jax.Array,
    style: jax.Array,
    content: jax.Array,
    noise: PassNoise | None,
    objective: Objective,
) -> Terms:
    """The terms that need the decoder; all decodes run at once."""
    weights, sketches = objective.weights, range(2, images.shape[0])
    wanted: list[tuple[str, jax.Array, jax.Array]] = []  # (term, code, what it should give)
    if objective.reconstructs:
        wanted += [("self", style[i] + content[i], images[i]) for i in range(images.shape[0])]
    if weights.style and len(sketches) == 2:
        wanted += [("style", content[2] + style[3], images[3])]
        wanted += [("style", content[3] + style[2], images[2])]
    if weights.domain and objective.variant == "paper":
        wanted += [("domain", content[k] + style[0], images[0]) for k in sketches]
        wanted += [("domain", content[0] + style[k], images[k]) for k in sketches]
    if not wanted:
        return {}
    codes = jnp.stack([code for _, code, _ in wanted])
    keep = None if noise is None else noise.decoder_keep
    decoded = vae.decode(
        params,
        codes.reshape(-1, codes.shape[-1]),
        keep=None if keep is None else keep.reshape(-1, *keep.shape[2:]),
    ).reshape(len(wanted), *images.shape[1:])
    found: dict[str, list[jax.Array]] = {}
    for made, (name, _, target) in zip(decoded, wanted, strict=True):
        found.setdefault(name, []).append(mean_squared(made, target))
    if weights.domain and objective.variant == "released":
        found["domain"] = [mean_squared(decoded[k], images[0]) for k in sketches]
        found["domain"] += [mean_squared(decoded[0], images[k]) for k in reversed(sketches)]
    return {name: jnp.stack(values) for name, values in found.items()}
