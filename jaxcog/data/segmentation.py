"""Images with label maps on the host: scaling, cropping, mirroring, label values, with NumPy.

An example is {"image": uint8 [H, W, 3] RGB, "label": uint8 [H, W], "window": int32 [4]}: the rows
and columns (top, bottom, left, right) in which there is an image and not padding. Normalising is
left to the device, so that a quarter of the bytes travel there; padding is zero after it.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxcog.data import images
from jaxcog.data.types import BadRecord, Record
from jaxcog.errors import DataError

IGNORE = 255
_BITS = 11  # of the fixed-point weights of OpenCV's bilinear resize


def decode_label(data: bytes) -> np.ndarray:
    """A PNG of label values as [H, W] uint8 or int32; palettes are not applied.

    Raises BadRecord where it is no image of one channel.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadRecord(f"not a readable label image ({error})".replace("\n", " ")) from error
    if values.ndim != 2:
        raise BadRecord(f"a label image has one channel, this one has {values.shape[2:]}")
    return values


def label_table(classes: dict[int, int], ignored: Sequence[int] = ()) -> np.ndarray:
    """int16 [256]: label value -> class, 255 for `ignored` ones, -1 for values that must not be."""
    table = np.full(256, -1, np.int16)
    table[list(ignored)] = IGNORE
    for value, index in classes.items():
        table[value] = index
    return table


def map_labels(labels: np.ndarray, table: np.ndarray, where: str = "the label") -> np.ndarray:
    """uint8: `labels` through `table` (see `label_table`).

    Raises:
      DataError: naming the values that the table does not know.
    """
    inside = (labels >= 0) & (labels < len(table))
    mapped = table[np.where(inside, labels, 0)]
    wrong = ~inside | (mapped < 0)
    if wrong.any():
        values = np.unique(labels[wrong])
        known = np.flatnonzero(table >= 0)
        raise DataError(
            f"{where}: label values {values[:8].tolist()} in {int(wrong.sum())} pixels are not in "
            f"the dataset's map ({_ranges(known)}): is it the file of class ids, and not that "
            "of colours or instances? Set the pixels to an ignored value or repair the file"
        )
    return mapped.astype(np.uint8)


def _ranges(values: np.ndarray) -> str:
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def check_pair(image: tuple[int, ...], label: tuple[int, ...], where: str) -> None:
    """Raises DataError where an image and its label differ in height or width."""
    if image[:2] != label[:2]:
        raise DataError(
            f"{where}: the image is {image[0]} x {image[1]} and its label {label[0]} x {label[1]} "
            "(height x width): they must have one size; is the label that of another image?"
        )


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Sampling of one axis: output i takes `low` and `low + 1` with integer weights."""

    low: np.ndarray
    weight: np.ndarray  # of the upper sample, in units of 2**-11


def _axis(start: int, stop: int, size: int, scale: float) -> _Axis:
    """Outputs start..stop-1 of an axis of `size` samples enlarged by `scale`, half-pixel centres.

    The arithmetic (32-bit positions, weights of 11 bits) is OpenCV's.
    """
    position = ((np.arange(start, stop) + 0.5) * (1 / scale) - 0.5).astype(np.float32)
    low = np.floor(position).astype(np.int64)
    fraction = position - low.astype(np.float32)
    fraction = np.where((low < 0) | (low >= size - 1), 0, fraction)
    weight = np.rint(fraction * (1 << _BITS)).astype(np.int32)
    return _Axis(np.clip(low, 0, size - 1), weight)


def resize_window(
    image: np.ndarray, scale: float, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    """Part of a bilinearly resized uint8 image, rounded as OpenCV's fixed-point resize does.

    image: [H, W, C]. rows, columns: (start, stop) in the resized image of round(size * scale).
    Only that part is computed, which is what makes training crops cheap.
    """
    height, width = image.shape[:2]
    y, x = _axis(*rows, height, scale), _axis(*columns, width, scale)
    first, last = int(y.low.min()), int(min(y.low.max() + 1, height - 1))
    band = image[first : last + 1].astype(np.int32)
    right = np.minimum(x.low + 1, width - 1)
    w = x.weight[None, :, None]
    wide = band[:, x.low] * ((1 << _BITS) - w) + band[:, right] * w
    lower = np.minimum(y.low + 1, height - 1) - first
    v = y.weight[:, None, None]
    top = ((wide[y.low - first] >> 4) * ((1 << _BITS) - v)) >> 16
    bottom = ((wide[lower] >> 4) * v) >> 16
    return ((top + bottom + 2) >> 2).astype(np.uint8)


def nearest_window(
    label: np.ndarray, scale: float, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    """The same for label values: the sample at floor(i / scale), as OpenCV's nearest."""
    height, width = label.shape
    y = np.minimum(np.floor(np.arange(*rows) * (1 / scale)).astype(int), height - 1)
    x = np.minimum(np.floor(np.arange(*columns) * (1 / scale)).astype(int), width - 1)
    return label[y[:, None], x[None, :]]


