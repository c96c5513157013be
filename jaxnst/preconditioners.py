"""Preconditioners of L-BFGS that favour large shapes in images."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.fft
import numpy as np
from jaxtyping import Array, Float


def spectral_preconditioner(gradient: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Divide each spatial frequency f, in cycles a pixel, by f + 0.01; the mean divisor is 1.

    This is a symmetric positive definite linear map for `lbfgs(preconditioner=…)`. The spectrum of
    natural pictures falls roughly as 1/f, as do the changes that a style requires, but a gradient
    with respect to pixels is strongest at the finest frequencies. For the same reason Olah et al.
    (2017, "Feature visualization") optimise Fourier coefficients divided by f. Unlike Fourier's,
    the cosine transform does not connect opposite edges of the picture; for a picture that tiles
    the plane, take `circular_preconditioner`.

    Args:
        gradient: (H, W, C); each channel is transformed by itself.

    Raises:
        ValueError: `gradient` has not three axes.

    >>> import jax.numpy as jnp
    >>> flat = spectral_preconditioner(jnp.ones((8, 8, 3)))
    >>> bool(flat[0, 0, 0] > 1)  # uniform changes are enlarged
    True
    """
    height, width = _sides(gradient)
    gain = _gain(np.arange(height) / (2 * height), np.arange(width) / (2 * width))
    spectrum = jax.scipy.fft.dctn(gradient, axes=(0, 1), norm="ortho")
    gain = jnp.asarray(gain, gradient.dtype)[:, :, None]
    return jax.scipy.fft.idctn(gain * spectrum, axes=(0, 1), norm="ortho")


def circular_preconditioner(gradient: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Do as `spectral_preconditioner` for a picture that tiles the plane.

    Fourier's transform connects opposite edges: a shift of the gradient around them shifts the
    result. The cosine transform would leave a seam there.

    Args:
        gradient: (H, W, C); each channel is transformed by itself.

    Raises:
        ValueError: `gradient` has not three axes.

    >>> import jax.numpy as jnp
    >>> flat = circular_preconditioner(jnp.ones((8, 8, 3)))
    >>> bool(flat[0, 0, 0] > 1)  # uniform changes are enlarged
    True
    """
    height, width = _sides(gradient)
    gain = _gain(np.fft.fftfreq(height), np.fft.fftfreq(width))
    gain = jnp.asarray(gain[:, : width // 2 + 1], gradient.dtype)[:, :, None]
    spectrum = jnp.fft.rfft2(gradient, axes=(0, 1))
    return jnp.fft.irfft2(gain * spectrum, (height, width), axes=(0, 1))


def _sides(gradient: Any) -> tuple[int, int]:
    """Return height and width."""
    if gradient.ndim != 3:
        raise ValueError(
            f"gradient must have the shape (height, width, channels), not {gradient.shape}; for "
            "other arrays take lbfgs(…), which has no preconditioner of its own"
        )
    height, width, _ = gradient.shape
    return height, width


def _gain(down: Any, across: Any) -> Any:
    divided = 1 / (np.hypot(down[:, None], across) + 0.01)
    return divided / divided.mean()
