"""The perceptual loss, a weighted sum of terms."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float

from jaxnst.convolution import PADDINGS, Padding, paddings_of
from jaxnst.guides import GUIDES, Guides, guide_layers
from jaxnst.loss_weights import LossWeights
from jaxnst.pooling import POOLS, check_pooling
from jaxnst.sources import checked_regions
from jaxnst.terms import Features, Regions, Term, network_layers
from jaxnst.tiles import stride
from jaxnst.tiling import Look, divide, measure
from jaxnst.vgg import (
    Params,
    check_image,
    check_layers,
    dtype_name,
    extract_features,
)

#: What each term, by name, compares the image with: a pytree of arrays.
Targets = dict[str, Any]

#: Names of the other rows of a run's history, which no term may have.
RESERVED = ("evaluation", "seconds", "size", "loss")


@jax.tree_util.register_static
@dataclass(frozen=True)
class Objective:
    """Named terms, and how VGG19 computes the features that they use. A static pytree node.

    Attributes:
        terms: by name, in the order in which they are summed.
        pooling: "max" as VGG19 was trained, "average" as Gatys et al. 2016 prefer, or another of
            `pooling.POOLS`.
        dtype: of the activations, by name or as a dtype; sums are always float32 or better.
            "float64" needs JAX_ENABLE_X64.
        padding: "zero" as VGG19 was trained, or as in `VGG19`. With "circular", the image tiles
            the plane, also when it is resized between scales, and terms with a field `wrap` have
            it true.
        guides: how regions of a picture become regions of a layer. "simple" resizes them: each
            position belongs to the regions in proportion, as Gatys et al. 2017 do for several
            styles, and the default, because also small regions have positions of their own in
            every layer. "all" takes the positions whose receptive field meets the region,
            "inside" those whose receptive field lies within it, so that nothing beside the region
            counts; where there are none, "simple".

    Raises:
        TypeError, ValueError: a term, a layer, the pooling, the dtype, the padding or the guides
            are not valid.

    >>> import jaxnst
    >>> terms = {"content": jaxnst.Content(), "style": jaxnst.Style()}
    >>> Objective(terms, pooling="average").layers[-1]
    'relu5_1'
    """

    terms: Mapping[str, Term]
    pooling: str = field(
        default="max", metadata={"help": "pooling of VGG19", "choices": tuple(POOLS)}
    )
    dtype: Any = field(
        default="float32",
        metadata={
            "help": "type of the activations",
            "choices": ("float32", "bfloat16", "float64"),
        },
    )
    padding: Padding = field(
        default="zero",
        metadata={
            "help": "padding of all convolutions, or of the first and of the others",
            "choices": tuple(PADDINGS),
        },
    )
    guides: Guides = field(
        default="simple", metadata={"help": "how regions become regions of a layer"}
    )

    def __post_init__(self) -> None:
        if not isinstance(self.terms, Mapping) or not self.terms:
            raise TypeError(f"terms must be a dict of one or more by name, not {self.terms!r}")
        for name, term in self.terms.items():
            if name in RESERVED:
                raise ValueError(f"a term must not be called {name!r}: a history has that row")
            lacking = [x for x in ("describe", "measure", "score") if not hasattr(term, x)]
            if lacking:
                raise TypeError(
                    f"the term {name!r} must have the methods describe, measure and score, but "
                    f"{type(term).__name__} has no {lacking[0]}"
                )
            check_layers([layer for layer in term.layers if layer != "image"])
            if not term.layers:
                raise ValueError(f"the term {name!r} must have one or more layers")
        check_pooling(self.pooling)
        first, others = paddings_of(self.padding)  # a pair of equal names is one name
        object.__setattr__(self, "padding", first if first == others else (first, others))
        if self.guides not in GUIDES:
            raise ValueError(f'guides must be "simple", "all" or "inside", not {self.guides!r}')
        terms = {name: _on_plane(term, self.circular) for name, term in self.terms.items()}
        object.__setattr__(self, "terms", FrozenDict(terms))  # a dict has no hash
        object.__setattr__(self, "dtype", dtype_name(self.dtype))

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of VGG19 that the terms use."""
        return network_layers(self.terms.values())

    @property
    def circular(self) -> bool:
        """Whether the image tiles the plane."""
        return self.padding == "circular"

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources that the terms describe."""
        sources = [term.source for term in self.terms.values() if term.source is not None]
        return tuple(dict.fromkeys(sources))


def _on_plane(term: Any, wrap: bool) -> Any:
    """Return a term with its field `wrap` set, or that of the term in its field `term`."""
    fields = getattr(term, "__dataclass_fields__", ())
    if "wrap" in fields:
        return term if term.wrap == wrap else replace(term, wrap=wrap)
    return replace(term, term=_on_plane(term.term, wrap)) if "term" in fields else term


def look_of(objective: Objective, params: Params) -> Look:
    """Return the function that computes the features of an image, with the image itself."""
    options: Any = {name: getattr(objective, name) for name in ("pooling", "dtype", "padding")}

    def look(image: jax.Array, layers: tuple[str, ...]) -> Features:
        return {"image": image} | extract_features(image, params, layers=layers, **options)

    return look


def regions_of(
    image: jax.Array, regions: Any, objective: Objective, layers: tuple[str, ...]
) -> Regions:
    """Return the regions of an image at each layer."""
    sizes = {k: tuple(n // stride(k) for n in image.shape[:2]) for k in ("image", *layers)}
    return guide_layers(regions, sizes, objective.guides, padding=objective.padding)


def perceptual_loss(
    image: Float[Array, "h w 3"],
    params: Params,
    targets: Targets,
    weights: LossWeights,
    *,
    objective: Objective,
    regions: Float[Array, "r h w"] | None = None,
    tile: int | None = None,
) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
    """Return the weighted sum of all terms, which extends Gatys et al. 2016, equation 7.

    Args:
        image: (H, W, 3), sRGB; nominally in [0, 1], but nothing is clipped.
        params: from `load_params`.
        targets: from `compute_targets` with the same params and objective.
        weights: the coefficients.
        objective: the terms.
        regions: (r, H, W) weights in [0, 1]: the statistics of each region are compared with those
            of the same region of the targets. None for the whole image.
        tile: the side, in pixels, of the tiles in which the image is computed, so that the
            activations of one tile are in memory at a time, in the gradient too. The result is the
            same to rounding. Terms of the "image" alone are computed whole; others must be means or
            sums over positions. None for no tiles.

    Returns:
        `(loss, terms)`: the terms, by name, are weighted and sum to the loss.

    Raises:
        TypeError, ValueError: the image, weights or targets do not fit the objective, or a term
            cannot be computed in tiles.

    >>> import jax, jax.numpy as jnp, jaxnst
    >>> objective = Objective({"tv": jaxnst.Penalty()})
    >>> weights = LossWeights.ones(objective)
    >>> targets = jaxnst.compute_targets({}, {}, objective=objective)
    >>> image = jnp.eye(4)[:, :, None] * jnp.ones(3)
    >>> loss, terms = jax.jit(perceptual_loss)(image, {}, targets, weights, objective=objective)
    >>> float(loss), float(terms["tv"])
    (1.0, 1.0)
    """
    check_image(image)
    weights.check({name: term.layers for name, term in objective.terms.items()})
    if set(targets) != set(objective.terms):
        raise ValueError(
            f"the targets have the terms {', '.join(targets) or 'nothing'}, but the objective has "
            f"{', '.join(objective.terms)}: compute the targets with this objective"
        )
    image, look = jnp.asarray(image), look_of(objective, params)
    regions = checked_regions(regions, image.shape)
    sized = regions_of(image, regions, objective, objective.layers)
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    whole, tiled, plan = divide(objective.terms, image.shape, tile, objective.padding)
    features = look(image, network_layers(whole.values()))
    measured = {name: term.measure(features, sized, targets[name]) for name, term in whole.items()}
    if plan is not None:
        measured |= measure(tiled, image, sized, targets, look, plan)
    terms = {}
    for name, term in objective.terms.items():
        scores = term.score(measured[name], targets[name])
        weighted = (
            jnp.asarray(weights.layers[name][layer]).astype(dtype) * scores[layer].astype(dtype)
            for layer in term.layers
        )
        terms[name] = jnp.asarray(weights.scales[name]).astype(dtype) * reduce(add, weighted)
    return reduce(add, terms.values()), terms


def loss_and_grad(
    image: Float[Array, "h w 3"],
    params: Params,
    targets: Targets,
    weights: LossWeights,
    *,
    objective: Objective,
    regions: Float[Array, "r h w"] | None = None,
    tile: int | None = None,
) -> tuple[tuple[Float[Array, ""], dict[str, jax.Array]], Float[Array, "h w 3"]]:
    """Return `perceptual_loss` and its gradient with respect to the image.

    The result is `((loss, terms), grad)`.

    Arguments and exceptions are those of `perceptual_loss`.

    >>> import jax.numpy as jnp, jaxnst
    >>> objective = Objective({"tv": jaxnst.Penalty()})
    >>> weights = LossWeights.ones(objective)
    >>> (loss, terms), grad = loss_and_grad(
    ...     jnp.zeros((4, 4, 3)), {}, {"tv": ()}, weights, objective=objective
    ... )
    >>> grad.shape
    (4, 4, 3)
    """

    def loss(image: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return perceptual_loss(
            image, params, targets, weights, objective=objective, regions=regions, tile=tile
        )

    return jax.value_and_grad(loss, has_aux=True)(jnp.asarray(image))
