"""Word vectors from a CLIP text tower: the frozen table under the GRU."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

from jaxcog.errors import CheckpointError
from jaxcog.interop.names import Ignore, NameTable
from jaxcog.nn.clip_names import clip_text_rules
from jaxcog.nn.clip_text import ClipTextTransformer
from jaxcog.nn.forward import forward

HEAD_WIDTH = 64


def clip_word_table(
    tensors: Mapping[str, np.ndarray],
    tokens: np.ndarray,
    *,
    kind: Literal["feature", "token_mean"] = "feature",
    batch: int = 256,
) -> np.ndarray:
    """One row a word, and row 0, all zero, for padding.

    How the authors made their table is not known; "feature" is the most likely way.

    Args:
      tensors: a CLIP checkpoint under its own keys (`jaxcog.interop.read.read_checkpoint`).
      tokens: int [V, T], each word alone as CLIP's byte pairs with both markers
        (`jaxcog.data.clip_bpe.token_array`).
      kind: "feature": what the text tower says to the word alone, un-normalised; "token_mean": the
        mean of its byte pairs' embeddings, without the markers.

    Returns:
      float32 [V + 1, W].

    Raises:
      CheckpointError: there is no text tower among the tensors.
    """
    names = NameTable(
        (*clip_text_rules(), Ignore(r"visual\..*|logit_scale|.*_(size|length|res.*)"))
    )
    if "token_embedding.weight" not in tensors:
        raise CheckpointError(
            "no text tower: token_embedding.weight is missing; give a whole CLIP checkpoint"
        )
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), names.to_ours(tensors)["params"])
    if kind == "token_mean":
        rows = _token_means(params["token_embedding"], tokens)
    else:
        vocabulary, width = params["token_embedding"].shape
        tower = ClipTextTransformer(
            width,
            width // HEAD_WIDTH,
            sum(name.startswith("block") for name in params),
            params["text_projection"].shape[1],
            vocabulary,
            params["positional_embedding"].shape[0],
        )
        encode = jax.jit(functools.partial(forward, tower))
        padded = np.pad(tokens, ((0, -len(tokens) % batch), (0, 0)))
        parts = [encode(params, part) for part in padded.reshape(-1, batch, tokens.shape[1])]
        rows = np.concatenate(parts)[: len(tokens)]
    return np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows])


def _token_means(embedding: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    end = tokens.argmax(axis=1)
    place = np.arange(tokens.shape[1])
    inner = (place > 0) & (place < end[:, None])
    total = np.einsum("vt,vtw->vw", inner, embedding[tokens])
    return (total / np.maximum(inner.sum(axis=1, keepdims=True), 1)).astype(np.float32)
