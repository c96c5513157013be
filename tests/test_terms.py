"""What holds for every term and every statistic, a user's own too, and what users can build."""

import re
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import compiled_text, double_precision, normal, uniform

from jaxnst import (
    Content,
    LossWeights,
    Objective,
    Penalty,
    Picture,
    Style,
    compute_targets,
    gram_matrix,
    half_squared_error,
    loss_and_grad,
    minimize,
    perceptual_loss,
    raw_gram_matrix,
)


def moments(features, where=None):
    """A user's own statistic, a pytree: the mean and covariance of the channels."""
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    where = jnp.ones(features.shape[:2]) if where is None else where
    weights = (where / jnp.maximum(where.sum(), 1e-9)).astype(features.dtype)
    mean = jnp.einsum("hw,hwc->c", weights, features)
    centered = features - mean[None, None]
    return {"mean": mean, "cov": jnp.einsum("hw,hwi,hwj->ij", weights, centered, centered)}


@jax.tree_util.register_static
@dataclass(frozen=True)
class Brightness:
    """A user's own term: the mean brightness of the image is that of a source."""

    layers: tuple[str, ...] = ("image",)
    source: str = "lamp"

    def describe(self, features, regions):
        return jnp.mean(features["image"])[None]

    def measure(self, features, regions, target):
        return self.describe(features, regions)

    def score(self, measured, target):
        return {"image": jnp.sum((measured - target) ** 2)}


STATISTICS = {"gram": gram_matrix, "raw_gram": raw_gram_matrix, "moments": moments}
TERMS = {
    "content": Content(("relu1_1", "pool1", "image")),
    "half content": Content(("conv1_2",), distance=half_squared_error),
    "gram": Style(("relu1_1", "pool1")),
    "raw gram": Style(("relu1_2", "image"), statistic=raw_gram_matrix),
    "moments": Style(("relu1_1",), statistic=moments),
    "variation": Penalty(),
    "variation of features": Penalty(layers=("conv1_1",)),
    "a user's own": Brightness(),
}


@pytest.fixture(scope="module")
def pictures(content, style):
    """Three pictures of one size: the image, and two sources."""
    return content[8:24, 8:24], style[8:24, 8:24], content[20:36, 40:56]


def problem(params, source, **options):
    """Return a function of the image and targets to the terms, and targets."""
    objective = Objective(TERMS, **options)
    weights = LossWeights.ones(objective)
    sources = dict.fromkeys(objective.sources, source)
    targets = compute_targets(sources, params, objective=objective)

    def terms(image, targets, regions=None):
        args = image, params, targets, weights
        return perceptual_loss(*args, objective=objective, regions=regions)[1]

    return terms, targets


def with_gradients(terms):
    """Return a function to the terms and the gradient of each."""
    return lambda *args: (terms(*args), jax.jacrev(terms)(*args))


def close(found, expected, tolerance=1e-4):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        x, y = (np.asarray(a, np.float64) for a in (x, y))
        np.testing.assert_allclose(x, y, atol=tolerance * np.abs(y).max(), rtol=tolerance)


def test_terms_are_the_same_jitted_vmapped_in_bfloat16_and_with_a_region_of_all(pictures, params):
    image, source, _ = pictures
    terms, targets = problem(params, source)
    expected = with_gradients(terms)(image, targets)
    jitted = jax.jit(with_gradients(terms))(image, targets)
    lanes = jax.jit(jax.vmap(with_gradients(terms), (0, None)))(jnp.stack([image, source]), targets)
    whole = jnp.ones((1, *image.shape[:2]))
    masked, same = problem(params, Picture(source, whole))
    everywhere = jax.jit(with_gradients(masked))(image, same, whole)
    rough, targets = problem(params, source, dtype="bfloat16")
    rough = jax.jit(rough)(image, targets)
    for name in TERMS:
        value, grad = (part[name] for part in expected)
        assert value > 0 and np.abs(grad).max() > 0, name
        close([part[name] for part in jitted], (value, grad))
        close([part[name][0] for part in lanes], (value, grad))
        close([part[name] for part in everywhere], (value, grad))
        assert rough[name].dtype == jnp.float32
        close(rough[name], value, 0.1)


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_derivatives_of_terms_are_finite_differences_in_float64(pooling, pictures, params):
    with double_precision():
        image, source, change = (jnp.asarray(p, jnp.float64) for p in pictures)
        terms, targets = problem(params, source, dtype="float64", pooling=pooling)
        reverse = jax.jit(with_gradients(partial(terms, targets=targets)))
        _, grads = reverse(image)
        forward = jax.jit(lambda *t: jax.jvp(partial(terms, targets=targets), *t)[1])(
            (image,), (change,)
        )
        step = 1e-7
        ahead, behind = (reverse(image + sign * step * change)[0] for sign in (1, -1))
        numeric = jax.tree.map(lambda x, y: (x - y) / (2 * step), ahead, behind)
    for name in TERMS:
        assert grads[name].dtype == np.float64
        np.testing.assert_allclose(forward[name], np.vdot(grads[name], change), rtol=1e-9)
        np.testing.assert_allclose(forward[name], numeric[name], rtol=1e-4, err_msg=name)


def test_targets_blend_linearly(pictures, params):
    _, first, second = pictures
    shares = [Picture(first, share=1.0), Picture(second, share=3.0)]
    blend, one, other = (problem(params, s)[1] for s in (shares, first, second))
    for name in TERMS:
        close(blend[name], jax.tree.map(lambda x, y: 0.25 * x + 0.75 * y, one[name], other[name]))


