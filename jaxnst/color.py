"""Colour: spaces, luminance and chroma, and whose colours a transferred picture has.

All functions are pure functions of arrays and work under `jit`, `grad` and `vmap`. Powers and roots
are guarded before they are taken, so that gradients are finite at black, white and grey.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnst.color_matching import Colors, Image, checked, match_colors_pca, mixed, moments

# The NTSC standard of 1987 (SMPTE C): luma, orange to blue, purple to green.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
# Ottosson 2020: linear light to the responses of cones, and their cube roots to Oklab.
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# Below this the cube root goes on as a line, so that its slope is finite; no picture of 8 bits has
# a colour that dark but black itself.
_DARK = 1e-6


def srgb_to_linear(image: Colors) -> Colors:
    """Convert sRGB to linear light, IEC 61966-2-1. A negative value becomes minus its opposite's.

    Args:
        image: (…, 3), in [0, 1] for what a screen shows.

    Raises:
        TypeError: `image` is not of floats.
        ValueError: its last axis is not of length 3.

    >>> import jax.numpy as jnp
    >>> [round(float(x), 3) for x in srgb_to_linear(jnp.array([0.0, 0.5, 1.0]))]
    [0.0, 0.214, 1.0]
    """
    image = checked(image)
    size = jnp.abs(image)
    power = ((jnp.maximum(size, 0.04045) + 0.055) / 1.055) ** 2.4
    return jnp.where(size > 0.04045, jnp.sign(image) * power, image / 12.92)


def linear_to_srgb(image: Colors) -> Colors:
    """Convert linear light to sRGB, the inverse of `srgb_to_linear`, with the same exceptions.

    >>> import jax.numpy as jnp
    >>> [round(float(x), 3) for x in linear_to_srgb(jnp.array([0.0, 0.214, 1.0]))]
    [0.0, 0.5, 1.0]
    """
    image = checked(image)
    size = jnp.abs(image)
    power = 1.055 * jnp.maximum(size, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.where(size > 0.0031308, jnp.sign(image) * power, image * 12.92)


def srgb_to_yiq(image: Colors) -> Colors:
    """Convert sRGB to luma Y in [0, 1], I (orange, or else blue) and Q (purple, or else green).

    Linear, by the numbers of SMPTE C (1987). Exceptions are those of `srgb_to_linear`.

    >>> import jax.numpy as jnp
    >>> print(srgb_to_yiq(jnp.array([1.0, 0.0, 0.0])))
    [0.299  0.5959 0.2115]
    """
    return mixed(checked(image), _YIQ)


def yiq_to_srgb(image: Colors) -> Colors:
    """Convert YIQ to sRGB, the inverse of `srgb_to_yiq`, with the same exceptions.

    >>> import jax.numpy as jnp
    >>> print(yiq_to_srgb(jnp.array([0.5, 0.0, 0.0])).round(3))
    [0.5 0.5 0.5]
    """
    return mixed(checked(image), np.linalg.inv(_YIQ))


def linear_to_oklab(image: Colors) -> Colors:
    """Convert linear light to Oklab: L in [0, 1], a (red, or else green), b (yellow, or else blue).

    Ottosson 2020, "A perceptual color space for image processing". The cube root is a line below
    1e-6, which is darker than any colour of 8 bits but black. Exceptions are those of
    `srgb_to_linear`.

    >>> import jax.numpy as jnp
    >>> [round(float(x), 3) for x in linear_to_oklab(jnp.array([1.0, 0.0, 0.0]))]
    [0.628, 0.225, 0.126]
    """
    cones = mixed(checked(image), _CONES)
    size = jnp.abs(cones)
    root = jnp.sign(cones) * jnp.cbrt(jnp.maximum(size, _DARK))
    return mixed(jnp.where(size > _DARK, root, cones * _DARK ** (-2 / 3)), _LAB)


def oklab_to_linear(image: Colors) -> Colors:
    """Convert Oklab to linear light, the inverse of `linear_to_oklab`, with the same exceptions.

    >>> import jax.numpy as jnp
    >>> print(oklab_to_linear(jnp.array([1.0, 0.0, 0.0])).round(3))
    [1. 1. 1.]
    """
    roots = mixed(checked(image), np.linalg.inv(_LAB))
    cones = jnp.where(jnp.abs(roots) > _DARK ** (1 / 3), roots**3, roots * _DARK ** (2 / 3))
    return mixed(cones, np.linalg.inv(_CONES))


# --- luminance and chroma -----------------------------------------------------------------------


def luminance(image: Colors) -> Colors:
    """Return the luma Y of YIQ as a grey image, of three equal channels.

    Exceptions are those of `srgb_to_linear`.

    >>> import jax.numpy as jnp
    >>> print(luminance(jnp.array([1.0, 0.0, 0.0])))
    [0.299 0.299 0.299]
    """
    image = checked(image)
    return jnp.broadcast_to(srgb_to_yiq(image)[..., :1], image.shape)


def match_luminance(image: Image, target: Image) -> Image:
    """Give an image the mean and standard deviation of a target's luminance.

    Gatys et al. 2016b, L' = σ_t/σ (L - μ) + μ_t. All channels are changed alike; the result is in
    [0, 1] only after clipping. Deviations are those of grey levels rounded to 8 bits or larger, so
    that a constant picture has a finite gradient.

    Arguments and exceptions are those of `match_colors_pca`.

    >>> import jax.numpy as jnp
    >>> image = jnp.ones((1, 2, 3)) * jnp.array([0.0, 0.2])[:, None]
    >>> print(match_luminance(image, 0.5 * image + 0.5)[0, :, 0].round(3))
    [0.5 0.6]
    """
    now, then = moments(luminance(image)), moments(luminance(target))
    ratio = jnp.sqrt(then[1][0, 0] / now[1][0, 0])
    return checked(image) * ratio + (then[0] - ratio * now[0])


def fit_gamut(image: Colors) -> Colors:
    """Bring colours into [0, 1] by reducing their chroma, at the same luma and hue of YIQ.

    Only a luma beyond [0, 1] is clipped. Colours in [0, 1] stay as they are.

    Args:
        image: (…, 3) sRGB.

    Raises:
        TypeError, ValueError: as `srgb_to_linear`.

    >>> import jax.numpy as jnp
    >>> [round(float(x), 2) for x in fit_gamut(jnp.array([1.5, 0.5, 0.5]))]
    [1.0, 0.71, 0.71]
    """
    image = checked(image)
    luma = luminance(image)
    grey = jnp.clip(luma, 0.0, 1.0)
    chroma = image - luma
    room = jnp.where(chroma > 0, 1 - grey, grey)
    part = room / jnp.maximum(jnp.abs(chroma), jnp.maximum(room, _DARK))
    return grey + chroma * jnp.min(part, axis=-1, keepdims=True)


def transfer_chroma(image: Colors, target: Colors) -> Colors:
    """Give an image the chroma of a target, the I and Q of YIQ, and keep its luminance.

    Where that would leave [0, 1], the luma is moved towards the target's as far as needed, so the
    chroma is the target's everywhere.

    Args:
        image: (…, 3) sRGB in [0, 1].
        target: the same shape, in [0, 1].

    Raises:
        TypeError: an image is not of floats.
        ValueError: the shapes differ, or the last axis is not of length 3.

    >>> import jax.numpy as jnp
    >>> image = transfer_chroma(jnp.full(3, 0.5), jnp.array([0.4, 0.2, 0.2]))
    >>> [round(float(x), 2) for x in image]
    [0.64, 0.44, 0.44]
    """
    image, target = checked(image), checked(target)
    if image.shape != target.shape:
        raise ValueError(f"target must have the shape {image.shape} of image, not {target.shape}")
    chroma = target - luminance(target)
    least = -jnp.min(chroma, axis=-1, keepdims=True)
    most = 1 - jnp.max(chroma, axis=-1, keepdims=True)
    return jnp.clip(luminance(image), least, most) + chroma


# --- whose colours a transferred picture has ----------------------------------------------------


class Color(NamedTuple):
    """What is done for colours before a transfer, and with its result.

    Attributes:
        prepare: of the content and the list of styles, returns those to transfer; None if they are
            the same.
        finish: of the result and the content, of one shape, returns the picture.
    """

    prepare: Callable[[Any, Sequence[Any]], tuple[Any, Sequence[Any]]] | None
    finish: Callable[[Any, Any], Any]


def _as_it_is(image: Any, content: Any) -> Any:
    return image


@jax.jit  # as one program, since commands call it once a picture
def _on_luminance(content: Any, styles: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    content = luminance(content)
    grey = [match_luminance(luminance(style), content) for style in styles]
    return content, [jnp.clip(style, 0.0, 1.0) for style in grey]


@jax.jit
def _with_matched_styles(content: Any, styles: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    return content, [fit_gamut(match_colors_pca(style, content)) for style in styles]


#: Whose colours a picture has, by the words of the command line. "style": as the transfer makes
#: them. "content-luminance": luminance alone is transferred, the styles' matched to the content's
#: (Gatys et al. 2016b), and the picture has the content's chroma. "match": the colours of the
#: styles are first matched to the content's. "content-after": the picture has the content's chroma.
COLORS = {
    "style": Color(None, _as_it_is),
    "content-luminance": Color(_on_luminance, jax.jit(transfer_chroma)),
    "match": Color(_with_matched_styles, _as_it_is),
    "content-after": Color(None, jax.jit(transfer_chroma)),
}
