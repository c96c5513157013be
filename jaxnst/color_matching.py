"""Colour matching: give an image the mean and covariance, or the histograms, of a target's colours.

All functions are pure functions of arrays, of any size and in any space of three channels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Colors = Float[Array, "*shape 3"]
Image = Float[Array, "h w 3"]

# Added to variances: that of rounding to 8 bits, below which a picture has no colours of its own.
VARIANCE = 1 / (12 * 255**2)

_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def match_colors_cholesky(image: Image, target: Image) -> Image:
    """Give an image the mean and covariance of a target's colours, by Cholesky factors.

    Gatys et al. 2016b, "Preserving color in neural artistic style transfer": x ↦ A (x - μ) + ν with
    A = L_t L_x⁻¹, of the covariances L Lᵀ. It depends on the order of the channels.

    The result may leave [0, 1]; `fit_gamut` brings it back. 1.3e-6, the variance of rounding to
    8 bits, is added to all variances, so that gradients are finite where a covariance has no
    inverse: a grey picture gets one ramp of colours, and a constant one the target's mean.

    Args:
        image: (h, w, 3) in [0, 1], in any space of colours.
        target: (h', w', 3) in the same space.

    Returns:
        (h, w, 3) in float32 or better.

    Raises:
        TypeError: an image is not of floats.
        ValueError: an image has not the shape (height, width, 3).

    >>> import jax
    >>> image = jax.random.uniform(jax.random.key(0), (8, 8, 3))
    >>> print((match_colors_cholesky(image, 0.5 * image) / image).round(3)[0, 0])
    [0.5 0.5 0.5]
    """

    def factor(now: jax.Array, then: jax.Array) -> jax.Array:
        lower, wanted = jnp.linalg.cholesky(now), jnp.linalg.cholesky(then)
        return jax.scipy.linalg.solve_triangular(lower, wanted.T, trans=1, lower=True).T

    return _matched(image, target, factor)


def match_colors_pca(image: Image, target: Image) -> Image:
    """Give an image the mean and covariance of a target's colours, by their principal axes.

    The choice of Gatys et al. 2016b: A = Σ_t^½ Σ_x^-½ with symmetric square roots. All else is as
    in `match_colors_cholesky`.

    >>> import jax
    >>> image = jax.random.uniform(jax.random.key(0), (8, 8, 3))
    >>> print((match_colors_pca(image, 0.5 * image) / image).round(3)[0, 0])
    [0.5 0.5 0.5]
    """
    return _matched(
        image, target, lambda now, then: _product(_root(then), jnp.linalg.inv(_root(now)))
    )


def match_colors_transport(image: Image, target: Image) -> Image:
    """Give an image the mean and covariance of a target's colours, and change colours least.

    The linear Monge map, the optimal transport between two Gaussians (Pitié & Kokaram 2007):
    A = Σ_x^-½ (Σ_x^½ Σ_t Σ_x^½)^½ Σ_x^-½, which is symmetric. All else is as in
    `match_colors_cholesky`.

    >>> import jax
    >>> image = jax.random.uniform(jax.random.key(0), (8, 8, 3))
    >>> print((match_colors_transport(image, 0.5 * image) / image).round(3)[0, 0])
    [0.5 0.5 0.5]
    """

    def factor(now: jax.Array, then: jax.Array) -> jax.Array:
        # With U the orthogonal factor of M = Σ_t^½ Σ_x^½, (MᵀM)^½ = Uᵀ M. So no root is taken of a
        # product, whose small eigenvalues would be lost in float32.
        before, after = _root(now), _root(then)
        rotation = _rotation(_product(after, before))
        return _product(jnp.linalg.inv(before), _product(rotation.T, after))

    return _matched(image, target, factor)


def match_colors_histogram(image: Image, target: Image) -> Image:
    """Give each channel of an image the distribution of the target's values in that channel.

    A value becomes the target's quantile at its own rank; equal values, as in a constant picture,
    share their mean rank. In sRGB the result stays in the target's range; in a space of less
    correlated channels, such as Oklab, hues are kept apart better, and the result may leave [0, 1].
    The gradient by `image` is 0, since ranks are piecewise constant.

    Arguments and exceptions are those of `match_colors_cholesky`.

    >>> import jax
    >>> image = jax.random.uniform(jax.random.key(0), (8, 8, 3))
    >>> print((match_colors_histogram(image, 0.5 * image) / image).round(3)[0, 0])
    [0.5 0.5 0.5]
    """
    image, target = _picture(image), _picture(target)

    def match(values: jax.Array, wanted: jax.Array) -> jax.Array:
        ordered = jnp.sort(jax.lax.stop_gradient(values))
        first, last = (jnp.searchsorted(ordered, values, side=side) for side in ("left", "right"))
        share = (first + last - 1) / (2 * max(1, values.size - 1))
        return _quantiles(jnp.sort(wanted), share.astype(wanted.dtype))

    pixels = jax.vmap(match, in_axes=1, out_axes=1)(image.reshape(-1, 3), target.reshape(-1, 3))
    return pixels.reshape(image.shape)


def _quantiles(ordered: jax.Array, share: jax.Array) -> jax.Array:
    """Return values of a sorted array at shares in [0, 1] of its length, interpolated."""
    place = share * (ordered.size - 1)
    below = jnp.floor(place).astype(jnp.int32)
    above = jnp.minimum(below + 1, ordered.size - 1)
    part = place - below.astype(place.dtype)
    return ordered[below] * (1 - part) + ordered[above] * part


def _picture(image: Any) -> jax.Array:
    image = checked(image)
    if image.ndim != 3:
        raise ValueError(f"image must have the shape (height, width, 3), not {image.shape}")
    return image


def _matched(
    image: jax.Array, target: jax.Array, factor: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """Apply the linear map that `factor` makes of two covariances, and the target's mean."""
    image, target = _picture(image), _picture(target)
    (mean, now), (wanted, then) = moments(image), moments(target)
    moved = mixed(image - mean, factor(now, then))
    # Its mean is 0 but for rounding, which the map enlarges if the picture has few colours.
    return moved - jnp.mean(moved, axis=(0, 1)) + wanted


