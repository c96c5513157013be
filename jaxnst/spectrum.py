"""What is easy to change in a picture: a metric that favours large shapes over single pixels."""

import jax
import jax.numpy as jnp
import jax.scipy.fft
import numpy as np
from jaxtyping import Array, Float


def favour_large_shapes(gradient: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Divide each spatial frequency f, in cycles a pixel, by f + 0.01; the mean divisor is 1.

    A symmetric positive definite linear map, for `lbfgs(metric=…)`. Natural pictures have a
    spectrum that falls about as 1/f, and so have the changes that a style asks of them, while a
    gradient by pixels is loudest at the finest ones. Olah et al. (2017, "Feature visualization")
    optimise the Fourier coefficients divided by f for the same reason. The cosine transform has no
    frequencies that tie one edge to the opposite one, as Fourier's has.

    Args:
        gradient: (H, W, C), each channel by itself.
    """
    height, width = gradient.shape[:2]
    f = np.hypot(np.arange(height)[:, None] / (2 * height), np.arange(width) / (2 * width))
    divided = 1 / (f + 0.01)
    gain = jnp.asarray(divided / divided.mean(), gradient.dtype)[:, :, None]
    spectrum = jax.scipy.fft.dctn(gradient, axes=(0, 1), norm="ortho")
    return jax.scipy.fft.idctn(gain * spectrum, axes=(0, 1), norm="ortho")
