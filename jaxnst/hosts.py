"""Several processes at one job, on one machine or on many: each takes its share.

They share no arrays and wait for each other only at the end, so nothing but the list of what is to
be done need be the same for all.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

T = TypeVar("T")


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
    """
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
        multihost_utils.sync_global_devices(what)
