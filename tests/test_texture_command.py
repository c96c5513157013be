"""`jaxnst texture`: the picture of `synthesize_texture`, and one line for what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import Outcome, call, check_refused

import jaxnst

LAYERS = ("relu1_1", "pool1")  # one block of the network, which is soon compiled
WORDS = ["--size", "32", "--num-steps", "3", "--seed", "5", "--style-layers", *LAYERS]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work beside two styles."""
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        image = np.random.default_rng(seed).uniform(size=(40, 32, 3)).astype(np.float32)
        jaxnst.save_image(tmp_path / f"{seed}.png", image)


def texture(*words: str, styles: Sequence[str] = ("0.png",)) -> Outcome:
    return call("texture", *styles, "-o", "out.png", *WORDS, *words)


def test_the_command_makes_the_picture_of_the_function() -> None:
    words = ["--blend", "3", "1", "--shape", "24", "36", "--tileable", "--save-every", "3"]
    outcome = texture(*words, styles=["0.png", "1.png"])
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.endswith("after 3 evaluations\n")
    config, _ = jaxnst.texture_recipe()
    style = replace(config.objective.terms["style"], layers=LAYERS)
    objective = replace(config.objective, terms={"style": style})
    result = jaxnst.synthesize_texture(
        [jaxnst.load_image(f"{seed}.png", size=32) for seed in (0, 1)],
        shape=(24, 36),
        params=jaxnst.load_params(),
        config=replace(config, objective=objective, num_steps=3, seed=5),
        weights=jaxnst.LossWeights.ones(objective).replace(style=100.0),
        blend=[3.0, 1.0],
        tileable=True,
    )
    jaxnst.save_image("expected.png", result.image)
    assert Path("out.png").read_bytes() == Path("expected.png").read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == [
        "0.png",
        "1.png",
        "expected.png",
        "out.png",
        "out_3.png",
    ]
    # What is saved before is not rolled.
    images = [np.asarray(jaxnst.load_image(name)) for name in ("out.png", "out_3.png")]
    assert not np.array_equal(*images)
    np.testing.assert_array_equal(*(np.sort(image.reshape(-1, 3), axis=0) for image in images))


def test_a_texture_is_a_square_of_the_size_unless_it_has_a_shape() -> None:
    assert texture("--animation", "run.gif").status == 0
    assert jaxnst.load_image("out.png").shape == (32, 32, 3) and Path("run.gif").exists()


def test_the_network_can_be_rescaled_on_the_styles() -> None:
    assert texture().status == 0
    plain = np.asarray(jaxnst.load_image("out.png"))
    assert texture("--rescale").status == 0
    assert np.abs(jaxnst.load_image("out.png") - plain).max() > 0.01


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--shape", "31", "32", "--tileable"], "multiples of 2 pixels"),
        (["--shape", "32"], "--shape"),
        (["--shape", "0", "32"], "--shape"),
        (["--content-weight", "1"], "--content-weight"),
        (["--preset", "default"], "--preset"),
        (["--blend", "1", "2"], "--blend has 2 shares"),
        (["--params", "none.h5"], "none.h5"),
        (["--resume"], "out.png"),
        (["-o", "0.png"], "0.png"),
    ],
)
def test_bad_input_is_refused_in_one_line(words: list[str], part: str) -> None:
    check_refused(texture(*words), part)
    assert not Path("out.png").exists()


def test_help_has_no_options_of_a_content() -> None:
    outcome = call("texture", "--help")
    assert outcome.status == 0 and "--tileable" in outcome.out
    for option in ("--content-weight", "--masks", "--color", "--preset", "--init", "--padding"):
        assert option not in outcome.out


def test_mix_makes_the_picture_of_the_function() -> None:
    outcome = call("mix", "0.png", "1.png", "-o", "out.png", *WORDS[:4], "--style-layers", *LAYERS)
    assert (outcome.status, outcome.err) == (0, "")
    config, weights = jaxnst.mix_recipe()
    style = replace(config.objective.terms["style"], layers=LAYERS)
    objective = replace(config.objective, terms={"style": style})
    coarse, fine = (jaxnst.load_image(f"{seed}.png", size=32) for seed in (0, 1))
    result = jaxnst.mix_styles(
        coarse,
        fine,
        params=jaxnst.load_params(),
        config=replace(config, objective=objective, num_steps=3),
        weights=jaxnst.LossWeights.ones(objective).replace(style=100.0),
    )
    assert np.abs(jaxnst.load_image("out.png") - result.image).max() < 0.6 / 255
