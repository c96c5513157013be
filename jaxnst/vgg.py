"""VGG19 (Simonyan & Zisserman 2014, arXiv:1409.1556) and the features that it sees in a picture."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnst.convolution import conv3x3

Params = dict[str, Any]
Pooling = Literal["max", "average"]

#: Convolutions of each block and their number of filters (table 1 of the paper, column E).
BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


def _layer_table() -> dict[str, tuple[int, ...]]:
    convs: dict[str, tuple[int, ...]] = {}
    channels = 3
    for block, (count, filters) in enumerate(BLOCKS, start=1):
        for index in range(1, count + 1):
            convs[f"conv{block}_{index}"] = (3, 3, channels, filters)
            channels = filters
    return convs


#: Name of each convolution and the shape of its kernel (HWIO), in order.
CONV_SHAPES = _layer_table()

#: Every layer in order: convB_I before the ReLU, reluB_I after it, poolB at the end of a block.
LAYERS = tuple(
    layer
    for block, (count, _) in enumerate(BLOCKS, start=1)
    for layer in (
        *(f"{kind}{block}_{i}" for i in range(1, count + 1) for kind in ("conv", "relu")),
        f"pool{block}",
    )
)


def check_layers(layers: Sequence[str]) -> None:
    """Raise ValueError if a name in `layers` is no layer of VGG19."""
    if isinstance(layers, str):
        raise TypeError(f'layers must be a tuple of names; write ("{layers}",)')
    for layer in layers:
        if layer not in LAYERS:
            raise ValueError(
                f"VGG19 has no layer {layer!r}; layers are called like conv4_2, relu4_2 or pool4"
            )


def num_channels(layer: str) -> int:
    """The number of channels of `layer`, such as 512 for relu4_2."""
    check_layers((layer,))
    return BLOCKS[int(layer.removeprefix("pool")[0] if layer.startswith("pool") else layer[4]) - 1][
        1
    ]


def min_size(layers: Sequence[str]) -> int:
    """The least height and width of an image that reaches all of `layers`."""
    depth = max((LAYERS.index(layer) for layer in layers), default=0)
    return 2 ** sum(layer.startswith("pool") for layer in LAYERS[: depth + 1])


def check_image(image: jax.Array, name: str = "image") -> None:
    """Raise unless `image` is a floating (H, W, 3) array.

    Raises:
        TypeError: it is not an array of floating numbers.
        ValueError: its shape is another one.
    """
    if not hasattr(image, "shape") or not hasattr(image, "dtype"):
        raise TypeError(f"{name} must be an (H, W, 3) array, not {type(image).__name__}")
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"{name} must hold floating numbers in [0, 1], not {image.dtype}; divide 0..255 by 255"
        )
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            f"{name} must have the shape (height, width, 3), not {tuple(image.shape)}; "
            "for a batch use jax.vmap"
        )


class Normalize(nn.Module):
    """Subtracts the mean and divides by the deviation that belong to the weights."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Normalise an (H, W, 3) image in [0, 1]."""
        mean = self.param("mean", nn.initializers.zeros, (3,))
        std = self.param("std", nn.initializers.ones, (3,))
        return (image - mean) / std


