"""Params whose filters all have a mean activation of 1."""

from collections.abc import Sequence
from functools import reduce
from operator import add

import jax.numpy as jnp

from jaxnst.convolution import Padding
from jaxnst.losses import mean_features
from jaxnst.vgg import CONV_SHAPES, Image, Params, extract_features


def rescale_params(
    images: Sequence[Image],
    params: Params,
    *,
    pooling: str = "average",
    padding: Padding = "zero",
) -> Params:
    """Rescale each filter so that its mean activation is 1 on the given pictures.

    Gatys, Ecker & Bethge 2016, section 2. The mean is over the positions of each picture, and then
    over the pictures, after the ReLU. A filter and its bias are divided by its mean activation, and
    the next convolution multiplies by it, which a ReLU and a pool allow. So every feature remains
    what it was, up to the factor of its filter. It is pure and can be jitted.

    Args:
        images: one or more (H, W, 3), sRGB in [0, 1], of any sizes. The paper took the means over
            many photographs; the few pictures of a transfer must all be among these, since a
            filter that is nearly silent here would be amplified much.
        params: from `load_params`.
        pooling: of the network that will use the result.
        padding: of the same.

    Returns:
        New params. A filter that is silent on all pictures is kept as it is.

    Raises:
        TypeError, ValueError: there is no picture, or one is not valid or too small for the params.

    >>> from pathlib import Path
    >>> import jaxnst
    >>> demo = Path(jaxnst.__file__).parent / "demo"
    >>> image = jaxnst.load_image(demo / "content.jpg", size=48)
    >>> params = rescale_params([image], jaxnst.load_params())
    >>> features = extract_features(image, params, layers=("relu3_1",), pooling="average")
    >>> round(float(features["relu3_1"].mean()), 3)
    1.0
    """
    if not len(images):
        raise ValueError("images must hold one or more pictures, not none")
    layers = {conv: conv.replace("conv", "relu") for conv in CONV_SHAPES if conv in params}
    seen = [
        extract_features(
            image, params, layers=tuple(layers.values()), pooling=pooling, padding=padding
        )
        for image in images
    ]
    rescaled, inputs = dict(params), jnp.ones(3)
    for conv, relu in layers.items():
        mean = reduce(add, (mean_features(features[relu], None) for features in seen)) / len(seen)
        mean = jnp.where(mean > 0, mean, 1)
        kernel, bias = (jnp.asarray(params[conv][name]) for name in ("kernel", "bias"))
        factor = inputs[:, None] / mean
        rescaled[conv] = {
            "kernel": kernel * factor.astype(kernel.dtype).reshape(1, 1, *factor.shape),
            "bias": bias / mean.astype(bias.dtype),
        }
        inputs = mean
    return rescaled
