"""Colours, held against plain NumPy in float64, and the option of the commands."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import double_precision

import jaxnst
from jaxnst import color

Array = np.ndarray[Any, Any]

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.random((9, 8, 3)) @ np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.1], [0.0, 0.1, 0.5]])
TARGET = RANDOM.random((7, 6, 3)) ** 2 @ np.array([[0.5, 0, 0.2], [0.3, 0.4, 0], [0.1, 0, 0.6]])
GREY = np.repeat(PICTURE[..., :1], 3, axis=-1)
PICTURES = {
    "colours": PICTURE,
    "grey": GREY,
    "constant": np.full((9, 8, 3), [0.2, 0.6, 0.4]),
    "black": np.zeros((9, 8, 3)),
    "white": np.ones((9, 8, 3)),
}
PICTURES = {name: picture.astype(np.float32) for name, picture in PICTURES.items()}
ALL = np.stack(list(PICTURES.values()))


def mean(image: Any) -> Array:
    return np.asarray(image, np.float64).mean((0, 1))


def covariance(image: Any) -> Array:
    return np.cov(np.asarray(image, np.float64).reshape(-1, 3).T, bias=True)


# --- spaces ------------------------------------------------------------------------------------

SPACES = [
    (color.srgb_to_linear, color.linear_to_srgb),
    (color.srgb_to_yiq, color.yiq_to_srgb),
    (color.linear_to_oklab, color.oklab_to_linear),
]
WIDE = np.linspace(-1.5, 2.5, 27, dtype=np.float32).reshape(3, 3, 3)[::-1]


COLORS = np.concatenate([WIDE.reshape(-1, 3), WIDE.reshape(-1, 3) * 1e-7, ALL.reshape(-1, 3)])


@pytest.mark.parametrize(("there", "back"), SPACES)
def test_a_space_and_its_inverse_undo_each_other(there: Any, back: Any) -> None:
    np.testing.assert_allclose(back(there(COLORS)), COLORS, rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize("function", [function for pair in SPACES for function in pair])
def test_gradients_of_spaces_are_finite(function: Any) -> None:
    assert np.isfinite(jax.grad(lambda image: function(image).sum())(COLORS)).all()


def test_linear_light_is_that_of_the_standard() -> None:
    levels = np.linspace(0, 1, 48)
    linear = np.array([v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels])
    image = levels.reshape(4, 4, 3).astype(np.float32)
    np.testing.assert_allclose(np.ravel(color.srgb_to_linear(image)), linear, atol=1e-6)
    np.testing.assert_allclose(color.srgb_to_linear(-image), -color.srgb_to_linear(image))


@pytest.mark.parametrize(
    ("srgb", "oklab"),
    [  # as published for the primaries of sRGB
        ((1, 1, 1), (1, 0, 0)),
        ((1, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 1, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 1), (0.45201, -0.03246, -0.31153)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_oklab_has_the_published_values(srgb: Any, oklab: Any) -> None:
    image = jnp.array(srgb, jnp.float32)
    found = color.linear_to_oklab(color.srgb_to_linear(image))
    np.testing.assert_allclose(found, oklab, atol=2e-5)


@pytest.mark.parametrize(
    ("image", "error", "part"),
    [
        (np.zeros((4, 4), np.float32), ValueError, r"\(4, 4\)"),
        (np.zeros((4, 4, 3), np.uint8), TypeError, "divide it by 255"),
    ],
)
def test_other_arrays_are_refused(image: Array, error: type[Exception], part: str) -> None:
    for function in (color.srgb_to_yiq, color.fit_gamut, color.luminance):
        with pytest.raises(error, match=part):
            function(image)
    with pytest.raises(error, match=part):
        jaxnst.match_colors_pca(PICTURES["grey"], image)
    with pytest.raises(ValueError, match=r"the shape \(height, width, 3\)"):
        jaxnst.match_colors_histogram(np.zeros(3, np.float32), PICTURES["grey"])
    with pytest.raises(ValueError, match=r"target must have the shape \(9, 8, 3\)"):
        color.transfer_chroma(PICTURES["grey"], PICTURES["black"][1:])


# --- matching ----------------------------------------------------------------------------------


def root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(np.sqrt(values)) @ vectors.T


def cholesky(now: Array, then: Array) -> Array:
    return np.linalg.cholesky(then) @ np.linalg.inv(np.linalg.cholesky(now))


def pca(now: Array, then: Array) -> Array:
    return root(then) @ np.linalg.inv(root(now))


def transport(now: Array, then: Array) -> Array:
    outer = np.linalg.inv(root(now))
    return outer @ root(root(now) @ then @ root(now)) @ outer


LINEAR: dict[Callable[..., Any], Callable[..., Array]] = {
    jaxnst.match_colors_cholesky: cholesky,
    jaxnst.match_colors_pca: pca,
    jaxnst.match_colors_transport: transport,
}
METHODS = [*LINEAR, jaxnst.match_colors_histogram]


@pytest.mark.parametrize("method", LINEAR)
def test_a_linear_method_is_its_formula(method: Any) -> None:
    matrix = LINEAR[method](covariance(PICTURE), covariance(TARGET))
    expected = (PICTURE - mean(PICTURE)) @ matrix.T + mean(TARGET)
    found = method(PICTURE.astype(np.float32), TARGET.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(mean(found), mean(TARGET), atol=1e-5)
    np.testing.assert_allclose(covariance(found), covariance(TARGET), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_all_pictures_are_matched_with_finite_gradients(method: Any) -> None:
    def loss(image: Any, target: Any) -> Any:
        result = method(image, target)
        return jnp.sum(result**2), result

    derive = jax.grad(loss, argnums=(0, 1), has_aux=True)
    by_pair = jax.jit(jax.vmap(jax.vmap(derive, in_axes=(None, 0)), in_axes=(0, None)))
    gradients, results = by_pair(ALL, ALL)
    assert all(np.isfinite(part).all() for part in gradients)
    spread = np.ptp(results, (2, 3)).max(-1)
    assert (spread[2:] < 1e-4).all() and (spread[:, 2:] < 0.01).all()  # plain ones
    for i, image in enumerate(ALL):
        for j, target in enumerate(ALL):
            if method in LINEAR:
                np.testing.assert_allclose(mean(results[i, j]), mean(target), atol=1e-5)
            if i == 0 and (method in LINEAR or j != 1):
                found = covariance(results[i, j])
                np.testing.assert_allclose(found, covariance(target), atol=1e-4)
        expected = method(image, ALL[0])
        np.testing.assert_allclose(results[i, 0], expected, atol=1e-3)  # alone


@pytest.mark.parametrize("method", LINEAR)
def test_gradients_of_linear_methods_are_differences(method: Any) -> None:
    def loss(step: Any, image: Any, target: Any, change: Any) -> Any:
        return jnp.sum(jnp.sin(9 * change) * method(image + step * change, target - step * change))

    change = RANDOM.standard_normal(PICTURE.shape)
    # A grey picture is changed in grey: in other directions its roots are far from linear.
    cases = [(PICTURE, PICTURE**2, change), (GREY, PICTURE, np.repeat(change[..., :1], 3, -1))]
    with double_precision():
        derive = jax.jit(jax.value_and_grad(loss))
        for case in cases:
            (above, _), (below, _) = (derive(step, *case) for step in (1e-5, -1e-5))
            np.testing.assert_allclose(derive(0.0, *case)[1], (above - below) / 2e-5, rtol=1e-5)


def test_histograms_are_quantiles_at_mean_ranks() -> None:
    image = np.round(PICTURE * 6).astype(np.float32) / 6  # with equal values
    found = jaxnst.match_colors_histogram(image, TARGET.astype(np.float32))
    for channel in range(3):
        values = image[..., channel].ravel()
        ranks = np.array([((values < v).sum() + (values <= v).sum() - 1) / 2 for v in values])
        expected = np.quantile(TARGET[..., channel], ranks / (values.size - 1))
        np.testing.assert_allclose(np.ravel(found[..., channel]), expected, atol=1e-5)


# --- luminance and chroma ----------------------------------------------------------------------


def chroma(image: Any) -> Array:
    return np.asarray(color.srgb_to_yiq(image))[..., 1:]


def test_the_luminance_of_a_style_gets_mean_and_deviation() -> None:
    grey = np.asarray(color.luminance(TARGET.astype(np.float32)))
    np.testing.assert_allclose(grey[..., 2], TARGET @ [0.299, 0.587, 0.114], atol=1e-6)
    found = np.asarray(color.match_luminance(grey, GREY.astype(np.float32)))
    np.testing.assert_allclose([found.mean(), found.std()], [GREY.mean(), GREY.std()], atol=1e-4)
    flat = color.match_luminance(PICTURES["constant"], GREY.astype(np.float32))
    np.testing.assert_allclose(color.luminance(flat), GREY.mean(), atol=1e-4)


def test_colours_beyond_the_gamut_lose_chroma_but_neither_luma_nor_hue() -> None:
    wide = (1.5 * PICTURE - 0.2).astype(np.float32)
    found = color.fit_gamut(wide)
    assert wide.min() < 0 and wide.max() > 1 and found.min() >= -1e-6 and found.max() <= 1 + 1e-6
    np.testing.assert_allclose(color.luminance(found), color.luminance(wide).clip(0, 1), atol=1e-6)
    before, after = np.moveaxis(chroma(wide), -1, 0), np.moveaxis(chroma(found), -1, 0)
    np.testing.assert_allclose(before[0] * after[1], before[1] * after[0], atol=1e-6)
    inside = ((wide >= 0) & (wide <= 1)).all(-1)
    np.testing.assert_allclose(found[inside], wide[inside], atol=1e-6)
    assert (np.linalg.norm(chroma(found) - chroma(wide), axis=-1)[~inside] > 1e-4).all()


def test_the_result_has_the_chroma_of_the_content(content: jax.Array, style: jax.Array) -> None:
    image = jaxnst.resize(style, *content.shape[:2])
    found = np.clip(color.transfer_chroma(image, content), 0, 1)
    np.testing.assert_allclose(chroma(found), chroma(content), atol=1e-5)
    luma, wanted = (np.asarray(color.luminance(x))[..., 0] for x in (found, image))
    own = np.asarray(color.luminance(content))[..., 0]
    between = (luma - wanted) * (luma - own) <= 1e-6  # it moves only towards the content's
    assert between.all() and (np.abs(luma - wanted) < 1e-6).mean() > 0.8


def test_luminance_and_chroma_have_finite_gradients() -> None:
    def loss(image: Any) -> Any:
        parts = (
            color.transfer_chroma(image, image[::-1]),
            color.fit_gamut(2 * image - 0.5),
            color.match_luminance(image, ALL[1]),
            color.match_luminance(ALL[1], image),
        )
        return sum(jnp.sum(part**2) for part in parts)

    assert np.isfinite(jax.jit(jax.vmap(jax.grad(loss)))(ALL)).all()
