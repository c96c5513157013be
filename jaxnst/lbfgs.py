"""L-BFGS (Liu & Nocedal 1989) as an optax transformation, of which one update is one evaluation."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnst.checks import check_positive_integer


class LbfgsState(NamedTuple):
    """The last accepted point, the step on trial from there, and the curvature pairs."""

    x: Any  #: last accepted point, its gradient and its value (inf before the first)
    grad: Any
    value: jax.Array
    direction: Any  #: the search direction from there, the slope along it, and the step on trial
    slope: jax.Array
    step: jax.Array
    pairs: "Pairs"


class Pairs(NamedTuple):
    """Curvature pairs, a ring: leaves of `s` and `y` have a leading axis of the memory's length."""

    s: Any  #: differences of points
    y: Any  #: differences of gradients
    rho: jax.Array  #: 1 / sᵀy of each pair, 0 where there is none
    kept: jax.Array  #: pairs ever kept
    scale: jax.Array  #: sᵀy / yᵀMy of the newest pair, the factor of the first metric M


def lbfgs(
    *,
    learning_rate: float = 1.0,
    memory: int = 20,
    armijo: float = 1e-4,
    first_step: float | None = None,
    max_step: float | None = None,
    metric: Callable[[Any], Any] | None = None,
    stretch: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS of which one update is one evaluation, accepted or not.

    Each update looks at the point just evaluated. If its value is finite and low enough (Armijo),
    it is accepted and the next point is proposed along a new direction; if not, the next proposal
    is nearer to the last accepted point. A pair with sᵀy ≤ 0 is dropped, so that a direction
    always descends and an accepted value never exceeds an earlier one. `optax.scale_by_lbfgs`
    does not serve here: it keeps pairs with sᵀy ≤ 0 and then climbs.

    As it stands it takes units as they are: the first step has a 1-norm of `learning_rate`, as in
    torch, and none is limited. Where the unit is known, as with pixels in [0, 1], `first_step` and
    `max_step` save the evaluations that a tiny first step and the wild one after it cost.

    Args:
        learning_rate: the step tried first along each direction.
        memory: how many pairs are kept; each costs two points of space.
        armijo: the share of the promised decrease that a point must reach.
        first_step: root mean square of the first step, and of any without a pair to measure it by;
            None for a 1-norm of `learning_rate`.
        max_step: root mean square that no step exceeds; None for no limit.
        metric: what stands for the inverse Hessian M before there are pairs: a symmetric positive
            definite linear map of trees like `params`. None for the identity. It is L-BFGS in z
            with x = M^½ z, and so a choice of what is easy to change.
        stretch: how much longer M is made than sᵀy / yᵀMy of the newest pair. That is a short
            estimate, made by the stiffest directions alone; where many are soft, 2 goes further.

    Returns:
        An optax transformation whose `update` wants `params` and `value=`.

    Raises:
        ValueError: `memory`, `first_step`, `max_step` or `stretch` is no positive number.
    """
    check_positive_integer("memory", memory)
    for name, given in (("first_step", first_step), ("max_step", max_step), ("stretch", stretch)):
        if given is not None and not given > 0:
            raise ValueError(f"{name} must be a positive number, not {given!r}")

    def apply_metric(x: Any) -> Any:
        return x if metric is None else metric(x)

    def init_fn(params: Any) -> LbfgsState:
        dtype = optax.tree.dtype(params, "lowest")
        zero = jnp.zeros((), dtype)
        ring = jax.tree.map(lambda leaf: jnp.zeros((memory, *leaf.shape), leaf.dtype), params)
        return LbfgsState(
            x=params,
            grad=optax.tree.zeros_like(params),
            value=jnp.full((), jnp.inf, dtype),
            direction=optax.tree.zeros_like(params),
            slope=zero,
            step=zero,
            pairs=Pairs(
                s=ring,
                y=ring,
                rho=jnp.zeros(memory, dtype),
                kept=jnp.zeros((), jnp.int32),
                scale=jnp.ones((), dtype),
            ),
        )

    def update_fn(
        updates: Any, state: LbfgsState, params: Any = None, *, value: jax.Array, **_: Any
    ) -> tuple[Any, LbfgsState]:
        first = jnp.isinf(state.value)
        low_enough = first | (value <= state.value + armijo * state.step * state.slope)
        accepted = jnp.isfinite(value) & _all_finite(updates) & low_enough
        step = _shorter(state, value)
        # Cut again and again in vain: the pairs tell lies about this place. Forget them.
        forget = ~accepted & (step < 1e-6 * learning_rate) & state.pairs.rho.any()

        s = jax.tree.map(jnp.subtract, params, state.x)
        y = jax.tree.map(jnp.subtract, updates, state.grad)
        pairs = _push(state.pairs, s, y, apply_metric(y), keep=accepted & ~first)
        pairs = pairs._replace(rho=jnp.where(forget, 0, pairs.rho))

        x, grad = _where(accepted, (params, updates), (state.x, state.grad))
        direction, slope, plain = _descent(grad, pairs, lambda q: _scaled(stretch, apply_metric(q)))
        anew = accepted | forget
        size = _rms(direction)
        begin = learning_rate / _norm1(direction) if first_step is None else first_step / size
        full = jnp.where(plain, begin, learning_rate)
        if max_step is not None:
            full = jnp.minimum(full, max_step / size)
        new = LbfgsState(
            x=x,
            grad=grad,
            value=jnp.where(accepted, value, state.value).astype(state.value.dtype),
            direction=_where(anew, direction, state.direction),
            slope=jnp.where(anew, slope, state.slope),
            step=jnp.where(anew, full, step),
            pairs=pairs,
        )
        proposal = jax.tree.map(lambda x, d: x + new.step * d, new.x, new.direction)
        return jax.tree.map(jnp.subtract, proposal, params), new

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _shorter(state: LbfgsState, value: jax.Array) -> jax.Array:
    """The step to try after a refused one: least of a parabola, within 1/10 and 1/2 of the old."""
    # Guarded before the division, so that derivatives through a whole run are finite too.
    finite = jnp.isfinite(value) & jnp.isfinite(state.value)
    drop = -state.step * state.slope
    rise = jnp.where(finite, value, 0) - jnp.where(finite, state.value, 0) + drop
    parabola = 0.5 * drop / jnp.where(rise > 0, rise, 1)
    return state.step * jnp.clip(jnp.where(finite, parabola, 0), 0.1, 0.5)


def _push(pairs: Pairs, s: Any, y: Any, my: Any, *, keep: jax.Array) -> Pairs:
    """Put a pair into the ring if `keep` and if it has positive curvature."""
    sy, yy, ymy = _dot(s, y), _dot(y, y), _dot(y, my)
    # sᵀy > 0 but for rounding, as an angle, so that the units of x do not matter.
    keep = keep & (sy > jnp.finfo(sy.dtype).eps * jnp.sqrt(_dot(s, s)) * jnp.sqrt(yy))
    slot = pairs.kept % len(pairs.rho)

    def put(ring: jax.Array, new: jax.Array) -> jax.Array:
        # Writes one slot in place; a `where` over the whole ring would copy it each time.
        return ring.at[slot].set(jnp.where(keep, new, ring[slot]))

    return Pairs(
        s=jax.tree.map(put, pairs.s, s),
        y=jax.tree.map(put, pairs.y, y),
        rho=put(pairs.rho, 1 / jnp.where(keep, sy, 1)),
        kept=pairs.kept + keep,
        scale=jnp.where(keep, sy / jnp.where(keep, ymy, 1), pairs.scale),
    )


def _descent(
    grad: Any, pairs: Pairs, metric: Callable[[Any], Any]
) -> tuple[Any, jax.Array, jax.Array]:
    """The direction, the slope along it, and whether its length means nothing."""
    direction = _scaled(-1, _inverse_hessian_times(grad, pairs, metric))
    slope = _dot(grad, direction)
    spoilt = ~(slope < 0)  # by rounding
    return (
        _where(spoilt, _scaled(-1, grad), direction),
        jnp.where(spoilt, -_dot(grad, grad), slope),
        spoilt | ~pairs.rho.any(),
    )


def _inverse_hessian_times(grad: Any, pairs: Pairs, metric: Callable[[Any], Any]) -> Any:
    """The two-loop recursion (Nocedal & Wright 2006, algorithm 7.4); empty slots have rho = 0."""
    memory = len(pairs.rho)
    newest_first = (pairs.kept - 1 - jnp.arange(memory)) % memory

    def backward(q: Any, slot: jax.Array) -> tuple[Any, jax.Array]:
        s, y = jax.tree.map(lambda ring: ring[slot], (pairs.s, pairs.y))
        alpha = pairs.rho[slot] * _dot(s, q)
        return jax.tree.map(lambda q, y: q - alpha * y, q, y), alpha

    def forward(r: Any, slot_and_alpha: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        slot, alpha = slot_and_alpha
        s, y = jax.tree.map(lambda ring: ring[slot], (pairs.s, pairs.y))
        beta = pairs.rho[slot] * _dot(y, r)
        return jax.tree.map(lambda r, s: r + (alpha - beta) * s, r, s), None

    q, alphas = jax.lax.scan(backward, grad, newest_first)
    r = _scaled(pairs.scale, metric(q))
    return jax.lax.scan(forward, r, (newest_first, alphas), reverse=True)[0]


def _dot(x: Any, y: Any) -> jax.Array:
    # A sum of products and not a matrix product, which has low precision on some accelerators.
    return jax.tree.reduce(jnp.add, jax.tree.map(lambda a, b: jnp.sum(a * b), x, y))


def _norm1(x: Any) -> jax.Array:
    norm = jax.tree.reduce(jnp.add, jax.tree.map(lambda leaf: jnp.sum(jnp.abs(leaf)), x))
    return jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)


def _rms(x: Any) -> jax.Array:
    # Guarded before the root, so that the derivative at zero is finite.
    tiny = jnp.finfo(optax.tree.dtype(x, "lowest")).tiny
    return jnp.sqrt(jnp.maximum(_dot(x, x) / optax.tree.size(x), tiny))


def _scaled(factor: Any, x: Any) -> Any:
    return jax.tree.map(lambda leaf: factor * leaf, x)


def _all_finite(x: Any) -> jax.Array:
    return jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda a: jnp.isfinite(a).all(), x))


def _where(condition: jax.Array, x: Any, y: Any) -> Any:
    return jax.tree.map(partial(jnp.where, condition), x, y)
