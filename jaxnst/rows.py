"""One picture, or each of several lanes, over many devices that hold some of its rows each.

The compiler splits the program (GSPMD, Xu et al. 2021, arXiv:2105.04663): before each convolution
neighbouring devices exchange one row, and sums over positions are sums over devices.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnst.compilation import Lift, compiled
from jaxnst.devices import LANES
from jaxnst.recipes import TransferConfig
from jaxnst.scale import Problem
from jaxnst.terms import network_layers
from jaxnst.vgg import min_size

ROWS = "rows"  #: the axis of the mesh over which the rows of a picture are spread


class Rows(NamedTuple):
    """A mesh of devices for the rows of a picture."""

    mesh: Mesh
    multiple: int  #: heights that are multiples of this give each device rows of every layer


def rows_over(devices: Any, config: TransferConfig, height: int) -> Rows:
    """Return a mesh of these devices for pictures of a height.

    Args:
        devices: a sequence of them, or an array (lanes, rows) of which each row holds a lane.
        config: of the transfers.
        height: of the pictures.

    Raises:
        ValueError: there are no devices, the config has tiles, a term of features is no mean or
            sum over positions, or the devices do not divide the height.
    """
    placed, objective = np.array(devices), config.objective
    if not (count := placed.shape[-1]):
        raise ValueError("devices must be one or more, not none; leave it out for one")
    if config.tile is not None:
        raise ValueError(
            f"tile must be None, not {config.tile!r}, where devices divide the picture; leave out "
            "either the tile or the devices"
        )
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
    return Rows(Mesh(placed, (LANES, ROWS)[-placed.ndim :]), multiple)


@lru_cache(maxsize=64)
def rows_on(rows: Rows) -> Lift:
    """Return a `lift` that compiles a pure function for pictures spread over a mesh by rows.

    A coarser scale whose height the devices do not divide is computed whole on each of them.
    """

    @lru_cache(maxsize=64)
    def lift(
        function: Callable[..., Any], axes: Any, *, donate: tuple[int, ...] = (), **static: Any
    ) -> Callable[..., Any]:
        return compiled(_by_rows(partial(function, **static), rows), donate=donate)

    return lift


@lru_cache(maxsize=64)
def lanes_and_rows_on(rows: Rows) -> Lift:
    """Return a `lift` for lanes, each on its own row of a mesh, over which its rows are spread."""

    @lru_cache(maxsize=64)
    def lift(
        function: Callable[..., Any], axes: Any, *, donate: tuple[int, ...] = (), **static: Any
    ) -> Callable[..., Any]:
        spread = _by_rows(partial(function, **static), rows)
        return compiled(jax.vmap(spread, axes, spmd_axis_name=LANES), donate=donate)

    return lift


def _by_rows(function: Callable[..., Any], rows: Rows) -> Callable[..., Any]:
    def spread(*args: Any) -> Any:
        out = function(*args)
        return jax.lax.with_sharding_constraint(out, placements(out, rows))

    return spread


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


def put_rows(problem: Problem, rows: Rows, axes: Problem | None = None) -> Problem:
    """Place the content and the first image by rows, and copy the rest to each device.

    Args:
        problem: of one transfer, or of lanes.
        rows: from `rows_over`.
        axes: where the problem has an axis of lanes, from `lane_axes`; None without lanes.
    """

    def place(name: str, part: Any, *, picture: bool = False) -> Any:
        lanes = axes is not None and getattr(axes, name) is not None
        divided = picture and part.shape[-3] % rows.multiple == 0
        spec = PartitionSpec(*(LANES,) * lanes, *(ROWS,) * divided)
        return jax.device_put(part, NamedSharding(rows.mesh, spec))

    rest = problem._replace(content=problem.content._replace(image=None), start=None)
    rest = Problem(*(place(name, part) for name, part in rest._asdict().items()))
    image = place("content", problem.content.image, picture=True)
    start = place("start", problem.start, picture=True)
    return rest._replace(content=rest.content._replace(image=image), start=start)
