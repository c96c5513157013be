"""Folders of pictures: what `jaxnst batch` makes of them, at one go or at several."""

import errno
import json
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from helpers import Outcome, call, check_refused, contents, kept, manifest, send_signals
from PIL import Image

import jaxnst
from jaxnst.app import cli
from jaxnst.app.batch import BatchJob, Content
from jaxnst.app.manifest import file_digest
from jaxnst.app.options import choose
from jaxnst.app.parser import make_parser
from jaxnst.files import locked
from jaxnst.images import load_alpha, load_image

COMPILED: list[str] = []


def _listen(event: str, duration: float, **details: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(str(details.get("fun_name", "?")))


jax.monitoring.register_event_duration_secs_listener(_listen)

LAYERS = ["--content-layers", "relu2_1", "--style-layers", "relu1_1"]
SMALL = ["--preset", "pastiche", *LAYERS, "--optimizer", "adam", "--size", "32", "--num-steps", "3"]
JOB = ["batch", "photos", "--styles", "paint.png", "-o", "out", *SMALL, "--multiple", "16"]
SWEEP = ["sweep", "photos/wide.jpg", "paint.png", "-o", "out", *SMALL]
#: Sides of the pictures, and of what is made of them: three shapes.
SIDES = {
    "clear.png": ((48, 24), (32, 16)),
    "deep/er/wide.webp": ((48, 30), (32, 16)),
    "Square.jpg": ((40, 40), (32, 32)),
    "nearly.png": ((33, 31), (32, 32)),
    "tall.tif": ((20, 44), (16, 32)),
    "wide.jpg": ((64, 30), (32, 16)),
}
MADE = {str(Path(name).with_suffix(".png")): made for name, (_, made) in SIDES.items()}
BROKEN = ["cut.jpg", "deep/text.png", "empty.gif"]


def paint(path: Path, sides: tuple[int, int], seed: int) -> None:
    """A smooth picture, whose left half is clear if it is called so."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    picture = Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC)
    if path.stem == "clear":
        picture.putalpha(Image.linear_gradient("L").rotate(90).resize(sides))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def check_reports(outcome: Outcome, *names: str) -> None:
    """A line for each picture that cannot be used, and nothing else."""
    assert outcome.status == 1
    reports = outcome.err.splitlines()
    assert len(reports) == len(names)
    for name in names:
        assert sum(name in line and line.startswith("jaxnst: ") for line in reports) == 1


class First(NamedTuple):
    folder: Path
    outcome: Outcome
    compiled: list[str]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    """The job, started for the first time."""
    folder = tmp_path_factory.mktemp("first")
    for seed, (name, (sides, _)) in enumerate(SIDES.items()):
        paint(folder / "photos" / name, sides, seed)
    for hidden in (".hidden.png", ".thumbs/wide.png"):
        paint(folder / "photos" / hidden, (40, 40), 9)
    paint(folder / "paint.png", (40, 30), 10)
    cut, text, empty = (folder / "photos" / name for name in BROKEN)
    whole = (folder / "photos/wide.jpg").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    text.write_text("This is no picture.\n")
    empty.touch()
    (folder / "photos/notes.txt").write_text("These are no pictures.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "keep_compiled_programs", lambda: None)
        patch.chdir(folder)
        begun = len(COMPILED)
        return First(folder, call(*JOB), COMPILED[begun:])


@pytest.fixture
def new(first: First, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the same pictures, in which nothing is done yet."""
    shutil.copytree(first.folder / "photos", tmp_path / "here/photos")
    shutil.copy2(first.folder / "paint.png", tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def again(first: First, new: None) -> dict[str, tuple[int, bytes]]:
    """The same, in which the job is done; the pictures that it has made."""
    shutil.copytree(first.folder / "out", "out")
    return kept()


# --- what is made ------------------------------------------------------------------------------


def test_a_folder_of_pictures(first: First, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(first.folder)
    check_reports(first.outcome, *BROKEN)
    assert first.outcome.out == "out: 6 pictures made, 3 could not be\n"
    assert kept().keys() == MADE.keys()
    entries = manifest()
    assert list(entries) == sorted(entries)
    assert entries.keys() == {*MADE, "cut.png", "deep/text.png", "empty.png"}
    for name in SIDES:
        output = str(Path(name).with_suffix(".png"))
        with Image.open(Path("out", output)) as picture:
            assert picture.size == MADE[output]
            assert np.asarray(picture.convert("RGB")).std() > 5
        entry = entries[output]
        assert (entry["status"], entry["run"], entry["evaluations"]) == ("done", "ok", 3)
        assert entry["content"] == f"photos/{name}"
        assert entry["content_sha256"] == file_digest(Path("photos", name))
        assert entry["sha256"] == file_digest(Path("out", output))
        assert entry["losses"]["loss"] > 0 and entry["seconds"] > 0
        settings = {"optimizer": "Adam", "num_steps": "3", "learning_rate": "0.02"}
        assert settings.items() <= entry["settings"].items()
    for name in BROKEN:
        entry = entries[str(Path(name).with_suffix(".png"))]
        assert entry["status"] == "failed" and name in entry["error"]


def test_a_program_for_each_shape(first: First) -> None:
    assert first.compiled.count("jit(advance)") == len(set(MADE.values()))


def test_each_picture_equals_a_transfer(first: First, params: Any) -> None:
    config, weights, *_ = choose(make_parser().parse_args(JOB))
    content = load_image(first.folder / "photos/clear.png", size=32, multiple=16)
    style = load_image(first.folder / "paint.png", size=32)
    result = jaxnst.style_transfer(content, style, params=params, weights=weights, config=config)
    with Image.open(first.folder / "out/clear.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), float) / 255
    assert np.abs(pixels - np.asarray(result.image)).max() < 1 / 255
    best = result.history["loss"].argmin()
    expected = {name: result.history[name][best] for name in ("loss", "content", "style", "tv")}
    losses = manifest(first.folder / "out")["clear.png"]["losses"]
    assert losses == pytest.approx(expected, rel=1e-3)


def test_transparency_is_kept(first: First) -> None:
    alpha = load_alpha(first.folder / "photos/clear.png", size=32, multiple=16)
    assert alpha is not None and alpha.min() < 0.2 and alpha.max() > 0.8
    for name in MADE:
        with Image.open(first.folder / "out" / name) as picture:
            assert picture.mode == ("RGBA" if name == "clear.png" else "RGB")
            if name == "clear.png":
                np.testing.assert_array_equal(picture.getchannel("A"), np.rint(255 * alpha))


def test_a_format_and_true_proportions(new: None) -> None:
    """A picture too narrow for the network is reported, and does not stop the others."""
    for name in SIDES:
        Path("photos", name).unlink()
    paint(Path("photos/narrow.png"), (120, 3), 0)
    paint(Path("photos/wide.png"), (48, 30), 1)
    outcome = call(*JOB, "--multiple", "1", "--suffix", ".webp")
    assert kept().keys() == {"wide.webp"}
    with Image.open("out/wide.webp") as picture:
        assert (picture.size, picture.format) == ((32, 20), "WEBP")
    check_reports(outcome, *BROKEN, "narrow")


def test_lanes(first: First, new: None) -> None:
    """Pictures side by side are the same, also where they are too few."""
    shutil.rmtree("photos/deep")
    for name in ("Square.jpg", "nearly.png", "tall.tif", "cut.jpg", "empty.gif"):
        Path("photos", name).unlink()
    for seed in (20, 21):
        paint(Path(f"photos/{seed}.png"), (64, 30), seed)
    begun = len(COMPILED)
    assert call(*JOB, "--lane-batch", "3").status == 0
    assert COMPILED[begun:].count("jit(advance)") == 1
    together = kept()
    assert together.keys() == {"20.png", "21.png", "clear.png", "wide.png"}
    for output in ("clear.png", "wide.png"):
        with Image.open(Path("out", output)) as a, Image.open(first.folder / "out" / output) as b:
            assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1
    assert len({data for _, data in together.values()}) == 4
    for path in sorted(Path("photos").glob("[!.]*.[jp]*")):
        alone = [word if word != "photos" else path for word in JOB]
        assert call(*alone, "--lane-batch", "3", "--restart").status == 0
        output = path.with_suffix(".png").name
        assert Path("out", output).read_bytes() == together[output][1]
    assert COMPILED[begun:].count("jit(advance)") == 1


def test_weights_that_overflow_are_reported(new: None) -> None:
    shutil.rmtree("photos/deep")
    for name in ("clear.png", "wide.jpg", "tall.tif", "cut.jpg", "empty.gif"):
        Path("photos", name).unlink()
    outcome = call(*JOB, "--style-weight", "3e38")
    check_reports(outcome, "Square", "nearly")
    assert outcome.err.count("not finite") == 2
    assert kept() == {}
    assert {entry["status"] for entry in manifest().values()} == {"failed"}


# --- to go on ----------------------------------------------------------------------------------


def test_nothing_is_done_twice(again: dict[str, tuple[int, bytes]]) -> None:
    before = manifest()
    outcome = call(*JOB)
    check_reports(outcome, *BROKEN)
    assert outcome.out == "out: 0 pictures made, 6 there already, 3 could not be\n"
    assert kept() == again
    entries = manifest()
    assert entries.keys() == before.keys()
    assert {name: entries[name] for name in MADE} == {name: before[name] for name in MADE}


def test_changed_pictures_are_made_again(again: dict[str, tuple[int, bytes]]) -> None:
    paint(Path("photos/nearly.png"), (33, 31), 100)
    paint(Path("photos/deep/text.png"), (44, 20), 101)  # no longer broken
    paint(Path("photos/more.bmp"), (44, 20), 102)
    Path("out/clear.png").unlink()
    Path("out/wide.png").write_bytes(again["wide.png"][1][:-1])
    outcome = call(*JOB)
    check_reports(outcome, "cut.jpg", "empty.gif")
    assert outcome.out == "out: 5 pictures made, 3 there already, 2 could not be\n"
    now = kept()
    assert now.keys() == MADE.keys() | {"deep/text.png", "more.png"}
    for name in ("Square.png", "deep/er/wide.png", "tall.png"):
        assert now[name] == again[name]
    for name in ("clear.png", "wide.png"):
        assert now[name][1] == again[name][1]
    assert now["nearly.png"][1] != again["nearly.png"][1]
    for name in now:
        assert manifest()[name]["sha256"] == file_digest(Path("out", name))


@pytest.mark.parametrize(
    ("words", "part"),
    [(["--num-steps", "2"], "other num_steps"), (["--styles", "other.png"], "other style")],
)
def test_other_settings_are_refused_or_replace_what_is_there(
    again: dict[str, tuple[int, bytes]], words: list[str], part: str
) -> None:
    paint(Path("other.png"), (40, 30), 11)
    Path("out/notes.txt").write_text("mine")
    files = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    check_refused(call(*JOB, *words), "out", part, "--restart")
    assert {path: path.read_bytes() for path in files} == files
    assert kept() == again
    outcome = call(*JOB, *words, "--restart")
    check_reports(outcome, *BROKEN)
    assert outcome.out == "out: 6 pictures made, 3 could not be\n"
    now = kept()
    assert now.keys() == again.keys()
    assert all(now[name][1] != again[name][1] for name in again)
    assert Path("out/notes.txt").read_text() == "mine"


def test_a_restart_makes_all_pictures_again(again: dict[str, tuple[int, bytes]]) -> None:
    assert call(*JOB, "--restart").out == "out: 6 pictures made, 3 could not be\n"
    now = kept()
    assert contents(now) == contents(again)
    assert all(now[name][0] > again[name][0] for name in again)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_an_interrupted_job_continues(
    first: First, new: None, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    """After the first two pictures, each of which has two records."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        send_signals(patch, BatchJob, 5, number)
        outcome = call(*JOB)
    assert outcome.status == status
    assert outcome.out == "out: 2 pictures, interrupted; the same command goes on\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    made = kept()
    assert len(made) == 2
    outcome = call(*JOB)
    check_reports(outcome, *BROKEN)
    assert outcome.out == "out: 4 pictures made, 2 there already, 3 could not be\n"
    now = kept()
    assert {name: now[name] for name in made} == made
    monkeypatch.chdir(first.folder)
    assert contents(now) == contents(kept())


def test_a_second_ctrl_c_ends_it_at_once(new: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        records = send_signals(patch, BatchJob, 3, signal.SIGINT, signal.SIGINT)
        outcome = call(*JOB)
    assert (outcome.status, len(records)) == (130, 3)
    assert outcome.out == "out: 1 picture, interrupted; the same command goes on\n"
    assert signal.getsignal(signal.SIGINT) is before
    assert len(kept()) == 1
    assert call(*JOB).out == "out: 5 pictures made, 1 there already, 3 could not be\n"


def test_a_picture_that_vanishes_does_not_end_the_job(
    again: dict[str, tuple[int, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*args: Any, **options: Any) -> list[Content]:
        return [*find_contents(*args, **options), Content(Path("photos/gone.png"), "gone.png")]

    find_contents = cli.find_contents
    monkeypatch.setattr(cli, "find_contents", find)
    for _ in range(2):
        check_reports(call(*JOB), *BROKEN, "gone.png")
    assert kept() == again


def test_results_in_a_folder_of_contents_are_left_out(new: None) -> None:
    for name in BROKEN:
        Path("photos", name).unlink()
    here = [word if word != "out" else "photos/out" for word in JOB]
    assert call(*here).out == "photos/out: 6 pictures made\n"
    made = kept("photos/out")
    assert call(*here).out == "photos/out: 0 pictures made, 6 there already\n"
    assert kept("photos/out") == made and made.keys() == MADE.keys()


def test_a_full_disk_ends_the_job(new: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("jaxnst.app.jobs.save_image", fail)
        outcome = call(*JOB)
    assert outcome.status == 2 and outcome.err.splitlines()[-1].endswith("No space left on device")
    assert kept() == {}
    assert call(*JOB).out == "out: 6 pictures made, 3 could not be\n"


def test_a_result_that_cannot_be_saved_stops_no_other(new: None) -> None:
    shutil.rmtree("photos/deep")
    Path("out").mkdir()
    call(*JOB, "--num-steps", "1")
    for path in Path("out").glob("*.png"):
        path.unlink()
    Path("out/wide.png").mkdir()
    outcome = call(*JOB, "--restart")
    check_reports(outcome, "cut.jpg", "empty.gif", "wide.png")
    assert outcome.out == "out: 4 pictures made, 3 could not be\n"


def test_the_default_keeps_proportions_as_transfer_does(new: None) -> None:
    words = [word for word in JOB if word not in ("--multiple", "16")]
    assert call(*(word if word != "photos" else "photos/clear.png" for word in words)).status == 0
    assert call("transfer", "photos/clear.png", "paint.png", "-o", "one.png", *SMALL).status == 0
    assert Path("out/clear.png").read_bytes() == Path("one.png").read_bytes()
    check_refused(call(*words, "--multiple", "4"), "other multiple")


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("batch photos --styles paint.png -o photos", "would overwrite what is read"),
        ("batch photos --styles paint.png -o paint.png", "is a file"),
        ("batch photos --styles paint.png -o none/out", "none"),
        ("batch photos --styles paint.png", "--output"),
        ("batch photos -o out", "--styles"),
        ("batch --styles paint.png -o out", "CONTENTS"),
        ("batch none --styles paint.png -o out", "none"),
        ("batch photos/deep/er/.. --styles paint.png -o photos/deep", "would overwrite"),
        ("batch photos/notes.txt photos --styles none.png -o out", "none.png"),
        ("batch photos --styles photos/cut.jpg -o out", "cut.jpg"),
        ("batch photos --styles paint.png -o out --suffix .gif", ".gif"),
        ("batch photos --styles paint.png -o out --multiple 0", "--multiple"),
        ("batch photos --styles paint.png -o out --lane-batch 0", "--lane-batch"),
        ("batch photos --styles paint.png -o out --process-id 0", "--distributed"),
        ("batch photos --styles paint.png -o out --num-processes 2", "--distributed"),
        ("batch photos --styles paint.png -o out --coordinator localhost:1", "--distributed"),
    ],
)
def test_bad_arguments_are_refused(new: None, words: str, part: str) -> None:
    before = sorted(Path().rglob("*"))
    check_refused(call(*words.split(), *SMALL), part)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("command", ["batch", "sweep"])
def test_a_folder_of_someone_else_is_left_alone(new: None, command: str) -> None:
    Path("victim.txt").write_text("mine")
    Path("out").mkdir()
    for name in ("wide.png", "001.png", "index.html"):
        Path("out", name).write_text("mine")
    digest = file_digest(Path("victim.txt"))
    line = {"output": "../victim.txt", "status": "done", "sha256": digest}
    Path("out/manifest.jsonl").write_text(json.dumps(line) + "\n")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    words = {"batch": JOB, "sweep": [*SWEEP, "--style-weights", "1", "2"]}[command]
    for more in ([], ["--restart"]):
        check_refused(call(*words, *more), "was not written by jaxnst")
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_two_jobs_in_one_folder(again: dict[str, tuple[int, bytes]]) -> None:
    with locked(Path("out")):
        for words in (JOB, [*JOB, "--restart"]):
            check_refused(call(*words), "another jaxnst is at work in 'out'")
    assert kept() == again
    assert call(*JOB).out.startswith("out: 0 pictures made, 6 there already")


def test_another_version_leaves_finished_pictures(
    again: dict[str, tuple[int, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out/wide.png").unlink()
    monkeypatch.setattr(jaxnst, "__version__", "9.9.9")
    assert call(*JOB).out == "out: 1 picture made, 5 there already, 3 could not be\n"
    made_by = {name: entry["made_by"]["jaxnst"] for name, entry in manifest().items()}
    assert made_by["wide.png"] == "9.9.9" != made_by["clear.png"]
