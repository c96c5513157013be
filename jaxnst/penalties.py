"""Penalties on a picture itself: total variations, and values out of range."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnst.losses import Where, accumulate, check_features, mean_values


def total_variation(
    image: Float[Array, "h w c"], where: Where = None, *, wrap: bool = False
) -> Float[Array, ""]:
    """Return the mean absolute difference of horizontal neighbours plus that of vertical ones.

    Anisotropic total variation (Rudin, Osher & Fatemi 1992), as a mean, so that it does not depend
    on the size. A side of one pixel has no neighbours and adds nothing.

    Args:
        image: (H, W, C).
        where: (H, W) weights of the pixels; a difference has the product of its two
            pixels' weights.
        wrap: whether the image tiles the plane, so that pixels at opposite edges are neighbours.
            `Penalty` says so where the objective's padding is circular.

    Returns:
        A number in float32 or better.

    Raises:
        ValueError: `image` or `where` has another shape.

    >>> import jax.numpy as jnp
    >>> float(total_variation(jnp.array([[[0.0], [1.0]], [[0.0], [1.0]]])))
    1.0
    """
    across, down = _differences(image, where, wrap)
    return _mean(_abs(across[0]), across[1]) + _mean(_abs(down[0]), down[1])


def squared_total_variation(
    image: Float[Array, "h w c"], where: Where = None, *, wrap: bool = False
) -> Float[Array, ""]:
    """Return the mean squared difference of horizontal neighbours plus that of vertical ones.

    Mahendran & Vedaldi 2015, section 3, with β = 2, as means. It smooths edges more, and faint
    noise less, than `total_variation`, whose arguments and exceptions it has.

    >>> import jax.numpy as jnp
    >>> float(squared_total_variation(jnp.array([[[0.0], [2.0]], [[0.0], [2.0]]])))
    4.0
    """
    across, down = _differences(image, where, wrap)
    return _mean(across[0] ** 2, across[1]) + _mean(down[0] ** 2, down[1])


def nine_point_variation(
    image: Float[Array, "h w c"], where: Where = None, *, wrap: bool = False
) -> Float[Array, ""]:
    """Return a squared total variation that treats all directions nearly alike.

    ⅔ (mean a² + mean d²) + ⅙ (mean p² + mean q²), with a and d the differences across and down,
    and p and q those along the two diagonals, as in the nine-point stencil of the Laplacian. The
    image is continued by its border pixels, or with `wrap` by its opposite edge, and there are as
    many a and d as pixels. This is the penalty of crowsonkb's style-transfer-pytorch. Arguments and
    exceptions are those of `total_variation`.

    >>> import jax.numpy as jnp
    >>> image = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 4, 1))
    >>> round(float(nine_point_variation(image)), 4)
    0.7
    """
    check_features(image, where, "image")
    mode = "wrap" if wrap else "edge"
    image = jnp.pad(accumulate(image), ((1, 1), (1, 1), (0, 0)), mode=mode)
    where = where if where is None else jnp.pad(where, 1, mode=mode)
    here, beyond = slice(1, -1), slice(2, None)
    # Around the edges each diagonal counts once.
    before, after = (here, beyond) if wrap else (slice(None, -1), slice(1, None))
    straight, diagonal = (
        sum(
            _mean((image[a] - image[b]) ** 2, where if where is None else where[a] * where[b])
            for a, b in pairs
        )
        for pairs in (
            (((here, beyond), (here, here)), ((beyond, here), (here, here))),
            (((after, after), (before, before)), ((after, before), (before, after))),
        )
    )
    return jnp.asarray(2 / 3 * straight + diagonal / 6)


def gradient_only_variation(
    image: Float[Array, "h w c"], *, wrap: bool = False
) -> Float[Array, ""]:
    """Return 0, with the gradient of half the sum of squared differences.

    jcjohnson's neural-style adds this gradient to that of its loss, and leaves its value out. The
    sum ½ Σ (across² + down²) runs over the (H - 1)·(W - 1) pixels that have both a right and a
    lower neighbour, so it grows with the size of the image; with `wrap` all pixels have both. A
    line search, or a choice of the best image by its loss, does not see it.

    Args:
        image: (H, W, C).
        wrap: as for `total_variation`.

    Returns:
        0, in float32 or better.

    Raises:
        ValueError: `image` has another shape.

    >>> import jax, jax.numpy as jnp
    >>> image = jnp.array([[[0.0], [2.0]], [[0.0], [0.0]]])
    >>> value, grad = jax.value_and_grad(gradient_only_variation)(image)
    >>> float(value), grad[:, :, 0].tolist()
    (0.0, [[-2.0, 2.0], [0.0, 0.0]])
    """
    (across, _), (down, _) = _differences(image, None, wrap)
    if not wrap:
        across, down = across[:-1], down[:, :-1]
    energy = 0.5 * (jnp.sum(across**2) + jnp.sum(down**2))
    return energy - jax.lax.stop_gradient(energy)


def _differences(image: jax.Array, where: Where, wrap: bool) -> tuple[tuple[jax.Array, Where], ...]:
    """Return the differences across and down, and their weights."""
    check_features(image, where, "image")
    image = accumulate(image)

    def differences(axis: int) -> tuple[jax.Array, Where]:
        before, after = _neighbors(image, axis, wrap)
        if where is None:
            return after - before, None
        first, second = _neighbors(where, axis, wrap)
        return after - before, second * first

    return differences(1), differences(0)


def _neighbors(values: jax.Array, axis: int, wrap: bool) -> tuple[jax.Array, jax.Array]:
    """Return the first and the second of each pair of neighbours along an axis."""
    if wrap:
        return values, jnp.roll(values, -1, axis)
    length = values.shape[axis]
    first, second = (jax.lax.slice_in_dim(values, i, i + length - 1, axis=axis) for i in (0, 1))
    return first, second


def _mean(values: jax.Array, where: Where) -> jax.Array:
    # A mean over no differences is 0 here, not NaN.
    return mean_values(values, where) if values.size else jnp.zeros((), values.dtype)


def _abs(x: jax.Array) -> jax.Array:
    # At 0 the gradient of jnp.abs is 1, which would push flat areas. Here it is 0.
    return x * jnp.sign(x)


def out_of_range(image: Float[Array, "h w c"], where: Where = None) -> Float[Array, ""]:
    """Return the mean squared distance of the values from the range [0, 1].

    The finished picture is clipped, and with this penalty little is. Arguments and exceptions are
    those of `total_variation`.

    >>> import jax.numpy as jnp
    >>> float(out_of_range(jnp.array([[[0.5], [1.5]], [[1.0], [0.0]]])))
    0.0625
    """
    check_features(image, where, "image")
    image = accumulate(image)
    # Not by `clip`, whose derivative halves ties and so takes memory for each of its two limits.
    inside = (image >= 0) & (image <= 1)
    excess = jnp.where(inside, jnp.zeros_like(image), image - (image > 0).astype(image.dtype))
    return mean_values(jnp.square(excess), where)
