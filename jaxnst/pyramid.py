"""The image pyramid: scales from coarse to fine, and what is carried from one to the next."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Shape = tuple[int, int]


def pyramid_shapes(
    shape: Shape, *, min_size: int, scale_factor: float, multiple: int = 1
) -> list[Shape]:
    """Return heights and widths from coarse to fine, ending with `shape` itself.

    Long sides are round(end / scale_factor^i), as in crowsonkb's style_transfer, but at least
    `min_size`; if `shape` is smaller, it is the only one.

    Args:
        shape: (height, width) of the finest scale.
        min_size: least long side of the coarser scales in pixels.
        scale_factor: ratio between the sides of neighbouring scales, above 1.
        multiple: all sides of the coarser scales are rounded to a multiple of this.

    Raises:
        ValueError: `min_size` is not positive, or `scale_factor` not above 1.

    >>> pyramid_shapes((384, 512), min_size=128, scale_factor=2.0)
    [(96, 128), (192, 256), (384, 512)]
    """
    if min_size < 1 or not scale_factor > 1:
        raise ValueError(
            f"a pyramid needs min_size above 0 and scale_factor above 1, "
            f"not {min_size!r} and {scale_factor!r}"
        )
    end, shapes = max(shape), [shape]
    while (side := round(end / scale_factor ** len(shapes))) >= min_size:
        height, width = (
            max(1, round(length * side / (end * multiple))) * multiple for length in shape
        )
        if (height, width) == shapes[-1]:
            break  # the factor is so small that rounding undoes it
        shapes.append((height, width))
    return shapes[::-1]


def resize(
    image: Float[Array, "h w c"], height: int, width: int, *, wrap: bool = False
) -> Float[Array, "_ _ c"]:
    """Resize an (H, W, C) image in [0, 1] to (height, width, C), antialiased (Lanczos).

    Lanczos overshoots at edges, so the result is clipped to [0, 1].

    Args:
        image: (H, W, C).
        height: of the result.
        width: of the result.
        wrap: whether the image tiles the plane, so that each edge continues at the opposite one.

    Raises:
        ValueError: `image` has not three axes, or a side is not a positive integer.

    >>> import jax.numpy as jnp
    >>> resize(jnp.ones((4, 6, 3)), 2, 3).shape
    (2, 3, 3)
    """
    if image.ndim != 3:
        raise ValueError(f"image must have the shape (height, width, channels), not {image.shape}")
    if not all(isinstance(side, Integral) and side >= 1 for side in (height, width)):
        raise ValueError(f"height and width must be positive integers, not {height} and {width}")
    return jnp.clip(_resample(image, (height, width), "lanczos3", wrap), 0, 1)


def _resample(image: jax.Array, shape: Shape, method: str, wrap: bool) -> jax.Array:
    if not wrap:
        return jax.image.resize(image, (*shape, image.shape[2]), method)
    pads, crops, sides = [], [], []
    for old, new in zip(image.shape, shape, strict=False):
        # Both paddings are the same multiple of the smallest whole numbers in the ratio of the
        # sides, so that no pixel moves. A kernel of Lanczos reaches 3 pixels of the coarser grid.
        common, reach = math.gcd(old, new), 1 + 3 * max(1, math.ceil(old / new))
        times = math.ceil(reach * common / old)
        before, after = times * old // common, times * new // common
        pads.append((before, before))
        crops.append(slice(after, after + new))
        sides.append(new + 2 * after)
    padded = jnp.pad(image, [*pads, (0, 0)], mode="wrap")
    return jax.image.resize(padded, (*sides, image.shape[2]), method)[tuple(crops)]


def resize_unless(
    image: Float[Array, "h w c"], shape: Shape, *, wrap: bool = False
) -> Float[Array, "_ _ c"]:
    """Resize an image unless it has the shape already; then its values may leave [0, 1]."""
    return image if image.shape[:2] == shape else resize(image, *shape, wrap=wrap)


def shrink(image: Float[Array, "h w c"], ratio: float) -> Float[Array, "_ _ c"]:
    """Resize to `ratio` times the sides; a ratio of 1 or more changes nothing."""
    if ratio >= 1:
        return image
    height, width = (max(1, round(side * ratio)) for side in image.shape[:2])
    return resize(image, height, width)


def carry_moments(opt_state: Any, fresh: Any, shape: Sequence[int], *, wrap: bool = False) -> Any:
    """Resize Adam's moments for the next scale and keep its count of steps, as crowsonkb does.

    The rest of the optimiser's state starts afresh: the curvature pairs of L-BFGS are of no use at
    another size.

    Args:
        opt_state: at the end of the last scale.
        fresh: the optimiser's state at the start of this one.
        shape: of the image at this scale.
        wrap: whether the image tiles the plane.
    """

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    def carry(old: Any, new: Any) -> Any:
        if not is_adam(old):
            return new
        # Bilinear, so that no second moment is below 0.
        size = (shape[0], shape[1])
        mu, nu = (_resample(moment, size, "bilinear", wrap) for moment in (old.mu, old.nu))
        return old._replace(mu=mu, nu=jnp.maximum(nu, 0))

    return jax.tree.map(carry, opt_state, fresh, is_leaf=is_adam)
