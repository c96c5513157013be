"""VGG19 (Simonyan & Zisserman 2014, arXiv:1409.1556): layer table, network and features."""

from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxnst.convolution import Padding, conv3x3, paddings_of
from jaxnst.pooling import POOLS, check_pooling

Params = dict[str, Any]

#: An image in sRGB, nominally in [0, 1].
Image = Float[jax.Array | np.ndarray[Any, Any], "h w 3"]

#: Number of convolutions and of filters in each block (table 1 of the paper, column E).
BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))

_CONVS = [
    (f"{block}_{index}", filters)
    for block, (count, filters) in enumerate(BLOCKS, start=1)
    for index in range(1, count + 1)
]

#: The shape of each convolution's kernel (HWIO) by name, in order.
CONV_SHAPES = {
    f"conv{number}": (3, 3, channels, filters)
    for (number, filters), channels in zip(
        _CONVS, [3, *(filters for _, filters in _CONVS[:-1])], strict=True
    )
}

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
    """Raise TypeError if `layers` is a string, ValueError if a name in it is not in `LAYERS`.

    >>> check_layers(("relu6_1",))
    Traceback (most recent call last):
    ValueError: layers must be called like conv4_2, relu4_2 or pool4, not 'relu6_1'; see LAYERS
    """
    if isinstance(layers, str):
        raise TypeError(f'layers must be a tuple of names, not a string; write ("{layers}",)')
    for layer in layers:
        if layer not in LAYERS:
            raise ValueError(
                f"layers must be called like conv4_2, relu4_2 or pool4, not {layer!r}; see LAYERS"
            )


def num_channels(layer: str) -> int:
    """Return the number of channels of a layer."""
    check_layers((layer,))
    return BLOCKS[int(layer[4]) - 1][1]


def min_size(layers: Sequence[str]) -> int:
    """Return the least height and width of an image that reaches all of `layers`.

    >>> min_size(("relu1_1", "relu4_2"))
    8
    """
    halvings = (int(layer[4]) - (not layer.startswith("pool")) for layer in layers)
    return 2 ** max(halvings, default=0)


def check_image(image: Image, name: str = "image") -> None:
    """Raise unless `image` is a floating-point (H, W, 3) array whose values can be in [0, 1].

    While JAX traces, values are unknown and not checked.

    Raises:
        TypeError: it is not an array of floating-point numbers.
        ValueError: it has another shape, or its values are clearly in 0..255.

    >>> check_image(np.full((8, 8, 3), 255.0))
    Traceback (most recent call last):
    ValueError: image must hold values in [0, 1], not up to 255; divide 0..255 by 255
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
    if isinstance(image, jax.core.Tracer) or not getattr(image, "is_fully_addressable", True):
        return
    largest = float(np.max(jax.device_get(image), initial=0))
    if largest > 8:  # an image being optimised may leave [0, 1], but not that far
        raise ValueError(
            f"{name} must hold values in [0, 1], not up to {largest:g}; divide 0..255 by 255"
        )


class Normalize(nn.Module):
    """Subtract the mean and divide by the standard deviation that come with the weights."""

    @nn.compact
    def __call__(self, image: Image) -> jax.Array:
        """Normalise an (H, W, 3) image in [0, 1], in the wider of its and the params' dtypes."""
        mean = self.param("mean", nn.initializers.zeros, (3,))
        std = self.param("std", nn.initializers.ones, (3,))
        dtype = max(image.dtype, mean.dtype, key=lambda dtype: dtype.itemsize)
        mean, std = (value.astype(dtype).reshape(1, 1, 3) for value in (mean, std))
        return (jnp.asarray(image).astype(dtype) - mean) / std


class Conv(nn.Module):
    """A 3×3 convolution."""

    shape: tuple[int, ...]
    padding: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (h, w, c) features to (h, w, f) of the same dtype."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), self.shape)
        bias = self.param("bias", nn.initializers.zeros, self.shape[-1:])
        y = conv3x3(x, kernel.astype(x.dtype), padding=self.padding)
        return y + bias.astype(x.dtype).reshape(1, 1, -1)


# Jitted alone, as functions of `jax.numpy` are: outside of `jit` no call sends constants to the
# device.
_relu = jax.jit(nn.relu)


