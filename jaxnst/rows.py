"""One picture over many devices, each of which holds some of its rows.

The compiler splits the program (GSPMD, Xu et al. 2021, arXiv:2105.04663): before each convolution
neighbouring devices exchange one row, and sums over positions are sums over devices.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnst.compilation import compiled
from jaxnst.objective import Objective
from jaxnst.scales import Lift, Problem
from jaxnst.terms import network_layers
from jaxnst.vgg import min_size

ROWS = "rows"  #: the axis of the mesh over which the rows of a picture are spread


class Rows(NamedTuple):
    """A mesh of devices for the rows of a picture."""

    mesh: Mesh
    multiple: int  #: heights that are multiples of this give each device rows of every layer


def rows_over(devices: Sequence[jax.Device], objective: Objective, height: int) -> Rows:
    """Return a mesh of these devices for pictures of a height.

    Raises:
        ValueError: there are no devices, a term of features is no mean or sum over positions, or
            the devices do not divide the height.
    """
    if not (count := len(devices)):
        raise ValueError("devices must be one or more, not none; leave it out for one")
    for name, term in objective.terms.items():
        apart = getattr(term, "additive", True) or not network_layers([term])
        if count > 1 and not apart:
            raise ValueError(
                f"the term {name!r} must be a mean or a sum over positions to be computed on "
                f"{count} devices, not {term}; leave out either the term or the devices"
            )
    grid = min_size(objective.layers)
    multiple = count * grid
    if count > 1 and height % multiple:
        below = height // multiple * multiple
        near = " or ".join(str(rows) for rows in (below, below + multiple) if rows)
        raise ValueError(
            f"the height must be a multiple of {multiple} pixels, {grid} for each of {count} "
            f"devices, not {height}; take {near}, or fewer devices"
        )
    return Rows(Mesh(np.array(devices), (ROWS,)), multiple)


@lru_cache(maxsize=64)
def rows_on(rows: Rows) -> Lift:
    """Return a `lift` that compiles a pure function for pictures spread over a mesh by rows.

    A coarser scale whose height the devices do not divide is computed whole on each of them.
    """

    @lru_cache(maxsize=64)
    def lift(
        function: Callable[..., Any], axes: Any, *, donate: tuple[int, ...] = (), **static: Any
    ) -> Callable[..., Any]:
        def spread(*args: Any) -> Any:
            out = function(*args, **static)
            return jax.lax.with_sharding_constraint(out, placements(out, rows))

        return compiled(spread, donate=donate)

    return lift


def placements(tree: Any, rows: Rows) -> Any:
    """Return the sharding of each array: pictures and features by rows, others whole."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
    height = max((shape[-3] for shape in shapes if len(shape) > 2 and shape[-1] == 3), default=0)

    divided = height > 0 and height % rows.multiple == 0

    def place(leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        features, picture = len(shape) > 3, len(shape) == 3 and shape[::2] == (height, 3)
        before = (None,) * (len(shape) - 3)
        split = divided and (features or picture)
        return NamedSharding(rows.mesh, PartitionSpec(*before, ROWS) if split else PartitionSpec())

    return jax.tree.map(place, tree)


def put_rows(problem: Problem, rows: Rows) -> Problem:
    """Place the content and the first image by rows, and copy the rest to each device."""
    pictures = problem.content.image, problem.start
    image, start = (jax.device_put(x, placements(x, rows)) for x in pictures)
    rest = problem._replace(content=problem.content._replace(image=None), start=None)
    rest = jax.device_put(rest, NamedSharding(rows.mesh, PartitionSpec()))
    return rest._replace(content=rest.content._replace(image=image), start=start)
