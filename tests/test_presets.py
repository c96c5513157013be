"""The presets against their sources' formulas in NumPy, and the pictures of version 0.1.0."""

import re
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import call, double_precision
from naive_statistics import SHARE
from naive_vgg19 import vgg19
from published_losses import CONTENT, FORMULAS, STYLE, crowsonkb, hidden_penalty

import jaxnst
from jaxnst import (
    PRESETS,
    Adam,
    Lbfgs,
    compute_targets,
    gram_matrix,
    init,
    load_image,
    loss_and_grad,
    outcome,
    preset,
    raw_gram_matrix,
    step,
    style_transfer,
)
from jaxnst.images import Geometry
from jaxnst.presets import GEOMETRY
from jaxnst.schedule import schedule

#: The pooling and padding of the network; max pooling and zeros if not here.
NETWORKS = {
    "default": ("max", "replicate"),
    "gatys2016": ("average", "zero"),
    "crowsonkb": ("max", ("replicate", "zero")),
}


def test_every_preset_has_a_formula_here():
    # test_samples.py has the formulas of the terms of the last two.
    assert set(PRESETS) == {*FORMULAS, "fast", "fine", "strotss-like", "nnst-like"}


@pytest.fixture(scope="module")
def pictures(content, style):
    """An image and a content, (40, 48, 3), a style of another size, and one of the same."""
    content = content[:40, :48]
    image = content + 0.1 * jax.random.normal(jax.random.key(3), content.shape)
    return {"image": image, "content": content, "style": style[:44, :40], "same": style[-40:, -48:]}


STEP = 1e-6


@pytest.fixture(scope="module")
def seen(pictures, params):
    """Directions, and a function to features by the naive network, also beside the image."""
    beside = np.random.default_rng(0).normal(size=(1, *pictures["image"].shape))
    moved = {
        (direction, sign): np.asarray(pictures["image"], np.float64) + sign * STEP * delta
        for direction, delta in enumerate(beside)
        for sign in (-1, 1)
    }

    pictures = pictures | moved

    @cache
    def look(name, pooling="max", padding="zero"):
        layers = (CONTENT, *STYLE)
        features, _ = vgg19(pictures[name], params, pooling, layers, padding)
        return features | {"image": np.asarray(pictures[name], np.float64)}

    return beside, look


CASES = [
    # The paper's equation 4 is for pictures of one size; the others' are for any.
    pytest.param(name, "same" if name == "gatys2016" else "style", "float32", FORMULAS[name])
    for name in FORMULAS
    if name != "crowsonkb"
] + [
    # Only float32 needs a share of the second moments, which the source does not add.
    pytest.param(
        "crowsonkb", "style", dtype, partial(crowsonkb, share=share), marks=pytest.mark.slow
    )
    for dtype, share in (("float32", SHARE), ("float64", 0.0))
]


@pytest.mark.parametrize(("name", "painting", "dtype", "published"), CASES)
def test_loss_and_gradient_agree_with_the_formula(
    name, painting, dtype, published, pictures, seen, params
):
    config, weights = preset(name)
    objective = replace(config.objective, dtype=dtype)
    with double_precision() if dtype == "float64" else nullcontext():
        image, content, style, exact = jax.tree.map(
            lambda x: jnp.asarray(x, dtype),
            (pictures["image"], pictures["content"], pictures[painting], params),
        )
        targets = compute_targets({"content": content, "style": style}, exact, objective=objective)
        (loss, terms), grad = loss_and_grad(image, exact, targets, weights, objective=objective)
        grad = np.asarray(grad, np.float64)

    directions, look = seen

    @cache
    def features(picture):
        return look(picture, *NETWORKS.get(name, ()))

    def formula(picture):
        return {"tv": 0.0} | published(*map(features, (picture, "content", painting)))

    expected = formula("image")
    assert expected.keys() == terms.keys()
    for term, value in expected.items():
        assert term in ("tv", "range") or value > 0
        np.testing.assert_allclose(terms[term], value, rtol=1e-4)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-4)

    def objective_at(picture):
        hidden = hidden_penalty(features(picture)["image"]) if name == "neural-style" else 0.0
        return sum(formula(picture).values()) + hidden

    for index, direction in enumerate(directions):
        slope = (objective_at((index, 1)) - objective_at((index, -1))) / (2 * STEP)
        # A random direction's slope is about as large as the gradient is long.
        assert abs(np.sum(grad * direction) - slope) < 1e-3 * np.linalg.norm(grad)


GOLDEN = np.load(Path(__file__).parent / "assets" / "recipes_golden.npz")


def first_default():
    """The recipe "default" of version 0.1.0."""
    config, weights = preset("pastiche")
    objective = replace(config.objective, pooling="average")
    shares = {"relu3_1": 12.0, "relu4_1": 3.0, "relu5_1": 1000.0}
    layers = weights.layers["style"]
    layers = {layer: share * shares.get(layer, 1.0) for layer, share in layers.items()}
    weights = weights.replace(content=0.08).replace_layers(style=layers)
    return replace(config, objective=objective, optimizer=Lbfgs()), weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "article", "gatys2016"])
