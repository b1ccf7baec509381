"""The frozen tokenizer between pixels and the codes of an autoregressive model."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import meta

from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.registry import Registry, choice, option
from genjax.models import MODELS
from genjax.models.vit_vqgan import ViTVQGAN
from genjax.tasks.codec import file_hash
from genjax.weights import native


@dataclasses.dataclass(frozen=True)
class TokenizerCodec:
    """A trained ViT-VQGAN: codes int32 [b, l] <-> images [b, h, w, c] in [0, 1].

    Its decoder may be another than that of the network which made the codes (Parti's large one, on
    the same encoder and codebook). Training on stored codes needs no file.
    """

    path: str = option("", "the tokenizer: a workdir of genjax train, or a folder of weights")
    model: Any = choice(MODELS, {"name": "vit_vqgan", "variant": "SS"}, "what the path holds")

    def __post_init__(self):
        if not isinstance(self.model, ViTVQGAN):
            raise ValueError(f"model: a {type(self.model).__name__} makes no codes of images")

    @property
    def size(self) -> int:
        """Codes there are."""
        return self.model.quantizer.size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of an image's codes."""
        return tuple(self.model.grid)

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels of the pixels."""
        return self.model.image

    def load(self) -> Tree:
        """Returns the variables of a folder of weights.

        Raises `UserError` if it holds another network. (Workdirs are read by the command line.)
        """
        module, variables, _ = native.read_native(self.path)
        self.check(module)
        return variables

    def check(self, module: Any) -> None:
        """Raises `UserError` if the network found at `path` is not the config's `model`."""
        for field in dataclasses.fields(ViTVQGAN):
            if field.name in ("parent", "name", "dtype", "attention", "remat"):
                continue  # none changes what the parameters are
            want, found = getattr(self.model, field.name), getattr(module, field.name, None)
            if want != found:
                raise UserError(
                    f"task.codec.model.{field.name} is {want!r} but {self.path} holds a tokenizer "
                    f"with {found!r}; correct the key or the path"
                )

    def shapes(self) -> Tree:
        """Returns the shapes of the variables, for plans ({} without a path)."""
        if not self.path:
            return {}
        x = jnp.zeros((1, *self.image))
        return meta.unbox(jax.eval_shape(self.model.init, jax.random.key(0), x))

    def record(self) -> dict[str, str]:
        """Returns path, format and SHA-256 of the weights ({} without a path)."""
        if not self.path:
            return {}
        file = os.path.join(self.path, native.WEIGHTS)
        return {"path": self.path, "format": "native", "sha256": file_hash(file)}

    def encode(self, frozen: Tree, x: Array) -> Array:
        """Returns the codes of images; no gradient passes."""
        codes = self.model.apply(jax.lax.stop_gradient(frozen), x, method=ViTVQGAN.encode)
        return jnp.asarray(codes, jnp.int32)

    def decode(self, frozen: Tree | None, codes: Array) -> Array:
        """Returns the images of codes; raises `UserError` where no weights were given."""
        if frozen is None:
            raise UserError(
                "task.codec.path: must be given to turn codes into images; the folder of a "
                "trained tokenizer"
            )
        return jnp.asarray(self.model.apply(frozen, codes, method=ViTVQGAN.decode))


TOKENIZERS = Registry("tokenizer", {"vit_vqgan": TokenizerCodec})
