"""Moments, correlations, spectra, quantiles and total variations against plain NumPy."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import double_precision
from naive_statistics import (
    ADDITIVE,
    KINDS,
    NAMES,
    PENALTIES,
    SHAPE,
    SHARE,
    SPECTRUM,
    WHERE,
    Kind,
    X,
    Y,
    close,
    draw,
    naive_gaussian,
    naive_moments,
    naive_nine_points,
    naive_spectrum_error,
    naive_wasserstein,
    number,
    root,
)

import jaxnst
from jaxnst import Content, LossWeights, Objective, Penalty, Picture, Style, compute_targets
from jaxnst.losses import is_additive


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_statistics_agree_with_loops_in_numpy(name, weighted):
    where = WHERE if weighted else np.ones(SHAPE[:2])
    found = KINDS[name].statistic(X, *([jnp.asarray(WHERE)] if weighted else []))
    expected = KINDS[name].naive(X.astype(np.float64), where)
    close(found, expected, 1e-5)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))


def test_distances_and_penalties_agree_with_numpy():
    x, y = X.astype(np.float64), Y.astype(np.float64)
    (mean, a), (other, b) = (naive_moments(z, np.ones(SHAPE[:2])) for z in (x, y))
    a, b = a - np.outer(mean, mean), b - np.outer(other, other)
    means = np.mean((mean - other) ** 2)
    deviations = np.sqrt(np.diag(a)) - np.sqrt(np.diag(b))
    squares = [np.mean(np.diff(x, axis=axis) ** 2) for axis in (0, 1)]
    for name, expected in (
        ("mean and deviation", means + np.mean(deviations**2)),
        ("mean and covariance", means + np.mean((a - b) ** 2)),
        ("wasserstein", naive_wasserstein(x, y)),
        (SPECTRUM, naive_spectrum_error(x, y)),
        ("squared variation", sum(squares)),
        ("nine points", naive_nine_points(x)),
    ):
        np.testing.assert_allclose(number(name, X), expected, rtol=1e-5, err_msg=name)


def test_the_gradient_only_variation_is_0_with_the_gradient_of_neighbours_in_loops():
    value, grad = jax.value_and_grad(jaxnst.gradient_only_variation)(jnp.asarray(X))
    expected = np.zeros(SHAPE)
    for i, j in np.ndindex(SHAPE[0] - 1, SHAPE[1] - 1):
        for k, l in ((i, j + 1), (i + 1, j)):  # noqa: E741
            difference = X[k, l].astype(np.float64) - X[i, j]
            expected[k, l] += difference
            expected[i, j] -= difference
    assert value == 0
    close(grad, expected, 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_the_same_jitted_vmapped_weighted_by_1_and_about_so_in_bfloat16(name):
    function = jax.jit(jax.value_and_grad(partial(number, name)))
    expected = function(X)
    assert np.abs(expected[1]).max() > 1e-4
    close(number(name, jnp.asarray(X)), expected[0], 1e-5)
    lanes = jax.jit(jax.vmap(function))(jnp.stack([X, Y]))
    close(jax.tree.map(lambda leaf: leaf[0], lanes), expected, 1e-4)
    if name not in ("gradient only", SPECTRUM):
        close(function(X, jnp.ones(SHAPE[:2])), expected, 1e-4)
    rough = jnp.asarray(X, jnp.bfloat16)
    found, grad = function(rough)
    assert (found.dtype, grad.dtype) == (jnp.float32, jnp.bfloat16)
    # The rounded features are the same in float32, so what remains of the value is rounding.
    close(found, function(np.asarray(rough, np.float32))[0], 1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gradient only"])
def test_derivatives_are_finite_differences_in_float64(name):
    with double_precision():
        x, change = jnp.asarray(X, jnp.float64), jnp.asarray(draw(*SHAPE, seed=4), jnp.float64)
        function, step = partial(number, name), 1e-6
        reverse = jax.jit(jax.value_and_grad(function))
        forward = jax.jit(lambda x: jax.jvp(function, (x,), (change,))[1])(x)
        grad = reverse(x)[1]
        ahead, behind = (reverse(x + sign * step * change)[0] for sign in (1, -1))
        numeric = (ahead - behind) / (2 * step)
        assert grad.dtype == jnp.float64
    np.testing.assert_allclose(forward, np.vdot(grad, change), rtol=1e-9)
    np.testing.assert_allclose(forward, numeric, rtol=1e-6)


def test_the_second_derivative_of_the_wasserstein_distance_is_a_finite_difference():
    with double_precision():
        x, change = jnp.asarray(X, jnp.float64), jnp.asarray(draw(*SHAPE, seed=4), jnp.float64)
        gradient = jax.jit(jax.grad(partial(number, "wasserstein")))
        found = jax.jvp(gradient, (x,), (change,))[1]
        numeric = (gradient(x + 1e-6 * change) - gradient(x - 1e-6 * change)) / 2e-6
    close(found, numeric, 1e-6)


def naive_wasserstein_gradient(x, y, share):
    """By x, through the mean and the product of its floored Gaussian."""
    (mean, a), (other, b) = (naive_gaussian(z, share) for z in (x, y))
    inverse = np.linalg.inv(root(root(b) @ a @ root(b)))
    by_covariance = (np.eye(len(mean)) - root(b) @ inverse @ root(b)) / len(mean)
    by_mean = 2 * (mean - other) / len(mean) - 2 * by_covariance @ mean
    by_product = by_covariance + share * np.trace(by_covariance) * np.eye(len(mean))
    return (by_mean + 2 * x @ by_product) / (x.shape[0] * x.shape[1])


TIES = np.round(X)
DEGENERATE = {
    "constant": np.full(SHAPE, 0.7, np.float32),
    "zero": np.zeros(SHAPE, np.float32),
    "the target": Y,
    "ties": TIES,
    "of rank one": X[:, :, :1] * np.arange(1, 6, dtype=np.float32),
    "bright": 100 * np.abs(X[:, :, :1]) + np.zeros(SHAPE, np.float32),
}


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_at_degenerate_points(name):
    function = jax.jit(jax.value_and_grad(partial(number, name)))
    for point, x in DEGENERATE.items():
        value, grad = function(jnp.asarray(x))
        assert np.isfinite(value) and np.isfinite(grad).all(), point
        if point in ("constant", "zero") and name in PENALTIES:
            np.testing.assert_array_equal(grad, 0)
        if point == "the target" and name not in PENALTIES:
            assert abs(value) < 1e-5 and np.abs(grad).max() < 1e-4
    if name not in ("gradient only", SPECTRUM):
        value, grad = function(jnp.asarray(X), jnp.zeros(SHAPE[:2]))
        assert np.isfinite(value) and not np.any(grad)


def test_the_wasserstein_distance_of_covariances_that_lack_rank_is_exact_in_float32():
    """As at relu5_1: fewer positions than channels, means and variances of thousands."""
    x, y = (300 * np.abs(draw(4, 5, 48, seed=s)) ** 2 for s in range(2))
    x, y = x.astype(np.float32), (x + 0.2 * y).astype(np.float32)

    def distance(x, y):
        return jaxnst.wasserstein_gaussian(*map(jaxnst.mean_and_covariance, (x, y)))

    both = jax.jit(jax.value_and_grad(distance))
    value, grad = both(x, y)
    exact = [z.astype(np.float64) for z in (x, y)]
    np.testing.assert_allclose(value, naive_wasserstein(*exact), rtol=1e-4)
    close(grad, naive_wasserstein_gradient(*exact, SHARE), 1e-3)
    assert abs(both(x, x)[0]) < 1e-5 * np.mean(x**2)
    with double_precision():
        value = distance(*map(jnp.asarray, exact))
    # Nearly the Gaussians with nothing but 1e-4 added.
    np.testing.assert_allclose(value, naive_wasserstein(*exact, 0), rtol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_terms_know_whether_their_statistic_adds_up(name):
    statistic = KINDS[name].statistic
    additive = name in ADDITIVE
    assert Style(statistic=statistic).additive == is_additive(statistic) == additive
    if additive:
        halves = jnp.asarray(np.arange(42).reshape(SHAPE[:2]) < 20, jnp.float32)
        one, other, both = (statistic(X, where) for where in (halves, 1 - halves, None))
        close(jax.tree.map(lambda a, b: (20 * a + 22 * b) / 42, one, other), both, 1e-5)


def test_a_distance_that_does_not_add_up_makes_a_content_that_does_not():
    assert Content().additive and not Content(distance=jaxnst.spectrum_error).additive


def test_quantiles_of_other_sizes_are_those_of_the_sorted_values():
    tiled = np.tile(X, (2, 3, 1))
    for name in ("quantiles", "sliced"):
        close(KINDS[name].statistic(tiled), KINDS[name].statistic(X), 1e-5)
    every = jaxnst.quantile_means(X, parts=42)
    close(every, np.sort(X.reshape(42, -1), axis=0), 1e-4)
    # Parts wider than the positions: a step function's own means.
    close(jaxnst.quantile_means(X[:1, :2], parts=4), np.repeat(np.sort(X[0, :2], 0), 2, 0), 1e-5)


def test_the_histogram_loss_moves_each_value_towards_its_match():
    """The gradient of Risser et al. 2017: 2 (F - match(F)) / size, with as many parts as values."""
    kind = Kind(partial(jaxnst.quantile_means, parts=42), None)
    grad = jax.grad(lambda x: kind.distance(kind.statistic(x), kind.statistic(Y)))(jnp.asarray(X))
    x, y = X.reshape(42, -1), np.sort(Y.reshape(42, -1), axis=0)
    match = np.take_along_axis(y, np.argsort(np.argsort(x, axis=0), axis=0), axis=0)
    close(grad.reshape(42, -1), 2 * (x - match) / X.size, 1e-3)


def test_special_options_are_the_gram_matrix():
    gram = jaxnst.gram_matrix(X)
    close(jaxnst.shifted_gram_matrix(X, shift=(0, 0)), gram, 1e-6)
    close(jaxnst.pooled_gram_matrix(X, stride=1), gram, 1e-6)
    close(jaxnst.autocorrelation(X, radius=0)[0, 0], np.diag(gram), 1e-5)
    for shift in ((6, 0), (0, -9)):
        assert not np.any(jaxnst.shifted_gram_matrix(X, shift=shift))
    assert not np.any(jaxnst.autocorrelation(X, radius=8)[6:])


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (partial(jaxnst.shifted_gram_matrix, shift=(1, 2, 3)), "shift must be two integers"),
        (partial(jaxnst.shifted_gram_matrix, shift=(0.5, 2)), "shift must be two integers"),
        (partial(jaxnst.pooled_gram_matrix, stride=0), "stride must be an integer from 1, not 0"),
        (partial(jaxnst.autocorrelation, radius=-1), "radius must be an integer from 0, not -1"),
        (partial(jaxnst.quantile_means, parts=0), "parts must be an integer from 1, not 0"),
        (partial(jaxnst.sliced_quantile_means, directions=0), "directions must be an integer"),
        (lambda x: jaxnst.spectrum_error(x, x, jnp.ones(SHAPE[:2])), "where must be None"),
        (lambda x: jaxnst.spectrum_error(x, x[1:]), "same shape"),
        (
            lambda x: jaxnst.wasserstein_gaussian(*[jaxnst.mean_and_deviation(x)] * 2),
            "needs the moments of mean_and_covariance, not mean, square",
        ),
        *((lambda x, f=f: f(x[0]), "vmap") for f in PENALTIES.values()),
        *((lambda x, k=k: k.statistic(x[0]), "vmap") for k in KINDS.values()),
    ],
)
def test_bad_input_is_refused_in_one_line(function, words):
    with pytest.raises(ValueError, match=words) as info:
        function(jnp.asarray(X))
    assert "\n" not in str(info.value)


@pytest.mark.slow
def test_all_work_in_one_objective_with_regions_and_blends(content, style, params):
    image, one, other = content[8:24, 8:28], style[8:24, 8:28], style[20:36, 10:30]
    layer = ("relu1_1",)
    terms = {
        name: Style(layer, statistic=kind.statistic, distance=kind.distance)
        for name, kind in KINDS.items()
    }
    terms |= {name: Penalty(function) for name, function in PENALTIES.items()}
    whole = Objective(terms | {SPECTRUM: Content(layer, jaxnst.spectrum_error, source="style")})
    blend = [Picture(one, share=1.0), Picture(other, share=3.0)]
    describe = jax.jit(partial(compute_targets, objective=whole))
    targets, first, second = (describe({"style": s}, params) for s in (blend, one, other))
    close(targets, jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, first, second), 1e-4)
    loss = jax.jit(partial(jaxnst.loss_and_grad, objective=whole))
    (_, scores), grad = loss(image, params, targets, LossWeights.ones(whole))
    assert np.isfinite(grad).all() and np.any(grad)
    assert all(score > 0 for name, score in scores.items() if name != "gradient only")

    regional = replace(whole, terms=terms)
    regions = jnp.ones((1, *image.shape[:2]))
    describe = jax.jit(partial(compute_targets, objective=regional))
    masked = describe({"style": Picture(one, regions)}, params)
    close(masked, {name: first[name] for name in terms}, 1e-4)
