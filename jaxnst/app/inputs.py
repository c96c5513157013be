"""The pictures that a command reads: content, styles, their masks, and the first image."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnst.app.checkpoint import Fingerprint, digest
from jaxnst.app.options import Choice
from jaxnst.color import COLORS
from jaxnst.images import Geometry, load_mask, read_picture
from jaxnst.loss_weights import LossWeights
from jaxnst.protection import protect
from jaxnst.recipes import TransferConfig
from jaxnst.rescaling import rescale_params
from jaxnst.sources import Picture
from jaxnst.texture import blank, fit_config
from jaxnst.vgg import Params


class Inputs(NamedTuple):
    """Arguments of `make_problem` and `sweep`, on the host."""

    content: Any
    styles: list[Picture]
    regions: Any = None  #: (r, H, W) of the content, one for each style
    initial_image: Any = None
    alpha: Any = None  #: the content's opacity
    content_mask: Any = None  #: (H, W), 1 where the content is kept

    @property
    def fingerprint(self) -> Fingerprint:
        """Return the digests of all pictures, by the names of their options."""
        shares = [style.share for style in self.styles]
        return {
            "content": digest(self.content),
            "style": digest([style.image for style in self.styles]),
            "blend": "equal" if len({*shares}) == 1 else repr(shares),
            "masks": digest(self.regions),
            "style_masks": digest([s.regions for s in self.styles if s.regions is not None]),
            "init_file": digest(self.initial_image),
            "content_mask": digest(self.content_mask),
        }


def paths_of(options: argparse.Namespace) -> list[Path]:
    """Return all files that a command reads."""
    contents = [options.content] if "content" in options else options.contents
    more = [getattr(options, name, None) or [] for name in ("masks", "style_masks")]
    single = [options.params, options.init if isinstance(options.init, Path) else None]
    single.append(getattr(options, "content_mask", None))
    return [*contents, *options.style, *sum(more, []), *filter(None, single)]


def read_styles(options: argparse.Namespace, geometry: Geometry) -> list[Picture]:
    """Read the styles with their shares of the blend.

    Raises:
        ValueError: there is another number of shares than of styles, or all are 0.
        OSError: a file cannot be read.
    """
    shares = options.blend or [1.0] * len(options.style)
    if len(shares) != len(options.style):
        raise ValueError(
            f"--blend has {len(shares)} shares, but there are {len(options.style)} styles: give "
            "one for each"
        )
    if not sum(shares) > 0:
        raise ValueError("--blend must have a share above 0")
    return [
        Picture(read_picture(path, **sized).image, share=share)
        for path, share, sized in zip(
            options.style, shares, _style_geometries(options, geometry), strict=True
        )
    ]


def _style_geometries(options: argparse.Namespace, geometry: Geometry) -> list[dict[str, Any]]:
    """Return the options of `read_picture` for each style."""
    scales = options.style_scale
    if scales is None or geometry.size is None:
        return [asdict(geometry)] * len(options.style)
    if len(scales) == 1:
        scales = scales * len(options.style)
    _check_count("--style-scale", scales, options.style, "numbers")
    return [
        asdict(geometry) | {"size": math.ceil(scale * geometry.size), "enlarge": False}
        for scale in scales
    ]


def read_inputs(options: argparse.Namespace, geometry: Geometry) -> Inputs:
    """Read the content, the styles, and what goes with them.

    Raises:
        ValueError: pictures or masks that do not fit each other.
        OSError: a file cannot be read.
    """
    content, alpha = read_picture(options.content, **asdict(geometry))
    styles, start = read_styles(options, geometry), None
    if isinstance(options.init, Path):
        start = read_picture(options.init, **asdict(geometry)).image
        _check_shape(options.init, start, content, "the content")
    kept = getattr(options, "content_mask", None)
    if kept is not None:
        kept = _mask(kept, content, asdict(geometry), "the content")
        if not kept.min() < 1:
            raise ValueError(
                f"mask {str(options.content_mask)!r} is white everywhere: paint black what may "
                "take the style"
            )
    if not options.masks:
        if options.style_masks:
            raise ValueError("--style-masks are parts of styles for the regions of --masks: add it")
        return Inputs(content, styles, None, start, alpha, kept)
    _check_count("--masks", options.masks, styles)
    regions = np.stack(
        [_mask(path, content, asdict(geometry), "the content") for path in options.masks]
    )
    for path, region in zip(options.masks, regions, strict=True):
        if kept is not None and not (region * (1 - kept)).max() > 0:
            raise ValueError(
                f"--content-mask keeps all of the region {str(path)!r}: leave some of it black"
            )
    if options.style_masks:
        _check_count("--style-masks", options.style_masks, styles)
        masks = [
            _mask(path, style.image, sized, "its style")
            for path, style, sized in zip(
                options.style_masks, styles, _style_geometries(options, geometry), strict=True
            )
        ]
        # Each style counts in its own region alone, so all of its regions may be the same.
        styles = [
            style._replace(regions=np.broadcast_to(mask, (len(styles), *mask.shape)))
            for style, mask in zip(styles, masks, strict=True)
        ]
    if options.blend:
        raise ValueError(
            "--blend mixes styles everywhere, and --masks parts them: give one of both"
        )
    return Inputs(content, styles, regions, start, alpha, kept)


def read_texture(options: argparse.Namespace, choice: Choice) -> tuple[Choice, Inputs]:
    """Read the styles of a texture, and return the choice that fits them.

    Raises:
        ValueError: the shape does not suit a texture that tiles, or a blend does not fit.
        OSError: a file cannot be read.
    """
    styles, size = read_styles(options, choice.geometry), choice.geometry.size
    shape = tuple(options.shape or (size, size))
    config = fit_config(choice.config, styles, shape)
    return choice._replace(config=config), Inputs(blank(shape), styles)


def recolored(color: str, content: Any, styles: Sequence[Picture]) -> tuple[Any, Sequence[Picture]]:
    """Return the content and the styles in the colours to transfer.

    Args:
        color: one of `COLORS`.
        content: (H, W, 3), or (L, H, W, 3) for L lanes, each of which may need other styles.
        styles: each with an image of its own, (H', W', 3).
    """
    prepare = COLORS[color].prepare
    if prepare is None:
        return content, styles
    if content.ndim == 4:
        prepare = jax.vmap(prepare, in_axes=(0, None))
    content, images = prepare(content, [style.image for style in styles])
    return content, [s._replace(image=image) for s, image in zip(styles, images, strict=True)]


def network_of(choice: Choice, inputs: Inputs, params: Params, *, texture: bool = False) -> Params:
    """Return the params, rescaled if the recipe says so: on the styles, and on the content if any.

    The content of a texture is blank, and does not count.
    """
    if not choice.rescale:
        return params
    pictures = [style.image for style in inputs.styles]
    if inputs.content is not None and not texture:
        content, styles = recolored(choice.color, inputs.content, inputs.styles)
        pictures = [content, *(style.image for style in styles)]
    objective = choice.config.objective
    padding = "reflect" if objective.circular else objective.padding  # styles do not tile
    rescale = partial(rescale_params, pooling=objective.pooling, padding=padding)
    rescaled: Params = jax.jit(rescale)(pictures, params)
    return rescaled


def arguments_of(
    inputs: Inputs, params: Params, weights: LossWeights, config: TransferConfig, color: str
) -> dict[str, Any]:
    """Return the arguments of `make_problem`, or of `sweep` where weights have lanes."""
    content, styles = recolored(color, inputs.content, inputs.styles)
    arguments = {"content": content, "style": styles, "weights": weights, "config": config}
    arguments |= {"params": params, "regions": inputs.regions}
    if inputs.content_mask is not None:
        arguments |= protect(**arguments, mask=inputs.content_mask)._asdict()
    return arguments | {"initial_image": inputs.initial_image}


def _mask(path: Path, image: Any, sized: dict[str, Any], whose: str) -> Any:
    mask = load_mask(path, **sized)
    _check_shape(path, mask, image, whose)
    if not mask.max() > 0:
        raise ValueError(f"mask {str(path)!r} is black everywhere: paint its region white")
    return mask


def _check_shape(path: Path, given: Any, image: Any, whose: str) -> None:
    if given.shape[:2] != image.shape[:2]:
        (height, width), (h, w) = given.shape[:2], image.shape[:2]
        raise ValueError(
            f"{str(path)!r} is {width}x{height} pixels at this size, and {whose} {w}x{h}: give a "
            "picture of the same proportions"
        )


def _check_count(
    option: str, given: Sequence[Any], styles: Sequence[Any], what: str = "masks"
) -> None:
    if len(given) != len(styles):
        raise ValueError(
            f"{option} has {len(given)} {what}, but there are {len(styles)} styles: give one for "
            "each style, in their order"
        )
