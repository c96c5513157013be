"""Means with deviations or covariances, and the Wasserstein distance between Gaussians.

The statistics are the raw moments, which are means over positions, so that blends, regions and
parts of a picture stay exact. The distances turn them into deviations and covariances. In float32
a deviation below about a thousandth of the mean is lost in rounding.
"""

from math import sqrt

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnst.losses import (
    Where,
    accumulate,
    check_features,
    gram_matrix,
    mean_features,
    mean_squared_error,
)

#: By name: "mean" (c,), and "square" (c,) or "product" (c, c).
Moments = dict[str, jax.Array]


def _share(dtype: DTypeLike) -> float:
    """Return the share of the trace of second moments that makes a rounded covariance positive.

    In constant pictures rounding takes away up to half as much.
    """
    return 100 * float(jnp.finfo(dtype).eps)


def mean_and_deviation(features: Float[Array, "h w c"], where: Where = None) -> Moments:
    """Return the mean of each channel and of its square, for `moments_error`.

    With these the style has the statistics of Huang & Belongie 2017 (AdaIN), and of Galerne et al.
    2024 beside their Gram matrices.

    Args:
        features: (h, w, c) of one layer.
        where: (h, w) weights of the positions, 0 or more; None for 1 everywhere. If all are 0,
            the result is 0.

    Returns:
        "mean" (c,) and "square" (c,), in float32 or better.

    Raises:
        ValueError: `features` or `where` has another shape.

    >>> import jax.numpy as jnp
    >>> found = mean_and_deviation(jnp.array([[[1.0], [3.0]]]))
    >>> float(found["mean"][0]), float(found["square"][0])
    (2.0, 5.0)
    """
    check_features(features, where)
    features = accumulate(features)
    return {
        "mean": mean_features(features, where),
        "square": mean_features(features**2, where),
    }


def mean_and_covariance(features: Float[Array, "h w c"], where: Where = None) -> Moments:
    """Return the mean of each channel and of the product of each pair of channels.

    For `wasserstein_gaussian` and `moments_error`. Arguments and exceptions are those of
    `mean_and_deviation`.

    Returns:
        "mean" (c,) and "product" (c, c), in float32 or better.

    >>> import jax.numpy as jnp
    >>> found = mean_and_covariance(jnp.array([[[1.0], [3.0]]]))
    >>> float(found["mean"][0]), float(found["product"][0, 0])
    (2.0, 5.0)
    """
    check_features(features, where)
    return {
        "mean": mean_features(features, where),
        "product": gram_matrix(features, where),
    }


def moments_error(x: Moments, y: Moments) -> Float[Array, ""]:
    """Return the mean squared difference of the means plus that of deviations or covariances.

    Args:
        x: from `mean_and_deviation` or `mean_and_covariance`. A deviation is √(variance + 1e-8),
            so that its gradient is finite where a channel is constant.
        y: of the same kind.

    Returns:
        A number in float32 or better.

    Raises:
        ValueError: the two are of different kinds or shapes.

    >>> import jax.numpy as jnp
    >>> x, y = (mean_and_deviation(jnp.array([[[0.0], [a]]])) for a in (2.0, 6.0))
    >>> round(float(moments_error(x, y)), 4)  # means 1 and 3, deviations 1 and 3
    8.0
    """
    return mean_squared_error(_central(x), _central(y))


def _central(moments: Moments) -> Moments:
    mean = moments["mean"]
    if "product" in moments:
        return {"mean": mean, "covariance": moments["product"] - jnp.outer(mean, mean)}
    variance = jnp.maximum(moments["square"] - mean**2, 0)
    return {"mean": mean, "deviation": jnp.sqrt(variance + 1e-8)}


