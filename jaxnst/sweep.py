"""Many transfers at once: a sweep over loss weights, contents, styles, seeds, or several of them.

A *lane* is one transfer. Whatever has a leading axis differs from lane to lane; the rest is shared.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxnst.checks import check_positive_integer
from jaxnst.lanes import (
    alone,
    axis_of,
    lane_programs,
    make_mesh,
    memory_for_lanes,
    memory_of_step,
    side_by_side,
    targets_axes,
)
from jaxnst.objective import LossWeights, canonical_weights
from jaxnst.optimize import Progress, Status
from jaxnst.pyramid import resize
from jaxnst.signals import interruptible
from jaxnst.transfer import History, TransferResult, coarse_to_fine, first_image
from jaxnst.transfer_config import Images, TransferConfig, schedule
from jaxnst.vgg import Params, check_image


def weight_grid(weights: LossWeights, **values: Sequence[float]) -> LossWeights:
    """Loss weights with a lane for each point of a grid, the last axis fastest.

    `weight_grid(weights, style=[1e2, 1e3], tv=[0, 1])` has four lanes.

    Args:
        weights: what all lanes share besides.
        **values: by "content", "style" or "tv", the numbers that its coefficient is to take.

    Raises:
        TypeError: a name that is not one of the three.
        ValueError: no values.
    """
    unknown = values.keys() - {"content", "style", "tv"}
    if unknown:
        raise TypeError(f"a grid is made of content, style and tv, not {', '.join(unknown)}")
    if not values or not all(len(numbers) for numbers in values.values()):
        raise ValueError("a grid needs one or more values for each of its axes")
    points = np.array([*itertools.product(*values.values())], np.float32)
    return weights._replace(**dict(zip(values, points.T, strict=True)))


@dataclass(frozen=True)
class SweepResult(Sequence[TransferResult]):
    """What `sweep` returns: the results of all lanes, stacked, or one by one as a sequence.

    Attributes:
        image: (L, H, W, 3) in [0, 1].
        status: (L,), each a `Status`.
        history: arrays (L, n) as in `TransferResult`. Where a lane made fewer evaluations than
            others, the rest of its row has evaluation 0; `results[i].history` leaves it out.
    """

    image: np.ndarray[Any, Any]
    status: np.ndarray[Any, Any]
    history: History

    def __len__(self) -> int:
        return len(self.image)

    @overload
    def __getitem__(self, index: int) -> TransferResult: ...
    @overload
    def __getitem__(self, index: slice) -> "SweepResult": ...
    def __getitem__(self, index: int | slice) -> "TransferResult | SweepResult":
        history = {name: rows[index] for name, rows in self.history.items()}
        if isinstance(index, slice):
            return SweepResult(self.image[index], self.status[index], history)
        return TransferResult(
            jnp.asarray(self.image[index]),
            Status(int(self.status[index])),
            {name: row[history["evaluation"] > 0] for name, row in history.items()},
        )


class SweepProgress(NamedTuple):
    """The record that a callback of `sweep` is given after each chunk."""

    lanes: range  #: those at work
    num_lanes: int  #: in all
    progress: Progress  #: its arrays have the lanes at work as their first axis


def sweep(
    content: Images,
    style: Images | Sequence[Images],
    *,
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
    key: Key[Array, "*lanes"] | None = None,
    initial_image: Images | None = None,
    lane_batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    callback: Callable[[SweepProgress], object] | None = None,
) -> SweepResult:
    """Many transfers at once, by one program: `style_transfer` under `vmap`.

    Each array may have a leading axis of L lanes, and one at least must. Lanes never wait for each
    other nor communicate: each device works on its own. One lane at a time on one device gives the
    very bits of `style_transfer`; lanes side by side round otherwise, and long runs drift apart.

    Args:
        content: (H, W, 3) or (L, H, W, 3), sRGB in [0, 1].
        style: one such image of any size, or a list whose styles are blended in equal shares.
        params: from `load_params`.
        weights: each leaf a number, or (L,) or a list of them; `weight_grid` makes such.
        config: the recipe, the same for all lanes.
        key: for the noise: one, and all lanes have the same, or (L,) of them.
        initial_image: (H, W, 3) or (L, H, W, 3), to start from.
        lane_batch: how many lanes run at once, the others after them. By default, as many as fit
            in memory, the compiled program telling how much it needs; on CPUs, which gain little
            by more, one for each device.
        devices: to spread the lanes over; by default all that this process has.
        callback: called about once a second with a `SweepProgress`; a true answer ends the sweep.

    Returns:
        A `SweepResult`. Ctrl-C ends a sweep as it does a transfer; lanes that never began have
        their first image and no history.

    Raises:
        TypeError, ValueError: nothing has a leading axis, or two have such of different lengths;
            images or weights that do not fit the config.
    """
    groups = [
        result
        for _, result in sweep_groups(
            content,
            style,
            params=params,
            weights=weights,
            config=config,
            key=key,
            initial_image=initial_image,
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
            name: np.concatenate([_widened(group.history.get(name), len(group), width)
                                  for group in groups])
            for name in groups[0].history
        },
    )  # fmt: skip


def _widened(rows: np.ndarray[Any, Any] | None, lanes: int, width: int) -> np.ndarray[Any, Any]:
    """Rows of a group's history as wide as those of others, 0 where nothing was evaluated."""
    rows = np.zeros((lanes, 0)) if rows is None else rows
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def sweep_groups(
    content: Images,
    style: Images | Sequence[Images],
    *,
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
    key: Key[Array, "*lanes"] | None = None,
    initial_image: Images | None = None,
    lane_batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    callback: Callable[[SweepProgress], object] | None = None,
) -> Iterator[tuple[range, SweepResult]]:
    """`sweep`, yielding which lanes of a group are done and their results, group by group."""
    styles = list(style) if isinstance(style, Sequence) else [style]
    # A list of numbers is an axis of lanes too, not a tree of numbers.
    weights = canonical_weights(
        jax.tree.map(np.asarray, weights, is_leaf=lambda leaf: isinstance(leaf, list))
    )
    if lane_batch is not None:
        check_positive_integer("lane_batch", lane_batch)
    if not styles:
        raise ValueError("at least one style image is needed")
    count = _count_lanes(content, styles, weights, key, initial_image)
    weights = jax.tree.map(lambda leaf: np.broadcast_to(leaf, count), weights)
    devices = [*(jax.local_devices() if devices is None else devices)][:count]
    if not devices:
        raise ValueError("devices is empty: name one or more, or leave it away for all")
    if lane_batch is None and devices[0].platform == "cpu":
        lane_batch = len(devices)
    if lane_batch is None:
        lane_batch = lanes_that_fit(content, styles, params, weights, config, devices)
    mesh = make_mesh(devices[:lane_batch])
    size = group_size(count, lane_batch, mesh.size)
    if size == 1:
        group = alone(devices[0])
    else:
        group = side_by_side(mesh, size, targets_axes(content, styles))
    params = group.put(params, axis=None)
    stopped = False
    for start in range(0, count, size):
        lanes = range(start, min(start + size, count))
        rows = partial(group.rows, lanes=lanes)
        # The last lane stands in for those that the last group lacks.
        ids = np.minimum(np.arange(start, start + size), count - 1)
        x = np.stack([_first_image(content, config, key, initial_image, lane) for lane in ids])
        if stopped:
            finest = schedule(content, config)[-1].shape
            resized = np.stack([resize(image, *finest) for image in x[: len(lanes)]])
            yield lanes, SweepResult(resized, np.full(len(lanes), Status.INTERRUPTED), {})
            continue
        with interruptible() as interrupted:
            image, status, history = coarse_to_fine(
                _take(content, ids, group.put),
                [_take(picture, ids, group.put) for picture in styles],
                group.put(x, axis=0),
                params=params,
                weights=group.put(jax.tree.map(lambda leaf, ids=ids: leaf[ids], weights), axis=0),
                config=config,
                programs=group.programs,
                interrupted=interrupted,
                callback=callback and partial(_report, callback, lanes, count, rows),
            )
            stopped = interrupted.is_set()
        by_lanes = {name: rows(array) for name, array in history.items()}
        yield lanes, SweepResult(np.asarray(rows(image)), rows(status), by_lanes)


