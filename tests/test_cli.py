"""The command line: what it writes, and one clear line for each thing that can be wrong."""

import dataclasses
import importlib.metadata
import os
import signal
import subprocess
import sys
import typing
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from helpers import Outcome, call, check_refused, environment
from PIL import Image

import jaxnst
from jaxnst import __main__ as command
from jaxnst.app import cli, options
from jaxnst.app.parser import make_parser
from jaxnst.images import Geometry
from jaxnst.optimizers import OPTIMIZERS, Adam, Lbfgs
from jaxnst.recipes import GEOMETRY, PRESETS, Recipe, TransferConfig, preset

SHALLOW = ["--style-layers", "relu1_1", "pool1", "--content-layers", "pool1"]
SMALL = ["--size", "32", "--num-steps", "2", *SHALLOW]


in_folder = pytest.mark.usefixtures("folder")
INPUTS = ["content.png", "style.png", "-o", "out.png"]
OUT = Path("out.png")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of inputs: pictures, and files that cannot be read as pictures."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("content", "style", "other"):
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC)
        picture.save(tmp_path / f"{name}.png")
    Image.open(tmp_path / "content.png").resize((48, 40)).save(tmp_path / "wide.png")
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    (tmp_path / "text.jpg").write_text("This is no picture.\n")
    Image.open(tmp_path / "style.png").save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "subfolder").mkdir()
    return tmp_path


def transfer(*words: object, inputs: Sequence[str] = INPUTS) -> Outcome:
    return call("transfer", *inputs, *SMALL, *words)


def files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def python(*words: str) -> Outcome:
    """Call `python -m jaxnst`."""
    done = subprocess.run(
        [sys.executable, "-m", "jaxnst", *words],
        env={"JAX_PLATFORMS": "cpu"} | environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


# --- refusals ----------------------------------------------------------------------------------


@in_folder
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("missing.png style.png -o out.png", "missing.png"),
        ("content.png missing.png -o out.png", "missing.png"),
        ("content.png style.png missing.png -o out.png", "missing.png"),
        ("subfolder style.png -o out.png", "subfolder"),
        ("text.jpg style.png -o out.png", "text.jpg"),
        ("content.png text.jpg -o out.png", "text.jpg"),
        ("cut.jpg style.png -o out.png", "cut.jpg"),
        ("content.png cut.jpg -o out.png", "cut.jpg"),
        ("content.png style.png -o out.bmp", ".bmp"),
        ("content.png style.png -o out", "suffix"),
        ("content.png style.png -o nowhere/out.png", "nowhere"),
        ("content.png style.png -o subfolder", "subfolder"),
        ("content.png style.png", "--output"),
        ("content.png -o out.png", "STYLE"),
    ],
)
def test_unusable_files_are_refused(arguments: str, part: str) -> None:
    before = files()
    check_refused(transfer(inputs=arguments.split()), part)
    assert files() == before


@in_folder
@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("--preset nonsense", "nonsense"),
        ("--nonsense 3", "--nonsense"),
        ("--size 0", "--size"),
        ("--size -5", "--size"),
        ("--size abc", "--size"),
        ("--size 1.5", "--size"),
        ("--size", "--size"),
        ("--size 1", "at least 2x2 pixels"),
        ("--size 1000000", "smaller size"),
        ("--num-steps 0", "--num-steps"),
        ("--num-steps nan", "--num-steps"),
        ("--num-steps -1", "--num-steps"),
        ("--memory 0", "--memory"),
        ("--seed 1.5", "--seed"),
        ("--style-weight nan", "--style-weight"),
        ("--style-weight inf", "--style-weight"),
        ("--style-weight -1", "--style-weight"),
        ("--style-weight abc", "--style-weight"),
        ("--style-weight 1e400", "--style-weight"),
        ("--content-weight -inf", "--content-weight"),
        ("--tv-weight nan", "--tv-weight"),
        ("--first-steps 3", "--first-steps"),
        ("--statistic gram", "--statistic"),
        ("--content-distance half_sum", "--content-distance"),
        ("--tv-layers image", "--tv-layers"),
        ("--b1 0.5", "--b1 goes with --optimizer adam"),
        ("--memory 5 --optimizer adam", "--memory goes with --optimizer lbfgs"),
        ("--learning-rate 0", "learning_rate"),
        ("--learning-rate -1", "--learning-rate"),
        ("--style-layers relu9_9", "relu9_9"),
        ("--content-layers", "--content-layers"),
        ("--pooling median", "median"),
        ("--optimizer sgd", "sgd"),
        ("--init black", "black"),
        ("--fit both", "both"),
        ("--dtype float16", "float16"),
        ("--crop", "crop"),
        # Numbers that overflow, in the loss or already in JAX.
        ("--style-weight 3e38", "not finite"),
        ("--style-weight 1e39", ""),
        ("--init noise --seed 99999999999999999999", ""),
    ],
)
def test_options_that_make_no_sense_are_refused(option: str, part: str) -> None:
    before = files()
    check_refused(transfer(*option.split()), part)
    assert files() == before


