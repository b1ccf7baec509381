"""Linear measurements u = P T x with orthonormal rows: what is known of an image x [b, h, w, c].

T is orthogonal and P picks coordinates, so white noise measured is white noise, and what is known
is put in its place by x + lift(u - measure(x)), which leaves all that is orthogonal to it alone
(Song et al., arXiv 2011.13456, appendix I). An operator is its `measure`; `lift` is the transpose.
"""

import dataclasses
from typing import Any, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.core.errors import UserError

# Grey, and the two colour differences: an orthogonal basis of RGB, a column each. The published
# code prints it to three digits.
COLOUR_BASIS = np.stack(
    [
        np.array([1.0, 1.0, 1.0]) / np.sqrt(3.0),
        np.array([-2.0, 1.0, 1.0]) / np.sqrt(6.0),
        np.array([0.0, 1.0, -1.0]) / np.sqrt(2.0),
    ],
    axis=1,
)
# A singular value below this share of the largest counts as zero, as numpy's matrix_rank has it.
_RANK = 1e-6


@dataclasses.dataclass(frozen=True)
class Operator:
    """A linear map of images of one `shape` (h, w, c) whose rows are orthonormal.

    Subclasses are pytrees of their arrays, so that another mask does not compile again.
    """

    shape: tuple[int, ...]

    def measure(self, x: Array) -> Array:
        """Returns u, the known coordinates of x [b, h, w, c], one axis or more after the batch."""
        raise NotImplementedError

    def lift(self, u: Array) -> Array:
        """Returns the image [b, h, w, c] with these known coordinates and the others 0."""
        image = jax.ShapeDtypeStruct((u.shape[0], *self.shape), u.dtype)
        return jax.linear_transpose(self.measure, image)(u)[0]

    def unknown(self, x: Array) -> Array:
        """Returns x without what `measure` sees of it."""
        return x - self.lift(self.measure(x))

    def replace(self, x: Array, u: Array) -> Array:
        """Returns x with the known coordinates u: exactly those where they are pixels."""
        return self.unknown(x) + self.lift(u)

    def published_start(self, x: Array) -> Array:
        """Returns the noise that the published code starts from beside the known part."""
        return self.unknown(x)


@dataclass_transform(frozen_default=True)
def _register(*arrays: str):
    """Class decorator: a frozen dataclass that is a pytree of the fields `arrays`."""

    def register(cls):
        cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
        rest = [f.name for f in dataclasses.fields(cls) if f.name not in arrays]
        return jax.tree_util.register_dataclass(cls, data_fields=list(arrays), meta_fields=rest)

    return register


@_register("indices")
class Pixels(Operator):
    """Some entries of the flattened image: `indices` [m] of h w c, each at most once."""

    indices: Any

    def measure(self, x):
        return x.reshape(x.shape[0], -1)[:, self.indices]


@_register("direction")
class Channels(Operator):
    """One direction of colour in every pixel: `direction` [c] of length 1."""

    direction: Any

    def measure(self, x):
        return jnp.einsum("bhwc,c->bhw", x, self.direction, precision="highest")

    def published_start(self, x):
        # The published code masks the noise before it turns the colours, so that red is cut out.
        return x.at[..., 0].set(0.0)


@_register()
class Blocks(Operator):
    """The sums of `factor` x `factor` blocks over `factor`: their means, times `factor`."""

    factor: int

    def measure(self, x):
        b, (h, w, c), s = x.shape[0], self.shape, self.factor
        return jnp.sum(x.reshape(b, h // s, s, w // s, s, c), axis=(2, 4)) / s


@_register("rows")
class Rows(Operator):
    """The products with orthonormal `rows` [m, h w c] of the flattened image."""

    rows: Any

    def measure(self, x):
        flat = x.reshape(x.shape[0], -1)
        return jnp.einsum("bd,md->bm", flat, self.rows, precision="highest")


def inpaint(mask: np.ndarray, shape: tuple[int, ...]) -> Pixels:
    """Returns the operator of the known pixels: `mask` [h, w] or [h, w, c] is not 0 there.

    Raises `UserError` for another shape, and where all or nothing is known.
    """
    mask = np.asarray(mask) != 0
    if mask.shape not in (shape, shape[:2], (*shape[:2], 1)):
        raise UserError(
            f"--mask: is {list(mask.shape)}, but the images are {list(shape)}; give a mask of their"
            " height and width"
        )
    full = np.broadcast_to(mask if mask.ndim == 3 else mask[..., None], shape)
    if full.all() or not full.any():
        raise UserError(
            f"--mask: {'every' if full.all() else 'no'} pixel is known; mark the known ones with"
            " values above 0 and the missing ones with 0"
        )
    return Pixels(tuple(shape), np.flatnonzero(full))


def colorize(shape: tuple[int, ...]) -> Channels:
    """Returns the operator of the grey values; raises `UserError` unless there are 3 channels."""
    if shape[-1] != 3:
        raise UserError(
            f"--operation: colorize needs a model of RGB images, but this one draws {shape[-1]}"
            " channel(s)"
        )
    return Channels(tuple(shape), COLOUR_BASIS[:, 0].astype(np.float32))


def super_resolve(factor: int, shape: tuple[int, ...]) -> Blocks:
    """Returns the operator of the block means; `UserError` unless `factor` divides the sides."""
    h, w, _ = shape
    if factor < 2 or h % factor or w % factor:
        raise UserError(
            f"--factor: {factor} must be at least 2 and divide the model's {h} x {w} pixels"
        )
    return Blocks(tuple(shape), factor)


def linear(matrix: np.ndarray, shape: tuple[int, ...]) -> Rows:
    """Returns the operator that knows what `matrix` [m, h w c] (or [m, h, w, c]) tells of images.

    By its singular value decomposition A = U S V^T: the coordinates V^T x whose singular values are
    not zero are known exactly if A x is. Raises `UserError` for another shape or no information.
    """
    size = int(np.prod(shape))
    if matrix.ndim == 4 and matrix.shape[1:] == shape:
        matrix = matrix.reshape(len(matrix), size)
    if matrix.ndim != 2 or matrix.shape[1] != size or not np.issubdtype(matrix.dtype, np.number):
        raise UserError(
            f"--operator: is {matrix.dtype} {list(matrix.shape)}, but images {list(shape)} need a"
            f" matrix [m, {size}] of numbers, in the order height, width, channels"
        )
    matrix = matrix.astype(np.float64)
    if not np.isfinite(matrix).all():
        raise UserError("--operator: holds NaN or infinity; correct the matrix")
    _, s, vt = np.linalg.svd(matrix, full_matrices=False)
    known = s > _RANK * s.max(initial=0.0)
    if not known.any():
        raise UserError("--operator: all singular values are zero; it tells nothing of an image")
    return Rows(tuple(shape), vt[known].astype(np.float32))
