"""Recipes: how a transfer is run, and the loss weights that go with it."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax

from jaxnst.loss_weights import LossWeights
from jaxnst.minimize import check_num_steps
from jaxnst.objective import Objective
from jaxnst.optimizers import OPTIMIZERS, Lbfgs


@jax.tree_util.register_static
@dataclass(frozen=True)
class TransferConfig:
    """The settings that determine the programs of a transfer. A static pytree node.

    Attributes:
        objective: the terms of the loss, and how the network computes their features.
        init: start from the "content", the first "style" (cropped to the content's proportions),
            the "mean" colour of the styles, or "noise".
        noise_share: share of noise in the first image, from 0 to 1; `init="noise"` is all noise.
        noise_exponent: spectrum of the noise, as in `noise_image`.
        optimizer: `Lbfgs(…)`, `Adam(…)`, whose numbers are traced, or any optax transformation.
        num_steps: evaluations at each scale: one number for all, or a tuple from coarse to fine,
            whose last number holds for all further scales.
        min_size: least long side of the coarser scales in pixels; None for a single scale.
        scale_factor: ratio between the sides of neighbouring scales.
        details: strength of the styles' fine details in what a finer scale starts with
            (`details.refine`); 0 starts it with the enlarged image of the scale before.
        seed: of the noise, unless `style_transfer` gets a key.
        style_scale: the size of strokes apart from that of the picture: a style's long side as a
            multiple of the picture's, at every scale; one number for all styles, or a tuple with
            one for each. Styles are never enlarged. None keeps the proportion in which content and
            style are given.
        tile: the side in pixels of the tiles in which an image is computed, as in
            `perceptual_loss`; "auto" for the largest that fit in memory, None for no tiles.

    Raises:
        TypeError, ValueError: a field has the wrong type or is out of range.
    """

    objective: Objective
    init: Literal["content", "style", "mean", "noise"] = field(
        default="content",
        metadata={
            "help": "what to start from: the content, the first style, the styles' mean colour, "
            "noise, or a file of the content's proportions",
            "or_file": True,
        },
    )
    noise_share: float = field(
        default=0.0, metadata={"help": "share of noise in the first image, from 0 to 1"}
    )
    noise_exponent: float = field(
        default=0.0,
        metadata={"help": "spectrum of the noise: 0 is white, 1 falls as in photographs"},
    )
    optimizer: Any = field(
        default=Lbfgs(), metadata={"help": "what minimises the loss", "choices": tuple(OPTIMIZERS)}
    )
    num_steps: int | tuple[int, ...] = field(
        default=300,
        metadata={
            "help": "evaluations at each scale from coarse to fine; the last number holds for all "
            "further scales"
        },
    )
    min_size: int | None = field(
        default=None, metadata={"help": "least long side of coarser scales; without it, one scale"}
    )
    scale_factor: float = field(
        default=2.0, metadata={"help": "ratio between the sides of neighbouring scales"}
    )
    details: float = field(
        default=1.0,
        metadata={"help": "strength of the style's fine details where a finer scale starts"},
    )
    seed: int = field(default=0, metadata={"help": "seed of the noise"})
    style_scale: float | tuple[float, ...] | None = field(
        default=None,
        metadata={
            "help": "size of strokes: the style's size as a multiple of the picture's, one number "
            "for all styles or one for each; styles are never enlarged"
        },
    )
    tile: int | Literal["auto"] | None = field(
        default=None,
        metadata={
            "help": "compute pictures in tiles of N pixels, with the same result in less memory; "
            "auto does so if they do not fit in memory at once"
        },
    )

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Objective):
            raise TypeError(f"objective must be an Objective, not {self.objective!r}")
        if not hasattr(self.optimizer, "make") and not hasattr(self.optimizer, "update"):
            raise TypeError(
                "optimizer must be Lbfgs(…), Adam(…) or an optax transformation, not "
                f"{self.optimizer!r}"
            )
        circular = self.objective.circular
        if isinstance(self.optimizer, Lbfgs) and self.optimizer.wrap != circular:
            object.__setattr__(self, "optimizer", replace(self.optimizer, wrap=circular))
        if self.init not in ("content", "style", "mean", "noise"):
            raise ValueError(
                f'init must be "content", "style", "mean" or "noise", not {self.init!r}'
            )
        if not 0 <= self.noise_share <= 1:
            raise ValueError(f"noise_share must be a number from 0 to 1, not {self.noise_share!r}")
        if not math.isfinite(self.noise_exponent):
            raise ValueError(f"noise_exponent must be a finite number, not {self.noise_exponent!r}")
        if not (math.isfinite(self.details) and self.details >= 0):
            raise ValueError(f"details must be a number of 0 or more, not {self.details!r}")
        if isinstance(self.style_scale, list | tuple):
            object.__setattr__(self, "style_scale", tuple(self.style_scale))
        for scale in self.style_scales(1):
            if scale is not None and not (math.isfinite(scale) and scale > 0):
                raise ValueError(f"style_scale must be above 0, not {scale!r}")
        steps = self.num_steps
        if isinstance(steps, list | tuple):
            object.__setattr__(self, "num_steps", tuple(steps))  # a list has no hash
        if not (steps := self.steps):
            raise ValueError("num_steps must have one or more numbers, not none")
        for number in steps:
            check_num_steps("num_steps", number)
        if self.min_size is not None:
            check_num_steps("min_size", self.min_size)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an integer, not {self.seed!r}")
        if not -(2**31) <= self.seed < 2**32:
            raise ValueError(f"seed must be an integer of 32 bits, not {self.seed!r}")
        if self.tile not in ("auto", None):
            check_num_steps("tile", self.tile)
        if not (math.isfinite(self.scale_factor) and self.scale_factor > 1):
            raise ValueError(f"scale_factor must be a number above 1, not {self.scale_factor!r}")

    @property
    def steps(self) -> tuple[int, ...]:
        """`num_steps` as a tuple."""
        return self.num_steps if isinstance(self.num_steps, tuple) else (self.num_steps,)

    @property
    def of_programs(self) -> "TransferConfig":
        """The part on which compiled programs depend, the rest at its defaults."""
        return TransferConfig(
            self.objective, details=self.details, style_scale=self.style_scale, tile=self.tile
        )

    def style_scales(self, count: int) -> tuple[float | None, ...]:
        """Return `style_scale` as a tuple, for this number of styles if it is one for all."""
        given = self.style_scale
        return given if isinstance(given, tuple) else (given,) * count


class Recipe(NamedTuple):
    """A config and the loss weights that go with it."""

    config: TransferConfig
    weights: LossWeights
