"""Between what networks read and what people see: pixels, normalised images, chunks of one size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's channels, in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """How a dataset's images are normalised: (pixels - mean) / std, pixels in [0, 1]."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, facts: Mapping[str, Any], default: tuple[Any, Any] = IMAGENET) -> Scale:
        """What `DataInfo.facts` says under "mean" and "std"; `default` where it says nothing."""
        mean, std = facts.get("mean", default[0]), facts.get("std", default[1])
        return cls(np.asarray(mean, np.float32), np.asarray(std, np.float32))

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """[..., C] in [0, 1] -> what the network reads, float32."""
        return ((pixels - self.mean) / self.std).astype(np.float32)

    def pixels(self, images: Any) -> np.ndarray:
        """The inverse, clipped to [0, 1]."""
        return np.clip(np.asarray(images, np.float32) * self.std + self.mean, 0, 1)

    def rgb(self, images: Any) -> np.ndarray:
        """Normalised images [..., 1 or 3] -> uint8 [..., 3]."""
        return rgb(self.pixels(images))


def rgb(pixels: Any) -> np.ndarray:
    """[..., 1 or 3] in [0, 1] (clipped) -> uint8 [..., 3]."""
    found = np.round(255 * np.clip(np.asarray(pixels, np.float32), 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(found, (*found.shape[:-1], 3)))


def in_chunks(encode: Callable[[np.ndarray], Any], rows: np.ndarray, size: int) -> np.ndarray:
    """`encode` of rows [N, ...], `size` at a time: nothing is compiled twice; N is at least 1."""
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size, axis=0)])
    chunks = padded.reshape(-1, size, *rows.shape[1:])
    return np.concatenate([np.asarray(encode(chunk)) for chunk in chunks])[: len(rows)]
