"""A minimisation as pure functions: one iteration is one evaluation.

`init`, `step`, `restart` and `outcome` take any function and any optax optimiser, for loops, scans
and gradients of your own. `jaxnst.minimize` is the host's loop around them.
"""

import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import export

#: `value_and_grad(x, *args) -> ((loss, terms), grad)` or `-> (loss, grad)`; see `minimize`.
ValueAndGrad = Callable[..., Any]


class Status(enum.IntEnum):
    """The status of a run."""

    OK = 0  #: in progress, or all evaluations were made
    CONVERGED = 1  #: the optimiser no longer moves; later evaluations would repeat the last
    NON_FINITE = 2  #: the first loss was not finite, or smaller steps did not help
    INTERRUPTED = 3  #: stopped by Ctrl-C or by the callback

    __str__ = enum.Enum.__str__  # "Status.CONVERGED", where an IntEnum prints "1"


class State(NamedTuple):
    """A run as one pytree: it can stop anywhere and then continue to the same bits."""

    x: Any  #: the next point to evaluate
    opt_state: Any  #: the optimiser's state
    best_x: Any  #: the point with the least loss so far
    best_loss: jax.Array  #: its loss, or the largest number if none was finite yet
    average: Any  #: exponential moving average of the points, starting from 0
    average_weight: jax.Array  #: the same average of the number 1, to divide `average` by
    decay: jax.Array  #: of the average, in [0, 1); 0 for none
    step_scale: jax.Array  #: factor of all steps; each `restart` halves it
    evaluation: jax.Array  #: number of evaluations made
    unmoved: jax.Array  #: number of proposals in a row that did not move
    status: jax.Array  #: a `Status`; a state that is not OK is frozen


export.register_namedtuple_serialization(State, serialized_name="jaxnst.State")


class Info(NamedTuple):
    """The evaluation that a step made."""

    evaluation: jax.Array  #: its number from 1, or 0 if the state was frozen
    loss: jax.Array  #: at the point that was evaluated
    terms: dict[str, jax.Array]  #: by name; names of nested terms are joined by slashes


export.register_namedtuple_serialization(Info, serialized_name="jaxnst.Info")


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """An optax transformation as a static argument of a jitted function."""

    transformation: optax.GradientTransformation


