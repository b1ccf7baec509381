"""Codecs: frozen maps between pixels and what the denoiser sees.

A codec is a frozen dataclass of settings. Its network's parameters come from `load()` and are
passed as the argument `frozen`, so that they are neither trained, donated nor checkpointed.
"""

import dataclasses
import hashlib
import os
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import meta

from genjax import weights
from genjax.core import keys as named_keys
from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.registry import Registry, choice, option
from genjax.models import MODELS
from genjax.models.vae import KLVAE, sample_posterior, split_moments
from genjax.weights import vae as vae_files


class Codec(Protocol):
    """What tasks use: pixels x [b, h, w, c] in [-1, 1] (or the task's range) <-> latents z."""

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns (h, w, z) of the latents of images (h, w, c)."""
        ...

    def load(self) -> Tree:
        """Returns the frozen parameters, read from the file that the config names."""
        ...

    def shapes(self) -> Tree:
        """Returns the shapes of what `load` returns, without reading anything."""
        ...

    def record(self) -> dict:
        """Returns path, format and SHA-256 of that file ({} where there is none)."""
        ...

    def encode(self, frozen: Tree, x: Array, key: Array | None = None) -> Array:
        """Returns latents; `key` (one, or one per image) draws from the posterior."""
        ...

    def decode(self, frozen: Tree, z: Array) -> Array:
        """Returns pixels of latents."""
        ...

    def from_moments(self, moments: Array, key: Array | None = None) -> Array:
        """Returns latents of cached moments."""
        ...


@dataclasses.dataclass(frozen=True)
class Identity:
    """The denoiser sees pixels."""

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(image_shape)

    def load(self) -> Tree:
        return {}

    def shapes(self) -> Tree:
        return {}

    def record(self) -> dict:
        return {}

    def encode(self, frozen: Tree, x: Array, key: Array | None = None) -> Array:
        return x

    def decode(self, frozen: Tree, z: Array) -> Array:
        return z

    def from_moments(self, moments: Array, key: Array | None = None) -> Array:
        raise UserError(
            "task.codec.name: the data are cached moments but the codec is 'identity'; "
            "choose 'kl_vae', or a data set of images"
        )


@dataclasses.dataclass(frozen=True)
class KLVAECodec:
    """The denoiser sees (z - shift) scale, z a sample of the autoencoder's posterior.

    Stable Diffusion's and DiT's: scale 0.18215. EDM2's: shift = its per-channel means, scale =
    0.5 / its per-channel standard deviations.
    """

    path: str = option("", "weights of the autoencoder: a file, or a folder as diffusers saves it")
    format: str = option("diffusers-vae", "format of that file")
    model: Any = choice(MODELS, {"name": "kl_vae"}, "the autoencoder that the file holds")
    scale: float | tuple[float, ...] = option(0.18215, "factor of latents: one, or one a channel")
    shift: float | tuple[float, ...] = option(0.0, "subtracted before: one, or one a channel")

    def __post_init__(self):
        for name, value in (("scale", self.scale), ("shift", self.shift)):
            size = np.size(value)
            if size not in (1, self.model.latent_channels):
                raise ValueError(
                    f"{name} has {size} values; give 1 or latent_channels = "
                    f"{self.model.latent_channels}"
                )
        if not np.all(np.asarray(self.scale)):
            raise ValueError("scale must not be 0")

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns (h/f, w/f, z); raises `UserError` where f does not divide, or c differs."""
        *sides, channels = image_shape
        factor = self.model.factor
        if any(s % factor for s in sides) or channels != self.model.in_channels:
            raise UserError(
                f"images of {tuple(image_shape)} do not fit the autoencoder: sides must be "
                f"divisible by {factor}, with {self.model.in_channels} channels; change the image "
                "size or task.codec.model"
            )
        return (*(s // factor for s in sides), self.model.latent_channels)

    def load(self) -> Tree:
        """Returns the parameters; raises `UserError` if the file holds another architecture."""
        self._require_path()
        _, told = vae_files.locate(self.path)
        groups = {"norm_num_groups": self.model.norm_num_groups}  # tensors do not tell
        module, variables = weights.load(self.format, self.path, **(groups | told))
        for field in dataclasses.fields(KLVAE):
            if field.name in ("parent", "name", "dtype", "attention_layout"):
                continue  # neither changes what the parameters are
            want, found = getattr(self.model, field.name), getattr(module, field.name)
            if want != found:
                raise UserError(
                    f"task.codec.model.{field.name} is {want!r} but {self.path} holds an "
                    f"autoencoder with {found!r}; correct the key or the path"
                )
        return variables

    def shapes(self) -> Tree:
        """Returns the shapes of the variables, for plans."""
        x = jnp.zeros((1, *(2 * (8 * self.model.factor,)), self.model.in_channels))
        return meta.unbox(jax.eval_shape(self.model.init, jax.random.key(0), x))

    def record(self) -> dict:
        """Returns {"path", "format", "sha256"} of the weight file."""
        self._require_path()
        return {"path": self.path, "format": self.format, "sha256": file_hash(self.path)}

    def _require_path(self) -> None:
        if not self.path:
            raise UserError(
                "task.codec.path: must be given; the weights of the autoencoder, such as "
                "vae/diffusion_pytorch_model.safetensors"
            )

    def moments(self, frozen: Tree, x: Array) -> Array:
        """Returns the posterior's moments (mean, log-variance) [b, h/f, w/f, 2z] of images."""
        return jnp.asarray(self.model.apply(frozen, x, method=KLVAE.encode))

    def encode(self, frozen: Tree, x: Array, key: Array | None = None) -> Array:
        """Returns scaled latents, float32: a posterior sample, its mean without `key`."""
        return self.from_moments(self.moments(frozen, x), key)

    def decode(self, frozen: Tree, z: Array) -> Array:
        """Returns the pixels of scaled latents, float32, unclipped."""
        raw = z / jnp.asarray(self.scale, jnp.float32) + jnp.asarray(self.shift, jnp.float32)
        return jnp.asarray(self.model.apply(frozen, raw, method=KLVAE.decode))

    def from_moments(self, moments: Array, key: Array | None = None) -> Array:
        """Returns scaled latents of moments [b, h, w, 2z]: a sample, or the mean without `key`.

        `key`: one for the batch, or [b], one per image.
        """
        mean, _ = split_moments(moments)
        z = mean if key is None else sample_posterior(moments, _noise(key, mean.shape))
        return (z - jnp.asarray(self.shift, jnp.float32)) * jnp.asarray(self.scale, jnp.float32)


CODECS = Registry("codec", {"identity": Identity, "kl_vae": KLVAECodec})


def _noise(key: Array, shape: tuple[int, ...]) -> Array:
    return named_keys.normal(key, shape[1:]) if key.ndim else jax.random.normal(key, shape)


def file_hash(path: str) -> str:
    """Returns the SHA-256 of a weight file (of a folder in diffusers' layout: of its file)."""
    file, _ = vae_files.locate(path) if os.path.isdir(path) else (path, {})
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot read it ({error.strerror}); correct the path") from error
