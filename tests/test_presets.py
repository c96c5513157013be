"""The presets against their sources' formulas in NumPy, and the pictures of version 0.1.0."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import double_precision
from naive_statistics import naive_nine_points, root
from naive_vgg19 import vgg19

import jaxnst
from jaxnst import (
    PRESETS,
    Adam,
    Lbfgs,
    compute_targets,
    load_image,
    loss_and_grad,
    preset,
    style_transfer,
)
from jaxnst.images import Geometry
from jaxnst.presets import GEOMETRY, RESCALED
from jaxnst.scales import schedule

STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT = "relu4_2"
CHANNELS = dict(zip(STYLE, (64, 128, 256, 512, 512), strict=True))


# --- Formulas: the terms of the loss from features by layer ---------------------------------------


def flatten(features):
    """Gatys' F: one row for each of N channels, one column for each of M positions."""
    return features.reshape(-1, features.shape[-1]).T


def gram(features):
    """Divided by the positions."""
    f = flatten(features)
    return f @ f.T / f.shape[1]


def mse(x, y):
    return np.mean((x - y) ** 2)


def gram_losses(image, style):
    return {layer: mse(gram(image[layer]), gram(style[layer])) for layer in STYLE}


def content_loss(image, content):
    return mse(image[CONTENT], content[CONTENT])


def article(image, content, style):
    """Means of squares; Gram matrices are not divided."""
    total = 0.0
    for layer, weight in zip(STYLE, (0.2, 0.4, 0.4, 0.8, 1.0), strict=True):
        f, s = flatten(image[layer]), flatten(style[layer])
        total += weight * np.mean((f @ f.T - s @ s.T) ** 2)
    return {"content": content_loss(image, content), "style": total}


def gatys2016(image, content, style):
    """Equations 1, 4 and 5 of the paper with w_l = 1/5 and beta/alpha = 1000."""
    total = 0.0
    for layer in STYLE:
        f, s = flatten(image[layer]), flatten(style[layer])
        n, m = f.shape
        assert s.shape == (n, m)
        total += np.sum((f @ f.T - s @ s.T) ** 2) / (4 * n**2 * m**2) / 5
    squares = np.sum((image[CONTENT] - content[CONTENT]) ** 2)
    return {"content": 0.5 * squares, "style": 1e3 * total}


def pastiche(image, content, style, shares=(1, 1, 1, 1, 1), scale=10.0, content_scale=0.01):
    """Gram matrices divided by the positions, each layer by the square of its channels."""
    losses = gram_losses(image, style)
    total = sum(
        share / CHANNELS[layer] ** 2 * losses[layer]
        for layer, share in zip(STYLE, shares, strict=True)
    )
    return {"content": content_scale * content_loss(image, content), "style": scale * total}


def default(image, content, style):
    """As pastiche, with eight times the content, and more of what average pooling makes small."""
    return pastiche(image, content, style, (1, 1, 12, 3, 1000), content_scale=0.08)


def gatys_pytorch(image, content, style):
    """The weight of a layer is 1e3 over the square of its channels."""
    return pastiche(image, content, style, scale=1e3, content_scale=1.0)


def divided_by_elements(image, style):
    """The error of each layer's Gram matrix, divided by channels, height and width."""
    grams = [
        {layer: flatten(x[layer]) @ flatten(x[layer]).T / x[layer].size for layer in STYLE}
        for x in (image, style)
    ]
    return [mse(grams[0][layer], grams[1][layer]) for layer in STYLE]


def neural_style(image, content, style):
    """The penalty is in the gradient only."""
    total = 1e2 * sum(divided_by_elements(image, style))
    return {"content": 5 * content_loss(image, content), "style": total, "tv": 0}


def hidden_penalty(pixels):
    x = 256 * pixels
    across, down = x[:-1, 1:] - x[:-1, :-1], x[1:, :-1] - x[:-1, :-1]
    return 1e-3 * np.sum(across**2 + down**2) / 2


def anishathalye(image, content, style):
    """The penalty divides the squares of each direction by their number."""
    x = 255 * image["image"]
    down, across = x[1:] - x[:-1], x[:, 1:] - x[:, :-1]
    return {
        "content": 5 * content_loss(image, content),
        "style": 5e2 * np.mean(divided_by_elements(image, style)),
        "tv": 1e2 * (np.sum(down**2) / down.size + np.sum(across**2) / across.size),
    }


def gaussian(features):
    """The mean and covariance, with what `wasserstein_gaussian` adds to it."""
    f = flatten(features)
    floor = 1e-4 + 1e-5 * np.mean(f**2, 1).sum()
    return f.mean(1), np.cov(f, bias=True) + floor * np.eye(len(f))


ROOTS = {}


def style_gaussian(features):
    """The same of a style, and the root of its covariance, which takes long."""
    mean, covariance = gaussian(features)
    key = covariance.tobytes()
    if key not in ROOTS:
        ROOTS[key] = root(covariance)
    return mean, covariance, ROOTS[key]


def wasserstein(x, y):
    (mean, a), (other, b, side) = gaussian(x), style_gaussian(y)
    between = np.sqrt(np.linalg.eigvalsh(side @ a @ side)).sum()
    return (np.sum((mean - other) ** 2) + np.trace(a + b) - 2 * between) / len(mean)


def crowsonkb(image, content, style):
    weights = np.array([256, 64, 16, 4, 1])
    distances = [wasserstein(image[layer], style[layer]) for layer in STYLE]
    return {
        "content": 0.015 * content_loss(image, content),
        "style": weights / weights.sum() @ distances,
        "tv": 2 * naive_nine_points(image["image"]),
    }


