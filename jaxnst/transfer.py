"""Neural style transfer: the image that minimises the perceptual loss."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxnst.compilation import Lift, once
from jaxnst.devices import fit_tile
from jaxnst.first_image import first_image
from jaxnst.history import History
from jaxnst.loss_weights import LossWeights
from jaxnst.minimize import Progress, check_not_traced, check_num_steps, consume
from jaxnst.optimize import Status, as_argument
from jaxnst.recipes import TransferConfig
from jaxnst.rows import placements, put_rows, rows_on, rows_over
from jaxnst.scale import Problem
from jaxnst.scales import TransferState, finish, run_scales
from jaxnst.schedule import schedule
from jaxnst.sources import Picture, checked_regions, pictures_of
from jaxnst.vgg import Params


class TransferResult(NamedTuple):
    """The result of `style_transfer`."""

    image: jax.Array  #: the picture, (H, W, 3), clipped to [0, 1]
    status: Status
    #: Arrays of evaluation, seconds (at the end of its chunk), size (the long side in pixels),
    #: loss, and each term. The losses are those of pictures not yet clipped.
    history: History


def style_transfer(
    content: Any,
    style: Any,
    *,
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
    regions: Float[Array, "r h w"] | None = None,
    blend: Sequence[float] | jax.Array | None = None,
    key: Key[Array, ""] | None = None,
    initial_image: Float[Array, "h w 3"] | None = None,
    devices: Sequence[jax.Device] | None = None,
    resume: TransferState | None = None,
    callback: Callable[[Progress], object] | None = None,
    every: int | None = None,
) -> TransferResult:
    """Give `content` the style of one or several pictures (Gatys et al. 2016).

    With `config.min_size` it works from coarse to fine: each scale starts from the enlarged image
    of the last one, with fine details of the styles (`config.details`). Styles are resized along
    with the content, but never enlarged.

    Args:
        content: (H, W, 3), sRGB in [0, 1], or a `Picture`, compared only within its regions.
        style: an image or `Picture` of any size, or a list of these.
        params: from `load_params`.
        weights: coefficients of the loss, from `preset`.
        config: the rest of the recipe, from `preset`.
        regions: (r, H, W) weights in [0, 1] of the content's pixels. With as many regions as
            styles, each style has its own.
        blend: a share for each style, all equal by default; normalised to sum to 1.
        key: for the noise; `jax.random.key(config.seed)` by default.
        initial_image: (H, W, 3), to start from in place of `config.init`; `config.noise_share`
            blends noise into it too.
        devices: those over which the rows of the picture are spread, such as `jax.devices()`: each
            holds and computes a part of it. None for the default device.
        resume: the `state` of a `Progress`, to continue from it with the same arguments and to the
            same bits as without the pause.
        callback: called about once a second with a `Progress`, whose `x` has the size of the
            current scale and whose `state` is a `TransferState`; if it returns true, the run ends.
        every: also call the callback at each multiple of this many evaluations.

    Returns:
        A `TransferResult`. After a loss that is not finite, or Ctrl-C, its `status` says so, and
        its image is the best one so far, enlarged if the last scale was not reached.

    Raises:
        TypeError, ValueError: an image, the weights or the state do not fit the config, or the
            devices do not divide the rows of each layer, or the config has tiles as well, or an
            argument is traced.

    >>> from pathlib import Path
    >>> import dataclasses, jaxnst
    >>> demo = Path(jaxnst.__file__).parent / "demo"
    >>> content, style = (
    ...     jaxnst.load_image(demo / name, size=32) for name in ("content.jpg", "style.jpg")
    ... )
    >>> config, weights = jaxnst.preset("default")
    >>> config = dataclasses.replace(config, num_steps=2)
    >>> params = jaxnst.load_params()
    >>> result = style_transfer(content, style, params=params, weights=weights, config=config)
    >>> result.image.shape == content.shape, len(result.history["loss"])
    (True, 2)
    """
    if every is not None:
        check_num_steps("every", every)
    arrays = (content, style, params, weights, config.optimizer, regions, blend, initial_image)
    check_not_traced("style_transfer", arrays)
    problem = make_problem(
        content,
        style,
        params=params,
        weights=weights,
        config=config,
        regions=regions,
        blend=blend,
        key=key,
        initial_image=initial_image,
    )
    shape = problem.content.image.shape[:2]
    lift: Lift = once
    if devices is None:
        problem = jax.device_put(problem)
        config = fit_tile(problem, config)
    else:
        rows = rows_over(devices, config, shape[0])
        problem, lift = put_rows(problem, rows), rows_on(rows)
        if resume is not None:
            shards = placements(resume.leaves, rows)
            resume = resume._replace(leaves=jax.device_put(resume.leaves, shards))
    scales = run_scales(problem, config, lift=lift, resume=resume, every=every)
    del resume  # may be as large as all that the run needs
    last, interrupted = consume(scales, callback)
    wrap = config.objective.circular
    image, status, history = finish(last, shape, lift=lift, interrupted=interrupted, wrap=wrap)
    return TransferResult(image, Status(int(status)), history)


def make_problem(
    content: Any,
    style: Any,
    *,
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
    regions: Any = None,
    blend: Any = None,
    key: Any = None,
    initial_image: Any = None,
) -> Problem:
    """Check the arguments of `style_transfer` and return a `Problem`; NumPy arrays remain so."""
    (picture, *more), styles = pictures_of("content", content), pictures_of("style", style)
    if more:
        raise ValueError("content must be one picture, not a list")
    # Half precision is enough to store pictures, but too coarse for noise, resizing and steps.
    dtype = jnp.promote_types(picture.image.dtype, jnp.float32)
    picture, styles = numbers((picture, styles), dtype)
    image = picture.image
    if unknown := set(config.objective.sources) - set(Problem._fields[:2]):
        raise ValueError(
            f"style_transfer has no source {sorted(unknown)[0]!r}: for a term of it, call "
            "compute_targets and minimize"
        )
    regions = checked_regions(regions, image.shape, "content")
    styles = with_shares(styles, regions, blend)
    coarsest = schedule(image.shape, config)[0].shape
    start = first_image(
        image, styles, config, coarsest=coarsest, key=key, initial_image=initial_image
    )
    scales = config.style_scale
    if isinstance(scales, tuple) and len(scales) != len(styles):
        raise ValueError(
            f"style_scale has {len(scales)} numbers, but there are {len(styles)} styles: give one "
            "for all, or one for each"
        )
    return Problem(
        content=picture,
        style=numbers(styles, dtype),
        regions=numbers(regions, dtype),
        start=numbers(start, dtype),
        params=params,
        weights=numbers(weights, dtype),
        optimizer=numbers(as_argument(config.optimizer), dtype),
    )


def with_shares(styles: Sequence[Picture], regions: Any, blend: Any) -> tuple[Picture, ...]:
    """Return the styles with their shares: those of a blend, or one region for each style.

    Args:
        styles: the pictures.
        regions: (r, H, W) of the content, or None.
        blend: a share for each style; None keeps the pictures' own.

    Raises:
        ValueError: the number of shares or of regions is not that of styles.
    """
    if blend is not None:
        if len(blend) != len(styles):
            raise ValueError(f"blend has {len(blend)} shares, but there are {len(styles)} styles")
        return tuple(s._replace(share=share) for s, share in zip(styles, blend, strict=True))
    if regions is None or len(styles) == 1 or any(np.ndim(s.share) for s in styles):
        return tuple(styles)
    if len(regions) != len(styles):
        raise ValueError(
            f"there are {len(regions)} regions, but {len(styles)} styles: give each style a region "
            "of its own, or each Picture a share for each region"
        )
    return tuple(s._replace(share=row) for s, row in zip(styles, np.eye(len(styles)), strict=True))


def numbers(tree: Any, dtype: Any) -> Any:
    """Return all leaves as arrays of one type, so that 1 and 1.0 share a compiled program."""
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if isinstance(leaf, jax.Array) else np.asarray(leaf, dtype),
        tree,
    )
