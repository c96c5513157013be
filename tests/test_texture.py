"""Textures: their statistics, their edges if they tile, and what is refused."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import uniform
from naive_vgg19 import assert_close, vgg19

import jaxnst
from jaxnst import Content, Lbfgs, LossWeights, Objective, Style, synthesize_texture, texture_recipe
from jaxnst.schedule import schedule
from jaxnst.texture import fit_config, roll_to_smooth_edges

LAYERS = ("relu1_1", "relu2_1", "relu3_1")
CONFIG, WEIGHTS = texture_recipe()
#: With half of the network, which is soon compiled.
SMALL = replace(
    CONFIG,
    objective=Objective(
        {"style": replace(CONFIG.objective.terms["style"], layers=LAYERS)}, pooling="average"
    ),
    optimizer=Lbfgs(memory=10),
    num_steps=(20, 25),
    min_size=32,
)
SMALL_WEIGHTS = LossWeights.ones(SMALL.objective).replace(style=100.0)


def circular(config):
    return replace(config, objective=replace(config.objective, padding="circular"))


@pytest.fixture(scope="module")
def texture(params, style):
    def make(**options):
        options = {"shape": (64, 48), "config": SMALL, "weights": SMALL_WEIGHTS} | options
        return synthesize_texture(style[:64, :64], params=params, **options)

    return make


def changes(image):
    """For rows and columns: the difference across the edges, and those of neighbours inside."""
    image = np.asarray(image, np.float64)
    return [
        (np.abs(x[0] - x[-1]).mean(), np.abs(np.diff(x, axis=0)).mean((1, 2)))
        for x in (image, image.swapaxes(0, 1))
    ]


@pytest.mark.slow
def test_a_texture_that_tiles_has_no_seam_and_another_has(texture):
    seen = []
    tiled = texture(tileable=True, callback=lambda progress: seen.append(np.array(progress.x)))
    plain, whole = texture(), np.clip(seen[-1], 0, 1)
    for result in (tiled, plain):
        assert result.image.shape == (64, 48, 3) and list(result.history)[4:] == ["style"]
        sizes = result.history["size"]
        assert sizes.tolist() == [32] * 20 + [64] * 25
        first, last = (result.history["loss"][sizes == 64][i] for i in (0, -1))
        assert last < 0.3 * first
    for across, inside in changes(whole):
        assert across < inside.max(), "before it is rolled, so that nothing hides a seam"
        assert across < 1.5 * inside.mean()
    for across, inside in changes(tiled.image):
        assert across <= inside.min()
    for across, inside in changes(plain.image):
        assert across > inside.max() and across > 2 * inside.mean()
    np.testing.assert_array_equal(tiled.image, rolled(whole))


def rolled(image):
    """An image from its smoothest rows and columns on, in plain NumPy."""
    for axis in (0, 1):
        x = np.moveaxis(image, axis, 0)
        across = [np.abs(x[i].astype(np.float64) - x[i - 1]).mean() for i in range(len(x))]
        first = int(np.argmin(across))
        image = np.moveaxis(np.concatenate([x[first:], x[:first]]), 0, axis)
    return image


def test_a_texture_that_tiles_is_cut_where_its_rows_and_columns_differ_least(content):
    images = np.stack([content[:40, :56], content[20:60, 30:86]])
    found = jax.jit(jax.vmap(roll_to_smooth_edges))(images)
    for image, moved in zip(images, found, strict=True):
        np.testing.assert_array_equal(moved, rolled(image))
        np.testing.assert_array_equal(roll_to_smooth_edges(image), moved)
        np.testing.assert_array_equal(roll_to_smooth_edges(np.roll(image, (7, -9), (0, 1))), moved)
        for across, inside in changes(moved):
            assert across <= inside.min()
    half = roll_to_smooth_edges(jnp.asarray(images[0], jnp.bfloat16))
    assert half.dtype == jnp.bfloat16 and half.shape == images[0].shape


@pytest.mark.slow
def test_the_state_of_a_texture_continues_to_the_same_bits(texture):
    states = []
    options = {"tileable": True, "config": replace(SMALL, num_steps=3), "every": 4}
    whole = texture(
        callback=lambda progress: states.append(jax.tree.map(np.array, progress.state)), **options
    )
    again = texture(resume=states[0], **options)
    np.testing.assert_array_equal(again.image, whole.image)


@pytest.mark.slow
def test_the_loss_of_a_texture_that_tiles_does_not_depend_on_where_it_is_cut(params, style):
    image = uniform(48, 32, 3)
    losses = {}
    for padding in ("circular", "zero"):
        objective = replace(CONFIG.objective, padding=padding)
        targets = jaxnst.compute_targets({"style": style[:32, :32]}, params, objective=objective)

        @jax.jit
        def loss(image, targets=targets, objective=objective):
            return jaxnst.perceptual_loss(image, params, targets, WEIGHTS, objective=objective)[0]

        shifts = ((0, 0), (16, 0), (-32, 16))
        losses[padding] = [float(loss(jnp.roll(image, shift, (0, 1)))) for shift in shifts]
    np.testing.assert_allclose(losses["circular"], losses["circular"][0], rtol=1e-4)
    assert np.ptp(losses["zero"]) > 1e-3 * losses["zero"][0]


def test_a_style_is_continued_by_reflection_and_a_content_as_the_image(params, content, style):
    content, style = content[:16, :24], style[:20, :16]
    terms = {"content": Content(("relu2_1",)), "style": Style(("relu2_1",))}
    objective = Objective(terms, padding="circular")
    sources = {"content": content, "style": style}
    targets = jaxnst.compute_targets(sources, params, objective=objective)
    (features, where), (found,) = targets["content"]["relu2_1"], targets["style"]["relu2_1"]
    options = params, "max", ("relu2_1",)
    assert where is None
    assert_close(features[0], vgg19(content, *options, "circular")[0]["relu2_1"])
    reflected = vgg19(style, *options, "reflect")[0]["relu2_1"].reshape(-1, 128)
    assert_close(found, reflected.T @ reflected / len(reflected))


def test_coarse_scales_of_a_texture_that_tiles_are_halved_evenly():
    def shapes(config):
        return [scale.shape for scale in schedule((176, 240, 3), replace(config, min_size=32))]

    assert shapes(CONFIG) == [(44, 60), (88, 120), (176, 240)]
    assert shapes(circular(CONFIG)) == [(48, 64), (96, 128), (176, 240)]


def test_styles_shrink_no_further_than_their_statistics_allow():
    style = np.zeros((64, 64, 3), np.float32)
    assert fit_config(CONFIG, style, (256, 128)) == CONFIG
    assert fit_config(CONFIG, [style, style[:40]], (512, 256)).min_size == 410
    small = replace(CONFIG, style_scale=(1.0, 0.25))
    assert fit_config(small, [style, style[:40]], (512, 256)).min_size == 205
    started = replace(CONFIG, init="content", min_size=None)
    assert fit_config(started, style, (512, 256)) == replace(started, init="noise")


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"shape": (64, 64, 3)}, ValueError, "shape must be (height, width), not (64, 64, 3)"),
        ({"shape": (64, 0)}, ValueError, "shape must be a positive integer, not 0"),
        ({"shape": (50, 64), "tileable": True}, ValueError, "not 50x64; take 48x64"),
        ({"config": jaxnst.preset("default").config}, ValueError, "no source 'content'"),
        ({"weights": jaxnst.preset("default").weights}, ValueError, "LossWeights.ones"),
        ({"initial_image": np.zeros((8, 8, 3), np.float32)}, ValueError, "(64, 48, 3)"),
    ],
)
def test_bad_input_is_refused_in_one_line(texture, options, error, named):
    with pytest.raises(error, match=re.escape(named)) as info:
        texture(**options)
    assert "\n" not in str(info.value)


def test_a_mixed_style_has_the_strokes_of_one_and_the_shapes_of_the_other(params, content, style):
    coarse, fine = content[:64, :64], style[:64, :64]
    config, _ = jaxnst.mix_recipe()
    mixed = jaxnst.mix_styles(coarse, fine, params=params, config=replace(config, num_steps=40))
    shallow = replace(Style(), layers=("relu1_1", "relu2_1"))
    objective = Objective({"style": shallow})
    grams = [
        jaxnst.compute_targets({"style": image}, params, objective=objective)["style"]
        for image in (mixed.image, coarse, fine)
    ]
    for layer in shallow.layers:
        found, old, new = (np.asarray(gram[layer]) for gram in grams)
        assert np.sum((found - new) ** 2) < 0.1 * np.sum((found - old) ** 2)
    shapes = [
        np.asarray(jaxnst.luminance(jaxnst.resize(jnp.asarray(x), 8, 8)))[..., 0].ravel()
        for x in (mixed.image, coarse, fine)
    ]
    kept, taken = (np.corrcoef(shapes[0], shape)[0, 1] for shape in shapes[1:])
    assert kept > 0.6 and abs(taken) < 0.3
