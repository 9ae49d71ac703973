"""MixStyle (ICLR 2021) and the layers it is compared with, as pure functions of given draws.

All take [B, ..., C] with any number of spatial axes. Under jit over a sharded batch the batch is
the global one and nothing needs to be said. In `shard_map` and `pmap` each device holds its rows;
`axis_name` then gives the value that one device with the whole batch would give. Only statistics
([B, C], a few hundred kilobytes) travel between devices, never features.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcog.nn.precision import at_least_float32

AxisName = str | tuple[str, ...]
Mix = Literal["random", "crossdomain"]
Scope = Literal["global", "local"]
Kind = Literal["moments", "distribution"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MixDraw:
    """What one insertion point draws in one step.

    gate: bool scalar; False leaves the features as they are.
    lam: [B] float32, weight of a sample's own statistics.
    perm: [B] int32, whose statistics each sample is mixed with.
    """

    gate: jax.Array
    lam: jax.Array
    perm: jax.Array


def instance_statistics(
    x: jax.Array, *, eps: float = 1e-6, ddof: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation of each sample and channel over its positions: x [B, ..., C].

    Returns (mu, sigma), both [B, C] float32, where sigma = sqrt(var + eps). `ddof` 1 is the
    unbiased variance (PyTorch version of the paper), 0 the population's (its TensorFlow version).

    Raises:
      ValueError: there are no spatial axes, or too few positions for `ddof`.
    """
    axes = tuple(range(1, x.ndim - 1))
    positions = x[0, ..., 0].size if x.ndim > 2 else 0
    if positions <= ddof:
        raise ValueError(
            f"instance_statistics: x {x.shape} has {positions} positions per sample and channel; "
            f"a deviation with ddof={ddof} needs at least {ddof + 1}"
        )
    x = at_least_float32(x)
    return jnp.mean(x, axes), jnp.sqrt(jnp.var(x, axes, ddof=ddof) + eps)


def mixstyle(
    x: jax.Array,
    lam: jax.Array,
    perm: jax.Array,
    *,
    eps: float = 1e-6,
    ddof: int = 1,
    axis_name: AxisName | None = None,
    scope: Scope = "global",
) -> jax.Array:
    """Replaces each sample's channel statistics by a mixture with those of a partner (section 3).

    y = (x - mu) / sigma * (lam sigma + (1 - lam) sigma[perm]) + lam mu + (1 - lam) mu[perm], where
    mu and sigma are constants for the gradient. y is x, to the bit, where lam is 1 or a sample is
    its own partner.

    Args:
      x: [B, ..., C] float; B is the device's part of the batch if `axis_name` is given.
      lam: [B] float in [0, 1], weight of the sample's own statistics.
      perm: [B] int, the partner of each sample.
      eps, ddof: see `instance_statistics`; float32 whatever the dtype of `x`.
      axis_name: mapped axis whose devices share one batch. `lam` and `perm` may then be those of
        the device's rows or of the whole batch; the numbers in `perm` count in the whole batch.
      scope: "local" takes partners among the device's own rows, in which `perm` then counts.

    Returns:
      [B, ..., C] in the dtype of `x`.

    Raises:
      ValueError: shapes do not fit.
    """
    x32 = at_least_float32(x)
    mu, sigma = instance_statistics(jax.lax.stop_gradient(x32), eps=eps, ddof=ddof)
    if scope == "local":
        axis_name = None
    lam, perm = _own_rows(x, axis_name, lam=lam, perm=perm)
    partner_mu, partner_sigma = _rows((mu, sigma), perm, axis_name)

    def spread(statistic: jax.Array) -> jax.Array:
        return statistic.reshape(x.shape[0], *(1,) * (x.ndim - 2), -1)

    # The mixture written as a change of x: where nothing is mixed, nothing is rounded either.
    other = 1 - at_least_float32(lam)[:, None]
    gain = spread(other * (partner_sigma - sigma) / sigma)
    shift = spread(other * (partner_mu - mu))
    return (x32 + ((x32 - spread(mu)) * gain + shift)).astype(x.dtype)


