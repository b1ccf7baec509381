"""The KL-regularised convolutional autoencoder of latent diffusion (Rombach et al. 2022).

"f8" (Stable Diffusion's, the default fields): 83,653,863 parameters, 8x smaller sides and 4
latent channels. The submodules carry the names of the public weight files with `.N` written `_N`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.layers.attention import attention
from genjax.layers.conv import DOWN, NONE, conv, kernel_init, upsample
from genjax.layers.linear import Linear
from genjax.layers.norm import GroupNorm

EPSILON = 1e-6  # of every normalisation; the U-Nets beside this autoencoder have other values
LOGVAR_RANGE = (-30.0, 20.0)
ATTENTION_LAYOUTS = ("to_q", "to_q-conv", "query", "query-conv")


def split_moments(moments: Array) -> tuple[Array, Array]:
    """Returns mean and log-variance, the latter clamped to [-30, 20], in float32.

    [..., 2z] -> two arrays [..., z].
    """
    mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return mean, jnp.clip(logvar, *LOGVAR_RANGE)


def sample_posterior(moments: Array, noise: Array) -> Array:
    """Returns z = mean + exp(logvar / 2) noise, float32 [..., z]."""
    mean, logvar = split_moments(moments)
    return mean + jnp.exp(0.5 * logvar) * noise


class ResBlock(nn.Module):
    """GN, SiLU, conv3, GN, SiLU, conv3, plus the input (through a 1x1 conv if channels change)."""

    features: int
    groups: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = _norm_act(x, self.groups, "norm1", self.dtype)
        h = conv(self.features, dtype=self.dtype, name="conv1")(h)
        h = _norm_act(h, self.groups, "norm2", self.dtype)
        h = conv(self.features, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, size=1, padding=NONE, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention of one head as wide as the channels, over all pixels, plus the input."""

    groups: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        *lead, h, w, c = x.shape
        tokens = GroupNorm(self.groups, EPSILON, name="group_norm")(x)
        tokens = tokens.astype(self.dtype).reshape(-1, h * w, c)
        q, k, v = (
            self._linear(c, ("embed", "kv"), name)(tokens)[:, :, None]
            for name in ("to_q", "to_k", "to_v")
        )
        out = attention(q, k, v)[:, :, 0]
        out = self._linear(c, ("kv", "embed"), "to_out_0")(out)
        return x + out.reshape(*lead, h, w, c)

    def _linear(self, features: int, names: tuple[str, str], name: str) -> Linear:
        return Linear((features,), names, kernel_init=kernel_init, dtype=self.dtype, name=name)


class MidBlock(nn.Module):
    """Res, attention (optional), Res at the smallest grid."""

    groups: int
    with_attention: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = ResBlock(x.shape[-1], self.groups, self.dtype, name="resnets_0")(x)
        if self.with_attention:
            x = AttentionBlock(self.groups, self.dtype, name="attentions_0")(x)
        return ResBlock(x.shape[-1], self.groups, self.dtype, name="resnets_1")(x)


