"""Textures: images with the statistics of pictures, from noise or from another picture."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxnst.compilation import once
from jaxnst.loss_weights import LossWeights
from jaxnst.losses import accumulate, relative_squared_error
from jaxnst.minimize import Progress, check_num_steps
from jaxnst.objective import Objective
from jaxnst.pyramid import Shape
from jaxnst.recipes import Recipe, TransferConfig
from jaxnst.scales import TransferState
from jaxnst.sources import pictures_of
from jaxnst.terms import Style
from jaxnst.transfer import TransferResult, style_transfer
from jaxnst.vgg import Params, min_size


def texture_recipe() -> Recipe:
    """Return the recipe of `synthesize_texture`: Gram matrices, from coarse to fine.

    It departs from Gatys et al. 2015 in the scales, in relu1_1 … relu5_1 in place of conv1_1 and
    the pools, and in the relative error, by which all layers count alike. It does not start from
    white noise, whose finest grain L-BFGS removes last, but from the mean colour with a little of
    it.

    >>> config, weights = texture_recipe()
    >>> list(config.objective.terms), config.init
    (['style'], 'mean')
    """
    style = Style(distance=relative_squared_error)
    config = TransferConfig(
        Objective({"style": style}, pooling="average"),
        init="mean",
        noise_share=0.1,
        num_steps=100,
        min_size=128,
    )
    return Recipe(config, LossWeights.ones(config.objective).replace(style=100.0))


def synthesize_texture(
    style: Any,
    *,
    shape: Shape,
    params: Params,
    config: TransferConfig | None = None,
    weights: LossWeights | None = None,
    tileable: bool = False,
    blend: Sequence[float] | jax.Array | None = None,
    key: Key[Array, ""] | None = None,
    initial_image: Float[Array, "h w 3"] | None = None,
    devices: Sequence[jax.Device] | None = None,
    resume: TransferState | None = None,
    callback: Callable[[Progress], object] | None = None,
    every: int | None = None,
) -> TransferResult:
    """Make a texture that looks like `style`, of any size (Gatys, Ecker & Bethge 2015).

    It is a style transfer without a content (arXiv:1505.07376, equation 5), which starts from
    faint noise. Pictures keep their scale: a larger texture shows more of it, not larger details.

    Args:
        style: an image (H', W', 3) or `Picture` of any size, or a list of these, whose statistics
            are blended.
        shape: (H, W) of the texture.
        params: from `load_params`.
        config: with terms of the style or of none; that of `texture_recipe` by default.
        weights: coefficients of the loss; those of `texture_recipe` by default.
        tileable: whether copies of the texture side by side show no seam. All convolutions then get
            circular padding, and both sides must be multiples of the deepest layer's grid: 16
            pixels for relu5_1. The texture that is returned is rolled by `roll_to_smooth_edges`;
            those that the callback sees, and the states, are not.
        blend: as in `style_transfer`.
        key: for the noise; `jax.random.key(config.seed)` by default.
        initial_image: (H, W, 3), to start from in place of noise.
        devices: as in `style_transfer`.
        resume: as in `style_transfer`.
        callback: as in `style_transfer`.
        every: as in `style_transfer`.

    Returns:
        A `TransferResult` as of `style_transfer`.

    Raises:
        TypeError, ValueError: a picture, the shape or the weights do not fit the config.

    >>> from pathlib import Path
    >>> import dataclasses, jaxnst
    >>> demo = Path(jaxnst.__file__).parent / "demo"
    >>> style = jaxnst.load_image(demo / "style.jpg", size=32)
    >>> config, weights = texture_recipe()
    >>> config = dataclasses.replace(config, num_steps=2)
    >>> result = synthesize_texture(
    ...     style, shape=(32, 48), params=jaxnst.load_params(), config=config, tileable=True
    ... )
    >>> result.image.shape
    (32, 48, 3)
    """
    usual = texture_recipe()
    config = usual.config if config is None else config
    if tileable:
        config = replace(config, objective=replace(config.objective, padding="circular"))
    result = style_transfer(
        blank(shape),
        style,
        params=params,
        weights=usual.weights if weights is None else weights,
        config=fit_config(config, style, shape),
        blend=blend,
        key=key,
        initial_image=initial_image,
        devices=devices,
        resume=resume,
        callback=callback,
        every=every,
    )
    return result._replace(image=finish_tile(result.image)) if config.objective.circular else result


def roll_to_smooth_edges(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Roll a texture that tiles, so that its edges are where neighbours differ least.

    Rolled by any number of rows and columns it remains the same texture, as a pattern on the plane.
    It may be cut anywhere, and what JPEG and smaller copies do differently at edges shows least
    where the picture changes least, by the mean absolute difference of two rows or two columns.

    Args:
        image: (H, W, C).

    Returns:
        The same rows and columns in the same order, from others on.

    >>> import jax.numpy as jnp
    >>> image = jnp.array([0.0, 0.9, 0.8, 0.4])[:, None, None] * jnp.ones((1, 1, 3))
    >>> [round(float(row), 1) for row in roll_to_smooth_edges(image)[:, 0, 0]]
    [0.8, 0.4, 0.0, 0.9]
    """
    values = accumulate(image)

    def smoothest(axis: int) -> jax.Array:
        changes = jnp.abs(values - jnp.roll(values, 1, axis))
        return jnp.argmin(jnp.mean(changes, axis=(1 - axis, 2)))

    return jnp.roll(image, -jnp.stack([smoothest(0), smoothest(1)]), (0, 1))