class VGG19(nn.Module):
    """The convolutional part of VGG19, up to the deepest layer requested.

    Attributes:
        layers: names of the features to return.
        pooling: "max" as trained, "average" as in Gatys et al. 2016, section 2, or another of
            `pooling.POOLS`.
        padding: how convolutions continue features beyond their borders: by "zero" as trained, or
            as another of `convolution.PADDINGS` says; or a pair of names, for conv1_1 and for the
            others.
        dtype: of the activations, not the params: float32, bfloat16, or under x64 float64.

    >>> network = VGG19(("relu2_1",), pooling="average")
    >>> variables = network.init(jax.random.key(0), jnp.zeros((32, 32, 3)))
    >>> network.apply(variables, jnp.zeros((32, 48, 3)))["relu2_1"].shape
    (16, 24, 128)
    """

    layers: Sequence[str]
    pooling: str = "max"
    dtype: DTypeLike = "float32"
    padding: Padding = "zero"

    @nn.compact
    def __call__(self, image: Image) -> dict[str, jax.Array]:
        """Map an (H, W, 3) image in [0, 1] to a dict of (h, w, c) features by layer.

        Raises:
            TypeError: `layers` is a string, or the image is not of floating-point numbers.
            ValueError: a layer, the pooling, the dtype or the padding is unknown; the image has
                another shape, is clearly in 0..255, or is too small for the deepest layer; or
                params lack a layer.
        """
        check_layers(self.layers)
        check_image(image)
        check_pooling(self.pooling)
        first, others = paddings_of(self.padding)
        dtype = _allowed_dtype(self.dtype)
        if not self.layers:
            return {}
        deepest, least = max(self.layers, key=LAYERS.index), min_size(self.layers)
        height, width, _ = image.shape
        if min(height, width) < least:
            raise ValueError(
                f"image must have at least {least}x{least} pixels for {deepest}, "
                f"not {height}x{width}; enlarge it or choose earlier layers"
            )
        out: dict[str, jax.Array] = {}
        x = Normalize(name="normalize")(image).astype(dtype)
        for layer in LAYERS[: LAYERS.index(deepest) + 1]:
            if layer.startswith("conv"):
                if not (self.is_initializing() or self.has_variable("params", layer)):
                    held = [x for x in CONV_SHAPES if self.has_variable("params", x)]
                    raise ValueError(
                        f"params must hold {layer} for {deepest}, but end after "
                        f"{held[-1] if held else 'no layer'}; load a whole VGG19 or choose "
                        "earlier layers"
                    )
                padding = first if layer == "conv1_1" else others
                x = Conv(CONV_SHAPES[layer], padding, name=layer)(x)
            elif layer.startswith("relu"):
                x = _relu(x)
            else:
                # Without the barrier, XLA computes the gradient of the convolution that follows
                # four times, once for each pixel of a block.
                x = jax.lax.optimization_barrier(POOLS[self.pooling](x))
            if layer in self.layers:
                out[layer] = x
        return out


def dtype_name(dtype: DTypeLike) -> str:
    """Return the name of a dtype of activations; raise ValueError if VGG19 cannot use it."""
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in ("float32", "bfloat16", "float64"):
        raise ValueError(
            f'dtype must be "float32", "bfloat16" or "float64", not "{name}"; float16 overflows '
            "in VGG19"
        )
    return name


def _allowed_dtype(dtype: DTypeLike) -> Any:
    name = dtype_name(dtype)
    if name == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError('dtype must not be "float64" unless JAX allows it; set JAX_ENABLE_X64=1')
    return jnp.dtype(name)


def extract_features(
    image: Image,
    params: Params,
    *,
    layers: Sequence[str] = ("relu4_2",),
    pooling: str = "max",
    dtype: DTypeLike = "float32",
    padding: Padding = "zero",
) -> dict[str, jax.Array]:
    """Return the features that VGG19 computes from an image.

    It is pure and not jitted: wrap it in `jax.jit`, `jax.grad`, `jax.jvp` or `jax.vmap`.

    Args:
        image: (H, W, 3), sRGB in [0, 1].
        params: from `load_params`.
        layers: names such as `conv4_2` (before the ReLU), `relu4_2` (after it), `pool4`. Deeper
            layers are not computed.
        pooling: as in `VGG19`.
        dtype: as in `VGG19`.
        padding: as in `VGG19`.

    Returns:
        A dict from each name in `layers` to its (h, w, c) features.

    Raises:
        TypeError, ValueError: as in `VGG19.__call__`.

    >>> import jaxnst
    >>> from pathlib import Path
    >>> demo = Path(jaxnst.__file__).parent / "demo"
    >>> image = jaxnst.load_image(demo / "content.jpg", size=64)[:40, :64]
    >>> features = extract_features(image, jaxnst.load_params(), layers=("relu1_1", "pool2"))
    >>> {layer: array.shape for layer, array in features.items()}
    {'relu1_1': (40, 64, 64), 'pool2': (10, 16, 128)}
    """
    module = VGG19(layers, pooling, dtype, padding)
    return cast(dict[str, jax.Array], module.apply({"params": params}, image))
