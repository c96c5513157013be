"""The 3×3 convolution of VGG, by the fastest algorithm on each platform.

Accelerators use XLA's own convolution. On a CPU, features with many pixels and channels use
Winograd's minimal filtering, which needs a quarter of the multiplications; conv1_1, and features
smaller than the kernel, use a matrix product. Neither copies the kernel to be transposed.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxnst.winograd import turned_winograd, winograd_conv3x3

Algorithm = Callable[..., jax.Array]

#: How features may be continued beyond their borders, with the mode of `jnp.pad`.
PADDINGS = {"zero": "constant", "replicate": "edge", "reflect": "reflect", "circular": "wrap"}
#: One of `PADDINGS`, or a pair: for conv1_1 and for the other convolutions.
Padding = str | tuple[str, str]

_OFFSETS = [(i, j) for i in range(3) for j in range(3)]


def paddings_of(padding: Padding) -> tuple[str, str]:
    """Return the names of the padding of conv1_1 and of the other convolutions.

    Raises:
        ValueError: it is neither one of `PADDINGS` nor a pair of them.

    >>> paddings_of("circular"), paddings_of(("replicate", "zero"))
    (('circular', 'circular'), ('replicate', 'zero'))
    """
    pair = (padding, padding) if isinstance(padding, str) else tuple(padding)
    if len(pair) != 2 or not {*pair} <= {*PADDINGS}:
        raise ValueError(
            f"padding must be one of {', '.join(PADDINGS)}, or two for conv1_1 and the other "
            f"convolutions, not {padding!r}"
        )
    return pair


def conv3x3(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c f"], *, padding: str = "zero"
) -> Float[Array, "h w f"]:
    """Convolve `x` with `kernel` to (h, w, f).

    All JAX transformations work, in forward and reverse mode. The platform that a program is
    compiled for determines the algorithm.

    Args:
        x: (h, w, c) features.
        kernel: (3, 3, c, f), of the same dtype.
        padding: one of `PADDINGS`. "reflect" repeats the only pixel of a side of length 1.

    >>> x = jnp.arange(4.0).reshape(2, 2, 1)
    >>> conv3x3(x, jnp.ones((3, 3, 1, 1)))[..., 0]
    Array([[6., 6.],
           [6., 6.]], dtype=float32)
    """
    return _conv3x3_p.bind(x, kernel, padding=padding, turned=False)


def _fastest_on_cpu(height: int, width: int, channels: int, filters: int) -> Algorithm:
    positions = height * width
    if 3 in (channels, filters):  # conv1_1: XLA's own is slow
        return patches_conv3x3
    # With few positions, transforming the kernel costs more than it saves; with few channels,
    # transforming x does; and a small convolution does not repay the longer compilation.
    if positions >= 640 and channels >= 64 and positions * channels * filters >= 8 * 10**7:
        return winograd_conv3x3
    return patches_conv3x3 if 9 * filters > 2 * positions else direct_conv3x3


# JAX has no public way to combine forward mode, a custom transpose and `vmap`: `custom_vjp` has no
# forward mode, and `linear_call` no batching. Hence a primitive, which is bilinear. Its transpose
# with respect to x is itself with the kernel `turned`: as fast as the forward pass, unlike JAX's
# own transpose. `vmap` adds leading axes to x, or the same ones to x and the kernel.
_conv3x3_p = Primitive("conv3x3")


def _compute(
    x: jax.Array, kernel: jax.Array, *, padding: str, turned: bool, cpu: bool
) -> jax.Array:
    height, width, channels = x.shape[-3:]
    filters = kernel.shape[-2 if turned else -1]
    algorithm: Algorithm = direct_conv3x3
    if cpu and jnp.finfo(x.dtype).bits >= 32:  # the others are too inexact in half precision
        algorithm = _fastest_on_cpu(height, width, channels, filters)
    if turned:
        compute = partial(_turned, algorithm, padding)
    else:
        compute = partial(algorithm, mode=PADDINGS[padding])
    for _ in x.shape[:-3]:
        compute = jax.vmap(compute, (0, 0 if kernel.ndim > 4 else None))
    return compute(x, kernel)


def _turned(algorithm: Algorithm, padding: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    y = _TURNED[algorithm](x, kernel)
    return y if padding == "zero" else _add_ring(y, x, kernel, padding)


def _add_ring(y: jax.Array, x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    """Add to the transposed convolution what reached `x` through the ring around `y`.

    The ring repeats one line of `y` at each side, so only four lines change.
    """

    def repeated(side: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Say for each line whether the ring repeats it before a side, and whether after it."""
        before, after = (0, side - 1) if padding == "replicate" else (side - 1, 0)
        if padding == "reflect":
            before, after = min(1, side - 1), max(side - 2, 0)
        return np.arange(side) == before, np.arange(side) == after

    rows = _turned_lines((x[0], x[-1]), (kernel[0], kernel[-1]))
    columns = _turned_lines((x[:, 0], x[:, -1]), (kernel[:, 0], kernel[:, -1]))
    ends, rows, columns = (rows[:, :1], rows[:, -1:]), rows[:, 1:-1], columns[:, 1:-1]
    # Choices by constants become part of the next operation; updates of slices copy all of y.
    for end, here in zip(ends, repeated(y.shape[1]), strict=True):  # corners of the ring
        rows += jnp.where(here[:, None], end, 0)
    for row, here in zip(rows, repeated(len(y)), strict=True):
        y += jnp.where(here[:, None, None], row, 0)
    for column, here in zip(columns, repeated(y.shape[1]), strict=True):
        y += jnp.where(here[:, None], column[:, None], 0)
    return y


