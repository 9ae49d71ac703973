"""The cross-modal VAE: an image as what it shows (content) and how it is drawn (style)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcog.losses.contrastive import unit
from jaxcog.nn import inception
from jaxcog.nn.conv_norm import Conv
from jaxcog.nn.extremes import largest
from jaxcog.nn.forward import forward
from jaxcog.nn.initializers import Linear, torch_default_bias
from jaxcog.nn.norm import instance_norm
from jaxcog.nn.precision import at_least_float32
from jaxcog.nn.resnet import STAGES as RESNET_STAGES
from jaxcog.nn.resnet import ResNet
from jaxcog.nn.vgg import STAGES as VGG_STAGES
from jaxcog.nn.vgg import VGG
from jaxcog.pictures import IMAGENET

Variables = dict[str, Any]
TrunkName = Literal["conv", "mlp", "vgg16", "resnet50", "inception_v3"]

Modulation = Mapping[str, tuple[jax.Array, jax.Array]]
"""Layer -> (gamma, beta), each [C], or [B, C] for a draw per image: see `ops.sample_transform`."""

_VGG_CHANNELS = dict(zip(VGG_STAGES, (64, 128, 256, 512, 512), strict=True))
_RESNET_CHANNELS = dict(zip(RESNET_STAGES, (256, 512, 1024, 2048), strict=True))


class Codes(NamedTuple):
    """What the encoder makes of images [B, H, W, C]; float32.

    mu, logvar [B, d]: of the style, a normal distribution. content [B, d]: of unit length.
    feature [B, F]: the trunk's, after dropout, of unit length.
    """

    mu: jax.Array
    logvar: jax.Array
    content: jax.Array
    feature: jax.Array


def dropped(x: jax.Array, keep: jax.Array | None, rate: float) -> jax.Array:
    """x where `keep` is true, divided by 1 - rate; x itself without `keep`."""
    return x if keep is None else jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def modulated(x: jax.Array, layer: str, transform: Modulation | None) -> jax.Array:
    """gamma * x + beta, where there is such a layer in `transform`."""
    if transform is None or layer not in transform:
        return x
    gamma, beta = transform[layer]
    if gamma.ndim == 2:
        gamma, beta = gamma[:, None, None], beta[:, None, None]
    return (gamma * x + beta).astype(x.dtype)


class TransposedConv(nn.Module):
    """4x4, stride 2, padding 1, as PyTorch's: [B, H, W, C] -> [B, 2H, 2W, features].

    `kernel` [4, 4, C, features] slides over the input with zeros in between (flipped, against
    PyTorch's, which scatters).
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in = 16 * self.features  # PyTorch counts the outputs here
        init = torch_default_bias(fan_in)
        kernel = self.param("kernel", init, (4, 4, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (1, 1),
            ((2, 2), (2, 2)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias.astype(self.dtype)


class ConvTrunk(nn.Module):
    """[B, S, S, C] -> [B, hidden]: a convolution of stride 2 for each width, then a linear layer.

    Variables down_1, down_2, ... and linear_encoder; sown: down_1_out, ..., linear_encoder_out.
    """

    widths: Sequence[int]
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, transform: Modulation | None) -> jax.Array:
        for i, width in enumerate(self.widths, 1):
            x = Conv(width, 4, 2, pad=1, dtype=self.dtype, name=f"down_{i}")(x)
            x = modulated(instance_norm(x), f"down_{i}", transform) if i > 1 else x
            x = nn.leaky_relu(x, 0.2)
            self.sow("intermediates", f"down_{i}_out", x)
        flat = x.reshape(x.shape[0], -1)
        feature = Linear(self.hidden, dtype=self.dtype, name="linear_encoder")(flat)
        self.sow("intermediates", "linear_encoder_out", feature)
        return feature


class MlpTrunk(nn.Module):
    """[B, H, W, C] -> [B, widths[-1]]; for small generated images."""

    widths: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths, 1):
            x = nn.leaky_relu(Linear(width, dtype=self.dtype, name=f"layer_{i}")(x), 0.2)
        return x


class Backbone(nn.Module):
    """A network of ImageNet: [B, S, S, 3] in [-1, 1] -> pooled features, statistics frozen.

    The released code's classes pool VGG-16's and Inception's last map by its maximum.
    """

    name_of: TrunkName
    pool: Literal["max", "average"] = "average"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, transform: Modulation | None) -> jax.Array:
        mean, std = map(jnp.asarray, IMAGENET)
        x = (x * 0.5 + 0.5 - mean) / std

        def between(name: str, y: jax.Array) -> jax.Array:
            return modulated(y, name, transform)

        if self.name_of == "vgg16":
            vgg = VGG(16, dtype=self.dtype, name="trunk")
            return pooled(vgg(x, train=False, between=between)["stage5"], self.pool)
        if self.name_of == "resnet50":
            net: nn.Module = ResNet(50, dtype=self.dtype, name="trunk")
        else:
            net = inception.InceptionV3(dtype=self.dtype, name="trunk")
        return pooled(net(x, train=False, between=between, pool=False), self.pool)


def pooled(maps: jax.Array, how: Literal["max", "average"]) -> jax.Array:
    """[B, H, W, C] -> [B, C]."""
    positions = at_least_float32(maps).reshape(maps.shape[0], -1, maps.shape[-1])
    reduce = largest if how == "max" else jnp.mean
    return reduce(positions, axis=1).astype(maps.dtype)


class Encoder(nn.Module):
    """Images -> Codes. Variables of the trunk, and the heads content, mu, logvar."""

    trunk: TrunkName
    latent: int
    widths: Sequence[int]
    hidden: int
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, keep: jax.Array | None, transform: Modulation | None) -> Codes:
        if self.trunk == "conv":
            trunk = ConvTrunk(self.widths, self.hidden, self.dtype, name="feature")
            feature = trunk(x, transform)
        elif self.trunk == "mlp":
            feature = MlpTrunk(self.widths, self.dtype, name="feature")(x)
        else:
            feature = Backbone(self.trunk, dtype=self.dtype, name="feature")(x, transform)
        feature = dropped(at_least_float32(feature), keep, self.dropout)
        # Codes and their norms stay in float32 where the trunk computes in bfloat16.
        wide = jnp.promote_types(self.dtype, jnp.float32)
        content, mu, logvar = (
            Linear(self.latent, dtype=wide, name=name)(feature)
            for name in ("content", "mu", "logvar")
        )
        return Codes(mu, logvar, unit(content), unit(feature))


