"""FixMatch with MixStyle between labelled and pseudo-labelled images (IJCV 2023), pure functions.

One step makes three passes in training mode: pseudo labels from weak views, a supervised loss on
labelled weak views, and a loss on strong views of all images against the pseudo labels. Only in the
last one MixStyle acts, with partners from the other half of the batch: a labelled image takes the
style of an unlabelled one and vice versa. With a source and a target domain it mixes these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcog.losses.classification import cross_entropy, cross_entropy_per_example
from jaxcog.systems.mixstyle import ops

Draws = Mapping[str, ops.MixDraw]
Pass = Literal["pseudo", "labelled", "strong"]
Apply = Callable[[Pass, Any, jax.Array, Draws], tuple[jax.Array, Any]]
"""(which pass, batch statistics, images [B, H, W, 3], draws) -> (logits [B, K], new statistics).
No gradient is taken of the pass "pseudo"."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """What the network takes an image for: label [B] int32, confidence [B], keep [B] bool."""

    label: jax.Array
    confidence: jax.Array
    keep: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of the loss.

    loss_x, loss_u: scalars. logits_x: [Bx, K] of the labelled weak views. pseudo: of all images,
    labelled ones first. batch_stats: after the three passes.
    """

    loss_x: jax.Array
    loss_u: jax.Array
    logits_x: jax.Array
    pseudo: PseudoLabels
    batch_stats: Any


def pseudo_labels(logits: jax.Array, threshold: float) -> PseudoLabels:
    """The likeliest class of each row [B, K], kept where its probability reaches `threshold`."""
    chances = jax.nn.softmax(jax.lax.stop_gradient(logits))
    confidence = jnp.max(chances, axis=-1)
    label = jnp.argmax(chances, axis=-1).astype(jnp.int32)
    return PseudoLabels(label, confidence, confidence >= threshold)


def fixmatch_mixstyle_loss(
    apply: Apply,
    batch_stats: Any,
    labelled: Mapping[str, jax.Array],
    unlabelled: Mapping[str, jax.Array],
    *,
    draws: Draws,
    draws_labelled: Draws | None = None,
    threshold: float = 0.95,
    weight_u: float = 1.0,
) -> tuple[jax.Array, Parts]:
    """loss_x + weight_u * loss_u.

    The labelled images count in loss_u too, with their pseudo labels; its mean is over all rows,
    kept or not.

    Args:
      apply: the network, in training mode (for the pass "pseudo" another mode may do).
      labelled: "weak", "strong" [Bx, H, W, 3] and "label" [Bx] int.
      unlabelled: "weak", "strong" [Bu, H, W, 3].
      draws: of MixStyle for the strong views, labelled ones first; {} is FixMatch.
      draws_labelled: for the labelled weak views; None or {}: MixStyle is off there.
      threshold: least probability of a pseudo label that counts.

    Returns:
      (float32 scalar, its parts).
    """
    rows = _Rows(labelled["weak"].shape[0], unlabelled["weak"].shape[0])
    weak = rows.join(labelled["weak"], unlabelled["weak"])
    logits, batch_stats = apply("pseudo", batch_stats, weak, {})
    pseudo = pseudo_labels(logits, threshold)

    mixed = draws_labelled or {}
    logits_x, batch_stats = apply("labelled", batch_stats, labelled["weak"], mixed)
    loss_x = cross_entropy(logits_x, labelled["label"])

    strong = rows.join(labelled["strong"], unlabelled["strong"])
    draws = {stage: rows.join_draw(draw) for stage, draw in draws.items()}
    logits, batch_stats = apply("strong", batch_stats, strong, draws)
    loss_u = jnp.mean(cross_entropy_per_example(logits, pseudo.label) * pseudo.keep)
    in_order = jax.tree.map(rows.part, pseudo)
    return loss_x + weight_u * loss_u, Parts(loss_x, loss_u, logits_x, in_order, batch_stats)


def statistics(parts: Parts, labels_x: jax.Array, labels_u: jax.Array) -> dict[str, jax.Array]:
    """What is logged: percentages, of the unlabelled images for all but the first two entries.

    labels_u: their true classes [Bu], which training never sees.
    """
    unlabelled = jax.tree.map(lambda value: value[labels_x.shape[0] :], parts.pseudo)
    right = (unlabelled.label == labels_u).astype(jnp.float32)
    kept = unlabelled.keep.astype(jnp.float32)
    right_x = (jnp.argmax(parts.logits_x, axis=-1) == labels_x).astype(jnp.float32)
    return {
        "loss_x": parts.loss_x,
        "loss_u": parts.loss_u,
        "accuracy": 100 * jnp.mean(right_x),
        "keep_rate": 100 * jnp.mean(kept),
        "pseudo_accuracy": 100 * jnp.mean(right),
        # The tiny number gives 0 where nothing is kept, and is the official one.
        "kept_accuracy": 100 * jnp.sum(right * kept) / (jnp.sum(kept) + 1e-5),
    }


@dataclasses.dataclass(frozen=True)
class _Rows:
    """How labelled and unlabelled rows lie in one batch: in turn, where there are as many of both.

    A sharded batch then stays where it is: each device joins its own rows. One after the other,
    half of the images would have to move.
    """

    labelled: int
    unlabelled: int

    @property
    def in_turn(self) -> bool:
        return self.labelled == self.unlabelled

    def join(self, x: jax.Array, u: jax.Array) -> jax.Array:
        if not self.in_turn:
            return jnp.concatenate([x, u])
        return jnp.stack([x, u], axis=1).reshape(2 * self.labelled, *x.shape[1:])

    def part(self, joined: jax.Array) -> jax.Array:
        """The inverse, labelled rows first: [B, ...]."""
        if not self.in_turn:
            return joined
        return jnp.concatenate([joined[::2], joined[1::2]])

    def join_draw(self, draw: ops.MixDraw) -> ops.MixDraw:
        """A draw whose rows and partners count labelled rows first, for the joined batch."""
        if not self.in_turn:
            return draw
        half = self.labelled
        perm = jnp.where(draw.perm < half, 2 * draw.perm, 2 * (draw.perm - half) + 1)
        lam, perm = (self.join(value[:half], value[half:]) for value in (draw.lam, perm))
        return ops.MixDraw(draw.gate, lam, perm)
