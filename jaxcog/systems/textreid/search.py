"""Searching a gallery of person crops by sentences: the index, and the ranking."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxcog.errors import DataError
from jaxcog.metrics.ranking import nearest

_VERSION = 1


@dataclasses.dataclass(frozen=True)
class GalleryIndex:
    """A gallery that can be searched without its images or the image encoder.

    embeddings: float32 [N, D], un-normalised. names: what item i is called. thumbnails: uint8
    [N, h, w, 3]. made_by: `jaxcog.trees.fingerprint` of the weights that made the embeddings.
    """

    embeddings: np.ndarray
    names: tuple[str, ...]
    thumbnails: np.ndarray
    made_by: str

    def to_bytes(self) -> bytes:
        """The content of an .npz file, whose arrays `from_arrays` takes."""
        file = io.BytesIO()
        np.savez_compressed(
            file,
            version=_VERSION,
            embeddings=self.embeddings,
            names=np.array(self.names, np.str_),
            thumbnails=self.thumbnails,
            made_by=self.made_by,
        )
        return file.getvalue()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], name: str, made_by: str) -> GalleryIndex:
        """The index in an .npz file's arrays. name: of the file, for messages.

        Raises:
          DataError: it is no index, or other weights made it than `made_by`.
        """
        wanted = {"version", "embeddings", "names", "thumbnails", "made_by"}
        if not wanted <= arrays.keys():
            raise DataError(
                f"{name}: not a gallery index, it lacks {', '.join(sorted(wanted - arrays.keys()))}"
                ": name the index.npz that `jaxcog predict` wrote, or the folder of images"
            )
        if int(arrays["version"]) != _VERSION:
            raise DataError(
                f"{name}: index version {int(arrays['version'])}, this release reads {_VERSION}: "
                "make it again from the images"
            )
        index = cls(
            arrays["embeddings"],
            tuple(arrays["names"].tolist()),
            arrays["thumbnails"],
            str(arrays["made_by"]),
        )
        if index.made_by != made_by:
            raise DataError(
                f"{name} was made by other weights ({index.made_by}) than this run's ({made_by}): "
                "their spaces differ; make the index again from the images"
            )
        return index

    def joined(self, other: GalleryIndex) -> GalleryIndex:
        """Both galleries as one."""
        return GalleryIndex(
            np.concatenate([self.embeddings, other.embeddings]),
            self.names + other.names,
            np.concatenate([self.thumbnails, other.thumbnails]),
            self.made_by,
        )


def search(
    model: Callable[[Sequence[str]], np.ndarray],
    gallery_embeddings: np.ndarray,
    sentence: str,
    k: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of a gallery, best first: (rows int [k], cosines float32 [k]).

    Args:
      model: sentences to embeddings [Q, D].
      gallery_embeddings: [G, D], need not be normalised.
    """
    query = np.asarray(model([sentence]), np.float32)
    rows = nearest(query, gallery_embeddings, k)[0]
    return rows, cosines(query, np.asarray(gallery_embeddings)[rows])[0]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, D] and [M, D] -> float32 [N, M]."""
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    lengths = [np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b)]
    return (a / lengths[0]) @ (b / lengths[1]).T
