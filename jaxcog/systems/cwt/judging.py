"""How few-shot segmentation is judged: intersections and unions of episodes, pooled by class."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.losses.segmentation import IGNORE

_EPS = 1e-10  # as the released code adds it to unions


def overlap(
    prediction: jax.Array, labels: jax.Array, num_classes: int = 2, ignore: int = IGNORE
) -> tuple[jax.Array, jax.Array]:
    """Pixels in which prediction and label agree on a class, and in which either has it.

    prediction, labels: integers [..., H, W]; pixels labelled `ignore` are left out of both.
    Returns intersections and unions, int32 [..., num_classes].
    """
    keep = (labels != ignore)[..., None]
    classes = jnp.arange(num_classes)
    ours = keep & (prediction[..., None] == classes)
    theirs = keep & (labels[..., None] == classes)
    both, either = ours & theirs, ours | theirs
    count = functools.partial(jnp.sum, axis=(-3, -2), dtype=jnp.int32)
    return count(both), count(either)


def at_original(logits: jax.Array, content: jax.Array, original: jax.Array, side: int) -> jax.Array:
    """Logits of squared images, resized to what the images were before they were squared.

    logits: [E, S, S, K] float32; content, original: int [E, 2], height and width of what fills the
      top left of a square, and of the image.
    Returns [E, side, side, K], bilinear with half-pixel centres, of which the image's own height
    and width in the top left have a meaning.
    """
    up, across = (
        jax.vmap(_linear_matrix, (0, 0, None, None))(
            content[:, axis], original[:, axis], logits.shape[1 + axis], side
        )
        for axis in (0, 1)
    )
    precision = jax.lax.Precision.HIGHEST
    tall = jnp.einsum("eHh,ehwk->eHwk", up, logits, precision=precision)
    return jnp.einsum("eWw,eHwk->eHWk", across, tall, precision=precision)


def _linear_matrix(inside: jax.Array, outside: jax.Array, size: int, side: int) -> jax.Array:
    """[side, size]: linear interpolation from the first `inside` samples to `outside` ones."""
    place = (jnp.arange(side) + 0.5) * (inside / outside) - 0.5
    place = jnp.clip(place, 0, inside - 1)
    return jnp.maximum(1 - jnp.abs(place[:, None] - jnp.arange(size)), 0)


@dataclasses.dataclass(frozen=True)
class ClassIoU:
    """classes: int64 [C], those that occurred; iou: float64 [C]; mean: over them, in [0, 1]."""

    classes: np.ndarray
    iou: np.ndarray
    mean: float


def fewshot_iou(intersections: Any, unions: Any, classes: Any) -> ClassIoU:
    """Foreground IoU of each class over all its episodes, and the mean over classes.

    intersections, unions: numbers [N] of foreground pixels, one an episode; classes: int [N].
    The background does not count, nor does a class without an episode; NaN if there is none.
    """
    found, place = np.unique(np.asarray(classes), return_inverse=True)
    pooled = np.zeros((2, len(found)))
    np.add.at(pooled[0], place, np.asarray(intersections, np.float64))
    np.add.at(pooled[1], place, np.asarray(unions, np.float64))
    iou = pooled[0] / (pooled[1] + _EPS)
    return ClassIoU(found, iou, float(iou.mean()) if len(found) else float("nan"))


def fb_iou(intersections: Any, unions: Any) -> float:
    """Mean of background and foreground IoU over all pixels, whatever their classes; in [0, 1].

    intersections, unions: [N, 2], background first.
    """
    pooled = [np.asarray(x, np.float64).reshape(-1, 2).sum(0) for x in (intersections, unions)]
    return float(np.mean(pooled[0] / (pooled[1] + _EPS)))


ADAPTED, SUPPORT_ONLY, OTHER_QUERY = "adapted", "support", "other"
"""Of which classifier a row's counts are: rewritten by the transformer, as the support left it, or
rewritten after a look at another query."""
_SUFFIX = {ADAPTED: "", SUPPORT_ONLY: "_support", OTHER_QUERY: "_other"}


def summarize(results: Mapping[str, Any]) -> dict[str, float]:
    """Each split's metrics, "novel_miou" and so on: in percent, means over runs.

    "_miou" and "_fb_iou" are those of the rewritten classifier; "_support_miou" of the support
    classifier alone; "_other_miou" of one rewritten after another query, where that was asked for;
    "_miou_std" the spread over runs, where there are several; "_loss" the unweighted
    cross-entropy; "_empty_queries" the share of queries whose object was lost in resizing.
    """
    summary: dict[str, float] = {}
    for split, states in results.items():
        rows = states["episodes"].compute()
        runs = np.unique(rows["run"])
        for name, suffix in _SUFFIX.items():
            if f"{name}/both" not in rows:
                continue
            both, either = rows[f"{name}/both"], rows[f"{name}/either"]
            means, pooled = [], []
            for run in runs:
                own = rows["run"] == run
                means.append(fewshot_iou(both[own, 1], either[own, 1], rows["class"][own]).mean)
                pooled.append(fb_iou(both[own], either[own]))
            summary[f"{split}{suffix}_miou"] = 100 * float(np.mean(means))
            if name == ADAPTED:
                summary[f"{split}_fb_iou"] = 100 * float(np.mean(pooled))
                if len(runs) > 1:
                    summary[f"{split}_miou_std"] = 100 * float(np.std(means))
        summary[f"{split}_loss"] = float(np.mean(rows["loss"]))
        summary[f"{split}_empty_queries"] = 100 * float(np.mean(rows["empty_query"]))
    return summary