def scale_crop_mirror(
    image: np.ndarray,
    label: np.ndarray,
    *,
    scale: float,
    crop: tuple[int, int],
    offset: tuple[int, int],
    mirror: bool,
    pad_to: tuple[int, int] | None = None,
) -> dict[str, np.ndarray]:
    """One training example with all randomness given.

    The image is resized by `scale`, padded at the bottom and right to at least `pad_to`, cropped at
    `offset` and mirrored if asked for.

    Args:
      image: uint8 [H, W, 3]; label: uint8 [H, W] of classes.
      crop: (height, width). offset: (row, column) of its first pixel.
      pad_to: None: as large as the crop.

    Raises:
      DataError: sizes differ, or the crop does not fit into the padded image.
    """
    check_pair(image.shape, label.shape, "scale_crop_mirror")
    size = tuple(round(n * scale) for n in label.shape)
    padded = tuple(max(n, m) for n, m in zip(size, pad_to or crop, strict=True))
    if any(o + c > p for o, c, p in zip(offset, crop, padded, strict=True)):
        raise DataError(
            f"a crop of {crop[0]} x {crop[1]} at {offset} is larger than the padded image of "
            f"{padded[0]} x {padded[1]} (the image of {label.shape[0]} x {label.shape[1]} times "
            f"{scale:g}): choose a smaller crop, or pad to at least the crop"
        )
    stops = [min(o + c, n) for o, c, n in zip(offset, crop, size, strict=True)]
    rows, columns = ((o, max(stop, o)) for o, stop in zip(offset, stops, strict=True))
    out = np.zeros((*crop, 3), np.uint8)
    classes = np.full(crop, IGNORE, np.uint8)
    h, w = rows[1] - rows[0], columns[1] - columns[0]
    if h and w:
        out[:h, :w] = resize_window(image, scale, rows, columns)
        classes[:h, :w] = nearest_window(label, scale, rows, columns)
    window = [0, h, 0, w]
    if mirror:
        out, classes = out[:, ::-1], classes[:, ::-1]
        window = [0, h, crop[1] - w, crop[1]]
    return {
        "image": np.ascontiguousarray(out),
        "label": np.ascontiguousarray(classes),
        "window": np.array(window, np.int32),
    }


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Encoded "image" and "label" -> a random scale, crop and mirroring of them.

    scales: factors, one of them at random. table: see `label_table`.
    """

    scales: tuple[float, ...]
    crop: tuple[int, int]
    table: tuple[int, ...]
    mirror: float = 0.5

    def __call__(self, record: Record, random: np.random.Generator) -> Record:
        image, label = _decoded(record, self.table)
        scale = self.scales[int(random.integers(len(self.scales)))]
        room = [max(round(n * scale) - c, 0) for n, c in zip(label.shape, self.crop, strict=True)]
        offset = (int(random.integers(room[0] + 1)), int(random.integers(room[1] + 1)))
        mirror = bool(random.random() < self.mirror)
        return scale_crop_mirror(
            image, label, scale=scale, crop=self.crop, offset=offset, mirror=mirror
        )


@dataclasses.dataclass(frozen=True)
class EvalTransform:
    """Encoded "image" and "label" on a canvas of one size, at the top left.

    What is larger than the canvas is reduced to fit (image bilinear, label nearest); nothing is
    enlarged.
    """

    canvas: tuple[int, int]
    table: tuple[int, ...]

    def __call__(self, record: Record, random: np.random.Generator) -> Record:
        image, label = _decoded(record, self.table)
        fit = min(1.0, *(c / n for c, n in zip(self.canvas, label.shape, strict=True)))
        if fit < 1:
            size = tuple(max(int(n * fit), 1) for n in label.shape)
            rows = (np.arange(size[0]) / fit).astype(int)
            columns = (np.arange(size[1]) / fit).astype(int)
            label = label[rows[:, None], columns]
            image = images.resize(image, *size)
        return scale_crop_mirror(
            image, label, scale=1.0, crop=self.canvas, offset=(0, 0), mirror=False
        )


def _decoded(record: Record, table: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    image, values = images.decode(record["image"]), decode_label(record["label"])
    where = "this record"
    try:
        check_pair(image.shape, values.shape, where)
        return image, map_labels(values, np.asarray(table), where)
    except DataError as error:
        raise BadRecord(str(error)) from error
