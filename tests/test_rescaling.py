"""Rescaled params: means of 1, and the same network up to the factors of its filters."""

import jax
import numpy as np
import pytest
from helpers import call
from naive_vgg19 import assert_close, vgg19

from jaxnst import (
    Geometry,
    Picture,
    extract_features,
    load_image,
    preset,
    rescale_params,
    save_image,
    save_params,
)
from jaxnst.app.inputs import Inputs, network_of, recolored
from jaxnst.app.options import Choice, choose
from jaxnst.app.parser import make_parser
from jaxnst.vgg import LAYERS

RELUS = tuple(layer for layer in LAYERS if layer.startswith("relu"))


@pytest.fixture(scope="module", params=["average", "max"])
def pooling(request):
    return request.param


@pytest.fixture(scope="module")
def pictures(content, style):
    """Two of different sizes."""
    return [content[:32, :48], style[:32, :32]]


@pytest.fixture(scope="module")
def rescaled(pictures, params, pooling):
    return rescale_params(pictures, params, pooling=pooling)


@pytest.fixture(scope="module")
def seen(pictures, params, rescaled, pooling):
    """The features of the plain and of the rescaled network, both naive, by picture."""
    return [[vgg19(x, p, pooling, RELUS)[0] for x in pictures] for p in (params, rescaled)]


def means(features, layer):
    return np.mean([x[layer].mean((0, 1)) for x in features], axis=0)


@pytest.mark.parametrize("layer", RELUS)
def test_each_filter_has_a_mean_activation_of_one(seen, layer):
    before, after = (means(features, layer) for features in seen)
    active = before > 0
    assert active.any() and np.all(after[~active] == 0)
    # In float32, the sums inside a nearly silent filter are rounded as those in its neighbours.
    rounding = 1e-6 * before.mean() / before[active]
    assert np.all(np.abs(after[active] - 1) < 1e-4 + rounding)


@pytest.mark.parametrize("layer", ["relu1_2", "relu3_4", "relu5_4"])
def test_features_are_what_they_were_but_for_the_factors(seen, layer):
    factors = means(seen[0], layer)
    assert layer != "relu5_4" or (factors == 0).any()  # silent filters are tested too
    for plain, other in zip(*seen, strict=True):
        assert_close(other[layer] * np.where(factors > 0, factors, 1), plain[layer], 1e-5)


def test_rescaling_again_changes_nothing(pictures, rescaled, pooling):
    again = rescale_params(pictures, rescaled, pooling=pooling)
    for layer in ("conv1_1", "conv3_1", "conv4_1"):  # without nearly silent filters
        assert_close(again[layer], rescaled[layer], 1e-4)


@pytest.fixture(scope="module")
def short(params):
    """Params that end early."""
    return {name: params[name] for name in ("normalize", "conv1_1", "conv1_2")}


def test_params_that_end_early_are_rescaled_as_far_as_they_go(small, short):
    found = jax.jit(rescale_params)([small], short)
    assert found.keys() == short.keys()
    assert_close(found["normalize"], short["normalize"])
    features = extract_features(small, found, layers=("relu1_2",))["relu1_2"]
    np.testing.assert_allclose(features.mean((0, 1)), 1, rtol=1e-4)


def test_it_needs_a_picture(params):
    with pytest.raises(ValueError, match="one or more pictures"):
        rescale_params([], params)


@pytest.mark.parametrize(
    ("words", "rescales"), [("", False), ("--rescale", True), ("--rescale --pooling max", True)]
)
def test_the_command_rescales_on_request(words, rescales, small, paint, short):
    words = ["transfer", "c", "s", "-o", "o", "--preset", "gatys2016", *words.split()]
    choice = choose(make_parser("gatys2016").parse_args(words))
    inputs = Inputs(small, [Picture(paint)])
    pooling = {"pooling": choice.config.objective.pooling}
    expected = rescale_params([small, paint], short, **pooling) if rescales else short
    assert_close(network_of(choice, inputs, short), expected)
    styles = rescale_params([paint], short, **pooling) if rescales else short
    assert_close(network_of(choice, inputs._replace(content=None), short), styles)
    assert_close(network_of(choice, inputs, short, texture=True), styles)


def test_the_command_rescales_on_the_pictures_that_it_transfers(small, paint, short):
    choice = Choice(*preset("gatys2016"), Geometry(), "content-luminance", rescale=True)
    found = network_of(choice, Inputs(small, [Picture(paint)]), short)
    content, styles = recolored(choice.color, small, [Picture(paint)])
    assert_close(found, rescale_params([content, styles[0].image], short))


@pytest.mark.slow
def test_the_command_uses_the_rescaled_network(small, paint, short, tmp_path):
    files = {"content.png": small, "style.png": paint}
    for name, image in files.items():
        save_image(tmp_path / name, image)
    save_params(tmp_path / "short.safetensors", short)
    words = "--preset gatys2016 --content-layers relu1_2 --style-layers relu1_1 --num-steps 2"
    words += " --optimizer adam --learning-rate 0.1"
    made = {}
    for flag in ("--rescale", "--quiet"):
        out, weights = tmp_path / f"{flag}.png", ("--params", tmp_path / "short.safetensors")
        outcome = call(
            "transfer", *(tmp_path / n for n in files), f"-o={out}", *weights, *words.split(), flag
        )
        assert outcome.status == 0, outcome.err
        made[flag] = np.asarray(load_image(out))
    assert np.abs(made["--rescale"] - made["--quiet"]).max() > 0.01
