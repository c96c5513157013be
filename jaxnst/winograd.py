"""Winograd's minimal filtering: a 3×3 convolution in a quarter of the multiplications.

Features are cut into tiles of 4×4 pixels, and these and the kernel transformed, so that the
convolution becomes 36 matrix products (Lavin & Gray 2016, arXiv:1509.09308).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# F(4×4, 3×3) of Lavin & Gray, section 4.3: a 4×4 tile of the output is
# Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A, where g is the kernel and d the 6×6 tile of the input beneath.
_BT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_AT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])

# XLA transforms kernels once before a loop over tiles, and keeps them: 0.3 GB in all. With as many
# positions that saves a few per cent of the time at most, so they are transformed in the loop.
_MANY_POSITIONS = 8192


def winograd_conv3x3(x: jax.Array, kernel: jax.Array, mode: str = "constant") -> jax.Array:
    """Convolve (h, w, c) with (3, 3, c, f), to about 1e-5 of the largest value.

    Beyond its borders `x` continues by `mode`, as in `jnp.pad`.
    """
    return _winograd(x, kernel, _G, "abhwc,abcf->abhwf", mode)


def turned_winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute the transpose of `winograd_conv3x3` with respect to `x`, with zeros around it."""
    # Two constants turn the kernel, which saves a copy of it: a large kernel is larger than x.
    return _winograd(x, kernel, _G[:, ::-1], "abhwf,abcf->abhwc", "constant")


def _winograd(
    x: jax.Array, kernel: jax.Array, g: np.ndarray[Any, Any], products: str, mode: str
) -> jax.Array:
    height, width, channels = x.shape
    rows, columns = -(-height // 4), -(-width // 4)
    # Pad with one pixel before, and after with one or more, up to whole tiles.
    ends = (1, 4 * rows + 3 - height), (1, 4 * columns + 3 - width)
    x = jnp.pad(x, (*ends, (0, 0)), mode)
    x = x.reshape(rows + 1, 4, 4 * columns + 4, channels)
    d = jnp.stack(_combine(_BT, _unstack(x[:-1], 1) + _unstack(x[1:, :2], 1)))
    # Without the barrier, XLA computes each row of tiles six times, once for each column.
    if height * width < _MANY_POSITIONS:
        d = jax.lax.optimization_barrier(d)
    else:  # let the kernel depend on x, so that it stays in the loop
        d, kernel = jax.lax.optimization_barrier((d, kernel))
    transformed = np.kron(g, g).astype(kernel.dtype) @ kernel.reshape(9, -1)
    d = d.reshape(6, rows, columns + 1, 4, channels)
    parts = _combine(_BT, _unstack(d[:, :, :-1], 3) + _unstack(d[:, :, 1:, :2], 3))
    y = jnp.einsum(products, jnp.stack(parts, 1), transformed.reshape(6, 6, *kernel.shape[2:]))
    y = jnp.stack(_combine(_AT, _unstack(y, 1)), 3)
    y = jnp.stack(_combine(_AT, _unstack(y, 0)), 1)
    return y.reshape(4 * rows, 4 * columns, -1)[:height, :width]


def _unstack(x: jax.Array, axis: int) -> list[jax.Array]:
    # `jnp.unstack` moves the axis to the front first, which XLA does by a copy.
    return [jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]


def _combine(matrix: np.ndarray[Any, Any], parts: list[jax.Array]) -> list[jax.Array]:
    """Multiply a small constant matrix by a column of arrays, skipping zeros."""
    zero = jnp.zeros_like(parts[0])
    return [
        sum((float(a) * part for a, part in zip(row, parts, strict=True) if a), start=zero)
        for row in matrix
    ]
