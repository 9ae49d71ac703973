"""Networks of person re-identification: a backbone, a layer of 512 features, a classifier."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.errors import ConfigError
from jaxcog.nn import osnet, resnet
from jaxcog.nn.norm import BatchNorm
from jaxcog.nn.precision import at_least_float32
from jaxcog.systems.mixstyle import ops
from jaxcog.systems.mixstyle.model import SmallCNN

_OSNETS: dict[str, dict[str, Any]] = {
    f"osnet_x{str(width).replace('.', '_')}": {"width": width} for width in osnet.CHANNELS
} | {"osnet_ibn_x1_0": {"instance_norm": True}}
_RESNETS = {f"resnet{depth}": depth for depth in resnet.DEPTHS}
_TOY = {"cnn_toy": (16, 16, 32)}
NETWORKS = (*_OSNETS, *_RESNETS, *_TOY)


def stages_of(network: str) -> tuple[str, ...]:
    """Names of a network's stages, first to last. Raises ConfigError for an unknown network."""
    if network not in NETWORKS:
        raise ConfigError(f'network="{network}": unknown; choose from {", ".join(NETWORKS)}')
    if network in _OSNETS:
        return osnet.STAGES
    if network in _RESNETS:
        return resnet.STAGES
    return tuple(f"conv{i + 1}" for i in range(len(_TOY[network])))


def split_official_name(name: str) -> tuple[str, tuple[str, ...]]:
    """torchreid's name: "osnet_x1_0_ms23_a0d1_domprior" -> ("osnet_x1_0", ("conv2", "conv3"))."""
    match = re.fullmatch(r"(.+?)(?:_fc512)?(?:_ms(\d+))?(?:_a\d+d\d+)?(?:_domprior)?", name)
    if match is None:
        raise ValueError(f'split_official_name: "{name}" names no network')
    stages = {re.sub(r"\D", "", stage): stage for stage in stages_of(match[1])}
    return match[1], tuple(stages[digit] for digit in match[2] or "")


class _Embedder(nn.Module):
    spec: ReIDNetwork

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        between: resnet.Between | None,
        axis_name: ops.AxisName | None,
    ) -> tuple[jax.Array, jax.Array]:
        spec = self.spec
        shared = {"dtype": spec.dtype, "axis_name": axis_name}
        if spec.network in _OSNETS:
            backbone: nn.Module = osnet.OSNet(**_OSNETS[spec.network], name="backbone", **shared)
        elif spec.network in _RESNETS:
            backbone = resnet.ResNet(
                _RESNETS[spec.network], spec.last_stride, name="backbone", **shared
            )
        else:
            backbone = SmallCNN(_TOY[spec.network], norm=True, name="backbone", **shared)
        features = backbone(x, train=train, between=between)
        init = nn.initializers.normal(0.01)
        features = nn.Dense(spec.features, dtype=spec.dtype, kernel_init=init, name="fc_0")(
            features
        )
        features = nn.relu(BatchNorm(not train, name="fc_1", **shared)(features))
        logits = nn.Dense(spec.persons, dtype=spec.dtype, kernel_init=init, name="classifier")(
            features
        )
        return at_least_float32(logits), at_least_float32(features)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Embedding:
    """logits [B, persons], features [B, D], both float32; batch_stats afterwards."""

    logits: jax.Array
    features: jax.Array
    batch_stats: Any


@dataclasses.dataclass(frozen=True)
class ReIDNetwork:
    """Which network; its two functions are pure.

    network: one of NETWORKS. persons: identities to train on. features: size of an embedding.
    last_stride: of a ResNet's layer4; 1 keeps a map of twice the size. dtype: of the arithmetic.
    """

    network: str
    persons: int
    features: int = 512
    last_stride: int = 1
    dtype: Any = jnp.float32

    def init(self, key: jax.Array, image_shape: tuple[int, int, int]) -> tuple[Any, Any]:
        """(params, batch_stats), drawn as the official code draws them; image_shape is H, W, 3."""
        images = jnp.zeros((1, *image_shape), jnp.float32)
        variables = _Embedder(self).init(key, images, train=False, between=None, axis_name=None)
        return variables["params"], variables["batch_stats"]

    def apply(
        self,
        params: Any,
        batch_stats: Any,
        images: jax.Array,
        *,
        train: bool,
        draws: Mapping[str, ops.MixDraw] | None = None,
        eps: float = 1e-6,
        ddof: int = 1,
        kind: ops.Kind = "moments",
        axis_name: ops.AxisName | None = None,
    ) -> Embedding:
        """Runs the network on [B, H, W, 3] normalised images; arguments as in `Network.apply`."""

        def between(stage: str, x: jax.Array) -> jax.Array:
            if not train or not draws or stage not in draws:
                return x
            return ops.apply_draw(
                x, draws[stage], eps=eps, ddof=ddof, kind=kind, axis_name=axis_name
            )

        (logits, features), new = _Embedder(self).apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=train,
            between=between,
            axis_name=axis_name,
            mutable=["batch_stats"] if train else [],
        )
        return Embedding(logits, features, new.get("batch_stats", batch_stats))
