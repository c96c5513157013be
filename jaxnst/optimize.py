"""Minimise any function with any optax optimiser: one iteration is one evaluation.

`init`, `run_chunk` and `run_scan` are pure; `minimize` is the host's loop around them. Nothing here
knows about pictures.
"""

import enum
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

#: `value_and_grad(x, *args) -> ((loss, terms), grad)`, terms being a dict of numbers.
ValueAndGrad = Callable[..., Any]


class Status(enum.IntEnum):
    """How a run stands."""

    OK = 0  #: every evaluation asked for was made
    CONVERGED = 1  #: the optimiser no longer moves; later evaluations would repeat the last
    NON_FINITE = 2  #: the first loss or the next point was not finite; the best is kept
    INTERRUPTED = 3  #: stopped by Ctrl-C or by the callback; the best point is kept


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "x",
        "opt_state",
        "best_x",
        "best_loss",
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
    evaluation: jax.Array
    still: jax.Array
    status: jax.Array
    history: dict[str, jax.Array]
    optimizer: optax.GradientTransformationExtraArgs = field(repr=False)


class Progress(NamedTuple):
    """What a callback is given after each chunk."""

    evaluation: int  #: evaluations made so far
    num_steps: int  #: evaluations asked for
    loss: float  #: of the last evaluation
    terms: dict[str, float]  #: of the last evaluation
    seconds: float  #: since the run began
    x: Any  #: the best point so far


class Result(NamedTuple):
    """What `minimize` returns: the best point, a `Status`, the history and the last state."""

    x: Any
    status: Status
    history: dict[str, np.ndarray[Any, Any]]
    state: State


def init(
    value_and_grad: ValueAndGrad,
    x0: Any,
    *args: Any,
    optimizer: optax.GradientTransformation,
    history_length: int = 64,
) -> State:
    """The state before the first evaluation. `value_and_grad` is traced for shapes, not run."""
    (loss, terms), _ = jax.eval_shape(value_and_grad, x0, *args)
    if loss.shape != ():
        raise ValueError(f"value_and_grad must give a number as its loss, not shape {loss.shape}")
    optimizer = optax.with_extra_args_support(optimizer)
    state = State(
        x=x0,
        opt_state=optimizer.init(x0),
        best_x=x0,
        best_loss=jnp.array(jnp.inf, loss.dtype),
        evaluation=jnp.array(0, jnp.int32),
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
    # `minimize` donates these buffers, so none may be the caller's or stand here twice.
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
    x = optax.apply_updates(state.x, updates)
    running = state.status == Status.OK
    better = running & (loss < state.best_loss)  # never true of nan
    lost = ~_all(jnp.isfinite, x) | ((state.evaluation == 0) & ~jnp.isfinite(loss))
    still = jnp.where(_all(jnp.equal, x, state.x), state.still + 1, 0)
    # A schedule may begin with a step of zero, so one proposal that does not move is no end.
    status = jnp.where(lost, Status.NON_FINITE, jnp.where(still > 1, Status.CONVERGED, Status.OK))
    slot = state.evaluation % len(state.history["loss"])
    seen = {"loss": loss, **terms}
    return State(
        x=_where(running & ~lost, x, state.x),
        opt_state=opt_state,
        best_x=_where(better, state.x, state.best_x),
        best_loss=jnp.where(better, loss, state.best_loss),
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


# The host's loop dispatches single steps and not `run_chunk`, since XLA runs the body of a loop on
# one CPU thread. Dispatch is asynchronous, so an accelerator does not wait for the host.
_compiled_step = jax.jit(_step, static_argnums=0, donate_argnums=1)


def minimize(
    value_and_grad: ValueAndGrad,
    x0: Any,
    *args: Any,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    callback: Callable[[Progress], object] | None = None,
    seconds_per_chunk: float = 1.0,
) -> Result:
    """Minimise a function from `x0` in exactly `num_steps` evaluations, or fewer if it converges.

    Pass the same function and optimiser objects again, and nothing is compiled again; what varies
    belongs into `args`.

    Args:
        value_and_grad: `value_and_grad(x, *args) -> ((loss, terms), grad)`, jittable.
        x0: a pytree of floating arrays. It is not changed.
        *args: pytrees passed on to the function.
        optimizer: any optax transformation, such as `optax.adam(0.02)` or `lbfgs()`.
        num_steps: how many evaluations.
        callback: called after each chunk with a `Progress`; a true answer ends the run.
        seconds_per_chunk: about how long the host leaves the device alone.

    Returns:
        A `Result`; its `history` has `evaluation` (from 1), `loss` and each term, as they were
        evaluated. Ctrl-C ends the run after the chunk in flight with status INTERRUPTED; a second
        one at once.

    Raises:
        ValueError: `num_steps` is no positive integer.
    """
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps must be a positive integer, not {num_steps!r}")
    state = init(value_and_grad, x0, *args, optimizer=optimizer)
    ring = len(state.history["loss"])
    rows: list[dict[str, np.ndarray[Any, Any]]] = []
    start, done, n, status = time.perf_counter(), 0, 1, Status.OK
    with _interruptible() as interrupted:
        while done < num_steps and status is Status.OK:
            before = time.perf_counter()
            for _ in range(n):
                state = _compiled_step(value_and_grad, state, *args)
            now, status = int(state.evaluation), Status(int(state.status))
            slots = np.arange(done, now) % ring
            rows.append({k: np.asarray(v)[slots] for k, v in state.history.items()})
            seconds = time.perf_counter() - before
            compiled = done > 0  # the first chunk compiles and tells nothing about speed
            done = now
            n = min(max(int(n * seconds_per_chunk / seconds), 1) if compiled else 2, ring)
            n = min(n, num_steps - done)
            if callback is not None:
                last = {k: float(v[-1]) for k, v in rows[-1].items()}
                best = jax.tree.map(jnp.copy, state.best_x)  # the state's own will be donated
                elapsed = time.perf_counter() - start
                if callback(Progress(done, num_steps, last.pop("loss"), last, elapsed, best)):
                    interrupted.set()
            if interrupted.is_set() and done < num_steps and status is Status.OK:
                status = Status.INTERRUPTED
    if not np.isfinite(float(state.best_loss)):
        status = Status.NON_FINITE
    history = {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}
    history = {"evaluation": np.arange(1, done + 1), **history}
    return Result(state.best_x, status, history, state)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event that is yielded; a second Ctrl-C raises KeyboardInterrupt."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread receives signals
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)
