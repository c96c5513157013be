"""All algorithms against a plain loop in float64, and which of them is used where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnst import convolution

conv3x3, direct_conv3x3, winograd_conv3x3, patches_conv3x3 = map(
    jax.jit,
    (
        convolution.conv3x3,
        convolution.direct_conv3x3,
        convolution.winograd_conv3x3,
        convolution.patches_conv3x3,
    ),
)

LARGE, SMALL = (41, 40, 256), (31, 33, 256)  # by Winograd's filtering and by patches, on a CPU


def naive(x, kernel):
    height, width, _ = x.shape
    padded = np.pad(np.asarray(x, np.float64), ((1, 1), (1, 1), (0, 0)))
    return sum(
        padded[i : i + height, j : j + width] @ np.asarray(kernel[i, j], np.float64)
        for i in range(3)
        for j in range(3)
    )


@pytest.fixture
def kernel(params):
    return params["conv3_2"]["kernel"]


def features(shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(3), shape, dtype)


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (4, 4), (5, 8), (12, 3), (33, 35)])
def test_all_algorithms_agree_with_a_plain_loop_at_any_shape(kernel, shape):
    x = features((*shape, 256))
    expected = naive(x, kernel)
    for algorithm in (direct_conv3x3, winograd_conv3x3, patches_conv3x3, conv3x3):
        assert error(algorithm(x, kernel), expected) < 2e-5


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_the_gradient_is_that_of_the_direct_convolution(kernel, shape):
    x, cotangent = features(shape), features(shape)[::-1]
    found = jax.vjp(conv3x3, x, kernel)[1](cotangent)
    expected = jax.vjp(direct_conv3x3, x, kernel)[1](cotangent)
    for one, other in zip(found, expected, strict=True):
        assert error(one, other) < 2e-5


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_a_gradient_can_be_differentiated_in_either_mode(kernel, shape):
    def loss(convolve, x):
        return jnp.sum(convolve(x, kernel) ** 4)

    x, direction = features(shape), features(shape)[::-1]

    def along(convolve, x):
        return jnp.vdot(jax.grad(lambda x: loss(convolve, x))(x), direction)

    expected = jax.grad(lambda x: along(direct_conv3x3, x))(x)
    assert error(jax.grad(lambda x: along(conv3x3, x))(x), expected) < 1e-4
    forward = jax.jvp(jax.grad(lambda x: loss(conv3x3, x)), (x,), (direction,))[1]
    assert error(forward, expected) < 1e-4


def test_lanes_give_what_single_runs_give(kernel):
    lanes = features((2, *LARGE))
    together = jax.jit(jax.vmap(conv3x3, (0, None)))(lanes, kernel)
    for one, x in zip(together, lanes, strict=True):
        assert error(one, conv3x3(x, kernel)) < 2e-5


@pytest.mark.parametrize(
    ("platform", "shape", "dtype", "direct"),
    [
        ("cpu", LARGE, jnp.float32, False),
        ("cpu", SMALL, jnp.float32, False),
        ("cpu", LARGE, jnp.bfloat16, True),
        ("cpu", SMALL, jnp.bfloat16, True),
        ("cuda", LARGE, jnp.float32, True),
        ("cuda", SMALL, jnp.float32, True),
        ("tpu", LARGE, jnp.float32, True),
    ],
)
def test_the_platform_of_the_program_chooses(kernel, platform, shape, dtype, direct):
    arguments = features(shape, dtype), kernel.astype(dtype)

    def gradient(x, kernel):
        return jax.grad(lambda x: conv3x3(x, kernel).sum())(x)

    for function in (conv3x3, gradient):
        traced = jax.jit(function).trace(*arguments)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.convolution" in text) == direct
