"""Hashing losses that the paper compares with, each one pure function of a batch.

v [B, K] are continuous codes before any tanh, labels are integers [B] or multi-hot [B, C] as said.
Hyperparameter defaults are those of the authors' framework (FIRe).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxcog.systems.orthohash.losses import quantization_error

BaselineName = Literal[
    "cross_entropy", "bihalf", "greedyhash", "jmlh", "dpn", "csq", "hashnet", "dtsh"
]
CLASSIFIED = ("cross_entropy", "bihalf", "greedyhash", "jmlh")
"""Losses with a linear classifier on the codes, which is trained with the network."""
TARGETED = ("dpn", "csq")
"""Losses that pull codes towards a codebook; the others know only pairs."""


def baseline_loss(
    name: BaselineName,
    codes: jax.Array,
    labels: jax.Array,
    *,
    codebook: jax.Array,
    classify: Callable[[jax.Array], jax.Array],
    key: jax.Array | None = None,
    step: jax.Array | int = 0,
) -> jax.Array:
    """The loss called `name`, with its published hyperparameters, of codes [B, K]; a scalar.

    Args:
      codebook: [C, K] of +-1 (DPN, CSQ).
      classify: codes [B, K] -> logits [B, C] (losses in CLASSIFIED).
      key: draws the bits of JMLH.
      step: update number, by which HashNet's tanh grows steeper.

    Raises:
      ValueError: an unknown name, or no key for JMLH.
    """
    match name:
        case "cross_entropy":
            return classification_loss(classify(codes), labels)
        case "bihalf":
            return bihalf_loss(classify(balanced_sign(codes)), codes, labels)
        case "greedyhash":
            return greedyhash_loss(classify(straight_through_sign(codes)), codes, labels)
        case "jmlh":
            if key is None:
                raise ValueError("jmlh draws its bits: give a key")
            logits = classify(stochastic_sign(codes, key))
            return jmlh_loss(logits, jax.nn.sigmoid(codes), labels)
        case "dpn":
            return dpn_loss(codes, codebook, labels)
        case "csq":
            return csq_loss(codes, codebook, labels)
        case "hashnet":
            steep = hashnet_steepness(step)
            return hashnet_loss(codes, labels, beta=steep, alpha=10 / codes.shape[1])
        case "dtsh":
            return dtsh_loss(codes, labels)
    raise ValueError(f'baseline_loss: no loss "{name}"')


def straight_through_sign(codes: jax.Array) -> jax.Array:
    """Sign of the codes forward, identity backward (GreedyHash, Su et al. 2018)."""
    return _straight_through(jnp.sign(codes), codes)


def stochastic_sign(codes: jax.Array, key: jax.Array) -> jax.Array:
    """+1 with probability sigmoid(v), else -1; backward as its mean 2 sigmoid(v) - 1 (JMLH)."""
    mean = 2 * jax.nn.sigmoid(codes) - 1
    bits = jnp.where(jax.random.bernoulli(key, (mean + 1) / 2), 1.0, -1.0)
    return _straight_through(bits, mean)


def balanced_sign(codes: jax.Array) -> jax.Array:
    """+1 for the larger half of the batch at each bit, else -1; identity backward (Bi-half)."""
    rank = jnp.argsort(jnp.argsort(codes, axis=0), axis=0)
    bits = jnp.where(2 * rank >= codes.shape[0], 1.0, -1.0)
    return _straight_through(bits, codes)


def _straight_through(forward: jax.Array, backward: jax.Array) -> jax.Array:
    """Exactly `forward`, with the gradient of `backward`."""
    return jax.lax.stop_gradient(forward) + (backward - jax.lax.stop_gradient(backward))


def classification_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy for int labels [B], mean sigmoid cross-entropy for multi-hot [B, C].

    logits: [B, C] of a linear classifier on the codes.
    """
    if labels.ndim == 1:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype)))


def bihalf_loss(
    logits: jax.Array, codes: jax.Array, labels: jax.Array, *, gamma: float = 6.0
) -> jax.Array:
    """Bi-half (Li and van Gemert, AAAI 2021): classification, codes pulled to their balanced bits.

    logits: [B, C] of a classifier that sees `balanced_sign(codes)`. The second term has the
    gradient gamma (v - b) / (B K), which is what the paper's layer adds in its backward pass.
    """
    bits = jax.lax.stop_gradient(balanced_sign(codes))
    pull = jnp.mean(jnp.square(codes - bits))
    return classification_loss(logits, labels) + 0.5 * gamma * pull


def greedyhash_loss(
    logits: jax.Array,
    codes: jax.Array,
    labels: jax.Array,
    *,
    alpha: float = 1.0,
    power: float = 3.0,
) -> jax.Array:
    """GreedyHash (Su et al., NeurIPS 2018): classification plus alpha * mean | |v| - 1 |^power.

    logits: [B, C] of a classifier that sees `straight_through_sign(codes)`.
    """
    penalty = jnp.mean(jnp.abs(jnp.abs(codes) - 1) ** power)
    return classification_loss(logits, labels) + alpha * penalty


