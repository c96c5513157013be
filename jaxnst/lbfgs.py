"""L-BFGS (Liu & Nocedal 1989) as an optax transformation with one evaluation per update."""

from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import export

MAX_MEMORY = 10**8  #: far more would overflow the sizes of arrays, where XLA aborts


class Pairs(NamedTuple):
    """Curvature pairs in a ring buffer: leaves of `s` and `y` have a leading axis `memory` long."""

    s: Any  #: differences of points
    y: Any  #: differences of gradients
    rho: jax.Array  #: 1 / sᵀy of each pair, 0 for an empty slot
    kept: jax.Array  #: number of pairs kept so far, overwritten ones included
    scale: jax.Array  #: sᵀy / yᵀMy of the newest pair, the factor of the preconditioner M


class LbfgsState(NamedTuple):
    """The last accepted point, the step being tried from it, and the curvature pairs."""

    x: Any  #: last accepted point
    grad: Any  #: its gradient
    value: jax.Array  #: its value; the largest number if no point was accepted yet
    direction: Any  #: the search direction from there
    slope: jax.Array  #: the derivative along it
    step: jax.Array  #: the multiple of it being tried
    pairs: Pairs


export.register_namedtuple_serialization(Pairs, serialized_name="jaxnst.lbfgs.Pairs")
export.register_namedtuple_serialization(LbfgsState, serialized_name="jaxnst.LbfgsState")


