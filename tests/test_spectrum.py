"""The metric of pictures: linear, symmetric, positive definite, and stronger for large shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from jaxnst import spectrum

# Operation by operation, it would take seconds to compile.
favour_large_shapes = jax.jit(spectrum.favour_large_shapes)

SHAPES = [(8, 8, 3), (7, 12, 3), (1, 5, 2), (1, 1, 1)]


def noise(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_is_what_scipy_makes(shape):
    x = np.asarray(noise(shape))
    height, width = shape[:2]
    gain = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            gain[i, j] = 1 / (np.hypot(i / (2 * height), j / (2 * width)) + 0.01)
    gain /= gain.mean()
    spectrum = scipy.fft.dctn(x, axes=(0, 1), norm="ortho") * gain[..., None]
    expected = scipy.fft.idctn(spectrum, axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(favour_large_shapes(x), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_is_symmetric_and_positive_definite(shape):
    size = int(np.prod(shape))
    unit = jnp.eye(size).reshape(size, *shape)
    matrix = np.asarray(jax.jit(jax.vmap(favour_large_shapes))(unit)).reshape(size, size)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > 0.1
    np.testing.assert_allclose(eigenvalues.mean(), 1, rtol=1e-4)


def test_large_shapes_come_out_larger():
    y, x = np.mgrid[:32, :32] + 0.5
    waves = [np.cos(np.pi * k * x / 32)[..., None] for k in (1, 4, 31)]
    norms = [float(jnp.linalg.norm(favour_large_shapes(jnp.asarray(w)))) for w in waves]
    assert norms[0] > 2 * norms[1] > 8 * norms[2]


def test_channels_do_not_mix_and_edges_are_not_tied():
    dot = np.zeros((32, 32, 3), np.float32)
    dot[0, 16, 1] = 1
    out = np.asarray(favour_large_shapes(jnp.asarray(dot)))
    assert np.abs(out[..., [0, 2]]).max() == 0
    assert abs(out[-1, 16, 1]) < 0.02 * out[0, 16, 1]


def test_is_its_own_derivative():
    x, v = noise((6, 9, 3)), noise((6, 9, 3), 1)
    _, tangent = jax.jvp(favour_large_shapes, (x,), (v,))
    np.testing.assert_allclose(tangent, favour_large_shapes(v), atol=1e-4)
    with jax.enable_x64(True):
        assert favour_large_shapes(jnp.ones((4, 4, 3), jnp.float64)).dtype == jnp.float64
