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

SIDE, APART = 8, 4  #: of the patches and between their corners, in pixels
#: Limits the patches of the styles that are compared, and so the time: beyond it they are sampled.
MOST_PATCHES = 8192
_AT_ONCE = 1024  #: patches of the image that are compared at once, in a few megabytes


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
            of the styles; where all are 0, there are none. None for the whole picture.
        wrap: whether the image tiles the plane. Styles do not.

    Returns:
        (*shape, C), clipped to [0, 1].

    Raises:
        ValueError: as `resize`.

    >>> import jax.numpy as jnp
    >>> blurred = jnp.full((16, 16, 3), 0.5)
    >>> stripes = jnp.tile(jnp.array([0.4, 0.6])[:, None], (16, 32))[:, :, None] * jnp.ones(3)
    >>> rows = refine(blurred, [Picture(stripes)], (32, 32)).mean((1, 2))
    >>> bool(jnp.abs(rows - 0.5).min() > 0.09)
    True
    """
    enlarged = resize(image, *shape, wrap=wrap)
    ratio = max(image.shape[:2]) / max(shape)
    if details == 0 or ratio >= 1 or not styles:
        return enlarged
    painted = _details(enlarged, styles, regions, ratio, wrap)
    if regions is not None:
        painted *= jnp.clip(jnp.sum(regions, 0), 0, 1)[:, :, None].astype(painted.dtype)
    return jnp.clip(enlarged + details * painted, 0, 1)


def _details(
    image: jax.Array, styles: Sequence[Picture], regions: Any, ratio: float, wrap: bool
) -> jax.Array:
    """Return the details of the styles' patches that are nearest to those of the image."""
    # Each pixel lies in two patches across and two down, and their number is even.
    counts = [2 * math.ceil((math.ceil(length / APART) + 1) / 2) for length in image.shape[:2]]
    pads = [
        (APART, APART * count - length)
        for count, length in zip(counts, image.shape[:2], strict=True)
    ]
    mode = "wrap" if wrap else "edge"
    padded = jnp.pad(image, [*pads, (0, 0)], mode=mode)
    here = None if regions is None else jnp.pad(regions, [(0, 0), *pads], mode=mode)
    step = max(1, math.ceil(sum(len(_corners(style)) for style in styles) / MOST_PATCHES))
    samples = [_sample(style, ratio, step, 1 if here is None else len(here)) for style in styles]
    looks, paint, members = (jnp.concatenate(parts) for parts in zip(*samples, strict=True))
    sizes = jnp.sum(looks**2, 1)

    def nearest(index: jax.Array) -> jax.Array:
        corner = jnp.stack([index // counts[1], index % counts[1]]) * APART
        look = _look(_patches(padded, corner[None]))[0]
        region = jnp.ones(1) if here is None else here[:, *(corner + SIDE // 2)]
        other = 1 - members @ region.astype(members.dtype)  # of other regions, or of share 0
        return jnp.argmin(sizes - 2 * (looks @ look) + 1e3 * other)

    found = jax.lax.map(nearest, jnp.arange(math.prod(counts)), batch_size=_AT_ONCE)
    found = found.reshape(counts)
    window = _window()[:, :, None].astype(paint.dtype)
    total = jnp.zeros_like(padded)
    # Every second patch across and down lies beside the next one, without overlap.
    for row, column in np.ndindex(2, 2):
        tiles = paint[found[row::2, column::2]] * window
        tiles = tiles.swapaxes(1, 2).reshape(APART * counts[0], APART * counts[1], -1)
        ends = [(APART * first, APART * (1 - first)) for first in (row, column)]
        total += jnp.pad(tiles, [*ends, (0, 0)])
    return total[APART : APART + image.shape[0], APART : APART + image.shape[1]]


def _sample(style: Picture, ratio: float, step: int, count: int) -> tuple[jax.Array, ...]:
    """Return looks, details and regions of every `step`-th patch of a style."""
    image = style.image
    blurred = resize(shrink(image, ratio), *image.shape[:2])
    corners = _corners(style)[::step]
    looks, details = (_patches(_filled(x), corners) for x in (blurred, image - blurred))
    shared = jnp.broadcast_to(jnp.asarray(style.share), (count,)) > 0
    members = jnp.ones((len(corners), count))
    if style.regions is not None:
        rows, columns = np.minimum(corners + SIDE // 2, np.array(image.shape[:2]) - 1).T
        members = members * style.regions[:, rows, columns].T
    return _look(looks), details, (members * shared).astype(jnp.float32)


def _filled(image: jax.Array) -> jax.Array:
    """Continue an image that is smaller than a patch by its border pixels."""
    ends = [(0, max(0, SIDE - length)) for length in image.shape[:2]]
    return jnp.pad(image, [*ends, (0, 0)], mode="edge")


def _corners(style: Picture) -> np.ndarray:
    """Return the upper left corners of a picture's patches as (n, 2) rows and columns."""
    ranges = [np.arange(0, max(1, side - SIDE + 1), APART) for side in style.image.shape[:2]]
    return np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 2)


def _patches(image: jax.Array, corners: Any) -> jax.Array:
    """Return the (n, SIDE, SIDE, C) patches with these corners."""

    def cut(corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), (SIDE, SIDE, image.shape[2]))

    return jax.vmap(cut)(jnp.asarray(corners))


def _look(patches: jax.Array) -> jax.Array:
    """Return patches as vectors whose distance is that of their looks.

    Half of the mean brightness is left out, since a stroke suits lighter and darker places.
    """
    vectors = accumulate(patches.reshape(len(patches), -1))
    return vectors - 0.5 * jnp.mean(vectors, 1, keepdims=True)


def _window() -> np.ndarray:
    """Return (SIDE, SIDE) weights of a patch's pixels, which fall from its middle to its borders.

    The squares of the weights that a pixel has in its four patches sum to 1, since details of
    different places add up like noise.
    """
    across = np.sin(np.pi * (np.arange(SIDE) + 0.5) / SIDE) ** 2
    across /= np.sqrt(across**2 + np.roll(across, APART) ** 2)
    return np.outer(across, across)
