"""The image pyramid: sizes from coarse to fine, and what is carried from one to the next."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxnst.checks import check_positive_integer

Shape = tuple[int, int]


def pyramid_shapes(shape: Shape, *, min_size: int, scale_factor: float) -> list[Shape]:
    """Heights and widths from coarse to fine, ending with `shape` itself.

    Long sides are round(end / scale_factor^i), as in crowsonkb's style_transfer, from `min_size`
    up; a shape that is smaller than `min_size` is the only one.

    Args:
        shape: (height, width) of the finest scale.
        min_size: pixels of the long side that no scale but the last is below.
        scale_factor: between the sides of neighbouring scales, above 1.

    Raises:
        ValueError: `min_size` is not positive, or `scale_factor` not above 1.
    """
    if min_size < 1 or not scale_factor > 1:
        raise ValueError(
            f"a pyramid needs min_size above 0 and scale_factor above 1, "
            f"not {min_size!r} and {scale_factor!r}"
        )
    end, shapes = max(shape), [shape]
    while (side := round(end / scale_factor ** len(shapes))) >= min_size:
        height, width = (max(1, round(length * side / end)) for length in shape)
        if (height, width) == shapes[-1]:
            break  # so slow a factor that rounding takes it back
        shapes.append((height, width))
    return shapes[::-1]


@partial(jax.jit, static_argnames=("height", "width"))
def resize(image: Float[Array, "h w c"], height: int, width: int) -> Float[Array, "_ _ c"]:
    """Resize an (H, W, C) image in [0, 1] to (height, width, C), antialiased (Lanczos).

    Lanczos overshoots at edges, so the result is clipped to [0, 1].

    Raises:
        ValueError: `image` has not three axes, or a side is no positive integer.
    """
    if image.ndim != 3:
        raise ValueError(f"image has the shape {image.shape}: it must be (height, width, channels)")
    check_positive_integer("height", height)
    check_positive_integer("width", width)
    return jnp.clip(jax.image.resize(image, (height, width, image.shape[2]), "lanczos3"), 0, 1)


#: A picture that was enlarged has next to no details, and what is left is grain and ringing.
MAX_GAIN = 3.0


@partial(jax.jit, static_argnames=("height", "width"))
def refine(
    image: Float[Array, "h w c"],
    start: Float[Array, "_ _ c"],
    styles: Sequence[Float[Array, "_ _ c"]],
    height: int,
    width: int,
) -> Float[Array, "_ _ c"]:
    """An image of a coarser scale at a finer one, with the details that `start` has only there.

    What is carried is the change that coarser scales made to `start`. Its details are one band of
    a Laplacian pyramid (Burt & Adelson 1983): itself less what a coarser scale can show of it. They
    are made as strong as those of the styles, as Heeger & Bergen (1995) match bands of textures,
    but by root mean squares and within a factor of `MAX_GAIN`.

    Args:
        image: (h, w, C) in [0, 1], what became of `start` at the coarser scale.
        start: (H, W, C) in [0, 1], of any size; one no larger than `image` has no details to give.
        styles: each (H', W', C) in [0, 1], as they are at the finer scale; none for details as
            they are.
        height: of the finer scale.
        width: of the finer scale.

    Returns:
        (height, width, C), clipped to [0, 1].

    Raises:
        ValueError: as `resize`.
    """
    enlarged = resize(image, height, width)
    if max(start.shape[:2]) <= max(image.shape[:2]):
        return enlarged
    ratio = max(image.shape[:2]) / max(height, width)
    details = resize(start, height, width) - resize(resize(start, *image.shape[:2]), height, width)
    if styles:
        wanted = sum(jnp.mean(_details(style, ratio) ** 2) for style in styles) / len(styles)
        found = jnp.maximum(jnp.mean(details**2), jnp.finfo(details.dtype).tiny)
        details *= jnp.clip(jnp.sqrt(wanted / found), 1 / MAX_GAIN, MAX_GAIN)
    return jnp.clip(enlarged + details, 0, 1)


def _details(image: jax.Array, ratio: float) -> jax.Array:
    """What an image shows and one of `ratio` times its sides cannot."""
    return image - resize(shrink(image, ratio), *image.shape[:2])


def shrink(image: Float[Array, "h w c"], ratio: float) -> Float[Array, "_ _ c"]:
    """`resize` to `ratio` times the sides, as a style is at a scale; 1 or more changes nothing."""
    if ratio >= 1:
        return image
    height, width = (max(1, round(side * ratio)) for side in image.shape[:2])
    return resize(image, height, width)


def carry_moments(opt_state: Any, fresh: Any, shape: Sequence[int]) -> Any:
    """Adam's moments at the next scale, resized, its count of steps kept (after crowsonkb).

    Anything else in the optimiser's state begins anew: the curvature pairs of L-BFGS tell nothing
    about other pixels.

    Args:
        opt_state: at the end of the last scale.
        fresh: the optimiser's state at the start of this one.
        shape: of the image at this scale.
    """

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    def carry(old: Any, new: Any) -> Any:
        if not is_adam(old):
            return new
        resized = partial(jax.image.resize, shape=shape, method="bilinear")
        # Bilinear, so that no second moment is below 0.
        return old._replace(mu=resized(old.mu), nu=jnp.maximum(resized(old.nu), 0))

    return jax.tree.map(carry, opt_state, fresh, is_leaf=is_adam)
