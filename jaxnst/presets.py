"""The published recipes as (config, weights) pairs."""

import dataclasses
from collections.abc import Callable

from jaxnst.objective import LossWeights, ObjectiveConfig
from jaxnst.transfer_config import TransferConfig
from jaxnst.vgg import num_channels


def _article() -> tuple[TransferConfig, LossWeights]:
    # Gatys' losses as an article's recipe has them: means instead of sums, Gram matrices that are
    # not divided, and features behind the ReLU (it names the convolutions of a network whose
    # ReLUs work in place, so that the ReLU's output is what it compares).
    objective = ObjectiveConfig(statistic="raw_gram")
    layers = dict(zip(objective.style_layers, (0.2, 0.4, 0.4, 0.8, 1.0), strict=True))
    return (
        TransferConfig(objective, num_steps=300, memory=100, size=256, fit="short", crop=True),
        LossWeights(1.0, 1.0, 0.0, {"relu4_2": 1.0}, layers),
    )


def _gatys2016() -> tuple[TransferConfig, LossWeights]:
    # Gatys, Ecker & Bethge 2016, on the network as it is: the paper's own was rescaled, filter by
    # filter, to a mean activation of 1. Its layers are the outputs of conv with the ReLU applied.
    objective = ObjectiveConfig(pooling="average", content_distance="half_sum")
    # Equation 4 divides Σ(G-A)² by 4·N²·M². The mean over N² entries of Grams that are divided by
    # M already is that up to the 1/4.
    layers = {layer: 0.25 / len(objective.style_layers) for layer in objective.style_layers}
    return (
        TransferConfig(objective, init="noise", num_steps=500),
        LossWeights(1.0, 1e3, 0.0, {"relu4_2": 1.0}, layers),
    )


def _pastiche() -> tuple[TransferConfig, LossWeights]:
    objective = ObjectiveConfig()
    layers = {layer: 1.0 / num_channels(layer) ** 2 for layer in objective.style_layers}
    return (
        TransferConfig(objective, num_steps=1000, memory=100),
        LossWeights(0.01, 10.0, 0.0, {"relu4_2": 1.0}, layers),
    )


def _default() -> tuple[TransferConfig, LossWeights]:
    # The objective of pastiche, whose terms mean the same at every size, but with average pooling:
    # max pooling asks nothing of three pixels in four and leaves a pattern of single ones. From
    # coarse to fine: large strokes are laid where they are cheap, and finer scales sharpen them.
    config, weights = _pastiche()
    objective = dataclasses.replace(config.objective, pooling="average")
    config = dataclasses.replace(
        config, objective=objective, min_size=128, num_steps=100, memory=20
    )
    # Averages are less than maxima, the more so the deeper the layer: without more weight, relu5_1
    # hardly counts, and relu3_1 and relu4_1 give way to the content, how much depends on the size.
    # The loss of a style is of the fourth degree in features and that of content of the second:
    # hence the content's weight, with which motifs stay what they are. Chosen on two pairs, by
    # looking and by benchmarks/sizes.py.
    shares = {"relu3_1": 12.0, "relu4_1": 3.0, "relu5_1": 1000.0}
    layers = {k: v * shares.get(k, 1.0) for k, v in weights.style_layers.items()}
    return config, weights._replace(content=0.08, style_layers=layers)


PRESETS: dict[str, Callable[[], tuple[TransferConfig, LossWeights]]] = {
    "default": _default,
    "article": _article,
    "gatys2016": _gatys2016,
    "pastiche": _pastiche,
}


def preset(name: str) -> tuple[TransferConfig, LossWeights]:
    """A recipe: a published one, or jaxnst's own.

    Args:
        name: "default" (jaxnst's own, from coarse to fine), "article" (the 256-pixel recipe of
            many tutorials), "gatys2016" (Gatys, Ecker & Bethge, CVPR 2016, on the plain network)
            or "pastiche" (the PyPI package pastiche).

    Returns:
        `(config, weights)`; change them by `dataclasses.replace` and `_replace`.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()


def settings_of(config: TransferConfig, weights: LossWeights) -> dict[str, str]:
    """All numbers and choices of a recipe, each by the name that an option of it has."""
    settings = dataclasses.asdict(config)
    settings |= settings.pop("objective")
    settings |= {f"{name}_weight": value for name, value in weights._asdict().items()}
    return {name: repr(value) for name, value in settings.items()}
