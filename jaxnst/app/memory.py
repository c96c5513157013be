"""Too little memory: how it is recognised, and which size may fit."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax

from jaxnst.devices import free_memory
from jaxnst.schedule import Scale

_SIGNS = re.compile("RESOURCE_EXHAUSTED|Out of memory|YNNPACK operation failed")


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Return whether an error says that memory ran out, and not that the program is at fault."""
    return isinstance(error, MemoryError) or _SIGNS.search(str(error)) is not None


@contextmanager
def naming_a_size_that_fits(
    scales: Sequence[Scale], evaluations: Callable[[], int], size: int | None
) -> Iterator[None]:
    """Where memory runs out in the body, raise an error that names a smaller `--size`.

    Args:
        scales: from coarse to fine.
        evaluations: returns the number made so far, which determines the scale at work.
        size: the `--size` that was given or is the default; None for the picture's own.

    Raises:
        OSError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        finest = max(scales[-1].shape)
        ratio = largest_that_fits(_at_work(scales, evaluations()), error) / finest
        fits = int((size or finest) * ratio) // 16 * 16
        # No picture of a usable size fits where far too many pairs of L-BFGS are asked for.
        advice = f"--size {fits} may fit" if fits else "give a smaller --memory"
        raise OSError(f"there is not enough memory for this; {advice}") from error


def _at_work(scales: Sequence[Scale], evaluations: int) -> int:
    """Return the long side of the scale after so many evaluations."""
    for scale in scales:
        if evaluations < scale.num_steps:
            return max(scale.shape)
        evaluations -= scale.num_steps
    return max(scales[-1].shape)


def largest_that_fits(side: int, error: Exception) -> float:
    """Return the long side that may fit where a picture of the long side `side` does not.

    Memory grows with the number of pixels. XLA allocates nearly all that an evaluation needs at
    once, and its message says how much that would have been.
    """
    wanted = re.search(r"allocat\w+ (\d+) bytes", str(error))
    free = free_memory(jax.local_devices()[:1])
    return side * min(0.8, math.sqrt(free / int(wanted[1])) if wanted else 0.8)
