"""JAX's coordination service, which has no public name: the one place that reaches for it."""

from typing import Any


def client() -> Any:
    """Returns the service's client (key-value store, barriers); None outside a joined run."""
    return _state().client


def process() -> int:
    """Returns this process's number, without touching the devices as `jax.process_index` does."""
    return _state().process_id


def coordinator() -> str:
    """Returns the host of the process that holds the service."""
    return (_state().coordinator_address or "").rpartition(":")[0]


def _state() -> Any:
    from jax._src import distributed

    return distributed.global_state
