"""The presets: recipes as published, and jaxnst's own.

All depart from their sources in the optimisers' step lengths (`Lbfgs`). Other departures stand
beside their lines.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from jaxnst.images import Geometry
from jaxnst.loss_weights import LossWeights
from jaxnst.losses import half_squared_error, raw_gram_matrix, relative_squared_error
from jaxnst.matching import moment_differences, nearest_neighbors, palette_distance
from jaxnst.moments import (
    mean_and_covariance,
    mean_and_deviation,
    moments_error,
    wasserstein_gaussian,
)
from jaxnst.normalization import RelativeContent
from jaxnst.objective import Objective
from jaxnst.optimizers import Adam, Lbfgs
from jaxnst.penalties import (
    gradient_only_variation,
    nine_point_variation,
    out_of_range,
    squared_total_variation,
    total_variation,
)
from jaxnst.recipes import Recipe, TransferConfig
from jaxnst.samples import Samples, SelfSimilarity
from jaxnst.terms import STYLE_LAYERS, Content, Penalty, Style
from jaxnst.vgg import num_channels


def _terms(
    style: Style = Style(),  # noqa: B008
    content: Content = Content(),  # noqa: B008
    variation: Callable[..., Any] = total_variation,
) -> dict[str, Any]:
    return {"content": content, "style": style, "tv": Penalty(variation)}


def _recipe(
    config: TransferConfig,
    content: float,
    style: float,
    layers: dict[str, float],
    tv: float = 0.0,
    **scales: float,
) -> Recipe:
    scales |= {"content": content, "style": style, "tv": tv}
    weights = LossWeights.ones(config.objective).replace(**scales)
    return Recipe(config, weights.replace_layers(style=layers))


def _by_channels(share: float = 1.0) -> dict[str, float]:
    # With these, the mean squared error of Gram matrices counts as if they were divided by their
    # channels too.
    return {layer: share / num_channels(layer) ** 2 for layer in STYLE_LAYERS}


def _noise_share(deviation: float) -> float:
    return deviation * math.sqrt(12)  # noise in [0, 1] has a deviation of 1/√12


def _article() -> Recipe:
    # Gatys' losses as in many tutorials: means instead of sums, Gram matrices that are not divided,
    # and features after the ReLU (tutorials name convolutions, but the ReLUs of their network work
    # in place, so they compare the output of the ReLU).
    objective = Objective(_terms(Style(statistic=raw_gram_matrix)))
    config = TransferConfig(objective, optimizer=Lbfgs(memory=100), num_steps=300)
    layers = dict(zip(STYLE_LAYERS, (0.2, 0.4, 0.4, 0.8, 1.0), strict=True))
    return _recipe(config, 1.0, 1.0, layers)


def _gatys2016() -> Recipe:
    # Gatys, Ecker & Bethge 2016. The paper's layers are after the ReLU. Departs from the paper in
    # the network, which is used as it is. On the paper's, which `rescale_params` makes, the content
    # outweighs the style a hundred times in these equations, and the picture is the photograph.
    objective = Objective(_terms(content=Content(distance=half_squared_error)), pooling="average")
    # Equation 4 divides Σ(G-A)² by 4·N²·M². Our Gram matrices are divided by M, and their distance
    # is a mean over N² entries, so only the 1/4 is missing.
    layers = dict.fromkeys(STYLE_LAYERS, 0.25 / len(STYLE_LAYERS))
    return _recipe(TransferConfig(objective, init="noise", num_steps=500), 1.0, 1e3, layers)


def _pastiche() -> Recipe:
    config = TransferConfig(Objective(_terms()), optimizer=Lbfgs(memory=100), num_steps=1000)
    return _recipe(config, 0.01, 10.0, _by_channels())


def _gatys_pytorch() -> Recipe:
    # L. Gatys' own PytorchNeuralStyleTransfer: 512 pixels, and from that picture 800. Departs in
    # that sizes are those of the long side.
    config = TransferConfig(
        Objective(_terms()),
        optimizer=Lbfgs(memory=100),
        num_steps=(500, 200),
        min_size=512,
        scale_factor=800 / 512,
        details=0,
    )
    return _recipe(config, 1.0, 1e3, _by_channels())


def _neural_style() -> Recipe:
    # J. Johnson's neural-style. It multiplies pictures by 256 before it subtracts the mean; here
    # the features are those of pictures times 255.
    objective = Objective(_terms(variation=gradient_only_variation))
    config = TransferConfig(
        objective,
        init="mean",  # departs: the colour there is the mean of photographs
        noise_share=_noise_share(1e-3 / 256),
        optimizer=Lbfgs(memory=100),
        num_steps=1000,
    )
    # The original's penalty is on pictures in 0..256.
    return _recipe(config, 5.0, 1e2, _by_channels(), tv=1e-3 * 256**2)


def _anishathalye() -> Recipe:
    # A. Athalye's neural-style, whose pictures are in 0..255: hence the rate and the penalty.
    objective = Objective(_terms(variation=squared_total_variation))
    config = TransferConfig(
        objective,
        init="mean",  # departs: the colour there is the mean of photographs
        noise_share=_noise_share(0.256 / 255),
        optimizer=Adam(learning_rate=10 / 255),
        num_steps=1000,
    )
    layers = _by_channels(1 / len(STYLE_LAYERS))
    return _recipe(config, 5.0, 5e2, layers, tv=1e2 * 255**2)


def _crowsonkb() -> Recipe:
    # K. Crowson's style-transfer-pytorch. Its network is torchvision's VGG19, which `load_params`
    # can load; the features of the bundled one are larger, so that tv counts less. Departs in
    # float32 in what is added to covariances, by less than 1 %: see `wasserstein_gaussian`.
    style = Style(statistic=mean_and_covariance, distance=wasserstein_gaussian)
    objective = Objective(
        _terms(style, variation=nine_point_variation), padding=("replicate", "zero")
    )
    # Departs in the average of images, which there begins with the first image of each scale.
    adam = Adam(learning_rate=0.02, b2=0.99, average=0.99, clamp=True)
    config = TransferConfig(
        objective,
        optimizer=adam,
        num_steps=(1000, 500),
        min_size=128,
        scale_factor=math.sqrt(2),
        details=0,
    )
    layers = dict(zip(STYLE_LAYERS, (share / 341 for share in (256, 64, 16, 4, 1)), strict=True))
    return _recipe(config, 0.015, 1.0, layers, tv=2.0)


def _spst() -> Recipe:
    # Galerne et al. 2024, "Scaling painting style transfer". Departs in that the coarsest scale is
    # found by the long side, in that L-BFGS keeps 100 pairs at finer scales too (there 10), and in
    # that styles shrink along with the content only.
    moments = Style(statistic=mean_and_deviation, distance=moments_error)
    config = TransferConfig(
        Objective(_terms() | {"moments": moments}),
        optimizer=Lbfgs(memory=100),
        num_steps=(600, 300),
        min_size=512,
        details=0,
    )
    return _recipe(config, 1.0, 1e3, _by_channels(), moments=1e4)


def _default(num_steps: tuple[int, ...] = (100, 85)) -> Recipe:
    # Every loss is divided by the size of its target, so that the weights mean the same for dim and
    # vivid pictures. From coarse to fine, because large strokes are cheap at coarse scales and
    # finer ones only sharpen them. At coarse scales a position of relu5_1 sees the whole picture,
    # and with more weight it paints the things in the style picture. Departs in a second layer for
    # the content, which keeps faces; relu4_2 alone lets the style paint over a mouth. Max pooling,
    # with which the network was trained, draws faces better than the averages of Gatys et al. 2016;
    # it ignores three pixels in four, and the variation smooths the pattern that these would keep.
    # With zeros around the picture it would get a frame, as in most systems. How the numbers were
    # found: benchmarks/README.md.
    style = Style(distance=relative_squared_error)
    content = RelativeContent(("relu3_1", "relu4_2"))
    terms = _terms(style, content, squared_total_variation) | {"range": Penalty(out_of_range)}
    objective = Objective(terms, padding="replicate")
    config = TransferConfig(objective, num_steps=num_steps, min_size=128)
    config, weights = _recipe(config, 1.0, 5.0, {"relu5_1": 0.03}, tv=1.0, range=3e3)
    return Recipe(config, weights.replace_layers(content={"relu3_1": 0.2}))


def _strotss_like() -> Recipe:
    # Kolkin, Salavon & Shakhnarovich 2019 (STROTSS), on VGG19 and not VGG16: the last layers of
    # blocks 3 to 5 are its own. Departs also in the layers' features, which are divided by their
    # channels; in the positions, drawn once for each scale; in the variables, which are the image
    # under Adam and not a Laplacian pyramid under RMSprop; and in the start, the content.
    blocks = ["1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_4", "4_4", "5_4"]
    layers = ("image", *(f"relu{number}" for number in blocks))
    terms: dict[str, Any] = {
        "content": SelfSimilarity(layers),
        "style": Samples(layers),
        "moments": Samples(layers, moment_differences),
        "palette": Samples(("image",), palette_distance),
    }
    config = TransferConfig(
        Objective(terms), optimizer=Adam(learning_rate=0.01), num_steps=150, min_size=64, details=0
    )
    # Their α falls from 16 to 2 with each scale; here it is 2, as at their last, at all scales. The
    # loss is not divided by α + 2, which changes nothing.
    alpha = 2.0
    weights = LossWeights.ones(config.objective)
    return Recipe(config, weights.replace(content=alpha, palette=1 / alpha))


def _nnst_like() -> Recipe:
    # Kolkin et al. 2022 (NNST), its last phase: per layer, nearest neighbours matched at each
    # evaluation, on VGG19 and not VGG16. Departs in having no phase before with fixed matches and
    # style features of turned pictures; in the positions, drawn once and not on a grid; in the
    # variables, the image under Adam; in keeping the content by a term of its own, where they mix
    # content features into those that are matched; and in leaving colours as they come.
    blocks = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2")
    layers = tuple(f"relu{number}" for number in blocks)
    terms: dict[str, Any] = {
        "content": SelfSimilarity(("relu3_1", "relu4_1")),
        "style": Samples(layers, nearest_neighbors, joint=False, count=2048),
        "palette": Samples(("image",), palette_distance),
    }
    config = TransferConfig(
        Objective(terms), optimizer=Adam(learning_rate=0.01), num_steps=150, min_size=64, details=0
    )
    return Recipe(config, LossWeights.ones(config.objective).replace(content=4.0))


#: All presets by name.
PRESETS: dict[str, Callable[[], Recipe]] = {
    "default": _default,
    # Most is saved at the finer scales, where an evaluation takes longest.
    "fast": partial(_default, (100, 40, 20)),
    "fine": partial(_default, (300, 255)),
    "article": _article,
    "gatys2016": _gatys2016,
    "pastiche": _pastiche,
    "gatys-pytorch": _gatys_pytorch,
    "neural-style": _neural_style,
    "anishathalye": _anishathalye,
    "crowsonkb": _crowsonkb,
    "spst": _spst,
    "strotss-like": _strotss_like,
    "nnst-like": _nnst_like,
}
#: How the command line loads pictures for a preset, if not by the default.
GEOMETRY = {
    "article": Geometry(size=256, fit="short", crop=True),
    "gatys-pytorch": Geometry(size=800),
}


def preset(name: str) -> Recipe:
    """Return a recipe: a published one, or jaxnst's own.

    - "default": jaxnst's own, from coarse to fine.
    - "fast": the same with fewer evaluations.
    - "fine": the same with three times the evaluations.
    - "article": the 256-pixel recipe of many tutorials.
    - "gatys2016": Gatys, Ecker & Bethge, CVPR 2016, on the plain network. For theirs, pass
      `params=rescale_params([content, style], load_params())`, and more style weight.
    - "gatys-pytorch": L. Gatys' own code for PyTorch, at 512 and then 800 pixels.
    - "neural-style": J. Johnson's neural-style.
    - "anishathalye": A. Athalye's neural-style.
    - "pastiche": the PyPI package pastiche.
    - "crowsonkb": K. Crowson's style-transfer-pytorch, Wasserstein distances with Adam from
      coarse to fine.
    - "spst": Galerne et al. 2024, for large pictures.
    - "strotss-like": after Kolkin et al. 2019, earth mover's distances.
    - "nnst-like": after Kolkin et al. 2022, nearest neighbours.

    Args:
        name: one of `PRESETS`, which are listed above.

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
