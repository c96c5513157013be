"""The coefficients of a loss, by term and by layer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax import export


class LossWeights(NamedTuple):
    """The coefficients of the loss: Σ_terms scale · Σ_layers weight · score. All are traced.

    Every leaf may be a number or, for `sweep` and `jax.vmap`, an array with a leading axis.
    """

    scales: dict[str, Any]  #: by term
    layers: dict[str, dict[str, Any]]  #: by term, then by layer

    @classmethod
    def ones(cls, objective: Any) -> "LossWeights":
        """Return weights of 1 for every term of an `Objective` and for each of its layers.

        >>> import jaxnst
        >>> weights = LossWeights.ones(jaxnst.Objective({"tv": jaxnst.Penalty()}))
        >>> weights.replace(tv=0.5).scales
        {'tv': 0.5}
        """
        return cls(
            dict.fromkeys(objective.terms, 1.0),
            {name: dict.fromkeys(term.layers, 1.0) for name, term in objective.terms.items()},
        )

    def replace(self, **scales: Any) -> "LossWeights":
        """Return the weights with some scales replaced: `weights.replace(style=1e3)`.

        Raises:
            TypeError: there is no term of that name.
        """
        self._check_names(scales)
        new = {name: _array_of_list(value) for name, value in scales.items()}
        return self._replace(scales={**self.scales, **new})

    def replace_layers(self, **layers: Mapping[str, Any]) -> "LossWeights":
        """Return the weights with some layers replaced: `replace_layers(style={"relu5_1": 9})`.

        Raises:
            TypeError: there is no term of that name.
            ValueError: the term has no weight at that layer.
        """
        self._check_names(layers)
        new = {}
        for name, weights in layers.items():
            if unknown := weights.keys() - self.layers[name].keys():
                raise ValueError(
                    f"{name!r} has no weight at {', '.join(sorted(unknown))}; it has "
                    f"{', '.join(self.layers[name])}"
                )
            arrays = {layer: _array_of_list(value) for layer, value in weights.items()}
            new[name] = {**self.layers[name], **arrays}
        return self._replace(layers={**self.layers, **new})

    def _check_names(self, names: Mapping[str, Any]) -> None:
        if unknown := names.keys() - self.scales.keys():
            raise TypeError(
                f"there is no term {sorted(unknown)[0]!r}; there are {', '.join(self.scales)}"
            )

    def check(self, layers: Mapping[str, tuple[str, ...]]) -> None:
        """Raise ValueError unless the weights are for exactly these layers of these terms."""
        for kind, names in (("scales", self.scales), ("layers", self.layers)):
            if set(names) != set(layers):
                raise ValueError(
                    f"the weights have {kind} for {', '.join(names) or 'nothing'}, but the "
                    f"objective has the terms {', '.join(layers)}: start from LossWeights.ones"
                )
        for name, wanted in layers.items():
            if set(self.layers[name]) != set(wanted):
                raise ValueError(
                    f"the weights have {', '.join(sorted(self.layers[name]))} for {name!r}, but "
                    f"the objective has {', '.join(wanted)}"
                )


def _array_of_list(value: Any) -> Any:
    # A list of numbers means an axis of lanes, but JAX would take it for a tree.
    return np.asarray(value) if isinstance(value, list | tuple) else value


export.register_namedtuple_serialization(LossWeights, serialized_name="jaxnst.LossWeights")
