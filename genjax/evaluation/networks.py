"""The public feature networks as extractors: pixels in their protocol, float32, full precision."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.resize import centre_crop, resize_uint8, short_side
from genjax.evaluation.clip_tokens import Tokenizer
from genjax.evaluation.extractors import (
    describe_module,
    on_all_devices,
    spread_over_devices,
    tree_hash,
    whole_batch,
)
from genjax.models import clip, dinov2, inception
from genjax.models.lpips import LPIPS
from genjax.parallel import to_host

BICUBIC = "bicubic-antialias"


class Network:
    """An extractor of `compute(variables, images uint8 [b, h, w, 3]) -> named arrays`."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        variables: Tree,
        compute: Callable[[Tree, Array], dict[str, Array]],
        protocol: str,
    ):
        self.name, self.protocol = name, f"{protocol}; float32"
        variables = {k: v for k, v in nn.meta.unbox(variables).items() if k != "constants"}
        self.hash = tree_hash(variables, describe_module(module))
        variables = jax.tree.map(lambda a: np.asarray(a, np.float32), variables)
        self._variables = on_all_devices(variables)

        def run(variables: Tree, images: Array) -> dict[str, Array]:
            with jax.default_matmul_precision("highest"):
                if images.shape[-1] == 1:
                    images = jnp.repeat(images, 3, axis=-1)
                return compute(variables, images)

        self._run = jax.jit(run)
        spec = jax.ShapeDtypeStruct((1, 64, 64, 3), np.uint8)
        self.dim = int(jax.eval_shape(run, variables, spec)["features"].shape[1])

    def __call__(self, images: np.ndarray) -> dict[str, Array]:
        """Returns the named arrays of uint8 images [b, h, w, 1 or 3]."""
        return self._run(self._variables, images)


def inception_network(protocol: str, module: inception.FIDInception, variables: Tree) -> Network:
    """Returns FID's network: features pool3, logits without bias, spatial for sFID."""

    def compute(variables: Tree, images: Array) -> dict[str, Array]:
        out = module.apply(variables, images)
        assert isinstance(out, dict)
        return {
            "features": out["pool3"],
            "logits": out["logits_unbiased"],
            "spatial": out["spatial"],
        }

    # The resize belongs to the protocol, so that statistics files of one network agree in hash.
    return Network(
        f"inception-{protocol}", module, variables, compute, f"uint8; {inception.ABOUT[protocol]}"
    )


def dinov2_network(size: str, module: dinov2.DINOv2, variables: Tree) -> Network:
    """Returns DINOv2 as FD-DINOv2 uses it: the normalised class token."""

    def compute(variables: Tree, images: Array) -> dict[str, Array]:
        x = dinov2.prepare(resize_uint8(images, 224, 224, BICUBIC))
        return {"features": module.apply(variables, x)["class"]}  # pyright: ignore

    about = "uint8; PIL bicubic to 224x224 (no crop); ImageNet mean and std; class token"
    return Network(f"dinov2-{size}", module, variables, compute, about)


class ClipNetwork(Network):
    """CLIP's image embeddings, of unit length, and those of captions."""

    def __init__(self, size: str, module: clip.CLIP, variables: Tree, merges: str | None):
        side = module.image_size

        def compute(variables: Tree, images: Array) -> dict[str, Array]:
            _, h, w, _ = images.shape
            height, width = short_side(h, w, side)
            x = centre_crop(resize_uint8(images, height, width, BICUBIC), side, side)
            out = module.apply(variables, clip.prepare(x), method=clip.CLIP.encode_image)
            return {"features": clip.unit(out["embedding"])}  # pyright: ignore

        about = (
            f"uint8; PIL bicubic, short side {side}, centre crop; CLIP mean and std; unit length"
        )
        super().__init__(f"clip-{size}", module, variables, compute, about)
        self._module, self._merges = module, merges

        def run_text(variables: Tree, tokens: Array) -> Array:
            with jax.default_matmul_precision("highest"):
                out = module.apply(variables, tokens, method=clip.CLIP.encode_text)
                return clip.unit(out["embedding"])  # pyright: ignore

        self._run_text = jax.jit(run_text)

    def embed_text(self, captions: Sequence[str], rows: int = 64) -> np.ndarray:
        """Returns unit embeddings [n, e] of captions, cut off at 77 tokens.

        Raises `UserError` where the file of merges was not given.
        """
        if self._merges is None:
            raise UserError(
                "clip_score: needs the tokenizer's merges.txt beside the weights of CLIP, or "
                "clip_merges.txt in the folder of weights"
            )
        tokens = Tokenizer.read(self._merges)(captions, self._module.positions)
        out, rows = [], whole_batch(rows)
        for start in range(0, len(tokens), rows):
            full = _spread(tokens[start : start + rows], rows)
            out.append(to_host(self._run_text(self._variables, full)))
        return np.concatenate(out)[: len(tokens)]


class LpipsNetwork:
    """LPIPS of pairs of uint8 images; it has no features of one image."""

    dim = 0

    def __init__(self, module: LPIPS, variables: Tree):
        self.name = f"lpips-{module.net}"
        self.hash = tree_hash(nn.meta.unbox(variables), describe_module(module))
        self.protocol = "x8/127.5 - 1; no resize; version 0.1; float32"
        self._variables = on_all_devices(
            jax.tree.map(lambda a: np.asarray(a, np.float32), nn.meta.unbox(variables))
        )

        def run(variables: Tree, x: Array, y: Array) -> Any:
            with jax.default_matmul_precision("highest"):
                x, y = (v.astype(jnp.float32) / 127.5 - 1.0 for v in (x, y))
                return module.apply(variables, x, y)

        self._run = jax.jit(run)

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Returns float32 [b] of uint8 images [b, h, w, c]."""
        rows = whole_batch(len(x))
        found = self._run(self._variables, _spread(x, rows), _spread(y, rows))
        return to_host(found)[: len(x)]

    def __call__(self, images: np.ndarray) -> dict[str, Array]:
        """Raises `UserError`: metrics of features need another network."""
        raise UserError("--extractor: LPIPS compares pairs; for features name another network")


def _spread(block: np.ndarray, rows: int) -> Any:
    """Returns the block on all devices, brought to `rows` by repeating its last row."""
    index = np.minimum(np.arange(rows), len(block) - 1)
    return spread_over_devices(lambda i: block[i], index, block.shape[1:])
