"""Neural style transfer: the image that minimises the perceptual loss."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from jaxnst.lbfgs import lbfgs
from jaxnst.objective import (
    LossWeights,
    ObjectiveConfig,
    bind_loss_and_grad,
    canonical_weights,
    compute_targets,
)
from jaxnst.optimize import Progress, Status, minimize
from jaxnst.vgg import Params, check_image


@dataclass(frozen=True)
class TransferConfig:
    """How a transfer is run: the objective's config, and the run's own choices.

    Attributes:
        objective: what the loss sees.
        init: start from the "content" or from "noise" (white, uniform in [0, 1]).
        optimizer: "lbfgs" or "adam".
        learning_rate: of images in [0, 1]; None for the optimiser's own (L-BFGS 1, Adam 0.02).
        memory: pairs that L-BFGS keeps; each costs two images of memory.
        num_steps: evaluations of the loss.
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
    num_steps: int = field(default=300, metadata={"help": "evaluations of the loss"})
    seed: int = field(default=0, metadata={"help": "seed of the noise"})
    size: int = field(default=512, metadata={"help": "pixels of the picture's side, see --fit"})
    fit: Literal["long", "short"] = field(default="long", metadata={"help": "which side --size is"})
    crop: bool = field(default=False, metadata={"help": "cut the centre to a square"})

    def __post_init__(self) -> None:
        for name in ("memory", "num_steps", "size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
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
        if self.crop and self.fit != "short":
            raise ValueError('crop cuts a square out of the short side; it needs fit="short"')


class TransferResult(NamedTuple):
    """What `style_transfer` returns."""

    image: jax.Array  #: the image of the least loss, (H, W, 3), clipped to [0, 1]
    status: Status
    history: dict[str, np.ndarray[Any, Any]]  #: evaluation, loss, content, style, tv


@lru_cache(maxsize=64)
def _make_optimizer(
    name: str, learning_rate: float | None, memory: int
) -> optax.GradientTransformation:
    # Cached, since a new optimiser object would compile the loop anew.
    if name == "lbfgs":
        return lbfgs(learning_rate=learning_rate or 1.0, memory=memory)
    return optax.adam(learning_rate or 0.02)


def style_transfer(
    content: Float[Array, "h w 3"],
    style: Float[Array, "_ _ 3"] | Sequence[Float[Array, "_ _ 3"]],
    *,
    params: Params,
    weights: LossWeights,
    config: TransferConfig,
    key: Key[Array, ""] | None = None,
    initial_image: Float[Array, "h w 3"] | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> TransferResult:
    """Give `content` the style of one or several pictures (Gatys et al. 2016).

    Args:
        content: (H, W, 3), sRGB in [0, 1].
        style: one image of any size, or a list whose styles are blended in equal shares.
        params: from `load_params`.
        weights: coefficients of the loss, from `preset`.
        config: the rest of the recipe, from `preset`.
        key: for the noise; `jax.random.key(config.seed)` by default.
        initial_image: (H, W, 3), to start from this and not from what `config.init` says.
        callback: called about once a second with a `Progress`; a true answer ends the run.

    Returns:
        A `TransferResult`. A loss that is not finite or an interruption (Ctrl-C) is its `status`,
        and its image is the best one seen.

    Raises:
        TypeError, ValueError: an image or weights that do not fit the config.
    """
    styles = list(style) if isinstance(style, Sequence) else [style]
    objective = config.objective
    targets = compute_targets(content, styles, params, config=objective)
    if initial_image is not None:
        check_image(initial_image, "initial_image")
        if initial_image.shape != content.shape:
            raise ValueError(
                f"initial_image has the shape {tuple(initial_image.shape)}, "
                f"but content has {tuple(content.shape)}"
            )
        x0 = initial_image
    elif config.init == "noise":
        key = jax.random.key(config.seed) if key is None else key
        x0 = jax.random.uniform(key, content.shape, jnp.asarray(content).dtype)
    else:
        x0 = content
    result = minimize(
        bind_loss_and_grad(objective),
        jnp.asarray(x0),
        params,
        targets,
        canonical_weights(weights),
        optimizer=_make_optimizer(config.optimizer, config.learning_rate, config.memory),
        num_steps=config.num_steps,
        callback=callback,
    )
    # Departs from systems that clamp inside the loop, which breaks L-BFGS: the history has the
    # losses of images before clipping.
    return TransferResult(jnp.clip(result.x, 0, 1), result.status, result.history)
