"""Options come from the recipes' dataclasses and terms, and change what they name alone."""

import dataclasses
import typing

import numpy as np
import pytest
from helpers import call

import jaxnst
from jaxnst.app import options
from jaxnst.app.parser import make_parser
from jaxnst.images import Geometry
from jaxnst.optimizers import OPTIMIZERS, Adam, Lbfgs
from jaxnst.presets import GEOMETRY, PRESETS, preset
from jaxnst.recipes import Recipe, TransferConfig


def described(cls: type) -> set[str]:
    """Return the options that a dataclass has by the help of its fields."""
    assert dataclasses.is_dataclass(cls)
    fields = [f.name for f in dataclasses.fields(cls) if "help" in f.metadata]
    return {"--" + name.replace("_", "-") for name in fields}


@pytest.mark.parametrize("command", ["transfer", "demo"])
def test_help_lists_every_option(command: str) -> None:
    outcome = call(command, "--help")
    assert (outcome.status, outcome.err) == (0, "")
    words = set(outcome.out.replace(",", " ").split())
    classes = TransferConfig, jaxnst.Objective, Geometry, *OPTIMIZERS.values()
    terms = preset("default").config.objective.terms
    expected = set().union(*map(described, classes), {f"--{name}-weight" for name in terms})
    assert len(expected) > 15
    assert expected | {"--preset", "--content-layers", "--style-layers"} <= words
    assert "--tv-layers" not in words  # it looks at the image alone
    assert all(name in outcome.out for name in PRESETS)


def test_help_fits_the_reader() -> None:
    """One line of usage, meanings of all arguments, and what most users need first."""
    text = call("transfer", "--help").out
    usage, _, rest = text.partition("\n\n")
    assert usage == "usage: jaxnst transfer CONTENT STYLE [STYLE ...] -o OUT [OPTION ...]"
    order = ["the picture to give", "the picture whose", "write the result", "\ncommon options:"]
    order += ["--size", "--num-steps", "--content-weight", "--style-weight", "--preset", "--color"]
    order += ["--blend", "\nregions:", "--masks", "\nwhile it runs", "\nexpert options:", "--dtype"]
    places = [rest.index(words) for words in order]
    assert places == sorted(places)


def recipe(text: str, command: str = "transfer c s -o o") -> options.Choice:
    words = [*command.split(), *text.split()]
    return options.choose(make_parser(options.preset_named(words)).parse_args(words))


@pytest.mark.parametrize("name", PRESETS)
def test_without_options_the_recipe_is_the_preset(name: str) -> None:
    assert recipe(f"--preset {name}") == (
        *preset(name),
        GEOMETRY.get(name, Geometry()),
        "style",
        False,
    )


def test_without_a_preset_the_recipe_is_the_default() -> None:
    assert recipe("") == (*preset("default"), Geometry(), "style", False)


@pytest.mark.parametrize(
    ("option", "part", "field", "value"),
    [
        ("--init noise", "config", "init", "noise"),
        ("--optimizer adam", "config", "optimizer", Adam()),
        ("--optimizer adam --b2 0.9 --clamp", "config", "optimizer", Adam(b2=0.9, clamp=True)),
        ("--learning-rate 0.5", "config", "optimizer", Lbfgs(learning_rate=0.5, memory=100)),
        ("--memory 7", "config", "optimizer", Lbfgs(memory=7)),
        ("--num-steps 9", "config", "num_steps", 9),
        ("--num-steps 9 8 7", "config", "num_steps", (9, 8, 7)),
        ("--min-size 64", "config", "min_size", 64),
        ("--scale-factor 1.5", "config", "scale_factor", 1.5),
        ("--seed -3", "config", "seed", -3),
        ("--size 99", "geometry", "size", 99),
        ("--no-crop", "geometry", "crop", False),
        ("--pooling scaled-l2", "objective", "pooling", "scaled-l2"),
        ("--padding circular", "objective", "padding", "circular"),
        ("--padding replicate zero", "objective", "padding", ("replicate", "zero")),
        ("--guides inside", "objective", "guides", "inside"),
        ("--dtype bfloat16", "objective", "dtype", "bfloat16"),
    ],
)
def test_an_option_changes_its_field_alone(
    option: str, part: str, field: str, value: object
) -> None:
    config, weights = preset("article")
    expected = options.Choice(config, weights, GEOMETRY["article"])
    if part == "objective":
        value = dataclasses.replace(config.objective, **{field: value})
        part, field = "config", "objective"
    changed = dataclasses.replace(getattr(expected, part), **{field: value})
    found = recipe(f"--preset article {option}")
    assert found == expected._replace(**{part: changed}) != expected


def test_crop_and_fit() -> None:
    assert recipe("--fit short --crop").geometry == Geometry(fit="short", crop=True)


def test_weights_replace_those_of_the_preset() -> None:
    weights = recipe("--content-weight 2 --style-weight 0 --tv-weight 1e-3").weights
    assert weights == preset("default").weights.replace(content=2.0, style=0.0, tv=1e-3)


def test_layers_keep_the_weights_that_the_preset_gives_them() -> None:
    known = preset("article")
    config, weights, *_ = recipe("--preset article --style-layers relu1_1 relu2_1 relu4_4")
    terms, before = config.objective.terms, known.config.objective.terms
    assert terms["style"] == dataclasses.replace(
        typing.cast(typing.Any, before["style"]), layers=("relu1_1", "relu2_1", "relu4_4")
    )
    assert {**terms, "style": None} == {**before, "style": None}
    mean = np.mean(list(known.weights.layers["style"].values()))
    expected = {"relu1_1": 0.2, "relu2_1": 0.4, "relu4_4": mean}
    assert weights.layers["style"] == pytest.approx(expected)
    assert weights.layers["content"] == known.weights.layers["content"]


def test_options_come_from_the_terms_of_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = jaxnst.Objective({"look": jaxnst.Style(("relu1_1",)), "calm_sky": jaxnst.Penalty()})
    ones = jaxnst.LossWeights.ones(objective)
    mine = Recipe(TransferConfig(objective), ones.replace(look=3.0))
    monkeypatch.setitem(PRESETS, "mine", lambda: mine)
    assert recipe("--preset mine") == (*mine, Geometry(), "style", False)
    changed = recipe("--calm-sky-weight 2 --look-layers relu2_1 --preset=mine")
    assert changed.weights.scales == {"look": 3.0, "calm_sky": 2.0}
    assert changed.config.objective.layers == ("relu2_1",)
    with pytest.raises(SystemExit):
        recipe("--preset mine --style-weight 2")


def test_the_demo_has_defaults_that_options_replace() -> None:
    config, weights, geometry, *_ = recipe("", "demo")
    assert (geometry.size, config.num_steps) == (320, 80)
    assert weights == preset("default").weights
    config, weights, geometry, *_ = recipe("--size 32 --num-steps 5 6 --content-weight 3", "demo")
    assert (geometry.size, config.num_steps) == (32, (5, 6))
    assert weights == preset("default").weights.replace(content=3.0)
