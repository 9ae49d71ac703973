"""What the report and `jaxcog predict` show of a scene parser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.metrics import segmentation as metrics
from jaxcog.show import Figure, Gallery, Matrix, Picture
from jaxcog.task import DataInfo, State

Logits = Callable[[State, Mapping[str, Any]], jax.Array]
"""(state, {"image": [B, H, W, 3], "window": ...}) -> [B, H, W, K] under the task's protocol."""

_JUDGED = 48  # images among which best and worst are sought
_SHOWN = 4
_MULTIPLE = 128  # sides of predicted images are padded to it, so that few sizes are compiled
IGNORE = 255


def palette(data: DataInfo) -> np.ndarray:
    """uint8 [256, 3]: the dataset's colours by class, black elsewhere."""
    table = np.zeros((256, 3), np.uint8)
    colours = np.asarray(data.facts.get("colours", ()), np.uint8).reshape(-1, 3)
    if len(colours) < data.num_classes:
        steps = np.arange(data.num_classes)
        colours = np.stack([steps * 67 % 256, steps * 151 % 256, 255 - steps * 29 % 256], 1)
    table[: data.num_classes] = colours[: data.num_classes]
    return table


def overlay(
    image: np.ndarray, classes: np.ndarray, colours: np.ndarray, share: float = 0.55
) -> np.ndarray:
    """uint8 [H, W, 3]: `share` of the classes' colours over the image."""
    mixed = (1 - share) * image + share * colours[classes].astype(np.float32)
    return np.round(mixed).astype(np.uint8)


def report(
    data: DataInfo, parsers: tuple[Logits, Logits | None]
) -> Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    """The `figures` of a Task: best and worst images, what local distribution changed, tables.

    parsers: the network's, and the same with an even mask (None where it has no mask).
    """
    classify = [_classifier(parser) for parser in parsers if parser is not None]

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        shown: list[Figure] = []
        for split, states in results.items():
            counts = states["confusion"].compute()
            names = data.class_names
            shown.append(metrics.iou_table(counts, names, f"IoU per class, {split}"))
            if len(names) <= 30:
                share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
                note = "Rows are true classes, columns predicted ones; shares of a row."
                shown.append(Matrix(f"Confusion, {split}", share, names, names, note))
        for split, arrays in samples.items():
            shown += _judged(data, classify, state, split, arrays)
        return shown

    return figures


def _classifier(parser: Logits) -> Callable[[State, Mapping[str, Any]], np.ndarray]:
    run = jax.jit(lambda state, batch: jnp.argmax(parser(state, batch), -1).astype(jnp.uint8))
    return lambda state, batch: np.asarray(run(state, batch))


def _judged(
    data: DataInfo,
    classify: Sequence[Callable[[State, Mapping[str, Any]], np.ndarray]],
    state: State,
    split: str,
    arrays: Mapping[str, Any],
) -> list[Figure]:
    """Runs one image at a time: evaluation images are large."""
    count = min(_JUDGED, len(arrays["label"]))
    fields = [name for name in ("image", "window") if name in arrays]
    found = []
    for i in range(count):
        one = {name: np.asarray(arrays[name][i : i + 1]) for name in fields}
        label = np.asarray(arrays["label"][i])
        maps = [run(state, one)[0] for run in classify]
        counts = metrics.confusion_matrix(maps[0], label, data.num_classes)
        score = 100 * metrics.mean_iou(counts, "skip")
        if np.isnan(score):
            continue
        found.append((score, i, _rgb(arrays["image"][i]), label, maps))
    order = sorted(found, key=lambda item: item[0])
    colours = palette(data)
    shown: list[Figure] = []
    chosen = (("Worst", order[:_SHOWN]), ("Best", order[::-1][:_SHOWN]))
    for title, items in chosen:
        rows = [
            (f"image {i}", _row(image, label, maps[0], colours, f"mIoU {score:.1f}"))
            for score, i, image, label, maps in items
        ]
        note = "Image, true classes, predicted classes, and in red what is wrong."
        shown.append(Gallery(f"{title} images of {split}, of the first {count}", rows, note))
    if len(classify) > 1:
        shown.append(_changed(split, found, colours))
    return shown


