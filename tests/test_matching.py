"""Distances between sets of vectors, against plain NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import double_precision
from naive_statistics import draw

import jaxnst

X, Y = draw(9, 3), draw(7, 3, seed=1) + 0.3
# Small integers, so that an oracle may repeat vectors instead of weighting them.
X_WEIGHTS = np.array([1, 0, 2, 3, 1, 1, 0, 2, 1], np.float32)
Y_WEIGHTS = np.array([2, 1, 0, 1, 3, 0, 1], np.float32)


def naive_cosine(a, b):
    return 1 - np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b))


def naive_color(a, b):
    basis = np.array(
        [[0.57735, 0.57735, 0.57735], [-0.57735, 0.788675, -0.211325]]
        + [[-0.57735, -0.211325, 0.788675]]
    )
    a, b = basis @ a, basis @ b
    return naive_cosine(a, b) + np.sqrt(np.clip(np.vdot(a - b, a - b), 1e-5, 1e5) / 3)


def naive_remd(x, y, cost=naive_cosine):
    costs = np.array([[cost(a, b) for b in y] for a in x])
    return max(costs.min(1).mean(), costs.min(0).mean())


def naive_nearest(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.mean([min(naive_cosine(a, b) for b in y) for a in x])


def naive_moments(x, y):
    covariances = [np.cov(z.T, bias=True) for z in (x, y)]
    return np.abs(x.mean(0) - y.mean(0)).mean() + np.abs(np.subtract(*covariances)).mean()


DISTANCES = {
    jaxnst.relaxed_earth_movers: naive_remd,
    jaxnst.palette_distance: partial(naive_remd, cost=naive_color),
    jaxnst.nearest_neighbors: naive_nearest,
    jaxnst.moment_differences: naive_moments,
}
each_distance = pytest.mark.parametrize("distance", DISTANCES, ids=lambda f: f.__name__)


@each_distance
def test_a_distance_agrees_with_numpy_and_counts_weights_as_repeats(distance):
    assert not distance.additive
    expected = DISTANCES[distance](X.astype(float), Y.astype(float))
    np.testing.assert_allclose(distance(X, Y), expected, rtol=1e-4)
    ones = {"x_weights": jnp.ones(len(X)), "y_weights": jnp.ones(len(Y))}
    np.testing.assert_allclose(distance(X, Y, **ones), expected, rtol=1e-4)
    repeated = (
        np.repeat(z, w.astype(int), axis=0).astype(float)
        for z, w in ((X, X_WEIGHTS), (Y, Y_WEIGHTS))
    )
    found = jax.jit(distance)(X, Y, x_weights=X_WEIGHTS, y_weights=Y_WEIGHTS)
    np.testing.assert_allclose(found, DISTANCES[distance](*repeated), rtol=1e-4)


@each_distance
def test_a_gradient_is_a_finite_difference_and_vmaps(distance):
    with double_precision():
        x, y, change = (jnp.asarray(z, jnp.float64) for z in (X, Y, draw(9, 3, seed=2)))
        value = partial(distance, y=y, x_weights=jnp.asarray(X_WEIGHTS, jnp.float64))
        grad = jax.vmap(jax.grad(value))(x[None])[0]
        assert grad.dtype == jnp.float64
        numeric = (value(x + 1e-6 * change) - value(x - 1e-6 * change)) / 2e-6
    np.testing.assert_allclose(np.vdot(grad, change), numeric, rtol=1e-5)


@each_distance
def test_zero_vectors_and_empty_sets_have_finite_gradients(distance):
    x = jnp.asarray(X).at[2].set(0).at[3].set(X[4])
    for y, weights in [(jnp.zeros((2, 3)), None), (x, None), (x, jnp.zeros(9))]:
        value, grad = jax.value_and_grad(distance)(x, y, x_weights=weights, y_weights=weights)
        assert np.isfinite(value) and np.all(np.isfinite(grad)) and value < 1e3
    found = distance(x.astype(jnp.bfloat16), jnp.asarray(Y, jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, distance(x, Y), rtol=0.05)


def test_self_similarity_agrees_with_numpy():
    expected = np.array([[naive_cosine(a, b) for b in X] for a in X])
    np.testing.assert_allclose(jaxnst.self_similarity(X), expected / expected.sum(0), atol=1e-6)
    assert np.all(np.isfinite(jax.jacobian(jaxnst.self_similarity)(jnp.zeros((3, 2)))))


def test_vectors_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="vectors of one length"):
        jaxnst.cosine_distances(X, Y[:, :2])
