"""The recipes against their formulas in NumPy, and against the pictures of version 0.1.0."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import double_precision

import jaxnst
from jaxnst import (
    PRESETS,
    Lbfgs,
    compute_targets,
    extract_features,
    load_image,
    perceptual_loss,
    preset,
    style_transfer,
)
from jaxnst.images import Geometry
from jaxnst.presets import GEOMETRY

STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT = "relu4_2"
CHANNELS = dict(zip(STYLE, (64, 128, 256, 512, 512), strict=True))


def flatten(features):
    """Gatys' F: one row for each of N channels, one column for each of M positions."""
    return np.asarray(features, np.float64).reshape(-1, features.shape[-1]).T


def article(image, content, style):
    """Means of squares; Gram matrices are not divided."""
    total_style = 0.0
    for layer, weight in zip(STYLE, (0.2, 0.4, 0.4, 0.8, 1.0), strict=True):
        f, s = flatten(image[layer]), flatten(style[layer])
        total_style += weight * np.mean((f @ f.T - s @ s.T) ** 2)
    return np.mean((flatten(image[CONTENT]) - flatten(content[CONTENT])) ** 2), total_style


def gatys2016(image, content, style):
    """Equations 1, 4 and 5 of the paper with w_l = 1/5 and beta/alpha = 1000."""
    total_style = 0.0
    for layer in STYLE:
        f, s = flatten(image[layer]), flatten(style[layer])
        n, m = f.shape
        assert s.shape == (n, m)
        total_style += np.sum((f @ f.T - s @ s.T) ** 2) / (4 * n**2 * m**2) / 5
    return 0.5 * np.sum((flatten(image[CONTENT]) - flatten(content[CONTENT])) ** 2), (
        1e3 * total_style
    )


def pastiche(image, content, style, shares=(1, 1, 1, 1, 1)):
    """Gram matrices divided by the positions, each layer by the square of its channels."""
    total_style = 0.0
    for (layer, channels), share in zip(CHANNELS.items(), shares, strict=True):
        f, s = flatten(image[layer]), flatten(style[layer])
        grams = f @ f.T / f.shape[1] - s @ s.T / s.shape[1]
        total_style += share * 10 / channels**2 * np.mean(grams**2)
    return 0.01 * np.mean((flatten(image[CONTENT]) - flatten(content[CONTENT])) ** 2), total_style


def default(image, content, style):
    """As pastiche, with eight times the content, and more of what average pooling makes small."""
    content_loss, style_loss = pastiche(image, content, style, shares=(1, 1, 12, 3, 1000))
    return 8 * content_loss, style_loss


FORMULAS = {
    "default": default,
    "article": article,
    "gatys2016": gatys2016,
    "pastiche": pastiche,
}
POOLING = {"default": "average", "article": "max", "gatys2016": "average", "pastiche": "max"}


def test_every_preset_has_a_formula_here():
    assert set(PRESETS) == set(FORMULAS)


# The paper's equation 4 is for pictures of one size; the others' are for any.
@pytest.mark.parametrize(
    ("name", "same_size"),
    [
        ("article", True),
        ("article", False),
        ("gatys2016", True),
        ("pastiche", False),
        ("default", False),
    ],
)
def test_loss_agrees_with_the_formula(name, same_size, content, style, params):
    if same_size:
        h, w = (min(sides) for sides in zip(content.shape[:2], style.shape[:2], strict=True))
        content, style = content[:h, :w], style[:h, :w]
    image = content + 0.1 * jax.random.normal(jax.random.key(3), content.shape)
    config, weights = preset(name)
    objective = config.objective
    sources = {"content": content, "style": style}
    targets = compute_targets(sources, params, objective=objective)
    loss, terms = perceptual_loss(image, params, targets, weights, objective=objective)

    seen = [
        extract_features(x, params, layers=(CONTENT, *STYLE), pooling=POOLING[name])
        for x in (image, content, style)
    ]
    expected_content, expected_style = FORMULAS[name](*seen)
    assert expected_content > 0
    assert expected_style > 0
    np.testing.assert_allclose(terms["content"], expected_content, rtol=1e-4)
    np.testing.assert_allclose(terms["style"], expected_style, rtol=1e-4)
    assert terms["tv"] == 0
    np.testing.assert_allclose(loss, expected_content + expected_style, rtol=1e-4)


GOLDEN = np.load(Path(__file__).parent / "assets" / "recipes_golden.npz")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "article", "gatys2016"])
def test_recipes_make_the_pictures_of_version_0_1_0(name, params):
    """In float64, where rounding does not grow along a run: see assets/make_recipe_golden.py."""
    demo = Path(jaxnst.__file__).parent / "demo"
    config, weights = preset(name)
    config = replace(config, objective=replace(config.objective, dtype="float64"), num_steps=20)
    with double_precision():
        content, style = (
            jnp.asarray(load_image(demo / f"{file}.jpg", size=128), jnp.float64)
            for file in ("content", "style")
        )
        result = style_transfer(content, style, params=params, weights=weights, config=config)
    assert result.image.dtype == jnp.float64
    np.testing.assert_allclose(result.image, GOLDEN[f"{name}_image"], atol=1e-5)
    np.testing.assert_allclose(result.history["loss"], GOLDEN[f"{name}_loss"], rtol=1e-5)


def test_how_the_recipes_run():
    configs = {name: preset(name).config for name in PRESETS}
    assert {name: (c.init, c.num_steps, c.min_size) for name, c in configs.items()} == {
        "default": ("content", 100, 128),  # from coarse to fine
        "article": ("content", 300, None),
        "gatys2016": ("noise", 500, None),
        "pastiche": ("content", 1000, None),
    }
    assert all(isinstance(config.optimizer, Lbfgs) for config in configs.values())
    assert {"article": Geometry(size=256, fit="short", crop=True)} == GEOMETRY


@pytest.mark.parametrize("name", PRESETS)
def test_changing_a_preset_leaves_the_next_one_alone(name):
    _, weights = preset(name)
    weights.layers["style"]["relu1_1"] = jnp.nan
    weights.layers["content"].clear()
    weights.scales.clear()
    _, again = preset(name)
    assert np.isfinite(again.layers["style"]["relu1_1"])
    assert again.layers["content"] == {CONTENT: 1.0} and again.scales["tv"] == 0


@pytest.mark.parametrize("name", ["gatys", "", "Article"])
def test_an_unknown_name_lists_the_presets(name):
    with pytest.raises(ValueError, match=f"no preset {name!r}") as info:
        preset(name)
    assert all(known in str(info.value) for known in PRESETS)
    assert "\n" not in str(info.value)
