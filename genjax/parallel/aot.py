"""Compiling for accelerators that are not there.

libtpu (extra `plan`) holds the TPU compiler and describes every topology, so a step compiles for
a pod on a laptop. GPUs have no such compiler here: their devices are stood in for by CPU ones and
nothing is compiled.
"""

import dataclasses
import importlib.util
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from genjax.core.errors import UserError
from genjax.parallel.chips import CHIPS, GPUS, Chip

# libtpu's names of machines; it reads them from the environment before anything else.
_MACHINES = {"v4": "v4", "v5e": "v5litepod", "v5p": "v5p", "v6e": "v6e", "tpu7x": "tpu7x"}
# v4 shows one device a chip only so; all others do by default (tpu7x has two).
_DESCRIBED = {"v4": {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}}
_DIMENSIONS = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2, "tpu7x": 3}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Topology:
    """What is planned for: `kind` of chip, `shape` of a slice (GPUs: how many), `slices`."""

    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def gpu(self) -> bool:
        return self.kind in GPUS

    def __str__(self) -> str:
        text = f"{self.kind}:{'x'.join(map(str, self.shape))}"
        return text if self.slices == 1 else f"{self.slices} slices of {text}"


def parse_topology(text: str, slices: int = 1) -> Topology:
    """Returns the topology that `text`, such as v5e:4x4, v5p:8x8x8 or h100:8, names.

    Raises `UserError` for an unknown chip, wrong dimensions, or several slices of GPUs.
    """
    kind, _, shape = text.partition(":")
    kind = kind.lower()
    if kind not in CHIPS:
        raise UserError(f"--topology {text}: no chip {kind!r}; choose one of {', '.join(CHIPS)}")
    example = "h100:8" if kind in GPUS else f"{kind}:{'x'.join(['4'] * _DIMENSIONS[kind])}"
    if not re.fullmatch(r"\d+(x\d+)*", shape) or not all(map(int, shape.split("x"))):
        raise UserError(f"--topology {text}: write the shape after the chip, as in {example}")
    sizes = tuple(map(int, shape.split("x")))
    if len(sizes) != (1 if kind in GPUS else _DIMENSIONS[kind]):
        raise UserError(f"--topology {text}: {kind} is written as in {example}")
    if slices < 1 or (slices > 1 and kind in GPUS):
        raise UserError(f"--slices {slices}: give a positive number, and 1 for GPUs")
    return Topology(kind, sizes, slices)


def devices(topology: Topology) -> Sequence[Any]:
    """Returns the devices to compile for: `Topology`'s, or CPU devices in the place of GPUs.

    Raises `UserError` where libtpu is missing or knows no such topology. For GPUs this must be the
    first use of JAX in the process.
    """
    if topology.gpu:
        return _stand_ins(topology.chips)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "planning for TPUs needs their compiler: pip install 'genjax-image[plan]' (libtpu, of "
            "the version that jax[tpu] asks for)"
        )
    # Without these libtpu asks a metadata server who it is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{_MACHINES[topology.kind]}-16")
    fields = dict(_DESCRIBED.get(topology.kind, {}))
    if topology.slices > 1:
        fields["num_slices"] = topology.slices
    name = f"{topology.kind}:{'x'.join(map(str, topology.shape))}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **fields)
    except Exception as error:  # libtpu raises its own kinds
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"--topology {name}: libtpu knows no such slice ({reason})") from error
    return found.devices


def _stand_ins(count: int) -> Sequence[Any]:
    flag = f"--xla_force_host_platform_device_count={count}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    found = jax.devices("cpu")
    if len(found) < count:
        raise UserError(
            f"--topology: {count} GPUs are planned by CPU devices, of which JAX has started "
            f"{len(found)} already; run the command in a process of its own"
        )
    return found[:count]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program, in bytes per device.

    `arguments`: inputs; `temporaries`: at the peak, beside them; `total`: at the peak; `code`: the
    program itself; `text`: the optimised HLO, None (and `why`) where this JAX cannot print it.
    A program that did not fit has `total` alone, and `fits` False.
    """

    seconds: float
    fits: bool
    total: float
    arguments: float | None = None
    temporaries: float | None = None
    code: float | None = None
    text: str | None = None
    why: str = ""


def compile_for(lowered: Any, options: Mapping[str, Any] | None = None) -> Compiled:
    """Returns what comes of compiling a lowered program; `options` are the compiler's."""
    begin = time.monotonic()
    try:
        program = lowered.compile(compiler_options=dict(options) if options else None)
    except jax.errors.JaxRuntimeError as error:
        used = exceeded(str(error))
        if used is None:
            raise
        return Compiled(time.monotonic() - begin, False, used, why="the program does not fit")
    seconds = time.monotonic() - begin
    memory = program.memory_analysis()
    text, why = None, ""
    try:
        text = program.as_text()
    except Exception as error:  # jax 0.10 cannot print some programs
        why = f"jax {jax.__version__} cannot print the compiled program ({type(error).__name__})"
    inputs, code = memory.argument_size_in_bytes, memory.generated_code_size_in_bytes
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporaries = memory.temp_size_in_bytes
    total = inputs + fresh + temporaries + code
    return Compiled(seconds, True, total, inputs, temporaries, code, text, why)


def exceeded(message: str) -> float | None:
    """Returns the bytes that a program needed, of the compiler's complaint that they are not there.

    None where the message is about something else.
    """
    found = re.search(
        r"(?:Used|HLO temporaries \()\s*([\d.]+)([KMGT]?)\)? (?:of [\d.]+[KMGT]? hbm|exceeds)",
        message,
    )
    return float(found[1]) * _UNITS[found[2]] if found else None
