"""What the reports and `jaxcog predict` show of episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.errors import DataError
from jaxcog.metrics.segmentation import iou_table
from jaxcog.nn.canvas import (
    IGNORE,
    fitted,
    resize_linear,
    resize_nearest,
    resize_pad_square,
)
from jaxcog.pictures import Scale
from jaxcog.show import Figure, Gallery, Histogram, Picture, Table
from jaxcog.systems.cwt import judging
from jaxcog.systems.cwt.ops import Segmented
from jaxcog.task import DataInfo, State

Segment = Callable[[State, Mapping[str, Any]], Segmented]
"""(state, episodes without "class") -> see Segmented."""

SAMPLES = 24
_SHOWN = 4
_SUPPORTS_SHOWN = 2
_OBJECT, _VOID, _TRUTH = (235, 45, 70), (128, 128, 128), (40, 170, 90)


class _Judged(NamedTuple):
    """One episode with its results: foreground IoU before and after, maps, attention [h, w]."""

    number: int
    before: float
    after: float
    maps: tuple[np.ndarray, np.ndarray]
    attention: np.ndarray


def rgb(data: DataInfo, image: np.ndarray) -> np.ndarray:
    """A normalised image [H, W, C] as uint8 [H, W, 3]."""
    return Scale.of(data.facts).rgb(image)


def overlay(
    image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = _OBJECT
) -> np.ndarray:
    """uint8 [H, W, 3]: the object in colour over a paler image; void in grey.

    mask: 0, 1, 255, of the image's size or coarser.
    """
    mask = resize_nearest(mask, *image.shape[:2])
    out = image.astype(np.float32)
    out = np.where((mask == 0)[..., None], 0.65 * out + 0.35 * 255, out)
    for value, paint in ((1, colour), (IGNORE, _VOID)):
        where = (mask == value)[..., None]
        out = np.where(where, 0.5 * out + 0.5 * np.asarray(paint, np.float32), out)
    return np.round(out).astype(np.uint8)


def _heat(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """The image in grey, brighter and warmer where there is more attention than on average."""
    height, width = image.shape[:2]
    relative = resize_linear(attention[..., None] * attention.size, height, width)[..., 0]
    strength = np.clip((relative - 1) / max(float(relative.max()) - 1, 1e-6), 0, 1)[..., None]
    grey = np.broadcast_to(image.mean(-1, keepdims=True) * 0.6 + 60, image.shape)
    return np.round((1 - strength) * grey + strength * np.asarray((255, 190, 30))).astype(np.uint8)


def base_report(
    data: DataInfo, predict: Callable[[State, jax.Array], jax.Array]
) -> Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    """The `figures` of stage 1: IoU of every class, and some images."""
    run = jax.jit(predict)
    colours = np.array([[i * 67 % 256, i * 151 % 256, 255 - i * 29 % 256] for i in range(256)])
    colours[0], colours[IGNORE] = (0, 0, 0), _VOID
    colours = colours.astype(np.uint8)

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        shown: list[Figure] = []
        for split, states in results.items():
            counts = states["confusion"].compute()
            shown.append(iou_table(counts, data.class_names, f"IoU per base class, {split}"))
            rows = []
            for i in range(min(_SHOWN, len(samples[split]["label"]))):
                image = samples[split]["image"][i]
                truth = np.asarray(samples[split]["label"][i])
                found = np.asarray(run(state, image[None]))[0]
                picture = rgb(data, image)
                rows.append(
                    (
                        f"image {i}",
                        [
                            Picture(picture, "image"),
                            Picture(colours[resize_nearest(truth, *picture.shape[:2])], "truth"),
                            Picture(colours[resize_nearest(found, *picture.shape[:2])], "found"),
                        ],
                    )
                )
            note = "Base classes in colours, background black, what is not learned grey."
            shown.append(Gallery(f"Images of {split}", rows, note))
        return shown

    return figures


def report(
    data: DataInfo, segment: Segment
) -> Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    """The `figures` of stage 2: IoU of classes and episodes, and what the transformer changed."""
    run = _runner(segment)

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        shown: list[Figure] = []
        for split, states in results.items():
            names = data.facts["classes"][split]
            shown.append(_class_table(split, names, states["episodes"].compute()))
        for split, arrays in samples.items():
            names = data.facts["classes"][split]
            judged = _judge(run, state, arrays)
            shown.append(_gains(split, judged))
            order = sorted(judged, key=lambda one: one.before - one.after)
            for title, chosen in (("helped", order[:_SHOWN]), ("hurt", order[::-1][:_SHOWN])):
                rows = [_row(data, arrays, one, names) for one in chosen]
                note = (
                    "Support with its object, the query's object, what the support classifier "
                    "finds, what it finds after the transformer, and where the object's weights "
                    "looked in the query."
                )
                heading = f"Where the transformer {title} most, {split}, {len(judged)} episodes"
                shown.append(Gallery(heading, rows, note))
        return shown

    return figures


def _runner(segment: Segment) -> Callable[[State, Mapping[str, Any]], tuple[np.ndarray, ...]]:
    """A function of (state, one episode): (P(object) before, after [H, W], attention [h, w])."""

    @jax.jit
    def run(state: State, batch: Mapping[str, Any]) -> tuple[jax.Array, ...]:
        found = segment(state, batch)
        before, after = (
            jax.nn.softmax(logits[0])[..., 1] for logits in (found.support_only, found.adapted)
        )
        return before, after, jnp.mean(found.attention()[0, :, 1], axis=0)

    return lambda state, batch: tuple(np.asarray(x) for x in run(state, batch))


_READ = ("support", "support_mask", "query", "query_mask", "episode")


def _judge(run: Any, state: State, arrays: Mapping[str, Any]) -> list[_Judged]:
    judged = []
    for i in range(len(arrays["query"])):
        batch = {name: np.asarray(arrays[name][i : i + 1]) for name in _READ}
        before, after, attention = run(state, batch)
        truth = batch["query_mask"][0]
        first, second = ((p > 0.5).astype(np.uint8) for p in (before, after))
        scores = _iou(first, truth), _iou(second, truth)
        judged.append(_Judged(i, scores[0], scores[1], (first, second), attention))
    return judged


def _iou(found: np.ndarray, truth: np.ndarray) -> float:
    both, either = judging.overlap(jnp.asarray(found), jnp.asarray(truth))
    return float(both[1]) / max(float(either[1]), 1)


def _row(
    data: DataInfo, arrays: Mapping[str, Any], one: _Judged, names: Sequence[str]
) -> tuple[str, list[Picture]]:
    i = one.number
    query, truth = rgb(data, arrays["query"][i]), np.asarray(arrays["query_mask"][i])
    pictures = [
        Picture(overlay(rgb(data, image), np.asarray(mask), _TRUTH), "support")
        for image, mask in zip(
            arrays["support"][i][:_SUPPORTS_SHOWN],
            arrays["support_mask"][i][:_SUPPORTS_SHOWN],
            strict=True,
        )
    ]
    pictures.append(Picture(overlay(query, truth, _TRUTH), "query"))
    gained = None
    if one.after != one.before:
        gained = "good" if one.after > one.before else "bad"
    for mask, text, border in (
        (one.maps[0], f"support only, IoU {100 * one.before:.0f}", None),
        (one.maps[1], f"transformer, IoU {100 * one.after:.0f}", gained),
    ):
        shown = np.where(truth == IGNORE, IGNORE, mask).astype(np.uint8)
        pictures.append(Picture(overlay(query, shown), text, border))
    pictures.append(Picture(_heat(query, one.attention), "attention"))
    return f"{i}: {names[int(arrays['class'][i])]}", pictures


def _gains(split: str, judged: Sequence[_Judged]) -> Histogram:
    edges = np.linspace(0, 1, 11)
    series = {
        name: np.histogram([getattr(one, field) for one in judged], edges)[0] / len(judged)
        for name, field in (("support classifier", "before"), ("transformer", "after"))
    }
    better = sum(one.after > one.before for one in judged)
    return Histogram(
        f"Foreground IoU of single episodes, {split}",
        edges,
        series,
        x_label="IoU",
        y_label="share of episodes",
        note=f"The transformer is better in {better} of {len(judged)} episodes.",
    )


def _class_table(split: str, names: Sequence[str], rows: Mapping[str, np.ndarray]) -> Table:
    """Pooled over all runs."""
    pooled = {
        name: judging.fewshot_iou(
            rows[f"{name}/both"][:, 1], rows[f"{name}/either"][:, 1], rows["class"]
        )
        for name in (judging.ADAPTED, judging.SUPPORT_ONLY)
    }
    adapted, support = pooled[judging.ADAPTED], pooled[judging.SUPPORT_ONLY]
    body = [
        [names[c], int((rows["class"] == c).sum()), f"{100 * before:.1f}", f"{100 * after:.1f}"]
        for c, before, after in zip(adapted.classes, support.iou, adapted.iou, strict=True)
    ]
    mean = ["mean", len(rows["class"]), f"{100 * support.mean:.1f}", f"{100 * adapted.mean:.1f}"]
    header = ("class", "episodes", "support classifier", "transformer")
    return Table(f"Foreground IoU % per class, {split}", header, [*body, mean])


def prediction(
    data: DataInfo, segment: Segment
) -> Callable[[State, Sequence[np.ndarray], Sequence[str]], list[Figure]]:
    """The `predict` of stage 2: every query beside its object, by all supports together."""
    run = _runner(segment)
    image_shape, mask_shape = (data.element[name].shape for name in ("query", "query_mask"))

    def square(image: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, Any]:
        canvas, label = resize_pad_square(image, mask, image_shape[0])
        if image_shape[-1] == 1:
            canvas = canvas.mean(-1, keepdims=True)
        coarse = None if label is None else resize_nearest(label, *mask_shape)
        return Scale.of(data.facts).normalised(canvas / 255), coarse

    def predict(state: State, values: Sequence[np.ndarray], names: Sequence[str]) -> list[Figure]:
        supports, queries = _sorted_inputs(values, names)
        squares = [square(image, mask) for _, image, mask in supports]
        support = np.stack([image for image, _ in squares])[None]
        masks = np.stack([mask for _, mask in squares])[None]
        for (name, _, _), mask in zip(supports, masks[0], strict=True):
            if not (mask == 1).any():
                raise DataError(
                    f"{name}: nothing of its object is left at {mask.shape[0]} x {mask.shape[1]} "
                    "pixels: choose a support image that shows it larger"
                )
        rows = []
        for name, image in queries:
            canvas, _ = square(image, None)
            batch = {
                "support": support,
                "support_mask": masks,
                "query": canvas[None],
                "query_mask": np.zeros((1, *mask_shape), np.uint8),
                "episode": np.zeros(1, np.int32),
            }
            pictures = [Picture(image, "query")]
            for found, text in zip(run(state, batch), ("support only", "object"), strict=False):
                mask = (_original(found, image, image_shape[0]) > 0.5).astype(np.uint8)
                share = f"{text}: {100 * mask.mean():.0f} % of the image"
                pictures.insert(1, Picture(overlay(image, mask), share))
            rows.append((PurePath(name).name, pictures))
        shown = [
            (PurePath(name).name, [Picture(overlay(i, m, _TRUTH), "support")])
            for name, i, m in supports
        ]
        return [
            Gallery("Support", shown, "The object to look for."),
            Gallery("Queries", rows, "What is found by the rewritten classifier comes first."),
        ]

    return predict


def _original(found: np.ndarray, image: np.ndarray, size: int) -> np.ndarray:
    """A map over the square, [H, W] of the image that was fitted into it."""
    height, width = fitted(image.shape[0], image.shape[1], size)
    whole = resize_linear(found[..., None], size, size)
    return resize_linear(whole[:height, :width], *image.shape[:2])[..., 0]


def _sorted_inputs(
    values: Sequence[np.ndarray], names: Sequence[str]
) -> tuple[list[tuple[str, np.ndarray, np.ndarray]], list[tuple[str, np.ndarray]]]:
    """Supports (name, image, mask of 0, 1, 255) and queries (name, image).

    A mask belongs to the image before it.
    """
    usage = (
        "name each support image followed by its mask (a PNG of one channel), then the queries: "
        "dog.jpg dog.png query.jpg"
    )
    supports, queries = [], []
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        if value.ndim == 2:
            if i == 0 or values[i - 1].ndim == 2:
                raise DataError(f"{name} is a mask with no image before it: {usage}")
            continue
        if i + 1 < len(values) and values[i + 1].ndim == 2:
            mask = binary_mask(values[i + 1], names[i + 1])
            if mask.shape != value.shape[:2]:
                raise DataError(
                    f"{names[i + 1]} is {mask.shape[0]} x {mask.shape[1]} (height x width), the "
                    f"image before it, {name}, {value.shape[0]} x {value.shape[1]}: a mask has "
                    "the size of its image"
                )
            supports.append((name, value, mask))
        else:
            queries.append((name, value))
    if not supports:
        raise DataError(f"there is no support image with a mask: {usage}")
    if not queries:
        raise DataError(f"there is no query, every image has a mask: {usage}")
    return supports, queries


def binary_mask(values: np.ndarray, name: str) -> np.ndarray:
    """A mask file as uint8 0, 1, and 255 for void.

    One value besides 0 is the object; 255 is void where there is another one.

    Raises:
      DataError: an empty mask, or several objects.
    """
    found = [int(v) for v in np.unique(values) if v not in (0, IGNORE)]
    if not found and not (values == IGNORE).any():
        raise DataError(
            f"{name}: the mask is empty, no pixel differs from 0: draw the object in it"
        )
    if len(found) > 1:
        raise DataError(
            f"{name}: the mask holds several classes ({', '.join(map(str, found[:8]))}): keep one, "
            "set the others to 0"
        )
    if not found:
        return (values == IGNORE).astype(np.uint8)
    return np.where(values == IGNORE, IGNORE, values == found[0]).astype(np.uint8)
