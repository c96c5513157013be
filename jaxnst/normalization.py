"""Terms whose weights mean the same for all pictures."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnst.losses import accumulate
from jaxnst.terms import Content, Features, Regions, by_region


@jax.tree_util.register_static
@dataclass(frozen=True)
class RelativeContent(Content):
    """A `Content` whose distance is divided by that of the target from features that are all 0.

    So its weight means the same for all pictures, as that of a `Style` does whose distance is
    `relative_squared_error`. With the default distance, the score is Σ (x - y)² / Σ y².

    >>> RelativeContent().layers
    ('relu4_2',)
    """

    def score(self, measured: Any, target: Any) -> dict[str, jax.Array]:
        """Return the relative distance at each layer, a mean over the regions of the source."""
        scores = {}
        for layer, distances in measured.items():
            sizes = by_region(lambda y, where: self.distance(0 * y, y, where), *target[layer])
            scores[layer] = jnp.mean(distances / jnp.maximum(sizes, jnp.finfo(sizes.dtype).tiny))
        return scores


@jax.tree_util.register_static
@dataclass(frozen=True)
class NormalizedGradient:
    """Score like another term, but with a gradient whose absolute values sum to 1.

    This is the option `-normalize_gradients` of jcjohnson's neural-style: at each layer, the
    gradient g with respect to the features becomes g / (Σ |g| + 1e-8), before it is multiplied by
    the weights and goes back through the network. So a weight means the same for all pictures,
    sizes, layers and statistics.

    The values are those of the term, and no function has this gradient, so a line search may
    refuse good steps: use `Adam`. Derivatives with respect to targets are those of the term.

    Attributes:
        term: any term, a user's own too.

    >>> import jaxnst
    >>> style = NormalizedGradient(jaxnst.Style(layers=("relu1_1", "relu2_1")))
    >>> objective = jaxnst.Objective({"content": jaxnst.Content(), "style": style})
    >>> objective.layers
    ('relu4_2', 'relu1_1', 'relu2_1')
    """

    term: Any

    #: The gradient of a part of a picture has another sum.
    additive = False

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of the term."""
        layers: tuple[str, ...] = self.term.layers
        return layers

    @property
    def source(self) -> str | None:
        """The source of the term."""
        source: str | None = self.term.source
        return source

    def describe(self, features: Features, regions: Regions) -> Any:
        """Return the target of the term."""
        return self.term.describe(features, regions)

    def measure(self, features: Features, regions: Regions, target: Any) -> Any:
        """Return the scores of the term."""
        seen = {layer: features[layer] for layer in self.layers}
        where = {layer: regions[layer] for layer in self.layers}
        return {layer: _score(self.term, layer, seen, where, target) for layer in self.layers}

    def score(self, measured: Any, target: Any) -> dict[str, jax.Array]:
        """Return what was measured."""
        scores: dict[str, jax.Array] = measured
        return scores


def _plain_score(
    term: Any, layer: str, features: Features, regions: Regions, target: Any
) -> jax.Array:
    score: jax.Array = term.score(term.measure(features, regions, target), target)[layer]
    return score


# The rule is linear in the changes, so JAX can transpose it, and derivatives of higher order are
# those of the normalised gradient.
_score = partial(jax.custom_jvp, nondiff_argnums=(0, 1))(_plain_score)


@_score.defjvp
def _score_jvp(term: Any, layer: str, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (features, *others), (moved, *changes) = primals, tangents
    plain = partial(_plain_score, term, layer)
    grads = jax.grad(plain)(features, *others)
    size = jax.tree.reduce(jnp.add, jax.tree.map(lambda g: jnp.sum(jnp.abs(accumulate(g))), grads))
    products = jax.tree.map(lambda g, x: jnp.sum(accumulate(g) * accumulate(x)), grads, moved)
    change = jax.jvp(partial(plain, features), tuple(others), tuple(changes))[1]
    value = _score(term, layer, *primals)  # whose own derivative is normalised too
    slope = jax.tree.reduce(jnp.add, products) / (size + 1e-8)
    return value, change + slope.astype(value.dtype)