class ConvDecoder(nn.Module):
    """[B, d] -> [B, S, S, C] in [-1, 1]; variables linear_1, deconv_1, ..., final_image.

    widths: channels of the maps, the smallest (of side S / 2^len(widths)) first.
    """

    widths: Sequence[int]
    side: int
    channels: int
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, code: jax.Array, keep: jax.Array | None) -> jax.Array:
        shape = (self.side, self.side, self.widths[0])
        x = Linear(self.side**2 * self.widths[0], dtype=self.dtype, name="linear_1")(code)
        x = dropped(x.reshape(-1, *shape), keep, self.dropout)
        for i, width in enumerate(self.widths[1:], 1):
            x = TransposedConv(width, self.dtype, name=f"deconv_{i}")(x)
            x = nn.relu(instance_norm(x))
            self.sow("intermediates", f"deconv_{i}_out", x)
        x = TransposedConv(self.channels, self.dtype, name="final_image")(x)
        return jnp.tanh(at_least_float32(x))


class MlpDecoder(nn.Module):
    """[B, d] -> [B, S, S, C] in [-1, 1]; for small generated images."""

    widths: Sequence[int]
    shape: tuple[int, int, int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, code: jax.Array, keep: jax.Array | None) -> jax.Array:
        x = code
        for i, width in enumerate(self.widths, 1):
            x = nn.leaky_relu(Linear(width, dtype=self.dtype, name=f"layer_{i}")(x), 0.2)
        size = self.shape[0] * self.shape[1] * self.shape[2]
        x = Linear(size, dtype=self.dtype, name="final_image")(x)
        return jnp.tanh(at_least_float32(x)).reshape(-1, *self.shape)


