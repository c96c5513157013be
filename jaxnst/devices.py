"""Lanes on a mesh of devices, the memory they need, and the shares of several processes."""

import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import jax
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnst.compilation import Lift, compiled, once
from jaxnst.recipes import TransferConfig
from jaxnst.scale import Problem, advance, shapes_of_scale
from jaxnst.schedule import schedule

T = TypeVar("T")

LANES = "lanes"  #: the axis of the mesh over which lanes are spread

#: Part of the free memory that lanes may take. The rest is for copies of images and the like.
_SHARE = 0.7

#: Sides of tiles to try, from large to small.
_TILES = (2048, 1024, 512, 256, 128)

Axes = Any  #: like `in_axes` of `jax.vmap`: 0 for leaves with lanes, None for shared ones


# --- Lanes on a mesh ------------------------------------------------------------------------------


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """Return a mesh whose only axis is that of lanes."""
    return Mesh(np.array(devices), (LANES,))


@lru_cache(maxsize=64)
def lanes_on(mesh: Mesh) -> Lift:
    """Return a `lift` that compiles a pure function for lanes spread over a mesh.

    Under `shard_map` each device runs its own lanes. Devices share only replicated inputs, and
    programs contain no collectives.
    """

    @lru_cache(maxsize=64)
    def lift(
        function: Callable[..., Any], axes: Axes, *, donate: tuple[int, ...] = (), **static: Any
    ) -> Callable[..., Any]:
        mapped = jax.shard_map(
            jax.vmap(partial(function, **static), axes),
            mesh=mesh,
            in_specs=specs(axes),
            out_specs=PartitionSpec(LANES),
            check_vma=False,  # it rejects loops whose carry starts from constants
        )
        return compiled(mapped, donate=donate)

    return lift


def specs(axes: Axes) -> Any:
    """Return the partitions of arguments on a mesh: split by lanes, or replicated."""
    return jax.tree.map(
        lambda axis: PartitionSpec() if axis is None else PartitionSpec(LANES),
        axes,
        is_leaf=lambda axis: axis is None,
    )


def put(tree: Any, axes: Axes, mesh: Mesh) -> Any:
    """Place arrays on the devices of a mesh: split by lanes, or copied to each."""

    def place(axis: int | None, part: Any) -> Any:
        return jax.device_put(part, NamedSharding(mesh, specs(axis)))

    return jax.tree.map(place, axes, tree, is_leaf=lambda axis: axis is None)


# --- Memory ---------------------------------------------------------------------------------------


def memory_of(program: Any, *args: Any) -> int:
    """Return the bytes that a jitted program needs on each device, as its compiler reports them.

    Args:
        program: from `lanes_on(mesh)` or `jax.jit`.
        *args: arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    needs = program.lower(*args).compile().memory_analysis()
    return int(
        needs.temp_size_in_bytes
        + needs.argument_size_in_bytes
        + needs.output_size_in_bytes
        - needs.alias_size_in_bytes
    )


def free_memory(devices: Sequence[jax.Device]) -> int:
    """Return the bytes that lanes may take on each of these devices."""
    stats = [device.memory_stats() for device in devices]
    if all(stat and "bytes_limit" in stat for stat in stats):
        free = min(stat["bytes_limit"] - stat["bytes_in_use"] for stat in stats)
    else:  # CPU devices share what the machine has
        free = _free_on_host() // len(devices)
    return int(_SHARE * free)


def _free_on_host() -> int:
    """Return the bytes that the machine has and, where `ulimit -v` is set, the process may take."""
    free = psutil.virtual_memory().available
    process = psutil.Process()
    if hasattr(process, "rlimit"):  # on Linux
        most, _ = process.rlimit(psutil.RLIMIT_AS)
        if most != psutil.RLIM_INFINITY:
            free = min(free, max(0, most - process.memory_info().vms))
    return free


def fit_tile(
    problem: Problem, config: TransferConfig, devices: Sequence[jax.Device] | None = None
) -> TransferConfig:
    """Return a config whose tiles fit in memory, if it asks for "auto".

    There are no tiles if the finest scale fits without. Programs are compiled to learn what they
    need.

    Args:
        problem: of one transfer.
        config: its settings.
        devices: each of them computes a transfer of this size; the first alone by default.
    """
    if config.tile != "auto":
        return config
    shape = schedule(problem.content.image.shape, config)[-1].shape
    free = free_memory(devices or jax.local_devices()[:1])
    for tile in (None, *_TILES):
        config = replace(config, tile=tile)
        if tile is not None and tile >= max(shape):
            continue
        static = config.of_programs
        first = shapes_of_scale(problem, static, shape)
        program = once(advance, (None, 0, 0, 0), donate=(2,), config=static)
        if memory_of(program, problem, *first, np.int32(0)) <= free:
            break
    return config


def group_size(count: int, lane_batch: int, num_devices: int) -> int:
    """Return how many lanes each group has, so that groups are equal and need little padding.

    Args:
        count: number of lanes in all.
        lane_batch: number of lanes that may run at once.
        num_devices: number of devices over which a group is spread evenly.
    """
    most = lane_batch // num_devices  # lanes per device
    groups = math.ceil(count / (most * num_devices))
    return math.ceil(count / groups / num_devices) * num_devices


# --- Several processes ----------------------------------------------------------------------------


def join_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes of a job. Call this before any computation.

    Under SLURM, Open MPI and Kubernetes and on Cloud TPUs, JAX detects arguments left out.

    Args:
        coordinator: "host:port" of process 0, with a free port.
        num_processes: number of processes.
        process_id: index of this process, from 0.

    Raises:
        ValueError: the port is missing, or the process_id is out of range.
        TimeoutError: nobody answers at the coordinator's address.
    """
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"coordinator must be host:port, not {coordinator!r}")
    if process_id is not None and not 0 <= process_id < (num_processes or math.inf):
        raise ValueError(
            f"process_id must be a number from 0 to num_processes - 1, not {process_id}"
        )
    if coordinator is not None and process_id:  # JAX would end the process with a stack trace
        _wait_for(coordinator)
    jax.distributed.initialize(coordinator, num_processes, process_id)


def _wait_for(coordinator: str, seconds: float = 120) -> None:
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > end:
                raise TimeoutError(
                    f"nobody answers at the coordinator's address {coordinator} after "
                    f"{seconds:.0f} seconds ({error}): start process 0 there"
                ) from error
            time.sleep(1)


def share(items: Sequence[T]) -> Sequence[T]:
    """Return this process's share: every n-th item, which spreads similar neighbours."""
    return items[jax.process_index() :: jax.process_count()]


def is_first() -> bool:
    """Return whether this is process 0."""
    return jax.process_index() == 0
