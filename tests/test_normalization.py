"""Terms whose weights mean the same for all pictures, against NumPy at the network's layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, uniform
from naive_vgg19 import assert_close, vgg19

from jaxnst import (
    Content,
    LossWeights,
    NormalizedGradient,
    Objective,
    Penalty,
    Picture,
    RelativeContent,
    Style,
    compute_targets,
    half_squared_error,
    loss_and_grad,
    mean_squared_error,
    perceptual_loss,
)

LAYERS = ("relu1_1", "pool1")
TERMS = {"content": Content(LAYERS[1:]), "style": Style(LAYERS), "tv": Penalty()}
OBJECTIVE = Objective({name: NormalizedGradient(term) for name, term in TERMS.items()})
WEIGHTS = LossWeights.ones(OBJECTIVE).replace(content=3.0, style=2.0, tv=0.5)
WEIGHTS = WEIGHTS.replace_layers(style={"relu1_1": 0.25})


@pytest.fixture(scope="module")
def problem(content, style, params):
    """An image, and the loss and gradient of an image."""
    sources = {"content": content[:24, :32], "style": style[:20, :28]}
    targets = compute_targets(sources, params, objective=OBJECTIVE)
    image = sources["content"] + 0.1 * normal(24, 32, 3, seed=1)
    evaluate = partial(
        loss_and_grad, params=params, targets=targets, weights=WEIGHTS, objective=OBJECTIVE
    )
    return image, jax.jit(evaluate), sources, targets


def test_the_gradient_agrees_with_numpy(problem, params):
    image, evaluate, sources, _ = problem
    features, transpose = vgg19(image, params, "max", LAYERS)
    content, style = (vgg19(sources[name], params, "max", LAYERS)[0] for name in sources)
    cotangents = dict.fromkeys(LAYERS, 0.0)

    def add(layer, weight, grad):
        cotangents[layer] = cotangents[layer] + weight * grad / (np.abs(grad).sum() + 1e-8)

    for layer, weight in zip(LAYERS, (2 * 0.25, 2), strict=True):
        flat, other = (x[layer].reshape(-1, x[layer].shape[2]) for x in (features, style))
        gram, wanted = flat.T @ flat / len(flat), other.T @ other / len(other)
        add(layer, weight, (flat @ (gram - wanted)).reshape(features[layer].shape))
    add("pool1", 3, features["pool1"] - content["pool1"])
    x, penalty = np.asarray(image, np.float64), np.zeros(image.shape)
    for axis in (0, 1):
        signs = np.sign(np.diff(x, axis=axis)) / np.diff(x, axis=axis).size
        ends = [(1, 0) if a == axis else (0, 0) for a in range(3)]
        penalty += np.pad(signs, ends) - np.pad(signs, [end[::-1] for end in ends])
    expected = transpose(cotangents) + 0.5 * penalty / np.abs(penalty).sum()
    assert_close(evaluate(image)[1], expected, 1e-4)


def test_the_values_are_those_of_the_terms(problem, params):
    image, evaluate, _, targets = problem
    (loss, terms), _ = evaluate(image)
    plain, plain_terms = perceptual_loss(
        image, params, targets, WEIGHTS, objective=Objective(TERMS)
    )
    np.testing.assert_allclose(loss, plain, rtol=1e-5)
    for name in TERMS:
        np.testing.assert_allclose(terms[name], plain_terms[name], rtol=1e-5)
        assert not OBJECTIVE.terms[name].additive


def test_scaling_a_score_changes_nothing_but_the_value():
    """Weights alone say how hard a term pulls."""
    objectives = [
        Objective({"p": NormalizedGradient(Penalty(function))}) for function in (jnp.sum, _hundred)
    ]
    image = jnp.ones((3, 5, 3))
    grads = []
    for objective in objectives:
        weights = LossWeights.ones(objective).replace(p=7.0)
        targets = compute_targets({}, {}, objective=objective)
        grads.append(loss_and_grad(image, {}, targets, weights, objective=objective)[1])
    np.testing.assert_allclose(grads[0], np.full((3, 5, 3), 7 / 45), rtol=1e-5)
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-5)


def _hundred(x):
    return 100 * jnp.sum(x)


def test_where_nothing_pulls_the_gradient_is_zero(params, content):
    objective = Objective({"content": NormalizedGradient(Content(("relu1_1",)))})
    image = content[:8, :8]
    targets = compute_targets({"content": image}, params, objective=objective)
    weights = LossWeights.ones(objective)
    (loss, _), grad = loss_and_grad(image, params, targets, weights, objective=objective)
    assert loss == 0 and not grad.any()


def test_forward_mode_and_lanes_agree_with_the_gradient(problem):
    image, evaluate, _, _ = problem
    direction = normal(*image.shape, seed=2)
    (_, change) = jax.jvp(lambda x: evaluate(x)[0][0], (image,), (direction,))
    _, grad = evaluate(image)
    np.testing.assert_allclose(change, jnp.sum(grad * direction), rtol=1e-3)
    both = jnp.stack([image, image[::-1]])
    together = jax.vmap(evaluate)(both)[1]
    for lane, x in zip(together, both, strict=True):
        assert_close(lane, evaluate(x)[1], 1e-4)


def test_the_derivative_of_the_gradient_is_a_finite_difference():
    """Of Σ x³, whose normalised gradient is x² / Σ x² for positive x."""
    objective = Objective({"p": NormalizedGradient(Penalty(_cubes))})
    weights = LossWeights.ones(objective)

    def gradient(x):
        return loss_and_grad(x, {}, {"p": ()}, weights, objective=objective)[1]

    x = uniform(2, 3, 3, low=0.5)
    found = jax.jvp(gradient, (x,), (jnp.ones_like(x),))[1]
    expected = jax.jvp(lambda x: x**2 / jnp.sum(x**2), (x,), (jnp.ones_like(x),))[1]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def _cubes(x):
    return jnp.sum(x**3)


def test_the_derivative_by_the_target_is_that_of_the_term(problem, params):
    image, _, _, targets = problem
    plain, normalized = (
        jax.grad(lambda t, o=o: perceptual_loss(image, params, t, WEIGHTS, objective=o)[0])(targets)
        for o in (Objective(TERMS), OBJECTIVE)
    )
    assert_close(normalized["style"], plain["style"], 1e-5)


@pytest.mark.parametrize("distance", [mean_squared_error, half_squared_error])
@pytest.mark.parametrize("tile", [None, 16])
def test_relative_content_is_divided_by_the_size_of_its_target(
    distance, tile, content, style, params
):
    objective = Objective({"content": RelativeContent(LAYERS, distance)})
    image, photo = style[:40, :48], content[:40, :48]
    masks = np.random.default_rng(0).uniform(size=(2, 40, 48)).astype(np.float32)

    def score(source):
        targets = compute_targets({"content": source}, params, objective=objective)
        args = image, params, targets, LossWeights.ones(objective)
        return float(perceptual_loss(*args, objective=objective, tile=tile)[0])

    seen, wanted = (vgg19(x, params, "max", LAYERS)[0] for x in (image, photo))
    ratios = [np.sum((seen[k] - wanted[k]) ** 2) / np.sum(wanted[k] ** 2) for k in LAYERS]
    assert score(photo) == pytest.approx(sum(ratios), rel=1e-5)
    # In regions it is the mean of the ratios, as if each were a picture of its own.
    here = compute_targets({"content": Picture(photo, masks)}, params, objective=objective)
    total = 0.0
    for layer in LAYERS:
        for where in np.asarray(here["content"][layer][1], np.float64):
            squares = ((seen[layer] - wanted[layer]) ** 2 * where[:, :, None]).sum()
            total += squares / (wanted[layer] ** 2 * where[:, :, None]).sum() / len(masks)
    assert score(Picture(photo, masks)) == pytest.approx(total, rel=1e-4)


def test_relative_content_of_a_black_picture_is_finite(params):
    objective = Objective({"content": RelativeContent(("image",))})
    black = jnp.zeros((16, 16, 3))
    targets = compute_targets({"content": black}, params, objective=objective)
    (loss, _), grad = loss_and_grad(
        black, params, targets, LossWeights.ones(objective), objective=objective
    )
    assert float(loss) == 0 and np.isfinite(grad).all()
