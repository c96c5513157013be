"""How a transfer is run, and the scales and the optimiser that follow from that."""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxnst.checks import check_positive_integer
from jaxnst.lbfgs import lbfgs
from jaxnst.objective import ObjectiveConfig
from jaxnst.pyramid import Shape, pyramid_shapes
from jaxnst.spectrum import favour_large_shapes
from jaxnst.vgg import min_size


@dataclass(frozen=True)
class TransferConfig:
    """How a transfer is run: the objective's config, and the run's own choices.

    Attributes:
        objective: what the loss sees.
        init: start from the "content" or from "noise" (white, uniform in [0, 1]).
        optimizer: "lbfgs" or "adam".
        learning_rate: of images in [0, 1]; None for the optimiser's own (L-BFGS 1, Adam 0.02).
        memory: pairs that L-BFGS keeps; each costs two images of memory.
        beta2: decay of Adam's second moment.
        average: decay of the moving average of Adam's images, which then is the result; 0 for none.
        clamp: whether Adam's image is kept in [0, 1] after each step.
        num_steps: evaluations of the loss, at each scale.
        first_steps: the same at the first of several scales; None for `coarse_steps`.
        coarse_steps: the same at those before the last; None for `num_steps`.
        min_size: pixels of the long side at the coarsest scale; None for the finest scale alone.
        scale_factor: between the sides of neighbouring scales.
        seed: of the noise, where `style_transfer` is given no key.
        size: pixels of the side named by `fit`, at which the command line loads pictures.
        fit: "long" or "short" side.
        crop: whether the centre is cut to a square (with fit "short").
    """

    objective: ObjectiveConfig = ObjectiveConfig()
    init: Literal["content", "noise"] = field(
        default="content", metadata={"help": "the image to start from"}
    )
    optimizer: Literal["lbfgs", "adam"] = field(default="lbfgs", metadata={"help": "optimiser"})
    learning_rate: float | None = field(
        default=None, metadata={"help": "learning rate, for images in [0, 1]"}
    )
    memory: int = field(default=20, metadata={"help": "curvature pairs that L-BFGS keeps"})
    beta2: float = field(default=0.999, metadata={"help": "decay of Adam's second moment"})
    average: float = field(
        default=0.0, metadata={"help": "decay of the average of Adam's images, the result then"}
    )
    clamp: bool = field(default=False, metadata={"help": "keep Adam's image in [0, 1]"})
    num_steps: int = field(default=300, metadata={"help": "evaluations of the loss at each scale"})
    first_steps: int | None = field(
        default=None, metadata={"help": "evaluations at the first scale, where --min-size is given"}
    )
    coarse_steps: int | None = field(
        default=None, metadata={"help": "evaluations at each scale before the last"}
    )
    min_size: int | None = field(
        default=None, metadata={"help": "long side of the coarsest scale; without it there is one"}
    )
    scale_factor: float = field(
        default=2.0, metadata={"help": "between the sides of neighbouring scales"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the noise"})
    size: int = field(default=512, metadata={"help": "pixels of the picture's side, see --fit"})
    fit: Literal["long", "short"] = field(default="long", metadata={"help": "which side --size is"})
    crop: bool = field(default=False, metadata={"help": "cut the centre to a square"})

    def __post_init__(self) -> None:
        for name in ("memory", "num_steps", "size"):
            check_positive_integer(name, getattr(self, name))
        for name in ("first_steps", "coarse_steps", "min_size"):
            if getattr(self, name) is not None:
                check_positive_integer(name, getattr(self, name))
        if not isinstance(self.seed, int) or not -(2**31) <= self.seed < 2**32:
            raise ValueError(f"seed must be an integer of 32 bits, not {self.seed!r}")
        for name, choices in (
            ("init", ("content", "noise")),
            ("optimizer", ("lbfgs", "adam")),
            ("fit", ("long", "short")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        rate = self.learning_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"learning_rate must be a positive number, not {rate!r}")
        for name in ("beta2", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be a number from 0 to less than 1, not {getattr(self, name)!r}"
                )
        if not (math.isfinite(self.scale_factor) and self.scale_factor > 1):
            raise ValueError(f"scale_factor must be a number above 1, not {self.scale_factor!r}")
        if self.optimizer == "lbfgs" and (self.clamp or self.average):
            # Clamped points break the curvature pairs, and L-BFGS does not wander about a minimum.
            raise ValueError('clamp and average are for optimizer="adam"')
        if self.crop and self.fit != "short":
            raise ValueError('crop cuts a square out of the short side; it needs fit="short"')


#: One image, or lanes of such.
Images = Float[Array, "*lanes h w 3"] | Float[np.ndarray[Any, Any], "*lanes h w 3"]


class Scale(NamedTuple):
    """One step of the image pyramid."""

    shape: Shape  #: height and width of the content and the image
    num_steps: int  #: evaluations of the loss


def schedule(content: Images, config: TransferConfig) -> list[Scale]:
    """The scales from coarse to fine at which a content is worked on."""
    finest = content.shape[-3], content.shape[-2]
    if config.min_size is None:
        return [Scale(finest, config.num_steps)]
    shapes = pyramid_shapes(finest, min_size=config.min_size, scale_factor=config.scale_factor)
    least = min_size(config.objective.content_layers + config.objective.style_layers)
    # A long and narrow picture may be too small for the network at scales that others have.
    shapes = [shape for shape in shapes if min(shape) >= least or shape == finest]
    steps = [config.coarse_steps or config.num_steps] * (len(shapes) - 1) + [config.num_steps]
    steps[0] = config.first_steps or steps[0]
    return [*map(Scale, shapes, steps)]


def make_optimizer(config: TransferConfig) -> optax.GradientTransformation:
    """The optimiser of a config, the same object for the same choices."""
    return _make_optimizer(
        config.optimizer, config.learning_rate, config.memory, config.beta2, config.clamp
    )


@lru_cache(maxsize=64)
def _make_optimizer(
    name: str, learning_rate: float | None, memory: int, beta2: float, clamp: bool
) -> optax.GradientTransformation:
    # Cached, since a new optimiser object would compile the loop anew.
    if name == "lbfgs":
        # Departs from Gatys' L-BFGS by its first metric and by lengths for images in [0, 1]; see
        # benchmarks/convergence.py for what they are worth.
        return lbfgs(
            learning_rate=learning_rate or 1.0,
            memory=memory,
            first_step=0.01,
            max_step=0.05,
            metric=favour_large_shapes,
            stretch=2.0,
        )
    adam = optax.adam(learning_rate or 0.02, b2=beta2)
    return optax.chain(adam, _clamp_to_unit()) if clamp else adam


def _clamp_to_unit() -> optax.GradientTransformation:
    """Shorten updates so that all values end in [0, 1]."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p: jnp.clip(p + u, 0, 1) - p, updates, params
        )
    )