def lbfgs(
    learning_rate: Any = 1.0,
    *,
    memory: int = 20,
    armijo: Any = 1e-4,
    first_step: Any = None,
    max_step: Any = None,
    preconditioner: Callable[[Any], Any] | None = None,
    initial_scaling: Any = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Return L-BFGS with one evaluation per update, accepted or not.

    If the value of the point just evaluated is finite and low enough (Armijo), the point is
    accepted and the next one is proposed along a new direction; if not, the next one is closer to
    the last accepted point. A pair with sᵀy ≤ 0 is dropped, so every direction descends and
    accepted values never rise. (`optax.scale_by_lbfgs` keeps it, and climbs without line searches.)

    By default the first step has a 1-norm of `learning_rate`, as in torch, and steps have no limit.
    If the unit is known, as for pixels in [0, 1], `first_step` and `max_step` save the evaluations
    lost on a tiny first step and an overlong second one.

    Every number may be traced. With `optax.inject_hyperparams`, pass
    `static_args=("memory", "preconditioner")`.

    Args:
        learning_rate: the step tried first along each direction.
        memory: number of pairs kept; each takes the memory of two points.
        armijo: fraction of the predicted decrease that a point must reach.
        first_step: root mean square of the first step and of any without pairs to measure it; None
            for a 1-norm of `learning_rate`.
        max_step: root mean square that no step exceeds; None for no limit.
        preconditioner: M, a symmetric positive definite linear map of trees like `params`; None for
            the identity. The initial inverse Hessian is H₀ = initial_scaling · (sᵀy / yᵀMy) · M.
            This is L-BFGS in z with x = M^½ z: what M enlarges changes easily.
        initial_scaling: factor of H₀. The stiffest directions dominate sᵀy / yᵀMy, which makes it
            small; if many directions are soft, 2 goes further.

    Returns:
        An optax transformation whose `update` takes `params` and `value=`.

    Raises:
        TypeError: `memory` is traced or not an integer.
        ValueError: `memory` is above 10**8, or a number that must be positive is not.

    >>> import jax, jax.numpy as jnp, optax
    >>> def loss(x):
    ...     return jnp.sum((x - 3.0) ** 2)
    >>> x, optimizer = jnp.zeros(2), lbfgs()
    >>> state = optimizer.init(x)
    >>> for _ in range(10):
    ...     value, grad = jax.value_and_grad(loss)(x)
    ...     updates, state = optimizer.update(grad, state, x, value=value)
    ...     x = optax.apply_updates(x, updates)
    >>> [round(float(v), 3) for v in x]
    [3.0, 3.0]
    """
    if isinstance(memory, bool) or not isinstance(memory, Integral):
        raise TypeError(
            f"memory must be an integer, not {memory!r}; with optax.inject_hyperparams add "
            'static_args=("memory", "preconditioner")'
        )
    positive = {"first_step": first_step, "max_step": max_step, "initial_scaling": initial_scaling}
    for name, given in {"memory": memory, **positive}.items():
        if isinstance(given, int | float | np.generic) and not given > 0:
            raise ValueError(f"{name} must be a positive number, not {given!r}")
    if memory > MAX_MEMORY:
        raise ValueError(f"memory must be at most {MAX_MEMORY}, not {memory!r}")

    def precondition(x: Any) -> Any:
        return x if preconditioner is None else preconditioner(x)

    def init_fn(params: Any) -> LbfgsState:
        dtype = _scalar_dtype(params)
        zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
        ring = jax.tree.map(lambda leaf: jnp.zeros((memory, *leaf.shape), leaf.dtype), params)
        return LbfgsState(
            x=params,
            grad=optax.tree.zeros_like(params),
            value=jnp.full((), jnp.finfo(dtype).max, dtype),
            direction=optax.tree.zeros_like(params),
            slope=zero,
            step=zero,
            pairs=Pairs(ring, ring, jnp.zeros(memory, dtype), jnp.zeros((), jnp.int32), one),
        )

    def update_fn(
        updates: Any, state: LbfgsState, params: Any = None, *, value: jax.Array, **_: Any
    ) -> tuple[Any, LbfgsState]:
        dtype = _scalar_dtype(params)
        value = value.astype(dtype)
        rate, limit, start, scaling = (
            None if x is None else jnp.asarray(x).astype(dtype)
            for x in (learning_rate, max_step, first_step, initial_scaling)
        )
        first = state.value == jnp.finfo(dtype).max
        decrease = jnp.asarray(armijo).astype(dtype) * state.step * state.slope
        accepted = jnp.isfinite(value) & _all_finite(updates) & (value <= state.value + decrease)
        step = _shorter(state, value)
        # Many cuts did not help, so the pairs do not fit this place: forget them.
        forget = ~accepted & (step < 1e-6 * rate) & state.pairs.rho.any()

        s = jax.tree.map(jnp.subtract, params, state.x)
        y = jax.tree.map(jnp.subtract, updates, state.grad)
        pairs = _push(state.pairs, s, y, precondition(y), keep=accepted & ~first)
        pairs = pairs._replace(rho=jnp.where(forget, jnp.zeros_like(pairs.rho), pairs.rho))

        x, grad = _where(accepted, (params, updates), (state.x, state.grad))
        direction, slope, unmeasured = _descent(
            grad, pairs, lambda q: _scaled(scaling, precondition(q))
        )
        fresh = accepted | forget
        size = _rms(direction)
        begin = rate / _norm1(direction) if start is None else start / size
        full = jnp.where(unmeasured, begin, rate)
        if limit is not None:
            full = jnp.minimum(full, limit / size)
        new = LbfgsState(
            x=x,
            grad=grad,
            value=jnp.where(accepted, value, state.value),
            direction=_where(fresh, direction, state.direction),
            slope=jnp.where(fresh, slope, state.slope),
            step=jnp.where(fresh, full, step),
            pairs=pairs,
        )
        proposal = jax.tree.map(lambda x, d: x + new.step.astype(x.dtype) * d, new.x, new.direction)
        return jax.tree.map(jnp.subtract, proposal, params), new

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _shorter(state: LbfgsState, value: jax.Array) -> jax.Array:
    """Return the step after a refused one: a parabola's minimum, 1/10 to 1/2 of the refused."""
    # Guard before the division, so that derivatives through a whole run are finite too.
    finite = jnp.isfinite(value) & (state.value < jnp.finfo(state.value.dtype).max)
    drop = -state.step * state.slope
    rise = jnp.where(finite, value, 0) - jnp.where(finite, state.value, 0) + drop
    parabola = 0.5 * drop / jnp.where(rise > 0, rise, 1)
    return state.step * jnp.clip(jnp.where(finite, parabola, 0), 0.1, 0.5)


def _push(pairs: Pairs, s: Any, y: Any, my: Any, *, keep: jax.Array) -> Pairs:
    """Store a pair in the ring if `keep` and if its curvature is positive."""
    sy, yy, ymy = _dot(s, y), _dot(y, y), _dot(y, my)
    # sᵀy > 0 beyond rounding, tested as an angle, so that the units of x do not matter.
    keep = keep & (sy > jnp.finfo(sy.dtype).eps * jnp.sqrt(_dot(s, s)) * jnp.sqrt(yy))
    slot = pairs.kept % len(pairs.rho)

    def put(ring: jax.Array, new: jax.Array) -> jax.Array:
        # This writes one slot in place; a `where` over the whole ring would copy all of it.
        return ring.at[slot].set(jnp.where(keep, new, ring[slot]))

    return Pairs(
        s=jax.tree.map(put, pairs.s, s),
        y=jax.tree.map(put, pairs.y, y),
        rho=put(pairs.rho, 1 / jnp.where(keep, sy, 1)),
        kept=pairs.kept + keep,
        scale=jnp.where(keep, sy / jnp.where(keep, ymy, 1), pairs.scale),
    )


def _descent(
    grad: Any, pairs: Pairs, preconditioner: Callable[[Any], Any]
) -> tuple[Any, jax.Array, jax.Array]:
    """Return the direction, the slope along it, and whether no pair determines its length."""
    direction = _scaled(-1.0, _inverse_hessian_times(grad, pairs, preconditioner))
    slope = _dot(grad, direction)
    spoilt = ~(slope < 0)  # by rounding
    direction = _where(spoilt, _scaled(-1.0, grad), direction)
    slope = jnp.where(spoilt, -_dot(grad, grad), slope)
    return direction, slope, spoilt | ~pairs.rho.any()


def _inverse_hessian_times(grad: Any, pairs: Pairs, preconditioner: Callable[[Any], Any]) -> Any:
    """Apply the two-loop recursion (Nocedal & Wright 2006, algorithm 7.4). Empty slots: rho = 0."""
    memory = len(pairs.rho)
    newest_first = (pairs.kept - 1 - jnp.arange(memory)) % memory

    def backward(q: Any, slot: jax.Array) -> tuple[Any, jax.Array]:
        s, y = jax.tree.map(lambda ring: ring[slot], (pairs.s, pairs.y))
        alpha = pairs.rho[slot] * _dot(s, q)
        return jax.tree.map(lambda q, y: q - alpha.astype(y.dtype) * y, q, y), alpha

    def forward(r: Any, slot_and_alpha: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        slot, alpha = slot_and_alpha
        s, y = jax.tree.map(lambda ring: ring[slot], (pairs.s, pairs.y))
        beta = pairs.rho[slot] * _dot(y, r)
        return jax.tree.map(lambda r, s: r + (alpha - beta).astype(s.dtype) * s, r, s), None

    q, alphas = jax.lax.scan(backward, grad, newest_first)
    r = _scaled(pairs.scale, preconditioner(q))
    return jax.lax.scan(forward, r, (newest_first, alphas), reverse=True)[0]


def _scalar_dtype(x: Any) -> Any:
    """Return the dtype of sums over a tree: at least float32, and as wide as any leaf."""
    return jnp.promote_types(optax.tree.dtype(x, "promote"), jnp.float32)


def _sum(function: Callable[..., jax.Array], *trees: Any) -> jax.Array:
    dtype = _scalar_dtype(trees[0])
    sums = jax.tree.map(lambda *leaves: jnp.sum(function(*leaves)).astype(dtype), *trees)
    return jax.tree.reduce(jnp.add, sums)


def _dot(x: Any, y: Any) -> jax.Array:
    # Not a matrix product, which has low precision on some accelerators.
    return _sum(jnp.multiply, x, y)


def _norm1(x: Any) -> jax.Array:
    norm = _sum(jnp.abs, x)
    return jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)


def _rms(x: Any) -> jax.Array:
    # Guard before the root, so that the derivative at zero is finite.
    square = _dot(x, x)
    return jnp.sqrt(jnp.maximum(square / optax.tree.size(x), jnp.finfo(square.dtype).tiny))


def _scaled(factor: Any, x: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(factor, leaf.dtype) * leaf, x)


def _all_finite(x: Any) -> jax.Array:
    return jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda a: jnp.isfinite(a).all(), x))


def _where(condition: jax.Array, x: Any, y: Any) -> Any:
    return jax.tree.map(partial(jnp.where, condition), x, y)
