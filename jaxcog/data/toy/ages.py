"""Real handwritten digits at three "ages": strokes thicken and the ink changes colour.

The same digit exists at every age, so the true transformed image is known when a model is judged;
training sees unpaired images only. Age is visible in shape (stroke) and texture (ink), the digit
itself is the identity.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from jaxcog.data.pairs import Endless, PairSource
from jaxcog.data.types import ArraySource, Splits, Stream
from jaxcog.task import DataInfo

CLASSES = ("thin", "medium", "thick")
SIZE = 16
_THRESHOLDS = (0.72, 0.45, 0.20)
_INKS = ((1.0, 0.25, 0.25), (0.25, 1.0, 0.25), (0.25, 0.25, 1.0))
_TRAINING = 1400


@dataclasses.dataclass(frozen=True)
class DigitAges:
    """Training pairs: "image" float32 [2, 16, 16, 3] in [-1, 1], "label" int32 [2].

    Evaluation examples: one image and label, and "truth" float32 [3, 16, 16, 3], the same digit at
    every age. `info.facts["age_classifier"]` is a logistic regression (weights [768, 3], bias [3])
    fitted to the training images, which judges the age of what a model makes.
    """

    seed: int = 0

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        return self._info({})

    def load(self) -> Splits:
        """The rendered digits, in memory."""
        worlds, order = _rendered()
        train, test = order[:_TRAINING], order[_TRAINING:]
        images = worlds[train].reshape(-1, SIZE, SIZE, 3)
        labels = np.tile(np.arange(len(CLASSES), dtype=np.int32), len(train))
        source = ArraySource({"image": images, "label": labels})
        pairs = PairSource(source, labels, len(images) // 2, self.seed)
        judged = {
            "image": worlds[test].reshape(-1, SIZE, SIZE, 3),
            "label": np.tile(np.arange(len(CLASSES), dtype=np.int32), len(test)),
            "truth": np.repeat(worlds[test], len(CLASSES), axis=0),
        }
        return Splits(
            train=Stream(pairs, sampler=Endless),
            evaluation={"test": Stream(ArraySource(judged))},
            info=self._info({"age_classifier": _classifier()}),
        )

    def _info(self, facts: dict[str, object]) -> DataInfo:
        image = jax.ShapeDtypeStruct((SIZE, SIZE, 3), np.float32)
        many = jax.ShapeDtypeStruct((len(CLASSES), SIZE, SIZE, 3), np.float32)
        label = jax.ShapeDtypeStruct((), np.int32)
        pair = {
            "image": jax.ShapeDtypeStruct((2, SIZE, SIZE, 3), np.float32),
            "label": jax.ShapeDtypeStruct((2,), np.int32),
        }
        return DataInfo(
            element=pair,
            eval_element={"image": image, "label": label, "truth": many},
            num_examples=_TRAINING * len(CLASSES) // 2,
            class_names=CLASSES,
            facts=facts,
        )


@functools.cache
def _rendered() -> tuple[np.ndarray, np.ndarray]:
    """(float32 [digits, 3, 16, 16, 3] in [-1, 1], order of the digits)."""
    from scipy.ndimage import gaussian_filter, zoom
    from sklearn.datasets import load_digits

    digits = load_digits().images / 16.0
    large = np.stack([zoom(image, 2, order=1) for image in digits])
    soft = gaussian_filter(large, (0, 0.7, 0.7))[:, None, :, :, None]
    thresholds = np.array(_THRESHOLDS)[:, None, None, None]
    mask = 1 / (1 + np.exp(-14 * (soft - thresholds)))
    inks = np.array(_INKS)[:, None, None, :]
    order = np.random.default_rng(0).permutation(len(digits))
    return (2 * mask * inks - 1).astype(np.float32), order


@functools.cache
def _classifier() -> tuple[np.ndarray, np.ndarray]:
    """A logistic regression of the age on flattened training images."""
    from sklearn.linear_model import LogisticRegression

    worlds, order = _rendered()
    images = worlds[order[:_TRAINING]].reshape(-1, SIZE * SIZE * 3)
    labels = np.tile(np.arange(len(CLASSES)), _TRAINING)
    fitted = LogisticRegression(max_iter=200).fit(images, labels)
    return fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32)
