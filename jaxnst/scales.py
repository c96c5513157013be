"""The scales of a transfer from coarse to fine, as pure functions and the host's loop over them.

A scale is three pure functions of one `Problem`: `aim` returns its targets, `begin` its first
state, and `advance` makes one evaluation. A run that goes on needs the first and the last. The
host's loop, `run_scales`, is a generator, so its consumer
decides what to show or save and when to stop.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnst.compilation import compiled, make_room
from jaxnst.details import refine
from jaxnst.history import History, history_of, join, last_of
from jaxnst.loss_weights import LossWeights
from jaxnst.minimize import Chunk, Progress, run
from jaxnst.objective import Targets, loss_and_grad
from jaxnst.optimize import Info, State, Status, init, outcome, restart, step
from jaxnst.pyramid import Shape, carry_moments, resize_unless
from jaxnst.recipes import TransferConfig
from jaxnst.schedule import schedule
from jaxnst.sources import Picture, resize_regions, shrink_picture
from jaxnst.targets import compute_targets
from jaxnst.vgg import Params


class Problem(NamedTuple):
    """The traced inputs of a transfer. A leading axis of any leaf makes lanes."""

    content: Picture
    style: tuple[Picture, ...]
    regions: Any  #: (r, H, W) of the content, or None
    start: Any  #: the image to start from
    params: Params
    weights: LossWeights
    optimizer: Any  #: settings whose numbers are leaves, or a `Static` transformation


class TransferState(NamedTuple):
    """A transfer as one pytree of arrays and numbers; `style_transfer(resume=…)` continues from it.

    The key is not part of it: noise is drawn once, before the first evaluation.
    """

    scale: Any  #: index of the current scale, from coarse to fine
    evaluations_before: Any  #: number of evaluations made at earlier scales
    leaves: list[Any]  #: of the `State` at the current scale
    history: History  #: of all evaluations so far


# --- A scale as pure functions --------------------------------------------------------------------


def aim(problem: Problem, *, config: TransferConfig, shape: Shape) -> Targets:
    """Return the targets of a scale. Pure.

    Args:
        problem: the transfer.
        config: of the transfer, without its optimiser.
        shape: height and width of the scale.
    """
    content = problem.content._replace(
        image=resize_unless(problem.content.image, shape, wrap=config.objective.circular),
        regions=resize_regions(problem.content.regions, shape),
    )
    here = problem._replace(content=content, style=_styles_at(problem, config, shape))
    sources = {name: getattr(here, name) for name in config.objective.sources}
    return compute_targets(sources, problem.params, **_options(config))


def begin(
    problem: Problem,
    targets: Targets,
    previous: State | None,
    *,
    config: TransferConfig,
    shape: Shape,
) -> State:
    """Return the first state of a scale, after one evaluation. Pure.

    Args:
        problem: the transfer.
        targets: from `aim`.
        previous: the last state of the scale before; None at the first scale.
        config: of the transfer, without its optimiser.
        shape: height and width of the scale.
    """
    wrap, regions = config.objective.circular, resize_regions(problem.regions, shape)
    if previous is None:
        x = resize_unless(problem.start, shape, wrap=wrap)
    else:
        options = {"details": config.details, "regions": regions, "wrap": wrap}
        x = refine(outcome(previous), _styles_at(problem, config, shape), shape, **options)
    state = init(
        _value_and_grad(config),
        x,
        problem,
        targets,
        regions,
        optimizer=problem.optimizer,
        evaluation=0 if previous is None else previous.evaluation,
    )
    return state if previous is None else _carry_over(previous, state, shape, wrap)


def advance(
    problem: Problem, targets: Targets, state: State, limit: Any, *, config: TransferConfig
) -> tuple[State, Info]:
    """Make one evaluation at a scale, unless `limit` evaluations have been made. Pure."""
    inputs = problem, targets, resize_regions(problem.regions, state.x.shape[:2])
    return step(_value_and_grad(config), state, *inputs, optimizer=problem.optimizer, limit=limit)


def check_problem(problem: Problem, config: TransferConfig) -> None:
    """Raise TypeError or ValueError unless a transfer can begin. Nothing is computed."""
    shape = schedule(problem.content.image.shape, config)[0].shape
    if config.tile == "auto":
        config = replace(config, tile=None)
    shapes_of_scale(problem, config, shape)


def shapes_of_scale(
    problem: Problem, config: TransferConfig, shape: Shape
) -> tuple[Targets, State]:
    """Return the shapes of the targets and of the first state of a scale. Nothing is computed."""
    targets = jax.eval_shape(partial(aim, config=config, shape=shape), problem)
    first = partial(begin, config=config, shape=shape)
    return targets, jax.eval_shape(first, problem, targets, None)


def recover(problem: Problem, state: State) -> State:
    """Return a run that is not finite to its best point. Pure."""
    return restart(state, optimizer=problem.optimizer)


def _value_and_grad(config: TransferConfig) -> Callable[..., Any]:
    def value_and_grad(x: jax.Array, problem: Problem, targets: Targets, regions: Any) -> Any:
        inputs = x, problem.params, targets, problem.weights
        return loss_and_grad(*inputs, regions=regions, **_options(config))

    return value_and_grad


def _styles_at(problem: Problem, config: TransferConfig, shape: Shape) -> tuple[Picture, ...]:
    """Return the styles as large as a scale wants them: they shrink with it, but never grow."""
    long, whole = max(shape), max(problem.content.image.shape[:2])
    return tuple(
        shrink_picture(style, long / whole if s is None else s * long / max(style.image.shape[:2]))
        for style, s in zip(problem.style, config.style_scales(len(problem.style)), strict=True)
    )


def _options(config: TransferConfig) -> dict[str, Any]:
    return {"objective": config.objective, "tile": config.tile}


def _carry_over(old: State, fresh: State, shape: Shape, wrap: bool) -> State:
    """Return a scale's first state with what is kept from the last state of the scale before.

    A run that is not finite stays so; other lanes continue.
    """
    lost = (old.status == Status.NON_FINITE) | ~(old.best_loss < jnp.finfo(old.best_loss.dtype).max)
    return fresh._replace(
        opt_state=carry_moments(old.opt_state, fresh.opt_state, shape, wrap=wrap),
        status=jnp.where(lost, Status.NON_FINITE, fresh.status).astype(jnp.int32),
    )


# --- The host's loop ------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def once(
    function: Callable[..., Any], axes: Any, *, donate: tuple[int, ...] = (), **static: Any
) -> Callable[..., Any]:
    """Compile a pure function for one transfer.

    Args:
        function: `begin`, `advance` or another.
        axes: for each argument, which leaves have lanes: here none.
        donate: arguments whose buffers may be reused.
        **static: keyword arguments that determine the program.
    """
    return compiled(partial(function, **static), donate=donate)


Lift = Callable[..., Callable[..., Any]]  #: `once`, or the same for lanes on a mesh


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
