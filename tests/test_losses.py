"""The losses against loops in NumPy and Python."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import compiled_text

from jaxnst.losses import (
    gram_matrix,
    half_squared_error,
    mean_squared_error,
    raw_gram_matrix,
    relative_squared_error,
)
from jaxnst.penalties import out_of_range, total_variation
from jaxnst.vgg import extract_features

ERRORS = [mean_squared_error, half_squared_error]
GRAMS = [raw_gram_matrix, gram_matrix]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def draw_where(*shape):
    return np.random.default_rng(5).uniform(size=shape).astype(np.float32)


def naive_raw_gram(features, where):
    gram = np.zeros((features.shape[2],) * 2)
    for y, x, i in np.ndindex(features.shape):
        for j in range(features.shape[2]):
            gram[i, j] += where[y, x] * float(features[y, x, i]) * float(features[y, x, j])
    return gram


def naive_total_variation(image, where):
    total = 0.0
    for down, across in ((0, 1), (1, 0)):
        sums, area = 0.0, 0.0
        for y, x, k in np.ndindex(image.shape):
            if y + down < image.shape[0] and x + across < image.shape[1]:
                weight = float(where[y, x]) * float(where[y + down, x + across])
                sums += weight * abs(float(image[y + down, x + across, k]) - float(image[y, x, k]))
                area += weight
        total += sums / (area or 1)
    return total


SHAPES = [(4, 6, 5), (1, 7, 3), (7, 1, 3), (1, 1, 4), (3, 2, 1)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_losses_agree_with_loops(shape, weighted):
    x, y = draw(*shape), draw(*shape, seed=1)
    given = draw_where(*shape[:2]) if weighted else None
    where = given if weighted else np.ones(shape[:2])
    gram, squares = naive_raw_gram(x, where), where[..., None] * (x.astype(float) - y) ** 2
    for found, expected in (
        (raw_gram_matrix(x, given), gram),
        (gram_matrix(x, given), gram / where.sum()),
        (total_variation(x, given), naive_total_variation(x, where)),
        (mean_squared_error(x, y, given), squares.sum() / where.sum() / shape[2]),
        (half_squared_error(x, y, given), squares.sum() / 2),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert (total_variation(x) == 0) == (shape == (1, 1, 4))
    np.testing.assert_array_equal(raw_gram_matrix(x), raw_gram_matrix(x).T)


def test_losses_of_real_features_and_a_real_picture(content, params):
    features = extract_features(content, params, layers=("relu2_1",))["relu2_1"]
    flat = np.asarray(features, np.float64).reshape(-1, features.shape[-1])
    expected = flat.T @ flat
    np.testing.assert_allclose(raw_gram_matrix(features), expected, atol=1e-6 * expected.max())
    np.testing.assert_allclose(gram_matrix(features), expected / len(flat), rtol=1e-4, atol=1e-2)
    picture = np.asarray(content, np.float64)
    expected = sum(np.abs(np.diff(picture, axis=axis)).mean() for axis in (0, 1))
    np.testing.assert_allclose(total_variation(content), expected, rtol=2e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_gram_and_its_gradient_do_not_transpose_the_features(weighted):
    features = jnp.asarray(draw(64, 32, 16))
    where = jnp.asarray(draw_where(64, 32)) if weighted else None
    loss = partial(lambda x, where: jnp.sum(gram_matrix(jax.nn.relu(x), where) ** 2), where=where)
    assert "f32[16,2048]" not in compiled_text(jax.grad(loss), features)


def test_gram_does_not_depend_on_size_and_raw_gram_does():
    features = jnp.asarray(draw(4, 6, 3))
    tiled = jnp.tile(features, (2, 3, 1))
    np.testing.assert_allclose(gram_matrix(tiled), gram_matrix(features), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        raw_gram_matrix(tiled), 6 * raw_gram_matrix(features), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_derivatives_of_gram_are_those_of_the_einsum(weighted):
    """By the features, and where positions have weights, 0 too, by these as well."""
    features, change, other = (jnp.asarray(draw(5, 4, 3, seed=seed)) for seed in range(3))
    weights = jnp.asarray(draw(3, 3, seed=4))  # not symmetric
    where = [jnp.abs(jnp.asarray(draw(5, 4, seed=seed))).at[0].set(0) for seed in range(5, 8)]
    point, change, other = zip((features, change, other), where, strict=True)
    if not weighted:
        point, change, other = point[:1], change[:1], other[:1]

    everywhere = jnp.ones((5, 4))

    def einsum(features, where=everywhere):
        return jnp.einsum("hwi,hwj,hw->ij", features, features, where)

    def gradient(gram, point):
        return jax.grad(lambda point: jnp.sum(weights * gram(*point) ** 2))(point)

    def derivatives(gram):
        yield jax.jvp(gram, point, change)[1]
        yield gradient(gram, point)
        yield jax.jvp(partial(gradient, gram), (point,), (change,))[1]
        yield jax.grad(lambda point: optax.tree.vdot(gradient(gram, point), other))(point)

    for found, expected in zip(derivatives(raw_gram_matrix), derivatives(einsum), strict=True):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-2), found, expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_float32(dtype, weighted):
    x = jnp.asarray(1e3 * draw(20, 30, 4)).astype(dtype)
    y, where = jnp.zeros_like(x), jnp.ones((20, 30), dtype) if weighted else None
    # The rounded features are the same in float64, so what remains is float32 rounding.
    exact = np.asarray(x.astype(jnp.float32), np.float64)
    gram = np.einsum("hwi,hwj->ij", exact, exact)
    assert gram.min() < gram.max() and gram.max() / 600 > np.finfo(np.float16).max
    for found, expected in (
        (raw_gram_matrix(x, where), gram),
        (gram_matrix(x, where), gram / 600),
        (mean_squared_error(x, y, where), (exact**2).mean()),
        (half_squared_error(x, y, where), (exact**2).sum() / 2),
        (total_variation(x, where), sum(np.abs(np.diff(exact, axis=a)).mean() for a in (0, 1))),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.max())


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 7, 3), (7, 1, 3), (1, 1, 3)])
def test_total_variation_has_a_gradient_at_a_constant_image(shape):
    value, grad = jax.value_and_grad(total_variation)(jnp.full(shape, 0.5))
    assert value == 0
    np.testing.assert_array_equal(grad, 0)  # jnp.abs would push the border


@pytest.mark.parametrize("error", ERRORS)
def test_squared_errors_add_up_over_pytrees_of_any_shapes(error):
    x, y = ({"a": draw(4, 5, seed=s), "b": (draw(seed=s + 2),)} for s in range(2))
    expected = error(x["a"], y["a"]) + error(x["b"][0], y["b"][0])
    np.testing.assert_allclose(error(x, y), expected, rtol=1e-6)
    assert error(x, x) == 0
    for other, words in (({"a": y["a"]}, "same structure"), ({**y, "a": y["a"].T}, r"\(5, 4\)")):
        with pytest.raises(ValueError, match=words):
            error(x, other)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("shapes", [((4, 5, 3), (5, 4, 3)), ((4, 5, 3), (1, 1, 3)), ((3,), ())])
def test_shapes_that_differ_are_refused(error, shapes):
    with pytest.raises(ValueError, match="same shape") as info:
        error(*map(jnp.zeros, shapes))
    assert all(str(shape) in str(info.value) for shape in shapes)


@pytest.mark.parametrize("function", [*GRAMS, total_variation])
def test_batches_and_regions_of_another_size_are_refused(function):
    for shape in ((4, 5), (2, 4, 5, 3)):
        with pytest.raises(ValueError, match="vmap") as info:
            function(jnp.zeros(shape))
        assert str(shape) in str(info.value)
    with pytest.raises(ValueError, match=r"where must have the shape \(4, 5\).*not \(5, 4\)"):
        function(jnp.zeros((4, 5, 3)), jnp.ones((5, 4)))


TARGET = jnp.asarray(draw(4, 5, 3, seed=9))
FUNCTIONS = {
    "raw_gram": raw_gram_matrix,
    "gram": gram_matrix,
    "tv": total_variation,
    "mean": lambda x, where=None: mean_squared_error(x, TARGET, where),
    "half": lambda x, where=None: half_squared_error(x, TARGET, where),
}
# Of x, by hand: sums over a fixed matrix of weights make numbers of the Gram matrices.
SLOPE = draw(3, 3, seed=7)


def number(name, x, where=None):
    value = FUNCTIONS[name](x, where)
    return value if value.ndim == 0 else jnp.sum(value * SLOPE)


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
    expected = gradient_by_hand(name, x.astype(np.float64))
    assert np.abs(expected).max() > 0
    for where in (None, jnp.ones((4, 5))):
        found = jax.grad(partial(number, name))(jnp.asarray(x), where)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_region_without_area_is_0_and_has_no_gradient(name):
    value, grad = jax.value_and_grad(partial(number, name))(jnp.asarray(TARGET), jnp.zeros((4, 5)))
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


def test_the_relative_error_agrees_with_numpy_and_is_finite_for_a_target_of_0():
    x, y = {"a": draw(3, 4), "b": draw(5)}, {"a": draw(3, 4, seed=1), "b": draw(5, seed=2)}
    value, grad = jax.value_and_grad(relative_squared_error)(x, y)
    size = sum((y[k] ** 2).sum() for k in y)
    np.testing.assert_allclose(value, sum(((x[k] - y[k]) ** 2).sum() for k in y) / size, rtol=1e-5)
    for k in y:
        np.testing.assert_allclose(grad[k], 2 * (x[k] - y[k]) / size, rtol=1e-4)
    value, grad = jax.value_and_grad(relative_squared_error)(jnp.zeros(3), jnp.zeros(3))
    assert value == 0 and not grad.any()


def test_out_of_range_is_the_mean_squared_distance_from_the_range():
    image = np.random.default_rng(0).normal(0.5, 0.5, (5, 7, 3))
    where = np.random.default_rng(1).uniform(size=(5, 7))
    squares = np.where(image < 0, image, np.where(image > 1, image - 1, 0)) ** 2
    np.testing.assert_allclose(out_of_range(jnp.asarray(image)), squares.mean(), rtol=1e-5)
    weighed = (squares.mean(2) * where).sum() / where.sum()
    np.testing.assert_allclose(out_of_range(jnp.asarray(image), where), weighed, rtol=1e-5)
    grad = jax.grad(out_of_range)(jnp.array([[[0.0, 1.0, 0.5]]]))
    np.testing.assert_array_equal(grad, 0)
    assert jnp.isnan(out_of_range(jnp.full((2, 2, 3), jnp.nan)))
    with pytest.raises(ValueError, match="image"):
        out_of_range(jnp.zeros((4, 4)))
