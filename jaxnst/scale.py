"""One scale of a transfer, as pure functions of a `Problem`.

`aim` returns the scale's targets, `begin` its first state, and `advance` makes one evaluation. A
run that goes on needs the first and the last.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnst.details import refine
from jaxnst.loss_weights import LossWeights
from jaxnst.objective import Targets, loss_and_grad
from jaxnst.optimize import Info, State, Status, had_finite_loss, init, outcome, restart, step
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
    """Return the first state of a scale, before its first evaluation. Pure.

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
    lost = (old.status == Status.NON_FINITE) | ~had_finite_loss(old)
    return fresh._replace(
        opt_state=carry_moments(old.opt_state, fresh.opt_state, shape, wrap=wrap),
        status=jnp.where(lost, Status.NON_FINITE, fresh.status).astype(jnp.int32),
    )
