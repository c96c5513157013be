"""The losses against loops in NumPy and Python."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnst.losses import (
    gram_matrix,
    half_squared_error,
    mean_squared_error,
    raw_gram_matrix,
    total_variation,
)
from jaxnst.vgg import extract_features

ERRORS = [mean_squared_error, half_squared_error]
GRAMS = [raw_gram_matrix, gram_matrix]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def naive_raw_gram(features):
    h, w, c = features.shape
    gram = np.zeros((c, c))
    for y in range(h):
        for x in range(w):
            for i in range(c):
                for j in range(c):
                    gram[i, j] += float(features[y, x, i]) * float(features[y, x, j])
    return gram


def naive_total_variation(image):
    h, w, c = image.shape
    across, down = [], []
    for y in range(h):
        for x in range(w):
            for k in range(c):
                if x + 1 < w:
                    across.append(abs(float(image[y, x + 1, k]) - float(image[y, x, k])))
                if y + 1 < h:
                    down.append(abs(float(image[y + 1, x, k]) - float(image[y, x, k])))
    return sum(sum(part) / len(part) for part in (across, down) if part)


@pytest.mark.parametrize("shape", [(4, 6, 5), (1, 7, 3), (7, 1, 3), (1, 1, 4), (3, 2, 1)])
def test_grams_agree_with_loops(shape):
    features = draw(*shape)
    expected = naive_raw_gram(features)
    raw, mean = raw_gram_matrix(jnp.asarray(features)), gram_matrix(jnp.asarray(features))
    np.testing.assert_allclose(raw, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean, expected / (shape[0] * shape[1]), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(raw, raw.T)


def test_grams_of_real_features(content, params):
    features = extract_features(content, params, layers=("relu2_1",))["relu2_1"]
    flat = np.asarray(features, np.float64).reshape(-1, features.shape[-1])
    expected = flat.T @ flat
    scale = expected.max()
    np.testing.assert_allclose(raw_gram_matrix(features) / scale, expected / scale, atol=1e-6)
    np.testing.assert_allclose(gram_matrix(features), expected / len(flat), rtol=1e-4, atol=1e-2)


def test_gram_does_not_depend_on_size_and_raw_gram_does():
    features = jnp.asarray(draw(4, 6, 3))
    tiled = jnp.tile(features, (2, 3, 1))
    np.testing.assert_allclose(gram_matrix(tiled), gram_matrix(features), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        raw_gram_matrix(tiled), 6 * raw_gram_matrix(features), rtol=1e-5, atol=1e-5
    )


def test_derivatives_of_gram_are_those_of_the_einsum():
    features, change, other = (jnp.asarray(draw(5, 4, 3, seed=seed)) for seed in range(3))
    weights = jnp.asarray(draw(3, 3, seed=4))  # not symmetric

    def einsum(features):
        return jnp.einsum("hwi,hwj->ij", features, features)

    def gradient(gram, features):
        return jax.grad(lambda x: jnp.sum(weights * gram(x) ** 2))(features)

    def derivatives(gram):
        yield jax.jvp(gram, (features,), (change,))[1]
        yield gradient(gram, features)
        yield jax.jvp(partial(gradient, gram), (features,), (change,))[1]
        yield jax.grad(lambda x: jnp.vdot(gradient(gram, x), other))(features)

    for found, expected in zip(derivatives(raw_gram_matrix), derivatives(einsum), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("gram", GRAMS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gram_of_half_precision_is_summed_in_float32(gram, dtype):
    features = jnp.asarray(1e3 * draw(20, 30, 4)).astype(dtype)
    result = gram(features)
    assert result.dtype == jnp.float32
    assert np.isfinite(result).all()
    # What remains against float64 is float32 rounding, as the rounded features are the same.
    exact = np.asarray(features.astype(jnp.float32), np.float64).reshape(-1, 4)
    expected = exact.T @ exact / (600 if gram is gram_matrix else 1)
    assert expected.max() > np.finfo(np.float16).max
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 * expected.max())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("error", ERRORS)
def test_errors_of_half_precision_are_summed_in_float32(error, dtype):
    x = jnp.asarray(1e3 * draw(20, 30, 4)).astype(dtype)
    y = jnp.zeros_like(x)
    result = error(x, y)
    squares = np.asarray(x.astype(jnp.float32), np.float64) ** 2
    expected = squares.mean() if error is mean_squared_error else squares.sum() / 2
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_total_variation_of_half_precision_is_summed_in_float32():
    image = jnp.asarray(1e3 * draw(20, 30, 3)).astype(jnp.float16)
    result = total_variation(image)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, naive_total_variation(np.asarray(image)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 7, 3), (7, 1, 3), (1, 1, 3), (2, 2, 1)])
def test_total_variation_agrees_with_loops(shape):
    image = draw(*shape)
    expected = naive_total_variation(image)
    np.testing.assert_allclose(total_variation(jnp.asarray(image)), expected, rtol=1e-5)
    assert (expected == 0) == (shape == (1, 1, 3))


def test_total_variation_of_a_real_picture(content):
    expected = naive_total_variation(np.asarray(content))
    assert expected > 0.01
    np.testing.assert_allclose(total_variation(content), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 7, 3), (7, 1, 3), (1, 1, 3)])
def test_total_variation_has_a_gradient_at_a_constant_image(shape):
    value, grad = jax.value_and_grad(total_variation)(jnp.full(shape, 0.5))
    assert value == 0
    np.testing.assert_array_equal(grad, 0)  # jnp.abs would push the border


@pytest.mark.parametrize("shape", [(4, 5, 3), (1, 1, 2), (6,), ()])
def test_squared_errors_agree_with_loops(shape):
    x, y = np.asarray(draw(*shape)), np.asarray(draw(*shape, seed=1))
    squares = [(float(a) - float(b)) ** 2 for a, b in zip(x.flat, y.flat, strict=True)]
    x, y = jnp.asarray(x), jnp.asarray(y)
    np.testing.assert_allclose(mean_squared_error(x, y), sum(squares) / len(squares), rtol=1e-5)
    np.testing.assert_allclose(half_squared_error(x, y), sum(squares) / 2, rtol=1e-5)
    assert mean_squared_error(x, x) == half_squared_error(x, x) == 0


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("shapes", [((4, 5, 3), (5, 4, 3)), ((4, 5, 3), (1, 1, 3)), ((3,), ())])
def test_shapes_that_differ_are_refused(error, shapes):
    x, y = (jnp.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="same shape") as info:
        error(x, y)
    assert all(str(shape) in str(info.value) for shape in shapes)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("function", [*GRAMS, total_variation])
@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5, 3)])
def test_batches_are_refused(function, shape):
    with pytest.raises(ValueError, match="vmap") as info:
        function(jnp.zeros(shape))
    assert str(shape) in str(info.value)
    assert "\n" not in str(info.value)


TARGET = jnp.asarray(draw(4, 5, 3, seed=9))
FUNCTIONS = {
    "raw_gram": raw_gram_matrix,
    "gram": gram_matrix,
    "tv": total_variation,
    "mean": partial(mean_squared_error, y=TARGET),
    "half": partial(half_squared_error, y=TARGET),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jit_and_vmap_change_nothing(name):
    function = FUNCTIONS[name]
    batch = jnp.asarray(draw(3, 4, 5, 3))
    looped = np.stack([function(x) for x in batch])
    np.testing.assert_allclose(jax.jit(function)(batch[0]), looped[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(function)(batch), looped, rtol=1e-5, atol=1e-5)


# Of x, by hand: sums over a fixed matrix of weights make numbers of the Gram matrices.
SLOPE = draw(3, 3, seed=7)


def gradient_by_hand(name, x):
    difference = x - np.asarray(TARGET, np.float64)
    if name == "mean":
        return 2 * difference / x.size
    if name == "half":
        return difference
    if name == "tv":
        grad = np.zeros_like(x)
        across, down = np.sign(np.diff(x, axis=1)), np.sign(np.diff(x, axis=0))
        grad[:, 1:] += across / across.size
        grad[:, :-1] -= across / across.size
        grad[1:] += down / down.size
        grad[:-1] -= down / down.size
        return grad
    grad = x @ (SLOPE + SLOPE.T)
    return grad / (x.shape[0] * x.shape[1]) if name == "gram" else grad


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_agree_with_those_by_hand(name):
    x = draw(4, 5, 3)

    def scalar(x):
        value = FUNCTIONS[name](x)
        return value if value.ndim == 0 else jnp.sum(value * SLOPE)

    expected = gradient_by_hand(name, x.astype(np.float64))
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(jax.grad(scalar)(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
