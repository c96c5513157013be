"""Many transfers at once: a sweep over loss weights, contents, styles, seeds, or several of them.

A *lane* is one transfer. Whatever has a leading axis differs from lane to lane; the rest is shared.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from jaxnst.lanes import Pick, SweepProgress, SweepResult, lane_axes, run_lanes
from jaxnst.loss_weights import LossWeights
from jaxnst.minimize import check_not_traced
from jaxnst.optimize import as_argument
from jaxnst.recipes import TransferConfig
from jaxnst.scale import Problem
from jaxnst.sources import Picture
from jaxnst.transfer import make_problem, numbers
from jaxnst.vgg import Params


def weight_grid(weights: LossWeights, **values: Sequence[float]) -> LossWeights:
    """Return loss weights with a lane for each point of a grid, the last axis fastest.

    Args:
        weights: the weights that all lanes share.
        **values: the scales to try, by the name of the term.

    Raises:
        TypeError: there is no term of that name.
        ValueError: there are no values.

    >>> import jaxnst
    >>> _, weights = jaxnst.preset("default")
    >>> weight_grid(weights, style=[1e2, 1e3], content=[0, 1]).scales["style"].tolist()
    [100.0, 100.0, 1000.0, 1000.0]
    """
    if not values or not all(len(numbers) for numbers in values.values()):
        raise ValueError("a grid must have one or more values for each of its axes")
    points = np.array([*itertools.product(*values.values())])
    return weights.replace(**dict(zip(values, points.T, strict=True)))


def sweep(
    content: Any,
    style: Any,
    *,
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
    regions: Float[Array, "r h w"] | None = None,
    blend: Any = None,
    key: Key[Array, "*lanes"] | None = None,
    initial_image: Any = None,
    lane_batch: int | None = None,
    devices: Any = None,
    callback: Callable[[SweepProgress], object] | None = None,
) -> SweepResult:
    """Run many transfers in one program: `style_transfer` under `vmap`.

    Each array may have a leading axis of L lanes, and at least one must. Lanes never wait for each
    other or communicate. A lane that runs alone on a device has exactly the bits of
    `style_transfer`; lanes that run together round differently, and long runs drift apart.

    Args:
        content: (H, W, 3) or (L, H, W, 3), sRGB in [0, 1].
        style: an image (of any size), (L, H, W, 3) or a `Picture`, or a list of these.
        params: from `load_params`.
        weights: each leaf a number, or (L,) of them; `weight_grid` makes a grid.
        config: the recipe; numbers of `Adam(…)` and `Lbfgs(…)` may be (L,) too.
        regions: as in `style_transfer`, the same for all lanes.
        blend: a share for each style, or (L, number of styles).
        key: for the noise: one for all lanes, or (L,).
        initial_image: (H, W, 3) or (L, H, W, 3), to start from.
        lane_batch: how many lanes run at once. By default as many as fit in memory, computed from
            what the compiled program needs; on CPUs, which gain little from more, one per device.
        devices: the devices to spread the lanes over; by default all of this process. Or an array
            (lanes, rows) of them: each lane then has a row of devices, over which its picture is
            spread as by `style_transfer`, and one lane runs at once on each.
        callback: called about once a second with a `SweepProgress`; if it returns true, the sweep
            ends.

    Returns:
        A `SweepResult`. Ctrl-C ends a sweep as it does a transfer; lanes that were not started
        have their first image and no history.

    Raises:
        TypeError, ValueError: nothing has a leading axis, or leading axes differ in length; or
            images or weights do not fit the config, or an argument is traced.
    """
    arrays = (content, style, params, weights, config.optimizer, regions, blend, initial_image)
    check_not_traced("sweep", arrays)
    pick, axes, count = split_lanes(
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
    groups = [
        group
        for _, group in run_lanes(
            pick,
            count,
            config,
            axes=axes,
            lane_batch=lane_batch,
            devices=devices,
            callback=callback,
        )
    ]
    width = max(group.history["evaluation"].shape[1] for group in groups if group.history)
    return SweepResult(
        np.concatenate([group.image for group in groups]),
        np.concatenate([group.status for group in groups]),
        {
            name: np.concatenate(
                [
                    _widened(group.history.get(name, first[:0]), len(group), width)
                    for group in groups
                ]
            )
            for name, first in groups[0].history.items()
        },
    )


def _widened(rows: np.ndarray[Any, Any], lanes: int, width: int) -> np.ndarray[Any, Any]:
    """Pad a group's rows with zeros for lanes and evaluations that were not run."""
    return np.pad(rows, ((0, lanes - len(rows)), (0, width - rows.shape[1])))


def split_lanes(
    content: Any, style: Any, *, weights: Any, config: TransferConfig, **options: Any
) -> tuple[Pick, Any, int]:
    """Return a function that makes the problem of a lane, the problem's axes, and the lane count.

    Arguments and exceptions are those of `sweep`.
    """
    styles = (
        style if isinstance(style, list | tuple) and not isinstance(style, Picture) else [style]
    )
    styles = [s if isinstance(s, Picture) else Picture(s) for s in styles]
    content = content if isinstance(content, Picture) else Picture(content)
    optimizer = as_argument(config.optimizer)
    ranks = {"key": 0, "initial_image": 3, "blend": 1}
    lanes = {
        "content": (content.image, 3),
        **{f"style {i}": (s.image, 3) for i, s in enumerate(styles, 1)},
        **{name: (options.get(name), rank) for name, rank in ranks.items()},
    }
    for name, tree in (("weights", weights), ("optimizer", optimizer)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            lanes[f"{name}{jax.tree_util.keystr(path)}"] = (leaf, 0)
    lengths = {}
    for name, (leaf, rank) in lanes.items():
        if leaf is None or np.ndim(leaf) == rank:
            continue
        if np.ndim(leaf) != rank + 1 and rank != 3:  # images have a check of their own
            raise ValueError(f"{name} must be one, or one for each lane, not {np.shape(leaf)}")
        if np.ndim(leaf) == rank + 1:
            lengths[name] = len(leaf)
    if not lengths:
        raise ValueError("nothing has a leading axis of lanes: for one transfer use style_transfer")
    if len({*lengths.values()}) > 1 or 0 in lengths.values():
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"all must have the same number of lanes, one or more; {listed}")

    def pick(lane: int) -> Problem:
        def of_lane(leaf: Any, rank: int) -> Any:
            return leaf[lane] if leaf is not None and np.ndim(leaf) == rank + 1 else leaf

        def numbers_of_lane(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: of_lane(leaf, 0), tree)

        chosen = {name: of_lane(options.get(name), rank) for name, rank in ranks.items()}
        problem = make_problem(
            content._replace(image=of_lane(content.image, 3)),
            [s._replace(image=of_lane(s.image, 3)) for s in styles],
            weights=numbers_of_lane(weights),
            config=config,
            **options | chosen,
        )
        dtype = problem.content.image.dtype
        return problem._replace(optimizer=numbers(numbers_of_lane(optimizer), dtype))

    varies = {name.partition(" ")[0] for name in lengths}
    axes = lane_axes(content="content" in varies, style=bool({"style", "blend"} & varies))
    return pick, axes, next(iter(lengths.values()))