def sums(name, features, where):
    """Return a statistic as a sum over positions, which is additive."""
    found = STATISTICS[name](features, where)
    if name == "raw_gram":
        return found
    if name == "moments":
        found["cov"] = found["cov"] + jnp.outer(found["mean"], found["mean"])
    return jax.tree.map(lambda leaf: leaf * where.sum(), found)


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_add_up_over_halves_by_where(name):
    features = normal(6, 8, 4)
    halves = jnp.arange(48).reshape(6, 8) < 20
    one, other = (sums(name, features, half.astype(jnp.float32)) for half in (halves, ~halves))
    close(jax.tree.map(jnp.add, one, other), sums(name, features, jnp.ones((6, 8))))
    close(STATISTICS[name](features, jnp.ones((6, 8))), STATISTICS[name](features, None))
    alone = STATISTICS[name](features[:2], None)
    close(STATISTICS[name](features, (jnp.arange(48).reshape(6, 8) < 16) * 1.0), alone)


@pytest.mark.parametrize("kind", [Content, Style, partial(Penalty, gram_matrix)])
def test_terms_are_values_and_refuse_layers_that_do_not_exist(kind):
    term, same = kind(layers=["relu1_1"]), kind(layers=("relu1_1",))
    assert term == same and hash(term) == hash(same) and jax.tree.leaves(term) == []
    with pytest.raises(ValueError, match="not 'relu9_1'"):
        kind(layers=("relu9_1",))
    with pytest.raises(TypeError, match="tuple"):
        kind(layers="relu1_1")


# What users build of their own, each without a change to the package.


def descend(image, params, sources, objective, **options):
    """Return the result of a few evaluations from `image`, and its targets."""
    targets = compute_targets(sources, params, objective=objective)
    weights = LossWeights.ones(objective)
    function = partial(loss_and_grad, objective=objective, **options)
    adam = optax.adam(0.01)
    return minimize(function, image, params, targets, weights, optimizer=adam, num_steps=6)


def assert_falls(result):
    assert result.history["loss"][-1] < 0.95 * result.history["loss"][0]


def test_a_user_makes_a_statistic_and_a_term(pictures, params):
    image, source, lamp = pictures
    terms = {"style": Style(("relu1_1",), statistic=moments), "light": Brightness()}
    sources = {"style": source, "lamp": lamp}
    result = descend(image, params, sources, Objective(terms))
    assert_falls(result)
    assert {"style", "light"} < set(result.history)


def test_a_user_makes_a_texture_without_content(pictures, params):
    objective = Objective({"texture": Style(("relu1_1", "pool1"), source="stone")})
    noise = uniform(24, 20, 3)  # of another size
    assert_falls(descend(noise, params, {"stone": pictures[1]}, objective))


def test_a_user_gives_two_regions_two_styles(pictures, params):
    image, first, second = pictures
    left = jnp.zeros(image.shape[:2]).at[:, :8].set(1)
    regions = jnp.stack([left, 1 - left])
    styles = [
        Picture(first, jnp.ones_like(regions), share=jnp.array([1.0, 0.0])),
        Picture(second, jnp.ones_like(regions), share=jnp.array([0.0, 1.0])),
    ]
    objective = Objective({"style": Style(("conv1_1",))})
    assert_falls(descend(image, params, {"style": styles}, objective, regions=regions))
    targets = compute_targets({"style": styles}, params, objective=objective)
    for index, style in enumerate((first, second)):
        alone = compute_targets({"style": style}, params, objective=objective)
        close(targets["style"]["conv1_1"][index], alone["style"]["conv1_1"][0])


def test_a_user_keeps_video_steady_except_where_it_is_occluded(pictures, params):
    image, previous, style = pictures
    seen = jnp.ones(image.shape[:2]).at[4:12, 4:12].set(0)
    terms = {"style": Style(("relu1_1",)), "steady": Content(("image",), source="previous")}
    sources = {"style": style, "previous": Picture(previous, seen)}
    objective = Objective(terms)
    targets = compute_targets(sources, params, objective=objective)
    weights = LossWeights.ones(objective).replace(style=0.0)
    (loss, terms), grad = loss_and_grad(image, params, targets, weights, objective=objective)
    expected = jnp.sum(seen[..., None] * (image - previous) ** 2) / seen.sum() / 3
    np.testing.assert_allclose(terms["steady"], expected, rtol=1e-5)
    assert np.all(grad[4:12, 4:12] == 0) and np.any(grad[:4] != 0)


def test_a_term_that_lacks_a_method_is_refused_by_name():
    with pytest.raises(TypeError, match="'odd' must have the methods .* Odd has no score"):
        odd = type("Odd", (), {"describe": None, "measure": None, "layers": ("image",)})
        replace(Objective({"tv": Penalty()}), terms={"odd": odd()})


@pytest.mark.parametrize("count", [1, 3])
def test_the_statistics_of_regions_do_not_transpose_the_features(count):
    style = Style(layers=("relu1_1",))
    regions = {"relu1_1": uniform(count, 64, 32)}

    def loss(features):
        found = style.describe({"relu1_1": jax.nn.relu(features)}, regions)
        return jnp.sum(found["relu1_1"] ** 2)

    text = compiled_text(jax.grad(loss), normal(64, 32, 16))
    assert not re.search(rf"f32\[({count},)?16,2048\]|f32\[{16 * count},2048\]", text)