def wasserstein_gaussian(x: Moments, y: Moments, *, eps: float = 1e-4) -> Float[Array, ""]:
    """Return the squared 2-Wasserstein distance between two Gaussians, divided by the channels.

    (|μ - ν|² + tr(Σ + T - 2 (T^½ Σ T^½)^½)) / c, of the Gaussians N(μ, Σ) and N(ν, T) with c
    channels (Dowson & Landau 1982). In style transfer it is the loss of crowsonkb's
    style-transfer-pytorch, which also adds 1e-4 to the diagonals of Σ and T.

    This function departs from it in two ways. It adds besides, in float32, 1.2e-5 of the trace of
    the second moments: features of VGG19 have variances up to 1e7, next to which 1e-4 is lost in
    rounding, and then covariances of fewer positions than channels are not positive. So the loss
    of the preset `crowsonkb` differs by less than 1 %; in float64 the share is 2e-14, and the loss
    is the original's. And this function takes no matrix root, but the sum of the singular values
    of AᵀB with Σ = A Aᵀ and T = B Bᵀ, which is the same trace and loses no digits to squares; 12
    Newton-Schulz steps of a root leave equal distributions far apart. In float32 the result is
    within about 1e-6 of the traces.

    Args:
        x: from `mean_and_covariance`.
        y: the same, with as many channels.
        eps: above 0; what is added to the variances, as said above.

    Returns:
        A number in float32 or better. Its derivatives of all orders are finite.

    Raises:
        ValueError: x and y have other keys or shapes.

    >>> import jax.numpy as jnp
    >>> x, y = (mean_and_covariance(jnp.array([[[0.0], [a]]])) for a in (2.0, 6.0))
    >>> round(float(wasserstein_gaussian(x, y)), 3)  # means 1 and 3, deviations 1 and 3
    8.0
    """
    for moments in (x, y):
        if "product" not in moments:
            raise ValueError(
                f"wasserstein_gaussian needs the moments of mean_and_covariance, not "
                f"{', '.join(moments)}; give that as the statistic"
            )
    means = mean_squared_error(x["mean"], y["mean"])
    a, b = (_covariance(moments, eps) for moments in (x, y))
    if a.shape != b.shape:
        raise ValueError(f"the two must have the same shape, not {a.shape} and {b.shape}")
    product = _matmul(jnp.linalg.cholesky(a).T, jnp.linalg.cholesky(b))
    return means + (jnp.trace(a) + jnp.trace(b) - 2 * _nuclear_norm(product)) / len(a)


def _covariance(moments: Moments, eps: float) -> jax.Array:
    mean, product = (accumulate(moments[name]) for name in ("mean", "product"))
    floor = eps + _share(product.dtype) * jnp.trace(product)
    return product - jnp.outer(mean, mean) + floor * jnp.eye(len(mean), dtype=product.dtype)


@jax.custom_jvp
def _nuclear_norm(matrix: jax.Array) -> jax.Array:
    """Return the sum of the singular values, whose gradient is the orthogonal polar factor."""
    return jnp.sum(_polar_factor(matrix) * matrix)


@_nuclear_norm.defjvp
def _nuclear_norm_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (matrix,), (change,) = primals, tangents
    factor = _polar_factor(matrix)
    return jnp.sum(factor * matrix), jnp.sum(factor * change)


def _scales(low: float, eps: float) -> list[float]:
    """Return factors by which Newton-Schulz steps bring singular values from [low, 1] to 1.

    Chen & Chow 2014: a factor makes the step's images of both ends of [low, 1] equal. The bound
    of 1.6 keeps the image of 1 from being nearly 0, and so lost in rounding.
    """
    scales: list[float] = []
    while low < 1 - 2 * eps:
        scales.append(min(1.6, sqrt(3 / (1 + low + low**2))))
        low = 0.5 * scales[-1] * low * (3 - (scales[-1] * low) ** 2)
    return scales


def _polar_factor(matrix: jax.Array) -> jax.Array:
    # Products of matrices alone: on CPUs and GPUs they are much faster than an SVD. Because of
    # the floor of the covariances, no singular value is below about `_share` of the Frobenius norm.
    def step(x: jax.Array, scale: jax.Array) -> tuple[jax.Array, None]:
        x = scale * x
        return 1.5 * x - 0.5 * _matmul(x, _matmul(x.T, x)), None

    scales = _scales(_share(matrix.dtype) / 2, float(jnp.finfo(matrix.dtype).eps))
    start = matrix / jnp.sqrt(jnp.sum(matrix**2))
    return jax.lax.scan(step, start, jnp.asarray(scales, matrix.dtype))[0]


def _matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
