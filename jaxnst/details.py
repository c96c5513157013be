"""What a finer scale starts with: the enlarged image, and fine details of the styles."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnst.losses import accumulate
from jaxnst.pyramid import Shape, resize, shrink
from jaxnst.sources import Picture

PATCH = 8  #: side of the patches in pixels; they lie half a side apart
#: Limits the patches of the styles that are compared, and so the time: beyond it they are sampled.
MOST_PATCHES = 8192
_AT_ONCE = 1024  # patches of the image, so that distances take a few megabytes


def refine(
    image: Float[Array, "h w c"],
    styles: Sequence[Picture],
    shape: Shape,
    *,
    details: float = 1.0,
    regions: Float[Array, "r h w"] | None = None,
    wrap: bool = False,
) -> Float[Array, "_ _ c"]:
    """Enlarge the image of a coarser scale, and paint in the fine details of the styles.

    Each patch of the enlarged image takes the details of the style's patch that looks most like it
    when it is blurred as much. This is super-resolution by example (Freeman, Jones & Pasztor
    2002), or an image analogy of the blurred style to the style (Hertzmann et al. 2001). So the
    finest strokes are the painter's from the start. Details of the content would stay photographic
    for hundreds of evaluations, and without any the picture stays soft.

    Args:
        image: (h, w, C) in [0, 1], the result of the coarser scale.
        styles: pictures at the finer scale, with shares and (r, H', W') regions. A picture whose
            share is 0 gives no details. If there are none, nothing is painted in.
        shape: height and width of the finer scale.
        details: strength of the details; 0 for none.
        regions: (r, H, W) at the finer scale, each of which takes its details from the same region
            of the styles; None for the whole picture.
        wrap: whether the image tiles the plane. Styles do not.

    Returns:
        (*shape, C), clipped to [0, 1].

    Raises:
        ValueError: as `resize`.

    >>> import jax.numpy as jnp
    >>> blurred = jnp.full((16, 16, 3), 0.5)
    >>> stripes = jnp.tile(jnp.array([0.4, 0.6])[:, None], (16, 32))[:, :, None] * jnp.ones(3)
    >>> rows = refine(blurred, [Picture(stripes)], (32, 32)).mean((1, 2))
    >>> float(jnp.abs(rows - 0.5).min().round(2))
    0.1
    """
    enlarged = resize(image, *shape, wrap=wrap)
    ratio = max(image.shape[:2]) / max(shape)
    if details == 0 or ratio >= 1 or not styles:
        return enlarged
    painted = _details(enlarged, styles, regions, ratio, wrap)
    return jnp.clip(enlarged + details * painted, 0, 1)


def _details(
    image: jax.Array, styles: Sequence[Picture], regions: Any, ratio: float, wrap: bool
) -> jax.Array:
    """Return the details of the styles' patches that are nearest to those of the image."""
    side = min(PATCH, *(min(style.image.shape[:2]) for style in styles))
    stride = max(1, side // 2)
    # One more patch at the end covers the last rows and columns.
    pads = [(side, side + stride)] * 2
    padded = jnp.pad(image, [*pads, (0, 0)], mode="wrap" if wrap else "edge")
    here = jnp.ones((1, *image.shape[:2])) if regions is None else regions
    here = jnp.pad(here, [(0, 0), *pads], mode="wrap" if wrap else "edge")
    corners = [np.arange(0, length - side + 1, stride) for length in padded.shape[:2]]
    counts = [len(_corners(style, side, stride)) for style in styles]
    keep = max(1, math.ceil(sum(counts) / MOST_PATCHES))
    keys, details, members = [], [], []
    for style in styles:
        blurred = resize(shrink(style.image, ratio), *style.image.shape[:2])
        at = _corners(style, side, stride)[::keep]
        spots = _spots(at, side)
        keys.append(_look(blurred[spots]))
        details.append((style.image - blurred)[spots])
        members.append(_membership(style, at, side, len(here)))
    known, paint, member = (jnp.concatenate(parts) for parts in (keys, details, members))
    bias = jnp.sum(known**2, 1)

    def nearest(corner: jax.Array) -> jax.Array:
        patch = _look(jax.lax.dynamic_slice(padded, (*corner, 0), (side, side, 3))[None])[0]
        middle = corner + side // 2
        region = jax.lax.dynamic_slice(here, (0, *middle), (len(here), 1, 1))[:, 0, 0]
        other = 1 - member @ region.astype(member.dtype)  # of other regions, or of share 0
        return jnp.argmin(bias - 2 * (known @ patch) + 1e3 * other)

    grid = np.stack(np.meshgrid(*corners, indexing="ij"), -1).reshape(-1, 2)
    found = jax.lax.map(nearest, jnp.asarray(grid), batch_size=_AT_ONCE)
    window = _window(side)
    taken = paint[found] * window[:, :, None].astype(paint.dtype)
    rows, columns = _spots(grid, side)
    total = jnp.zeros_like(padded).at[rows, columns].add(taken)
    # Patches of different places add up like noise, whose squares add up.
    power = np.zeros(padded.shape[:2])
    np.add.at(power, (rows, columns), np.broadcast_to(window**2, rows.shape))
    inside = tuple(slice(side, side + length) for length in image.shape[:2])
    return total[inside] / np.sqrt(power[inside])[:, :, None].astype(total.dtype)


def _corners(style: Picture, side: int, stride: int) -> np.ndarray:
    """Return the upper left corners of a picture's patches as (n, 2) rows and columns."""
    ranges = [np.arange(0, length - side + 1, stride) for length in style.image.shape[:2]]
    return np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 2)


def _spots(corners: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the pixels of patches, each (n, side, side)."""
    spots = corners[:, None, None] + np.moveaxis(np.indices((side, side)), 0, -1)
    return spots[..., 0], spots[..., 1]


def _look(patches: jax.Array) -> jax.Array:
    """Return (n, side, side, C) patches as vectors whose distance is that of their looks.

    Half of the mean brightness is left out, since a stroke suits lighter and darker places.
    """
    vectors = accumulate(patches.reshape(len(patches), -1))
    return vectors - 0.5 * jnp.mean(vectors, 1, keepdims=True)


def _membership(style: Picture, corners: np.ndarray, side: int, count: int) -> jax.Array:
    """Return (n, count) weights of patches in each region, 0 where the style has no share."""
    shares = jnp.broadcast_to(jnp.asarray(style.share), (count,)) > 0
    if style.regions is None:
        return jnp.broadcast_to(shares, (len(corners), count)).astype(jnp.float32)
    rows, columns = (corners + side // 2).T
    regions = jnp.broadcast_to(style.regions, (count, *style.regions.shape[1:]))
    return (regions[:, rows, columns].T * shares).astype(jnp.float32)


def _window(side: int) -> np.ndarray:
    """Return the weights of a patch's pixels, which fall from its middle to its borders."""
    across = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    return np.outer(across, across)
