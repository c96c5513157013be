"""Minimise any function with any optax optimiser: one iteration is one evaluation.

`init`, `run_chunk`, `run_scan`, `restart` and `outcome` are pure; `run` is the host's loop around
them, and `minimize` all of it in one call. Nothing here knows about pictures.
"""

import enum
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnst.checks import check_positive_integer
from jaxnst.signals import interruptible

#: `value_and_grad(x, *args) -> ((loss, terms), grad)`, terms being a dict of numbers.
ValueAndGrad = Callable[..., Any]
Array = np.ndarray[Any, Any]


_log = logging.getLogger(__name__)


class Status(enum.IntEnum):
    """How a run stands."""

    OK = 0  #: every evaluation asked for was made
    CONVERGED = 1  #: the optimiser no longer moves; later evaluations would repeat the last
    NON_FINITE = (
        2  #: the first loss was not finite, or shorter steps did not help; the best is kept
    )
    INTERRUPTED = 3  #: stopped by Ctrl-C or by the callback; the best point is kept


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "x",
        "opt_state",
        "best_x",
        "best_loss",
        "average",
        "average_weight",
        "decay",
        "step_scale",
        "evaluation",
        "still",
        "status",
        "history",
    ],
    meta_fields=["optimizer"],
)
@dataclass(frozen=True)
class State:
    """A run as one pytree: it can be stopped anywhere and goes on to the same bits.

    Attributes:
        x: the next point to evaluate.
        opt_state: the optimiser's.
        best_x: the point of the least loss so far, and `best_loss`.
        average: exponential moving average of the points, begun at 0, and `average_weight`, the
            same of 1, by which it is to be divided (Kingma & Ba 2015, section 3).
        decay: of the average, in [0, 1); 0 for none.
        step_scale: by which all steps are multiplied, halved by each `restart`.
        evaluation: how many evaluations were made.
        still: how many proposals in a row did not move.
        status: a `Status`; a state that is not OK is frozen.
        history: the last evaluations, a ring of fixed length (by `evaluation % length`), so that
            the number of steps is no shape and compiles nothing.
        optimizer: the optax transformation, static.
    """

    x: Any
    opt_state: Any
    best_x: Any
    best_loss: jax.Array
    average: Any
    average_weight: jax.Array
    decay: jax.Array
    step_scale: jax.Array
    evaluation: jax.Array
    still: jax.Array
    status: jax.Array
    history: dict[str, jax.Array]
    optimizer: optax.GradientTransformationExtraArgs = field(repr=False)


class Progress(NamedTuple):
    """The record that a callback is given after each chunk."""

    evaluation: int  #: evaluations made so far
    num_steps: int  #: evaluations asked for
    loss: Any  #: of the last evaluation: a float, or an array by lanes
    terms: dict[str, Any]  #: the same of each term
    seconds: float  #: since the run began
    x: Any  #: the answer so far, see `outcome`
    history: dict[str, Array]  #: of all evaluations so far, as in `Result`
    state: Any  #: everything, valid until the run goes on: save or copy what is to be kept


class Result(NamedTuple):
    """What `minimize` returns."""

    x: Any  #: the answer, see `outcome`
    status: Any  #: a `Status`, or an array of them by lanes
    history: dict[str, Array]  #: by evaluation: evaluation (from 1), seconds, loss, each term
    state: State


def init(
    value_and_grad: ValueAndGrad,
    x0: Any,
    *args: Any,
    optimizer: optax.GradientTransformation,
    average: float | jax.Array = 0.0,
    evaluation: int = 0,
    history_length: int = 64,
) -> State:
    """The state before the first evaluation. `value_and_grad` is traced for shapes, not run.

    Args:
        value_and_grad: `value_and_grad(x, *args) -> ((loss, terms), grad)`.
        x0: a pytree of floating arrays.
        *args: pytrees passed on to the function.
        optimizer: any optax transformation.
        average: decay of the moving average of the points, in [0, 1); 0 for none.
        evaluation: how many were made before, if this goes on from another run's end.
        history_length: how many evaluations the state remembers.

    Raises:
        ValueError: the loss is not one number.
    """
    (loss, terms), _ = jax.eval_shape(value_and_grad, x0, *args)
    if loss.shape != ():
        raise ValueError(f"value_and_grad must give a number as its loss, not shape {loss.shape}")
    optimizer = optax.with_extra_args_support(optimizer)
    state = State(
        x=x0,
        opt_state=optimizer.init(x0),
        best_x=x0,
        best_loss=jnp.array(jnp.inf, loss.dtype),
        average=optax.tree.zeros_like(x0),
        average_weight=jnp.array(0, loss.dtype),
        decay=jnp.asarray(average, loss.dtype),
        step_scale=jnp.array(1, loss.dtype),
        evaluation=jnp.array(evaluation, jnp.int32),
        still=jnp.array(0, jnp.int32),
        status=jnp.array(Status.OK, jnp.int32),
        history={
            name: jnp.full(history_length, jnp.nan, dtype)
            for name, dtype in {
                "loss": loss.dtype,
                **{k: v.dtype for k, v in terms.items()},
            }.items()
        },
        optimizer=optimizer,
    )
    # `run` donates these buffers, so none may be the caller's or stand here twice.
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


