"""Terms that compare features at sampled positions."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import double_precision, normal
from naive_statistics import close
from test_matching import naive_cosine, naive_nearest, naive_remd

import jaxnst
from jaxnst import (
    LossWeights,
    Objective,
    Picture,
    Samples,
    SelfSimilarity,
    compute_targets,
    loss_and_grad,
)
from jaxnst.samples import sample_positions

LAYERS = ("image", "relu1_1", "pool1")
TERMS = {
    "style": Samples(LAYERS, count=24),
    "nearest": Samples(("relu1_1", "pool1"), jaxnst.nearest_neighbors, joint=False, count=24),
    "structure": SelfSimilarity(LAYERS, count=24),
}
OBJECTIVE = Objective(TERMS)


@pytest.fixture(scope="module")
def pictures(content, style):
    return content[8:24, 8:30], style[8:25, 8:24], 1 - style[20:36, 40:56]


def evaluate(pictures, params, objective=OBJECTIVE, style=None, where=None):
    """Return terms and gradient of an image, its sources being the others."""
    image, paint, _ = pictures
    paint = paint if style is None else style
    sources = {"content": image[:, ::-1], "style": paint}
    sources = {name: sources[name] for name in objective.sources}
    targets = compute_targets(sources, params, objective=objective)
    weights = LossWeights.ones(objective)
    function = jax.jit(partial(loss_and_grad, objective=objective))
    (_, terms), grad = function(image, params, targets, weights, regions=where)
    return terms, grad


def naive_columns(image, params, layers, count=24):
    """The features at the positions, each interpolated by hand."""
    network = [layer for layer in layers if layer != "image"]
    features = {"image": image} | jaxnst.extract_features(image, params, layers=network)
    (places,) = np.asarray(sample_positions(None, image.shape[:2], count=count, seed=0))
    columns = []
    for y, x in places:
        column = []
        for layer in layers:
            f = np.asarray(features[layer], np.float64)
            h, w = f.shape[:2]
            i, j = np.clip(y * h - 0.5, 0, h - 1), np.clip(x * w - 0.5, 0, w - 1)
            rows = [np.interp(i, range(h), f[:, k, c]) for k in range(w) for c in range(f.shape[2])]
            line = np.reshape(rows, (w, f.shape[2]))
            value = [np.interp(j, range(w), line[:, c]) for c in range(f.shape[2])]
            column.append(np.array(value) / (f.shape[2] if len(layers) > 1 else 1))
        columns.append(np.concatenate(column))
    return np.array(columns)


def test_terms_agree_with_numpy(pictures, params):
    image, paint, _ = pictures
    terms, grad = evaluate(pictures, params)
    assert np.all(np.isfinite(grad)) and np.abs(grad).max() > 0
    columns = partial(naive_columns, params=params)
    joint = naive_remd(columns(image, layers=LAYERS), columns(paint, layers=LAYERS))
    np.testing.assert_allclose(terms["style"], joint, rtol=1e-3)
    apart = sum(
        naive_nearest(columns(image, layers=(layer,)), columns(paint, layers=(layer,)))
        for layer in TERMS["nearest"].layers
    )
    np.testing.assert_allclose(terms["nearest"], apart, rtol=1e-3)
    matrices = []
    for picture in (image, image[:, ::-1]):
        x = columns(picture, layers=LAYERS)
        distances = np.array([[naive_cosine(a, b) for b in x] for a in x])
        matrices.append(distances / distances.sum(0))
    expected = 24 * np.abs(np.subtract(*matrices)).mean()
    np.testing.assert_allclose(terms["structure"], expected, rtol=1e-3)


@pytest.mark.slow
def test_a_region_of_all_changes_nothing_and_lanes_and_bfloat16_agree(pictures, params):
    image, paint, _ = pictures
    terms, grad = evaluate(pictures, params)
    whole = (jnp.ones((1, *p.shape[:2])) for p in (paint, image))
    close(
        evaluate(pictures, params, style=Picture(paint, next(whole)), where=next(whole)),
        (terms, grad),
        1e-4,
    )
    rough, _ = evaluate(pictures, params, replace(OBJECTIVE, dtype="bfloat16"))
    close(rough, terms, 0.1)
    targets = compute_targets({"content": image, "style": paint}, params, objective=OBJECTIVE)
    weights = LossWeights.ones(OBJECTIVE)
    loss = partial(jaxnst.perceptual_loss, objective=OBJECTIVE)
    lanes = jnp.stack([image, image[::-1]])
    found = jax.jit(jax.vmap(loss, (0, None, None, None)))(lanes, params, targets, weights)[0][1]
    np.testing.assert_allclose(found, loss(lanes[1], params, targets, weights)[0], rtol=1e-4)


@pytest.mark.slow
def test_derivatives_are_finite_differences_in_float64(pictures, params):
    with double_precision():
        image, paint, _ = (jnp.asarray(p, jnp.float64) for p in pictures)
        objective = replace(OBJECTIVE, dtype="float64")
        sources = {"content": image[:, ::-1], "style": paint}
        targets = compute_targets(sources, params, objective=objective)
        weights = LossWeights.ones(objective)

        @jax.jit
        def both(image):
            return loss_and_grad(image, params, targets, weights, objective=objective)

        change = normal(*image.shape, dtype=jnp.float64)
        (_, grad), step = both(image), 1e-7
        (more, _), _ = both(image + step * change)
        (less, _), _ = both(image - step * change)
        numeric = (float(more) - float(less)) / (2 * step)
    np.testing.assert_allclose(np.vdot(grad, change), numeric, rtol=1e-3)


def test_a_blend_is_the_union_of_sets_and_shares_by_region_choose(pictures, params):
    image, one, other = pictures
    objective = Objective({"style": Samples(("relu1_1",), count=24)})

    def target(*styles):
        return compute_targets({"style": list(styles)}, params, objective=objective)["style"][0]

    alone, second = target(one), target(other)
    blend = target(Picture(one, share=1.0), Picture(other, share=3.0))
    close(blend["vectors"][0], jnp.concatenate([alone["vectors"][0], second["vectors"][0]]), 1e-5)
    np.testing.assert_array_equal(blend["weights"], [[1.0] * 24 + [3.0] * 24])
    left = jnp.zeros(image.shape[:2]).at[:, :11].set(1)
    rows = np.eye(2, dtype=np.float32)
    styles = [Picture(p, share=row) for p, row in zip((one, other), rows, strict=True)]
    regions = jnp.stack([left, 1 - left])
    both, _ = evaluate((image, one, other), params, objective, styles, regions)
    single = [
        evaluate((image, p, p), params, objective, p, region[None])[0]["style"]
        for p, region in zip((one, other), regions, strict=True)
    ]
    np.testing.assert_allclose(both["style"], np.mean(single), rtol=1e-4)


def test_positions_lie_in_their_region_evenly_and_do_not_depend_on_the_draw(pictures):
    region = np.zeros((2, 20, 30), np.float32)
    region[0, 5:10, 10:20], region[1] = 1, 0.5
    places = np.asarray(sample_positions(jnp.asarray(region), (20, 30), count=600, seed=1))
    rows, columns = places[0].T * np.array([[20], [30]])
    assert rows.min() >= 5 and rows.max() <= 10 and columns.min() >= 10 and columns.max() <= 20
    np.testing.assert_allclose(np.histogram(rows, 5, (5, 10))[0], 120, atol=1)
    whole = sample_positions(None, (20, 30), count=600, seed=1)[0]
    np.testing.assert_allclose(places[1], whole, rtol=1e-6)  # rounding alone


def test_wrong_counts_and_targets_are_refused(pictures, params):
    for kind in (Samples, SelfSimilarity):
        with pytest.raises(ValueError, match="count must be an integer from 1, not 0"):
            kind(count=0)
    objectives = [Objective({"t": Samples(layers)}) for layers in (("relu1_1",), ("image",))]
    targets = compute_targets({"style": pictures[1]}, params, objective=objectives[1])
    with pytest.raises(ValueError, match="another kind"):
        jaxnst.perceptual_loss(
            pictures[0],
            params,
            targets,
            LossWeights.ones(objectives[0]),
            objective=objectives[0],
        )