def jmlh_loss(
    logits: jax.Array, bit_probability: jax.Array, labels: jax.Array, *, weight: float = 0.1
) -> jax.Array:
    """JMLH (Shen et al., ICCVW 2019): classification plus weight * KL(bits || fair coins).

    bit_probability: [B, K] in [0, 1]. Multi-hot labels become uniform over the positive classes.
    """
    q, tiny = bit_probability, 1e-7
    divergence = q * jnp.log(q + tiny) + (1 - q) * jnp.log(1 - q + tiny) - jnp.log(0.5 + tiny)
    if labels.ndim == 1:
        fit = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    else:
        target = labels / jnp.sum(labels, axis=1, keepdims=True)
        fit = optax.softmax_cross_entropy(logits, target)
    return jnp.mean(fit) + weight * jnp.mean(jnp.sum(divergence, axis=1))


def dpn_loss(
    codes: jax.Array,
    codebook: jax.Array,
    labels: jax.Array,
    *,
    margin: float = 1.0,
    regularization: float = 0.1,
) -> jax.Array:
    """DPN (Fan et al., IJCAI 2020): hinge of every bit against the class code, plus mean v^2.

    codebook: [C, K] of +-1; multi-hot labels sum the hinges of their classes.
    """
    book = codebook.astype(codes.dtype)
    if labels.ndim == 1:
        hinge = jnp.sum(jax.nn.relu(margin - codes * book[labels]), axis=1)
    else:
        each = jnp.sum(jax.nn.relu(margin - codes[:, None] * book), axis=2)
        hinge = jnp.sum(each * labels, axis=1)
    return jnp.mean(hinge) + regularization * jnp.mean(jnp.square(codes))


def csq_loss(
    codes: jax.Array,
    codebook: jax.Array,
    labels: jax.Array,
    *,
    quantization: float = 0.001,
    tie_break: jax.Array | None = None,
) -> jax.Array:
    """CSQ (Yuan et al., CVPR 2020): binary cross-entropy of each bit of tanh(v) to its hash centre.

    Multi-hot labels: the centre is the majority vote of the class codes, `tie_break` [K] of +-1
    where it is even (all +1 if not given).
    """
    book = codebook.astype(codes.dtype)
    if labels.ndim == 1:
        centre = book[labels]
    else:
        votes = labels.astype(codes.dtype) @ book
        even = jnp.ones(book.shape[1]) if tie_break is None else tie_break
        centre = jnp.where(votes == 0, even, jnp.sign(votes))
    # (tanh(v) + 1) / 2 = sigmoid(2v): the stable form of the cross-entropy.
    fit = jnp.mean(optax.sigmoid_binary_cross_entropy(2 * codes, 0.5 * (centre + 1)))
    return fit + quantization * jnp.mean(jnp.square(jnp.abs(jnp.tanh(codes)) - 1))


def _similar(labels: jax.Array) -> jax.Array:
    """Bool [B, B]: which samples share a label."""
    if labels.ndim == 1:
        return labels[:, None] == labels
    return labels.astype(jnp.float32) @ labels.astype(jnp.float32).T > 0


def hashnet_steepness(step: jax.Array | int) -> jax.Array:
    """beta of HashNet's tanh(beta v) in update `step`: sqrt(1 + 0.005 step), every 200 updates."""
    return jnp.sqrt(1 + 0.005 * 200 * (step // 200))


def hashnet_loss(
    codes: jax.Array,
    labels: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    alpha: float = 1.0,
) -> jax.Array:
    """HashNet (Cao et al., ICCV 2017): weighted pairwise likelihood of h = tanh(beta v).

    Similar and dissimilar pairs weigh the same in total. `beta` grows in training (continuation,
    see `hashnet_steepness`); `alpha`, of the pairs' sigmoid, is 10 / K in the official code.
    """
    h = jnp.tanh(beta * codes)
    similar = _similar(labels)
    product = alpha * h @ h.T
    likelihood = jax.nn.softplus(product) - similar * product
    groups = [
        jnp.sum(likelihood, where=group) / jnp.maximum(jnp.sum(group), 1)
        for group in (similar, ~similar)
    ]
    return groups[0] + groups[1]


def dtsh_loss(
    codes: jax.Array, labels: jax.Array, *, margin: float = 5.0, quantization: float = 1.0
) -> jax.Array:
    """DTSH (Wang et al., ACCV 2016): triplet likelihood over all triplets of the batch.

    Every anchor that has both similar (itself among them) and dissimilar samples weighs the same.
    Memory grows with B^3.
    """
    product, similar = codes @ codes.T, _similar(labels)
    gap = jnp.clip(product[:, :, None] - product[:, None, :] - margin, -100.0, 50.0)
    counted = similar[:, :, None] & ~similar[:, None, :]
    number = jnp.sum(counted, axis=(1, 2))
    anchor = jnp.sum(jax.nn.softplus(-gap), axis=(1, 2), where=counted) / jnp.maximum(number, 1)
    triplets = jnp.sum(anchor) / jnp.maximum(jnp.sum(number > 0), 1)
    return triplets + quantization * quantization_error(codes, "l2")
