"""The image that a transfer starts from."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxnst.pyramid import Shape, resize
from jaxnst.recipes import TransferConfig
from jaxnst.sources import Picture
from jaxnst.vgg import check_image


def noise_image(
    key: Key[Array, ""], shape: Shape, *, exponent: float = 0.0, dtype: Any = jnp.float32
) -> Float[Array, "h w 3"]:
    """Draw noise of a chosen spectrum, as an image.

    Args:
        key: of the random numbers.
        shape: (height, width).
        exponent: amplitudes fall with the frequency f as 1/f^exponent. 0 gives white noise, uniform
            in [0, 1]; 1 the spectrum of photographs (Field 1987, doi:10.1364/JOSAA.4.002379).
        dtype: of the image.

    Returns:
        (height, width, 3) in [0, 1]. For any exponent, the mean is 1/2 and the deviation, before
        values are clipped, that of white noise, 1/√12.

    >>> import jax
    >>> noise = noise_image(jax.random.key(0), (32, 48), exponent=1.0)
    >>> noise.shape, round(float(noise.mean()), 1)
    ((32, 48, 3), 0.5)
    """
    if exponent == 0:
        return jax.random.uniform(key, (*shape, 3), dtype)
    spectrum = jnp.fft.rfft2(jax.random.normal(key, (*shape, 3), dtype), axes=(0, 1))
    rows, columns = np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])
    frequency = np.hypot(rows[:, None], columns)
    frequency[0, 0] = np.inf  # the mean is set below
    falling = jnp.asarray(frequency**-exponent, dtype)[:, :, None]
    noise = jnp.fft.irfft2(spectrum * falling, shape, axes=(0, 1))
    deviation = jnp.maximum(jnp.std(noise), jnp.finfo(dtype).tiny)
    return jnp.clip(0.5 + noise * (12**-0.5 / deviation), 0, 1)


def first_image(
    content: Any,
    styles: Sequence[Picture],
    config: TransferConfig,
    *,
    coarsest: Shape,
    key: Any = None,
    initial_image: Any = None,
) -> Any:
    """Return the image to start from. One with noise in it has the size of the coarsest scale.

    Args:
        content: (H, W, 3).
        styles: the pictures of the style.
        config: of the transfer.
        coarsest: height and width of the coarsest scale.
        key: of the noise; `jax.random.key(config.seed)` by default.
        initial_image: an image of the content's shape in place of `config.init`, or None.

    Raises:
        TypeError, ValueError: `initial_image` is no image, or of another shape.
    """
    if initial_image is not None:
        check_image(initial_image, "initial_image")
        if initial_image.shape != content.shape:
            raise ValueError(
                f"initial_image must have the shape {tuple(content.shape)} of the content, not "
                f"{tuple(initial_image.shape)}"
            )
        image = initial_image.astype(content.dtype)
    elif config.init == "style":
        image = _fill(styles[0].image, content.shape[:2])
    elif config.init == "mean":
        image = jnp.broadcast_to(_mean_color(styles), content.shape)
    else:
        image = content
    share = 1.0 if config.init == "noise" and initial_image is None else config.noise_share
    if share == 0:
        return image
    key = jax.random.key(config.seed) if key is None else key
    # In that size the spectrum is as chosen: resizing would smooth the noise.
    noise = noise_image(key, coarsest, exponent=config.noise_exponent, dtype=content.dtype)
    if share == 1:
        return noise
    resized = resize(jnp.asarray(image), *coarsest, wrap=config.objective.circular)
    return (1 - share) * resized + share * noise


def _fill(image: Any, shape: Shape) -> jax.Array:
    """Crop the centre of an image to the proportions of a shape, and resize it to that."""
    factor = min(side / wanted for side, wanted in zip(image.shape[:2], shape, strict=True))
    height, width = (max(1, round(wanted * factor)) for wanted in shape)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return resize(jnp.asarray(image)[top : top + height, left : left + width], *shape)


def _mean_color(styles: Sequence[Picture]) -> jax.Array:
    """Return the mean colour of the styles, each with its share."""
    shares = jnp.stack([jnp.mean(jnp.asarray(style.share)) for style in styles])
    means = jnp.stack([jnp.mean(jnp.asarray(style.image), (0, 1)) for style in styles])
    return (shares / shares.sum()).astype(means.dtype) @ means
