"""Bidirectional GRU over sentences of different lengths, as PyTorch's on packed sequences."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.nn.extremes import largest
from jaxcog.nn.initializers import Initializer
from jaxcog.nn.precision import at_least_float32

PoolFloor = Literal["static", "batch_max", "none"]
_DIRECTIONS = ("forward", "backward")


def uniform_within(bound: float) -> Initializer:
    """Uniform in +-bound."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def reverse_within(x: jax.Array, length: jax.Array) -> jax.Array:
    """[B, T, ...] with the first `length[b]` steps of row b in reverse order, the rest as it is."""
    step = jnp.arange(x.shape[1])
    last = length[:, None] - 1
    index = jnp.where(step <= last, last - step, step)
    return jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), axis=1)


def gru_scan(gates: jax.Array, recurrent: jax.Array, unroll: int = 1) -> jax.Array:
    """States of independent GRUs without biases, all directions at once.

    r = sig(x_r + h W_r), z = sig(x_z + h W_z), n = tanh(x_n + r (h W_n)), h' = (1 - z) n + z h: the
    reset gate acts after the recurrent product, as in PyTorch and cuDNN.

    Args:
      gates: [N, B, T, 3H], the inputs times their weights, in the order reset, update, new.
      recurrent: [N, H, 3H].
      unroll: steps in one iteration of the loop.

    Returns:
      [N, B, T, H].
    """
    directions, batch, _, width = gates.shape
    start = jnp.zeros((directions, batch, width // 3), gates.dtype)

    def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
        h_r, h_z, h_n = jnp.split(jnp.einsum("nbh,nhg->nbg", h, recurrent), 3, axis=-1)
        reset, update = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        new = jnp.tanh(x_n + reset * h_n)
        h = (1 - update) * new + update * h
        return h, h

    _, states = jax.lax.scan(step, start, jnp.moveaxis(gates, 2, 0), unroll=unroll)
    return jnp.moveaxis(states, 0, 2)


class BiGRU(nn.Module):
    """Layers of bidirectional GRUs without biases: [B, T, E], lengths [B] -> [B, T, 2 hidden].

    The backward half begins at the last real step of each row. Forward states come first. States
    at steps >= length are exactly 0.

    Variables: layer{l}_{forward,backward}/{input [E, 3H], recurrent [H, 3H]}.
    """

    hidden: int
    layers: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, length: jax.Array) -> jax.Array:
        real = (jnp.arange(x.shape[1]) < length[:, None])[..., None]
        x = x.astype(self.dtype)
        for layer in range(self.layers):
            weights = [
                _Gates(self.hidden, x.shape[-1], name=f"layer{layer}_{direction}")()
                for direction in _DIRECTIONS
            ]
            kernels = jnp.stack([kernel for kernel, _ in weights]).astype(self.dtype)
            recurrent = jnp.stack([kernel for _, kernel in weights]).astype(self.dtype)
            inputs = jnp.stack([x, reverse_within(x, length)])
            states = gru_scan(jnp.einsum("nbte,neg->nbtg", inputs, kernels), recurrent)
            both = [states[0], reverse_within(states[1], length)]
            x = jnp.where(real, jnp.concatenate(both, axis=-1), 0)
        return x


class _Gates(nn.Module):
    hidden: int
    width: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        init = uniform_within(self.hidden**-0.5)
        gates = 3 * self.hidden
        kernel = self.param("input", init, (self.width, gates), jnp.float32)
        return kernel, self.param("recurrent", init, (self.hidden, gates), jnp.float32)


def max_over_time(states: jax.Array, length: jax.Array, floor: PoolFloor = "static") -> jax.Array:
    """Each channel's largest state: [B, T, C], lengths [B] -> [B, C].

    Padded steps are zeros, and whether these take part is a choice that changes the result, since
    it floors a row at 0:
      floor: "static": in rows shorter than T; the result does not depend on the other rows.
        "batch_max": in rows shorter than the longest of the batch, as PyTorch's packed sequences
        that are padded again. "none": never.

    Raises:
      ValueError: another name.
    """
    if floor not in ("static", "batch_max", "none"):
        raise ValueError(f'max_over_time floor="{floor}": "static", "batch_max" or "none"')
    real = (jnp.arange(states.shape[1]) < length[:, None])[..., None]
    top = largest(jnp.where(real, states, -jnp.inf), axis=1)
    if floor == "none":
        return top
    limit = states.shape[1] if floor == "static" else jnp.max(length)
    return jnp.where((length < limit)[:, None], jnp.maximum(top, 0), top)


class BiGRUEncoder(nn.Module):
    """Sentences to features by word vectors, a bidirectional GRU and the maximum over time.

    Attributes:
      hidden: of each direction.
      embedding: width of the GRU's input.
      vocabulary: rows of a learned table, row 0 held at zero for padding; None: word vectors come
        from the table that is passed in, which is never trained.
      layers, pool_floor: see BiGRU, max_over_time.

    Variables: embed/embedding (learned words), or embed/{kernel,bias} where the given vectors have
    another width than `embedding`; gru (see BiGRU).
    """

    hidden: int = 512
    embedding: int = 512
    vocabulary: int | None = None
    layers: int = 1
    pool_floor: PoolFloor = "static"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, words: jax.Array, length: jax.Array, table: jax.Array | None = None
    ) -> jax.Array:
        """Features of captions.

        Args:
          words: int [B, T], right-padded with 0.
          length: int [B]; an empty caption counts as one padding word.
          table: [V, W] word vectors, row 0 for padding; with `vocabulary` None.

        Returns:
          [B, 2 hidden] in at least float32.

        Raises:
          ValueError: a table where words are learned, or none where they are not.
        """
        length = jnp.clip(length, 1, words.shape[1])
        if self.vocabulary is not None and table is None:
            x = _WordEmbedding(self.vocabulary, self.embedding, name="embed")(words)
        elif self.vocabulary is None and table is not None:
            x = jax.lax.stop_gradient(table)[words]
            if x.shape[-1] != self.embedding:
                x = nn.Dense(self.embedding, dtype=self.dtype, name="embed")(x)
        else:
            raise ValueError("BiGRUEncoder: needs either a table of word vectors or a vocabulary")
        states = BiGRU(self.hidden, self.layers, self.dtype, name="gru")(x, length)
        self.sow("intermediates", "states", states)
        return max_over_time(at_least_float32(states), length, self.pool_floor)


class _WordEmbedding(nn.Module):
    vocabulary: int
    width: int

    @nn.compact
    def __call__(self, words: jax.Array) -> jax.Array:
        def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            return jax.random.normal(key, shape, dtype).at[0].set(0)

        table = self.param("embedding", init, (self.vocabulary, self.width), jnp.float32)
        return jnp.where((words == 0)[..., None], jax.lax.stop_gradient(table[0]), table[words])
