"""The command line: what it writes, and one clear line for each thing that can be wrong."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from helpers import Outcome, call, check_refused, environment
from PIL import Image

from jaxnst.app import cli

SHALLOW = ["--style-layers", "relu1_1", "pool1", "--content-layers", "pool1"]
SMALL = ["--preset", "pastiche", "--size", "32", "--num-steps", "2", *SHALLOW]


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


# Refused with the option's name, and with its value.
NAMED = (
    "--nonsense 3; --memory 0; --seed 1.5; --content-weight -inf; --tv-weight nan; "
    "--first-steps 3; --statistic gram; --content-distance half_sum; --tv-layers image; "
    "--learning-rate -1; --content-layers"
)
QUOTED = (
    "--preset nonsense; --style-layers relu9_9; --pooling median; --padding wrap; --optimizer sgd; "
    "--init black; --fit both; --dtype float16"
)


@in_folder
@pytest.mark.parametrize(
    ("option", "part"),
    [
        *((f"--size {value}".strip(), "--size") for value in ("0", "-5", "abc", "1.5", "")),
        *((f"--num-steps {value}", "--num-steps") for value in ("0", "nan", "-1")),
        *(
            (f"--style-weight {value}", "--style-weight")
            for value in ("nan", "inf", "-1", "abc", "1e400")
        ),
        *((option, option.split()[0]) for option in NAMED.split("; ")),
        *((option, option.split()[1]) for option in QUOTED.split("; ")),
        ("--crop", "crop"),
        ("--size 1", "at least 2x2 pixels"),
        ("--size 1000000", "smaller size"),
        ("--learning-rate 0", "learning_rate"),
        ("--b1 0.5", "--b1 goes with --optimizer adam"),
        ("--memory 5 --optimizer adam", "--memory goes with --optimizer lbfgs"),
        # Numbers that overflow, in the loss or already in JAX.
        ("--style-weight 3.4e38", "not finite"),
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
    assert (outcome.status, outcome.err, len(outcome.out.splitlines())) == (0, "", 1)
    assert outcome.out.startswith("out.png: loss ") and "after 2 evaluations" in outcome.out
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
    # The test before has a picture that is cropped.
    inputs = ["wide.png", *INPUTS[1:]]
    assert transfer("--preset", "article", "--no-crop", inputs=inputs).status == 0
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
    assert ("2/2" in err) is not quiet and bool(err) is not quiet


@in_folder
def test_ctrl_c_keeps_the_best_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def progress(*_: object) -> nullcontext[Callable[[object], None]]:
        return nullcontext(lambda _: signal.raise_signal(signal.SIGINT))

    monkeypatch.setattr(cli, "_progress", progress)
    outcome = transfer("--num-steps", 50)
    assert (outcome.status, outcome.err) == (130, "") and "interrupted" in outcome.out
    assert size_of(OUT) == (32, 32)


@in_folder
def test_ctrl_c_before_the_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_params", interrupt)
    before = files()
    outcome = transfer()
    assert (outcome.status, outcome.out, len(outcome.err.splitlines())) == (130, "", 1)
    assert files() == before


def test_demo(tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    outcome = call("demo", "--size", 32, "--num-steps", 2, "-o", out)  # with all its layers
    assert (outcome.status, outcome.err) == (0, "")
    assert str(out) in outcome.out
    assert max(size_of(out)) == 32
    assert list(tmp_path.iterdir()) == [out]


@in_folder
def test_shallow_layers_see_small_pictures() -> None:
    layers = ["--style-layers", "relu1_1", "relu1_2", "--content-layers", "conv2_1"]
    outcome = transfer(*layers, "--size", 8)
    assert (outcome.status, outcome.err) == (0, "")
    assert size_of(OUT) == (8, 8)
