"""Terms that compare features at sampled positions: `Samples` and `SelfSimilarity`.

Positions are drawn from a seed of the term, the same in each evaluation, so that the optimiser sees
one function. In a region they are drawn in proportion to its weights in the picture itself, so
`Objective.guides` do not matter here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnst.losses import accumulate
from jaxnst.matching import relaxed_earth_movers, self_similarity
from jaxnst.terms import (
    STYLE_LAYERS,
    Features,
    Regions,
    frozen_layers,
    mean_by_region,
    other_kind,
)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Samples:
    """Compare the features at random positions of the image with those of a source, as two sets.

    With `joint`, a position has one vector: the features of all layers, interpolated, each divided
    by its number of channels (hypercolumns, as in Kolkin et al. 2019 and 2022). The one score then
    belongs to no single layer, so each layer gets an equal part of it, and weights of 1 add up to
    the whole. A blend of several pictures has the vectors of all of them, weighted by their shares.

    Attributes:
        layers: whose features are compared; "image" is the colours.
        distance: `(x, y, *, x_weights, y_weights) -> number`, of (n, c) and (m, c) vectors with
            (n,) and (m,) weights.
        joint: whether the layers are compared together, or one by one.
        count: how many positions are drawn in each picture, in each of its regions.
        seed: of the positions.
        source: the name of the source, of any size.

    Raises:
        ValueError: a layer does not exist, or `count` is below 1.

    >>> Samples(("relu3_1", "relu4_1"), count=256).distance.__name__
    'relaxed_earth_movers'
    """

    layers: tuple[str, ...] = STYLE_LAYERS
    distance: Callable[..., jax.Array] = relaxed_earth_movers
    joint: bool = True
    count: int = 1024
    seed: int = 0
    source: str = "style"
    additive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        frozen_layers(self)
        _check_count(self.count)

    @property
    def _groups(self) -> tuple[tuple[str, ...], ...]:
        return (self.layers,) if self.joint else tuple((layer,) for layer in self.layers)

    def describe(self, features: Features, regions: Regions) -> Any:
        """Return, for each group of layers, the vectors of each region with their weights."""
        where, shape = regions["image"], features["image"].shape[:2]
        positions = sample_positions(where, shape, count=self.count, seed=self.seed)
        # In an empty region no position counts.
        here = jnp.ones(1) if where is None else jnp.sum(where, axis=(1, 2)) > 0
        weights = jnp.broadcast_to(here[:, None].astype(jnp.float32), positions.shape[:2])
        return [
            {"vectors": _hypercolumns(features, positions, group), "weights": weights}
            for group in self._groups
        ]

    def blend(self, targets: Sequence[Any], shares: Sequence[Any]) -> Any:
        """Return the vectors of all pictures, weighted by their shares."""
        blended = []
        for sets in zip(*targets, strict=True):
            weights = [
                jnp.reshape(jnp.asarray(share, s["weights"].dtype), (-1, 1)) * s["weights"]
                for share, s in zip(shares, sets, strict=True)
            ]
            count = max(map(len, weights))
            weights = [jnp.broadcast_to(w, (count, w.shape[1])) for w in weights]
            vectors = [jnp.broadcast_to(v, (count, *v.shape[1:])) for v in map(_vectors, sets)]
            blended.append(
                {
                    "vectors": jnp.concatenate(vectors, axis=1),
                    "weights": jnp.concatenate(weights, axis=1),
                }
            )
        return blended

    def measure(self, features: Features, regions: Regions, target: Any) -> Any:
        """Return the vectors of each region of the image."""
        return self.describe(features, regions)

    def score(self, measured: Any, target: Any) -> dict[str, jax.Array]:
        """Return the distance of each group in equal parts by layer, a mean over the regions."""

        def distance(x: Any, y: Any) -> jax.Array:
            weights = {"x_weights": x["weights"], "y_weights": y["weights"]}
            return self.distance(x["vectors"], y["vectors"], **weights)

        scores = {}
        _check_form(target, measured, self)
        for group, found, wanted in zip(self._groups, measured, target, strict=True):
            score = mean_by_region(distance, found, wanted)
            scores.update(dict.fromkeys(group, score / len(group)))
        return scores


@jax.tree_util.register_static
@dataclass(frozen=True)
class SelfSimilarity:
    """Keep the places of the source as alike, or unlike, as they are in the source.

    The content loss of Kolkin et al. 2019, equation 8: n · mean |D - S|, of the `self_similarity`
    matrices D and S of n hypercolumns, as in `Samples`, at the same positions of the image and the
    source. Each layer gets an equal part of it. In a blend of several pictures, all must have the
    same regions.

    Attributes:
        layers: whose features are compared.
        count: n, how many positions are drawn in each region of the source.
        seed: of the positions.
        source: the name of the source; its size may differ, but not its proportions.

    Raises:
        ValueError: a layer does not exist, or `count` is below 1.

    >>> SelfSimilarity(count=256).source
    'content'
    """

    layers: tuple[str, ...] = ("relu3_1", "relu4_1", "relu4_2")
    count: int = 1024
    seed: int = 0
    source: str = "content"
    aligned: ClassVar[bool] = True
    additive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        frozen_layers(self)
        _check_count(self.count)

    def describe(self, features: Features, regions: Regions) -> Any:
        """Return the positions in each region of the source, and the matrix of each."""
        shape = features["image"].shape[:2]
        positions = sample_positions(regions["image"], shape, count=self.count, seed=self.seed)
        return {"positions": positions, "similarity": self._similarity(features, positions)}

    def _similarity(self, features: Features, positions: jax.Array) -> jax.Array:
        return jax.vmap(self_similarity)(_hypercolumns(features, positions, self.layers))

    def measure(self, features: Features, regions: Regions, target: Any) -> Any:
        """Return the matrices at the positions of the target."""
        if not isinstance(target, dict) or set(target) != {"positions", "similarity"}:
            raise ValueError(other_kind(self.layers[0]))
        return self._similarity(features, target["positions"])

    def score(self, measured: Any, target: Any) -> dict[str, jax.Array]:
        """Return the mean absolute difference times n, in equal parts by layer."""
        similarity = target["similarity"]
        difference = jnp.abs(measured - similarity.astype(measured.dtype))
        score = similarity.shape[-1] * jnp.mean(difference)
        return dict.fromkeys(self.layers, score / len(self.layers))


def sample_positions(
    regions: Float[Array, "r h w"] | None, shape: Sequence[int], *, count: int, seed: int
) -> Float[Array, "r n 2"]:
    """Draw positions in each region, in proportion to its weights, and evenly spread.

    The region is cut, line by line, into `count` parts of equal weight, and a pixel is drawn in
    each; then a place in the pixel.

    Args:
        regions: (r, H, W), or None for the whole picture.
        shape: (H, W).
        count: how many.
        seed: of the draws.

    Returns:
        (r, count, 2), the places from top and left as parts of the height and width, in [0, 1].
    """
    # NumPy draws, so that without regions the positions are constants of the program: XLA would be
    # slow to compute them while it compiles.
    draws = np.random.default_rng(seed).random((3, count), np.float32)
    quantiles = (np.arange(count, dtype=np.float32) + draws[0]) / np.float32(count)

    def places(index: Any, xp: Any) -> Any:
        pixel = xp.divmod(index, shape[1])
        moved = [p.astype(np.float32) + d for p, d in zip(pixel, draws[1:], strict=True)]
        return xp.stack(moved, axis=1) / xp.asarray(shape, np.float32)

    area = shape[0] * shape[1]
    if regions is None:
        index = np.minimum((quantiles * np.float32(area)).astype(np.int32), area - 1)
        return jnp.asarray(places(index, np))[None]

    def draw(weights: jax.Array) -> Any:
        total = jnp.cumsum(weights)
        index = jnp.searchsorted(total, quantiles * total[-1], side="right")
        return places(jnp.minimum(index, area - 1), jnp)

    drawn: jax.Array = jax.vmap(draw)(regions.astype(jnp.float32).reshape(len(regions), -1))
    return drawn


def _hypercolumns(features: Features, positions: jax.Array, layers: tuple[str, ...]) -> jax.Array:
    """Return (r, n, c) vectors: the features of all layers at (r, n, 2) positions."""
    columns = [jax.vmap(_interpolate, (None, 0))(features[layer], positions) for layer in layers]
    if len(layers) == 1:
        return columns[0]
    return jnp.concatenate([column / column.shape[-1] for column in columns], axis=-1)


def _interpolate(features: jax.Array, positions: jax.Array) -> jax.Array:
    """Return (n, c) features at (n, 2) positions, interpolated linearly between four."""
    dtype = accumulate(features).dtype
    corners = []
    for axis, side in enumerate(features.shape[:2]):
        place = jnp.clip(positions[:, axis] * side - 0.5, 0, side - 1)
        first = jnp.minimum(jnp.floor(place), max(side - 2, 0))
        after = (place - first).astype(dtype)[:, None]
        index = first.astype(jnp.int32)
        corners.append(((index, 1 - after), (jnp.minimum(index + 1, side - 1), after)))
    rows, columns = corners
    terms = (a * b * accumulate(features[y, x]) for y, a in rows for x, b in columns)
    return reduce(add, terms)


def _vectors(samples: Any) -> jax.Array:
    vectors: jax.Array = samples["vectors"]
    return vectors


def _check_form(target: Any, measured: Any, term: Samples) -> None:
    forms: list[Any] = [jax.tree.structure(tree) for tree in (target, measured)]
    if forms[0] == forms[1]:
        forms = [[_vectors(s).shape[-1] for s in tree] for tree in (target, measured)]
    if forms[0] != forms[1]:
        raise ValueError(other_kind(term.layers[0]))


def _check_count(count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count must be an integer from 1, not {count!r}")
