"""Regions at the layers, against receptive fields counted position by position."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shallow import OBJECTIVE

import jaxnst
from jaxnst import LossWeights, Objective, Picture, Style, compute_targets, extract_features
from jaxnst.guides import guide_layers
from jaxnst.vgg import LAYERS

DEEP = ("relu1_1", "conv1_2", "pool1", "relu2_1", "relu3_4", "pool3", "relu4_2", "relu5_1")


def receptive_field(layer, position, shape):
    """First and last pixel along each axis that a position sees, and the layer's size."""
    sizes, ends = [np.array(shape)], np.array([position, position])
    steps = LAYERS[: LAYERS.index(layer) + 1] if layer != "image" else ()
    for step in steps:
        sizes.append(sizes[-1] // 2 if step.startswith("pool") else sizes[-1])
    for step, size in zip(steps[::-1], sizes[-2::-1], strict=True):
        if step.startswith("conv"):
            ends = np.clip(ends + [[-1], [1]], 0, size - 1)
        elif step.startswith("pool"):
            ends = 2 * ends + [[0], [1]]
    return ends


def naive_guides(region, layer, shape, extreme):
    found = np.zeros(shape)
    for position in np.ndindex(*shape):
        (top, left), (bottom, right) = receptive_field(layer, position, region.shape)
        found[position] = extreme(region[top : bottom + 1, left : right + 1])
    return found


def shapes_of(shape, layers):
    features = jax.eval_shape(
        partial(extract_features, layers=layers), jnp.zeros((*shape, 3)), jaxnst.load_params()
    )
    return {"image": shape} | {layer: x.shape[:2] for layer, x in features.items()}


@pytest.mark.slow
def test_all_and_inside_are_extremes_over_receptive_fields():
    shape, draw = (37, 53), np.random.default_rng(0)
    regions = draw.uniform(0.2, 1, (2, *shape)).astype(np.float32)
    regions[1] = np.arange(53) < 48
    shapes, empty = shapes_of(shape, DEEP), set()
    every, inside, simple = (
        guide_layers(regions, shapes, guides) for guides in ("all", "inside", "simple")
    )
    for layer, size in shapes.items():
        for i, region in enumerate(regions):
            most, least = (naive_guides(region, layer, size, f) for f in (np.max, np.min))
            if not least.any():
                empty.add(layer)
                least = simple[layer][i]
            np.testing.assert_array_equal(every[layer][i], most)
            np.testing.assert_allclose(inside[layer][i], least, atol=1e-6)
    assert empty == {"relu5_1"}, "the layers where no position lies within"


def test_features_change_exactly_where_a_receptive_field_meets_the_change(content, params):
    image, layers = content[:45, :52], ("relu1_2", "pool2", "conv3_2")
    region = np.zeros(image.shape[:2], np.float32)
    region[22, 29] = 1
    look = jax.jit(partial(extract_features, layers=layers, pooling="average"))
    found = look(image, params), look(image + 5 * region[:, :, None], params)
    guides = guide_layers(region[None], {k: x.shape[:2] for k, x in found[0].items()}, "all")
    for layer in layers:
        changed = jnp.abs(found[1][layer] - found[0][layer]).max(-1) > 0
        np.testing.assert_array_equal(guides[layer][0] > 0, changed, err_msg=layer)


@pytest.mark.parametrize("guides", ["simple", "all", "inside"])
def test_a_region_of_all_and_an_empty_one(guides):
    shapes = shapes_of((33, 40), ("pool1", "relu5_1"))
    whole = guide_layers(jnp.stack([jnp.ones((33, 40)), jnp.zeros((33, 40))]), shapes, guides)
    for layer, shape in shapes.items():
        np.testing.assert_allclose(whole[layer][0], jnp.ones(shape), atol=1e-6)
        np.testing.assert_array_equal(whole[layer][1], jnp.zeros(shape))
    assert set(guide_layers(None, shapes, guides).values()) == {None}


def test_with_guides_inside_nothing_beside_the_region_counts(described, params):
    image, _ = described
    objective = Objective({"style": Style(("relu1_1", "pool1"))}, guides="inside")
    left = jnp.zeros((1, *image.shape[:2])).at[:, :, :11].set(1)
    targets = compute_targets({"style": Picture(image[::-1], left)}, params, objective=objective)
    (loss, _), grad = jax.jit(partial(jaxnst.loss_and_grad, objective=objective))(
        image, params, targets, LossWeights.ones(objective), regions=left
    )
    assert np.isfinite(loss) and np.any(grad[:, :11] != 0) and np.all(grad[:, 11:] == 0)


def test_other_guides_are_refused():
    with pytest.raises(ValueError, match="guides must be"):
        Objective(OBJECTIVE.terms, guides="outside")