def _turned_lines(lines: Sequence[jax.Array], taps: Sequence[jax.Array]) -> jax.Array:
    """Compute the transposes of two convolutions of lines, (n, f) and (3, c, f) to (n + 2, c)."""
    parts = jnp.stack([jnp.einsum("nf,jcf->jnc", *pair) for pair in zip(lines, taps, strict=True)])
    _, _, n, channels = parts.shape
    # Move part j by j positions and add them up: in rows of n + 2, what has rows of n + 3 is skew.
    parts = jnp.pad(parts, ((0, 0), (0, 0), (0, 3), (0, 0))).reshape(2, -1, channels)
    return jnp.sum(parts[:, : 3 * (n + 2)].reshape(2, 3, n + 2, channels), axis=1)


def _by_x(cotangent: jax.Array, _: Any, kernel: jax.Array, *, padding: str, turned: bool) -> Any:
    return _conv3x3_p.bind(cotangent, kernel, padding=padding, turned=not turned)


def _by_kernel(
    cotangent: jax.Array, x: jax.Array, kernel: Any, *, padding: str, turned: bool
) -> Any:
    if turned:
        cotangent, x = x, cotangent
    convolve = partial(_compute, x, padding=padding, turned=False, cpu=False)
    return jax.linear_transpose(convolve, kernel.aval)(cotangent)[0]


def _batch(
    arguments: Sequence[jax.Array], axes: Sequence[int | None], **options: Any
) -> tuple[jax.Array, int]:
    (x, kernel), (x_axis, kernel_axis) = arguments, axes
    size = next(a.shape[i] for a, i in zip(arguments, axes, strict=True) if i is not None)

    def in_front(array: jax.Array, axis: int | None) -> jax.Array:
        if axis is None:
            return jnp.broadcast_to(array, (size, *array.shape))
        return jnp.moveaxis(array, axis, 0)

    x = in_front(x, x_axis)
    if kernel_axis is not None or kernel.ndim > 4:
        kernel = in_front(kernel, kernel_axis)
        kernel = jnp.expand_dims(kernel, tuple(range(1, x.ndim + 2 - kernel.ndim)))
        kernel = jnp.broadcast_to(kernel, x.shape[:-3] + kernel.shape[-4:])
    return _conv3x3_p.bind(x, kernel, **options), 0


def _abstract(x: Any, kernel: Any, **options: Any) -> Any:
    return jax.make_jaxpr(partial(_compute, cpu=False, **options))(x, kernel).out_avals[0]


def _evaluate(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    with jax.disable_jit(False):  # JAX's own primitives are compiled even then
        return _compiled(x, kernel, **options)


_compiled = jax.jit(_conv3x3_p.bind, static_argnames=("padding", "turned"))
_conv3x3_p.def_impl(_evaluate)
_conv3x3_p.def_abstract_eval(_abstract)
ad.defbilinear(_conv3x3_p, _by_x, _by_kernel)
batching.primitive_batchers[_conv3x3_p] = _batch


def _lower(context: Any, *arguments: Any, cpu: bool, **options: Any) -> Any:
    # Where the compiler spreads rows over devices, it splits its own convolution well, but gathers
    # all rows for Winograd's tiles unless the devices divide them evenly.
    spread = getattr(context.module_context.axis_context, "num_devices", 1) > 1
    compute = partial(_compute, cpu=cpu and not spread)
    return mlir.lower_fun(compute, multiple_results=False)(context, *arguments, **options)


for _platform in (None, "cpu"):
    _rule = partial(_lower, cpu=_platform == "cpu")
    mlir.register_lowering(_conv3x3_p, _rule, platform=_platform)


def direct_conv3x3(x: jax.Array, kernel: jax.Array, mode: str = "constant") -> jax.Array:
    """Compute `conv3x3` by XLA's own convolution; `mode` is that of `jnp.pad`."""
    padding = "SAME"
    if mode != "constant":
        x, padding = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode), "VALID"
    return jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


def _turned_direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return direct_conv3x3(x, kernel[::-1, ::-1].swapaxes(2, 3))


def patches_conv3x3(x: jax.Array, kernel: jax.Array, mode: str = "constant") -> jax.Array:
    """Compute `conv3x3` as a matrix product: all 3×3 patches times the kernel."""
    height, width, _ = x.shape
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode)
    patches = [padded[i : i + height, j : j + width] for i, j in _OFFSETS]
    return jnp.concatenate(patches, axis=2) @ kernel.reshape(-1, kernel.shape[3])


def _turned_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    patches = jnp.einsum("hwf,kf->hwk", x, kernel.reshape(-1, kernel.shape[3]))
    parts = zip(_OFFSETS, jnp.split(patches, 9, axis=2), strict=True)
    placed = [jnp.pad(part, ((i, 2 - i), (j, 2 - j), (0, 0))) for (i, j), part in parts]
    return reduce(jnp.add, reversed(placed))[1:-1, 1:-1]


_TURNED: dict[Algorithm, Algorithm] = {
    direct_conv3x3: _turned_direct,
    patches_conv3x3: _turned_patches,
    winograd_conv3x3: turned_winograd,
}