class Encoder(nn.Module):
    """Pixels [..., h, w, c] -> [..., h/f, w/f, features], before the quantisation convolution."""

    channels: tuple[int, ...]
    layers: int
    features: int
    groups: int
    with_attention: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = conv(self.channels[0], dtype=self.dtype, name="conv_in")(x)
        for i, features in enumerate(self.channels):
            for j in range(self.layers):
                name = f"down_blocks_{i}_resnets_{j}"
                x = ResBlock(features, self.groups, self.dtype, name=name)(x)
            if i + 1 < len(self.channels):
                name = f"down_blocks_{i}_downsamplers_0_conv"
                x = conv(features, stride=2, padding=DOWN, dtype=self.dtype, name=name)(x)
        x = MidBlock(self.groups, self.with_attention, self.dtype, name="mid_block")(x)
        x = _norm_act(x, self.groups, "conv_norm_out", self.dtype)
        return conv(self.features, dtype=self.dtype, axis=None, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents [..., h, w, z] -> pixels [..., f h, f w, features]; a Res a level more than down."""

    channels: tuple[int, ...]
    layers: int
    features: int
    groups: int
    with_attention: bool
    dtype: str

    @nn.compact
    def __call__(self, z: Array) -> Array:
        x = conv(self.channels[-1], dtype=self.dtype, name="conv_in")(z)
        x = MidBlock(self.groups, self.with_attention, self.dtype, name="mid_block")(x)
        for i, features in enumerate(reversed(self.channels)):
            for j in range(self.layers + 1):
                name = f"up_blocks_{i}_resnets_{j}"
                x = ResBlock(features, self.groups, self.dtype, name=name)(x)
            if i + 1 < len(self.channels):
                name = f"up_blocks_{i}_upsamplers_0_conv"
                x = conv(features, dtype=self.dtype, name=name)(upsample(x))
        x = _norm_act(x, self.groups, "conv_norm_out", self.dtype)
        return conv(self.features, dtype=self.dtype, axis=None, name="conv_out")(x)


class KLVAE(nn.Module):
    """Autoencoder with a diagonal Gaussian posterior. Pixels in [-1, 1], NHWC.

    The fields have the names of the public configuration files. Normalisations and the softmax
    are float32 whatever `dtype`; inputs and outputs are float32.
    """

    in_channels: int = option(3, "channels of the images that are encoded")
    out_channels: int = option(3, "channels of the images that are decoded")
    latent_channels: int = option(4, "channels of the latents")
    block_out_channels: tuple[int, ...] = option(
        (128, 256, 512, 512), "width of each level; each level but the last halves the sides"
    )
    layers_per_block: int = option(2, "residual blocks a level (the decoder has one more)")
    norm_num_groups: int = option(32, "groups of every normalisation")
    mid_block_add_attention: bool = option(True, "self-attention at the smallest grid")
    use_quant_conv: bool = option(True, "1x1 convolution after the encoder")
    use_post_quant_conv: bool = option(True, "1x1 convolution before the decoder")
    attention_layout: str = option(
        "to_q",
        "how weight files hold the attention (read by the exporter): names to_q/to_out.0 or, in "
        "old files, query/proj_attn; with '-conv' as 1x1 convolutions",
    )
    dtype: str = option("float32", "what convolutions and products compute in")

    def __post_init__(self):
        if self.attention_layout not in ATTENTION_LAYOUTS:
            raise ValueError(
                f"attention_layout is {self.attention_layout!r}; choose one of {ATTENTION_LAYOUTS}"
            )
        if not self.block_out_channels or any(
            c % self.norm_num_groups for c in self.block_out_channels
        ):
            raise ValueError(
                f"block_out_channels {tuple(self.block_out_channels)} must be non-empty and "
                f"divisible by norm_num_groups {self.norm_num_groups}"
            )
        super().__post_init__()

    @property
    def factor(self) -> int:
        """How many times smaller the sides of a latent are."""
        return 2 ** (len(self.block_out_channels) - 1)

    def setup(self):
        common = {
            "channels": tuple(self.block_out_channels),
            "layers": self.layers_per_block,
            "groups": self.norm_num_groups,
            "with_attention": self.mid_block_add_attention,
            "dtype": self.dtype,
        }
        self.encoder = Encoder(features=2 * self.latent_channels, **common)
        self.decoder = Decoder(features=self.out_channels, **common)
        if self.use_quant_conv:
            self.quant_conv = self._pointwise(2 * self.latent_channels)
        if self.use_post_quant_conv:
            self.post_quant_conv = self._pointwise(self.latent_channels)

    def _pointwise(self, features: int) -> nn.Conv:
        return conv(features, size=1, padding=NONE, axis=None, dtype=self.dtype)

    def encode(self, x: Array) -> Array:
        """Returns the posterior's moments (mean, log-variance): [b, h, w, c] -> [b, h/f, w/f, 2z].

        Raises ValueError for sides that the down-sampling factor does not divide.
        """
        if x.shape[-3] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(f"sides {x.shape[-3:-1]} must be divisible by {self.factor}")
        moments = self.encoder(x.astype(self.dtype))
        if self.use_quant_conv:
            moments = self.quant_conv(moments)
        return moments.astype(jnp.float32)

    def decode(self, z: Array) -> Array:
        """Returns the images of unscaled latents: [b, h, w, z] -> [b, f h, f w, c], unclipped."""
        z = z.astype(self.dtype)
        if self.use_post_quant_conv:
            z = self.post_quant_conv(z)
        return self.decoder(z).astype(jnp.float32)

    def __call__(self, x: Array, noise: Array | None = None) -> Array:
        """Returns the reconstruction from a posterior sample, from its mean without `noise`."""
        moments = self.encode(x)
        if noise is None:
            return self.decode(split_moments(moments)[0])
        return self.decode(sample_posterior(moments, noise))


def _norm_act(x: Array, groups: int, name: str, dtype: str) -> Array:
    return jax.nn.silu(GroupNorm(groups, EPSILON, name=name)(x)).astype(dtype)


VARIANTS = {
    "f8": {"block_out_channels": (128, 256, 512, 512), "latent_channels": 4},
    # 16 latent channels, no 1x1 convolutions: Stable Diffusion 3's and Flux's.
    "f8-16": {
        "block_out_channels": (128, 256, 512, 512),
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
}
