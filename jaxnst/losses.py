"""Gram matrices and distances: arrays only, never the network.

A statistic is a mean over positions, weighted by `where`: 1 counts a position, 0 leaves it out.
Without `where`, all positions count equally. Sums over positions are marked by
`sum_over_positions`, other functions of features by `not_additive`.
"""

import inspect
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Where = Float[Array, "h w"] | None
Function = TypeVar("Function")


def not_additive(function: Function) -> Function:
    """Mark a statistic or distance whose values for parts of a picture do not add up.

    Its attribute `additive` becomes False, and so does that of a term that uses it.
    """
    function.additive = False  # type: ignore[attr-defined]
    return function


def sum_over_positions(function: Function) -> Function:
    """Mark a statistic or distance that is a sum over positions, weighted by `where`, not a mean.

    Its attribute `sums` becomes True, and so does that of a term that uses it.
    """
    function.sums = True  # type: ignore[attr-defined]
    return function


def is_additive(function: Any) -> bool:
    """Return whether a function, or the one inside a `partial`, is a mean or sum over positions."""
    return bool(getattr(_inside(function), "additive", True))


def is_sum(function: Any) -> bool:
    """Return whether a function, or the one inside a `partial`, is a sum over positions."""
    return bool(getattr(_inside(function), "sums", False))


