"""Interrupted, killed and resumed runs of the command, and what a run leaves behind."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxnst
from jaxnst import checkpoint, cli, recorder

DEMO = Path(jaxnst.__file__).parent / "demo"
ROOT = str(Path(jaxnst.__file__).parents[1])
# Two scales, whose programs all tests share.
LBFGS = "--size 40 --min-size 20 --first-steps 5 --num-steps 4 --memory 3".split()
ADAM = [*LBFGS, *"--optimizer adam --clamp --average 0.9".split()]
BOTH = pytest.mark.parametrize("options", [LBFGS, ADAM], ids=["lbfgs", "adam"])
TOTAL = 9


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """The command in a folder of its own; `stop=n` is a Ctrl-C after n evaluations."""
    monkeypatch.chdir(tmp_path)
    inputs = [str(DEMO / "content.jpg"), str(DEMO / "style.jpg")]

    def call(*words, inputs=inputs, stop=None, number=signal.SIGINT):
        def show(progress):
            if progress.evaluation == stop:
                signal.raise_signal(number)

        capsys.readouterr()
        with monkeypatch.context() as patch:
            if stop is not None:  # so that there is a chunk's end at each evaluation
                patch.setattr(cli, "_progress", lambda *_: nullcontext(show))
                patch.setattr(cli.math, "gcd", lambda *_: 1)
                words = [*words, "--save-every", "1000"]
            try:
                status = cli.main(["transfer", *inputs, "-o", "out.png", *words])
            except SystemExit as error:
                status = error.code
        return status, *capsys.readouterr()

    return call


def names(folder="."):
    return sorted(path.name for path in Path(folder).iterdir())


def check_refused(outcome, *parts):
    status, out, err = outcome
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1 and err.startswith("jaxnst")
    for part in parts:
        assert part in err


# --- to go on ----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("stop", [2, 5, 7])
def test_resumed_ends_with_the_same_bytes(run, options, stop):
    assert run(*options)[0] == 0
    expected = Path("out.png").read_bytes()
    Path("out.png").unlink()

    status, out, err = run(*options, stop=stop)
    assert (status, err) == (130, "")
    assert f"after {stop} evaluations, interrupted" in out
    assert out.endswith("--resume\n")
    assert names() == ["out.png", "out.png.run"]
    with Image.open("out.png") as picture:
        assert max(picture.size) == 40  # enlarged, if it is of the coarser scale

    status, out, err = run(*options, "--resume")
    assert (status, err) == (0, "") and f"after {TOTAL} evaluations" in out
    assert Path("out.png").read_bytes() == expected
    assert names() == ["out.png"]


def test_interrupted_twice(run):
    assert run(*LBFGS)[0] == 0
    expected = Path("out.png").read_bytes()
    assert run(*LBFGS, stop=3)[0] == 130
    status, out, _ = run(*LBFGS, "--resume", stop=8)
    assert status == 130 and out.count("--resume") == 1
    assert run(*LBFGS, "--resume")[0] == 0
    assert Path("out.png").read_bytes() == expected


def test_sigterm_is_taken_for_ctrl_c(run):
    before = signal.getsignal(signal.SIGTERM)
    assert run(*LBFGS, stop=3, number=signal.SIGTERM)[0] == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert run(*LBFGS, "--resume")[0] == 0


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (["--num-steps", "5"], "other num_steps"),
        (["--first-steps", "6"], "other first_steps"),
        (["--content-weight", "7"], "other content_weight"),
        (["--seed", "1"], "other seed"),
        (["--pooling", "average"], "other pooling"),
    ],
)
def test_other_settings_do_not_go_on(run, change, part):
    run(*LBFGS, stop=3)
    before = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}
    check_refused(run(*LBFGS, *change, "--resume"), "out.png.run", part)
    assert {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()} == before
    assert run(*LBFGS, "--resume")[0] == 0


def test_other_pictures_and_params_do_not_go_on(run):
    run(*LBFGS, stop=3)
    content, style = str(DEMO / "content.jpg"), str(DEMO / "style.jpg")
    check_refused(run(*LBFGS, "--resume", inputs=[style, style]), "other content")
    check_refused(run(*LBFGS, "--resume", inputs=[content, content]), "other style")
    params = jaxnst.load_params()
    params["conv1_1"]["bias"] = params["conv1_1"]["bias"].at[0].add(1e-3)
    jaxnst.save_params("other.safetensors", params)
    check_refused(run(*LBFGS, "--resume", "--params", "other.safetensors"), "other params")


def test_nothing_to_go_on_from(run):
    check_refused(run(*LBFGS, "--resume"), "holds no state of a run")
    assert names() == []


def test_an_unfinished_run_is_not_overwritten(run):
    run(*LBFGS, stop=3)
    before = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}
    check_refused(run(*LBFGS), "out.png.run", "--resume", "--restart")
    check_refused(run(*LBFGS, "--resume", "--restart"), "--restart")
    assert {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()} == before
    assert run(*LBFGS, "--restart")[0] == 0
    assert names() == ["out.png"]


def test_a_damaged_state_is_refused(run):
    run(*LBFGS, stop=3)
    for path in Path("out.png.run").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    check_refused(run(*LBFGS, "--resume"), "cannot be read")


def test_states_are_saved_at_intervals(run, monkeypatch):
    saved = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *a: (saved.append(a[1]), save(*a)))
    run(*LBFGS, "--checkpoint-seconds", "1e-9", "--save-every", "1")
    assert saved == list(range(1, TOTAL + 1))
    saved.clear()
    run(*LBFGS, "--checkpoint-seconds", "0", "--save-every", "1")
    assert saved == []


def test_a_state_that_cannot_be_saved_does_not_end_the_run(run, monkeypatch, caplog):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save", fail)
    status, out, _ = run(*LBFGS, "--checkpoint-seconds", "1e-9")
    assert status == 0 and f"after {TOTAL} evaluations" in out
    assert "the run goes on: No space left on device" in caplog.text


# --- what it leaves behind ---------------------------------------------------------------------


def test_pictures_are_kept(run):
    assert run(*LBFGS, "--save-every", "4")[0] == 0
    assert names() == ["out.png", "out_4.png", "out_8.png"]
    sizes = {Image.open(name).size for name in names()}
    assert len(sizes) == 1 and max(*sizes) == (40, 27)


def test_animation_and_plot(run):
    status, out, err = run(*LBFGS, "--animation", "run.webp", "--plot", "losses.png")
    assert (status, err) == (0, "")
    assert names() == ["losses.png", "out.png", "run.webp"]
    with Image.open("run.webp") as moving, Image.open("out.png") as last:
        assert moving.n_frames == TOTAL + 1 and moving.size == last.size
        moving.seek(TOTAL)
        difference = np.asarray(moving.convert("RGB"), float) - np.asarray(last)
        assert np.abs(difference).mean() < 8


def test_an_animation_has_the_frames_from_before_the_interruption(run):
    run(*LBFGS, "--animation", "run.gif", stop=6)
    assert names() == ["out.png", "out.png.run"]
    assert run(*LBFGS, "--animation", "run.gif", "--resume")[0] == 0
    with Image.open("run.gif") as moving:
        assert moving.n_frames == TOTAL + 1
    assert names() == ["out.png", "run.gif"]


def test_long_runs_have_few_frames_and_large_pictures_small_ones(tmp_path):
    at = recorder.Recorder(tmp_path / "out.png", (400, 2000), {})
    at.save_frame(np.zeros((20, 100, 3), np.float32), 7)
    (frame,) = at.frames()
    assert frame.shape == (102, 512, 3)


@pytest.mark.parametrize(
    "words",
    [
        "--checkpoint-seconds -1",
        "--checkpoint-seconds x",
        "--save-every 0",
        "--save-every 2.5",
        "--animation a.png",
        "--animation none/a.gif",
        "--plot a.gif",
        "--plot none/a.png",
        "--min-size 0",
        "--scale-factor 1",
        "--scale-factor x",
        "--average 1",
        "--average 0.5",
        "--beta2 1",
        "--first-steps 0",
        "--clamp",
    ],
)
def test_bad_values_are_refused(run, words):
    option = words.split()[0].removeprefix("--").replace("-", "_")
    outcome = run("--size", "40", *words.split())
    check_refused(outcome)
    assert option in outcome[2].replace("-", "_") or words.split()[-1] in outcome[2]
    assert names() == []


# --- killed ------------------------------------------------------------------------------------


def command(folder, *words):
    """`jaxnst transfer` as a process of its own, with programs kept in `folder`."""
    inputs = [str(DEMO / "content.jpg"), str(DEMO / "style.jpg"), "-o", "out.png"]
    return subprocess.Popen(
        [sys.executable, "-m", "jaxnst", "transfer", *inputs, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_killed_ten_times(tmp_path, cache):
    options = "--size 64 --min-size 32 --first-steps 60 --num-steps 40".split()
    options += ["--checkpoint-seconds", "0.2"]
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    alone.mkdir()
    killed.mkdir()
    process = command(alone, *options)
    begun = time.monotonic()
    assert process.wait() == 0, process.communicate()
    whole = time.monotonic() - begun
    compiled = names(cache / "compiled")
    assert compiled

    draw, kills, resumed = random.Random(0), 0, 0
    while True:
        resume = recorder.is_unfinished(killed / "out.png")
        resumed += resume
        process = command(killed, *options, *(["--resume"] if resume else []))
        if kills == 10:
            break
        # Compilation is no more, so the first scale begins after a few seconds.
        time.sleep(draw.uniform(0.3, 0.8) * whole)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
    out, err = process.communicate()
    assert process.returncode == 0, err
    print(f"{kills} kills, {resumed} of them resumed from a state")
    assert kills >= 3 and resumed >= 2
    assert (killed / "out.png").read_bytes() == (alone / "out.png").read_bytes()
    assert names(killed) == names(alone) == ["out.png"]
    # And no run after the first compiled anything.
    assert names(cache / "compiled") == compiled