def _where(condition: jax.Array, x: Any, y: Any) -> Any:
    return jax.tree.map(partial(jnp.where, condition), x, y)


def _all(condition: Callable[..., jax.Array], *trees: Any) -> jax.Array:
    return jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda *x: condition(*x).all(), *trees))


def step(value_and_grad: ValueAndGrad, state: State, limit: Any, *args: Any) -> State:
    """One evaluation, unless `limit` of them are made.

    A state that has stopped is frozen by `where`, so lanes never wait for each other. A `cond`
    would save its evaluation, but a convolution inside of control flow runs on one thread on the
    CPU. The optimiser's state alone is not frozen: it is large, and hardly of use any more.
    """
    (loss, terms), grad = value_and_grad(state.x, *args)
    updates, opt_state = state.optimizer.update(
        grad, state.opt_state, state.x, value=loss, grad=grad
    )
    x = optax.apply_updates(state.x, jax.tree.map(lambda u: state.step_scale * u, updates))
    running = (state.status == Status.OK) & (state.evaluation < limit)
    better = running & (loss < state.best_loss)  # never true of nan
    lost = ~_all(jnp.isfinite, x) | (jnp.isinf(state.best_loss) & ~jnp.isfinite(loss))
    still = jnp.where(_all(jnp.equal, x, state.x), state.still + 1, 0)
    # A schedule may begin with a step of zero, so one proposal that does not move is no end.
    status = jnp.where(lost, Status.NON_FINITE, jnp.where(still > 1, Status.CONVERGED, Status.OK))
    mean = jax.tree.map(lambda a, x: state.decay * a + (1 - state.decay) * x, state.average, x)
    weight = state.decay * state.average_weight + (1 - state.decay)
    slot = state.evaluation % len(state.history["loss"])
    seen = {"loss": loss, **terms}
    return State(
        x=_where(running & ~lost, x, state.x),
        opt_state=opt_state,
        best_x=_where(better, state.x, state.best_x),
        best_loss=jnp.where(better, loss, state.best_loss),
        average=_where(running & ~lost, mean, state.average),
        average_weight=jnp.where(running & ~lost, weight, state.average_weight),
        decay=state.decay,
        step_scale=state.step_scale,
        evaluation=state.evaluation + running,
        still=jnp.where(running, still, state.still),
        status=jnp.where(running, status, state.status).astype(jnp.int32),
        history={
            name: ring.at[slot].set(jnp.where(running, seen[name], ring[slot]))
            for name, ring in state.history.items()
        },
        optimizer=state.optimizer,
    )


_NO_LIMIT = jnp.iinfo(jnp.int32).max


def run_chunk(value_and_grad: ValueAndGrad, state: State, n: Any, *args: Any) -> State:
    """Make `n` evaluations, `n` being traced. Pure; not to be differentiated (see `run_scan`).

    Args:
        value_and_grad: `value_and_grad(x, *args) -> ((loss, terms), grad)`.
        state: from `init` or an earlier call.
        n: how many evaluations; the history keeps the last ones that fit.
        *args: everything that the function needs besides the point.
    """
    return jax.lax.fori_loop(0, n, lambda _, s: step(value_and_grad, s, _NO_LIMIT, *args), state)


def run_scan(value_and_grad: ValueAndGrad, state: State, length: int, *args: Any) -> State:
    """`run_chunk` with a fixed number of evaluations, which can be differentiated in reverse."""

    def body(state: State, _: None) -> tuple[State, None]:
        return step(value_and_grad, state, _NO_LIMIT, *args), None

    return jax.lax.scan(body, state, length=length)[0]


#: After so many halvings, steps are 1/256 of what was asked for: the fault lies elsewhere.
MAX_RESTARTS = 8