@pytest.mark.parametrize("words", [[], ["nonsense"], ["--nonsense"], ["demo", "more.png"]])
def test_unknown_commands_are_refused(words: list[str]) -> None:
    check_refused(call(*words))


@in_folder
def test_file_names_cannot_break_the_line() -> None:
    check_refused(transfer(inputs=["a\nb.png", *INPUTS[1:]]))


@in_folder
def test_a_picture_of_one_pixel() -> None:
    # As it is, the network has nothing to see; enlarged, it is an even colour.
    inputs = ["dot.png", *INPUTS[1:]]
    check_refused(call("transfer", *inputs, "--size", 1, "--num-steps", 2), "8x8", "not 1x1")
    assert not OUT.exists()
    assert transfer(inputs=inputs).status == 0
    assert size_of(OUT) == (32, 32)


# --- good runs ---------------------------------------------------------------------------------


@in_folder
@pytest.mark.parametrize("styles", [["style.png"], ["style.png", "other.png"]])
def test_transfer_writes_a_picture_and_is_quiet(styles: list[str]) -> None:
    before = files()
    outcome = transfer(inputs=["content.png", *styles, "-o", "out.png"])
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("out.png: loss ") and "after 2 evaluations" in outcome.out
    assert len(outcome.out.splitlines()) == 1
    assert size_of(OUT) == (32, 32)
    assert files() == before | {OUT: OUT.read_bytes()}


@in_folder
def test_real_processes_write_a_picture_or_refuse() -> None:
    before = files()
    check_refused(python("transfer", "text.jpg", "style.png", "-o", "out.jpg"))
    assert files() == before
    words = ["wide.png", "style.png", "-o", "out.jpg", *SMALL, "--preset", "article"]
    outcome = python("transfer", *words)
    assert (outcome.status, outcome.err) == (0, "")
    assert "out.jpg" in outcome.out
    assert size_of(Path("out.jpg")) == (32, 32)


@in_folder
def test_article_crops_unless_it_is_asked_not_to() -> None:
    inputs = ["wide.png", *INPUTS[1:], "--preset", "article"]
    assert transfer(inputs=inputs).status == 0
    assert size_of(OUT) == (32, 32)
    assert transfer("--no-crop", inputs=inputs).status == 0
    assert size_of(OUT) == (38, 32)


@in_folder
def test_transparency_is_kept() -> None:
    with Image.open("content.png") as picture:
        clear = picture.convert("RGBA").resize((32, 32))
    clear.paste((0, 0, 0, 0), (0, 0, 16, 32))
    clear.save("clear.png")
    outcome = transfer(inputs=["clear.png", *INPUTS[1:]])
    assert (outcome.status, outcome.err) == (0, "")
    with Image.open(OUT) as picture:
        assert picture.mode == "RGBA"
        np.testing.assert_array_equal(picture.getchannel("A"), clear.getchannel("A"))


@in_folder
def test_the_same_command_replaces_its_picture_by_the_same() -> None:
    def picture(*options: object) -> bytes:
        OUT.write_text("old")
        assert transfer("--init", "noise", *options).status == 0
        return OUT.read_bytes()

    assert picture() == picture("--seed", 0) != picture("--seed", 1)
    assert size_of(OUT) == (32, 32)


@in_folder
@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["transfer", *INPUTS, *SMALL, *(["--quiet"] if quiet else [])]) == 0
    err = capsys.readouterr().err
    assert ("2/2" in err) is not quiet
    assert bool(err) is not quiet


