"""Classes and folds of PASCAL-5i and COCO-20i, by mask value (0 is the background)."""

from __future__ import annotations

from jaxcog.data.datasets.segmentation_classes import COCO_STUFF
from jaxcog.errors import ConfigError

FOLDS = (0, 1, 2, 3)
PASCAL = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""Value v is PASCAL[v - 1]."""
COCO = COCO_STUFF[:80]
"""Value v is COCO[v - 1]."""

# PASCAL's classes under COCO's names.
_AS_COCO = dict(
    zip(
        PASCAL,
        (
            *("airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
            *("cow", "dining table", "dog", "horse", "motorcycle", "person", "potted plant"),
            *("sheep", "couch", "train", "tv"),
        ),
        strict=True,
    )
)

Folds = tuple[tuple[int, ...], tuple[int, ...]]
"""(base class ids, novel class ids), ascending."""


def check_fold(fold: int) -> None:
    """Raises ConfigError where there is no such fold."""
    if fold not in FOLDS:
        raise ConfigError(f"data.fold={fold}: the folds are {', '.join(map(str, FOLDS))}")


def _split(count: int, novel: range) -> Folds:
    return tuple(i for i in range(1, count + 1) if i not in novel), tuple(novel)


def pascal5i_folds(fold: int) -> Folds:
    """Fold i keeps the ids 5 i + 1 .. 5 i + 5 for testing.

    Raises:
      ConfigError: there is no such fold.
    """
    check_fold(fold)
    return _split(20, range(5 * fold + 1, 5 * fold + 6))


def coco20i_folds(fold: int, interleaved: bool = True) -> Folds:
    """Fold i keeps the ids i + 1, i + 5, i + 9, ... for testing, or 20 i + 1 .. 20 i + 20.

    All published numbers are with the interleaved folds.

    Raises:
      ConfigError: there is no such fold.
    """
    check_fold(fold)
    novel = range(fold + 1, 81, 4) if interleaved else range(20 * fold + 1, 20 * fold + 21)
    return _split(80, novel)


def coco_to_pascal_classes(fold: int, released_names: bool = False) -> tuple[int, ...]:
    """PASCAL ids that are not among the base classes of COCO-20i's (interleaved) fold.

    released_names: with cat and car exchanged, as in the released code's table of names; folds 2
      and 3 then test one class each that was seen in training. The published 59.5 is of those.

    Raises:
      ConfigError: there is no such fold.
    """
    base = {COCO[i - 1] for i in coco20i_folds(fold)[0]}
    names = [_AS_COCO[name] for name in PASCAL]
    if released_names:
        car, cat = PASCAL.index("car"), PASCAL.index("cat")
        names[car], names[cat] = names[cat], names[car]
    return tuple(i for i, name in enumerate(names, 1) if name not in base)
