"""Masks, shares and first images on the command line."""

from pathlib import Path

import helpers
import numpy as np
import pytest
from PIL import Image

import jaxnst
from jaxnst.app.inputs import read_inputs
from jaxnst.app.options import choose
from jaxnst.app.parser import make_parser
from jaxnst.images import Geometry

SMALL = ["--preset", "pastiche", "--content-layers", "relu2_1", "--style-layers", "relu1_1"]
SMALL += ["--optimizer", "adam", "--size", "32", "--num-steps", "3"]


def call(*words):
    return helpers.call("transfer", "photo.png", *words, "-o", "out.png", *SMALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name, (width, height) in {"photo": (48, 32), "sky": (40, 30), "ground": (30, 40)}.items():
        coarse = Image.fromarray(draw.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(f"{name}.png")
    left = np.zeros((32, 48), np.uint8)
    left[:, :24] = 255
    corner = np.where(np.arange(48) < 12, left, 0).astype(np.uint8)
    for name, mask in {
        "left": left,
        "right": 255 - left,
        "black": 0 * left,
        "white": 255 - 0 * left,
        "corner": corner,
    }.items():
        Image.fromarray(mask).save(f"{name}.png")
    return tmp_path


def made(path="out.png"):
    with Image.open(path) as picture:
        return np.asarray(picture, float) / 255


def test_masks_are_regions_of_the_library(folder, params):
    masks = ["--masks", "left.png", "right.png", "--style-masks", "left.png", "right.png"]
    Image.open("photo.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("sky.png")
    Image.open("photo.png").transpose(Image.Transpose.FLIP_TOP_BOTTOM).save("ground.png")
    assert call("sky.png", "ground.png", *masks).status == 0
    options = make_parser().parse_args(["transfer", "a", "b", "-o", "c", *SMALL])
    config, weights, *_ = choose(options)
    content, sky, ground = (
        jaxnst.load_image(f"{name}.png", size=32) for name in ("photo", "sky", "ground")
    )
    regions = np.stack([jaxnst.load_mask(f"{name}.png", size=32) for name in ("left", "right")])
    styles = [
        jaxnst.Picture(image, regions=np.stack([mask, mask]))
        for image, mask in zip((sky, ground), regions, strict=True)
    ]
    result = jaxnst.style_transfer(
        content, styles, params=params, weights=weights, config=config, regions=regions
    )
    assert np.abs(made() - np.asarray(result.image)).max() <= 0.5001 / 255
    plain = made()
    assert call("sky.png", "ground.png").status == 0
    assert np.abs(made() - plain).max() > 3 / 255


def test_blend(folder):
    pictures = {}
    for shares in ("1 1", "2 2", "3 1", "1 0"):
        assert call("sky.png", "ground.png", "--blend", *shares.split()).status == 0
        pictures[shares] = made()
    assert call("sky.png", "ground.png").status == 0
    np.testing.assert_array_equal(made(), pictures["1 1"])
    np.testing.assert_allclose(pictures["2 2"], pictures["1 1"], atol=1.1 / 255)
    assert call("sky.png").status == 0
    np.testing.assert_allclose(pictures["1 0"], made(), atol=1.1 / 255)
    assert np.abs(pictures["3 1"] - pictures["1 1"]).max() > 3 / 255


def test_a_first_image_from_a_file(folder):
    Image.open("photo.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("first.png")
    few = ["--num-steps", "1"]
    assert call("sky.png", "--init", "first.png", *few).status == 0
    expected = np.asarray(jaxnst.load_image("first.png", size=32))
    np.testing.assert_allclose(made(), expected, atol=12 / 255)  # one small step away
    assert call("sky.png", *few).status == 0
    np.testing.assert_allclose(made()[:, ::-1], expected, atol=12 / 255)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("sky.png ground.png --masks left.png", "has 1 masks, but there are 2 styles"),
        ("sky.png --masks left.png right.png", "has 2 masks, but there are 1 styles"),
        ("sky.png --masks sky.png", "the same proportions"),
        ("sky.png --masks black.png", "black everywhere"),
        ("sky.png --masks none.png", "none.png"),
        ("sky.png --style-masks sky.png", "--masks"),
        ("sky.png --masks left.png --style-masks left.png", "the same proportions"),
        ("sky.png ground.png --masks left.png right.png --blend 1 2", "give one of both"),
        ("sky.png ground.png --blend 1", "has 1 shares, but there are 2 styles"),
        ("sky.png ground.png --blend 0 0", "above 0"),
        ("sky.png ground.png --blend 1 -1", "--blend"),
        ("sky.png --content-mask sky.png", "the same proportions"),
        ("sky.png --content-mask black.png", "black everywhere"),
        ("sky.png --content-mask white.png", "white everywhere"),
        ("sky.png ground.png --masks corner.png right.png --content-mask left.png", "all of the"),
        ("sky.png --init sky.png", "the same proportions"),
        ("sky.png --init nothing", "nothing"),
        ("sky.png --style-scale 0", "style_scale must be above 0, not 0.0"),
        ("sky.png --style-scale 1 2", "has 2 numbers, but there are 1 styles"),
        ("sky.png --noise-share 1.5", "noise_share must be a number from 0 to 1"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(folder, words, part):
    before = sorted(Path().iterdir())
    helpers.check_refused(call(*words.split()), part)
    assert sorted(Path().iterdir()) == before


def test_masks_are_inputs_that_nothing_overwrites(folder):
    words = ["photo.png", "sky.png", "ground.png", "--masks", "left.png", "right.png"]
    helpers.check_refused(helpers.call("transfer", *words, "-o", "left.png", *SMALL), "overwrite")


def read(*words):
    words = ["transfer", "photo.png", "sky.png", "ground.png", "-o", "c", *words]
    return read_inputs(make_parser().parse_args(words), Geometry(size=32))


def test_each_style_is_read_at_its_scale_but_not_enlarged(folder):
    for words, sizes in (
        ([], [(24, 32), (32, 24)]),
        (["--style-scale", "0.5"], [(12, 16), (16, 12)]),
        (["--style-scale", "0.5", "2"], [(12, 16), (40, 30)]),
    ):
        assert [style.image.shape[:2] for style in read(*words).styles] == sizes


def test_other_masks_do_not_resume(folder):
    def fingerprint(*words):
        return read(*words).fingerprint

    plain = fingerprint()
    for words, names in [
        (["--masks", "left.png", "right.png"], {"masks"}),
        (["--blend", "1", "2"], {"blend"}),
        (["--init", "photo.png"], {"init_file"}),
        (["--content-mask", "left.png"], {"content_mask"}),
    ]:
        changed = fingerprint(*words)
        assert {name for name in plain if plain[name] != changed[name]} == names
