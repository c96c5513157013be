"""The targets of a loss: what its terms describe of their sources."""

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp

from jaxnst.objective import Objective, Targets, look_of, regions_of
from jaxnst.sources import Picture, Source, pictures_of
from jaxnst.terms import Term, network_layers
from jaxnst.tiling import describe, divide
from jaxnst.vgg import Params


def compute_targets(
    sources: Mapping[str, Source],
    params: Params,
    *,
    objective: Objective,
    tile: int | None = None,
) -> Targets:
    """Compute the target of each term: its description of the sources.

    Args:
        sources: by name, an image (H, W, 3) in [0, 1], a `Picture`, or a list of these to blend by
            their shares, which are normalised to sum to 1. Statistics are blended linearly; for
            squared distances that has the same gradient as the weighted sum of the losses.
        params: from `load_params`.
        objective: the terms.
        tile: as in `perceptual_loss`.

    Raises:
        TypeError, ValueError: a source is missing, is not used by any term, or has an invalid
            picture.

    >>> from pathlib import Path
    >>> import jaxnst
    >>> image = jaxnst.load_image(Path(jaxnst.__file__).parent / "demo" / "style.jpg", size=32)
    >>> objective = Objective({"style": jaxnst.Style(layers=("relu1_1",))})
    >>> targets = compute_targets({"style": image}, jaxnst.load_params(), objective=objective)
    >>> targets["style"]["relu1_1"].shape
    (1, 64, 64)
    """
    if not isinstance(sources, Mapping):
        raise TypeError(
            'sources must be a dict by name, such as {"style": image}, not '
            f"{type(sources).__name__}"
        )
    for name in (*objective.sources, *sources):
        if name not in sources or name not in objective.sources:
            raise ValueError(
                f"the terms of the objective want the sources {', '.join(objective.sources)}, not "
                f"{', '.join(sources) or 'none'}"
            )
    described: dict[str, Any] = {}
    for source, given in sources.items():
        terms = {k: term for k, term in objective.terms.items() if term.source == source}
        pictures = pictures_of(source, given)
        if len({len(p.regions) if p.regions is not None else 0 for p in pictures}) > 1:
            raise ValueError(f"the pictures of {source} must have the same number of regions")
        groups: dict[Objective, dict[str, Term]] = {}
        for name, term in terms.items():
            seen = objective
            if objective.circular and not getattr(term, "aligned", False):
                # The image tiles the plane, but a style does not: no edge continues at the opposite
                # one. Mirrored at its edges, it has the same statistics beside them.
                seen = replace(objective, padding="reflect")
            groups.setdefault(seen, {})[name] = term
        for seen, group in groups.items():
            each = [_described(group, p, params, seen, tile) for p in pictures]
            for name in group:
                blend = getattr(terms[name], "blend", _blend)
                described[name] = blend([x[name] for x in each], [p.share for p in pictures])
    return {name: described.get(name, ()) for name in objective.terms}


def _described(
    terms: Mapping[str, Term],
    picture: Picture,
    params: Params,
    objective: Objective,
    tile: int | None,
) -> dict[str, Any]:
    """Return what terms describe of a picture."""
    image, look = jnp.asarray(picture.image), look_of(objective, params)
    regions = regions_of(image, picture.regions, objective, network_layers(terms.values()))
    whole, tiled, plan = divide(terms, image.shape, tile, objective.padding)
    features = look(image, network_layers(whole.values()))
    described = {name: term.describe(features, regions) for name, term in whole.items()}
    return described | (describe(tiled, image, regions, look, plan) if plan else {})


def _blend(described: list[Any], shares: list[Any]) -> Any:
    """Return the weighted mean of pytrees whose leaves have a leading axis of regions."""
    total = reduce(add, map(jnp.asarray, shares))

    def mean(*leaves: jax.Array) -> jax.Array:
        return reduce(add, (_share(s, leaf) * leaf for s, leaf in zip(shares, leaves, strict=True)))

    def _share(share: Any, leaf: jax.Array) -> jax.Array:
        share = (jnp.asarray(share) / total).astype(leaf.dtype)
        return share.reshape(share.shape + (1,) * (leaf.ndim - share.ndim))

    return jax.tree.map(mean, *described)