def _own_rows(
    x: jax.Array, axis_name: AxisName | None, **draws: jax.Array
) -> tuple[jax.Array, ...]:
    """The entries of `draws` that belong to the rows of `x`, from those or from the whole batch's.

    Raises:
      ValueError: a draw has neither length.
    """
    size, devices = x.shape[0], 1 if axis_name is None else jax.lax.axis_size(axis_name)
    for name, draw in draws.items():
        if draw.shape not in ((size,), (size * devices,)):
            raise ValueError(
                f"{name} {draw.shape} does not fit x {x.shape}: one number per sample, [{size}]"
                + (f" or, for the whole batch, [{size * devices}]" if devices > 1 else "")
            )
    if devices == 1:
        return tuple(draws.values())
    first = jax.lax.axis_index(axis_name) * size
    return tuple(
        draw if draw.shape == (size,) else jax.lax.dynamic_slice_in_dim(draw, first, size)
        for draw in draws.values()
    )


def _rows(values: Any, perm: jax.Array, axis_name: AxisName | None) -> Any:
    """Rows `perm` of the whole batch's `values`."""
    if axis_name is not None:
        values = jax.lax.all_gather(values, axis_name, tiled=True)
    return jax.tree.map(lambda value: value[perm], values)


def random_permutation(key: jax.Array, batch: int) -> jax.Array:
    """Uniformly random partners ("random shuffle"): int32 [batch]; may be one's own partner."""
    return jax.random.permutation(key, batch)


def crossdomain_chunks(batch: int) -> tuple[jax.Array, jax.Array]:
    """Whom the first ceil(batch/2) samples and the rest may be mixed with, before shuffling.

    The batch counted backwards and cut after ceil(batch/2): each half gets the other. For an odd
    batch the middle sample stays with the first half.
    """
    backwards = jnp.arange(batch, dtype=jnp.int32)[::-1]
    half = (batch + 1) // 2
    return backwards[:half], backwards[half:]


def crossdomain_permutation(
    key: jax.Array, batch: int, domains: jax.Array | None = None
) -> jax.Array:
    """Random partners from another domain ("with domain label"): int32 [batch], a permutation.

    Args:
      batch: number of samples. Without `domains` the batch must be half one domain and half
        another, in this order, as RandomDomainSampler with two domains makes it.
      domains: [batch] int, the domain of each sample, in any order and number. As many samples as
        possible get a partner from another domain: all, unless one domain has over half of them.

    Raises:
      ValueError: `domains` is not [batch].
    """
    if domains is None:
        first, second = crossdomain_chunks(batch)
        key_first, key_second = jax.random.split(key)
        shuffled = (
            jax.random.permutation(key_first, first),
            jax.random.permutation(key_second, second),
        )
        return jnp.concatenate(shuffled)
    if domains.shape != (batch,):
        raise ValueError(f"domains {domains.shape}: one label per sample, [{batch}]")
    # Sorted by domain and turned by the size of the largest one, no domain overlaps itself (or, if
    # it has over half of the batch, as little as it can). Order of and within domains is random.
    key_order, key_takers, key_givers = jax.random.split(key, 3)
    order = jax.vmap(lambda domain: jax.random.bits(jax.random.fold_in(key_order, domain)))(domains)

    def by_domain(key: jax.Array) -> jax.Array:
        return jnp.lexsort((jax.random.uniform(key, (batch,)), domains, order))

    largest = jnp.max(jnp.sum(domains[:, None] == domains[None, :], axis=1))
    givers = jnp.roll(by_domain(key_givers), -largest).astype(jnp.int32)
    return jnp.zeros(batch, jnp.int32).at[by_domain(key_takers)].set(givers)


