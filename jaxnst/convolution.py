"""The 3×3 convolution of VGG, by the algorithm that is fastest on the platform it runs on.

On accelerators that is XLA's own. On a CPU, large features of many channels are faster by
Winograd's minimal filtering, which needs a quarter of the products; and features that are smaller
than the kernel by a product of matrices, whose transpose needs no other copy of the kernel.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# F(4×4, 3×3) of Lavin & Gray 2016 (arXiv:1509.09308), section 4.3: a 4×4 tile of the output is
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


@jax.custom_vjp
def conv3x3(x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c f"]) -> Float[Array, "h w f"]:
    """Convolve (h, w, c) with a (3, 3, c, f) kernel to (h, w, f); beyond the edges all is zero.

    The algorithm is chosen when a program is compiled for a platform, so that it follows the data.
    It can be differentiated in reverse, and the gradient in either mode; but `jax.jvp` of it alone
    is refused, since `jax.custom_vjp` is the public way to give a convolution its own transpose.
    """
    return _conv3x3(x, kernel)


def _conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    fastest = _fastest_on_cpu(x, kernel)
    if fastest is direct_conv3x3:
        return direct_conv3x3(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=fastest, default=direct_conv3x3)


def _fastest_on_cpu(x: jax.Array, kernel: jax.Array) -> Callable[..., jax.Array]:
    if jnp.finfo(x.dtype).bits < 32:
        return direct_conv3x3  # for the others, such numbers are not exact enough
    height, width, channels = x.shape
    positions, products = height * width, height * width * channels * kernel.shape[3]
    # Transforming the kernel costs what few positions save, that of x what few channels do; and
    # where there is little to do at all, the longer program costs more to compile than it saves.
    if positions >= 1024 and channels >= 64 and products >= 10**8:
        return winograd_conv3x3
    return patches_conv3x3 if kernel.size > 2 * x.size else direct_conv3x3


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv3x3(x, kernel), (x, kernel)


def _backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    _, by_kernel = jax.vjp(lambda kernel: direct_conv3x3(x, kernel), kernel)
    return _transpose(cotangent, kernel), *by_kernel(cotangent)


conv3x3.defvjp(_forward, _backward)


def _transpose(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    if _fastest_on_cpu(cotangent, kernel) is not patches_conv3x3:
        return _turned(cotangent, kernel)
    return jax.lax.platform_dependent(cotangent, kernel, cpu=_patches_transpose, default=_turned)


def _turned(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    # The transpose of a convolution is the convolution with the kernel turned round. As such it
    # is as fast as the forward one; the transpose that XLA is given by JAX's own rule is not.
    return _conv3x3(cotangent, kernel[::-1, ::-1].swapaxes(2, 3))


def _patches_transpose(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    x = jax.ShapeDtypeStruct((*cotangent.shape[:2], kernel.shape[2]), cotangent.dtype)
    return jax.linear_transpose(lambda x: patches_conv3x3(x, kernel), x)(cotangent)[0]


def direct_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv3x3` as XLA does it."""
    return jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


def patches_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv3x3` as the product of the matrix of all 3×3 patches with that of the kernel."""
    height, width, _ = x.shape
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate(
        [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=2
    )
    return patches @ kernel.reshape(-1, kernel.shape[3])


def winograd_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv3x3` by tiles of 4×4 (Lavin & Gray 2016), to about 1e-5 of the largest value."""
    height, width, channels = x.shape
    rows, columns = -(-height // 4), -(-width // 4)
    filters = kernel.shape[3]
    g = np.kron(_G, _G).astype(kernel.dtype) @ kernel.reshape(9, -1)
    # One pixel of zeros before, at least one behind, and as many as make up whole tiles.
    x = jnp.pad(x, ((1, 4 * rows + 3 - height), (1, 4 * columns + 3 - width), (0, 0)))
    x = x.reshape(rows + 1, 4, 4 * columns + 4, channels)
    d = _combine(_BT, [*jnp.moveaxis(x[:-1], 1, 0), *jnp.moveaxis(x[1:, :2], 1, 0)])
    # Else XLA computes each row of tiles six times over, within each of its columns.
    d = jax.lax.optimization_barrier(jnp.stack(d))
    d = d.reshape(6, rows, columns + 1, 4, channels)
    d = _combine(_BT, [*jnp.moveaxis(d[:, :, :-1], 3, 0), *jnp.moveaxis(d[:, :, 1:, :2], 3, 0)])
    products = jnp.einsum("abhwc,abcf->abhwf", jnp.stack(d, 1), g.reshape(6, 6, channels, filters))
    y = jnp.stack(_combine(_AT, list(jnp.moveaxis(products, 1, 0))), 3)
    y = jnp.stack(_combine(_AT, list(y)), 1)
    return y.reshape(4 * rows, 4 * columns, filters)[:height, :width]


def _combine(matrix: np.ndarray[Any, Any], parts: list[jax.Array]) -> list[jax.Array]:
    """The product of a small constant matrix with a column of arrays, written out."""
    zero = jnp.zeros_like(parts[0])
    return [
        sum((float(a) * part for a, part in zip(row, parts, strict=True) if a), start=zero)
        for row in matrix
    ]
