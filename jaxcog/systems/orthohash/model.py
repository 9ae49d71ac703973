"""Networks that end in a hash layer: images or descriptors to continuous codes.

Variable names follow the official checkpoints: features_{0,3,6,8,10}, fc_{1,4} (AlexNet), backbone
(ResNet), hash_fc/{linear,bn}. `classifier` exists only for the cross-entropy baseline.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcog.nn.initializers import Linear, torch_default_bias, torch_default_kernel
from jaxcog.nn.norm import BatchNorm
from jaxcog.nn.resnet import ResNet

NetworkName = Literal["alexnet", "resnet", "mlp", "feature"]
Masks = tuple[jax.Array, jax.Array]


class HashHead(nn.Module):
    """Linear map to K numbers, then batch norm, which balances the bits: [B, D] -> [B, K] float32.

    Without batch norm the linear map has a bias. Codes are float32 whatever the features.
    """

    num_bits: int
    use_bn: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        codes = nn.Dense(
            self.num_bits,
            use_bias=not self.use_bn,
            kernel_init=nn.initializers.normal(0.01),
            name="linear",
        )(x.astype(jnp.float32))
        if self.use_bn:
            codes = BatchNorm(not train, axis_name=self.axis_name, name="bn")(codes)
        return codes


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B, size, size, C]; bin i: rows floor(i n/size) to ceil((i+1) n/size)."""

    def bins(n: int) -> np.ndarray:
        weights = np.zeros((size, n), np.float32)
        for i in range(size):
            low, high = i * n // size, -(-(i + 1) * n // size)
            weights[i, low:high] = 1 / (high - low)
        return weights

    if x.shape[1:3] == (size, size):
        return x
    return jnp.einsum(
        "ih,jw,bhwc->bijc",
        bins(x.shape[1]).astype(x.dtype),
        bins(x.shape[2]).astype(x.dtype),
        x,
        precision=jax.lax.Precision.HIGHEST,
    )


class AlexNetHash(nn.Module):
    """AlexNet in torchvision's layout with a hash layer instead of the last linear one.

    Attributes:
      dropout: rate before both linear layers, in training; 0 switches it off.
      fc_width: of both linear layers; 4096 in every published model.
      dtype: of the trunk's arithmetic; the hash layer is float32.
    """

    num_bits: int
    use_bn: bool = True
    dropout: float = 0.5
    fc_width: int = 4096
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, dropout_masks: Masks | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Images to codes.

        Args:
          x: [B, H, W, 3] float, normalised; H and W at least 63.
          train: dropout acts, and the hash batch norm uses and updates batch statistics.
          dropout_masks: bool ([B, 9216], [B, 4096]), True where kept; None draws them from the
            stream "dropout".

        Returns:
          (codes [B, K] float32, features [B, 4096]).
        """
        x = x.astype(self.dtype)
        pools = {0, 3, 10}
        layers = ((0, 64, 11, 4, 2), (3, 192, 5, 1, 2), (6, 384, 3, 1, 1), (8, 256, 3, 1, 1))
        for index, features, kernel, stride, pad in (*layers, (10, 256, 3, 1, 1)):
            x = nn.relu(self._conv(x, index, features, kernel, stride, pad))
            if index in pools:
                x = nn.max_pool(x, (3, 3), (2, 2))
        x = adaptive_average_pool(x, 6)
        # Channel-major, so that fc_1 has the rows of the official weights in their order.
        x = jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)
        for place, name in enumerate(("fc_1", "fc_4")):
            if train and self.dropout:
                mask = None if dropout_masks is None else dropout_masks[place]
                x = self._drop(x, mask)
            x = nn.relu(Linear(self.fc_width, dtype=self.dtype, name=name)(x))
        codes = HashHead(self.num_bits, self.use_bn, self.axis_name, name="hash_fc")(x, train=train)
        return codes, x

    def _conv(
        self, x: jax.Array, index: int, features: int, kernel: int, stride: int, pad: int
    ) -> jax.Array:
        return nn.Conv(
            features,
            (kernel, kernel),
            (stride, stride),
            padding=((pad, pad), (pad, pad)),
            dtype=self.dtype,
            kernel_init=torch_default_kernel,
            bias_init=torch_default_bias(kernel * kernel * x.shape[-1]),
            name=f"features_{index}",
        )(x)

    def _drop(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        keep = 1 - self.dropout
        if mask is None:
            mask = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
        return jnp.where(mask, x / keep, 0)


class ResNetHash(nn.Module):
    """ResNet, global average pooling and the hash layer.

    Attributes:
      depth: 18, 34, 50, 101 or 152.
      frozen_norm: the trunk's batch norms keep their running statistics while training (the
        authors' framework does so); the hash layer's never does.
      dtype: of the trunk's arithmetic; the hash layer is float32.
    """

    depth: int
    num_bits: int
    use_bn: bool = True
    frozen_norm: bool = True
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """[B, H, W, 3] -> (codes [B, K] float32, pooled features [B, 512 or 2048])."""
        trunk = ResNet(self.depth, dtype=self.dtype, axis_name=self.axis_name, name="backbone")
        features = trunk(x, train=train, norm_train=train and not self.frozen_norm)
        head = HashHead(self.num_bits, self.use_bn, self.axis_name, name="hash_fc")
        return head(features, train=train), features


class MLPHash(nn.Module):
    """Linear layers with ReLU, then the hash layer; a hash layer alone with no widths.

    The latter is the instance-level model: descriptors of a fixed network in, codes out.
    """

    num_bits: int
    widths: tuple[int, ...] = ()
    use_bn: bool = True
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """[B, ...] (flattened) -> (codes [B, K] float32, features [B, last width])."""
        x = x.reshape(x.shape[0], -1).astype(self.dtype)
        for index, width in enumerate(self.widths):
            x = nn.relu(Linear(width, dtype=self.dtype, name=f"fc_{index}")(x))
        head = HashHead(self.num_bits, self.use_bn, self.axis_name, name="hash_fc")
        return head(x, train=train), x


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A hashing network as data; see the modules above for the fields."""

    network: NetworkName
    num_bits: int
    use_bn: bool = True
    depth: int = 50
    frozen_norm: bool = True
    dropout: float = 0.5
    fc_width: int = 4096
    widths: tuple[int, ...] = (256, 256)
    classes: int = 0  # of a linear classifier on the codes; 0: there is none
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def module(self) -> nn.Module:
        shared = {"use_bn": self.use_bn, "dtype": self.dtype, "axis_name": self.axis_name}
        kinds: dict[str, Callable[..., nn.Module]] = {
            "alexnet": functools.partial(AlexNetHash, dropout=self.dropout, fc_width=self.fc_width),
            "resnet": functools.partial(ResNetHash, self.depth, frozen_norm=self.frozen_norm),
            "mlp": functools.partial(MLPHash, widths=self.widths),
            "feature": MLPHash,
        }
        return kinds[self.network](num_bits=self.num_bits, **shared)