def sample_mixstyle(
    key: jax.Array,
    batch: int,
    *,
    p: float = 0.5,
    alpha: float = 0.1,
    mix: Mix = "random",
    domains: jax.Array | None = None,
) -> MixDraw:
    """The draw of one insertion point and step; on several devices, from the same key on all.

    Args:
      batch: number of samples that are mixed with each other.
      p: chance that the layer acts, on the whole batch.
      alpha: lam ~ Beta(alpha, alpha) for each sample; 0.1 gives mostly values near 0 and 1.
      mix: "random" or "crossdomain"; see the two permutations.
      domains: [batch] int, for "crossdomain" only.
    """
    key_gate, key_lam, key_perm = jax.random.split(key, 3)
    if mix == "crossdomain":
        perm = crossdomain_permutation(key_perm, batch, domains)
    elif mix == "random":
        perm = random_permutation(key_perm, batch)
    else:
        raise ValueError(f'sample_mixstyle: mix="{mix}", expected "random" or "crossdomain"')
    gate = jax.random.uniform(key_gate) < p
    return MixDraw(gate, jax.random.beta(key_lam, alpha, alpha, (batch,)), perm)


def apply_draw(
    x: jax.Array,
    draw: MixDraw,
    *,
    eps: float = 1e-6,
    ddof: int = 1,
    axis_name: AxisName | None = None,
    scope: Scope = "global",
    kind: Kind = "moments",
) -> jax.Array:
    """`mixstyle` with a draw; exactly `x` where its gate is False. Other arguments: `mixstyle`.

    kind: "distribution" is `efdmix` instead.
    """
    if kind == "distribution":
        name = None if scope == "local" else axis_name
        return jnp.where(draw.gate, efdmix(x, draw.lam, draw.perm, axis_name=name), x)
    mixed = mixstyle(x, draw.lam, draw.perm, eps=eps, ddof=ddof, axis_name=axis_name, scope=scope)
    return jnp.where(draw.gate, mixed, x)


def efdmix(
    x: jax.Array, lam: jax.Array, perm: jax.Array, *, axis_name: AxisName | None = None
) -> jax.Array:
    """EFDMix (Zhang et al., CVPR 2022): mixes whole distributions of values instead of two moments.

    Position by position, y = x + (1 - lam) (v - x), v being the value of the same rank in the
    partner's channel. x is a constant inside the bracket, v is not. Arguments as `mixstyle`; with
    `axis_name` features, not statistics, are gathered.
    """
    lam, perm = _own_rows(x, axis_name, lam=lam, perm=perm)
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    constant = jax.lax.stop_gradient(flat)
    rank = jnp.argsort(jnp.argsort(constant, axis=1), axis=1)
    partner = _rows(jnp.sort(flat, axis=1), perm, axis_name)
    matched = jnp.take_along_axis(partner, rank, axis=1)
    other = (1 - lam).astype(x.dtype)[:, None, None]
    return (flat + other * (matched - constant)).reshape(x.shape)


def dropblock(
    x: jax.Array,
    uniform: jax.Array,
    drop_prob: float | jax.Array,
    block_size: int = 7,
    *,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """DropBlock (Ghiasi et al. 2018), a baseline of the paper: zeroes squares in all channels.

    Args:
      x: [B, H, W, C].
      uniform: [B, H, W] uniform draws; a square is centred where one is below
        drop_prob / block_size^2.
      drop_prob: the paper raises it linearly from 0 to 0.1 over the first 100 calls.
      axis_name: mapped axis over whose devices the kept share is counted.

    Returns:
      [B, H, W, C], scaled by the inverse of the kept share of the batch.
    """
    seeds = (uniform < drop_prob / block_size**2).astype(jnp.float32)
    before, after = block_size // 2, (block_size - 1) // 2
    dropped = jax.lax.reduce_window(
        seeds,
        0.0,
        jax.lax.max,
        (1, block_size, block_size),
        (1, 1, 1),
        ((0, 0), (before, after), (before, after)),
    )
    kept = 1 - dropped
    share = jnp.mean(kept)
    if axis_name is not None:
        share = jax.lax.pmean(share, axis_name)
    scale = kept / jnp.maximum(share, 1 / kept.size)
    return x * scale[..., None].astype(x.dtype)