class Conv(nn.Module):
    """A 3×3 convolution with zero padding, as trained; Gatys and all torch systems do the same."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (h, w, c) features to (h, w, f) of the same dtype."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), self.shape)
        bias = self.param("bias", nn.initializers.zeros, self.shape[-1:])
        return conv3x3(x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


# Pools take blocks of 2×2. Odd sides lose their last row or column, as in torch; Caffe rounds up.


def max_pool(x: jax.Array) -> jax.Array:
    """Map (h, w, c) to (h // 2, w // 2, c). The gradient goes to the first of equal values.

    By comparisons, since the gradient of XLA's own window takes a search for indices and a scatter.
    """
    height, width = (side // 2 * 2 for side in x.shape[:2])
    upper, lower = (_larger(x[i:height:2, 0:width:2], x[i:height:2, 1:width:2]) for i in range(2))
    return _larger(upper, lower)


def _larger(x: jax.Array, y: jax.Array) -> jax.Array:
    # nan if either is. `jnp.maximum` would share the gradient of equals.
    return jnp.where((x >= y) | jnp.isnan(x), x, y)


def average_pool(x: jax.Array) -> jax.Array:
    """Map (h, w, c) to (h // 2, w // 2, c), the mean of each 2×2 block.

    Not by `flax.linen.avg_pool`: XLA for CPUs, as of jax 0.10, miscompiles a ReLU or the like that
    is followed by a `reduce_window` whose result has several uses.
    """
    height, width = (side // 2 * 2 for side in x.shape[:2])
    upper, lower = (x[i:height:2, 0:width:2] + x[i:height:2, 1:width:2] for i in range(2))
    return (upper + lower) / 4


class VGG19(nn.Module):
    """The convolutional part of VGG19, computed as deep as the deepest layer asked for.

    Attributes:
        layers: names of the features to return.
        pooling: "max" as trained, or "average" as in Gatys et al. 2016, section 2.
        dtype: of the activations. The params stay as they are.
    """

    layers: tuple[str, ...]
    pooling: Pooling = "max"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "h w 3"]) -> dict[str, jax.Array]:
        """Map an (H, W, 3) image in [0, 1] to a dict of (h, w, c) features by layer."""
        pool = {"max": max_pool, "average": average_pool}[self.pooling]
        out: dict[str, jax.Array] = {}
        last = max(LAYERS.index(layer) for layer in self.layers)
        x = Normalize(name="normalize")(image).astype(self.dtype)
        for layer in LAYERS[: last + 1]:
            if layer.startswith("conv"):
                x = Conv(CONV_SHAPES[layer], name=layer)(x)
            elif layer.startswith("relu"):
                x = nn.relu(x)
            else:
                x = pool(x)
            if layer in self.layers:
                out[layer] = x
        return out


@partial(jax.jit, static_argnames=("layers", "pooling", "dtype"))
def _features(
    image: jax.Array, params: Params, *, layers: tuple[str, ...], pooling: Pooling, dtype: str
) -> dict[str, jax.Array]:
    module = VGG19(layers, pooling, jnp.dtype(dtype))
    return cast(dict[str, jax.Array], module.apply({"params": params}, image))


def extract_features(
    image: Float[Array, "h w 3"],
    params: Params,
    *,
    layers: Sequence[str] = ("relu4_2",),
    pooling: Pooling = "max",
    dtype: str = "float32",
) -> dict[str, jax.Array]:
    """The features that VGG19 sees in an image.

    Args:
        image: (H, W, 3), sRGB in [0, 1].
        params: from `load_params`.
        layers: names such as `conv4_2` (before the ReLU), `relu4_2` (after it), `pool4`. Nothing
            deeper than the deepest is computed.
        pooling: "max" or "average".
        dtype: of the activations, "float32", "bfloat16", or under x64 "float64".

    Returns:
        A dict from each name in `layers` to its (h, w, c) features.

    Raises:
        TypeError: the image does not hold floating numbers.
        ValueError: an unknown layer, pooling or dtype, or an image of another shape or too small
            for the deepest layer.
    """
    check_layers(layers)
    layers = tuple(layers)
    check_image(image)
    if not layers:
        return {}
    if pooling not in ("max", "average"):
        raise ValueError(f'pooling must be "max" or "average", not {pooling!r}')
    if dtype not in ("float32", "bfloat16", "float64"):
        raise ValueError(
            f'dtype must be "float32", "bfloat16" or "float64", not {dtype!r}; float16 overflows '
            "in VGG19"
        )
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError('dtype "float64" needs JAX to allow it: set JAX_ENABLE_X64=1')
    least = min_size(layers)
    if min(image.shape[:2]) < least:
        deepest = max(layers, key=LAYERS.index)
        raise ValueError(
            f"an image of {image.shape[0]}x{image.shape[1]} pixels is too small for {deepest}; "
            f"it needs at least {least}x{least}"
        )
    return _features(image, params, layers=layers, pooling=pooling, dtype=dtype)
