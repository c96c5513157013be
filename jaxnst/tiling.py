"""Exact tiles: the terms of a loss part by part, with the activations of one tile at a time."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnst.convolution import Padding, paddings_of
from jaxnst.terms import Features, Regions, Term, network_layers
from jaxnst.tiles import Plan, Tile, make_plan

Terms = Mapping[str, Term]


def divide(
    terms: Terms, shape: tuple[int, ...], tile: int | None, padding: Padding = "zero"
) -> tuple[Terms, Terms, Plan | None]:
    """Return the terms to compute on the whole picture, those to compute in tiles, and the plan.

    Terms of the picture itself are computed whole, since it is in memory anyway.

    Args:
        terms: by name.
        shape: of the picture, of which the first two numbers count.
        tile: as in `perceptual_loss`.
        padding: of the network.

    Raises:
        ValueError: `tile` is not a positive integer, or a term or the padding does not allow tiles.
    """
    if tile is None:
        return terms, {}, None
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
        raise ValueError(f"tile must be a positive integer or None, not {tile!r}")
    if "circular" in paddings_of(padding):
        raise ValueError(
            f"tile must be None, not {tile}, with circular padding, by which opposite sides of the "
            "picture are neighbours"
        )
    tiled = {name: term for name, term in terms.items() if network_layers([term])}
    for name, term in tiled.items():
        if not getattr(term, "additive", True):
            raise ValueError(
                f"the term {name!r} must be a mean or a sum over positions to be computed in "
                f"tiles, not {term}; leave out either the term or the tiles"
            )
    plan = make_plan(shape, network_layers(tiled.values()), tile)
    if plan is None:
        return terms, {}, None
    return {name: term for name, term in terms.items() if name not in tiled}, tiled, plan


#: Returns the features of a picture at some layers, with the picture itself.
Look = Callable[[jax.Array, tuple[str, ...]], Features]


def measure(
    terms: Terms,
    image: jax.Array,
    regions: Regions,
    targets: Mapping[str, Any],
    look: Look,
    plan: Plan,
) -> dict[str, Any]:
    """Return what terms measure in an image, added up over its tiles.

    A derivative by the image computes each tile once more rather than keep its activations: it is
    the second of two passes over the tiles.

    Args:
        terms: by name; all are means or sums over positions.
        image: (H, W, 3).
        regions: of the image, by layer.
        targets: of the terms, by name.
        look: computes features.
        plan: from `make_plan`.
    """

    @partial(jax.checkpoint, prevent_cse=False)  # the loop itself keeps XLA from merging the two
    def part(image: jax.Array, spot: Any) -> dict[str, Any]:
        tile, found = Tile(plan, *spot), {}
        features, where, shares = _look_at(tile, terms, image, regions, look)
        for name, term in terms.items():
            target, share = targets[name], shares
            if hasattr(term, "part"):
                target, share = term.part(target, tile)
            found[name] = _weighted(term, term.measure(features, where, target), share)
        return found

    return _sum_over_tiles(partial(part, image), plan)


def describe(
    terms: Terms, image: jax.Array, regions: Regions, look: Look, plan: Plan
) -> dict[str, Any]:
    """Return what terms describe of a picture, from its tiles. Arguments are those of `measure`.

    Descriptions are added up, except those that have a place for each position.
    """
    placed = {name: term for name, term in terms.items() if hasattr(term, "part")}
    summed = {name: term for name, term in terms.items() if name not in placed}

    def part(spot: Any) -> dict[str, Any]:
        features, where, shares = _look_at(Tile(plan, *spot), summed, image, regions, look)
        return {k: _weighted(t, t.describe(features, where), shares) for k, t in summed.items()}

    layers = network_layers(placed.values())

    def put(whole: Features, spot: Any) -> tuple[Features, None]:
        tile = Tile(plan, *spot)
        features = look(tile.cut("image", image[None])[0], layers)
        return {k: tile.put(k, x, features[k]) for k, x in whole.items()}, None

    described = _sum_over_tiles(part, plan) if summed else {}
    if placed:
        empty = jax.tree.map(_zeros, jax.eval_shape(lambda: look(image, layers)))
        features = jax.lax.scan(put, empty, _spots(plan))[0]
        described |= {k: term.describe(features, regions) for k, term in placed.items()}
    return described


def _look_at(
    tile: Tile, terms: Terms, image: jax.Array, regions: Regions, look: Look
) -> tuple[Features, Regions, Features]:
    """Return the features of a tile's window, its own positions by region, and its shares."""
    features = look(tile.cut("image", image[None])[0], network_layers(terms.values()))
    where: Regions = {}
    shares: Features = {}
    for layer in features:
        where[layer], shares[layer] = tile.weigh(layer, regions[layer])
    return features, where, shares


def _weighted(term: Term, means: Any, shares: Features) -> Any:
    """Return what a tile adds to the means of the picture."""
    if getattr(term, "sums", False):
        return means

    def weighted(share: jax.Array, mean: jax.Array) -> jax.Array:
        share = share.astype(mean.dtype)
        if len(share) == 1:
            return share[0] * mean
        return share.reshape(-1, *(1,) * (mean.ndim - 1)) * mean

    return {k: jax.tree.map(partial(weighted, shares[k]), x) for k, x in means.items()}


def _sum_over_tiles(part: Callable[[Any], Any], plan: Plan) -> Any:
    def add(total: Any, spot: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, part(spot)), None

    spots = _spots(plan)
    first = jax.tree.map(lambda x: x[0], spots)
    return jax.lax.scan(add, jax.tree.map(_zeros, jax.eval_shape(part, first)), spots)[0]


def _spots(plan: Plan) -> tuple[jax.Array, jax.Array]:
    """Return `start` and `ends` of all tiles."""
    rows, columns = (
        [*zip(axis.starts, axis.cuts[:-1], axis.cuts[1:], strict=True)]
        for axis in (plan.rows, plan.columns)
    )
    spots = [((y, x), (own_y, own_x)) for y, *own_y in rows for x, *own_x in columns]
    starts, ends = zip(*spots, strict=True)
    return jnp.asarray(starts, jnp.int32), jnp.asarray(ends, jnp.int32)


def _zeros(like: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(like.shape, like.dtype)
