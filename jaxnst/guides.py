"""Guides: which positions of a layer belong to a region of the picture (Gatys et al. 2017)."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxnst.convolution import PADDINGS, Padding, paddings_of
from jaxnst.pooling import max_pool
from jaxnst.sources import resize_regions
from jaxnst.vgg import LAYERS

Guides = Literal["simple", "all", "inside"]
GUIDES: tuple[Guides, ...] = ("simple", "all", "inside")


def guide_layers(
    regions: Any,
    shapes: Mapping[str, Sequence[int]],
    guides: Guides,
    *,
    padding: Padding = "zero",
) -> Any:
    """Return the regions of a picture at each of its layers.

    A position's receptive field is the part of the picture that can change its feature. It is
    followed through the layers: a 3×3 convolution sees a position and its neighbours, a pool its
    block of 2×2. What it covers beyond the picture's border does not count, except that circular
    padding shows it the opposite side, so the whole picture as a region is 1 everywhere.

    Args:
        regions: (r, H, W) weights in [0, 1], or None.
        shapes: by layer, (h, w) of its features; "image" is the picture itself.
        guides: "simple" resizes the region. "all" gives a position the largest weight in its
            receptive field, "inside" the smallest. Where no position lies inside, a region
            has its "simple" guide there, so that it still counts.
        padding: of the convolutions, as in `VGG19`.

    Returns:
        By layer, (r, h, w), or None.
    """
    simple = {layer: resize_regions(regions, shape) for layer, shape in shapes.items()}
    if regions is None or guides == "simple":
        return simple
    # The smallest weight is the complement of the largest complement.
    fields = _largest(regions if guides == "all" else 1 - regions, shapes, padding)
    if guides == "all":
        return fields
    return {layer: _inside(1 - field, simple[layer]) for layer, field in fields.items()}


def _inside(inside: jax.Array, simple: jax.Array) -> jax.Array:
    found = jnp.max(inside, axis=(1, 2), keepdims=True) > 0
    return jnp.where(found, inside, simple)


def _largest(
    regions: jax.Array, shapes: Mapping[str, Sequence[int]], padding: Padding
) -> dict[str, jax.Array]:
    """Return the largest weight in each position's receptive field, by layer."""
    deepest = max((LAYERS.index(layer) for layer in shapes if layer != "image"), default=-1)
    first, others = paddings_of(padding)
    x, found = jnp.moveaxis(jnp.asarray(regions), 0, -1), {}
    for layer in ("image", *LAYERS[: deepest + 1]):
        if layer.startswith("conv"):
            # Zeros and reflections show a position nothing that it does not see by itself.
            circular = (first if layer == "conv1_1" else others) == "circular"
            mode = PADDINGS["circular" if circular else "replicate"]
            x = _dilate(_dilate(x, 0, mode), 1, mode)
        elif layer.startswith("pool"):
            x = max_pool(x)
        if layer in shapes:
            found[layer] = jnp.moveaxis(x, -1, 0)
    return {layer: found[layer] for layer in shapes}


def _dilate(x: jax.Array, axis: int, mode: str) -> jax.Array:
    """Return the largest of each value and its neighbours along an axis."""
    padded = jnp.pad(x, [(int(i == axis),) * 2 for i in range(x.ndim)], mode=mode)
    length = x.shape[axis]
    windows = (jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(3))
    return reduce(jnp.maximum, windows)
