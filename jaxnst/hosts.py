"""Several processes at one job, on one machine or on many: each takes its share.

They share no arrays and wait for each other only at the end, so nothing but the list of what is to
be done need be the same for all.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import jax

T = TypeVar("T")

_TIMEOUT = 7 * 24 * 3600 * 1000  #: milliseconds that processes wait for each other


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes; to be called before anything is computed.

    Under SLURM, Open MPI and Kubernetes and on Cloud TPUs, JAX finds out by itself what is not
    given.

    Args:
        coordinator: "host:port" of the process 0, where a port is free.
        num_processes: how many there are.
        process_id: which one this is, from 0.

    Raises:
        ValueError: there is no port, or a number that is none of a process.
    """
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"coordinator is {coordinator!r}: give host:port")
    if process_id is not None and not 0 <= process_id < (num_processes or math.inf):
        raise ValueError(f"process_id is {process_id}: give a number from 0 to num_processes - 1")
    jax.distributed.initialize(coordinator, num_processes, process_id)


def share(items: Sequence[T]) -> Sequence[T]:
    """What this process is to do of it: every n-th, so that similar work is spread evenly."""
    return items[jax.process_index() :: jax.process_count()]


def is_first() -> bool:
    """Whether this is the process that does what is to be done once."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Wait until all processes have come to this point, which they call the same."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost  # takes seconds

        # Not `sync_global_devices`, a collective, which is given up after some minutes on CPUs.
        multihost.get_barrier_sync_fn()(key=what, timeout_ms=_TIMEOUT)
