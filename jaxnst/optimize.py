"""Minimise any function with any optax optimiser: one iteration is one evaluation.

`init`, `run_chunk`, `run_scan`, `restart` and `outcome` are pure; `run` is the host's loop around
them, and `minimize` all of it in one call. Nothing here knows about pictures.
"""

import enum
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
    loss: float  #: of the last evaluation
    terms: dict[str, float]  #: of the last evaluation
    seconds: float  #: since the run began
    x: Any  #: the answer so far, see `outcome`
    history: dict[str, Array]  #: of all evaluations so far, as in `Result`
    state: Any  #: everything, valid until the run goes on: save or copy what is to be kept


class Result(NamedTuple):
    """What `minimize` returns."""

    x: Any  #: the answer, see `outcome`
    status: Status
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


def _step(value_and_grad: ValueAndGrad, state: State, *args: Any) -> State:
    """One evaluation. A state that has stopped is frozen by `where`, so lanes never wait.

    A `cond` would save its evaluation, but a convolution inside of control flow runs on one thread
    on the CPU. The optimiser's state alone is not frozen: it is large, and no longer of use.
    """
    (loss, terms), grad = value_and_grad(state.x, *args)
    updates, opt_state = state.optimizer.update(
        grad, state.opt_state, state.x, value=loss, grad=grad
    )
    x = optax.apply_updates(state.x, jax.tree.map(lambda u: state.step_scale * u, updates))
    running = state.status == Status.OK
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


def run_chunk(value_and_grad: ValueAndGrad, state: State, n: Any, *args: Any) -> State:
    """Make `n` evaluations, `n` being traced. Pure; not to be differentiated (see `run_scan`).

    Args:
        value_and_grad: `value_and_grad(x, *args) -> ((loss, terms), grad)`.
        state: from `init` or an earlier call.
        n: how many evaluations; the history keeps the last ones that fit.
        *args: everything that the function needs besides the point.
    """
    return jax.lax.fori_loop(0, n, lambda _, s: _step(value_and_grad, s, *args), state)


def run_scan(value_and_grad: ValueAndGrad, state: State, length: int, *args: Any) -> State:
    """`run_chunk` with a fixed number of evaluations, which can be differentiated in reverse."""
    return jax.lax.scan(lambda s, _: (_step(value_and_grad, s, *args), None), state, length=length)[
        0
    ]


def restart(state: State) -> State:
    """Where a run was lost, put it back to its best point with steps half as long. Pure.

    The optimiser begins anew there, and so does the average. Any other state stays as it is, and
    so does one that never saw a finite loss.
    """
    lost = (state.status == Status.NON_FINITE) & jnp.isfinite(state.best_loss)
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


# The host's loop dispatches single steps and not `run_chunk`, since XLA runs the body of a loop on
# one CPU thread. Dispatch is asynchronous, so an accelerator does not wait for the host.
_compiled_step = jax.jit(_step, static_argnums=0, donate_argnums=1)
_compiled_restart = jax.jit(restart, donate_argnums=0)
_compiled_outcome = jax.jit(outcome)

#: After so many halvings, steps are 1/256 of what was asked for: the fault lies elsewhere.
MAX_RESTARTS = 8


def run(
    value_and_grad: ValueAndGrad,
    state: State,
    *args: Any,
    num_steps: int,
    interrupted: threading.Event,
    callback: Callable[[Progress], object] | None = None,
    every: int | None = None,
    seconds_per_chunk: float = 1.0,
) -> Result:
    """Go on from `state` until `num_steps` evaluations are made in all; see `minimize`.

    Args:
        value_and_grad: `value_and_grad(x, *args) -> ((loss, terms), grad)`.
        state: from `init` or an earlier run. Its buffers are given to the run and used up.
        *args: pytrees passed on to the function.
        num_steps: evaluations in all, those that the state has seen included.
        interrupted: ends the run after the chunk in flight, once it is set.
        callback: called after each chunk with a `Progress`; a true answer ends the run.
        every: ends a chunk, and so calls the callback, at each multiple of so many evaluations.
        seconds_per_chunk: about how long the host leaves the device alone.

    Returns:
        A `Result`, its history beginning with the first evaluation made here.
    """
    ring = len(state.history["loss"])
    first = done = int(state.evaluation)
    status, restarts = Status(int(state.status)), 0
    rows: list[dict[str, Array]] = []
    start, n = time.perf_counter(), 1

    def history() -> dict[str, Array]:
        return {k: np.concatenate([row[k] for row in rows]) for k in rows[0]} if rows else {}

    while done < num_steps and status is Status.OK:
        before = time.perf_counter()
        for _ in range(min(n, num_steps - done, every - done % every if every else n)):
            state = _compiled_step(value_and_grad, state, *args)
        now, status = int(state.evaluation), Status(int(state.status))
        slots = np.arange(done, now) % ring
        seconds = time.perf_counter() - start
        rows.append(
            {"evaluation": np.arange(done + 1, now + 1), "seconds": np.full(now - done, seconds)}
            | {k: np.asarray(state.history[k])[slots] for k in ("loss", *state.history)}
        )
        if status is Status.NON_FINITE and restarts < MAX_RESTARTS:
            state = _compiled_restart(state)
            status = Status(int(state.status))
            if status is Status.OK:
                restarts += 1
                _log.warning(
                    "evaluation %d led to a point that is not finite: going back to the best one, "
                    "with steps %g times as long",
                    now,
                    float(state.step_scale),
                )
        # The first chunk may compile and tells nothing about speed.
        pace = (time.perf_counter() - before) / max(now - done, 1)
        n = min(max(int(seconds_per_chunk / pace), 1) if done > first else 2, ring)
        done = now
        if callback is not None:
            last = {k: float(rows[-1][k][-1]) for k in state.history}
            loss, x = last.pop("loss"), _compiled_outcome(state)
            if callback(Progress(done, num_steps, loss, last, seconds, x, history(), state)):
                interrupted.set()
        if interrupted.is_set() and done < num_steps and status is Status.OK:
            status = Status.INTERRUPTED
    if rows and not np.isfinite(float(state.best_loss)):
        status = Status.NON_FINITE
    return Result(_compiled_outcome(state), status, history(), state)


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
    for name, number in (("num_steps", num_steps), ("every", every)):
        if number is None and name == "every":
            continue
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive integer, not {number!r}")
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


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event that is yielded; a second Ctrl-C raises KeyboardInterrupt."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread receives signals
        return
    previous = signal.getsignal(signal.SIGINT)
    if previous in (signal.SIG_IGN, None):
        yield flag  # a job in the background is to ignore Ctrl-C; None is a handler of C code
        return

    def handle(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)
