"""The options by which XLA compiles the programs of a transfer."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

#: Both let XLA order a program's operations for little memory, not for many at once: names of
#: newer and of older versions of XLA.
_FOR_LITTLE_MEMORY: tuple[dict[str, str | bool], ...] = (
    {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
    {"xla_cpu_enable_concurrency_optimized_scheduler": False},
)


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
    return jax.jit(function, donate_argnums=donate, compiler_options=options)


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
