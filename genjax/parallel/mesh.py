"""The mesh: four axes, each a product of chips of a slice (ICI) and of slices (DCN)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.parallel.rules import AXES


@dataclasses.dataclass(frozen=True)
class MeshSpec:
    """How many devices each mesh axis has. The axis `data`, say, has `data * dcn_data` of them.

    Chips of one slice talk over their own interconnect, slices over the data-centre network: so
    put `tensor` and `context` inside a slice, and split slices over data or fsdp.
    """

    data: int = option(-1, "copies of the model within a slice; -1: all devices that are left")
    fsdp: int = option(1, "parts into which parameters and batch are split within a slice")
    tensor: int = option(1, "parts of heads and hidden widths within a slice")
    context: int = option(1, "parts of the sequence within a slice")
    dcn_data: int = option(-1, "groups of slices with copies of the model; -1: all that are left")
    dcn_fsdp: int = option(1, "groups of slices over which parameters and batch are split")
    dcn_tensor: int = option(1, "groups of slices over which heads and widths are split (slow)")
    dcn_context: int = option(1, "groups of slices over which the sequence is split (slow)")

    def __post_init__(self):
        for prefix in ("", "dcn_"):
            sizes = {prefix + axis: getattr(self, prefix + axis) for axis in AXES}
            for key, n in sizes.items():
                if n != -1 and n < 1:
                    raise ValueError(f"{key} must be positive, or -1 for what is left, not {n}")
            if list(sizes.values()).count(-1) > 1:
                raise ValueError(f"only one of {', '.join(sizes)} may be -1")

    def layout(self, devices: Sequence[Any]) -> np.ndarray:
        """Returns the devices as an array [data, fsdp, tensor, context].

        A slice is what shares a `slice_index`; where devices have one slice but several
        processes, and the `dcn_` sizes are given, each process counts as a slice. Raises
        `UserError` if the sizes do not multiply to the number of devices.
        """
        slices = len({getattr(d, "slice_index", 0) for d in devices})
        by_process = slices == 1 and max(self._sizes("dcn_")) > 1
        if by_process:
            slices = len({d.process_index for d in devices})
        dcn = _fill(self._sizes("dcn_"), slices, "dcn_", "slices")
        ici = _fill(self._sizes(""), len(devices) // slices, "", "devices of a slice")
        if slices == 1:
            return mesh_utils.create_device_mesh(ici, devices, allow_split_physical_axes=True)
        return mesh_utils.create_hybrid_device_mesh(
            ici,
            dcn,
            devices,
            process_is_granule=by_process,
            allow_split_physical_axes=True,
        )

    def build(self, devices: Sequence[Any] | None = None) -> Mesh:
        """Returns the mesh of all devices of all processes, or of those given."""
        layout = self.layout(jax.devices() if devices is None else devices)
        return Mesh(layout, AXES, axis_types=(AxisType.Auto,) * len(AXES))

    def _sizes(self, prefix: str) -> tuple[int, ...]:
        return tuple(getattr(self, prefix + axis) for axis in AXES)


def _fill(sizes: Sequence[int], total: int, prefix: str, what: str) -> tuple[int, ...]:
    """Returns the sizes with -1 replaced so that their product is `total`."""
    known = math.prod(n for n in sizes if n != -1)
    named = ", ".join(f"mesh.{prefix}{axis}={n}" for axis, n in zip(AXES, sizes))
    if -1 in sizes:
        if total % known:
            raise UserError(
                f"{named}: {known} does not divide the {total} {what}; correct one of them"
            )
        return tuple(total // known if n == -1 else n for n in sizes)
    if known != total:
        raise UserError(
            f"{named}: together {known}, but there are {total} {what}; make one of them -1"
        )
    return tuple(sizes)