def restart(state: State) -> State:
    """Where a run was lost, put it back to its best point with steps half as long. Pure.

    The optimiser begins anew there, and so does the average. Any other state stays as it is, and
    so does one that never saw a finite loss or was put back `MAX_RESTARTS` times.
    """
    lost = (state.status == Status.NON_FINITE) & jnp.isfinite(state.best_loss)
    # The state itself tells how often, so a pause grants no more and lanes do not share.
    lost &= state.step_scale > 0.5**MAX_RESTARTS
    return replace(
        state,
        x=_where(lost, state.best_x, state.x),
        opt_state=_where(lost, state.optimizer.init(state.best_x), state.opt_state),
        average=_where(lost, optax.tree.zeros_like(state.average), state.average),
        average_weight=jnp.where(lost, 0, state.average_weight),
        step_scale=jnp.where(lost, state.step_scale / 2, state.step_scale),
        still=jnp.where(lost, 0, state.still),
        status=jnp.where(lost, Status.OK, state.status).astype(jnp.int32),
    )


def outcome(state: State) -> Any:
    """The answer so far: the moving average if there is one, else the point of the least loss."""
    weight = jnp.where(state.average_weight > 0, state.average_weight, 1)
    averaged = (state.decay > 0) & (state.average_weight > 0)
    return jax.tree.map(
        lambda a, best: jnp.where(averaged, a / weight, best), state.average, state.best_x
    )


@dataclass(frozen=True)
class Compiled:
    """What the host's loop calls, for a single run or for many lanes at once.

    The loop dispatches single steps and not `run_chunk`, since XLA runs the body of a loop on one
    CPU thread. Dispatch is asynchronous, so an accelerator does not wait for the host.
    """

    step: Callable[..., State]  #: (value_and_grad, state, limit, *args), which uses the state up
    restart: Callable[[State], State]  #: which uses the state up too
    outcome: Callable[[State], Any]


SINGLE = Compiled(
    step=jax.jit(step, static_argnums=0, donate_argnums=1),
    restart=jax.jit(restart, donate_argnums=0),
    outcome=jax.jit(outcome),
)


def run(
    value_and_grad: ValueAndGrad,
    state: State,
    *args: Any,
    num_steps: Any,
    interrupted: threading.Event,
    compiled: Compiled = SINGLE,
    callback: Callable[[Progress], object] | None = None,
    every: int | None = None,
    seconds_per_chunk: float = 1.0,
) -> Result:
    """Go on from `state` until `num_steps` evaluations are made in all; see `minimize`.

    Args:
        value_and_grad: `value_and_grad(x, *args) -> ((loss, terms), grad)`.
        state: from `init` or an earlier run. Its buffers are given to the run and used up.
        *args: pytrees passed on to the function.
        num_steps: evaluations in all, those that the state has seen included; lanes may differ.
        interrupted: ends the run after the chunk in flight, once it is set.
        compiled: `SINGLE`, or the same over lanes, where all leaves of the state have a leading
            axis (see `jaxnst.sweep`).
        callback: called after each chunk with a `Progress`; a true answer ends the run.
        every: ends a chunk, and so calls the callback, at each multiple of so many evaluations.
        seconds_per_chunk: about how long the host leaves the device alone.

    Returns:
        A `Result`, its history beginning with the first evaluation made here. With lanes, its
        arrays and the status have a leading axis; where a lane made fewer evaluations than others,
        the rest of its row has evaluation 0.
    """
    ring = state.history["loss"].shape[-1]
    record = _Record()
    evaluation, status = np.asarray(state.evaluation), np.asarray(state.status)
    limit = np.broadcast_to(np.asarray(num_steps, np.int32), evaluation.shape)
    first = done = int(evaluation.max())
    start, n = time.perf_counter(), 1
    # After a restart, a lane has some evaluations to make up for.
    while (alive := (status == Status.OK) & (evaluation < limit)).any():
        before = time.perf_counter()
        left = int((limit - evaluation)[alive].max())
        for _ in range(min(n, left, every - done % every if every else n)):
            state = compiled.step(value_and_grad, state, limit, *args)
        now, status = np.asarray(state.evaluation), np.asarray(state.status)
        seconds = time.perf_counter() - start
        record.add(evaluation, now, seconds, state.history)
        made, evaluation = int((now - evaluation).max()), now
        if (status == Status.NON_FINITE).any():
            lost = status
            state = compiled.restart(state)
            status = np.asarray(state.status)
            if (status != lost).any():
                _log.warning(
                    "evaluation %d led to a point that is not finite: going back to the best one, "
                    "with steps %g times as long",
                    evaluation[status != lost].min(),
                    np.asarray(state.step_scale)[status != lost].min(),
                )
        # The first chunk may compile and tells nothing about speed.
        pace = (time.perf_counter() - before) / max(made, 1)
        n = min(max(int(seconds_per_chunk / pace), 1) if done > first else 2, ring)
        done = int(evaluation.max())
        if callback is not None:
            last = record.last()
            loss, x = last.pop("loss"), compiled.outcome(state)
            whole = int(limit.max())
            if callback(Progress(done, whole, loss, last, seconds, x, record.joined(), state)):
                interrupted.set()
        if interrupted.is_set():
            halted = (status == Status.OK) & (evaluation < limit)
            status = np.where(halted, Status.INTERRUPTED, status)
    if record.rows:
        status = np.where(np.isfinite(state.best_loss), status, Status.NON_FINITE)
    answer = Status(int(status)) if status.ndim == 0 else status
    return Result(compiled.outcome(state), answer, record.joined(), state)


