"""Quantise kernels to 8 bits."""

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxnst.formats.params import check_params
from jaxnst.vgg import Params


def quantize_params(params: Params, *, iterations: int = 20) -> Params:
    """Return params whose kernels have at most 256 different values each.

    Each value is replaced by the nearest of 256 that `iterations` of Lloyd's algorithm (1982) have
    moved towards the least squared error. Biases stay as they are. `save_params` writes the result
    to HDF5 in 8 bits a value.

    Raises:
        ValueError: `params` are not a finite VGG19.

    >>> import jaxnst
    >>> params = jaxnst.load_params()  # already quantised, so nothing changes
    >>> bool((jaxnst.quantize_params(params)["conv5_4"]["kernel"]
    ...     == params["conv5_4"]["kernel"]).all())
    True
    """
    check_params(params)
    small = {layer: dict(leaves) for layer, leaves in params.items()}
    for leaves in small.values():
        if "kernel" in leaves:
            leaves["kernel"] = jnp.asarray(_quantize(np.asarray(leaves["kernel"]), iterations))
    return small


def _quantize(kernel: npt.NDArray[np.float32], iterations: int) -> npt.NDArray[np.float32]:
    values = np.sort(kernel, axis=None).astype(np.float64)
    if np.unique(values).size <= 256:
        return kernel
    sums = np.concatenate([[0.0], np.cumsum(values)])
    # Half of the codes start at quantiles, where the values are; half cover the range, where a few
    # large values would otherwise be far from any code.
    quantiles = np.quantile(values, np.linspace(0, 1, 128))
    codebook = np.sort(np.concatenate([quantiles, np.linspace(values[0], values[-1], 128)]))
    for _ in range(iterations):
        edges = np.searchsorted(values, (codebook[1:] + codebook[:-1]) / 2)
        first, last = np.append(0, edges), np.append(edges, values.size)
        count = last - first
        mean = (sums[last] - sums[first]) / np.maximum(count, 1)
        codebook = np.where(count > 0, mean, codebook)  # means of neighbours stay in order
    codebook = codebook.astype(np.float32)
    return codebook[np.searchsorted((codebook[1:] + codebook[:-1]) / 2, kernel)]