class Encoded(NamedTuple):
    """codes [B, K] float32, features [B, D], the batch statistics after this batch."""

    codes: jax.Array
    features: jax.Array
    batch_stats: Any


def init(architecture: Architecture, key: jax.Array, x: jax.Array) -> tuple[Any, Any]:
    """(params, batch_stats) for inputs like `x` [B, ...]."""
    network_key, classifier_key = jax.random.split(key)
    variables = architecture.module().init(network_key, x, train=False)
    params = dict(variables["params"])
    if architecture.classes:
        codes = jnp.zeros((1, architecture.num_bits))
        params["classifier"] = Linear(architecture.classes).init(classifier_key, codes)["params"]
    return params, dict(variables.get("batch_stats", {}))


def encode(
    architecture: Architecture,
    params: Any,
    batch_stats: Any,
    x: jax.Array,
    *,
    train: bool,
    dropout_key: jax.Array | None = None,
    dropout_masks: Masks | None = None,
) -> Encoded:
    """Images [B, H, W, C] or descriptors [B, D] to codes.

    Args:
      train: batch norm uses and updates batch statistics, dropout acts.
      dropout_key: for AlexNet in training.
      dropout_masks: given instead of a key: see AlexNetHash.
    """
    variables = {
        "params": {name: value for name, value in params.items() if name != "classifier"},
        "batch_stats": batch_stats,
    }
    given: dict[str, Any] = {} if dropout_masks is None else {"dropout_masks": dropout_masks}
    (codes, features), changed = architecture.module().apply(
        variables,
        x,
        train=train,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
        mutable=["batch_stats"] if train else [],
        **given,
    )
    return Encoded(codes, features, changed.get("batch_stats", batch_stats))


def classify(params: Any, codes: jax.Array) -> jax.Array:
    """Logits [B, C] of the linear classifier on codes [B, K] (cross-entropy baseline)."""
    layer = params["classifier"]
    return codes @ layer["kernel"] + layer["bias"]


def recalibrate_hash_bn(linear_outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Statistics of the hash batch norm for another database (paper, supplement, domain shift).

    linear_outputs: [N, K] of `hash_fc/linear` over that database. Use them with scale 1, bias 0.

    Returns:
      (mean [K], population variance [K]).
    """
    x = linear_outputs.astype(jnp.float32)
    return jnp.mean(x, axis=0), jnp.var(x, axis=0)