def _report(
    callback: Callable[[SweepProgress], object],
    lanes: range,
    count: int,
    rows: Callable[[Any], Any],
    progress: Progress,
) -> object:
    """Tell of the lanes of a group."""
    progress = progress._replace(
        loss=rows(progress.loss),
        terms={name: rows(term) for name, term in progress.terms.items()},
        x=rows(progress.x),
        history={name: rows(array) for name, array in progress.history.items()},
    )
    return callback(SweepProgress(lanes, count, progress))


def group_size(count: int, lane_batch: int, num_devices: int) -> int:
    """Lanes of each group: groups of the same size share a program, and have few to fill up."""
    most = lane_batch // num_devices  # lanes of a device
    groups = math.ceil(count / (most * num_devices))
    return math.ceil(count / groups / num_devices) * num_devices


def lanes_that_fit(
    content: Any,
    styles: Sequence[Any],
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
    devices: Sequence[jax.Device],
) -> int:
    """How many lanes fit into the memory of the devices at once, at least one on each."""
    mesh, count = make_mesh(devices), len(jax.tree.leaves(weights)[0])
    size = group_size(count, max(count, mesh.size), mesh.size)
    needs = memory_of_step(
        lane_programs(mesh, size, targets_axes(content, styles)),
        mesh,
        size,
        content,
        styles,
        params,
        weights,
        config,
    )
    has = memory_for_lanes(devices)
    return size if needs <= has else max(1, int(size // mesh.size * has / needs)) * mesh.size


def _count_lanes(
    content: Any, styles: Sequence[Any], weights: LossWeights, key: Any, initial_image: Any
) -> int:
    """The length of the leading axes, after checking that all that have one agree."""
    lengths: dict[str, int] = {}
    images = {f"style {i}": picture for i, picture in enumerate(styles, 1)}
    images |= {"content": content, "initial_image": initial_image}
    for name, image in images.items():
        if getattr(image, "ndim", None) == 4:
            lengths[name] = len(image)
            image = image[0] if len(image) else np.zeros((1, 1, 3), np.float32)
        if image is not None:
            check_image(image, name)
    coefficients = {"content weight": weights.content, "style weight": weights.style}
    coefficients |= {"tv weight": weights.tv, **weights.content_layers}
    coefficients |= {f"{layer} of style": leaf for layer, leaf in weights.style_layers.items()}
    for name, leaf in (coefficients | ({} if key is None else {"key": key})).items():
        if leaf.ndim == 1:
            lengths[name] = len(leaf)
        elif leaf.ndim != 0:
            raise ValueError(f"{name} has the shape {leaf.shape}: give one, or one axis of lanes")
    if not lengths:
        raise ValueError("nothing has a leading axis of lanes; one transfer is style_transfer's")
    if len({*lengths.values()}) > 1 or 0 in lengths.values():
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"all must have the same number of lanes, one or more; {listed}")
    return next(iter(lengths.values()))


def _take(image: Any, ids: np.ndarray[Any, Any], place: Callable[..., Any]) -> jax.Array:
    """The lanes of an image, or the image that is shared, on the devices."""
    axis = axis_of(image)
    return place(image if axis is None else np.asarray(image)[ids], axis=axis)


def _first_image(
    content: Any, config: TransferConfig, key: Any, initial_image: Any, lane: int
) -> jax.Array:
    """The same as a transfer of that lane alone would start from."""

    def pick(array: Any, rank: int) -> Any:
        return array if array is None or array.ndim == rank else array[lane]

    return first_image(jnp.asarray(pick(content, 3)), config, pick(key, 0), pick(initial_image, 3))
