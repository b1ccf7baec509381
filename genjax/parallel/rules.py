"""From logical axis names to shardings: one table, read by parameters and by activations.

Models name axes and never a mesh. A run enters `using(mesh, rules)` around (or inside) its traced
functions; `constrain` reads that context. Outside any `using` it is the identity, so that the
same model runs on one device without ceremony.
"""

import contextlib
import contextvars
import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.linen import meta
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.core.tree import path_string

AXES = ("data", "fsdp", "tensor", "context")

# "channels" are a convolution's output channels; its input channels, and the few channels of
# images and latents, are left unnamed (None). "classes" stays whole: a label table has a null row
# more than there are classes, an odd number, and is small.
DEFAULT_RULES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "seq": ("context",),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv": (),
    "vocab": ("tensor",),
    "classes": (),
    "modulation": ("tensor",),
    "channels": ("tensor",),
    "patch": (),
    "height": (),
    "width": (),
    "frames": (),
    "layers": (),
}


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which mesh axes shard which logical axis."""

    overrides: dict[str, Any] = option(
        {}, "logical axis name -> mesh axis, list of mesh axes, or null; replaces the default rule"
    )
    replicate_below: int = option(
        4 * 2**20, "bytes; a smaller parameter is not split over the mesh axis fsdp"
    )

    def __post_init__(self):
        if self.replicate_below < 0:
            raise ValueError("replicate_below counts bytes and must not be negative")
        for name, axes in self.overrides.items():
            if name not in DEFAULT_RULES:
                raise ValueError(
                    f"overrides.{name}: no such logical axis; choose of {', '.join(DEFAULT_RULES)}"
                )
            if not isinstance(axes, (str, tuple, list, type(None))):
                raise ValueError(
                    f"overrides.{name}: {axes!r} is neither a mesh axis, nor a list of them, nor "
                    "null"
                )
            unknown = [axis for axis in _as_axes(axes) if axis not in AXES]
            if unknown:
                raise ValueError(
                    f"overrides.{name}: {unknown[0]!r} is no mesh axis; choose of {', '.join(AXES)}"
                )

    def axes(self, name: str | None, what: str = "an array") -> tuple[str, ...]:
        """Returns the mesh axes of a logical axis; raises `UserError` if no rule knows it."""
        if name is None:
            return ()
        if name in self.overrides:
            return _as_axes(self.overrides[name])
        if name not in DEFAULT_RULES:
            raise UserError(
                f'{what}: no rule for the logical axis "{name}"; the model may use '
                f"{', '.join(DEFAULT_RULES)}, or None"
            )
        return DEFAULT_RULES[name]

    def parameter(
        self, names: Sequence[str | None], shape: Sequence[int], dtype, mesh: Mesh, what: str
    ) -> NamedSharding:
        """Returns the sharding of a parameter (or of what an optimiser keeps of its shape).

        Raises `UserError`, naming `what`, where two dimensions want one mesh axis, or a dimension
        is not divisible. Dimensions of size 1 are not split.
        """
        per_dim = [self.axes(name, what) for name in names]
        _refuse_collision(per_dim, names, what)
        if int(np.prod(shape)) * np.dtype(dtype).itemsize < self.replicate_below:
            per_dim = [tuple(axis for axis in axes if axis != "fsdp") for axes in per_dim]
        return _sharding(per_dim, names, shape, mesh, what)

    def activation(
        self, names: Sequence[str | None], shape: Sequence[int], mesh: Mesh, what: str = ""
    ) -> NamedSharding:
        """Returns the sharding of an activation.

        The mesh axes that split the batch are taken: "embed" over fsdp shards the parameters,
        while activations keep their embedding whole and split their batch over fsdp. Otherwise as
        `parameter`.
        """
        what = what or f"activation {tuple(names)} of shape {tuple(shape)}"
        per_dim = [self.axes(name, what) for name in names]
        taken = {axis for name, axes in zip(names, per_dim) if name == "batch" for axis in axes}
        per_dim = [
            axes if name == "batch" else tuple(axis for axis in axes if axis not in taken)
            for name, axes in zip(names, per_dim)
        ]
        _refuse_collision(per_dim, names, what)
        return _sharding(per_dim, names, shape, mesh, what)


def _as_axes(value) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _refuse_collision(per_dim, names, what: str):
    owner: dict[str, int] = {}
    for dim, axes in enumerate(per_dim):
        for axis in axes:
            if axis in owner:
                first = owner[axis]
                raise UserError(
                    f'{what}: dimensions {first} ("{names[first]}") and {dim} ("{names[dim]}") '
                    f'both map to the mesh axis "{axis}"; give one of them another rule, such as '
                    f"rules.overrides.{names[dim]}=null"
                )
            owner[axis] = dim


def _sharding(per_dim, names, shape, mesh: Mesh, what: str) -> NamedSharding:
    if len(names) != len(shape):
        raise ValueError(f"{what}: {len(names)} axis names {names} for shape {tuple(shape)}")
    entries = []
    for dim, (axes, name, length) in enumerate(zip(per_dim, names, shape)):
        parts = _parts(axes, mesh)
        if length == 1:
            axes = ()
        elif length % parts:
            raise UserError(
                f'{what}: dimension {dim} ("{name}") of {length} is not divisible by the {parts} '
                f"parts of mesh axis {'+'.join(axes)}; choose mesh.{axes[-1]} to divide it, or "
                f"leave it whole by rules.overrides.{name}=null"
            )
        entries.append(axes if len(axes) > 1 else (axes[0] if axes else None))
    return NamedSharding(mesh, PartitionSpec(*entries))


class Active(NamedTuple):
    """The mesh and rules that a `using` block configured."""

    mesh: Mesh
    rules: Rules


class _Open:
    """Counts the meshes configured in all threads, to tell "none wanted" from "forgotten"."""

    def __init__(self):
        self.count, self.lock = 0, threading.Lock()

    def add(self, n: int):
        with self.lock:
            self.count += n


_UNSET = object()
_context: contextvars.ContextVar[Any] = contextvars.ContextVar("genjax_mesh", default=_UNSET)
_open = _Open()


def _ambient(mesh: Mesh):
    try:
        return jax.set_mesh(mesh)
    except ValueError:  # inside a traced function only the abstract mesh may change
        return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


@contextlib.contextmanager
def using(mesh: Mesh | None, rules: Rules | None = None) -> Iterator[Active | None]:
    """Configures mesh and rules for this block, and makes the mesh JAX's current one.

    It may stand around the call of a jitted function or inside the traced one. Inside is the
    safer place: then no caller can forget it, and the compiled function cannot be reused by
    mistake under other rules (JAX's cache knows the mesh but not our rules). `using(None)` says
    that no mesh is wanted.
    """
    active = None if mesh is None else Active(mesh, rules or Rules())
    token = _context.set(active)
    _open.add(active is not None)
    try:
        if mesh is None:
            yield None
        else:
            with _ambient(mesh):
                yield active
    finally:
        _open.add(-(active is not None))
        _context.reset(token)


def active() -> Active | None:
    """Returns mesh and rules of the innermost `using`, or None where nothing is configured.

    Raises `RuntimeError` where a mesh was configured, by `using` elsewhere in the process or by
    `jax.set_mesh`, and this code does not run under it: a model that then ignored its axis names
    would train on one device without a word.
    """
    current = _context.get()
    ambient = jax.sharding.get_abstract_mesh()
    if current is _UNSET:
        if _open.count or not ambient.empty:
            raise RuntimeError(
                "a mesh is configured, but this code does not run under parallel.using(mesh, "
                "rules); enter it here, or say parallel.using(None)"
            )
        return None
    if current is not None and ambient.shape != current.mesh.abstract_mesh.shape:
        raise RuntimeError(
            f"parallel.using configured {dict(current.mesh.shape)}, but JAX's current mesh is "
            f"{dict(ambient.shape)}; do not change it inside"
        )
    return current


def platform() -> str:
    """Returns the platform that this is traced for: an absent pod's, if its mesh is configured."""
    current = active()
    return current.mesh.devices.flat[0].platform if current else jax.default_backend()


def constrain(x: Array, names: Sequence[str | None]) -> Array:
    """Returns `x`, sharded as the rules say for its logical axis names (one a dimension).

    The identity where no mesh is configured. Raises as `active` and `Rules.activation`.
    """
    if len(names) != x.ndim:
        raise ValueError(f"{len(names)} axis names {tuple(names)} for an array of shape {x.shape}")
    current = active()
    if current is None:
        return x
    sharding = current.rules.activation(names, x.shape, current.mesh)
    return jax.lax.with_sharding_constraint(x, sharding)


def gather(w: Array, names: Sequence[str | None]) -> Array:
    """Returns the parameter `w`, whole along the mesh axes that split the batch (FSDP).

    Layers pass kernels through it before a product with activations; their gradients come back
    split as the parameters are. Left to itself, XLA's partitioner (jax 0.10.2 and 0.12, Shardy
    and GSPMD) has to invent this step, and for h + g * (x @ w) with x [batch, tensor] and
    w [tensor, fsdp] on a mesh of data x fsdp x tensor it permutes the rows of x and not back: a
    wrong result without a word. The identity where no mesh is configured.
    """
    current = active()
    if current is None:
        return w
    mesh, rules = current
    batch = rules.axes("batch")
    stored = [
        axes if length % _parts(axes, mesh) == 0 else ()
        for axes, length in zip(map(rules.axes, names), w.shape)
    ]
    if not any(mesh.shape[axis] > 1 for axes in stored for axis in axes if axis in batch):
        return w
    whole = [tuple(axis for axis in axes if axis not in batch) for axes in stored]
    for axes in (stored, whole):  # the first is what the gradient is split to on its way back
        spec = PartitionSpec(*(entry or None for entry in axes))
        w = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, spec))
    return w


