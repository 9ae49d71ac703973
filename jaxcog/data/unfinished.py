"""Images travel to the devices as bytes; that they become numbers is the first thing done there.

A float32 image is four times its uint8 pixels, and with fast devices the way to them is what a
step waits for. So where a stream's transform ends with `images.Normalise`, the loop takes it off
(`unfinished`) and the jitted step begins with it (`finished`). Whoever reads a stream by other ways
(figures, prediction) gets the whole transform.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxcog.data import images
from jaxcog.data.types import Experience, Stream

Finish = Mapping[str, Any]
"""Name of an array -> the Normalise that it still needs; one level deeper for named streams."""


def finish_of(train: Stream | Mapping[str, Stream] | Experience) -> Finish:
    """What the transforms of training streams do last."""
    if isinstance(train, Experience):
        return {}
    if isinstance(train, Mapping):
        return {name: last for name, stream in train.items() if (last := _last_steps(stream))}
    return _last_steps(train)


def common_finish(evaluation: Iterable[Stream | Experience]) -> Finish:
    """The same of evaluation streams, which share one step; empty where they differ."""
    found = [finish_of(stream) for stream in evaluation]
    return found[0] if found and all(last == found[0] for last in found) else {}


def unfinished(stream: Stream) -> Stream:
    """The stream without what its transform does last."""
    if not isinstance(stream.transform, images.Views):
        return stream
    views = tuple(
        (name, steps[:-1] if _normalise_of(steps) else steps)
        for name, steps in stream.transform.views
    )
    return dataclasses.replace(stream, transform=images.Views(views))


def finished(batch: Mapping[str, Any], finish: Finish) -> dict[str, Any]:
    """A batch as a task wants it; under jit, on the devices."""

    def one(name: str, value: Any) -> Any:
        last = finish.get(name)
        if last is None:
            return value
        if isinstance(last, Mapping):
            return finished(value, last)
        return images.normalise(value, last.mean, last.std)

    return {name: one(name, value) for name, value in batch.items()}


def as_bytes(struct: Mapping[str, Any], finish: Finish) -> dict[str, Any]:
    """The shapes of a batch as it travels, from those that a task wants."""

    def one(name: str, value: Any) -> Any:
        last = finish.get(name)
        if last is None:
            return value
        if isinstance(last, Mapping):
            return as_bytes(value, last)
        return jax.ShapeDtypeStruct(value.shape, np.uint8)

    return {name: one(name, value) for name, value in struct.items()}


def _last_steps(stream: Stream) -> dict[str, images.Normalise]:
    views = stream.transform.views if isinstance(stream.transform, images.Views) else ()
    return {name: last for name, steps in views if (last := _normalise_of(steps)) is not None}


def _normalise_of(steps: tuple[images.Step, ...]) -> images.Normalise | None:
    return steps[-1] if steps and isinstance(steps[-1], images.Normalise) else None