def _inside(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    return function


def around_edges(function: Any, wrap: bool) -> Any:
    """Return a function as it is for an image that tiles the plane, if `wrap` says that it does.

    It then gets `wrap=True`, unless it has no option of that name.
    """
    takes = wrap and "wrap" in inspect.signature(function).parameters
    return partial(function, wrap=True) if takes else function


def gram_matrix(features: Float[Array, "h w c"], where: Where = None) -> Float[Array, "c c"]:
    """Return the mean over positions of the product of each pair of channels.

    Gatys et al. 2016, equation 3, divided by the number of positions, so that it does not depend
    on the size of the picture.

    Args:
        features: (h, w, c) of one layer.
        where: (h, w) weights of the positions, 0 or more; None for 1 everywhere. If all are 0,
            the result is 0.

    Returns:
        (c, c), symmetric, in float32 or better.

    Raises:
        ValueError: `features` or `where` has another shape.

    >>> import jax.numpy as jnp
    >>> gram_matrix(jnp.ones((4, 4, 2)))
    Array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    return raw_gram_matrix(features, where) / count_positions(features, where)


@sum_over_positions
def raw_gram_matrix(features: Float[Array, "h w c"], where: Where = None) -> Float[Array, "c c"]:
    """Return the sum over positions of the product of each pair of channels.

    Gatys et al. 2016, equation 3: G_ij = Σ_k F_ik F_jk. It grows with the number of positions, so
    it cannot compare pictures of different sizes; `gram_matrix` can.

    Args:
        features: (h, w, c) of one layer.
        where: (h, w) weights of the positions, 0 or more; None for 1 everywhere.

    Returns:
        (c, c), symmetric, in float32 or better.

    Raises:
        ValueError: `features` or `where` has another shape.

    >>> import jax.numpy as jnp
    >>> float(raw_gram_matrix(jnp.ones((4, 4, 1)))[0, 0])
    16.0
    """
    check_features(features, where)
    if where is None:
        return _products(features)
    features = accumulate(features)
    return _weighted_products(features, where[:, :, None].astype(features.dtype))


@jax.custom_jvp
def _products(features: jax.Array) -> jax.Array:
    return sum_products(features, features)


@_products.defjvp
def _products_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # Both factors are `features`, so the tangent is one product plus its transpose. JAX's own
    # rule would compute two products.
    (features,), (change,) = primals, tangents
    half = sum_products(change, features)
    return _products(features), half + half.T


@jax.custom_jvp
def _weighted_products(features: jax.Array, where: jax.Array) -> jax.Array:
    return sum_products(features * where, features)


def _by_features(change: jax.Array, _: jax.Array, features: Any, where: Any) -> jax.Array:
    # With the weights on the change, what the gradient keeps is `features`, which others keep too.
    half = sum_products(change * where, features)
    return half + half.T


def _by_where(change: jax.Array, _: jax.Array, features: Any, where: Any) -> jax.Array:
    return sum_products(features * change, features)


_weighted_products.defjvps(_by_features, _by_where)


def sum_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the sum over positions of the product of each channel of x with each of y."""
    # Of matrices, XLA swaps the factors where that saves a transpose; of (h, w, c) it copies them.
    x, y = (features.reshape(-1, features.shape[2]) for features in (x, y))
    return jnp.einsum(
        "ki,kj->ij",
        x,
        y,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=accumulator(x),
    )


def mean_squared_error(x: Any, y: Any, where: Where = None) -> Float[Array, ""]:
    """Return the mean of (x - y)², computed in float32 or better.

    Args:
        x: an array, or a pytree of arrays whose means are added up.
        y: the same structure and shapes.
        where: (h, w) weights of the positions of (h, w, c) arrays; None for 1 everywhere.

    Raises:
        ValueError: the structures or shapes differ. (Broadcasting would hide a wrong target.)

    >>> import jax.numpy as jnp
    >>> float(mean_squared_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    2.0
    """
    return _sum_leaves(lambda leaf: mean_values(leaf, where), _squared_differences(x, y))


@sum_over_positions
def half_squared_error(x: Any, y: Any, where: Where = None) -> Float[Array, ""]:
    """Return ½ Σ (x - y)², the content loss of Gatys et al. 2016, equation 1.

    Arguments and exceptions are those of `mean_squared_error`.

    >>> import jax.numpy as jnp
    >>> float(half_squared_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    2.0
    """
    return 0.5 * _sum_leaves(lambda leaf: _sum(leaf, where), _squared_differences(x, y))


def relative_squared_error(x: Any, y: Any) -> Float[Array, ""]:
    """Return Σ (x - y)² / Σ y², which is 1 for x = 0 whatever the size of y.

    As the distance of statistics, it lets every layer count alike.

    Args:
        x: an array, or a pytree of arrays.
        y: the same structure and shapes, not 0 everywhere.

    Raises:
        ValueError: the structures or shapes differ.

    >>> import jax.numpy as jnp
    >>> float(relative_squared_error(jnp.array([1.0, 2.0]), jnp.array([0.0, 2.0])))
    0.25
    """
    size = _sum_leaves(jnp.sum, jax.tree.map(lambda leaf: jnp.square(accumulate(leaf)), y))
    error = _sum_leaves(jnp.sum, _squared_differences(x, y))
    return error / jnp.maximum(size, jnp.finfo(size.dtype).tiny)


def accumulator(x: jax.Array) -> Any:
    """Return the type of sums: at least float32, since a Gram matrix overflows float16."""
    return jnp.promote_types(x.dtype, jnp.float32)


def accumulate(x: jax.Array) -> jax.Array:
    """Return the array in the type of its sums."""
    return x.astype(accumulator(x))


def mean_features(features: jax.Array, where: Where) -> jax.Array:
    """Return the mean of each channel over the positions, in float32 or better."""
    features = accumulate(features)
    if where is None:
        return jnp.mean(features, axis=(0, 1))
    total = jnp.sum(features * where[:, :, None].astype(features.dtype), axis=(0, 1))
    return total / count_positions(features, where)


def _sum(values: jax.Array, where: Where) -> jax.Array:
    if where is None:
        return jnp.sum(values)
    check_features(values, where, "values")
    return jnp.sum(values * where[:, :, None].astype(values.dtype))


def mean_values(values: jax.Array, where: Where) -> jax.Array:
    """Return the mean of (h, w, c) values, or of any array without weights."""
    if where is None:
        return jnp.mean(values)
    return _sum(values, where) / (values.shape[2] * count_positions(values, where))


def count_positions(values: jax.Array, where: Where) -> Any:
    """Return the number of positions, or the sum of their weights; 1 for an empty region."""
    if where is None:
        return values.shape[0] * values.shape[1]
    area = jnp.sum(where.astype(accumulator(values)))
    return jnp.where(area > 0, area, 1)


def _squared_differences(x: Any, y: Any) -> Any:
    structures: list[Any] = [jax.tree.structure(tree) for tree in (x, y)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"the two must have the same structure, not {structures[0]} and {structures[1]}"
        )
    shapes = [tuple(jnp.shape(a) for a in jax.tree.leaves(tree)) for tree in (x, y)]
    if shapes[0] != shapes[1]:
        here = [shape[0] if len(shape) == 1 else shape for shape in shapes]
        raise ValueError(f"the two must have the same shape, not {here[0]} and {here[1]}")
    return jax.tree.map(lambda a, b: jnp.square(accumulate(a) - accumulate(b)), x, y)


def _sum_leaves(function: Any, tree: Any) -> jax.Array:
    total: jax.Array = jax.tree.reduce(jnp.add, jax.tree.map(function, tree))
    return total


def check_features(features: jax.Array, where: Where, name: str = "features") -> None:
    """Refuse arrays that are not (h, w, c), and weights of other positions."""
    if features.ndim != 3:
        raise ValueError(
            f"{name} must have the shape (h, w, c), not {tuple(features.shape)}; "
            "for a batch use jax.vmap"
        )
    if where is not None and where.shape != features.shape[:2]:
        raise ValueError(
            f"where must have the shape {tuple(features.shape[:2])} of the positions, "
            f"not {tuple(where.shape)}"
        )