def _row(
    image: np.ndarray, label: np.ndarray, predicted: np.ndarray, colours: np.ndarray, text: str
) -> list[Picture]:
    wrong = (predicted != label) & (label != IGNORE)
    return [
        Picture(image, "image"),
        Picture(colours[label], "truth"),
        Picture(overlay(image, predicted, colours), text),
        Picture(_marked(_dimmed(image), wrong, (255, 40, 40)), "wrong"),
    ]


def _changed(split: str, found: Sequence[Any], colours: np.ndarray) -> Gallery:
    """Where the mask decides: the same weights with the mask's average over the image instead."""

    def gain(item: Any) -> int:
        _, _, _, label, (ours, even) = item
        return int((ours == label).sum() - (even == label).sum())

    rows = []
    for item in sorted(found, key=lambda item: -abs(gain(item)))[:_SHOWN]:
        _, i, image, label, (ours, even) = item
        better, worse = (ours == label) & (even != label), (ours != label) & (even == label)
        worse &= label != IGNORE
        picture = _marked(_dimmed(image), better, (60, 255, 90))
        picture = _marked(picture, worse, (255, 40, 40))
        rows.append(
            (
                f"image {i}",
                [
                    Picture(colours[label], "truth"),
                    Picture(overlay(image, even, colours), "even mask"),
                    Picture(overlay(image, ours, colours), "local distribution"),
                    Picture(picture, f"{better.sum()} pixels better, {worse.sum()} worse"),
                ],
            )
        )
    note = (
        "The same weights twice: with each channel's mask replaced by its average over the image, "
        "and with local distribution. Green: right only with it; red: right only without."
    )
    return Gallery(f"Where local distribution changed the result, {split}", rows, note)


def _dimmed(image: np.ndarray) -> np.ndarray:
    """Grey and dark, so that marks are what one sees."""
    grey = 0.5 * np.asarray(image, np.float32).mean(axis=-1, keepdims=True)
    return np.repeat(grey.astype(np.uint8), 3, axis=-1)


def _marked(image: np.ndarray, where: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    out = image.copy()
    out[where] = (0.3 * out[where] + 0.7 * np.asarray(colour)).astype(np.uint8)
    return out


def _rgb(image: np.ndarray) -> np.ndarray:
    """Pixels as they are; generated float images stretched from -2..2."""
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    return np.round(255 * np.clip((image + 2) / 4, 0, 1)).astype(np.uint8)


def prediction(
    data: DataInfo, parser: Logits, stride: int
) -> Callable[[State, Sequence[np.ndarray], Sequence[str]], list[Figure]]:
    """The `predict` of a Task: each image beside its classes in the dataset's colours."""
    classify = _classifier(parser)
    colours = palette(data)
    takes_pixels = data.element["image"].dtype == np.uint8

    def predict(state: State, images: Sequence[np.ndarray], names: Sequence[str]) -> list[Figure]:
        rows = []
        for name, image in zip(names, images, strict=True):
            height, width = image.shape[:2]
            padded = [-(-n // _MULTIPLE) * _MULTIPLE + (stride > 1) for n in (height, width)]
            canvas = np.zeros((1, *padded, 3), np.uint8)
            canvas[0, :height, :width] = image
            batch = {"image": canvas, "window": np.array([[0, height, 0, width]], np.int32)}
            if not takes_pixels:
                batch["image"] = (canvas / 255 * 4 - 2).astype(np.float32)
            classes = classify(state, batch)[0, :height, :width]
            found, sizes = np.unique(classes, return_counts=True)
            most = sorted(zip(sizes, found, strict=True), reverse=True)[:5]
            text = ", ".join(
                f"{data.class_names[i]} {100 * n / classes.size:.0f}%" for n, i in most
            )
            pictures = [
                Picture(image, "image"),
                Picture(overlay(image, classes, colours), text),
                Picture(colours[classes], "classes"),
            ]
            rows.append((name, pictures))
        shown: list[Figure] = [Gallery("Parsed scenes", rows, "In the dataset's colours.")]
        return [*shown, _legend(data, colours)]

    return predict


def _legend(data: DataInfo, colours: np.ndarray) -> Gallery:
    pictures = [
        Picture(np.broadcast_to(colours[i], (12, 24, 3)).copy(), name)
        for i, name in enumerate(data.class_names)
    ]
    rows = [("", pictures[i : i + 10]) for i in range(0, len(pictures), 10)]
    return Gallery("Colours", rows)