def finish_tile(image: jax.Array) -> jax.Array:
    """Return a finished texture that tiles, rolled by `roll_to_smooth_edges`.

    Pictures from before the end are not rolled, each by another shift, or they would jump.
    """
    rolled: jax.Array = once(roll_to_smooth_edges, None)(image)
    return rolled


def mix_recipe() -> Recipe:
    """Return the recipe of `mix_styles`: Gram matrices of shallow layers, at one scale.

    Gatys et al. 2017 (arXiv:1611.07865), section 6, at 512 pixels; at 1024 they add relu3_1 and
    relu4_1. It departs from them in the relative error.

    >>> config, weights = mix_recipe()
    >>> config.objective.layers, config.init
    (('relu1_1', 'relu2_1'), 'content')
    """
    style = Style(("relu1_1", "relu2_1"), distance=relative_squared_error)
    config = TransferConfig(Objective({"style": style}, pooling="average"), num_steps=500)
    return Recipe(config, LossWeights.ones(config.objective).replace(style=100.0))


def mix_styles(
    coarse: Float[Array, "h w 3"],
    fine: Any,
    *,
    params: Params,
    config: TransferConfig | None = None,
    weights: LossWeights | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> TransferResult:
    """Give the coarse structure of one style the fine strokes of another (Gatys et al. 2017).

    The result is a new style picture, for `style_transfer`.

    Args:
        coarse: (H, W, 3), sRGB in [0, 1], of which large shapes remain.
        fine: an image or `Picture` of any size, or a list of these, whose strokes are taken.
        params: from `load_params`.
        config: that of `mix_recipe` by default; more and deeper layers take over more of `fine`.
        weights: those of `mix_recipe` by default.
        callback: as in `style_transfer`.

    Returns:
        A `TransferResult` as of `style_transfer`, of the size of `coarse`.

    Raises:
        TypeError, ValueError: as for `style_transfer`.

    >>> from pathlib import Path
    >>> import dataclasses, jaxnst
    >>> demo = Path(jaxnst.__file__).parent / "demo"
    >>> coarse, fine = (
    ...     jaxnst.load_image(demo / name, size=32) for name in ("style.jpg", "content.jpg")
    ... )
    >>> config = dataclasses.replace(mix_recipe().config, num_steps=2)
    >>> result = mix_styles(coarse, fine, params=jaxnst.load_params(), config=config)
    >>> result.image.shape == coarse.shape
    True
    """
    usual = mix_recipe()
    return style_transfer(
        coarse,
        fine,
        params=params,
        config=usual.config if config is None else config,
        weights=usual.weights if weights is None else weights,
        callback=callback,
    )


def blank(shape: Shape) -> Any:
    """Return the content of a texture, whose shape alone counts."""
    if len(shape) != 2:
        raise ValueError(f"shape must be (height, width), not {shape!r}")
    for side in shape:
        check_num_steps("shape", side)
    return np.zeros((*shape, 3), np.float32)


def fit_config(config: TransferConfig, style: Any, shape: Shape) -> TransferConfig:
    """Return the config for a texture of this shape, which has no content to start from.

    Raises:
        TypeError, ValueError: a style is not valid, a term needs another source, or the shape does
            not suit a texture that tiles.
    """
    objective, least = config.objective, min_size(config.objective.layers)
    if others := {*objective.sources} - {"style"}:
        raise ValueError(
            f"a texture has no source {sorted(others)[0]!r}: leave the terms of it out, as "
            "texture_recipe does"
        )
    if objective.circular and any(side % least for side in shape):
        near = "x".join(str(max(1, round(side / least)) * least) for side in shape)
        raise ValueError(
            f"shape must be multiples of {least} pixels in a texture that tiles, not "
            f"{'x'.join(map(str, shape))}; take {near}"
        )
    if config.init == "content":
        config = replace(config, init="noise")
    if config.min_size is None:
        return config
    # Styles shrink along with the texture. At the coarsest scale, each keeps two positions of the
    # deepest layer on a side, or there would be no statistics to speak of.
    shapes = [picture.image.shape[:2] for picture in pictures_of("style", style)]
    needed = [
        2 * least * (max(shape) if scale is None else max(own) / scale) / min(own)
        for own, scale in zip(shapes, config.style_scales(len(shapes)), strict=False)
    ]
    return replace(config, min_size=max(config.min_size, math.ceil(max(needed))))
