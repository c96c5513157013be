"""How a picture is cut into tiles.

A tile is computed from a *window*, which reaches beyond it by a halo as wide as the network sees;
only the tile's *own* positions count. A window ends within the picture or at its border, where each
layer is padded as in the whole picture. Offsets are multiples of the network's stride. All windows
have one shape, with the remainder that pools drop at the end of an odd side, so they share one
program.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnst.losses import accumulator, count_positions
from jaxnst.vgg import LAYERS, min_size


class Axis(NamedTuple):
    """How one side of a picture is cut."""

    window: int  #: side of each window
    starts: tuple[int, ...]  #: of the windows
    cuts: tuple[int, ...]  #: tile i owns cuts[i] … cuts[i + 1]


class Plan(NamedTuple):
    """How a picture is cut into tiles."""

    shape: tuple[int, int]  #: of the picture
    rows: Axis
    columns: Axis


def make_plan(shape: tuple[int, ...], layers: tuple[str, ...], tile: int) -> Plan | None:
    """Return how to cut a picture, or None if it is one tile.

    Args:
        shape: of the picture, of which the first two numbers count.
        layers: those of VGG19 that are compared.
        tile: the largest side of a tile, rounded down to the stride of the deepest layer. Tiles at
            the picture's border are larger by the halo, which they need on one side only.

    >>> make_plan((517, 64), ("relu5_1",), 256).rows
    Axis(window=341, starts=(0, 176), cuts=(0, 256, 517))
    """
    height, width = shape[:2]
    grid, halo = min_size(layers), halo_of(layers)
    plan = Plan((height, width), *(_cut(side, tile, halo, grid) for side in (height, width)))
    return plan if len(plan.rows.starts) * len(plan.columns.starts) > 1 else None


def stride(layer: str) -> int:
    """Return the distance between neighbouring positions of a layer in pixels; "image" has 1."""
    return 1 if layer == "image" else min_size((layer,))


def halo_of(layers: tuple[str, ...]) -> int:
    """Return how far from a window's end its features at `layers` can differ from the picture's.

    >>> halo_of(("relu1_2",)), halo_of(("relu5_1",))
    (2, 80)
    """
    reach, halo = 0, 0  # in positions of the layer, and in pixels
    for layer in LAYERS:
        if layer.startswith("conv"):
            reach += 1
        elif layer.startswith("pool"):
            reach = -(-reach // 2)
        if layer in layers:
            halo = max(halo, reach * min_size((layer,)))
    grid = min_size(layers)
    return -(-halo // grid) * grid


def _cut(side: int, tile: int, halo: int, grid: int) -> Axis:
    inner = side - side % grid - 2 * halo  # the first and the last tile own the rest besides
    count = -(-inner // max(grid, tile // grid * grid))
    if count <= 1:
        return Axis(side, (0,), (0, side))
    step = -(-inner // (count * grid)) * grid  # as equal as the grid allows
    count = -(-inner // step)
    window = step + 2 * halo + side % grid
    starts = tuple(min(i * step, side - window) for i in range(count))
    return Axis(window, starts, (0, *(halo + i * step for i in range(1, count)), side))


@dataclass(frozen=True)
class Tile:
    """One tile, while it is computed: where its window starts, and which positions it owns."""

    plan: Plan
    start: Any  #: (2,) row and column of the window, traced
    ends: Any  #: (2, 2) first and last + 1 of the rows, and of the columns, that it owns, traced

    def cut(self, layer: str, array: jax.Array) -> jax.Array:
        """Return the window of a (k, h, w, …) array that has a place for each position.

        Raises:
            ValueError: it has the positions of another picture.
        """
        whole = tuple(side // stride(layer) for side in self.plan.shape)
        if array.shape[1:3] != whole:
            raise ValueError(
                f"at {layer} the image has {whole} positions, but its target {array.shape[1:3]}; "
                "give a source of the image's own size"
            )
        for axis, side in enumerate(self._shape(layer)):
            start = self.start[axis] // stride(layer)
            array = jax.lax.dynamic_slice_in_dim(array, start, side, axis + 1)
        return array

    def put(self, layer: str, features: jax.Array, window: jax.Array) -> jax.Array:
        """Return (h, w, c) features of the picture, at the tile's own positions a window's."""
        old = self.cut(layer, features[None])[0]
        window = jnp.where(self._owned(layer)[:, :, None], window, old)
        y, x = self.start // stride(layer)
        return jax.lax.dynamic_update_slice(features, window, (y, x, jnp.zeros_like(y)))

    def weigh(self, layer: str, regions: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Return the weights of the tile's own positions, and its share of the picture's means.

        Args:
            layer: whose positions are meant.
            regions: (r, h, w) weights of all positions of the picture; None for 1 everywhere.

        Returns:
            (r, y, x) weights in the window, and (r,) shares; over all tiles these sum to 1.
        """
        owned = self._owned(layer)[None]
        if regions is None:
            where = owned.astype(float)
            height, width = (side // stride(layer) for side in self.plan.shape)
            return where, jnp.sum(where, (1, 2)) / (height * width)
        where = self.cut(layer, regions)
        where = where * owned.astype(where.dtype)
        whole = jax.vmap(lambda region: count_positions(region, region))(regions)
        return where, jnp.sum(where.astype(accumulator(where)), (1, 2)) / whole

    def _shape(self, layer: str) -> list[int]:
        return [axis.window // stride(layer) for axis in (self.plan.rows, self.plan.columns)]

    def _owned(self, layer: str) -> jax.Array:
        """Return which positions of the window the tile owns."""
        places = (
            start + stride(layer) * jnp.arange(side, dtype=jnp.int32)
            for start, side in zip(self.start, self._shape(layer), strict=True)
        )
        rows, columns = (
            (first <= place) & (place < last)
            for place, (first, last) in zip(places, self.ends, strict=True)
        )
        return rows[:, None] & columns[None, :]
