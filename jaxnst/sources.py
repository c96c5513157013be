"""The sources of targets: pictures, their regions, and their shares in a blend."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxnst.pyramid import shrink
from jaxnst.vgg import check_image


class Picture(NamedTuple):
    """A source of a target: an image, its regions, and its share if several are blended."""

    image: Any  #: (H, W, 3) in [0, 1]
    regions: Any = None  #: (r, H, W) or (H, W) weights in [0, 1]; None for the whole picture
    share: Any = 1.0  #: a number, or (r,) numbers, one for each region


#: An image, a `Picture`, or a list of these, which are blended.
Source = Any

export.register_namedtuple_serialization(Picture, serialized_name="jaxnst.Picture")


def pictures_of(name: str, source: Source) -> tuple[Picture, ...]:
    """Return a source as a tuple of checked pictures, their regions as (r, H, W).

    Args:
        name: of the source, for messages.
        source: an image, a `Picture`, or a list of either.

    Raises:
        TypeError, ValueError: an image or its regions are invalid, or the list is empty.
    """
    if isinstance(source, Picture) or not isinstance(source, list | tuple):
        source = [source]
    if not source:
        raise ValueError(f"{name} must be one or more pictures, not an empty list")
    pictures = tuple(p if isinstance(p, Picture) else Picture(p) for p in source)
    for picture in pictures:
        check_image(picture.image, name)
    return tuple(
        picture._replace(
            regions=checked_regions(picture.regions, picture.image.shape, name),
            # A list has a number for each region, but JAX would take it for a tree.
            share=np.asarray(picture.share) if isinstance(picture.share, list) else picture.share,
        )
        for picture in pictures
    )


def checked_regions(regions: Any, shape: tuple[int, ...], name: str = "image") -> Any:
    """Return regions as (r, H, W), or None.

    Raises:
        ValueError: they do not have the size of their picture, whose shape is given.
    """
    if regions is None:
        return None
    given = jnp.shape(regions)
    if len(given) not in (2, 3) or given[-2:] != shape[:2] or 0 in given:
        raise ValueError(
            f"regions of the {name} must have the shape (r, {shape[0]}, {shape[1]}) of r regions "
            f"of its size, not {given}"
        )
    return regions if len(given) == 3 else regions[None]


def resize_regions(regions: Any, shape: Sequence[int]) -> Any:
    """Resize (r, H, W) regions, which gives the "simple" guides of Gatys et al. 2017."""
    if regions is None or regions.shape[1:] == tuple(shape):
        return regions
    return jax.image.resize(regions, (len(regions), *shape), "linear")


def shrink_picture(picture: Picture, ratio: float) -> Picture:
    """Resize a picture and its regions to `ratio` times their sides, or not if that is above 1."""
    image = shrink(picture.image, ratio)
    regions = resize_regions(picture.regions, image.shape[:2])
    return picture._replace(image=image, regions=regions)
