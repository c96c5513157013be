"""The host's loop over a minimisation: it times, shows and stops what the device computes."""

import logging
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnst.compilation import compiled, make_room
from jaxnst.history import Array, History, history_of, join, last_of
from jaxnst.optimize import (
    Info,
    State,
    Status,
    ValueAndGrad,
    as_argument,
    init,
    outcome,
    restart,
    step,
)

Chunk = tuple[State, list[Info], Any]  #: state, infos and status, which `run` yields

_log = logging.getLogger(__name__)

#: Of one scale or run, so that all scales together can be counted in 32 bits.
MAX_STEPS = 10**8


class Progress(NamedTuple):
    """The record passed to a callback after each chunk of evaluations."""

    evaluation: int  #: evaluations made so far
    num_steps: int  #: evaluations asked for
    loss: Any  #: of the last evaluation, a float or an array by lanes
    terms: dict[str, Any]  #: likewise of each term
    seconds: float  #: since the run began
    x: Any  #: the result so far, see `outcome`
    history: History  #: of all evaluations so far, as in `Result`
    status: Any  #: a `Status`, or an array of them by lanes
    done: Any  #: whether the run is finished, or an array by lanes
    state: Any  #: the whole state; the next step reuses its buffers, so copy what you keep


class Result(NamedTuple):
    """The result of `minimize`."""

    x: Any  #: the result, see `outcome`
    status: Status  #: how the run ended
    history: History  #: arrays by evaluation (from 1), seconds, loss, each term


#: The largest number of evaluations that are dispatched ahead of the device.
_MAX_CHUNK = 256

#: How many are, if several processes compute one run: their clocks differ, but all have to run
#: the same programs in the same order.
_CHUNK_OF_PROCESSES = 8


def run(
    advance: Callable[[State], tuple[State, Info]],
    recover: Callable[[State], State],
    state: State,
    limit: Any,
    *,
    every: int | None = None,
    seconds_per_chunk: float = 1.0,
) -> Iterator[tuple[State, list[Info], Array]]:
    """Continue from `state` until `limit` evaluations have been made in all.

    Single steps are dispatched, because XLA runs the body of a loop on the device on one CPU
    thread. Dispatch is asynchronous, so an accelerator does not wait for the host.

    Args:
        advance: `step` as a compiled program, which may donate the state's buffers.
        recover: `restart`, likewise.
        state: of one run, or of lanes with a leading axis.
        limit: number of evaluations in all; it may differ between lanes.
        every: also end a chunk at each multiple of this many evaluations.
        seconds_per_chunk: about how long the device runs before the host looks again.

    Yields:
        After each chunk the state, the `Info` of each step, and the status.
    """
    evaluation, status = jax.device_get((state.evaluation, state.status))
    limit = np.broadcast_to(np.asarray(limit, np.int32), evaluation.shape)
    arrays = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
    alone = all(array.is_fully_addressable for array in arrays)
    done, n, timed = int(evaluation.max()), 1, False
    # After a restart, a lane is some evaluations behind the others.
    while (alive := (status == Status.OK) & (evaluation < limit)).any():
        began, infos = time.perf_counter(), []
        left = int((limit - evaluation)[alive].max())
        for _ in range(min(n, left, every - done % every if every else n)):
            state, info = advance(state)
            infos.append(info)
        infos, now, status = jax.device_get((infos, state.evaluation, state.status))
        if (status == Status.NON_FINITE).any():
            lost, state = status, recover(state)
            status, scale = jax.device_get((state.status, state.step_scale))
            if (status != lost).any():
                _log.warning(
                    "evaluation %d led to a point that is not finite: going back to the best one, "
                    "with steps %g times as long",
                    now[status != lost].min(),
                    scale[status != lost].min(),
                )
        # The first chunk may compile, so its duration says nothing about speed.
        pace = (time.perf_counter() - began) / max(int((now - evaluation).max()), 1)
        n = min(max(int(seconds_per_chunk / pace), 1), _MAX_CHUNK) if timed else 2
        n = n if alone else _CHUNK_OF_PROCESSES
        evaluation, done, timed = now, int(now.max()), True
        yield state, infos, status


@lru_cache(maxsize=8)  # few: a function may hold on to large arrays
def _programs(value_and_grad: ValueAndGrad) -> tuple[Any, Any, Any]:
    def begin(x0: Any, optimizer: Any, args: Any) -> State:
        return init(value_and_grad, x0, *args, optimizer=optimizer)

    def advance(state: State, limit: Any, optimizer: Any, args: Any) -> tuple[State, Info]:
        return step(value_and_grad, state, *args, optimizer=optimizer, limit=limit)

    def recover(state: State, optimizer: Any) -> State:
        return restart(state, optimizer=optimizer)

    return (
        compiled(begin),
        compiled(advance, donate=(0,)),
        compiled(recover, donate=(0,)),
    )


_outcome = jax.jit(outcome)


