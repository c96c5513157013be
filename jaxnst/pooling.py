"""The pools of VGG19, which halve features by blocks of 2×2.

Odd sides lose their last row or column, as in torch; Caffe rounds up. Splits replace
`reduce_window`: XLA for CPUs, as of jax 0.10, miscompiles one after a ReLU whose result has several
uses, and its gradients are slow; so are those of strided slices. Each pool is jitted, as functions
of `jax.numpy` are, so that outside of `jit` no call sends constants to the device.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def _corners(x: jax.Array) -> list[jax.Array]:
    """Return the upper left, upper right, lower left and lower right pixel of each block."""
    height, width, channels = x.shape[0] // 2, x.shape[1] // 2, x.shape[2]
    blocks = x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, channels)
    rows = jax.lax.split(blocks, (1, 1), axis=1)
    pixels = [pixel for row in rows for pixel in jax.lax.split(row, (1, 1), axis=3)]
    return [pixel.reshape(height, width, channels) for pixel in pixels]


@jax.jit
def max_pool(x: jax.Array) -> jax.Array:
    """Map (h, w, c) to (h // 2, w // 2, c), the largest of each 2×2 block.

    Among equal values, the first gets the gradient. A block with NaN gives NaN.

    >>> max_pool(jnp.arange(4.0).reshape(2, 2, 1)).item()
    3.0
    """
    a, b, c, d = _corners(x)
    return _larger(_larger(a, b), _larger(c, d))


def _larger(x: jax.Array, y: jax.Array) -> jax.Array:
    # NaN if either is. `jnp.maximum` would split the gradient between equal values.
    return jnp.where((x >= y) | jnp.isnan(x), x, y)


@jax.jit
def average_pool(x: jax.Array) -> jax.Array:
    """Map (h, w, c) to (h // 2, w // 2, c), the mean of each 2×2 block.

    >>> average_pool(jnp.arange(4.0).reshape(2, 2, 1)).item()
    1.5
    """
    a, b, c, d = _corners(x)
    return ((a + b) + (c + d)) / 4


@jax.jit
def l2_pool(x: jax.Array) -> jax.Array:
    """Map (h, w, c) to (h // 2, w // 2, c), the root of the sum of squares of each 2×2 block.

    At a block of zeros, the gradient is 0.

    >>> l2_pool(jnp.array([[3.0, 0.0], [0.0, 4.0]])[:, :, None]).item()
    5.0
    """
    a, b, c, d = _corners(x)
    energy = (a * a + b * b) + (c * c + d * d)
    zero = energy == 0  # guarded before the root, whose slope is infinite there
    return jnp.where(zero, jnp.zeros_like(energy), jnp.sqrt(jnp.where(zero, 1, energy)))


@jax.jit
def _scaled_average_pool(x: jax.Array) -> jax.Array:
    return 2 * average_pool(x)


@jax.jit
def _scaled_l2_pool(x: jax.Array) -> jax.Array:
    return jnp.asarray(0.78, x.dtype) * l2_pool(x)


#: The pools by name. The scaled ones are those of crowsonkb's style-transfer-pytorch, whose factors
#: keep deeper activations about as large as with the max pooling that VGG19 was trained with.
POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "max": max_pool,
    "average": average_pool,
    "l2": l2_pool,
    "scaled-average": _scaled_average_pool,
    "scaled-l2": _scaled_l2_pool,
}


def check_pooling(pooling: str) -> None:
    """Raise ValueError unless `pooling` is in `POOLS`.

    >>> check_pooling("median")
    Traceback (most recent call last):
    ValueError: pooling must be max, average, l2, scaled-average or scaled-l2, not 'median'
    """
    if pooling not in POOLS:
        *names, last = POOLS
        raise ValueError(f"pooling must be {', '.join(names)} or {last}, not {pooling!r}")
