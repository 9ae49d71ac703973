"""Real handwritten digits (1797 of 8x8, part of scikit-learn), coloured or rotated for small tasks.

`DigitsDomains` and `DigitsSemi` put them into visual domains to learn in some and be tested in
another; `DigitsRotated` makes 40 classes for retrieval. Loading takes well under a second.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from jaxcog.data.samplers import RandomDomain, SeqDomain
from jaxcog.data.types import ArraySource, MakeSampler, Record, Splits, Stream
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo

DIGITS = 1797
_CLASSES = tuple(str(digit) for digit in range(10))
_TRAINING = 1350

Colours = dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]]

DOMAINS: Colours = {
    "a": ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    "b": ((0.45, 0.12, 0.7), (0.5, 0.15, 0.02)),
    "c": ((0.15, 0.6, 0.3), (0.05, 0.3, 0.6)),
    "d": ((0.5, 0.3, 0.12), (0.02, 0.6, 0.35)),
}
"""Domain -> (gain, offset) of red, green, blue: strong shifts."""

MILD_DOMAINS: Colours = {
    "a": ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    "b": ((0.6, 0.25, 0.9), (0.35, 0.1, 0.05)),
    "c": ((0.35, 0.8, 0.5), (0.1, 0.15, 0.45)),
    "d": ((0.7, 0.5, 0.25), (0.05, 0.45, 0.2)),
}
"""The same, closer together, for learning from few labels."""


@dataclasses.dataclass(frozen=True)
class DigitsDomains:
    """Digits in three coloured source domains, tested in a fourth that training never saw.

    Records: "image" float32 [16, 16, 3] in [-1, 1] (noise may exceed it slightly), "label" int32,
    "domain" int32 (position among the sources; 3 is the target). 1350 digits are split over the
    sources; the other 447 are rendered in the target ("test") and, as a check, in the sources
    ("source").

    polarity: the target shows dark digits on a bright ground, a change that no mixing of channel
      statistics produces.
    sampler: "uniform", or "domains": each batch holds half its images from one domain and half from
      another, as cross-domain mixing wants it.
    """

    target: Literal["a", "b", "c", "d"] = "a"
    polarity: bool = False
    sampler: Literal["uniform", "domains"] = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_target(self.target)

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        return DataInfo(
            element=_element(image=(16, 16, 3)),
            num_examples=_TRAINING,
            class_names=_CLASSES,
            facts=_facts(self.target),
        )

    def load(self) -> Splits:
        """The rendered digits, in memory."""
        random = np.random.default_rng(self.seed)
        images, labels = _digits()
        order = random.permutation(DIGITS)
        train, test = order[:_TRAINING], order[_TRAINING:]
        sources = _sources(self.target)

        def split(chosen: np.ndarray, names: list[str], first: int, invert: bool) -> ArraySource:
            # Shuffled digits taken in turn: every domain gets another third of them.
            domains = np.arange(len(chosen)) % len(names)
            shown = 1 - images[chosen] if invert else images[chosen]
            rendered = render(shown, [DOMAINS[name] for name in names], domains, random)
            return _labelled(rendered, labels[chosen], domains + first)

        learn = split(train, sources, 0, invert=False)
        unseen = split(test, [self.target], len(sources), invert=self.polarity)
        known = split(test, sources, 0, invert=False)
        return Splits(
            train=Stream(learn, sampler=self._sampler(learn)),
            evaluation={"test": Stream(unseen), "source": Stream(known)},
            info=self.describe(),
        )

    def _sampler(self, source: ArraySource) -> MakeSampler | None:
        if self.sampler == "uniform":
            return None
        return functools.partial(RandomDomain, domains=source.arrays["domain"], per_batch=2)


@dataclasses.dataclass(frozen=True)
class DigitsSemi:
    """Few labelled and many unlabelled digits from three domains, tested in a fourth.

    Two streams, "labelled" and "unlabelled", each with records "weak" and "strong" (two views of
    the same digit, float32 [16, 16, 3]), "label" and "domain" int32; the unlabelled "label" is for
    measuring only. Each batch holds as many from every source domain. Evaluation as in
    `DigitsDomains`, with "image".

    per_class: labelled digits of each class in each source domain.
    """

    target: Literal["a", "b", "c", "d"] = "b"
    per_class: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        _check_target(self.target)
        if not 1 <= self.per_class <= 20:
            raise ConfigError(f"data.per_class={self.per_class}: must be between 1 and 20")

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        image = jax.ShapeDtypeStruct((16, 16, 3), np.float32)
        number = jax.ShapeDtypeStruct((), np.int32)
        views = {"weak": image, "strong": image, "label": number, "domain": number}
        return DataInfo(
            element={"labelled": views, "unlabelled": views},
            num_examples=_TRAINING - 30 * self.per_class,
            class_names=_CLASSES,
            eval_element=_element(image=(16, 16, 3)),
            facts=_facts(self.target),
        )

    def load(self) -> Splits:
        """The rendered digits, in memory; views are drawn batch by batch."""
        random = np.random.default_rng(self.seed)
        images, labels = _digits()
        order = random.permutation(DIGITS)
        train, test = order[:_TRAINING], order[_TRAINING:]
        sources = _sources(self.target)
        colours = [MILD_DOMAINS[name] for name in sources]
        domains = np.arange(_TRAINING) % len(sources)
        rendered = render(images[train], colours, domains, random)
        known = np.zeros(_TRAINING, bool)
        for cell in np.unique(domains * 10 + labels[train]):
            members = np.flatnonzero(domains * 10 + labels[train] == cell)
            known[members[: self.per_class]] = True
        target = render(images[test], [MILD_DOMAINS[self.target]], np.zeros(len(test), int), random)

        def stream(rows: np.ndarray) -> Stream:
            return Stream(
                _labelled(rendered[rows], labels[train][rows], domains[rows]),
                batch_transform=two_views,
                sampler=functools.partial(SeqDomain, domains=domains[rows]),
            )

        test_domain = np.full(len(test), len(sources))
        return Splits(
            train={"labelled": stream(known), "unlabelled": stream(~known)},
            evaluation={"test": Stream(_labelled(target, labels[test], test_domain))},
            info=self.describe(),
        )


@dataclasses.dataclass(frozen=True)
class DigitsRotated:
    """Digits in four orientations: 40 classes, for retrieval.

    Records: "image" float32 [8, 8, 1] in [0, 1], "label" int32 = digit + 10 * quarter turns. 7188
    images: 400 are "query", the rest "database", of which the first 1200 are for training.
    """

    seed: int = 0

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        return DataInfo(
            element={
                "image": jax.ShapeDtypeStruct((8, 8, 1), np.float32),
                "label": jax.ShapeDtypeStruct((), np.int32),
            },
            num_examples=1200,
            class_names=tuple(f"{d} at {turn}°" for turn in (0, 90, 180, 270) for d in range(10)),
            facts={"mean": (0.0,), "std": (1.0,)},
        )

    def load(self) -> Splits:
        """All images, in memory."""
        images, labels = _digits()
        turned = np.concatenate([np.rot90(images, turn, axes=(1, 2)) for turn in range(4)])
        classes = np.concatenate([labels + 10 * turn for turn in range(4)])
        order = np.random.default_rng(self.seed).permutation(len(turned))
        arrays = {
            "image": turned[order][..., None].astype(np.float32),
            "label": classes[order].astype(np.int32),
        }

        def part(rows: slice) -> Stream:
            return Stream(ArraySource({name: value[rows] for name, value in arrays.items()}))

        return Splits(
            train=part(slice(400, 1600)),
            evaluation={"query": part(slice(0, 400)), "database": part(slice(400, None))},
            info=self.describe(),
        )


def enlarge(images: np.ndarray) -> np.ndarray:
    """Twice the size, bilinear with half-pixel centres: [N, H, W] -> [N, 2H, 2W]."""
    for axis in (1, 2):
        size = images.shape[axis]
        place = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, size - 1)
        low = np.floor(place).astype(int)
        part = (place - low).reshape((-1, 1) if axis == 1 else (1, -1))
        high = np.minimum(low + 1, size - 1)
        images = images.take(low, axis) * (1 - part) + images.take(high, axis) * part
    return images


def render(
    images: np.ndarray,
    colours: list[tuple[tuple[float, float, float], tuple[float, float, float]]],
    domains: np.ndarray,
    random: np.random.Generator,
) -> np.ndarray:
    """Digits [N, 8, 8] in [0, 1] in the colours of their domains: float32 [N, 16, 16, 3].

    offset + gain * digit + noise, scaled to [-1, 1]. Each image has a little gain and offset of
    its own, the same in all channels: brightness varies, and not the hue, by which domains differ.
    """
    count = len(images)
    gain = np.array([gain for gain, _ in colours])[domains]
    offset = np.array([offset for _, offset in colours])[domains]
    gain = gain * np.exp(random.normal(0, 0.08, (count, 1)))
    offset = offset + random.normal(0, 0.03, (count, 1))
    clean = offset[:, None, None] + gain[:, None, None] * enlarge(images)[..., None]
    noisy = clean + random.normal(0, 0.05, clean.shape)
    return (2 * noisy - 1).astype(np.float32)


def two_views(batch: Mapping[str, Any], random: np.random.Generator) -> Record:
    """ "image" [B, 16, 16, 3] -> "weak" and "strong" views, other entries as they are.

    weak: shifted by up to 1 pixel. strong: shifted by up to 2, contrast times exp N(0, 0.2),
    brightness plus N(0, 0.15), and a 6x6 square of zeros.
    """
    rest = {name: value for name, value in batch.items() if name != "image"}
    images = batch["image"]
    strong = shift(images, 2, random)
    each = (len(images), 1, 1, 1)
    contrast = np.exp(random.normal(0, 0.2, each)).astype(np.float32)
    brightness = random.normal(0, 0.15, each).astype(np.float32)
    strong = cut_out(strong * contrast + brightness, 6, random)
    return {"weak": shift(images, 1, random), "strong": strong, **rest}


def shift(images: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Each image moved by whole pixels in [-most, most] along both axes, its edges repeated."""
    count, height, width, _ = images.shape
    moves = random.integers(-most, most + 1, (2, count, 1))
    rows = np.clip(np.arange(height) + moves[0], 0, height - 1)
    columns = np.clip(np.arange(width) + moves[1], 0, width - 1)
    return images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def cut_out(images: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """One square of zeros in each image, its centre uniform over the pixels, clipped at edges."""
    count, height, width, _ = images.shape
    top = random.integers(0, height, (count, 1)) - size // 2
    left = random.integers(0, width, (count, 1)) - size // 2
    rows, columns = np.arange(height), np.arange(width)
    inside_rows = (rows >= top) & (rows < top + size)
    inside_columns = (columns >= left) & (columns < left + size)
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    return np.where(inside[..., None], np.float32(0), images)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images / 16, digits.target


def _sources(target: str) -> list[str]:
    return [name for name in DOMAINS if name != target]


def _labelled(images: np.ndarray, labels: np.ndarray, domains: np.ndarray) -> ArraySource:
    return ArraySource(
        {"image": images, "label": labels.astype(np.int32), "domain": domains.astype(np.int32)}
    )


def _element(image: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    number = jax.ShapeDtypeStruct((), np.int32)
    return {
        "image": jax.ShapeDtypeStruct(image, np.float32),
        "label": number,
        "domain": number,
    }


def _facts(target: str) -> dict[str, Any]:
    half = (0.5, 0.5, 0.5)
    return {"mean": half, "std": half, "domains": (*_sources(target), target)}


def _check_target(target: str) -> None:
    if target not in DOMAINS:
        raise ConfigError(f'data.target="{target}": one of {", ".join(DOMAINS)}')