class _Record:
    """The history on the host, of one run or of lanes; the last axis is that of evaluations."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Array]] = []

    def add(self, before: Array, now: Array, seconds: float, rings: dict[str, jax.Array]) -> None:
        """Take what is new out of the state's rings."""
        index = before[..., None] + np.arange(int((now - before).max()))
        new = index < now[..., None]
        row = {
            "evaluation": np.where(new, index + 1, 0),
            "seconds": np.full(index.shape, seconds),
        }
        for name in ("loss", *rings):
            values = np.asarray(rings[name])
            taken = np.take_along_axis(values, index % values.shape[-1], axis=-1)
            row[name] = np.where(new, taken, np.nan).astype(values.dtype)
        self.rows.append(row)

    def last(self) -> dict[str, Any]:
        """Each number of the last evaluation, by lanes if there are any."""
        names = [k for k in self.rows[-1] if k not in ("evaluation", "seconds")]
        last = {k: self.rows[-1][k][..., -1] for k in names}
        return {k: float(v) if v.ndim == 0 else v for k, v in last.items()}

    def joined(self) -> dict[str, Array]:
        """All rows behind each other."""
        names = self.rows[0] if self.rows else {}
        return {k: np.concatenate([row[k] for row in self.rows], axis=-1) for k in names}


def minimize(
    value_and_grad: ValueAndGrad,
    x0: Any,
    *args: Any,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    average: float = 0.0,
    callback: Callable[[Progress], object] | None = None,
    every: int | None = None,
    seconds_per_chunk: float = 1.0,
) -> Result:
    """Minimise a function from `x0` in exactly `num_steps` evaluations, or fewer if it converges.

    Pass the same function and optimiser objects again, and nothing is compiled again; what varies
    belongs into `args`. Where a step leads to a point that is not finite, the run goes back to its
    best point, takes steps half as long from there, and says so in the log.

    Args:
        value_and_grad: `value_and_grad(x, *args) -> ((loss, terms), grad)`, jittable.
        x0: a pytree of floating arrays. It is not changed.
        *args: pytrees passed on to the function.
        optimizer: any optax transformation, such as `optax.adam(0.02)` or `lbfgs()`.
        num_steps: how many evaluations.
        average: decay of a moving average of the points, in [0, 1), which then is the answer; with
            0 the answer is the point of the least loss.
        callback: called after each chunk with a `Progress`; a true answer ends the run.
        every: ends a chunk, and so calls the callback, at each multiple of so many evaluations.
        seconds_per_chunk: about how long the host leaves the device alone.

    Returns:
        A `Result`. Ctrl-C ends the run after the chunk in flight with status INTERRUPTED; a second
        one at once.

    Raises:
        ValueError: `num_steps` or `every` is no positive integer, or `average` not in [0, 1).
    """
    check_positive_integer("num_steps", num_steps)
    if every is not None:
        check_positive_integer("every", every)
    if not 0 <= average < 1:
        raise ValueError(f"average must be a number from 0 to less than 1, not {average!r}")
    state = init(value_and_grad, x0, *args, optimizer=optimizer, average=average)
    with interruptible() as interrupted:
        return run(
            value_and_grad,
            state,
            *args,
            num_steps=num_steps,
            interrupted=interrupted,
            callback=callback,
            every=every,
            seconds_per_chunk=seconds_per_chunk,
        )
