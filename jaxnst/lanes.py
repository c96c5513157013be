"""Many transfers at once, over all devices, in groups that fit in memory.

A *lane* is one transfer. The lanes of a group run in one program and have pictures of one shape.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxnst.compilation import Lift, once
from jaxnst.devices import (
    fit_tile,
    free_memory,
    group_size,
    lanes_on,
    make_mesh,
    memory_of,
    put,
    specs,
)
from jaxnst.history import History
from jaxnst.minimize import Progress, check_num_steps, consume
from jaxnst.optimize import Status
from jaxnst.pyramid import resize
from jaxnst.recipes import TransferConfig
from jaxnst.rows import lanes_and_rows_on, put_rows, rows_over
from jaxnst.scale import Problem, advance, aim, begin
from jaxnst.scales import finish, run_scales
from jaxnst.schedule import schedule
from jaxnst.transfer import TransferResult

Pick = Callable[[int], Problem]  #: returns the problem of the lane of this index


@dataclass(frozen=True)
class SweepResult(Sequence[TransferResult]):
    """The results of a `sweep`: stacked in its attributes, or one by one as a sequence.

    Attributes:
        image: (L, H, W, 3) in [0, 1].
        status: (L,), each a `Status`.
        history: arrays (L, n) as in `TransferResult`. If a lane made fewer evaluations than
            others, the rest of its row has evaluation 0; `results[i].history` leaves it out.
    """

    image: np.ndarray[Any, Any]
    status: np.ndarray[Any, Any]
    history: History

    def __len__(self) -> int:
        return len(self.image)

    @overload
    def __getitem__(self, index: int) -> TransferResult: ...
    @overload
    def __getitem__(self, index: slice) -> "SweepResult": ...
    def __getitem__(self, index: int | slice) -> "TransferResult | SweepResult":
        history = {name: rows[index] for name, rows in self.history.items()}
        if isinstance(index, slice):
            return SweepResult(self.image[index], self.status[index], history)
        return TransferResult(
            jnp.asarray(self.image[index]),
            Status(int(self.status[index])),
            {name: row[history["evaluation"] > 0] for name, row in history.items()},
        )


class SweepProgress(NamedTuple):
    """The record passed to a callback of `sweep` after each chunk."""

    lanes: range  #: the indices of those that run now
    num_lanes: int  #: in all
    progress: Progress  #: of these lanes, the first axis of its arrays


def lane_axes(*, content: bool, style: bool) -> Any:
    """Return a `Problem` of axes: 0 for fields with an axis of lanes, None for shared ones."""
    axes: dict[str, Any] = dict.fromkeys(("start", "weights", "optimizer"), 0)
    axes |= {"content": 0 if content else None, "style": 0 if style else None}
    return Problem._make(axes.get(name) for name in Problem._fields)


def run_lanes(
    pick: Pick,
    count: int,
    config: TransferConfig,
    *,
    axes: Any,
    lane_batch: int | None = None,
    devices: Any = None,
    callback: Callable[[SweepProgress], object] | None = None,
) -> Iterator[tuple[range, SweepResult]]:
    """Run lanes group by group, and yield the lanes of each group with their results.

    Args:
        pick: returns the problem of a lane; all have the same shapes.
        count: number of lanes.
        config: the recipe.
        axes: from `lane_axes`.
        lane_batch: as in `sweep`.
        devices: as in `sweep`.
        callback: as in `sweep`.
    """
    if lane_batch is not None:
        check_num_steps("lane_batch", lane_batch)
    placed = np.atleast_1d(jax.local_devices() if devices is None else devices)[:count]
    if placed.ndim not in (1, 2) or not placed.size:
        raise ValueError(
            "devices must be one or more, or an array (lanes, rows) of them, not of shape "
            f"{placed.shape}; leave it out for all"
        )
    problem = pick(0)
    shape = problem.content.image.shape[:2]
    rows = None
    if placed.ndim == 2:
        rows = rows_over(placed[:lane_batch], config, shape[0])
        mesh, lane_batch = rows.mesh, lane_batch or len(placed)
    else:
        config = fit_tile(problem, config, [*placed])
        if lane_batch is None and placed[0].platform == "cpu":
            lane_batch = len(placed)
        elif lane_batch is None:
            lane_batch = _lanes_that_fit(problem, axes, count, config, [*placed])
        mesh = make_mesh([*placed[:lane_batch]])
    size = group_size(count, lane_batch, len(mesh.devices))
    alone = rows is None and size == 1  # no axis of lanes: the programs of `style_transfer`
    lift: Lift = once if alone else lanes_on(mesh) if rows is None else lanes_and_rows_on(rows)
    params = jax.device_put(problem.params, placed[0]) if alone else put(problem.params, None, mesh)
    stopped, wrap = False, config.objective.circular
    for start in range(0, count, size):
        lanes = range(start, min(start + size, count))
        # The last lane is repeated to fill the last group.
        problems = [pick(min(lane, count - 1)) for lane in range(start, start + size)]
        problems = [problem._replace(params={}) for problem in problems]
        if stopped:
            starts = [jnp.asarray(p.start) for p in problems[: len(lanes)]]
            first = [resize(x, *shape, wrap=wrap) for x in starts]
            yield lanes, SweepResult(np.stack(first), np.full(len(lanes), Status.INTERRUPTED), {})
            continue
        if alone:
            problem = jax.device_put(problems[0], placed[0])
        elif rows is None:
            problem = put(_stacked(problems, axes), axes, mesh)
        else:
            problem = put_rows(_stacked(problems, axes), rows, axes)
        problem = problem._replace(params=params)
        report = callback and partial(_report, callback, lanes, count, alone)
        scales = run_scales(problem, config, lift=lift, axes=None if alone else axes)
        last, stopped = consume(scales, report)
        image, status, history = finish(last, shape, lift=lift, interrupted=stopped, wrap=wrap)
        image, status, history = _by_lanes((image, status, history), alone, len(lanes))
        yield lanes, SweepResult(image, status, history)


def _report(
    callback: Callable[[SweepProgress], object],
    lanes: range,
    count: int,
    alone: bool,
    progress: Progress,
) -> object:
    return callback(SweepProgress(lanes, count, _rows(progress, alone, len(lanes))))


def _stacked(problems: Sequence[Problem], axes: Any) -> Problem:
    """Stack the problems of a group of lanes, on the host."""

    def stack(axis: int | None, *parts: Any) -> Any:
        if axis is None:
            return parts[0]
        return jax.tree.map(lambda *leaves: np.stack([*map(np.asarray, leaves)]), *parts)

    return Problem(*(stack(*parts) for parts in zip(axes, *problems, strict=True)))


def _by_lanes(tree: Any, alone: bool, count: int) -> Any:
    """Return results on the host with an axis of lanes, without the lanes that fill a group."""
    if isinstance(tree, dict):  # jax.tree.map would sort the names
        return {name: _by_lanes(part, alone, count) for name, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_by_lanes(part, alone, count) for part in tree)
    return np.asarray(tree)[None] if alone else np.asarray(tree[:count])


def _rows(progress: Progress, alone: bool, count: int) -> Progress:
    names = ("loss", "terms", "x", "history", "status", "done")
    rows = {name: _by_lanes(getattr(progress, name), alone, count) for name in names}
    return progress._replace(**rows)


def _lanes_that_fit(
    problem: Problem,
    axes: Any,
    count: int,
    config: TransferConfig,
    devices: Sequence[jax.Device],
) -> int:
    """Return how many lanes fit in the devices' memory at once, at least one per device."""
    mesh = make_mesh(devices)
    size, lift = group_size(count, max(count, mesh.size), mesh.size), lanes_on(mesh)

    def described(axis: int | None, tree: Any, *, lanes: tuple[int, ...] = ()) -> Any:
        sharding = NamedSharding(mesh, specs(axis))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*lanes, *np.shape(x)), x.dtype, sharding=sharding), tree
        )

    shapes = Problem(
        *(
            described(axis, part, lanes=() if axis is None else (size,))
            for axis, part in zip(axes, problem, strict=True)
        )
    )
    finest = schedule(problem.content.image.shape, config)[-1].shape
    config = config.of_programs
    target = lift(aim, (axes,), config=config, shape=finest)
    targets = described(0, jax.eval_shape(target, shapes))
    first = lift(begin, (axes, 0, None), config=config, shape=finest)
    state = described(0, jax.eval_shape(first, shapes, targets, None))
    limit = described(0, np.zeros(size, np.int32))
    program = lift(advance, (axes, 0, 0, 0), donate=(2,), config=config)
    needs, has = memory_of(program, shapes, targets, state, limit), free_memory(devices)
    return size if needs <= has else max(1, int(size // mesh.size * has / needs)) * mesh.size
