"""The host's loop over the scales of a transfer, from coarse to fine.

`run_scales` is a generator, so its consumer decides what to show or save and when to stop.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnst.compilation import Lift, make_room, once
from jaxnst.history import History, history_of, join, last_of
from jaxnst.minimize import Chunk, Progress, run
from jaxnst.optimize import State, Status, outcome
from jaxnst.pyramid import Shape, resize_unless
from jaxnst.recipes import TransferConfig
from jaxnst.scale import Problem, advance, aim, begin, recover
from jaxnst.schedule import schedule


class TransferState(NamedTuple):
    """A transfer as one pytree of arrays and numbers; `style_transfer(resume=…)` continues from it.

    The key is not part of it: noise is drawn once, before the first evaluation.
    """

    scale: Any  #: index of the current scale, from coarse to fine
    evaluations_before: Any  #: number of evaluations made at earlier scales
    leaves: list[Any]  #: of the `State` at the current scale
    history: History  #: of all evaluations so far


def run_scales(
    problem: Problem,
    config: TransferConfig,
    *,
    lift: Lift = once,
    axes: Problem | None = None,
    resume: TransferState | None = None,
    every: int | None = None,
) -> Iterator[Progress]:
    """Run a transfer scale by scale, and yield a `Progress` after each chunk of evaluations.

    Its `x` has the size of the current scale, and its `state` is a `TransferState`. If the problem
    has lanes, all arrays have an axis of lanes.

    Args:
        problem: of one transfer, or of lanes.
        config: of the transfer; the optimiser is taken from the problem.
        lift: compiles a pure function: `once`, or `devices.lanes_on(mesh)` for lanes.
        axes: for lanes, which leaves of the problem have an axis of lanes.
        resume: the state to continue from.
        every: also end a chunk at each multiple of this many evaluations.
    """
    scales = schedule(problem.content.image.shape, config)
    config = config.of_programs
    start, before, leaves, history = resume or TransferState(0, np.int32(0), [], {})
    resume, before, state = None, np.asarray(before), None
    clock = time.perf_counter() - (history["seconds"].max(initial=0.0) if history else 0.0)
    for index in range(int(start), len(scales)):
        shape, num_steps = scales[index]
        make_room()
        targets = lift(aim, (axes,), config=config, shape=shape)(problem)
        first = lift(begin, (axes, 0, None if state is None else 0), config=config, shape=shape)
        if leaves:  # which may take as much memory as all else
            state, leaves = _restored(leaves, jax.eval_shape(first, problem, targets, None)), []
        else:
            state = first(problem, targets, state)
        # `advance` donates the state's buffers, so none may be the caller's or be used twice. The
        # copy has the same name, or two states would be in memory.
        state = jax.tree.map(partial(jnp.array, copy=True), state)
        limit = np.broadcast_to(before + np.int32(num_steps), state.evaluation.shape)
        evaluate = lift(advance, (axes, 0, 0, 0), donate=(2,), config=config)
        evaluate = partial(_evaluate_up_to, limit, evaluate, problem, targets)
        put_back = partial(lift(recover, (axes, 0), donate=(1,)), problem)
        chunks = _one_or_more(run(evaluate, put_back, state, limit, every=every), state)
        for state, infos, status in chunks:
            seconds = time.perf_counter() - clock
            if infos:
                rows = history_of(infos, seconds=seconds, size=max(shape))
                history = join([history, rows] if history else [rows])
            elif index < len(scales) - 1 and not (status == Status.NON_FINITE).all():
                continue  # resumed at the end of a scale
            evaluation = history["evaluation"].max(axis=-1)
            at_end = (index == len(scales) - 1) & ((status != Status.OK) | (evaluation >= limit))
            done = at_end | (status == Status.NON_FINITE)
            loss, terms = last_of(history)
            yield Progress(
                evaluation=int(evaluation.max()),
                num_steps=int(before.max()) + sum(scale.num_steps for scale in scales[index:]),
                loss=loss,
                terms=terms,
                seconds=seconds,
                x=lift(outcome, (0,))(state),
                history=history,
                status=status if np.ndim(status) else Status(int(status)),
                done=done if np.ndim(done) else bool(done),
                state=TransferState(index, before, jax.tree.leaves(state), history),
            )
        before, status = jax.device_get((state.evaluation, state.status))
        if (status == Status.NON_FINITE).all():
            break


def _one_or_more(chunks: Iterator[Chunk], state: State) -> Iterator[Chunk]:
    """Yield the chunks, or if there are none, the state as it is."""
    first = next(chunks, None)
    if first is None:
        yield state, [], np.asarray(state.status)
        return
    del state  # it is as large as the next one
    yield first
    del first
    yield from chunks


def _evaluate_up_to(limit: Any, evaluate: Callable[..., Any], *args: Any) -> Any:
    return evaluate(*args, limit)


def finish(
    progress: Progress,
    shape: Shape,
    *,
    lift: Lift = once,
    interrupted: bool = False,
    wrap: bool = False,
) -> tuple[jax.Array, Any, History]:
    """Return the image, status and history of a run from its last record.

    Args:
        progress: the last record of `run_scales`.
        shape: height and width of the finished picture.
        lift: as in `run_scales`.
        interrupted: whether the run was stopped.
        wrap: whether the image tiles the plane.
    """
    status = progress.status
    if interrupted:
        status = np.where(progress.done, status, Status.INTERRUPTED)
    image = lift(_finished_image, (0,), shape=tuple(shape), wrap=wrap)(progress.x)
    return image, status, progress.history


def _finished_image(x: jax.Array, *, shape: Shape, wrap: bool) -> jax.Array:
    # Departs from systems that clip inside the loop, which breaks L-BFGS. The history has the
    # losses of images before clipping.
    return jnp.clip(resize_unless(x, shape, wrap=wrap), 0, 1)


def _restored(leaves: list[Any], like: State) -> State:
    """Return the state with these leaves."""
    wanted = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(like)]
    if [(leaf.shape, leaf.dtype) for leaf in leaves] != wanted:
        raise ValueError("the state to resume does not fit these images and this config")
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(leaf) for leaf in leaves])
