"""Distances between sets of vectors: earth mover's distances, moments, nearest neighbours.

A set is (n, c) vectors with (n,) weights, which are normalised to sum to 1. A vector of weight 0
does not count. The vectors are features at some positions of a picture, as `Samples` draws them;
as sets have no order, these distances compare pictures without regard to places.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnst.losses import accumulate, accumulator, not_additive

Weights = Float[Array, " n"] | None
#: `(x, y) -> (n, m)`: the cost of matching each vector of x with each of y.
Cost = Callable[[jax.Array, jax.Array], jax.Array]

# The least square of a norm or distance: below it, gradients would not be finite.
_TINY = 1e-10
# What it costs to match a vector of weight 0: more than any other.
_FAR = 1e9


def cosine_distances(x: Float[Array, "n c"], y: Float[Array, "m c"]) -> Float[Array, "n m"]:
    """Return 1 - cos of the angle between each vector of x and each of y, in [0, 2].

    A zero vector has the distance 1 to all others; its gradient is finite.

    Args:
        x: (n, c).
        y: (m, c).

    Returns:
        (n, m), in float32 or better.

    Raises:
        ValueError: the vectors have different lengths.

    >>> import jax.numpy as jnp
    >>> cosine_distances(jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    Array([[0., 1., 2.]], dtype=float32)
    """
    _check_vectors(x, y)
    a, b = (z / jnp.sqrt(jnp.maximum(_squares(z), _TINY)) for z in map(accumulate, (x, y)))
    return 1 - jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def color_distances(x: Float[Array, "n 3"], y: Float[Array, "m 3"]) -> Float[Array, "n m"]:
    """Return the cost of matching colours: the cosine plus the Euclidean distance.

    Kolkin et al. 2019, section 2.3: in a basis of the mean of red, green and blue and two
    differences, 1 - cos + √(|x - y|²/3).

    Args:
        x: (n, 3), sRGB.
        y: (m, 3).

    Returns:
        (n, m), in float32 or better.

    Raises:
        ValueError: the vectors have different lengths.

    >>> import jax.numpy as jnp
    >>> black_and_white = jnp.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    >>> [[round(float(d), 2) for d in row] for row in color_distances(*2 * [black_and_white])]
    [[1.0, 2.0], [2.0, 0.0]]
    """
    _check_vectors(x, y)
    a, b = (jnp.matmul(accumulate(z), _basis(z), precision="highest") for z in (x, y))
    apart = _squares(a[:, None] - b[None])[..., 0]
    return cosine_distances(a, b) + jnp.sqrt(jnp.maximum(apart, 1e-5) / 3)


def _basis(x: jax.Array) -> jax.Array:
    """Return the matrix that turns sRGB into a mean and two differences."""
    grey, near, far = 3**-0.5, (1 + 3**-0.5) / 2, (1 - 3**-0.5) / 2
    rows = [[grey, grey, grey], [-grey, near, -far], [-grey, -far, near]]
    return jnp.asarray(rows, accumulate(x).dtype).T


@not_additive
def relaxed_earth_movers(
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    *,
    x_weights: Weights = None,
    y_weights: Weights = None,
    cost: Cost = cosine_distances,
) -> Float[Array, ""]:
    """Return the relaxed earth mover's distance between two sets of vectors.

    Kolkin et al. 2019, equation 6: max(mean_i min_j C_ij, mean_j min_i C_ij), the larger of the
    costs of moving each vector to its nearest in the other set. It bounds the earth mover's
    distance from below.

    Args:
        x: (n, c).
        y: (m, c).
        x_weights: (n,), 0 or more; None for 1 everywhere.
        y_weights: (m,).
        cost: of matching, `(x, y) -> (n, m)`.

    Returns:
        A number in float32 or better.

    Raises:
        ValueError: the vectors have different lengths.

    >>> import jax.numpy as jnp
    >>> one, two = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> float(relaxed_earth_movers(one, two)), float(relaxed_earth_movers(two, two))
    (0.5, 0.0)
    """
    costs = cost(x, y)
    forth = _mean(jnp.min(costs + _far(y_weights), axis=1), x_weights)
    back = _mean(jnp.min(costs.T + _far(x_weights), axis=1), y_weights)
    return jnp.maximum(forth, back)


@not_additive
def palette_distance(
    x: Float[Array, "n 3"],
    y: Float[Array, "m 3"],
    *,
    x_weights: Weights = None,
    y_weights: Weights = None,
) -> Float[Array, ""]:
    """Return the relaxed earth mover's distance between two sets of colours.

    It is `relaxed_earth_movers` with the cost `color_distances`, for
    `Samples(("image",), distance=palette_distance)`; arguments, result and exceptions are the same.

    >>> import jax.numpy as jnp
    >>> round(float(palette_distance(jnp.ones((2, 3)), jnp.zeros((5, 3)))), 3)
    2.0
    """
    return relaxed_earth_movers(
        x, y, x_weights=x_weights, y_weights=y_weights, cost=color_distances
    )


@not_additive
def nearest_neighbors(
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    *,
    x_weights: Weights = None,
    y_weights: Weights = None,
) -> Float[Array, ""]:
    """Return the mean cosine distance of each vector of x from its nearest in y.

    Both sets are centred before, each at its mean (Kolkin et al. 2022, NNST). Vectors of y that
    are nearest to no vector of x do not matter.

    Arguments, result and exceptions are those of `relaxed_earth_movers`.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> round(float(nearest_neighbors(x, x + 5)), 6)
    0.0
    """
    _check_vectors(x, y)
    sets = ((accumulate(x), x_weights), (accumulate(y), y_weights))
    a, b = (z - _mean(z, weights) for z, weights in sets)
    return _mean(jnp.min(cosine_distances(a, b) + _far(y_weights), axis=1), x_weights)


@not_additive
def moment_differences(
    x: Float[Array, "n c"],
    y: Float[Array, "m c"],
    *,
    x_weights: Weights = None,
    y_weights: Weights = None,
) -> Float[Array, ""]:
    """Return the mean absolute difference of the means plus that of the covariances.

    Kolkin et al. 2019, equation 7.

    Arguments, result and exceptions are those of `relaxed_earth_movers`.

    >>> import jax.numpy as jnp
    >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[0.0], [6.0]])
    >>> float(moment_differences(x, y))  # means 1 and 3, variances 1 and 9
    10.0
    """
    _check_vectors(x, y)
    (mean, covariance), (other, wanted) = _moments(x, x_weights), _moments(y, y_weights)
    return jnp.mean(jnp.abs(mean - other)) + jnp.mean(jnp.abs(covariance - wanted))


def _moments(x: jax.Array, weights: Weights) -> tuple[jax.Array, jax.Array]:
    x = accumulate(x)
    mean = _mean(x, weights)
    centered, share = x - mean, _shares(x, weights)[:, None]
    product = jnp.matmul((centered * share).T, centered, precision=jax.lax.Precision.HIGHEST)
    return mean, product


def self_similarity(x: Float[Array, "n c"]) -> Float[Array, "n n"]:
    """Return the cosine distances between the vectors, each column divided by its sum.

    The mean absolute difference of two of these times n is the content loss of Kolkin et al. 2019,
    equation 8: a picture keeps its structure if its places stay as alike as they were.

    Args:
        x: (n, c).

    Returns:
        (n, n), in float32 or better, with columns that sum to 1, or 0 if all vectors are equal.

    >>> import jax.numpy as jnp
    >>> self_similarity(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    Array([[0., 1.],
           [1., 0.]], dtype=float32)
    """
    distances = cosine_distances(x, x)
    return distances / jnp.maximum(jnp.sum(distances, axis=0), 1e-5)


def _squares(x: jax.Array) -> jax.Array:
    return jnp.sum(x**2, axis=-1, keepdims=True)


def _shares(x: jax.Array, weights: Weights) -> jax.Array:
    if weights is None:
        return jnp.full(len(x), 1 / len(x), x.dtype)
    total = jnp.sum(weights)
    return weights.astype(x.dtype) / jnp.where(total > 0, total, 1).astype(x.dtype)


def _mean(x: jax.Array, weights: Weights) -> jax.Array:
    return jnp.tensordot(_shares(x, weights), x, 1, precision=jax.lax.Precision.HIGHEST)


def _far(weights: Weights) -> Any:
    """Return what keeps vectors of weight 0 from being the nearest, unless all are of weight 0."""
    if weights is None:
        return 0.0
    return jnp.where((weights > 0) | ~jnp.any(weights > 0), 0, _FAR).astype(accumulator(weights))


def _check_vectors(x: jax.Array, y: jax.Array) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"the two must be (n, c) and (m, c) vectors of one length, not {x.shape} and {y.shape}"
        )
