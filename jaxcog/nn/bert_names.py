"""Hugging Face's BERT key names and where those weights lie in `jaxcog.nn.bert`."""

from __future__ import annotations

from jaxcog.interop.names import Ignore, Rename, linear


def bert_rules(torch_prefix: str = "", our_prefix: str = "") -> tuple[Rename | Ignore, ...]:
    """Rules for one BERT of any depth; the pooler is not part of ours.

    Args:
      torch_prefix: regular expression of what stands before "embeddings." ("bert\\.").
      our_prefix: the path of the BERT below "params", with its slash.
    """
    layer, ours = torch_prefix + r"encoder\.layer\.(\d+)\.", our_prefix + r"layer_\1/"
    tables, vectors = torch_prefix + r"embeddings\.", our_prefix + "embeddings"
    return (
        Rename(tables + r"(word|position)_embeddings\.weight", rf"params/{vectors}/\1"),
        Rename(tables + r"token_type_embeddings\.weight", f"params/{vectors}/type"),
        *_norm(tables + "LayerNorm", vectors + "/norm"),
        Ignore(tables + "position_ids"),
        Ignore(torch_prefix + r"pooler\.dense\.(weight|bias)"),
        *linear(layer + r"attention\.self\.(query|key|value)", ours + r"\2"),
        *linear(layer + r"attention\.output\.dense", ours + "out"),
        *_norm(layer + r"attention\.output\.LayerNorm", ours + "norm1"),
        *linear(layer + r"intermediate\.dense", ours + "linear1"),
        *linear(layer + r"output\.dense", ours + "linear2"),
        *_norm(layer + r"output\.LayerNorm", ours + "norm2"),
    )


def _norm(torch_prefix: str, our_prefix: str) -> tuple[Rename, ...]:
    """A layer norm under its present names (weight, bias) and those of old files (gamma, beta)."""
    return tuple(
        Rename(rf"{torch_prefix}\.{theirs}", f"params/{our_prefix}/{ours}")
        for ours, names in (("scale", ("weight", "gamma")), ("bias", ("bias", "beta")))
        for theirs in names
    )
