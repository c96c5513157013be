"""The terms of a loss: content, style and penalties.

A term *describes* a source picture once, which gives its target; *measures* the image at each
evaluation; and *scores* what it measured against the target. A term is any frozen, hashable object
with the attributes of `Term`; your own terms need no registration.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from jaxnst.losses import around_edges, gram_matrix, is_additive, is_sum, mean_squared_error
from jaxnst.penalties import total_variation
from jaxnst.vgg import check_layers

#: (h, w, c) features by layer. "image" is a layer too: the picture itself.
Features = dict[str, jax.Array]
#: By layer, (r, h, w) weights of the positions in each of r regions; None for the whole picture.
Regions = dict[str, jax.Array | None]

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


class Term(Protocol):
    """A term of the loss: static, with its numbers in `LossWeights` and its data in a target.

    A term whose targets do not blend linearly has a method `blend(targets, shares)` besides.
    """

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of VGG19 that it uses, or "image" for the picture itself."""

    @property
    def source(self) -> str | None:
        """The name of the source that its target describes; None if it has no target."""

    def describe(self, features: Features, regions: Regions) -> Any:
        """Return the target: a pytree that blends linearly, each leaf with an axis of regions."""

    def measure(self, features: Features, regions: Regions, target: Any) -> Any:
        """Return the means over the image's positions that `score` needs.

        For `tile`, they must be a dict by layer whose leaves have a leading axis of regions, and
        depend on `regions`; otherwise let the term have an attribute `additive = False`.
        """

    def score(self, measured: Any, target: Any) -> dict[str, jax.Array]:
        """Return a number for each layer, which is then multiplied by its weight."""


def network_layers(terms: Iterable[Term]) -> tuple[str, ...]:
    """Return the layers of VGG19 that terms use."""
    layers = dict.fromkeys(layer for term in terms for layer in term.layers)
    return tuple(layer for layer in layers if layer != "image")


def frozen_layers(term: Any) -> None:
    """Check the layers of a frozen dataclass, and make them a tuple."""
    check_layers([layer for layer in _as_tuple(term.layers) if layer != "image"])
    object.__setattr__(term, "layers", _as_tuple(term.layers))  # a list has no hash


def _as_tuple(layers: Sequence[str]) -> tuple[str, ...]:
    if isinstance(layers, str):
        raise TypeError(f'layers must be a tuple of names, not a text; write ("{layers}",)')
    return tuple(layers)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Content:
    """Compare features position by position, in the regions of the source if it has any.

    Attributes:
        layers: where features are compared; "image" compares pixels.
        distance: `(x, y, where) -> number`, of (h, w, c) features.
        source: the name of the source, of the image's own size.
        region: the index of the one region of the source that counts; None for the mean over all.

    >>> Content(layers=("relu3_2",)).source
    'content'
    """

    layers: tuple[str, ...] = ("relu4_2",)
    distance: Callable[..., jax.Array] = mean_squared_error
    source: str = "content"
    region: int | None = None
    aligned: ClassVar[bool] = True  #: the source tiles the plane where the image does

    def __post_init__(self) -> None:
        frozen_layers(self)

    @property
    def additive(self) -> bool:
        """Whether the distance is a mean or a sum over positions."""
        return is_additive(self.distance)

    @property
    def sums(self) -> bool:
        """Whether the distance is a sum."""
        return is_sum(self.distance)

    def describe(self, features: Features, regions: Regions) -> Any:
        """Return the features themselves and the regions in which they count."""
        where = {layer: self._chosen(regions[layer]) for layer in self.layers}
        return {layer: (features[layer][None], where[layer]) for layer in self.layers}

    def _chosen(self, regions: jax.Array | None) -> jax.Array | None:
        if self.region is None:
            return regions
        count = 0 if regions is None else len(regions)
        if regions is None or not 0 <= self.region < count:
            raise ValueError(
                f"{self.source!r} has {count} regions, but none of index {self.region}"
            )
        return regions[self.region][None]

    def measure(self, features: Features, regions: Regions, target: Any) -> Any:
        """Return the distance at each layer in each region of the source."""
        self._check(target)
        measured = {}
        for layer in self.layers:
            here, (wanted, where) = features[layer], target[layer]
            if wanted.shape[1:] != here.shape:
                raise ValueError(
                    f"at {layer} the image has features of the shape {here.shape}, but its target "
                    f"{wanted.shape[1:]}; give a source {self.source!r} of the image's own size"
                )
            measured[layer] = by_region(partial(self.distance, here), wanted, where)
        return measured

    def score(self, measured: Any, target: Any) -> dict[str, jax.Array]:
        """Return the distance at each layer, a mean over the regions of the source."""
        return {layer: jnp.mean(distances) for layer, distances in measured.items()}

    def part(self, target: Any, tile: Any) -> tuple[Any, dict[str, jax.Array]]:
        """Return the target of a `tiling.Tile`, and the tile's shares of the means by layer."""
        self._check(target)
        parts, shares = {}, {}
        for layer in self.layers:
            wanted, where = target[layer]
            where, shares[layer] = tile.weigh(layer, where)
            parts[layer] = tile.cut(layer, wanted), where
        return parts, shares

    def _check(self, target: Any) -> None:
        _check_target(self, target)
        for layer in self.layers:
            if not isinstance(target[layer], tuple):
                raise ValueError(other_kind(layer))


