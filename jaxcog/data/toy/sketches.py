"""Two generated worlds of sketches and photos: drawers with a shift, digits in drawing styles."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from jaxcog.data.pairs import Endless
from jaxcog.data.toy.digits import enlarge
from jaxcog.data.types import ArraySource, Record, Splits, Stream
from jaxcog.errors import ConfigError
from jaxcog.task import DataInfo

_SIDE = 16
_FRESH = 1 << 20  # where the evaluation's users begin: training never comes that far


def _image(*leading: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*leading, _SIDE, _SIDE, 1), np.float32)


def _named(entries: dict[str, np.ndarray]) -> Record:
    """Brightness in [0, 1] as images in [-1, 1]."""
    return {name: (2 * value - 1).astype(np.float32)[..., None] for name, value in entries.items()}


def _ringed(centres: np.ndarray, *, ring: bool) -> np.ndarray:
    """A blob or a ring of radius 3 around each centre [..., 2]: [..., 16, 16] in [0, 1]."""
    grid = np.arange(_SIDE, dtype=np.float32)
    x = grid - centres[..., :1].astype(np.float32)
    y = grid - centres[..., 1:].astype(np.float32)
    square = x[..., None, :] ** 2 + y[..., :, None] ** 2
    if ring:
        return np.exp(-((np.sqrt(square) - 3) ** 2) / 0.8)
    return np.exp(-square / 8)


class _Users:
    """Task i is user i, made from i alone; a Source that the pipeline gathers from."""

    def __init__(self, seed: int, size: int, pairs: int, gallery: int = 0, first: int = 0):
        self.seed, self.size, self.pairs, self.gallery = seed, size, pairs, gallery
        self.first = first

    def __len__(self) -> int:
        return self.size

    def take(self, indices: np.ndarray) -> Record:
        count = self.pairs + self.gallery
        draws = [self._draws(int(index), count) for index in indices]
        offset, photos, others, shake = (np.stack(part) for part in zip(*draws, strict=True))
        drawn = _ringed(photos + offset[:, None] + shake, ring=True)
        photo = _ringed(photos, ring=False)
        n = self.pairs
        entries = {
            "positive": photo[:, :n],
            "negative": _ringed(others[:, :n], ring=False),
            "sketches": drawn[:, :n, None],
        }
        if self.gallery:
            entries |= {"gallery": photo[:, n:], "queries": drawn[:, n:]}
        return _named(entries)

    def _draws(self, index: int, count: int) -> tuple[np.ndarray, ...]:
        random = np.random.default_rng([self.seed, self.first + index])
        return (
            random.uniform(-3, 3, 2),
            random.uniform(4, 11, (count, 2)),
            random.uniform(4, 11, (count, 2)),
            random.normal(0, 0.1, (count, 2)),
        )

    def __getitem__(self, index: int) -> Record:
        return {name: value[0] for name, value in self.take(np.array([index])).items()}

    def name_of(self, index: int) -> str:
        return f"user {self.first + index}"


@dataclasses.dataclass(frozen=True)
class ShiftedDrawers:
    """Photos are blobs, sketches are rings, and every user draws at an offset of their own.

    No single sketch tells the offset (uniform in [-3, 3]^2), so an unknown user's sketches can only
    be understood after a look at some of their pairs. Tasks are users: 2 * `support` pairs, each
    with another photo, images float32 [16, 16, 1] in [-1, 1]. Evaluation: `users` new users with
    `support` pairs and `gallery` new photos drawn by them.
    """

    support: int = 10
    users: int = 40
    gallery: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("support", "users", "gallery"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name}={getattr(self, name)}: at least 1")

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        n = self.support
        own = {"positive": _image(n), "negative": _image(n), "sketches": _image(n, 1)}
        return DataInfo(
            element={"positive": _image(2 * n), "negative": _image(2 * n),
                     "sketches": _image(2 * n, 1)},
            num_examples=1600,
            eval_element={**own, "gallery": _image(self.gallery), "queries": _image(self.gallery)},
            facts={"mean": (0.5,), "std": (0.5,)},
        )  # fmt: skip

    def load(self) -> Splits:
        """Users are made when they are asked for."""
        train = _Users(self.seed, 1600, 2 * self.support)
        unseen = _Users(self.seed, self.users, self.support, self.gallery, first=_FRESH)
        return Splits(Stream(train, sampler=Endless), {"users": Stream(unseen)}, self.describe())


@dataclasses.dataclass(frozen=True)
class DrawnDigits:
    """Real digits as photos, and as sketches in the styles of 28 users.

    A style is an affine map (rotation up to 30 degrees, shear up to 0.4, scales 0.75 to 1.3, shift
    up to 2 pixels), of which each sketch has a version 4 % off, and a threshold that makes lines
    thin or thick. 1200 photos: `test` of them and 8 users are for evaluation only. Images float32
    [16, 16, 1] in [-1, 1].

    Training tasks: one photo, another one, and its sketches by two different users, of `users`.
    """

    users: int = 20
    test: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.users <= 20:
            raise ConfigError(f"data.users={self.users}: between 2 and 20")
        if not 2 <= self.test <= 600:
            raise ConfigError(f"data.test={self.test}: between 2 and 600")

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        return DataInfo(
            element={"positive": _image(1), "negative": _image(1), "sketches": _image(1, 2)},
            num_examples=1200 - self.test,
            eval_element={"image": _image(), "sketches": _image(_UNSEEN)},
            facts={"mean": (0.5,), "std": (0.5,)},
        )

    def load(self) -> Splits:
        """All drawings are made at once: a second."""
        photos, drawings = _drawn(self.seed, self.test)
        train = 1200 - self.test
        source = _DigitTasks(photos[:train], drawings[:train, : self.users], self.seed)
        unseen = {"image": photos[train:], "sketches": drawings[train:, 20:]}
        return Splits(
            Stream(source, sampler=Endless),
            {"test": Stream(ArraySource(unseen))},
            self.describe(),
        )


@dataclasses.dataclass(frozen=True)
class StyledDigits:
    """The same drawings in the form of fine-grained sketch datasets: tasks of three sketches.

    Evaluation: "query", a sketch of each test photo by an unseen user, in "gallery", the photos.
    """

    test: int = 20
    seed: int = 0

    def describe(self) -> DataInfo:
        """What a task must know; reads nothing."""
        number = jax.ShapeDtypeStruct((), np.int32)
        return DataInfo(
            element={"positive": _image(1), "negative": _image(1), "sketches": _image(1, 3)},
            num_examples=1200 - self.test,
            eval_element={"image": _image(), "photo": number, "label": number},
            facts={"protocol": "instance"},
        )

    def load(self) -> Splits:
        """All drawings are made at once: a second."""
        photos, drawings = _drawn(self.seed, self.test)
        train = 1200 - self.test
        source = _DigitTasks(photos[:train], drawings[:train, :20], self.seed, sketches=3)
        order = np.arange(self.test, dtype=np.int32)
        known = {"photo": order, "label": np.zeros_like(order)}
        drawn = drawings[train + order, 20 + order % _UNSEEN]
        evaluation = {"query": drawn, "gallery": photos[train:]}
        return Splits(
            Stream(source, sampler=Endless),
            {k: Stream(ArraySource({"image": x, **known})) for k, x in evaluation.items()},
            self.describe(),
        )


_UNSEEN = 8


@functools.lru_cache(maxsize=1)
def _drawn(seed: int, test: int) -> tuple[np.ndarray, np.ndarray]:
    """(photos [1200, 16, 16, 1], drawings [1200, 28, 16, 16, 1]); training users draw only the
    training photos, the 8 unseen ones only the others."""
    from sklearn.datasets import load_digits

    random = np.random.default_rng(seed)
    chosen = random.permutation(1797)[:1200]
    photos = enlarge(load_digits().images[chosen] / 16).astype(np.float32)
    maps, shifts, thresholds = _styles(random, 28)
    drawings = np.zeros((1200, 28, _SIDE, _SIDE), np.float32)
    for user in range(28):
        rows = slice(0, 1200 - test) if user < 20 else slice(1200 - test, 1200)
        jitter = 1 + 0.04 * random.normal(size=(len(photos[rows]), 2, 2))
        warped = _warped(photos[rows], maps[user] * jitter, shifts[user])
        drawings[rows, user] = 1 / (1 + np.exp(-14 * (warped - thresholds[user])))
    return tuple(_named({"photos": photos, "drawings": drawings}).values())


def _styles(random: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """(matrices [count, 2, 2], shifts [count, 2], thresholds [count])."""
    angle = np.radians(random.uniform(-30, 30, count))
    shear = random.uniform(-0.4, 0.4, count)
    scale = random.uniform(0.75, 1.3, (count, 2))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1)
    slant = np.stack([np.ones(count), shear, np.zeros(count), np.ones(count)], -1)
    maps = turn.reshape(-1, 2, 2) @ slant.reshape(-1, 2, 2) * scale[:, None]
    return maps, random.uniform(-2, 2, (count, 2)), random.uniform(0.25, 0.6, count)


def _warped(images: np.ndarray, maps: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """images [N, 16, 16] read, bilinearly, at maps [N, 2, 2] times the pixel, plus the shift."""
    centre = (_SIDE - 1) / 2
    grid = np.stack(np.meshgrid(np.arange(_SIDE), np.arange(_SIDE), indexing="xy"), -1) - centre
    place = np.einsum("nij,hwj->nhwi", maps, grid) + shift + centre
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2)))
    place = np.clip(place + 1, 0, _SIDE + 1)
    low = np.floor(place).astype(int)
    part = place - low
    rows, (x, y) = np.arange(len(images))[:, None, None], (low[..., 0], low[..., 1])
    px, py = part[..., 0], part[..., 1]
    top = padded[rows, y, x] * (1 - px) + padded[rows, y, x + 1] * px
    bottom = padded[rows, y + 1, x] * (1 - px) + padded[rows, y + 1, x + 1] * px
    return top * (1 - py) + bottom * py


class _DigitTasks:
    """Task i: a photo, another one, some users' drawings of it, made from i alone."""

    def __init__(self, photos: np.ndarray, drawings: np.ndarray, seed: int, sketches: int = 2):
        self.photos, self.drawings, self.seed = photos, drawings, seed
        self.sketches = sketches

    def __len__(self) -> int:
        return len(self.photos)

    def take(self, indices: np.ndarray) -> Record:
        size, users = self.drawings.shape[:2]
        drawn = [np.random.default_rng([self.seed, int(i)]).random(2 + users) for i in indices]
        draws = np.stack(drawn)
        photo = (draws[:, 0] * size).astype(int)
        other = (photo + 1 + (draws[:, 1] * (size - 1)).astype(int)) % size
        chosen = np.argsort(draws[:, 2:], axis=1)[:, : self.sketches]
        return {
            "positive": self.photos[photo][:, None],
            "negative": self.photos[other][:, None],
            "sketches": self.drawings[photo[:, None], chosen][:, None],
        }

    def __getitem__(self, index: int) -> Record:
        return {name: value[0] for name, value in self.take(np.array([index])).items()}

    def name_of(self, index: int) -> str:
        return f"drawing task {index}"