def spst(image, content, style):
    """Three losses at each layer."""
    losses = {"content": content_loss(image, content), "style": 0.0, "moments": 0.0}
    for layer, grams in gram_losses(image, style).items():
        f, s = flatten(image[layer]), flatten(style[layer])
        losses["style"] += 1e3 / CHANNELS[layer] ** 2 * grams
        losses["moments"] += 1e4 * (mse(f.mean(1), s.mean(1)) + mse(f.std(1), s.std(1)))
    return losses


FORMULAS = {
    "default": default,
    "article": article,
    "gatys2016": gatys2016,
    "pastiche": pastiche,
    "gatys-pytorch": gatys_pytorch,
    "neural-style": neural_style,
    "anishathalye": anishathalye,
    "crowsonkb": crowsonkb,
    "spst": spst,
}
AVERAGE = {"default", "gatys2016"}  # the others have max pooling


def test_every_preset_has_a_formula_here():
    assert set(PRESETS) == set(FORMULAS)


@pytest.fixture(scope="module")
def pictures(content, style):
    """An image and a content, (40, 48, 3), a style of another size, and one of the same."""
    content = content[:40, :48]
    image = content + 0.1 * jax.random.normal(jax.random.key(3), content.shape)
    return {"image": image, "content": content, "style": style[:44, :40], "same": style[-40:, -48:]}


STEP = 1e-6


@pytest.fixture(scope="module")
def seen(pictures, params):
    """Features by the naive network, by pooling and by picture, and beside the image."""
    beside = np.random.default_rng(0).normal(size=(2, *pictures["image"].shape))
    moved = {
        (direction, sign): np.asarray(pictures["image"], np.float64) + sign * STEP * delta
        for direction, delta in enumerate(beside)
        for sign in (-1, 1)
    }

    def look(picture, pooling):
        features, _ = vgg19(picture, params, pooling, (CONTENT, *STYLE))
        return features | {"image": np.asarray(picture, np.float64)}

    return beside, {
        pooling: {name: look(x, pooling) for name, x in (pictures | moved).items()}
        for pooling in ("max", "average")
    }


# The paper's equation 4 is for pictures of one size; the others' are for any.
@pytest.mark.parametrize(
    ("name", "painting"),
    [*((name, "style") for name in FORMULAS if name != "gatys2016"), ("gatys2016", "same")],
)
def test_loss_and_gradient_agree_with_the_formula(name, painting, pictures, seen, params):
    config, weights = preset(name)
    objective = config.objective
    sources = {"content": pictures["content"], "style": pictures[painting]}
    targets = compute_targets(sources, params, objective=objective)
    (loss, terms), grad = loss_and_grad(
        pictures["image"], params, targets, weights, objective=objective
    )

    directions, features = seen
    features = features["average" if name in AVERAGE else "max"]

    def formula(picture):
        return {"tv": 0.0} | FORMULAS[name](
            features[picture], features["content"], features[painting]
        )

    expected = formula("image")
    assert expected.keys() == terms.keys()
    for term, value in expected.items():
        assert term == "tv" or value > 0
        np.testing.assert_allclose(terms[term], value, rtol=1e-4)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-4)

    def objective_at(picture):
        hidden = hidden_penalty(features[picture]["image"]) if name == "neural-style" else 0.0
        return sum(formula(picture).values()) + hidden

    grad = np.asarray(grad, np.float64)
    for index, direction in enumerate(directions):
        slope = (objective_at((index, 1)) - objective_at((index, -1))) / (2 * STEP)
        # A random direction's slope is about as large as the gradient is long.
        assert abs(np.sum(grad * direction) - slope) < 1e-3 * np.linalg.norm(grad)


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
        "gatys-pytorch": ("content", (500, 200), 512),
        "neural-style": ("noise", 1000, None),
        "anishathalye": ("noise", 1000, None),
        "crowsonkb": ("content", (1000, 500), 128),
        "spst": ("content", (600, 300), 512),
    }
    optimizers = {name: config.optimizer for name, config in configs.items()}
    assert optimizers.pop("anishathalye") == Adam(10 / 255)
    assert optimizers.pop("crowsonkb") == Adam(0.02, b1=0.9, b2=0.99, average=0.99, clamp=True)
    assert optimizers.pop("default") == optimizers.pop("gatys2016") == Lbfgs()
    assert set(optimizers.values()) == {Lbfgs(memory=100)}
    assert GEOMETRY.keys() == {"article", "gatys-pytorch"} and RESCALED == ("gatys2016",)
    assert GEOMETRY["article"] == Geometry(size=256, fit="short", crop=True)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("gatys-pytorch", (600, 800), [(512, 500), (800, 200)]),
        ("crowsonkb", (384, 512), [(128, 1000), (181, 500), (256, 500), (362, 500), (512, 500)]),
        ("spst", (1000, 1000), [(1000, 600)]),
        ("spst", (2048, 2048), [(512, 600), (1024, 300), (2048, 300)]),
    ],
)
def test_scales_are_those_of_the_source(name, shape, expected):
    scales = schedule((*shape, 3), preset(name).config)
    assert [(max(scale.shape), scale.num_steps) for scale in scales] == expected


@pytest.mark.parametrize("name", PRESETS)
def test_changing_a_preset_leaves_the_next_one_alone(name):
    expected = repr(preset(name).weights)
    _, weights = preset(name)
    weights.layers["style"]["relu1_1"] = jnp.nan
    weights.layers["content"].clear()
    weights.scales.clear()
    assert repr(preset(name).weights) == expected


@pytest.mark.parametrize("name", ["gatys", "", "Article"])
def test_an_unknown_name_lists_the_presets(name):
    with pytest.raises(ValueError, match=f"no preset {name!r}") as info:
        preset(name)
    assert all(known in str(info.value) for known in PRESETS)
    assert "\n" not in str(info.value)