def minimize(
    value_and_grad: ValueAndGrad,
    x0: Any,
    *args: Any,
    optimizer: Any,
    num_steps: int,
    callback: Callable[[Progress], object] | None = None,
    every: int | None = None,
    seconds_per_chunk: float = 1.0,
) -> Result:
    """Minimise a function from `x0` in exactly `num_steps` evaluations, or fewer if it converges.

    Calls with the same function share compiled programs, so pass what varies in `args`. If a step
    leads to a point that is not finite, the run logs a warning, returns to its best point, and
    takes steps half as long from there.

    Args:
        value_and_grad: `value_and_grad(x, *args)`, which can be jitted. It returns `(loss, grad)`,
            or `((loss, terms), grad)` as `jax.value_and_grad(…, has_aux=True)` does, where terms
            are a pytree of arrays for the history. A parameter `evaluation`, if it has one, gets
            the number of evaluations before this one, for example to fold into a random key.
        x0: a pytree of floating arrays. It is not changed.
        *args: pytrees passed on to the function.
        optimizer: an optax transformation, `Adam(…)` or `Lbfgs(…)`, whose numbers are traced.
        num_steps: number of evaluations.
        callback: called after each chunk with a `Progress`; if it returns true, the run ends.
        every: also end a chunk, and so call the callback, at each multiple of this number.
        seconds_per_chunk: about how many seconds pass between two calls of the callback.

    Returns:
        A `Result`. Ctrl-C ends the run with the result of the last chunk and status INTERRUPTED.

    Raises:
        TypeError: the optimiser has to call the loss itself, as line searches do, `x0` is in
            float16, or an argument is traced.
        ValueError: `num_steps` or `every` is not a positive integer, or the loss is not one number.

    >>> import jax, jax.numpy as jnp, optax
    >>> def loss(x, target):
    ...     return jnp.sum((x - target) ** 2)
    >>> vg = jax.value_and_grad(loss)
    >>> result = minimize(vg, jnp.zeros(2), 3.0, optimizer=optax.adam(0.5), num_steps=50)
    >>> print(result.status, len(result.history["loss"]), [round(float(v)) for v in result.x])
    Status.OK 50 [3, 3]
    """
    check_num_steps("num_steps", num_steps)
    if every is not None:
        check_num_steps("every", every)
    if any(jnp.result_type(leaf) == jnp.float16 for leaf in jax.tree.leaves(x0)):
        raise TypeError(
            "x0 must be float32, float64 or bfloat16, not float16, in which gradients overflow and "
            'squares vanish; take x0.astype("float32")'
        )
    optimizer = as_argument(optimizer)
    check_not_traced("minimize", (x0, args, optimizer))
    make_room()
    begin, advance, recover = _programs(value_and_grad)
    state = begin(x0, optimizer, args)
    # `advance` donates the state's buffers, some of which may be the caller's own. And its results
    # are not weakly typed, as `x0` may be: it would be compiled for both.
    state = jax.tree.map(lambda leaf: jnp.array(leaf, leaf.dtype, copy=True), state)
    chunks = run(
        lambda state: advance(state, num_steps, optimizer, args),
        lambda state: recover(state, optimizer),
        state,
        num_steps,
        every=every,
        seconds_per_chunk=seconds_per_chunk,
    )
    last, stopped = consume(_records(chunks, num_steps), callback)
    return Result(
        last.x, Status.INTERRUPTED if stopped and not last.done else last.status, last.history
    )


def _records(chunks: Iterator[Chunk], num_steps: int) -> Iterator[Progress]:
    """Yield the record of each chunk of evaluations."""
    start, history = time.perf_counter(), None
    for state, infos, status in chunks:
        seconds = time.perf_counter() - start
        rows = history_of(infos, seconds=seconds)
        history = join([history, rows] if history else [rows])
        evaluation = int(history["evaluation"].max(initial=0))
        loss, terms = last_of(history)
        yield Progress(
            evaluation=evaluation,
            num_steps=num_steps,
            loss=loss,
            terms=terms,
            seconds=seconds,
            x=_outcome(state),
            history=history,
            status=Status(int(status)),
            done=status != Status.OK or evaluation >= num_steps,
            state=state,
        )


def check_not_traced(function: str, arguments: Any) -> None:
    """Raise TypeError if an argument is traced, since a run decides on the host when it ends."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
        raise TypeError(
            f"{function} reads losses while it runs, so its arguments must not be traced by jit, "
            "grad or vmap; take init and step in a jax.lax.scan, or sweep for many runs at once"
        )


def consume(
    records: Iterator[Progress], callback: Callable[[Progress], object] | None
) -> tuple[Progress, bool]:
    """Go through the records of a run, and return the last one and whether it was stopped there.

    The callback stops a run by returning true, and so does Ctrl-C.
    """
    last = None
    try:
        for last in records:
            if callback is not None and callback(last):
                return last, True
    except KeyboardInterrupt:
        if last is None:
            raise
        return last, True
    assert last is not None  # a run has at least one record
    return last, False


def check_num_steps(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is an integer above 0 whose sums fit in 32 bits."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r}")
    if int(value) > MAX_STEPS:
        raise ValueError(f"{name} must be at most {MAX_STEPS}, not {value!r}")
