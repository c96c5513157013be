"""The losses of neural style transfer: arrays in, a number out. No network is seen here."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _accumulate(x: jax.Array) -> jax.Array:
    """Half-precision features are summed in float32: a Gram matrix overflows float16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def raw_gram_matrix(features: Float[Array, "h w c"]) -> Float[Array, "c c"]:
    """The sum over all positions of the products of each two channels.

    Gatys et al. 2016, equation 3: G_ij = Σ_k F_ik F_jk. It grows with the number of positions, so
    two pictures of different sizes do not compare; see `gram_matrix`.

    Args:
        features: (h, w, c) of one layer.

    Returns:
        (c, c), symmetric, in float32 or better.
    """
    _check_features(features)
    return _products(features)


@jax.custom_jvp
def _products(features: jax.Array) -> jax.Array:
    return _sum_products(features, features)


@_products.defjvp
def _products_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # Both factors are the same: one product gives the change by either, and so does its transpose,
    # where JAX's own rule makes two.
    (features,), (change,) = primals, tangents
    half = _sum_products(change, features)
    return _products(features), half + half.T


def _sum_products(x: jax.Array, y: jax.Array) -> jax.Array:
    # An einsum over positions, not a reshape: it stays local where the rows lie on many devices.
    return jnp.einsum(
        "hwi,hwj->ij",
        x,
        y,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )


def gram_matrix(features: Float[Array, "h w c"]) -> Float[Array, "c c"]:
    """The mean over all positions of the products of each two channels.

    Gatys et al. 2016, equation 3, divided by h·w, so that it does not depend on the size.

    Args:
        features: (h, w, c) of one layer.

    Returns:
        (c, c), symmetric, in float32 or better.
    """
    _check_features(features)
    return raw_gram_matrix(features) / (features.shape[0] * features.shape[1])


def mean_squared_error(x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, ""]:
    """The mean of (x - y)², computed in float32 or better.

    Raises:
        ValueError: the shapes differ. (Broadcasting would hide a wrong target.)
    """
    _check_same_shape(x, y)
    return jnp.mean(jnp.square(_accumulate(x) - _accumulate(y)))


def half_squared_error(x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, ""]:
    """½ Σ (x - y)², the content loss of Gatys et al. 2016, equation 1.

    Raises:
        ValueError: the shapes differ.
    """
    _check_same_shape(x, y)
    return 0.5 * jnp.sum(jnp.square(_accumulate(x) - _accumulate(y)))


def total_variation(image: Float[Array, "h w c"]) -> Float[Array, ""]:
    """The mean absolute difference of horizontal neighbours plus that of vertical ones.

    Anisotropic total variation (Rudin, Osher & Fatemi 1992), as a mean so that it does not depend
    on the size. A side of one pixel has no neighbours and adds nothing.

    Args:
        image: (H, W, C).
    """
    _check_features(image, "image")
    image = _accumulate(image)
    across = _abs(image[:, 1:] - image[:, :-1])
    down = _abs(image[1:] - image[:-1])
    return jnp.sum(across) / max(across.size, 1) + jnp.sum(down) / max(down.size, 1)


def _abs(x: jax.Array) -> jax.Array:
    # The gradient of jnp.abs at 0 is 1, which would push flat areas; that of this is 0.
    return x * jnp.sign(x)


def _check_features(features: jax.Array, name: str = "features") -> None:
    if features.ndim != 3:
        raise ValueError(
            f"{name} must have the shape (h, w, c), not {tuple(features.shape)}; "
            "for a batch use jax.vmap"
        )


def _check_same_shape(x: jax.Array, y: jax.Array) -> None:
    if x.shape != y.shape:
        raise ValueError(
            f"the two must have the same shape, not {tuple(x.shape)} and {tuple(y.shape)}"
        )
