"""The padding of convolutions beside that of training, which tests/test_vgg.py compares too."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive_vgg19 import assert_close, vgg19

from jaxnst import (
    Content,
    LossWeights,
    NormalizedGradient,
    Objective,
    Penalty,
    Style,
    compute_targets,
    extract_features,
    gradient_only_variation,
    loss_and_grad,
    mean_and_deviation,
    nine_point_variation,
    out_of_range,
    squared_total_variation,
    total_variation,
)
from jaxnst.convolution import PADDINGS


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_side_of_one_pixel_can_be_padded(params, content, padding):
    found = extract_features(content[:1, :3], params, layers=("relu1_2",), padding=padding)
    assert_close(found, vgg19(content[:1, :3], params, "max", ("relu1_2",), padding)[0])


def test_with_circular_padding_a_shift_of_the_image_shifts_the_features(params, content):
    options = {"layers": ("relu1_1", "relu5_1"), "pooling": "average", "padding": "circular"}
    extract = jax.jit(partial(extract_features, **options))
    image = content[:48, :64]
    plain, shifted = extract(image, params), extract(jnp.roll(image, (16, -32), (0, 1)), params)
    for layer, shift in (("relu1_1", (16, -32)), ("relu5_1", (1, -2))):
        assert_close(shifted[layer], jnp.roll(plain[layer], shift, (0, 1)), 1e-4)


def test_no_padding_is_computed_where_none_is_asked_for(params):
    def program(**options):
        extract = partial(extract_features, params=params, layers=("relu2_1",), **options)
        return str(jax.make_jaxpr(extract)(jnp.zeros((16, 16, 3))))

    assert program() == program(padding="zero") and "pad[" not in program()
    assert program(padding=("circular", "zero")) != program()


# --- Penalties, whose differences reach around the edges ------------------------------------------


def wrapped_penalties(x, where=None):
    """The penalties of an image that tiles the plane, and ½ Σ of squares, in plain NumPy."""
    where = np.ones(x.shape[:2]) if where is None else where
    right, below, corner, other = (
        (x - np.roll(x, shift, (0, 1)), where * np.roll(where, shift, (0, 1)))
        for shift in ((0, -1), (-1, 0), (-1, -1), (-1, 1))
    )

    def mean(values, weights):
        return np.sum(values * weights[:, :, None]) / (values.shape[2] * weights.sum())

    squares = [mean(d**2, w) for d, w in (right, below, corner, other)]
    return {
        total_variation: sum(mean(np.abs(d), w) for d, w in (right, below)),
        squared_total_variation: squares[0] + squares[1],
        nine_point_variation: 2 / 3 * (squares[0] + squares[1]) + (squares[2] + squares[3]) / 6,
    }


@pytest.mark.parametrize("shape", [(6, 7, 3), (1, 5, 3), (1, 1, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_penalties_of_an_image_that_tiles_agree_with_numpy(shape, weighted):
    random = np.random.default_rng(0)
    x = random.normal(size=shape).astype(np.float32)
    where = random.uniform(0.1, 1, size=shape[:2]) if weighted else None
    given = jnp.asarray(where, jnp.float32) if weighted else None
    for function, expected in wrapped_penalties(x.astype(np.float64), where).items():
        np.testing.assert_allclose(function(x, given, wrap=True), expected, rtol=1e-5, atol=1e-7)


def test_the_gradient_only_variation_of_an_image_that_tiles_sees_all_neighbours():
    x = np.random.default_rng(0).normal(size=(6, 7, 3)).astype(np.float32)
    value, grad = jax.value_and_grad(partial(gradient_only_variation, wrap=True))(x)
    assert value == 0
    around = sum(np.roll(x, shift, axis) for shift in (1, -1) for axis in (0, 1))
    np.testing.assert_allclose(grad, 4 * x - around, atol=1e-5)


def contrast(image):
    """A user's own penalty, which knows nothing of edges."""
    return jnp.mean((image - jnp.mean(image)) ** 2)


TERMS = {
    "content": Content(("relu2_1", "image")),
    "gram": Style(("relu1_1", "relu2_1")),
    "moments": Style(("relu2_1",), statistic=mean_and_deviation),
    "absolute": Penalty(),
    "squared": Penalty(squared_total_variation),
    "nine": Penalty(nine_point_variation),
    "of features": Penalty(layers=("relu2_1",)),
    "normalised": NormalizedGradient(Penalty(squared_total_variation)),
    "gradient": Penalty(gradient_only_variation),
    "range": Penalty(out_of_range),
    "own": Penalty(contrast),
}


@pytest.mark.parametrize("padding", ["circular", "zero"])
def test_no_term_of_an_image_that_tiles_depends_on_where_it_is_cut(params, content, style, padding):
    objective = Objective(TERMS, pooling="average", padding=padding)
    # So that no term hides the gradients of the others.
    sizes = {"content": 1e-6, "gram": 1e-10, "moments": 1e-11, "gradient": 1e-3}
    weights = LossWeights.ones(objective).replace(**sizes, **{"of features": 1e-3})

    @jax.jit
    def terms_and_grad(image, content, style, params):
        sources = {"content": content, "style": style}
        targets = compute_targets(sources, params, objective=objective)
        (_, terms), grad = loss_and_grad(image, params, targets, weights, objective=objective)
        return terms, grad

    pictures = style[10:26, 20:40], content[10:26, 20:40]
    terms, grad = terms_and_grad(*pictures, style[:24, :24], params)
    shift = 6, -4
    rolled = [jnp.roll(x, shift, (0, 1)) for x in pictures]
    found, moved = terms_and_grad(*rolled, style[:24, :24], params)
    for name in TERMS:
        alike = padding == "circular" or name in ("gradient", "range", "own")
        assert np.isclose(found[name], terms[name], rtol=1e-5) == alike, name
    back = jnp.roll(moved, [-step for step in shift], (0, 1))
    assert (np.abs(back - grad).max() < 1e-3 * np.abs(grad).max()) == (padding == "circular")


def test_an_objective_says_whether_the_image_tiles():
    def wraps(objective):
        return [objective.terms[name].wrap for name in ("absolute", "own")] + [
            objective.terms["normalised"].term.wrap
        ]

    circular = Objective(TERMS, padding="circular")
    assert wraps(circular) == [True] * 3
    assert wraps(replace(circular, padding="zero")) == [False] * 3
    assert wraps(Objective(TERMS, padding=("circular", "zero"))) == [False] * 3
    assert replace(circular, padding="zero") == Objective(TERMS)