def _parts(axes: Sequence[str], mesh: Mesh) -> int:
    return int(np.prod([mesh.shape[axis] for axis in axes], dtype=int))


def _boxed(x) -> bool:
    return isinstance(x, meta.Partitioned)  # LogicallyPartitioned is one


def state_shardings(abstract: Tree, mesh: Mesh, rules: Rules | None = None) -> Tree:
    """Returns a `NamedSharding` for every array of `abstract`, in the structure without boxes.

    `abstract`: arrays or shapes, parameters in Flax's boxes of axis names, which optax's `init`
    and the EMA copies keep around what they derive from parameters. Unboxed leaves are replicated.
    A boxed leaf whose rank is not that of its names (Adafactor's row and column sums) keeps the
    names of the dimensions that it certainly has, or is replicated.
    """
    rules = rules or Rules()
    leaves, treedef = jax.tree_util.tree_flatten_with_path(abstract, is_leaf=_boxed)
    whole = [
        (path_string(path).split("/"), leaf)
        for path, leaf in leaves
        if _boxed(leaf) and len(leaf.names) == len(leaf.value.shape)
    ]

    def one(path: str, leaf):
        if not _boxed(leaf):
            return NamedSharding(mesh, PartitionSpec())
        value, names = leaf.value, leaf.names
        if len(names) != len(value.shape):
            names = _factor_names(path.split("/"), value.shape, names, whole)
        return rules.parameter(names, value.shape, value.dtype, mesh, f'parameter "{path}"')

    return treedef.unflatten([one(path_string(path), leaf) for path, leaf in leaves])


def _factor_names(path: list[str], shape, names, whole) -> tuple[str | None, ...]:
    """Returns the names of a parameter's reduced copy, found by what its shape lacks."""
    unknown = (None,) * len(shape)
    parents = [(_common_tail(path, p), leaf) for p, leaf in whole if leaf.names == names]
    if len(shape) != len(names) - 1 or not parents:
        return unknown
    full = max(parents, key=lambda pair: pair[0])[1].value.shape
    candidates = {
        (*names[:dim], *names[dim + 1 :])
        for dim in range(len(full))
        if (*full[:dim], *full[dim + 1 :]) == tuple(shape)
    }
    return candidates.pop() if len(candidates) == 1 else unknown


def _common_tail(a: list[str], b: list[str]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[-1 - length] == b[-1 - length]:
        length += 1
    return length
