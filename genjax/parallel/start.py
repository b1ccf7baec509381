"""Multi-process start: explicit, or found by itself on TPU pods and under Slurm and MPI."""

import importlib.util
import os
import pathlib

import jax

from genjax.core.errors import UserError
from genjax.parallel.workers import check_workers

COORDINATOR = "GENJAX_COORDINATOR"
PROCESSES = "GENJAX_NUM_PROCESSES"
PROCESS = "GENJAX_PROCESS_ID"


def initialize(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Joins the processes of a run into one; to be called before JAX is first used.

    `coordinator`: "host:port" of process 0; `processes`: how many there are; `process`: which one
    this is, from 0. What is not given is read from GENJAX_COORDINATOR, GENJAX_NUM_PROCESSES and
    GENJAX_PROCESS_ID. With none of them, JAX finds its peers by itself on machines with TPU chips
    and in Slurm or MPI jobs of several tasks; elsewhere, and on a second call, nothing happens.
    On CPU the processes exchange arrays by gloo. Raises `UserError` if a part is missing or wrong,
    or if the workers do not fit together (`workers.check_workers`).
    """
    if jax.distributed.is_initialized():
        return
    coordinator = coordinator or os.environ.get(COORDINATOR) or None
    processes = _number(processes, PROCESSES)
    process = _number(process, PROCESS)
    given = {COORDINATOR: coordinator, PROCESSES: processes, PROCESS: process}
    if all(value is None for value in given.values()):
        if _cluster():
            _join()
        return
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise UserError(
            f"{', '.join(given)} (or their flags) go together; {' and '.join(missing)} is missing"
        )
    assert coordinator is not None and processes is not None and process is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f'{COORDINATOR}={coordinator}: give it as "host:port"')
    if processes < 1 or not 0 <= process < processes:
        raise UserError(
            f"{PROCESS}={process} with {PROCESSES}={processes}: processes count from 0 to one less "
            f"than their number"
        )
    if processes > 1:
        _join(coordinator, processes, process)


def _number(value: int | None, name: str) -> int | None:
    if value is not None:
        return value
    text = os.environ.get(name, "")
    if not text:
        return None
    if not text.lstrip("-").isdigit():
        raise UserError(f"{name}={text}: give a whole number")
    return int(text)


def _join(*address) -> None:
    """Joins the run; gloo is for CPU collectives, other platforms do not read the setting."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(*address)
    check_workers()


def _cluster() -> bool:
    """Says whether JAX can find the other processes by itself.

    A command on a TPU machine that was told to use another platform stays alone.
    """
    platforms = jax.config.jax_platforms or ""  # pyright: ignore[reportAttributeAccessIssue]
    if platforms in ("", "tpu") and importlib.util.find_spec("libtpu") is not None:
        chips = (*pathlib.Path("/dev").glob("accel*"), *pathlib.Path("/dev/vfio").glob("[0-9]*"))
        if chips:
            return True
    tasks = (os.environ.get(name, "") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return any(n.isdigit() and int(n) > 1 for n in tasks)
