"""Multi-head attention of a few queries over many positions, with residual and LayerNorm."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.interop.names import Rename, Rule, layer_norm
from jaxcog.nn.initializers import torch_default_bias
from jaxcog.nn.precision import at_least_float32

ATTENTION_DROPOUT = 0.1
OUTPUT_DROPOUT = 0.5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DropoutMasks:
    """What survives dropout: attention [B, heads, N, M] bool, output [B, N, D] bool."""

    attention: jax.Array
    output: jax.Array


class Attended(NamedTuple):
    """output [B, N, D]; weights [B, heads, N, M]: the attention before dropout."""

    output: jax.Array
    weights: jax.Array


class QueryAttention(nn.Module):
    """One attention block that moves a few queries according to a memory that they attend to.

    query [B, N, D], memory [B, M, D] -> LayerNorm(out(attention) + query). Every head has
    projections of its own; they have no bias, and there is no feed-forward layer and no encoding of
    positions (Ye et al., FEAT, CVPR 2020; the adaptation blocks of CWT and QAT).

    There are far fewer queries than positions, so the memory is never projected: a query goes
    through its own and the transposed projection of the keys and meets the memory as it is, and the
    attention's mean of the memory goes through the projection of the values. The sums are the
    same, with N rows through each projection in place of M.

    Variables: `qkv` [D, heads * head_dim] if shared, else `q`, `k`, `v`, all head-major; `out`
    [heads * head_dim, D] and `out_bias`; norm/{scale, bias}.

    Attributes:
      heads: number of heads.
      head_dim: width of each head's projections; None: D.
      share_qkv: one projection for queries, keys and values.
      attention_dropout: share of the softmax's weights that training drops.
      dropout: the same of the result of `out`.
    """

    heads: int
    head_dim: int | None = None
    share_qkv: bool = False
    attention_dropout: float = ATTENTION_DROPOUT
    dropout: float = OUTPUT_DROPOUT

    @nn.compact
    def __call__(
        self,
        query: jax.Array,
        memory: jax.Array,
        *,
        train: bool = False,
        masks: DropoutMasks | None = None,
    ) -> Attended:
        """train: dropout with masks of the stream "dropout", unless `masks` are given.

        Raises:
          ValueError: shapes do not fit.
        """
        if query.ndim != 3 or memory.ndim != 3 or query.shape[::2] != memory.shape[::2]:
            raise ValueError(
                "QueryAttention needs query [B, N, D] and memory [B, M, D], got "
                f"{query.shape} and {memory.shape}"
            )
        query, memory = at_least_float32(query), at_least_float32(memory)
        dim = query.shape[-1]
        width = dim if self.head_dim is None else self.head_dim
        init = nn.initializers.normal(math.sqrt(2 / (dim + width)))
        names = ("qkv",) * 3 if self.share_qkv else ("q", "k", "v")
        kernels = {
            name: self.param(name, init, (dim, self.heads * width), jnp.float32)
            for name in dict.fromkeys(names)
        }
        q, k, v = (kernels[name].reshape(dim, self.heads, width) for name in names)
        total = self.heads * width
        out = self.param("out", nn.initializers.glorot_normal(), (total, dim), jnp.float32)
        bias = self.param("out_bias", torch_default_bias(total), (dim,), jnp.float32)
        if not train:
            masks = None
        elif masks is None:
            masks = self._draw((query.shape[0], self.heads, query.shape[1], memory.shape[1]), dim)

        # Rounding here would drown the small differences of a nearly even attention.
        with jax.default_matmul_precision("highest"):
            asked = jnp.einsum("bnd,dhe,che->bhnc", query, q / math.sqrt(width), k)
            weights = jax.nn.softmax(jnp.einsum("bhnc,bmc->bhnm", asked, memory), axis=-1)
            kept = weights
            if masks is not None:
                kept = jnp.where(masks.attention, weights / (1 - self.attention_dropout), 0)
            mean = jnp.einsum("bhnm,bmc->bhnc", kept, memory)
            heads = jnp.einsum("bhnc,che->bnhe", mean, v)
            y = heads.reshape(*query.shape[:2], total) @ out + bias
        if masks is not None:
            y = jnp.where(masks.output, y / (1 - self.dropout), 0)
        norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm")
        return Attended(norm(y + query), weights)

    def _draw(self, shape: tuple[int, int, int, int], dim: int) -> DropoutMasks:
        batch, _, count, _ = shape
        attention = jax.random.bernoulli(
            self.make_rng("dropout"), 1 - self.attention_dropout, shape
        )
        output = jax.random.bernoulli(
            self.make_rng("dropout"), 1 - self.dropout, (batch, count, dim)
        )
        return DropoutMasks(attention, output)


def attention_rules(torch_prefix: str = "", our_prefix: str = "") -> tuple[Rule, ...]:
    """Key names of the official blocks of CWT (w_qkvs) and of QAT (w_qs, w_ks, w_vs).

    Args:
      torch_prefix: what stands before "fc.weight" in the file, with its dot.
      our_prefix: the module path of the QueryAttention below "params", with its slash.
    """
    torch, ours = re.escape(torch_prefix), our_prefix
    return (
        Rename(torch + r"w_(qkv|q|k|v)s\.weight", rf"params/{ours}\1", "linear"),
        Rename(torch + r"fc\.weight", f"params/{ours}out", "linear"),
        Rename(torch + r"fc\.bias", f"params/{ours}out_bias"),
        *layer_norm(torch + "layer_norm", f"{ours}norm"),
    )