def make_optimizer(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Return the optax transformation of an optimiser.

    Args:
        optimizer: an optax transformation, or settings of one, such as `jaxnst.Adam`: a pytree,
            whose leaves may be traced, with a method `make()` that returns one.
    """
    if isinstance(optimizer, Static):
        optimizer = optimizer.transformation
    made = optimizer.make() if hasattr(optimizer, "make") else optimizer
    return optax.with_extra_args_support(made)


def as_argument(optimizer: Any) -> Any:
    """Return an optimiser as a pytree, which jitted functions can take."""
    return optimizer if hasattr(optimizer, "make") else Static(optimizer)


def _evaluate(
    value_and_grad: ValueAndGrad, x: Any, evaluation: jax.Array, args: tuple[Any, ...]
) -> tuple[jax.Array, dict[str, jax.Array], Any]:
    """Return the loss, its terms by name, and the gradient."""
    keywords = {"evaluation": evaluation} if _wants_evaluation(value_and_grad) else {}
    value, grad = value_and_grad(x, *args, **keywords)
    loss, aux = value if isinstance(value, tuple) else (value, {})
    if shape := jnp.shape(loss):
        raise ValueError(f"value_and_grad must give a number as its loss, not shape {shape}")
    leaves = jax.tree_util.tree_leaves_with_path(aux)
    terms = {_name(path) or "aux": jnp.asarray(leaf) for path, leaf in leaves}
    if taken := terms.keys() & {"evaluation", "seconds", "loss"}:
        raise ValueError(
            f"a term must not be called {sorted(taken)[0]!r}: the history has that row"
        )
    return jnp.asarray(loss), terms, grad


def _name(path: tuple[Any, ...]) -> str:
    keys = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)
    return "/".join(map(str, keys))


def _wants_evaluation(function: ValueAndGrad) -> bool:
    try:
        return "evaluation" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables have no signature
        return False


def init(
    value_and_grad: ValueAndGrad,
    x0: Any,
    *args: Any,
    optimizer: Any,
    average: Any = None,
    evaluation: Any = 0,
) -> State:
    """Return the state before the first evaluation. The function is traced for types, not run.

    Args:
        value_and_grad: see `minimize`.
        x0: a pytree of floating arrays.
        *args: pytrees passed on to the function.
        optimizer: an optax transformation, `Adam(…)` or `Lbfgs(…)`.
        average: decay of the moving average of the points, in [0, 1); 0 for none; None for that in
            the optimiser's settings.
        evaluation: number of evaluations made before, if this continues another run.

    Raises:
        ValueError: the loss is not one number.
    """
    count = jnp.asarray(evaluation, jnp.int32)
    loss, _, _ = jax.eval_shape(partial(_evaluate, value_and_grad), x0, count, args)
    if average is None:
        average = getattr(optimizer, "average", 0.0)
    dtype = loss.dtype
    return State(
        x=x0,
        opt_state=make_optimizer(optimizer).init(x0),
        best_x=x0,
        best_loss=jnp.array(jnp.finfo(dtype).max, dtype),
        average=optax.tree.zeros_like(x0),
        average_weight=jnp.array(0, dtype),
        decay=jnp.asarray(average).astype(dtype),
        step_scale=jnp.array(1, dtype),
        evaluation=count,
        unmoved=jnp.array(0, jnp.int32),
        status=jnp.array(Status.OK, jnp.int32),
    )


def step(
    value_and_grad: ValueAndGrad, state: State, *args: Any, optimizer: Any, limit: Any = None
) -> tuple[State, Info]:
    """Evaluate the state's point and propose the next one. Pure.

    A state that has stopped is frozen by `where`, so that lanes under `vmap` never wait for each
    other. (A `cond` would save the evaluation, but XLA runs a convolution inside control flow on
    one CPU thread.) Only the optimiser's state is not frozen: it is large and no longer needed.

    Args:
        value_and_grad: see `minimize`.
        state: from `init`, `step` or `restart`.
        *args: pytrees passed on to the function.
        optimizer: as in `init`.
        limit: largest number of evaluations in all, including those before this step.

    Returns:
        `(state, info)`.

    Raises:
        TypeError: the optimiser has to call the loss itself, as line searches do.

    >>> import jax, jax.numpy as jnp, optax
    >>> def loss(x):
    ...     return jnp.sum((x - 3.0) ** 2)
    >>> vg, adam = jax.value_and_grad(loss), optax.adam(0.5)
    >>> def body(state, _):
    ...     return step(vg, state, optimizer=adam)
    >>> state, infos = jax.lax.scan(body, init(vg, jnp.zeros(2), optimizer=adam), length=50)
    >>> infos.loss.shape, [round(float(v)) for v in outcome(state)]
    ((50,), [3, 3])
    """
    loss, terms, grad = _evaluate(value_and_grad, state.x, state.evaluation, args)
    updates, opt_state = _update(make_optimizer(optimizer), grad, state, loss)
    scaled = jax.tree.map(lambda u: state.step_scale.astype(u.dtype) * u, updates)
    x = optax.apply_updates(state.x, scaled)
    running = state.status == Status.OK
    if limit is not None:
        running &= state.evaluation < limit
    better = running & (loss < state.best_loss)  # false for NaN
    lost = ~_all(jnp.isfinite, x) | (~had_finite_loss(state) & ~jnp.isfinite(loss))
    unmoved = jnp.where(_all(jnp.equal, x, state.x), state.unmoved + 1, 0)
    # A schedule may begin with a step of 0, so one proposal that does not move is not the end. An
    # optimiser that does not move because the gradient is not finite has not converged, nor has one
    # whose momentum holds a clamped image at its limits, where the loss is worse than before.
    stays = (unmoved > 1) & ~(loss > state.best_loss)
    ended = jnp.where(_all(jnp.isfinite, grad), Status.CONVERGED, Status.NON_FINITE)
    status = jnp.where(lost, Status.NON_FINITE, jnp.where(stays, ended, Status.OK))
    moving = running & ~lost
    mean = jax.tree.map(partial(_mix, state.decay), state.average, x)
    weight = _mix(state.decay, state.average_weight, jnp.ones_like(state.decay))
    new = State(
        x=_where(moving, x, state.x),
        opt_state=opt_state,
        best_x=_where(better, state.x, state.best_x),
        best_loss=jnp.where(better, loss, state.best_loss),
        average=_where(moving, mean, state.average),
        average_weight=jnp.where(moving, weight, state.average_weight),
        decay=state.decay,
        step_scale=state.step_scale,
        evaluation=state.evaluation + running.astype(jnp.int32),
        unmoved=jnp.where(running, unmoved, state.unmoved),
        status=jnp.where(running, status, state.status).astype(jnp.int32),
    )
    return new, Info(jnp.where(running, new.evaluation, 0), loss, terms)


def had_finite_loss(state: State) -> jax.Array:
    """Return whether any loss of a run was finite."""
    return state.best_loss < jnp.finfo(state.best_loss.dtype).max


def _mix(decay: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    decay = decay.astype(old.dtype)
    return decay * old + (1 - decay) * new


def _update(
    optimizer: optax.GradientTransformationExtraArgs, grad: Any, state: State, loss: jax.Array
) -> tuple[Any, Any]:
    try:
        return optimizer.update(grad, state.opt_state, state.x, value=loss, grad=grad)
    except TypeError as error:
        if "value_fn" not in str(error):
            raise
        raise TypeError(
            "this optimiser makes line searches of several evaluations, but here one step is one "
            "evaluation: use jaxnst.lbfgs(), or optax.lbfgs(linesearch=None)"
        ) from error


def _where(condition: jax.Array, x: Any, y: Any) -> Any:
    return jax.tree.map(partial(jnp.where, condition), x, y)


def _all(condition: Callable[..., jax.Array], *trees: Any) -> jax.Array:
    return jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda *x: condition(*x).all(), *trees))


#: After this many halvings, steps have 1/256 of their length, and halving has not helped.
MAX_RESTARTS = 8


def restart(state: State, *, optimizer: Any) -> State:
    """Return a run that is not finite to its best point, with steps half as long. Pure.

    The optimiser and the average start afresh there. Any other state is unchanged, as is one that
    never had a finite loss or has been restarted `MAX_RESTARTS` times.

    Args:
        state: from `step`.
        optimizer: as in `init`.
    """
    lost = (state.status == Status.NON_FINITE) & had_finite_loss(state)
    # Restarts are counted in the state, so that each lane has its own and a pause adds none.
    lost &= state.step_scale > 0.5**MAX_RESTARTS
    return state._replace(
        x=_where(lost, state.best_x, state.x),
        opt_state=_where(lost, make_optimizer(optimizer).init(state.best_x), state.opt_state),
        average=_where(lost, optax.tree.zeros_like(state.average), state.average),
        average_weight=jnp.where(lost, 0, state.average_weight),
        step_scale=jnp.where(lost, state.step_scale / 2, state.step_scale),
        unmoved=jnp.where(lost, 0, state.unmoved),
        status=jnp.where(lost, Status.OK, state.status).astype(jnp.int32),
    )


def outcome(state: State) -> Any:
    """Return the result so far: the moving average if there is one, else the best point. Pure.

    The average is divided by its weight (Kingma & Ba 2015, section 3).
    """
    weight = jnp.where(state.average_weight > 0, state.average_weight, 1)
    averaged = (state.decay > 0) & (state.average_weight > 0)
    return jax.tree.map(
        lambda a, best: jnp.where(averaged, a / weight.astype(a.dtype), best),
        state.average,
        state.best_x,
    )