@jax.tree_util.register_static
@dataclass(frozen=True)
class Style:
    """Compare a statistic of the features, region by region.

    Attributes:
        layers: where the statistic is taken.
        statistic: `(features, where) -> pytree of arrays`, a mean over positions. One that is no
            mean over positions has an attribute `additive = False`, and so has the term.
        distance: `(x, y) -> number`, of two statistics. The default departs from Gatys' equation
            4, Σ (G - A)² / (4·N²·M²), in taking the mean over the N² entries; `gram_matrix`
            divides by the M positions, and the factor 1/4 belongs in `LossWeights`.
        source: the name of the source, of any size.

    >>> Style(layers=("relu1_1",)).statistic.__name__
    'gram_matrix'
    """

    layers: tuple[str, ...] = STYLE_LAYERS
    statistic: Callable[..., Any] = gram_matrix
    distance: Callable[..., jax.Array] = mean_squared_error
    source: str = "style"

    def __post_init__(self) -> None:
        frozen_layers(self)

    @property
    def additive(self) -> bool:
        """Whether the statistic is a mean or a sum over positions."""
        return is_additive(self.statistic)

    @property
    def sums(self) -> bool:
        """Whether the statistic is a sum."""
        return is_sum(self.statistic)

    def describe(self, features: Features, regions: Regions) -> Any:
        """Return the statistic of each region at each layer."""
        described = {}
        for layer in self.layers:
            where = regions[layer]
            parts = [None] if where is None else where
            # Under `vmap`, XLA would copy the features once for each region, to transpose them.
            each = [self.statistic(features[layer], part) for part in parts]
            described[layer] = jax.tree.map(lambda *xs: jnp.stack(xs), *each)
        return described

    def measure(self, features: Features, regions: Regions, target: Any) -> Any:
        """Return the statistic of each region of the image."""
        _check_target(self, target)
        return self.describe(features, regions)

    def score(self, measured: Any, target: Any) -> dict[str, jax.Array]:
        """Return the distance at each layer, a mean over the regions (Gatys et al. 2017)."""
        scores = {}
        for layer in self.layers:
            found, wanted = measured[layer], target[layer]
            if _form(found) != _form(wanted):
                raise ValueError(other_kind(layer))
            scores[layer] = mean_by_region(self.distance, found, wanted)
        return scores


@jax.tree_util.register_static
@dataclass(frozen=True)
class Penalty:
    """Score the image by itself, without a target.

    Attributes:
        function: `(features) -> number`, of (h, w, c) features or of the image. If it has an option
            `wrap`, that is true where the image tiles the plane.
        layers: where the function is applied; "image" by default.
        wrap: whether the image tiles the plane; an `Objective` sets it by its padding.

    >>> Penalty().function.__name__
    'total_variation'
    """

    function: Callable[[jax.Array], jax.Array] = total_variation
    layers: tuple[str, ...] = ("image",)
    source: None = None
    wrap: bool = False
    additive: ClassVar[bool] = False  # the function has no `where`

    def __post_init__(self) -> None:
        frozen_layers(self)

    def describe(self, features: Features, regions: Regions) -> Any:
        """Return nothing: there is no target."""
        return ()

    def measure(self, features: Features, regions: Regions, target: Any) -> Any:
        """Return the penalty at each layer."""
        function = around_edges(self.function, self.wrap)
        return {layer: function(features[layer]) for layer in self.layers}

    def score(self, measured: Any, target: Any) -> dict[str, jax.Array]:
        """Return what was measured."""
        return dict(measured)


def _form(statistic: Any) -> Any:
    leaves, structure = jax.tree.flatten(statistic)
    return structure, [leaf.shape[1:] for leaf in leaves]


def other_kind(layer: str) -> str:
    """Return the message about a target that another objective has made."""
    return f"at {layer} the target is of another kind: compute the targets with this objective"


def mean_by_region(function: Callable[..., jax.Array], *trees: Any) -> jax.Array:
    """Return the mean of what `by_region` returns."""
    return jnp.mean(by_region(function, *trees))


def by_region(function: Callable[..., jax.Array], *trees: Any) -> jax.Array:
    """Return a function's values over the leading axes, whose lengths are 1 or all the same.

    It uses a loop rather than `vmap`, so that without regions the program is exactly that of one
    whole picture.
    """
    lengths = {len(leaf) for leaf in jax.tree.leaves(trees)} - {1} or {1}
    if len(lengths) > 1:
        raise ValueError(
            f"the image and the target must have the same number of regions, not "
            f"{' and '.join(map(str, sorted(lengths)))}"
        )
    (count,) = lengths

    def region(index: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[index if len(leaf) > 1 else 0], trees)

    return jnp.stack([function(*region(index)) for index in range(count)])


def _check_target(term: Any, target: Any) -> None:
    for layer in term.layers:
        if not isinstance(target, dict) or layer not in target:
            raise ValueError(
                f"the targets have no {layer} for {type(term).__name__}: compute the targets with "
                "this objective"
            )
