"""The statistics and penalties, each with its oracle in plain NumPy."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnst

SHAPE = (6, 7, 5)
RADIUS, PARTS = 2, 4


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


X, Y = draw(*SHAPE), draw(*SHAPE, seed=1) + 0.5
# Small integers, so that an oracle may repeat positions instead of weighting them.
WHERE = np.random.default_rng(2).integers(0, 4, SHAPE[:2]).astype(np.float32)


def naive_pairs(x, where, dy, dx):
    """The mean of x(p) x(p + shift)ᵀ, pair by pair."""
    total, area = np.zeros((x.shape[2],) * 2), 0.0
    for i, j in np.ndindex(x.shape[:2]):
        k, l = i + dy, j + dx  # noqa: E741
        if 0 <= k < x.shape[0] and 0 <= l < x.shape[1]:
            weight = where[i, j] * where[k, l]
            total, area = total + weight * np.outer(x[i, j], x[k, l]), area + weight
    return total / (area or 1)


def naive_pooled(x, where, stride=2):
    total = np.zeros((x.shape[2],) * 2)
    for i in range(0, x.shape[0], stride):
        for j in range(0, x.shape[1], stride):
            block, weights = (
                x[i : i + stride, j : j + stride],
                where[i : i + stride, j : j + stride],
            )
            if weights.sum():
                mean = np.einsum("hw,hwc->c", weights, block) / weights.sum()
                total += weights.sum() * np.outer(mean, mean)
    return total / where.sum()


def naive_autocorrelation(x, where):
    shifts = [(dy, dx) for dy in range(RADIUS + 1) for dx in range(-RADIUS, RADIUS + 1)]
    found = [np.diag(naive_pairs(x, where, *shift)) for shift in shifts]
    return np.reshape(found, (RADIUS + 1, 2 * RADIUS + 1, x.shape[2]))


def naive_quantiles(x, where):
    values = x.reshape(-1, x.shape[2])
    values = np.repeat(values, PARTS * where.astype(int).ravel(), axis=0)
    return np.mean(np.array_split(np.sort(values, axis=0), PARTS), axis=1)


def naive_sliced(x, where):
    axes = np.asarray(jax.random.normal(jax.random.key(3), (x.shape[2], 6)), np.float64)
    return naive_quantiles(x @ (axes / np.sqrt((axes**2).sum(0))), where)


def naive_moments(x, where):
    mean = np.einsum("hw,hwc->c", where, x) / where.sum()
    return mean, np.einsum("hw,hwi,hwj->ij", where, x, x) / where.sum()


def root(a):
    values, vectors = np.linalg.eigh(a)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


#: What float32 needs added to covariances, as a share of the second moments.
SHARE = 100 * float(np.finfo(np.float32).eps)


def naive_gaussian(x, share):
    mean, product = naive_moments(x, np.ones(x.shape[:2]))
    floor = 1e-4 + share * np.trace(product)
    return mean, product - np.outer(mean, mean) + floor * np.eye(len(mean))


def naive_wasserstein(x, y, share=SHARE):
    (mean, a), (other, b) = (naive_gaussian(z, share) for z in (x, y))
    covariances = np.trace(a + b - 2 * root(root(a) @ b @ root(a)))
    return (np.sum((mean - other) ** 2) + covariances) / len(mean)


def naive_spectrum_error(x, y):
    a, b = (np.fft.fft2(z, axes=(0, 1)) for z in (x, y))
    common = np.sum(a * b.conj(), axis=2, keepdims=True)
    nearest = np.fft.ifft2(b * common / np.abs(common), axes=(0, 1))
    np.testing.assert_allclose(nearest.imag, 0, atol=1e-12)
    return np.mean((x - nearest.real) ** 2)


def naive_nine_points(x):
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    straight = [np.diff(x, axis=a) for a in (0, 1)]
    straight = np.mean(straight[0][1:, 1:-1] ** 2) + np.mean(straight[1][1:-1, 1:] ** 2)
    diagonal = [x[1:, 1:] - x[:-1, :-1], x[1:, :-1] - x[:-1, 1:]]
    return 2 * straight / 3 + sum(np.mean(d**2) for d in diagonal) / 6


class Kind(NamedTuple):
    """A statistic, its distance, and its oracle."""

    statistic: object
    naive: object
    distance: object = jaxnst.mean_squared_error


KINDS = {
    "mean and deviation": Kind(
        jaxnst.mean_and_deviation,
        lambda x, where: (naive_moments(x, where)[0], np.diag(naive_moments(x, where)[1])),
        jaxnst.moments_error,
    ),
    "mean and covariance": Kind(jaxnst.mean_and_covariance, naive_moments, jaxnst.moments_error),
    "wasserstein": Kind(jaxnst.mean_and_covariance, naive_moments, jaxnst.wasserstein_gaussian),
    "pooled": Kind(jaxnst.pooled_gram_matrix, naive_pooled),
    "shifted": Kind(
        partial(jaxnst.shifted_gram_matrix, shift=(2, -1)), partial(naive_pairs, dy=2, dx=-1)
    ),
    "autocorrelation": Kind(partial(jaxnst.autocorrelation, radius=RADIUS), naive_autocorrelation),
    "quantiles": Kind(partial(jaxnst.quantile_means, parts=PARTS), naive_quantiles),
    "sliced": Kind(
        partial(jaxnst.sliced_quantile_means, parts=PARTS, directions=6, seed=3), naive_sliced
    ),
}
PENALTIES = {
    "total variation": jaxnst.total_variation,
    "squared variation": jaxnst.squared_total_variation,
    "nine points": jaxnst.nine_point_variation,
    "gradient only": jaxnst.gradient_only_variation,
}
SPECTRUM = "spectrum"
NAMES = [*KINDS, *PENALTIES, SPECTRUM]
ADDITIVE = {"mean and deviation", "mean and covariance", "wasserstein"}


def number(name, x, where=None):
    """A statistic's distance to that of Y, or a penalty."""
    weights = () if where is None else (where,)
    if name in PENALTIES:
        return PENALTIES[name](x, *weights)
    y = jnp.asarray(Y, jnp.promote_types(x.dtype, jnp.float32))
    if name == SPECTRUM:
        return jaxnst.spectrum_error(x, y, *weights)
    kind = KINDS[name]
    return kind.distance(kind.statistic(x, *weights), kind.statistic(y))


def close(found, expected, tolerance):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())
