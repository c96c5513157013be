"""What is minimised: the perceptual loss of an image against the targets of content and style."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnst import losses
from jaxnst.vgg import Params, Pooling, check_image, check_layers, extract_features

#: How a style is described by its features at one layer: (h, w, c) -> a pytree of arrays.
STATISTICS: dict[str, Callable[[jax.Array], Any]] = {
    "gram": losses.gram_matrix,
    "raw_gram": losses.raw_gram_matrix,
}

#: How far the features at one layer are from those of the content.
CONTENT_DISTANCES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "mean": losses.mean_squared_error,
    "half_sum": losses.half_squared_error,
}

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


@dataclass(frozen=True)
class ObjectiveConfig:
    """Everything that shapes the program of the loss. Numbers stand in `LossWeights`.

    Attributes:
        content_layers: where content is compared.
        style_layers: where style is compared.
        pooling: "max" as VGG19 was trained, "average" as Gatys et al. prefer.
        statistic: of a style layer: "gram" (mean over positions) or "raw_gram" (sum).
        content_distance: "mean" of squares, or "half_sum" (½ Σ, Gatys' equation 1).
        dtype: of the activations; sums are float32 or better in any case. "float64" needs x64.
    """

    content_layers: tuple[str, ...] = field(
        default=("relu4_2",), metadata={"help": "layers where content is compared"}
    )
    style_layers: tuple[str, ...] = field(
        default=STYLE_LAYERS, metadata={"help": "layers where style is compared"}
    )
    pooling: Pooling = field(default="max", metadata={"help": "pooling of VGG19"})
    statistic: Literal["gram", "raw_gram"] = field(
        default="gram", metadata={"help": "what describes a style: Gram by mean or by sum"}
    )
    content_distance: Literal["mean", "half_sum"] = field(
        default="mean", metadata={"help": "squared differences by mean or half their sum"}
    )
    dtype: Literal["float32", "bfloat16", "float64"] = field(
        default="float32", metadata={"help": "type of the activations"}
    )

    def __post_init__(self) -> None:
        for name, choices in (
            ("pooling", ("max", "average")),
            ("statistic", tuple(STATISTICS)),
            ("content_distance", tuple(CONTENT_DISTANCES)),
            ("dtype", ("float32", "bfloat16", "float64")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        for name in ("content_layers", "style_layers"):
            check_layers(getattr(self, name))
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list has no hash
        if not self.content_layers + self.style_layers:
            raise ValueError("at least one content or style layer is needed")


class LossWeights(NamedTuple):
    """The coefficients of the loss. All are traced: changing one compiles nothing.

    The loss is content · Σ_l content_layers[l] · C_l + style · Σ_l style_layers[l] · S_l + tv · TV.
    Every leaf may be a number or, under `jax.vmap`, an array with a leading axis.
    """

    content: Any
    style: Any
    tv: Any
    content_layers: dict[str, Any]
    style_layers: dict[str, Any]


class Targets(NamedTuple):
    """What an image is compared with, by layer.

    `content` holds (h, w, c) features, `style` the statistic that `ObjectiveConfig` names.
    """

    content: dict[str, jax.Array]
    style: dict[str, Any]


def compute_targets(
    content: Float[Array, "h w 3"],
    styles: Sequence[Float[Array, "_ _ 3"]],
    params: Params,
    *,
    config: ObjectiveConfig,
    blend: Sequence[float] | jax.Array | None = None,
) -> Targets:
    """The content's features and the statistics of the styles.

    Args:
        content: (H, W, 3) in [0, 1].
        styles: one or more images of any size.
        params: from `load_params`.
        config: what is compared where.
        blend: a share for each style, all equal by default; made to sum to 1. Statistics blend
            linearly, which for squared distances has the gradient of the weighted sum of losses.

    Raises:
        TypeError: styles are no list, or an image does not hold floating numbers.
        ValueError: no style, a `blend` of another length, or an image that does not fit.
    """
    if hasattr(styles, "ndim"):
        raise TypeError("styles must be a list of images; write [style] for one")
    if not styles:
        raise ValueError("at least one style image is needed")
    shares = jnp.ones(len(styles)) if blend is None else jnp.asarray(blend, jnp.float32)
    if shares.shape != (len(styles),):
        raise ValueError(f"blend has shape {shares.shape}, but there are {len(styles)} styles")
    check_image(content, "content")
    for style in styles:
        check_image(style, "style")
    return _compute_targets(content, tuple(styles), params, shares, config=config)


@partial(jax.jit, static_argnames="config")
def _compute_targets(
    content: jax.Array,
    styles: tuple[jax.Array, ...],
    params: Params,
    shares: jax.Array,
    *,
    config: ObjectiveConfig,
) -> Targets:
    extract = partial(extract_features, params=params, pooling=config.pooling, dtype=config.dtype)
    statistic = STATISTICS[config.statistic]
    shares = shares / jnp.sum(shares)

    def blend(*statistics: jax.Array) -> jax.Array:
        return sum(
            (share * s for share, s in zip(shares, statistics, strict=True)),
            start=jnp.zeros_like(statistics[0]),
        )

    described = [
        {layer: statistic(f) for layer, f in extract(style, layers=config.style_layers).items()}
        for style in styles
    ]
    return Targets(
        content=extract(content, layers=config.content_layers),
        style=jax.tree.map(blend, *described),
    )


@partial(jax.jit, static_argnames="config")
def _perceptual_loss(
    image: jax.Array,
    params: Params,
    targets: Targets,
    weights: LossWeights,
    *,
    config: ObjectiveConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    _check_weights(weights, config)
    features = extract_features(
        image,
        params,
        layers=config.content_layers + config.style_layers,
        pooling=config.pooling,
        dtype=config.dtype,
    )
    distance, statistic = CONTENT_DISTANCES[config.content_distance], STATISTICS[config.statistic]
    content = sum(
        weights.content_layers[layer] * distance(features[layer], targets.content[layer])
        for layer in config.content_layers
    )
    # Departs from Gatys' equation 4 by the mean over the c² entries; the constant 1/(4·N²·M²)
    # stands in LossWeights or, as the division by h·w, in the statistic.
    style = sum(
        weights.style_layers[layer]
        * losses.mean_squared_error(statistic(features[layer]), targets.style[layer])
        for layer in config.style_layers
    )
    terms = {
        "content": weights.content * content,
        "style": weights.style * style,
        "tv": weights.tv * losses.total_variation(image),
    }
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    terms = {name: jnp.asarray(term, dtype) for name, term in terms.items()}
    return terms["content"] + terms["style"] + terms["tv"], terms


@partial(jax.jit, static_argnames="config")
def _loss_and_grad(
    image: jax.Array,
    params: Params,
    targets: Targets,
    weights: LossWeights,
    *,
    config: ObjectiveConfig,
) -> Any:
    loss = partial(_perceptual_loss, config=config)
    return jax.value_and_grad(loss, has_aux=True)(image, params, targets, weights)


def perceptual_loss(
    image: Float[Array, "h w 3"],
    params: Params,
    targets: Targets,
    weights: LossWeights,
    *,
    config: ObjectiveConfig,
) -> tuple[Float[Array, ""], dict[str, jax.Array]]:
    """The loss of Gatys et al. 2016, equation 7, with total variation beside it.

    Args:
        image: (H, W, 3), sRGB; nominally in [0, 1], but nothing is clipped.
        params: from `load_params`.
        targets: from `compute_targets` with the same params and config.
        weights: the coefficients.
        config: what is compared where.

    Returns:
        `(loss, terms)`: terms `content`, `style` and `tv` are weighted and sum to the loss.

    Raises:
        TypeError, ValueError: an image or weights that do not fit the config or the targets.
    """
    return _perceptual_loss(image, params, targets, canonical_weights(weights), config=config)


def loss_and_grad(
    image: Float[Array, "h w 3"],
    params: Params,
    targets: Targets,
    weights: LossWeights,
    *,
    config: ObjectiveConfig,
) -> tuple[tuple[Float[Array, ""], dict[str, jax.Array]], Float[Array, "h w 3"]]:
    """`perceptual_loss` and its gradient by the image: `((loss, terms), grad)`."""
    result: Any = _loss_and_grad(image, params, targets, canonical_weights(weights), config=config)
    return result


@lru_cache(maxsize=64)
def bind_loss_and_grad(config: ObjectiveConfig) -> Callable[..., Any]:
    """`loss_and_grad` at one config, the same object for the same config.

    `minimize` compiles by the identity of its function: a new partial each time would retrace.
    """
    return partial(loss_and_grad, config=config)


def canonical_weights(weights: LossWeights) -> LossWeights:
    """All leaves as float32 arrays, so that 1 and 1.0 share one compiled program."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)


def _check_weights(weights: LossWeights, config: ObjectiveConfig) -> None:
    for name in ("content_layers", "style_layers"):
        given, wanted = getattr(weights, name), getattr(config, name)
        if set(given) != set(wanted):
            raise ValueError(
                f"the weights have {name} {', '.join(sorted(given))}, "
                f"but the config has {', '.join(wanted)}"
            )
