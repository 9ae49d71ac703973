"""Few-shot episodes over images with masks: which images may take part, and drawing them.

An image is known by its row in a list, and by how many of its pixels each class has, so episodes
are drawn without opening files. Evaluation episode e is a function of (seed, e) alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcog.data import images
from jaxcog.data.segmentation import decode_label
from jaxcog.data.types import BadRecord, Record
from jaxcog.errors import DataError
from jaxcog.nn.canvas import IGNORE, fitted, resize_pad_square

MIN_PIXELS = 2 * 32 * 32
"""Pixels of a class that make an image usable for it (Lu et al. 2021, as PANet's and PFENet's)."""


def count_pixels(mask: np.ndarray, num_values: int) -> np.ndarray:
    """int32 [num_values]: pixels of each value below `num_values`; others (255) do not count."""
    return np.bincount(mask.ravel(), minlength=256)[:num_values].astype(np.int32)


def usable_images(
    pixels: np.ndarray, class_ids: Sequence[int], min_pixels: int = MIN_PIXELS
) -> tuple[np.ndarray, np.ndarray]:
    """Which images are kept for some classes, and for which of them each may be a support.

    pixels: [N, V] counts of mask values. class_ids: mask values.

    Returns bool [N] and bool [N, len(class_ids)].
    """
    enough = np.asarray(pixels)[:, list(class_ids)] >= min_pixels
    return np.any(enough, axis=1), enough


@dataclasses.dataclass(frozen=True)
class Episode:
    """Rows of a query and its supports, and the position of their class in the class list."""

    query: int
    supports: np.ndarray
    target: int


@dataclasses.dataclass(frozen=True)
class EpisodeIndex:
    """The images of a list that take part in episodes of some classes.

    class_ids: mask value of each class. class_names: for messages.
    queries: int64 [n], rows of the kept images, in list order.
    present: bool [n, C]: classes with any pixel in a query.
    supports: for each class the rows of the images with enough pixels of it.
    """

    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    queries: np.ndarray
    present: np.ndarray
    supports: tuple[np.ndarray, ...]

    @classmethod
    def of(
        cls,
        pixels: np.ndarray,
        class_ids: Sequence[int],
        class_names: Sequence[str] = (),
        min_pixels: int = MIN_PIXELS,
    ) -> EpisodeIndex:
        """From pixel counts [N, V] of the list's masks."""
        keep, enough = usable_images(pixels, class_ids, min_pixels)
        queries = np.flatnonzero(keep)
        names = tuple(class_names) or tuple(f"class {i}" for i in class_ids)
        return cls(
            tuple(class_ids),
            names,
            queries,
            np.asarray(pixels)[queries][:, list(class_ids)] > 0,
            tuple(np.flatnonzero(column) for column in enough.T),
        )

    def check(self, shot: int, where: str) -> None:
        """Raises DataError naming every class without images for `shot` supports and a query."""
        few = [
            f"{name} ({len(rows)})"
            for name, rows in zip(self.class_names, self.supports, strict=True)
            if len(rows) <= shot
        ]
        if few:
            raise DataError(
                f"{where}: {shot}-shot episodes need {shot + 1} images of each class with at least "
                f"{MIN_PIXELS} pixels of it, and there are too few of {', '.join(few)}: lower "
                "data.shot, or prepare more images of them"
            )


def sample_episode(
    random: np.random.Generator, index: EpisodeIndex, shot: int, place: int | None = None
) -> Episode:
    """One episode: a class of the query, uniformly, then `shot` other images of that class.

    place: of the query among `index.queries`; None: uniform.

    Raises:
      DataError: the class has too few images.
    """
    if place is None:
        place = int(random.integers(len(index.queries)))
    query = int(index.queries[place])
    target = int(random.choice(np.flatnonzero(index.present[place])))
    pool = index.supports[target]
    pool = pool[pool != query]
    if len(pool) < shot:
        raise DataError(
            f"{index.class_names[target]} has {len(pool)} images besides the query, {shot} are "
            "needed as support: lower the shots, or add images"
        )
    return Episode(query, random.choice(pool, shot, replace=False), target)


def index_episodes(
    list_file: str | Path,
    root: str | Path,
    class_ids: Sequence[int],
    min_pixels: int = MIN_PIXELS,
) -> tuple[EpisodeIndex, list[tuple[Path, Path]]]:
    """The index of a list file in the authors' format, read from the masks themselves.

    list_file: lines "image mask", relative to `root`.

    Returns the index, and (image, mask) of each row.

    Raises:
      DataError: a line that is no pair, a file that is missing or no mask, or no usable image.
    """
    pairs = read_list(Path(list_file), Path(root))
    pixels = np.stack([count_pixels(_read_mask(mask), 256) for _, mask in pairs])
    index = EpisodeIndex.of(pixels, class_ids, min_pixels=min_pixels)
    if not len(index.queries):
        raise DataError(
            f"{list_file}: no mask has {min_pixels} pixels of any of the classes "
            f"{list(class_ids)}: the masks are empty of them, or are not maps of class ids"
        )
    return index, pairs


def read_list(list_file: Path, root: Path) -> list[tuple[Path, Path]]:
    """(image, mask) of each line. Raises DataError naming the line or the missing file."""
    try:
        lines = list_file.read_text().splitlines()
    except OSError as error:
        raise DataError(f"{list_file} cannot be read ({error.strerror})") from error
    pairs = []
    for number, line in enumerate(filter(None, map(str.strip, lines)), 1):
        parts = line.split()
        if len(parts) != 2:
            raise DataError(
                f"{list_file}, line {number}: {line!r} is not an image and a mask with a space "
                "between them"
            )
        pairs.append((root / parts[0], root / parts[1]))
    return pairs


