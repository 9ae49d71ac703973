"""What the report and `jaxcog predict` show of temporal localization."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.errors import DataError
from jaxcog.losses.temporal_targets import snippet_mask
from jaxcog.metrics.temporal import soft_nms
from jaxcog.show import Figure, File, Gallery, Lines, Picture, Table
from jaxcog.systems.qat import judging, model
from jaxcog.systems.qat.proposals import bmn_proposals
from jaxcog.systems.qat.timeline import Timeline, draw
from jaxcog.task import Batch, DataInfo, State

_SHOWN = 6
_BASELINES = ("whole_video", "two_boxes", "five_boxes")

Predict = Callable[[State, Sequence[Any], Sequence[str]], list[Figure]]
Report = Callable[[State, Mapping[str, Any], Mapping[str, Any]], list[Figure]]


def report(data: DataInfo, detector: judging.Detector) -> Report:
    """The `figures` of the few-shot stage: numbers beside fixed boxes, queries as timelines."""

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        shown: list[Figure] = []
        for split, states in results.items():
            rows = states["rows"].compute()
            scores = judging.summarize(rows, detector)
            shown.append(comparison(f"{split}: beside boxes that saw no video", scores))
            shown.append(_timelines(f"{split}: some queries", data, rows, detector))
        return shown

    return figures


def comparison(title: str, scores: Mapping[str, float]) -> Table:
    """The method and the content-independent boxes, on all queries and on those of low coverage."""
    columns = [name for name in scores if name.startswith("mAP")]
    prefixes = {"this run": "", **{name.replace("_", " "): f"{name}/" for name in _BASELINES}}
    rows = [
        [name, *(f"{scores[part + prefix + column]:.3f}" if part + prefix + column in scores
                 else "-" for part in ("", "low/") for column in columns)]
        for name, prefix in prefixes.items()
    ]  # fmt: skip
    header = ["detections", *columns, *(f"{column}, low coverage" for column in columns)]
    return Table(
        title,
        header,
        rows,
        "Fixed boxes are the same in every video. Low coverage: the class fills less than half.",
    )


def _timelines(
    title: str, data: DataInfo, rows: Mapping[str, np.ndarray], detector: judging.Detector
) -> Gallery:
    chosen = np.unique(np.linspace(0, len(rows["prob"]) - 1, _SHOWN).round().astype(int))
    pictures = []
    for i in chosen:
        duration, curve = float(rows["duration"][i]), np.asarray(rows["prob"][i], np.float64)
        segments, scores = detector(curve, duration)
        own = rows["segments"][i]
        truth = own[own[:, 1] >= 0]
        label = int(rows["label"][i])
        name = data.class_names[label] if label < len(data.class_names) else f"class {label}"
        timeline = Timeline(duration, segments, scores, truth, {"foreground": curve})
        pictures.append((name, [Picture(draw(timeline))]))
    return Gallery(title, pictures, "A bar is the stronger the higher its score.")


def prediction(
    shape: tuple[int, ...],
    raw: tuple[int, int] | None,
    detector: judging.Detector,
    embed: Callable[[State, jax.Array], jax.Array],
    predict_batch: Callable[[State, Batch], jax.Array],
) -> Predict:
    """The `predict` of the few-shot stage: K annotated supports first, then the queries."""

    @jax.jit
    def curve_of(state: State, support: jax.Array, mask: jax.Array, query: jax.Array) -> jax.Array:
        if raw is not None:
            support, query = embed(state, support), embed(state, query[None])[0]
        batch = {"support": support[None], "support_mask": mask[None], "query": query[None]}
        return predict_batch(state, batch)[0]

    def predict(state: State, inputs: Sequence[Any], names: Sequence[str]) -> list[Figure]:
        shots, length = shape[0], shape[1]
        width = shape[-1] if raw is None else raw[1]
        if len(inputs) <= shots:
            raise DataError(
                f"this run needs {shots} annotated support videos, then at least one query, and "
                f"got {len(inputs)} files: name them in this order"
            )
        supports, masks = [], []
        for snippets, name in zip(inputs[:shots], names, strict=False):
            if snippets.segments is None:
                raise DataError(
                    f'{name} is one of the {shots} supports and has no annotation: write "duration"'
                    f' and "segments" in seconds into the .json file beside it'
                )
            mask = snippet_mask(snippets.segments, snippets.duration, length)
            if not mask.any():
                raise DataError(
                    f"{name}: its segments are shorter than a snippet, which is "
                    f"{snippets.duration / length:.2g} s: choose another support"
                )
            supports.append(fitted(snippets.features, length, width, name))
            masks.append(mask)
        shown, found = [], {}
        for snippets, name in zip(inputs[shots:], names[shots:], strict=True):
            query = fitted(snippets.features, length, width, name)
            curve = np.asarray(curve_of(state, np.stack(supports), np.stack(masks), query))
            duration = snippets.duration or 1.0
            segments, scores = detector(curve.astype(np.float64), duration)
            unit = "s" if snippets.duration else "of the video"
            timeline = Timeline(
                duration, segments, scores, snippets.segments, {"foreground": curve}, unit
            )
            shown.append((name, [Picture(draw(timeline))]))
            found[name] = segment_list(segments, scores, unit)
        note = "Supports: " + ", ".join(names[:shots])
        data = json.dumps(found, indent=1).encode()
        return [Gallery("Localization", shown, note), File("Segments", "segments.json", data)]

    return predict


def fitted(features: np.ndarray, length: int, width: int, name: str) -> np.ndarray:
    """[n, F] -> float32 [length, F], linear in time. Raises DataError for another width."""
    if features.shape[1] != width:
        raise DataError(
            f"{name}: {features.shape[1]} channels, this run was trained on {width}: use the same "
            "kind of features"
        )
    if len(features) == length:
        return features
    return np.asarray(jax.image.resize(features, (length, width), "linear", antialias=False))


def segment_list(segments: np.ndarray, scores: np.ndarray, unit: str) -> list[dict[str, Any]]:
    """Detections as plain JSON values, the best first."""
    return [
        {"start": round(float(start), 3), "end": round(float(end), 3), "unit": unit,
         "score": round(float(score), 6)}
        for (start, end), score in zip(segments, scores, strict=True)
    ]  # fmt: skip


def base_report(network: model.GTADConfig) -> Report:
    """The `figures` of the base stage: boundaries of a few videos, predicted and true."""

    def figures(
        state: State, samples: Mapping[str, Any], results: Mapping[str, Any]
    ) -> list[Figure]:
        shown: list[Figure] = []
        for split, arrays in samples.items():
            few = {name: np.asarray(value[:2]) for name, value in arrays.items()}
            out = jax.jit(lambda params, x: model.apply(network, params, x))(
                state["params"], few["features"]
            )
            for i in range(len(few["features"])):
                time = np.arange(few["start"].shape[1])
                series = {
                    "start, found": (time, np.asarray(out.start[i])),
                    "start, true": (time, few["start"][i]),
                    "end, found": (time, np.asarray(out.end[i])),
                    "end, true": (time, few["end"][i]),
                }
                shown.append(Lines(f"{split}: boundaries of video {i + 1}", series, "snippet"))
        return shown

    return figures


def base_prediction(network: model.GTADConfig, length: int, width: int, sigma: float) -> Predict:
    """The `predict` of the base stage: class-agnostic proposals of each video."""
    apply = jax.jit(lambda params, x: model.apply(network, params, x))

    def predict(state: State, inputs: Sequence[Any], names: Sequence[str]) -> list[Figure]:
        shown, found = [], {}
        for snippets, name in zip(inputs, names, strict=True):
            x = fitted(snippets.features, length, width, name)
            out = apply(state["params"], jnp.asarray(x)[None])
            start, end, iou_map = (np.asarray(y[0]) for y in (out.start, out.end, out.iou_map))
            rows = bmn_proposals(start, end, iou_map)
            duration, unit = snippets.duration or 1.0, "s" if snippets.duration else "of the video"
            segments, scores = soft_nms(
                rows[:, :2] * duration, rows[:, 2] * rows[:, 3], sigma=sigma
            )
            curves = {"start": start, "end": end}
            timeline = Timeline(duration, segments, scores, snippets.segments, curves, unit)
            shown.append((name, [Picture(draw(timeline))]))
            found[name] = segment_list(segments, scores, unit)
        data = json.dumps(found, indent=1).encode()
        return [Gallery("Proposals", shown), File("Proposals", "proposals.json", data)]

    return predict