@in_folder
def test_ctrl_c_keeps_the_best_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def progress(*_: object) -> nullcontext[Callable[[object], None]]:
        return nullcontext(lambda _: signal.raise_signal(signal.SIGINT))

    monkeypatch.setattr(cli, "_progress", progress)
    outcome = transfer("--num-steps", 50)
    assert outcome.status == 130
    assert "interrupted" in outcome.out and outcome.err == ""
    assert size_of(OUT) == (32, 32)


@in_folder
def test_ctrl_c_before_the_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_params", interrupt)
    before = files()
    outcome = transfer()
    assert (outcome.status, outcome.out) == (130, "")
    assert len(outcome.err.splitlines()) == 1
    assert files() == before


def test_demo(tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    outcome = call("demo", "--size", 32, "--num-steps", 2, "-o", out)  # with all its layers
    assert (outcome.status, outcome.err) == (0, "")
    assert str(out) in outcome.out
    assert max(size_of(out)) == 32
    assert list(tmp_path.iterdir()) == [out]


def test_version() -> None:
    assert call("--version") == (0, f"jaxnst {jaxnst.__version__}\n", "")


def test_the_installed_command_is_this_one() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="jaxnst")
    assert all(script.load() is command.start for script in scripts)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not have them")
@pytest.mark.parametrize("tunables", ["", "glibc.malloc.perturb=1"])
def test_a_job_starts_again_in_large_pages_but_once(
    tunables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, list[str], str]] = []

    def execve(path: str, argv: list[str], env: dict[str, str]) -> None:
        started.append((path, argv, env["GLIBC_TUNABLES"]))

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(command, "main", lambda: 7)
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    for words in (["--version"], ["weights", "list"], []):
        monkeypatch.setattr(sys, "argv", ["jaxnst", *words])
        assert command.start() == 7
    assert not started
    monkeypatch.setattr(sys, "argv", ["jaxnst", "demo"])
    assert command.start() == 7
    [(path, argv, asked)] = started
    assert (path, argv) == (sys.executable, sys.orig_argv)
    assert asked.split(":") == [*filter(None, [tunables]), "glibc.malloc.hugetlb=1"]
    monkeypatch.setenv("GLIBC_TUNABLES", asked)
    assert command.start() == 7
    assert len(started) == 1


# --- the recipe --------------------------------------------------------------------------------


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


def recipe(text: str, command: str = "transfer c s -o o") -> options.Choice:
    words = [*command.split(), *text.split()]
    return options.choose(make_parser(options.preset_named(words)).parse_args(words))


@pytest.mark.parametrize("name", PRESETS)
def test_without_options_the_recipe_is_the_preset(name: str) -> None:
    assert recipe(f"--preset {name}") == (*preset(name), GEOMETRY.get(name, Geometry()))


def test_without_a_preset_the_recipe_is_the_default() -> None:
    assert recipe("") == (*preset("default"), Geometry())


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
        ("--pooling average", "objective", "pooling", "average"),
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
    config, weights, _ = recipe("--preset article --style-layers relu1_1 relu2_1 relu4_4")
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
    assert recipe("--preset mine") == (*mine, Geometry())
    changed = recipe("--calm-sky-weight 2 --look-layers relu2_1 --preset=mine")
    assert changed.weights.scales == {"look": 3.0, "calm_sky": 2.0}
    assert changed.config.objective.layers == ("relu2_1",)
    with pytest.raises(SystemExit):
        recipe("--preset mine --style-weight 2")


@in_folder
def test_other_layers_run() -> None:
    layers = ["--style-layers", "relu1_1", "relu1_2", "--content-layers", "conv2_1"]
    # Shallow layers see small pictures.
    outcome = transfer(*layers, "--size", 8)
    assert (outcome.status, outcome.err) == (0, "")
    assert size_of(OUT) == (8, 8)


def test_the_demo_has_defaults_that_options_replace() -> None:
    config, weights, geometry = recipe("", "demo")
    assert (geometry.size, config.num_steps) == (320, 80)
    assert weights == preset("default").weights
    config, weights, geometry = recipe("--size 32 --num-steps 5 6 --content-weight 3", "demo")
    assert (geometry.size, config.num_steps) == (32, (5, 6))
    assert weights == preset("default").weights.replace(content=3.0)
