"""A searchable gallery in one file, and the same gallery in the binary layout of FAISS."""

from __future__ import annotations

import dataclasses
import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcog.errors import DataError
from jaxcog.systems.orthohash.retrieval import unpack_bits
from jaxcog.systems.orthohash.search import hamming_topk

_VERSION = 1
_FAISS_L2 = 1


@dataclasses.dataclass(frozen=True)
class HammingIndex:
    """Codes of a gallery.

    words: uint32 [N, ceil(K/32)] (see `pack_bits`). names: what item i is called.
    made_by: `jaxcog.trees.fingerprint` of the network whose codes these are. thumbnails: uint8
    [N, h, w, 3].
    """

    words: np.ndarray
    num_bits: int
    made_by: str
    names: tuple[str, ...] = ()
    thumbnails: np.ndarray | None = None

    def __post_init__(self) -> None:
        wanted = -(-self.num_bits // 32)
        if self.words.ndim != 2 or self.words.shape[1] != wanted:
            raise DataError(
                f"index: codes of {self.num_bits} bits are [N, {wanted}] words, got "
                f"{self.words.shape}: pack them with pack_bits"
            )
        if self.names and len(self.names) != len(self.words):
            raise DataError(f"index: {len(self.names)} names for {len(self.words)} codes")
        if self.thumbnails is not None and len(self.thumbnails) != len(self.words):
            raise DataError(f"index: {len(self.thumbnails)} pictures for {len(self.words)} codes")

    def search(
        self, query: np.ndarray, k: int, *, num_bits: int, made_by: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """(distances, indices) int32 [Q, k] of the nearest items, ties in the index's order.

        query: uint32 [Q, W], codes of the network `made_by` (see `jaxcog.trees.fingerprint`).

        Raises:
          DataError: the index holds other codes than the query's, or fewer than k.
        """
        if num_bits != self.num_bits:
            raise DataError(
                f"the index holds codes of {self.num_bits} bits, the query has {num_bits}: build "
                "the index again with the network that makes the queries"
            )
        if made_by != self.made_by:
            raise DataError(
                f"the index was built by network {self.made_by}, the query by {made_by}: their "
                "bits mean different things; build the index again from this checkpoint"
            )
        if k > len(self.words):
            raise DataError(f"k={k}: the index holds only {len(self.words)} items")
        distances, indices = jax.jit(hamming_topk, static_argnums=2)(query, self.words, k)
        return np.asarray(distances), np.asarray(indices)

    def to_bytes(self) -> bytes:
        """The content of a .npz file that `load` reads."""
        more: dict[str, Any] = {} if self.thumbnails is None else {"thumbnails": self.thumbnails}
        out = io.BytesIO()
        np.savez_compressed(
            out,
            version=_VERSION,
            words=self.words,
            num_bits=self.num_bits,
            made_by=self.made_by,
            names=np.array(self.names, dtype=np.str_),
            **more,
        )
        return out.getvalue()

    def save(self, path: Path | str) -> None:
        """Writes one .npz file that `load` reads."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], what: str) -> HammingIndex:
        """The index in the arrays of a .npz file, which messages call `what`.

        Raises:
          DataError: it is none of ours, or of another version.
        """
        try:
            if int(arrays["version"]) != _VERSION:
                raise DataError(
                    f"{what}: index version {int(arrays['version'])}, this release reads "
                    f"{_VERSION}: build the index again"
                )
            return cls(
                arrays["words"],
                int(arrays["num_bits"]),
                str(arrays["made_by"]),
                tuple(arrays["names"].tolist()),
                arrays.get("thumbnails"),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{what}: not an index file of this library ({error})") from error

    @classmethod
    def load(cls, path: Path | str) -> HammingIndex:
        """Reads a file that `save` wrote.

        Raises:
          DataError: no such file, or it is none of ours.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls.from_arrays(dict(file), str(path))
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such index file") from error
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not an index file of this library ({error})") from error

    def codes(self) -> np.ndarray:
        """The codes as int8 [N, K] of +-1."""
        return unpack_bits(self.words, self.num_bits)

    def faiss_bytes(self) -> bytes:
        """The content of a file that `faiss.read_index_binary` opens as an IndexBinaryFlat.

        FAISS wants whole bytes: the last one is filled up with zeros, which changes no distance.
        Queries for it come from `faiss_codes`.
        """
        codes = faiss_codes(self.words, self.num_bits)
        size = codes.shape[1]
        header = struct.pack("<iiq?i", 8 * size, size, len(codes), True, _FAISS_L2)
        return b"IBxF" + header + struct.pack("<Q", codes.size) + codes.tobytes()


def faiss_codes(words: np.ndarray, num_bits: int) -> np.ndarray:
    """uint32 [N, W] -> uint8 [N, ceil(K/8)], the rows that FAISS binary indexes hold."""
    as_bytes = np.ascontiguousarray(words, "<u4").view(np.uint8)
    return np.ascontiguousarray(as_bytes[:, : -(-num_bits // 8)])
