"""Protect a part of the content, such as a face or a sky, from the style."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnst.compilation import once
from jaxnst.loss_weights import LossWeights
from jaxnst.objective import perceptual_loss
from jaxnst.recipes import TransferConfig
from jaxnst.sources import Picture, pictures_of, resize_regions, shrink_picture
from jaxnst.targets import compute_targets
from jaxnst.terms import Content
from jaxnst.transfer import with_shares
from jaxnst.vgg import Params, check_image, min_size

#: The name of the term that `protect` adds.
KEPT = "kept"

# The size at which the first loss is computed.
_SIZE = 128


class Protected(NamedTuple):
    """Arguments of `style_transfer`, or of `sweep`, by which a part of the content is kept."""

    content: Picture
    style: list[Picture]
    weights: LossWeights
    config: TransferConfig
    regions: Any


def protect(
    content: Float[Array, "h w 3"],
    style: Any,
    *,
    mask: Float[Array, "h w"],
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
    regions: Float[Array, "r h w"] | None = None,
    strength: Any = 10.0,
) -> Protected:
    """Return arguments of `style_transfer` that keep the content as it is inside a mask.

    The style counts only outside: its regions are multiplied by 1 - mask. Inside, a term "kept" of
    the squared difference of the pixels is added, since features of deep layers say little about
    them, and since features near the mask see its pixels too. Outside, the content counts as usual.

    Args:
        content: (H, W, 3), sRGB in [0, 1].
        style: as for `style_transfer`.
        mask: (H, W) weights in [0, 1], 1 where the content is kept.
        params: from `load_params`.
        weights: coefficients of the loss; for a `sweep`, each may be (L,) numbers of L lanes.
        config: of the transfer.
        regions: as for `style_transfer`.
        strength: the weight of "kept", in units of the loss of the content itself; a number, or
            (L,) numbers.

    Returns:
        A `Protected`: `style_transfer(**protected._asdict(), params=params)`, or `sweep` likewise.

    Raises:
        TypeError, ValueError: the pictures or masks are invalid, nothing is protected, nothing is
            left for a style, or there are different numbers of lanes.

    >>> from pathlib import Path
    >>> import jax.numpy as jnp, jaxnst
    >>> demo = Path(jaxnst.__file__).parent / "demo"
    >>> content, style = (
    ...     jaxnst.load_image(demo / name, size=32) for name in ("content.jpg", "style.jpg")
    ... )
    >>> mask = jnp.zeros(content.shape[:2]).at[:, :8].set(1)
    >>> config, weights = jaxnst.preset("default")
    >>> kept = protect(
    ...     content, style, mask=mask, params=jaxnst.load_params(), weights=weights, config=config
    ... )
    >>> list(kept.config.objective.terms)
    ['content', 'style', 'tv', 'range', 'kept']
    """
    check_image(content, "content")
    if jnp.shape(mask) != content.shape[:2]:
        raise ValueError(
            f"mask must have the shape {tuple(content.shape[:2])} of the content, not "
            f"{jnp.shape(mask)}"
        )
    if not np.max(mask) > 0:
        raise ValueError("mask must be above 0 somewhere, or it protects nothing")
    lanes = {np.shape(leaf) for leaf in (strength, *jax.tree.leaves(weights))} - {()}
    if len(lanes) > 1 or any(len(shape) > 1 for shape in lanes):
        raise ValueError(
            "strength and each of the weights must be one number, or one for each lane, not of the "
            f"shapes {', '.join(map(str, sorted(lanes)))}"
        )
    styles = list(pictures_of("style", style))
    outside = style_regions(mask, regions)
    if regions is None:  # shares by region, so that styles are blended and not each given its own
        styles = [s._replace(share=np.reshape(s.share, (-1,))) for s in styles]
    empty = [i for i, region in enumerate(outside) if not np.max(region) > 0]
    if empty:
        raise ValueError(
            f"mask leaves nothing for the style in region {empty[0]}: let it be 0 in some of it"
        )
    picture = Picture(content, content_regions(mask))
    objective = config.objective
    terms = {
        name: replace(term, region=0) if isinstance(term, Content) else term
        for name, term in objective.terms.items()
    }
    terms[KEPT] = Content(("image",), region=1)
    config = replace(config, objective=replace(objective, terms=terms))
    weights = LossWeights({**weights.scales, KEPT: 1.0}, {**weights.layers, KEPT: {"image": 1.0}})
    loss = _first_loss(picture, styles, params, weights, config, outside)
    kept = np.asarray(strength) * loss
    return Protected(picture, styles, weights.replace(kept=kept), config, outside)


def style_regions(mask: Any, regions: Any = None) -> Any:
    """Return the regions of the styles outside the mask: (r, H, W), or (1, H, W) without any."""
    outside = (1 - jnp.asarray(mask))[None]
    return outside if regions is None else jnp.asarray(regions) * outside


def content_regions(mask: Any) -> Any:
    """Return (2, H, W): the whole picture, where the content counts as usual, and the mask."""
    mask = jnp.asarray(mask)
    return jnp.stack([jnp.ones_like(mask), mask])


def _first_loss(
    content: Picture,
    styles: list[Picture],
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
    regions: Any,
) -> np.ndarray[Any, Any]:
    """Return the loss of the content itself, with small pictures, for each lane if there are."""
    height, width = content.image.shape[:2]
    least = min_size(config.objective.layers)
    ratio = max(_SIZE / max(height, width), least / min(height, width))
    pictures = (content, *with_shares(styles, regions, None))
    small = [shrink_picture(jax.tree.map(jnp.asarray, picture), ratio) for picture in pictures]
    compute = once(_loss_of_content, None, config=TransferConfig(config.objective))
    # Weights of lanes broadcast, since the loss is linear in them.
    return np.asarray(compute(small[0], small[1:], params, weights, regions), np.float64)


def _loss_of_content(
    content: Picture,
    styles: list[Picture],
    params: Params,
    weights: LossWeights,
    regions: Any,
    *,
    config: TransferConfig,
) -> jax.Array:
    objective = config.objective
    given = {"content": content, "style": styles}
    sources = {name: given[name] for name in objective.sources}
    targets = compute_targets(sources, params, objective=objective)
    regions = resize_regions(regions, content.image.shape[:2])
    loss, _ = perceptual_loss(
        content.image, params, targets, weights, objective=objective, regions=regions
    )
    return loss