def _read_mask(path: Path) -> np.ndarray:
    try:
        return decode_label(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    except BadRecord as error:
        raise DataError(f"{path}: {error}") from error


@dataclasses.dataclass(frozen=True)
class TrainEpisodes:
    """A Source of training episodes: one for each kept query, drawn anew at each visit."""

    index: EpisodeIndex
    files: Sequence[Any] | np.ndarray

    def __len__(self) -> int:
        return len(self.index.queries)

    def __getitem__(self, place: int) -> Record:
        return {"place": place}

    def name_of(self, place: int) -> str:
        return _text(self.files[self.index.queries[place]])


@dataclasses.dataclass(frozen=True)
class EvalEpisodes:
    """A Source of fixed evaluation episodes: `runs` times `episodes`.

    The queries are the list's, in order, again from its start after its end; run r has episodes
    r * episodes and the following ones, as the authors' evaluation goes on through the list.
    """

    index: EpisodeIndex
    files: Sequence[Any] | np.ndarray
    episodes: int
    runs: int

    def __len__(self) -> int:
        return self.episodes * self.runs

    def __getitem__(self, number: int) -> Record:
        place = number % len(self.index.queries)
        return {"place": place, "episode": number, "run": number // self.episodes}

    def name_of(self, number: int) -> str:
        place = number % len(self.index.queries)
        return f"episode {number}, query {_text(self.files[self.index.queries[place]])}"


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


@dataclasses.dataclass(frozen=True)
class EpisodeTransform:
    """A record of the sources above -> the images and masks of its episode.

    "support" float32 [shot, S, S, 3] and "query" [S, S, 3], normalised; "support_mask" uint8
    [shot, S, S] and "query_mask" [S, S]: 1 the class, 0 others, 255 void; "class" int32. Evaluation
    episodes keep "episode" and "run" int32, and draw from (seed, episode) instead of the generator.

    flip: each image is mirrored left to right and top to bottom with probability 1/2 each.
    original: side of a square for the labels of evaluation queries as they were annotated; 0: not
      kept. "original_mask" uint8 [original, original], in the top left, 255 elsewhere;
      "original_size" and "content" int32 [2]: height and width there, and in "query".
    """

    records: Any
    index: EpisodeIndex
    shot: int
    size: int
    flip: bool = False
    seed: int = 0
    original: int = 0

    def __call__(self, record: Record, random: np.random.Generator) -> Record:
        if "episode" in record:
            random = np.random.default_rng([self.seed, record["episode"]])
        episode = sample_episode(random, self.index, self.shot, int(record["place"]))
        value = self.index.class_ids[episode.target]
        square = functools.partial(
            square_example, size=self.size, random=random if self.flip else None
        )
        asked = self._read(episode.query, value)
        query, query_mask = square(*asked)
        pairs = [square(*self._read(int(row), value)) for row in episode.supports]
        numbers: Record = {
            name: np.int32(record[name]) for name in ("episode", "run") if name in record
        }
        if self.original and "episode" in record:
            numbers |= original_labels(asked[1], self.size, self.original)
        return {
            "support": np.stack([image for image, _ in pairs]),
            "support_mask": np.stack([mask for _, mask in pairs]),
            "query": query,
            "query_mask": query_mask,
            "class": np.int32(episode.target),
            **numbers,
        }

    def _read(self, row: int, value: int) -> tuple[np.ndarray, np.ndarray]:
        record = self.records[row]
        image, labels = images.decode(record["image"]), decode_label(record["label"])
        return image, np.where(labels == IGNORE, IGNORE, labels == value).astype(np.uint8)


def original_labels(labels: np.ndarray, size: int, side: int) -> Record:
    """What `EpisodeTransform.original` adds for labels [H, W], whose image is fitted into `size`.

    Raises BadRecord where they are larger than `side`.
    """
    if max(labels.shape) > side:
        raise BadRecord(
            f"{labels.shape[0]} x {labels.shape[1]} pixels; at original resolution the queries of "
            f"this benchmark have at most {side} a side"
        )
    canvas = np.full((side, side), IGNORE, np.uint8)
    canvas[: labels.shape[0], : labels.shape[1]] = labels
    return {
        "original_mask": canvas,
        "original_size": np.array(labels.shape, np.int32),
        "content": np.array(fitted(labels.shape[0], labels.shape[1], size), np.int32),
    }


@dataclasses.dataclass(frozen=True)
class BaseTransform:
    """Encoded "image" and "label" -> "image" float32 [S, S, 3], normalised, "label" uint8 [S, S].

    table: uint8 [256] as a tuple, class of each mask value. flip: as in EpisodeTransform.
    """

    table: tuple[int, ...]
    size: int
    flip: bool = False

    def __call__(self, record: Record, random: np.random.Generator) -> Record:
        image, values = images.decode(record["image"]), decode_label(record["label"])
        labels = np.asarray(self.table, np.uint8)[values]
        image, labels = square_example(image, labels, self.size, random if self.flip else None)
        return {"image": image, "label": labels}


def square_example(
    image: np.ndarray, labels: np.ndarray, size: int, random: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mirrored (where a generator is given), fitted into a square, normalised.

    Raises BadRecord where image and labels do not belong together.
    """
    if random is not None:
        for axis in (1, 0):
            if random.random() < 0.5:
                image, labels = np.flip(image, axis), np.flip(labels, axis)
    try:
        canvas, squared = resize_pad_square(image, labels, size)
    except DataError as error:
        raise BadRecord(str(error)) from error
    return images.normalise(canvas), squared
