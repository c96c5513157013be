"""Transfers side by side: the programs of `transfer` under `vmap`, over the devices of a mesh.

The devices share nothing but replicated inputs: under `shard_map` each runs its own lanes, and no
program has a collective in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnst.objective import LossWeights, Targets, bind_loss_and_grad, compute_targets
from jaxnst.optimize import Compiled, State, outcome, restart, step
from jaxnst.pyramid import Shape, refine, resize, shrink
from jaxnst.transfer import SINGLE_PROGRAMS, Programs, carry_over, init_at
from jaxnst.transfer_config import TransferConfig, make_optimizer
from jaxnst.vgg import Params

AXIS = "lanes"

#: Part of the free memory that lanes may take: the host wants copies of images now and then.
_SHARE = 0.7

Axes = Any  #: as `in_axes` of `jax.vmap`: 0 for what has lanes, None for what is shared


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """A mesh whose one axis is that of lanes."""
    return Mesh(np.array(devices), (AXIS,))


def put(tree: Any, mesh: Mesh, axis: int | None) -> Any:
    """Arrays on the devices: split by lanes where `axis` is 0, copied to each where it is None."""
    return jax.device_put(tree, NamedSharding(mesh, _spec(axis)))


def axis_of(image: jax.Array) -> int | None:
    """0 if an image has lanes."""
    return 0 if image.ndim == 4 else None


def over_lanes(
    function: Callable[..., Any], in_axes: tuple[Axes, ...], out_axes: Axes, mesh: Mesh
) -> Callable[..., Any]:
    """`function` for each lane, on whichever device the lane is."""
    if jax.tree.leaves(in_axes):  # vmap refuses to map nothing
        function = jax.vmap(function, in_axes, out_axes)
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=_specs(in_axes),
        out_specs=_specs(out_axes),
        check_vma=False,  # loops that begin with constants would have to be told of the mesh
    )


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(AXIS)


def _specs(axes: Axes) -> Any:
    return jax.tree.map(_spec, axes, is_leaf=lambda axis: axis is None)


@lru_cache(maxsize=256)
def _compiled(
    function: Callable[..., Any],
    in_axes: tuple[Axes, ...],
    out_axes: Axes,
    mesh: Mesh,
    **static: Any,
) -> Callable[..., Any]:
    return jax.jit(over_lanes(partial(function, **static), in_axes, out_axes, mesh))


def _resize(image: jax.Array, *, shape: Shape) -> jax.Array:
    return resize(image, *shape)


def _refine(
    image: jax.Array, start: jax.Array, styles: tuple[jax.Array, ...], *, shape: Shape
) -> jax.Array:
    return refine(image, start, styles, *shape)


def targets_axes(content: Any, styles: Sequence[Any]) -> Targets:
    """Which of the targets have lanes; those of styles have if any of the styles does."""
    shared = all(axis_of(style) is None for style in styles)
    axes: Any = axis_of(content), None if shared else 0
    return Targets(*axes)


def lane_programs(mesh: Mesh, num_lanes: int, axes: Targets) -> Programs:
    """The programs of a transfer for lanes on a mesh.

    Args:
        mesh: from `make_mesh`.
        num_lanes: a multiple of the number of devices.
        axes: from `targets_axes`.
    """
    args_axes = (None, axes, 0)  # params, targets, weights

    def resize_lanes(image: jax.Array, shape: Shape) -> jax.Array:
        if image.shape[-3:-1] == shape:
            return image
        axis = axis_of(image)
        return _compiled(_resize, (axis,), axis, mesh, shape=shape)(image)

    def refine_lanes(
        image: jax.Array, start: jax.Array, styles: Sequence[jax.Array], shape: Shape
    ) -> jax.Array:
        in_axes = 0, 0, tuple(axis_of(style) for style in styles)
        return _compiled(_refine, in_axes, 0, mesh, shape=shape)(image, start, tuple(styles))

    def shrink_lanes(style: jax.Array, ratio: float) -> jax.Array:
        axis = axis_of(style)
        return _compiled(shrink, (axis,), axis, mesh, ratio=ratio)(style)

    def compute_targets_lanes(
        content: jax.Array, styles: Sequence[jax.Array], params: Any, **static: Any
    ) -> Targets:
        in_axes = axis_of(content), tuple(axis_of(style) for style in styles), None
        program = _compiled(compute_targets, in_axes, axes, mesh, **static)
        return program(content, tuple(styles), params)

    def init_lanes(x: jax.Array, evaluation: Any, args: tuple[Any, ...], **static: Any) -> State:
        program = _compiled(init_at, (0, 0, args_axes), 0, mesh, **static)
        return program(x, np.broadcast_to(evaluation, num_lanes), args)

    def carry_lanes(old: State, fresh: State, shape: Shape) -> State:
        return _compiled(carry_over, (0, 0), 0, mesh, shape=shape)(old, fresh)

    return Programs(
        resize=resize_lanes,
        refine=refine_lanes,
        shrink=shrink_lanes,
        compute_targets=compute_targets_lanes,
        init=init_lanes,
        carry=carry_lanes,
        compiled=compiled_lanes(mesh, args_axes),
    )


@lru_cache(maxsize=64)
def compiled_lanes(mesh: Mesh, args_axes: tuple[Axes, ...]) -> Compiled:
    """What the host's loop calls, for lanes on a mesh, the same object for the same axes."""

    def step_lanes(
        value_and_grad: Callable[..., Any], state: State, limit: Any, *args: Any
    ) -> State:
        program = over_lanes(partial(step, value_and_grad), (0, 0, *args_axes), 0, mesh)
        return program(state, limit, *args)

    return Compiled(
        step=jax.jit(step_lanes, static_argnums=0, donate_argnums=1),
        restart=jax.jit(over_lanes(restart, (0,), 0, mesh), donate_argnums=0),
        outcome=jax.jit(over_lanes(outcome, (0,), 0, mesh)),
    )