def moments(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean colour, and the covariance with `VARIANCE` added to all variances."""
    mean = jnp.mean(image, axis=(0, 1))
    apart = (image - mean).reshape(-1, 3)
    return mean, _product(apart.T, apart) / len(apart) + VARIANCE * jnp.eye(3, dtype=image.dtype)


# JAX's derivatives of eigenvectors are not finite where two eigenvalues are equal, as are those of
# a grey picture. Those of these functions of a matrix are, and follow from their equations.


@jax.custom_jvp
def _root(matrix: jax.Array) -> jax.Array:
    """Return the symmetric square root R of a symmetric positive definite matrix, R R = S."""
    values, vectors = jnp.linalg.eigh(matrix)
    return _product(vectors * jnp.sqrt(jnp.maximum(values, 0.0)), vectors.T)


@_root.defjvp
def _root_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    root = _root(primals[0])
    return root, _sylvester(root, tangents[0])  # dR R + R dR = dS


@jax.custom_jvp
def _rotation(matrix: jax.Array) -> jax.Array:
    """Return the orthogonal factor U of a regular matrix M = U P, with P symmetric positive."""
    left, _, right = jnp.linalg.svd(matrix)
    return _product(left, right)


@_rotation.defjvp
def _rotation_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    rotation = _rotation(primals[0])
    positive, change = (_product(rotation.T, matrix) for matrix in (*primals, *tangents))
    # With dU = U W and W = -Wᵀ: W P + P W = Uᵀ dM - dMᵀ U.
    return rotation, _product(rotation, _sylvester(positive, change - change.T))


def _sylvester(positive: jax.Array, right: jax.Array) -> jax.Array:
    """Solve P X + X P = R."""
    one = jnp.eye(len(positive), dtype=positive.dtype)
    system = jnp.kron(positive, one) + jnp.kron(one, positive)
    return jnp.linalg.solve(system, right.reshape(-1)).reshape(right.shape)


def checked(image: Any) -> jax.Array:
    """Return an image as an array, in float32 or better."""
    image = jnp.asarray(image)
    if image.ndim < 1 or image.shape[-1] != 3:
        raise ValueError(
            f"image must have 3 channels as its last axis, not the shape {image.shape}"
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(f"image must be of floats in [0, 1], not {image.dtype}: divide it by 255")
    return image.astype(jnp.promote_types(image.dtype, jnp.float32))


def mixed(image: jax.Array, matrix: Any) -> jax.Array:
    """Multiply each colour by a matrix."""
    matrix = jnp.asarray(matrix, image.dtype)
    return jnp.einsum("...c,dc->...d", image, matrix, precision=jax.lax.Precision.HIGHEST)
