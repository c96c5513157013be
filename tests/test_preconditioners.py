"""The preconditioners of L-BFGS against the transforms of scipy and NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from helpers import double_precision, normal

import jaxnst

# Operation by operation, it would take seconds to compile.
precondition = jax.jit(jaxnst.spectral_preconditioner)

SHAPES = [(8, 8, 3), (7, 12, 3), (1, 5, 2), (1, 1, 1)]


def noise(shape, seed=0):
    return normal(*shape, seed=seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_spectral_preconditioner_is_what_scipy_makes(shape):
    x, (height, width) = np.asarray(noise(shape)), shape[:2]
    gain = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            gain[i, j] = 1 / (np.hypot(i / (2 * height), j / (2 * width)) + 0.01)
    spectrum = scipy.fft.dctn(x, axes=(0, 1), norm="ortho") * (gain / gain.mean())[..., None]
    expected = scipy.fft.idctn(spectrum, axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(precondition(x), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_the_spectral_preconditioner_is_symmetric_and_positive_definite(shape):
    size = int(np.prod(shape))
    unit = jnp.eye(size).reshape(size, *shape)
    matrix = np.asarray(jax.jit(jax.vmap(precondition))(unit)).reshape(size, size)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > 0.1
    np.testing.assert_allclose(eigenvalues.mean(), 1, rtol=1e-4)


def test_the_spectral_preconditioner_enlarges_large_shapes():
    _, x = np.mgrid[:32, :32] + 0.5
    waves = [np.cos(np.pi * k * x / 32)[..., None] for k in (1, 4, 31)]
    norms = [float(jnp.linalg.norm(precondition(jnp.asarray(w)))) for w in waves]
    assert norms[0] > 2 * norms[1] > 8 * norms[2]


def test_the_spectral_preconditioner_ties_no_channels_and_no_edges():
    dot = np.zeros((32, 32, 3), np.float32)
    dot[0, 16, 1] = 1
    out = np.asarray(precondition(jnp.asarray(dot)))
    assert np.abs(out[..., [0, 2]]).max() == 0
    assert abs(out[-1, 16, 1]) < 0.02 * out[0, 16, 1]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_circular_preconditioner_is_what_numpy_makes(shape):
    x = np.asarray(noise(shape))
    f = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    gain = 1 / (f + 0.01)
    spectrum = np.fft.fft2(x, axes=(0, 1)) * (gain / gain.mean())[..., None]
    expected = np.fft.ifft2(spectrum, axes=(0, 1)).real
    circular = jax.jit(jaxnst.circular_preconditioner)
    np.testing.assert_allclose(circular(x), expected, atol=1e-5)
    shifted = circular(jnp.roll(x, (3, 2), (0, 1)))
    np.testing.assert_allclose(shifted, np.roll(expected, (3, 2), (0, 1)), atol=1e-5)


def test_a_config_preconditions_as_its_image_tiles():
    objective = jaxnst.Objective({"tv": jaxnst.Penalty()}, padding="circular")
    config = jaxnst.TransferConfig(objective)
    assert config.optimizer == jaxnst.Lbfgs(wrap=True)
    plain = dataclasses.replace(config, objective=dataclasses.replace(objective, padding="zero"))
    assert plain.optimizer == jaxnst.Lbfgs()


def test_the_spectral_preconditioner_is_its_own_derivative():
    x, v = noise((6, 9, 3)), noise((6, 9, 3), 1)
    _, tangent = jax.jvp(precondition, (x,), (v,))
    np.testing.assert_allclose(tangent, precondition(v), atol=1e-4)
    with double_precision():
        assert precondition(jnp.ones((4, 4, 3), jnp.float64)).dtype == jnp.float64


@pytest.mark.parametrize("name", ["spectral_preconditioner", "circular_preconditioner"])
@pytest.mark.parametrize("shape", [(6,), (4, 5), (2, 4, 5, 3)])
def test_only_pictures_are_preconditioned(name, shape):
    with pytest.raises(ValueError, match=r"must have the shape \(height, width, channels\)"):
        getattr(jaxnst, name)(jnp.ones(shape))