def test_recipes_make_the_pictures_of_version_0_1_0(name, params):
    """In float64, where rounding does not grow along a run: see assets/make_recipe_golden.py."""
    demo = Path(jaxnst.__file__).parent / "demo"
    config, weights = first_default() if name == "default" else preset(name)
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
        "default": ("content", (100, 85), 128),  # from coarse to fine
        "fast": ("content", (100, 40, 20), 128),
        "fine": ("content", (300, 255), 128),
        "article": ("content", 300, None),
        "gatys2016": ("noise", 500, None),
        "pastiche": ("content", 1000, None),
        "gatys-pytorch": ("content", (500, 200), 512),
        "neural-style": ("mean", 1000, None),
        "anishathalye": ("mean", 1000, None),
        "crowsonkb": ("content", (1000, 500), 128),
        "spst": ("content", (600, 300), 512),
        "strotss-like": ("content", 150, 64),
        "nnst-like": ("content", 150, 64),
    }
    optimizers = {name: config.optimizer for name, config in configs.items()}
    assert optimizers.pop("strotss-like") == optimizers.pop("nnst-like") == Adam(0.01)
    assert optimizers.pop("anishathalye") == Adam(10 / 255)
    assert optimizers.pop("crowsonkb") == Adam(0.02, b1=0.9, b2=0.99, average=0.99, clamp=True)
    for name in ("default", "fast", "fine", "gatys2016"):
        assert optimizers.pop(name) == Lbfgs()
    assert set(optimizers.values()) == {Lbfgs(memory=100)}
    assert GEOMETRY.keys() == {"article", "gatys-pytorch"}
    assert GEOMETRY["article"] == Geometry(size=256, fit="short", crop=True)


def test_fast_and_fine_are_the_default_recipe_in_other_times():
    config, weights = preset("default")
    for name in ("fast", "fine"):
        other = preset(name)
        assert other.weights == weights
        assert replace(other.config, num_steps=config.num_steps) == config


def test_only_our_own_recipes_paint_in_details():
    details = {name: preset(name).config.details for name in PRESETS}
    assert {name for name, value in details.items() if value and preset(name).config.min_size} == {
        "default",
        "fast",
        "fine",
    }


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


def test_what_is_added_to_covariances_is_little(seen):
    features = [seen[1](name, *NETWORKS["crowsonkb"]) for name in ("image", "content", "style")]
    ours, source = (crowsonkb(*features, share)["style"] for share in (SHARE, 0))
    np.testing.assert_allclose(ours, source, rtol=0.01)


def test_crowsonkb_takes_the_steps_of_its_source():
    """Adam, clamped to [0, 1], and the average of images without bias."""
    wanted = np.random.default_rng(0).uniform(-0.5, 1.5, (2, 3, 3))

    def value_and_grad(x):
        return jnp.sum((x - wanted.astype(np.float32)) ** 2), 2 * (x - wanted.astype(np.float32))

    optimizer = preset("crowsonkb").config.optimizer
    state = init(value_and_grad, jnp.full(wanted.shape, 0.03), optimizer=optimizer)
    x, first, second, average = np.full(wanted.shape, 0.03), 0.0, 0.0, 0.0
    for count in range(1, 5):
        state, _ = step(value_and_grad, state, optimizer=optimizer)
        grad = 2 * (x - wanted)
        first, second = 0.9 * first + 0.1 * grad, 0.99 * second + 0.01 * grad**2
        mean, square = first / (1 - 0.9**count), second / (1 - 0.99**count)
        x = np.clip(x - 0.02 * mean / (np.sqrt(square) + 1e-8), 0, 1)
        average = 0.99 * average + 0.01 * x
        np.testing.assert_allclose(state.x, x, atol=1e-5)
        np.testing.assert_allclose(outcome(state), average / (1 - 0.99**count), atol=1e-5)
    assert (x == 0).any() and (x > 0).any()


def test_the_table_in_the_documents_says_what_the_presets_do():
    page = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
    rows = re.findall(
        r"^\| `([\w-]+)` " + r"\|([^|\n]*)" * 6 + r"\|$", page.read_text("utf-8"), re.M
    )
    assert sorted(row[0] for row in rows) == sorted(PRESETS)
    for name, content, style, others, pooling, start, run in rows:
        config, weights = preset(name)
        terms, scales = config.objective.terms, weights.scales
        assert re.search(r"[\d.]+", content)[0] == f"{scales['content']:g}"
        statistic = getattr(terms["style"], "statistic", None)
        assert ("Gram" in style) == (statistic in (gram_matrix, raw_gram_matrix))
        others_count = any(scales[term] for term in terms if term not in ("content", "style"))
        assert bool(others.strip()) == others_count
        assert (pooling.strip(), start.split()[0]) == (config.objective.pooling, config.init)
        kind, *numbers = re.findall(r"L-BFGS|Adam [\d.]+|\d+", run)
        adam = f"Adam {config.optimizer.learning_rate:.2g}"
        assert kind == (adam if isinstance(config.optimizer, Adam) else "L-BFGS")
        sizes = [] if config.min_size is None else [config.min_size]
        assert {*map(int, numbers)} >= {*config.steps, *sizes}


@pytest.mark.parametrize("name", PRESETS)
def test_the_command_has_options_for_the_terms(name):
    status, out, err = call("transfer", "--preset", name, "--help")
    assert (status, err) == (0, "")
    assert all(f"--{term}-weight" in out for term in preset(name).weights.scales)


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