@dataclasses.dataclass(frozen=True)
class CrossModalVAE:
    """Encoder and decoder as pure functions of their parameters {"encoder", "decoder"}.

    latent: d. image_size, channels: of the images [B, S, S, C] in [-1, 1].
    trunk: "conv" is the released network; "mlp" reads small generated images; the others are
      ImageNet's, with frozen statistics, and the released decoder.
    widths: of the trunk's layers ("conv": S must divide by 2^len(widths); "mlp").
    decoder: widths of the decoder's layers; None: `widths` backwards.
    hidden: of the linear layer of "conv". dropout: rate in encoder and decoder.
    """

    latent: int = 128
    image_size: int = 256
    channels: int = 3
    trunk: TrunkName = "conv"
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    hidden: int = 512
    decoder: tuple[int, ...] | None = None
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @property
    def feature_size(self) -> int:
        """F, of what the heads read."""
        own = {"conv": self.hidden, "mlp": self.widths[-1], "vgg16": 512}
        return own.get(self.trunk, 2048)

    @property
    def transformed(self) -> dict[str, int]:
        """Layers behind which a feature transformation may stand, and their channels."""
        if self.trunk == "conv":
            return {f"down_{i}": width for i, width in enumerate(self.widths, 1) if i > 1}
        tables = {"vgg16": _VGG_CHANNELS, "resnet50": _RESNET_CHANNELS}
        return {} if self.trunk == "mlp" else dict(tables.get(self.trunk, inception.CHANNELS))

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        return self.widths[::-1] if self.decoder is None else self.decoder

    @property
    def decoder_map(self) -> tuple[int, ...]:
        """[h, w, C] of the map to which the decoder's dropout applies; () for an MLP."""
        if self.trunk == "mlp":
            return ()
        widths = self.decoder_widths
        side = self.image_size // 2 ** len(widths)
        return (side, side, widths[0])

    @property
    def encoder_module(self) -> Encoder:
        return Encoder(self.trunk, self.latent, self.widths, self.hidden, self.dropout, self.dtype)

    @property
    def decoder_module(self) -> nn.Module:
        if self.trunk == "mlp":
            shape = (self.image_size, self.image_size, self.channels)
            return MlpDecoder(self.decoder_widths, shape, self.dtype)
        return ConvDecoder(
            self.decoder_widths, self.decoder_map[0], self.channels, self.dropout, self.dtype
        )

    def init(self, key: jax.Array) -> tuple[Variables, Variables]:
        """(parameters {"encoder", "decoder"}, frozen statistics {"encoder": ...}, maybe empty)."""
        first, second = jax.random.split(key)
        image = jnp.zeros((1, self.image_size, self.image_size, self.channels), jnp.float32)
        encoder = self.encoder_module.init(first, image, None, None)
        code = jnp.zeros((1, self.latent), jnp.float32)
        decoder = self.decoder_module.init(second, code, None)
        params = {"encoder": encoder["params"], "decoder": decoder["params"]}
        return params, {"encoder": encoder.get("batch_stats", {})}

    def encode(
        self,
        params: Variables,
        x: jax.Array,
        *,
        stats: Variables | None = None,
        keep: jax.Array | None = None,
        transform: Modulation | None = None,
    ) -> Codes:
        """Images [B, S, S, C] -> Codes.

        stats: as `init` gives them; needed by trunks of ImageNet.
        keep: [B, F] bool, the dropout mask; None: no dropout.
        transform: layers' (gamma, beta); None: no feature transformation.
        """
        variables = {"params": params["encoder"]}
        if stats is not None and stats.get("encoder"):
            variables["batch_stats"] = stats["encoder"]
        codes: Any = self.encoder_module.apply(variables, x, keep, transform)
        return codes

    def decode(
        self, params: Variables, code: jax.Array, *, keep: jax.Array | None = None
    ) -> jax.Array:
        """Codes [B, d], style + content -> images [B, S, S, C] in [-1, 1].

        keep: [B, *decoder_map] bool, the dropout mask; None: no dropout.
        """
        return forward(self.decoder_module, params["decoder"], code, keep)
