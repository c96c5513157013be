"""Functions whose minimum is known, for the tests of the loop."""

import jax
import jax.numpy as jnp
import numpy as np


def with_half(function):
    """`function(x, *args)` as a `value_and_grad` with one term beside the loss."""

    def both(x, *args):
        loss = function(x, *args)
        return loss, {"half": loss / 2}

    return jax.value_and_grad(both, has_aux=True)


def quadratic(x, scales, centre):
    return 0.5 * jnp.sum(scales * (x - centre) ** 2)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def wall(x):
    """Convex, least at 0.9375; beyond 1 the value and the gradient are nan."""
    return jnp.sum(-x - 0.5 * jnp.sqrt(1 - x))


def tree_bowl(x):
    return jnp.sum((x["a"] - 1) ** 2) + jnp.sum((x["b"]["c"] + 2) ** 2)


QUADRATIC, ROSENBROCK, WALL, TREE = map(with_half, (quadratic, rosenbrock, wall, tree_bowl))
#: Arguments of the quadratic in three dimensions.
SMALL = (jnp.array([1.0, 10.0, 30.0]), jnp.array([1.0, -2.0, 0.5]))


def same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
