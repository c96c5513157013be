"""Statistics of how features are arranged and distributed.

None of these is a mean over single positions: pairs and blocks reach from one part of a picture
into the next, and sorting needs all positions. So the values of parts do not add up, and the terms
that use them have `additive = False`. Weights by `where`, regions and blends work as usual, except
in `spectrum_error`.

For options use `functools.partial`, once for each objective: two partials are never equal, so JAX
would compile again.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnst.losses import (
    Where,
    accumulate,
    check_features,
    count_positions,
    gram_matrix,
    not_additive,
    sum_products,
)


@not_additive
def pooled_gram_matrix(
    features: Float[Array, "h w c"], where: Where = None, *, stride: int = 2
) -> Float[Array, "c c"]:
    """Return the Gram matrix of the means of blocks of features.

    Coarse structure without fine detail, as in the Gram matrices of image pyramids (Snelgrove
    2017). A block at the border may be smaller, and weighs less accordingly.

    Args:
        features: (h, w, c) of one layer.
        where: (h, w) weights of the positions, 0 or more; None for 1 everywhere.
        stride: the side of a block, in positions; 1 or more. 1 gives `gram_matrix`.

    Returns:
        (c, c), symmetric, in float32 or better.

    Raises:
        ValueError: `features` or `where` has another shape, or `stride` is below 1.

    >>> import jax.numpy as jnp
    >>> checks = jnp.array([[[1.0], [-1.0]], [[-1.0], [1.0]]])
    >>> float(gram_matrix(checks)[0, 0]), float(pooled_gram_matrix(checks)[0, 0])
    (1.0, 0.0)
    """
    _check_option("stride", stride, 1)
    check_features(features, where)
    features = accumulate(features)
    weights = jnp.ones(features.shape[:2]) if where is None else where
    weights = weights.astype(features.dtype)[:, :, None]
    area, total = _blocks(weights, stride), _blocks(weights * features, stride)
    return gram_matrix(total / jnp.where(area > 0, area, 1), area[:, :, 0])


def _blocks(values: jax.Array, stride: int) -> jax.Array:
    """Return the sums over blocks of positions."""
    height, width = (-(-side // stride) * stride for side in values.shape[:2])
    missing = (height - values.shape[0], width - values.shape[1])
    padded = jnp.pad(values, ((0, missing[0]), (0, missing[1]), (0, 0)))
    shape = (height // stride, stride, width // stride, stride, values.shape[2])
    return padded.reshape(shape).sum((1, 3))


@not_additive
def shifted_gram_matrix(
    features: Float[Array, "h w c"], where: Where = None, *, shift: tuple[int, int] = (0, 1)
) -> Float[Array, "c c"]:
    """Return the mean product of each channel with each channel some positions away.

    Berger & Memisevic 2017, section 3: G_ij = mean over (y, x) of F_i(y, x) F_j(y + dy, x + dx),
    over the positions for which both exist. It keeps long structures such as rows of bricks.

    Args:
        features: (h, w, c) of one layer.
        where: (h, w) weights of the positions, 0 or more; None for 1 everywhere. A pair has the
            product of its two weights.
        shift: (dy, dx), of any sign. (0, 0) without weights gives `gram_matrix`.

    Returns:
        (c, c), in float32 or better; 0 if there are no pairs.

    Raises:
        ValueError: `features` or `where` has another shape, or `shift` is not two integers.

    >>> import jax.numpy as jnp
    >>> stripes = jnp.array([[[1.0], [-1.0], [1.0], [-1.0]]])
    >>> [float(shifted_gram_matrix(stripes, shift=(0, dx))[0, 0]) for dx in (1, 2)]
    [-1.0, 1.0]
    """
    if len(shift) != 2 or not all(isinstance(step, int) for step in shift):
        raise ValueError(f"shift must be two integers (dy, dx), not {shift!r}")
    check_features(features, where)
    sides = list(zip(features.shape[:2], shift, strict=True))
    here = tuple(slice(max(-step, 0), max(side - max(step, 0), 0)) for side, step in sides)
    there = tuple(slice(max(step, 0), max(side + min(step, 0), 0)) for side, step in sides)
    x, y = accumulate(features[here]), accumulate(features[there])
    if where is None:
        return sum_products(x, y) / max(count_positions(x, None), 1)
    pairs = (where[here] * where[there]).astype(x.dtype)
    return sum_products(x * pairs[:, :, None], y) / count_positions(x, pairs)


@not_additive
def autocorrelation(
    features: Float[Array, "h w c"], where: Where = None, *, radius: int = 16
) -> Float[Array, "dy dx c"]:
    """Return the mean product of each channel with itself, for each shift up to a radius.

    R_c(dy, dx) = mean over (y, x) of F_c(y, x) F_c(y + dy, x + dx), over the positions for which
    both exist. Gonthier et al. 2022 take all shifts around the border, as |FFT F|²; here shifts
    are limited and end at the border, so that pictures may have different sizes and regions.

    Args:
        features: (h, w, c) of one layer.
        where: (h, w) weights of the positions, 0 or more; None for 1 everywhere. A pair has the
            product of its two weights.
        radius: the largest shift, 0 or more.

    Returns:
        (radius + 1, 2·radius + 1, c), in float32 or better, for dy in 0 … radius and dx in
        -radius … radius; the other half is the same by symmetry. 0 where there are no pairs.

    Raises:
        ValueError: `features` or `where` has another shape, or `radius` is below 0.

    >>> import jax.numpy as jnp
    >>> stripes = jnp.array([[[1.0], [-1.0], [1.0], [-1.0]]])
    >>> [round(float(r)) for r in autocorrelation(stripes, radius=1)[0, :, 0]]
    [-1, 1, -1]
    """
    _check_option("radius", radius, 0)
    check_features(features, where)
    features = accumulate(features)
    sides, reach = features.shape[:2], np.arange(-radius, radius + 1)
    if where is None:
        rows, columns = (np.maximum(side - np.abs(reach), 0) for side in sides)
        pairs = jnp.asarray(np.outer(rows[radius:], columns)[:, :, None], features.dtype)
        return _correlate(features, radius) * (pairs > 0) / jnp.maximum(pairs, 1)
    weights = where[:, :, None].astype(features.dtype)
    pairs = _correlate(weights, radius)
    any_pairs = pairs > 1e-5 * jnp.sum(weights)  # less is the rounding of the Fourier transform
    return _correlate(features * weights, radius) * any_pairs / jnp.where(any_pairs, pairs, 1)


def _correlate(values: jax.Array, radius: int) -> jax.Array:
    """Return the sums over pairs, by Fourier transforms with room for the shifts."""
    height, width = (side + radius for side in values.shape[:2])
    spectrum = jnp.fft.rfft2(values, (height, width), axes=(0, 1))
    power = spectrum.real**2 + spectrum.imag**2
    sums = jnp.fft.irfft2(power, (height, width), axes=(0, 1))
    return jnp.concatenate(
        [sums[: radius + 1, width - radius :], sums[: radius + 1, : radius + 1]], axis=1
    )


@not_additive
def spectrum_error(
    x: Float[Array, "h w c"], y: Float[Array, "h w c"], where: Where = None
) -> Float[Array, ""]:
    """Return the mean squared distance from x to the arrays with the Fourier modulus of y.

    Liu, Gousseau & Xia 2016: mean (x - x̃)², where x̃ is the nearest array to x whose Fourier
    transform is that of y times a phase for each frequency, common to all channels. (They take
    ½ Σ and not the mean.) It is a distance for `Content` with the style as its source:
    `Content(("image",), distance=spectrum_error, source="style")`.

    Args:
        x: (h, w, c).
        y: the same shape.
        where: None; a spectrum has no regions.

    Returns:
        A number in float32 or better.

    Raises:
        ValueError: the shapes differ, or `where` is given.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(12.0).reshape(3, 4, 1)
    >>> abs(float(spectrum_error(x, jnp.roll(x, 2, axis=1)))) < 1e-5
    True
    """
    if where is not None:
        raise ValueError("where must be None, not an array: a spectrum has no regions; omit them")
    check_features(x, None)
    if x.shape != y.shape:
        raise ValueError(f"the two must have the same shape, not {x.shape} and {y.shape}")
    a, b = (jnp.fft.fft2(accumulate(values), axes=(0, 1)) for values in (x, y))
    common = jnp.sum(a * b.conj(), axis=2)
    # |x - x̃|² summed = |a|² + |b|² - 2 |common|, whose gradient is finite where the root is not.
    square = common.real**2 + common.imag**2
    modulus = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    energy = sum(jnp.sum(z.real**2 + z.imag**2, axis=2) for z in (a, b))
    return jnp.mean(energy - 2 * modulus) / x.size


@not_additive
def quantile_means(
    features: Float[Array, "h w c"], where: Where = None, *, parts: int = 256
) -> Float[Array, "parts c"]:
    """Return, for each channel, the means of equal parts of its values in ascending order.

    The mean squared error between two of these is the histogram loss of Risser et al. 2017, mean
    (F - match(F))² by channel, with a histogram of parts of equal mass rather than bins of equal
    width. It has their gradient too: all values of a part move by the difference of its means.

    Args:
        features: (h, w, c) of one layer.
        where: (h, w) weights of the positions, 0 or more; None for 1 everywhere. A position on
            the border of two parts counts in both. If all are 0, the result is 0.
        parts: 1 or more. If as many as positions without weights, the parts are the sorted values.

    Returns:
        (parts, c), in float32 or better.

    Raises:
        ValueError: `features` or `where` has another shape, or `parts` is below 1.

    >>> import jax.numpy as jnp
    >>> quantile_means(jnp.array([[[4.0], [1.0], [3.0], [0.0]]]), parts=2)[:, 0].tolist()
    [0.5, 3.5]
    """
    _check_option("parts", parts, 1)
    check_features(features, where)
    values = accumulate(features).reshape(-1, features.shape[2])
    # Transposed, so that the values of a channel lie side by side: else sorting takes longer.
    if where is None:
        values = jnp.sort(values.T, axis=1).T
        weights = jnp.ones(values.shape, values.dtype)
    else:
        weights = jnp.broadcast_to(jnp.asarray(where, values.dtype).reshape(-1), values.T.shape)
        values, weights = (z.T for z in jax.lax.sort((values.T, weights), dimension=1, num_keys=1))
    # The integral of the quantile function is piecewise linear between the sums of weights.
    mass, integral = (
        jnp.pad(jnp.cumsum(z, axis=0), ((1, 0), (0, 0))) for z in (weights, weights * values)
    )
    levels = mass[-1] * jnp.linspace(0, 1, parts + 1, dtype=values.dtype)[:, None]
    bounds = jax.vmap(jnp.interp, in_axes=1, out_axes=1)(levels, mass, integral)
    return jnp.diff(bounds, axis=0) * parts / jnp.where(mass[-1] > 0, mass[-1], 1)


@not_additive
def sliced_quantile_means(
    features: Float[Array, "h w c"],
    where: Where = None,
    *,
    parts: int = 256,
    directions: int | None = None,
    seed: int = 0,
) -> Float[Array, "parts directions"]:
    """Return the `quantile_means` of the features along random directions.

    The mean squared error between two of these is the sliced Wasserstein distance of Heitz et al.
    2021, as a mean over the directions. They sort all values, and repeat some if one picture has
    fewer; here both have the same parts. Directions are unit vectors drawn from `seed`, always
    the same, so that the optimiser sees one function.

    Args:
        features: (h, w, c) of one layer.
        where: as for `quantile_means`.
        parts: as for `quantile_means`.
        directions: how many, 1 or more; None for as many as channels.
        seed: of the directions.

    Returns:
        (parts, directions), in float32 or better.

    Raises:
        ValueError: `features` or `where` has another shape, or `parts` or `directions` is below 1.

    >>> import jax.numpy as jnp
    >>> sliced_quantile_means(jnp.ones((4, 4, 8)), parts=16).shape
    (16, 8)
    """
    check_features(features, where)
    features = accumulate(features)
    channels = features.shape[2]
    directions = channels if directions is None else directions
    _check_option("directions", directions, 1)
    axes = jax.random.normal(jax.random.key(seed), (channels, directions), features.dtype)
    axes = axes / jnp.linalg.norm(axes, axis=0)
    along = jnp.einsum("hwc,cd->hwd", features, axes, precision=jax.lax.Precision.HIGHEST)
    return quantile_means(along, where, parts=parts)


def _check_option(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer from {least}, not {value!r}")
