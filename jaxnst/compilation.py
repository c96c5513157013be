"""How XLA compiles the programs of a transfer, and how many of them are kept."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import jax
import jax.numpy as jnp

#: Both let XLA order a program's operations for little memory, not for many at once: names of
#: newer and of older versions of XLA.
_FOR_LITTLE_MEMORY: tuple[dict[str, str | bool], ...] = (
    {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
    {"xla_cpu_enable_concurrency_optimized_scheduler": False},
)


_programs: WeakSet[Any] = WeakSet()


def compiled(function: Callable[..., Any], *, donate: tuple[int, ...] = ()) -> jax.stages.Wrapped:
    """Return `function` under `jax.jit`, on a CPU for less memory.

    Each operation of the network uses all cores, so nothing is gained by several at once, and each
    holds memory: twice as much in all.

    Args:
        function: a pure function of arrays.
        donate: arguments whose buffers may be reused.

    >>> float(compiled(lambda x: x + 1)(1.0))
    2.0
    """
    options = _options() if jax.default_backend() == "cpu" else None
    program = jax.jit(function, donate_argnums=donate, compiler_options=options)
    _programs.add(program)
    return program


@lru_cache(maxsize=64)
def once(
    function: Callable[..., Any], axes: Any, *, donate: tuple[int, ...] = (), **static: Any
) -> Callable[..., Any]:
    """Compile a pure function for one transfer.

    Args:
        function: a pure function of arrays.
        axes: for each argument, which leaves have lanes: here none.
        donate: arguments whose buffers may be reused.
        **static: keyword arguments that determine the program.
    """
    return compiled(partial(function, **static), donate=donate)


Lift = Callable[..., Callable[..., Any]]  #: `once`, or the same for lanes on a mesh


def make_room() -> None:
    """Forget what `compiled` has compiled, if too many programs are in memory.

    On a CPU a program takes a few hundred mappings of memory, of which Linux gives a process some
    65,000. XLA crashes where there are no more, as after a few dozen sizes of pictures.
    """
    if share_of_mappings() > 0.5:
        for program in list(_programs):
            program.clear_cache()


def share_of_mappings() -> float:
    """Return how many of its mappings of memory the process has, from 0 to 1."""
    try:
        most = int(Path("/proc/sys/vm/max_map_count").read_text())
        return Path("/proc/self/maps").read_bytes().count(b"\n") / most
    except OSError:  # only Linux counts them
        return 0.0


@lru_cache(maxsize=1)
def _options() -> dict[str, str | bool] | None:
    for options in _FOR_LITTLE_MEMORY:
        program = jax.jit(lambda x: x, compiler_options=options).lower(jnp.float32(0))
        try:
            program.compile()
        except jax.errors.JaxRuntimeError:  # this XLA has no option of that name
            continue
        return options
    return None