@dataclass(frozen=True)
class LaneGroup:
    """How the lanes of a group come to the devices and back, and what works on them there."""

    programs: Programs
    put: Callable[..., Any]  #: (tree, axis), as `lanes.put`
    rows: Callable[..., Any]  #: (array, lanes), a result by lanes, without those that only fill up


def side_by_side(mesh: Mesh, num_lanes: int, axes: Targets) -> LaneGroup:
    """Several lanes, by the programs of a transfer under `vmap`; arguments as `lane_programs`."""
    return LaneGroup(
        programs=lane_programs(mesh, num_lanes, axes),
        put=partial(put, mesh=mesh),
        rows=lambda result, lanes: result[: len(lanes)],
    )


def alone(device: jax.Device) -> LaneGroup:
    """One lane without an axis of lanes, and so by the programs of a single transfer."""

    def put_only(tree: Any, axis: int | None) -> Any:
        lane = tree if axis is None else jax.tree.map(lambda leaf: leaf[0], tree)
        return jax.device_put(lane, device)

    def init_there(*args: Any, **static: Any) -> State:
        # Whole: of a state that is bound to the device in part, the first step would be compiled
        # by itself.
        return jax.device_put(init_at(*args, **static), device)

    return LaneGroup(
        programs=replace(SINGLE_PROGRAMS, init=init_there),
        put=put_only,
        rows=lambda result, lanes: np.asarray(result)[None],
    )


def memory_of_step(
    programs: Programs,
    mesh: Mesh,
    num_lanes: int,
    content: Any,
    styles: Sequence[Any],
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
) -> int:
    """Bytes that one evaluation needs on each device, as the compiled program reports them.

    Only the shapes of images matter. Without need for groups, it is the program that will run.
    """

    def lanes_of(tree: Any, *, axis: int | None = 0, new: bool = False) -> Any:
        def like(leaf: Any) -> jax.ShapeDtypeStruct:
            shape = leaf.shape if axis is None else (num_lanes, *leaf.shape[0 if new else 1 :])
            sharding = NamedSharding(mesh, _spec(axis))
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(like, tree)

    content, *styles = [lanes_of(image, axis=axis_of(image)) for image in (content, *styles)]
    x = lanes_of(content, new=content.ndim == 3)
    params = lanes_of(params, axis=None)
    targets = jax.eval_shape(
        partial(programs.compute_targets, config=config.objective), content, styles, params
    )
    axes: Any = targets_axes(content, styles)
    targets = Targets(
        lanes_of(targets.content, axis=axes.content), lanes_of(targets.style, axis=axes.style)
    )
    args = params, targets, lanes_of(weights)
    loss_and_grad, optimizer = bind_loss_and_grad(config.objective), make_optimizer(config)
    init = partial(
        programs.init, loss_and_grad=loss_and_grad, optimizer=optimizer, average=config.average
    )
    state = lanes_of(jax.eval_shape(lambda x, args: init(x, 0, args), x, args))
    limit = jax.ShapeDtypeStruct((num_lanes,), np.int32)
    step: Any = programs.compiled.step
    program = step.lower(loss_and_grad, state, limit, *args)
    needs = program.compile().memory_analysis()
    return int(
        needs.temp_size_in_bytes
        + needs.argument_size_in_bytes
        + needs.output_size_in_bytes
        - needs.alias_size_in_bytes
    )


def memory_for_lanes(devices: Sequence[jax.Device]) -> int:
    """Bytes that lanes may take on each of these devices."""
    stats = [device.memory_stats() for device in devices]
    if all(stat and "bytes_limit" in stat for stat in stats):
        free = min(stat["bytes_limit"] - stat["bytes_in_use"] for stat in stats)
    else:  # CPU devices share what the machine has
        free = psutil.virtual_memory().available // len(devices)
    return int(_SHARE * free)
