"""Images travel to the devices as bytes, and are normalised there.

A float32 image is four times its uint8 pixels, and with fast devices the way to them is what a
step waits for. So where a stream's transform ends with `images.Normalise`, the loop reads the
stream without it (`without_normalise`) and the jitted step begins with it (`normalised`). Whoever
reads a stream by other ways (figures, prediction) gets the whole transform.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import jax
import numpy as np

from jaxcog.data import images
from jaxcog.data.types import Experience, Stream

Normalises = Mapping[str, Any]
"""Name of an array -> the `images.Normalise` it still needs; one level deeper for named streams."""


def normalises_of(streams: Stream | Mapping[str, Stream] | Experience) -> Normalises:
    """Which arrays of a batch the devices must normalise, and how."""
    if isinstance(streams, Experience):
        return {}
    if isinstance(streams, Mapping):
        return {name: last for name, stream in streams.items() if (last := _of_stream(stream))}
    return _of_stream(streams)


def common_normalises(streams: Iterable[Stream | Experience]) -> Normalises:
    """The same of evaluation streams, which share one step; empty where they differ."""
    found = [normalises_of(stream) for stream in streams]
    return found[0] if found and all(last == found[0] for last in found) else {}


@overload
def without_normalise(streams: Stream) -> Stream: ...
@overload
def without_normalise(streams: Mapping[str, Stream]) -> Mapping[str, Stream]: ...
def without_normalise(streams: Stream | Mapping[str, Stream]) -> Stream | Mapping[str, Stream]:
    """The same streams, with uint8 arrays where `normalises_of` names them."""
    if isinstance(streams, Mapping):
        return {name: _without(stream) for name, stream in streams.items()}
    return _without(streams)


def normalised(batch: Mapping[str, Any], how: Normalises) -> dict[str, Any]:
    """A batch as a task wants it: uint8 -> float32 of the same shapes; for use under jit."""
    return _mapped(batch, how, lambda x, last: images.normalise(x, last.mean, last.std))


def as_bytes(struct: Mapping[str, Any], how: Normalises) -> dict[str, Any]:
    """ShapeDtypeStructs of a batch as it travels, from those that a task wants."""
    return _mapped(struct, how, lambda x, _: jax.ShapeDtypeStruct(x.shape, np.uint8))


def _mapped(
    batch: Mapping[str, Any], how: Normalises, change: Callable[[Any, images.Normalise], Any]
) -> dict[str, Any]:
    def one(value: Any, last: Any) -> Any:
        if last is None:
            return value
        return _mapped(value, last, change) if isinstance(last, Mapping) else change(value, last)

    return {name: one(value, how.get(name)) for name, value in batch.items()}


def _of_stream(stream: Stream) -> dict[str, images.Normalise]:
    views = stream.transform.views if isinstance(stream.transform, images.Views) else ()
    return {name: last for name, steps in views if (last := _last(steps)) is not None}


def _without(stream: Stream) -> Stream:
    if not isinstance(stream.transform, images.Views):
        return stream
    views = (
        (name, steps[:-1] if _last(steps) else steps) for name, steps in stream.transform.views
    )
    return dataclasses.replace(stream, transform=images.Views(tuple(views)))


def _last(steps: tuple[images.Step, ...]) -> images.Normalise | None:
    return steps[-1] if steps and isinstance(steps[-1], images.Normalise) else None
