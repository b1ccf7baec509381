"""Feature networks as evaluation sees them: uint8 images in, named arrays out."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from genjax.core import tree
from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.parallel import MeshSpec, batch_sharding, replicated


class Extractor(Protocol):
    """A frozen feature network with its input protocol.

    `name` is short ("classifier"), `hash` the hexadecimal hash of weights and architecture, `dim`
    the width d of the features, `protocol` how pixels reach the network (resize, value map).
    """

    @property
    def name(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def protocol(self) -> str: ...

    def __call__(self, images: np.ndarray) -> dict[str, Array]:
        """Returns {"features": [b, d], ...} ("logits" [b, K] where there are any), float32.

        `images`: uint8 [b, h, w, c]; raises `UserError` for a shape that it was not made for.
        """
        ...


class Classifier:
    """A classifier trained by genjax; features are what its last, linear layer reads.

    `predict(params, images, levels=256)` is the task's, on images [b, *shape].
    """

    name = "classifier"
    protocol = "no resize; x8/127.5 - 1; float32"

    def __init__(self, predict: Callable[..., dict], params: Tree, shape: tuple, about: str):
        self.shape = tuple(shape)
        self.hash = tree_hash(params, about)
        self._params = on_all_devices(params)

        def run(params, images):
            with jax.default_matmul_precision("highest"):
                return predict(params, images, levels=256)

        self._run = jax.jit(run)
        spec = jax.ShapeDtypeStruct((1, *self.shape), np.uint8)
        self.dim = int(jax.eval_shape(run, params, spec)["features"].shape[1])

    def __call__(self, images: np.ndarray) -> dict[str, Array]:
        if images.shape[1:] != self.shape:
            raise UserError(
                f"--extractor: this classifier reads images {list(self.shape)}, not "
                f"{list(images.shape[1:])}; train one on data of that size"
            )
        return self._run(self._params, images)


class Codes:
    """A tokenizer trained by genjax: the codes of images, `size` different ones.

    `encode(params, images)` gives int32 [b, l] of images [b, *shape].
    """

    name, dim = "tokenizer", 0
    protocol = "no resize; codes of the encoder alone"

    def __init__(
        self, encode: Callable[..., Array], params: Tree, shape: tuple, size: int, about: str
    ):
        self.shape, self.size = tuple(shape), size
        self.hash = tree_hash(params, about)
        self._params, self._encode = on_all_devices(params), jax.jit(encode)

    def __call__(self, images: np.ndarray) -> dict[str, Array]:
        """Returns {"codes": int32 [b, l]}; raises `UserError` for another shape of images."""
        if images.shape[1:] != self.shape:
            raise UserError(
                f"--extractor: this tokenizer reads images {list(self.shape)}, not "
                f"{list(images.shape[1:])}; give images of that size"
            )
        return {"codes": self._encode(self._params, images)}


def tree_hash(params: Tree, about: str = "") -> str:
    """Returns the SHA-256 of all paths, shapes, dtypes and bytes, and of the text `about`."""
    h = hashlib.sha256(about.encode())
    for path, leaf in sorted(tree.flatten(params).items()):
        a = np.ascontiguousarray(jax.device_get(leaf))
        h.update(f"{path}|{a.dtype}|{a.shape}".encode())
        h.update(a.tobytes())
    return h.hexdigest()


def describe_module(module: Any) -> str:
    """Returns the class and the fields of a Flax module as text, for hashes."""
    fields = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    return f"{type(module).__name__} " + str({n: getattr(module, n) for n in sorted(fields)})


def whole_batch(batch: int) -> int:
    """Returns `batch` rounded up to a multiple of the devices of all processes."""
    count = jax.device_count()
    return -(-batch // count) * count


def spread_over_devices(
    read: Callable[[np.ndarray], np.ndarray],
    indices: np.ndarray,
    shape: tuple[int, ...],
    devices: list | None = None,
) -> Any:
    """Returns read(indices), [b, *shape], split along its first axis over all devices.

    Every process reads only the rows of its own devices, and calls this with the same `indices`, a
    multiple of the number of devices. Jitted work that follows runs on all of them.
    """
    devices = devices or jax.devices()
    if len(devices) == 1:
        return read(indices)
    sharding = batch_sharding(MeshSpec().build(devices))
    whole = (len(indices), *shape)

    def rows(index: Any) -> np.ndarray:
        return read(indices[index[0]])

    return jax.make_array_from_callback(whole, sharding, rows)


def on_all_devices(params: Tree) -> Tree:
    """Returns the parameters on every device, where `spread_over_devices` puts images: jitted
    functions refuse arrays that live on other devices than these.
    """
    whole = replicated(MeshSpec().build())

    def one(leaf: Any) -> jax.Array:
        a = np.asarray(jax.device_get(leaf))
        return jax.make_array_from_callback(a.shape, whole, lambda i: a[i])

    return jax.tree.map(one, params)
