"""What one JAX device can do, by the makers' data sheets.

TPUs: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x} (peak, HBM, "bidirectional ICI
bandwidth per chip", ports, NICs). A link's rate in one direction is that bandwidth over twice the
ports: v5e 400/(2 x 4), v5p 1200/(2 x 6), v6e 800/(2 x 4), tpu7x 1200/(2 x 6) GB/s; v4: 2400 Gbit/s
over 6. Rings: v5e and v6e close a dimension of 16, the others every dimension of a slice made of
whole cubes of 4 x 4 x 4. DCN: per-host NICs over the host's chips (v5e 2 x 100 Gbit/s over 8, v5p
50 Gbit/s a chip, v6e 4 x 200 over 8, tpu7x 100; v4 as v5p). Clocks relate the compiler's cycles to
seconds. GPUs: NVIDIA's data sheets, dense; NVLink per direction, one 400 Gbit/s NIC a GPU.
"""

import dataclasses

_GB, _GIB = 1e9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device.

    `flops`: dense bfloat16 FLOP/s; `memory`: bytes; `bandwidth`: bytes/s of that memory; `link`:
    bytes/s of one link in one direction; `dcn`: bytes/s to other slices (GPUs: machines); `ring`:
    a physical dimension closes into a ring where its length is a multiple of it; `clock`: Hz of the
    compiler's cycles, None where it is not known; `cores`: devices of one chip.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    dcn: float
    ring: int = 1
    clock: float | None = None
    cores: int = 1


# By the name in a topology. TPU7x: a device is half a chip, and so is all that the two share.
CHIPS = {
    "v4": Chip(275e12, 32 * _GIB, 1228 * _GB, 50 * _GB, 6.25 * _GB, ring=4, clock=1.05e9),
    "v5e": Chip(197e12, 16 * _GIB, 819 * _GB, 50 * _GB, 3.125 * _GB, ring=16, clock=1.5e9),
    "v5p": Chip(459e12, 95 * _GIB, 2765 * _GB, 100 * _GB, 6.25 * _GB, ring=4, clock=1.75e9),
    "v6e": Chip(918e12, 32 * _GIB, 1638 * _GB, 100 * _GB, 12.5 * _GB, ring=16, clock=1.75e9),
    "tpu7x": Chip(1153.5e12, 96 * _GIB, 3690 * _GB, 50 * _GB, 6.25 * _GB, ring=4, cores=2),
    "a100": Chip(312e12, 80 * _GIB, 2039 * _GB, 300 * _GB, 50 * _GB),
    "h100": Chip(989e12, 80 * _GIB, 3350 * _GB, 450 * _GB, 50 * _GB),
    "h200": Chip(989e12, 141 * _GB, 4800 * _GB, 450 * _GB, 50 * _GB),
    "b200": Chip(2250e12, 180 * _GB, 7700 * _GB, 900 * _GB, 50 * _GB),
}
GPUS = ("a100", "h100", "h200", "b200")

# Device kinds as JAX tells them, matched by their beginning, the longest first.
_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
    "NVIDIA A100": "a100",
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
}
_OTHER_PEAKS = {"NVIDIA H100 PCIe": 756e12, "NVIDIA L4": 121e12, "NVIDIA L40S": 362e12}


def peak_flops(kind: str) -> float | None:
    """Returns a device's dense bfloat16 peak in FLOP/s, or None where it is not known (CPUs)."""
    peaks = {name: CHIPS[chip].flops for name, chip in _KINDS.items()} | _OTHER_PEAKS
    known = [name for name in peaks if kind.startswith(name)]
    return peaks[max(known, key=len)] if known else None
