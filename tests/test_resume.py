"""Interrupted, killed and resumed runs of the command, and what a run leaves behind."""

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxnst
from jaxnst.app import checkpoint, cli, runs
from jaxnst.scales import run_scales

DEMO = Path(jaxnst.__file__).parent / "demo"
CONTENT, STYLE = str(DEMO / "content.jpg"), str(DEMO / "style.jpg")
# Two scales and a part of the network, whose programs all tests share.
LAYERS = ["--content-layers", "pool1", "--style-layers", "relu1_1", "pool1"]
SIZES = ["--size", "48", "--min-size", "24", "--num-steps", "5", "4"]
SCALES = ["--preset", "pastiche", *LAYERS, *SIZES]
LBFGS = [*SCALES, "--memory", "3"]
ADAM = [*SCALES, "--optimizer", "adam", "--clamp", "--average", "0.99"]
DEFAULT = [*LAYERS, *SIZES, "--memory", "3"]  # its finer scale starts with details of the style
TOTAL = 9
EACH = ["--checkpoint-seconds", "1e-9"]  # a state after each chunk


def at_each_evaluation(*args, **options):
    return run_scales(*args, **options | {"every": 1})


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """The command in a folder of its own; `stop=n` is a Ctrl-C after n evaluations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "run_scales", at_each_evaluation)

    def call(*words, inputs=(CONTENT, STYLE, "-o", "out.png"), stop=None, numbers=(signal.SIGINT,)):
        def show(progress):
            if progress.evaluation == stop:
                for number in numbers:
                    signal.raise_signal(number)

        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(cli, "_progress", lambda *_: nullcontext(show))
            try:
                status = cli.main(["transfer", *inputs, *words])
            except SystemExit as error:
                status = error.code
        return status, *capsys.readouterr()

    return call


def names(folder="."):
    return sorted(path.name for path in Path(folder).iterdir())


def files():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def check_refused(outcome, *parts):
    status, out, err = outcome
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1 and err.startswith("jaxnst")
    for part in parts:
        assert part in err


# --- to go on ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "stop"),
    [
        pytest.param(LBFGS, 5, id="lbfgs-5"),
        pytest.param(ADAM, 5, id="adam-5"),
        *[
            pytest.param(options, stop, id=f"{name}-{stop}", marks=pytest.mark.slow)
            for name, options in (("lbfgs", LBFGS), ("adam", ADAM), ("default", DEFAULT))
            for stop in (2, 7)
        ],
    ],
)
def test_resumed_ends_with_the_same_bytes(run, options, stop):
    assert run(*options)[0] == 0
    expected = Path("out.png").read_bytes()
    Path("out.png").unlink()

    status, out, err = run(*options, stop=stop)
    assert (status, err) == (130, "")
    assert f"after {stop} evaluations, interrupted" in out
    assert names() == ["out.png", "out.png.run"]
    with Image.open("out.png") as picture:
        assert picture.size == (48, 32)  # enlarged, if it is of the coarser scale
    assert Path("out.png").read_bytes() != expected

    # The second line is the command to go on with.
    command, transfer, *words = shlex.split(out.splitlines()[1])
    assert (command, transfer) == ("jaxnst", "transfer")
    status, out, err = run(*words, inputs=())
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


def test_the_command_to_go_on_with_is_quoted(run):
    inputs = ["-o", "my picture.png", *LBFGS, "--", CONTENT, STYLE]
    status, out, _ = run(inputs=inputs, stop=3)
    assert status == 130
    assert run(inputs=shlex.split(out.splitlines()[1])[2:])[0] == 0
    assert names() == ["my picture.png"]


def test_the_demo_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ctrl_c = nullcontext(lambda _: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(cli, "_progress", lambda *_: ctrl_c)
    words = ["demo", *LBFGS]
    assert cli.main(words) == 130
    assert f"jaxnst demo --resume {shlex.join(words[1:])}" in capsys.readouterr().out


def test_an_interruption_at_the_very_end_changes_nothing(run):
    assert run(*LBFGS, stop=TOTAL)[0] == 0
    assert run(*LBFGS, stop=TOTAL, numbers=[signal.SIGTERM])[0] == 0
    assert names() == ["out.png"]


@pytest.mark.parametrize("sigint", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_is_taken_for_ctrl_c(run, sigint):
    """Jobs in the background, as schedulers start them, ignore SIGINT."""
    before = signal.getsignal(signal.SIGTERM)
    usual = signal.signal(signal.SIGINT, sigint)
    try:
        status, out, err = run(*LBFGS, stop=3, numbers=[signal.SIGTERM])
    finally:
        signal.signal(signal.SIGINT, usual)
    assert (status, err) == (143, "") and "after 3 evaluations, interrupted" in out
    assert signal.getsignal(signal.SIGTERM) is before
    assert run(*LBFGS, "--resume")[0] == 0


def test_a_second_ctrl_c_ends_it_at_once(run):
    twice = [signal.SIGINT] * 2
    status, out, err = run(*LBFGS, "--animation", "run.gif", stop=3, numbers=twice)
    assert (status, out) == (130, "")
    assert err == "jaxnst: interrupted at once\n"
    assert names() == []
    status, out, err = run(*LBFGS, *EACH, stop=3, numbers=twice)
    assert (status, out) == (130, "") and len(err.splitlines()) == 1 and "--resume" in err
    assert names() == ["out.png", "out.png.run"]
    assert run(*LBFGS, "--resume")[0] == 0


def test_a_thread_can_call_the_command(run):
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(run(*LBFGS)))
    thread.start()
    thread.join()
    assert outcomes[0][0] == 0


# --- what does not go on -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (["--num-steps", "6", "4"], "other num_steps"),
        (["--content-weight", "7"], "other content_weight"),
        (["--seed", "1"], "other seed"),
        (["--pooling", "average"], "other pooling"),
        (["--memory", "4"], "other memory"),
        (["--content-layers", "relu2_2"], "other content_layers and layer_weights"),
        (["--scale-factor", "1.5"], "other scale_factor"),
        (["--size", "47"], "other content and size and style"),
    ],
)
def test_other_settings_do_not_go_on(run, change, part):
    run(*LBFGS, stop=3)
    before = files()
    check_refused(run(*LBFGS, *change, "--resume"), "out.png.run", part)
    assert files() == before


def test_goes_on_in_smaller_tiles(run):
    """As after a run that lacked memory."""
    assert run(*LBFGS)[0] == 0
    expected = jaxnst.load_image("out.png")
    assert run(*LBFGS, stop=5)[0] == 130
    assert run(*LBFGS, "--tile", "32", "--resume")[0] == 0
    # Tiles change the last bits, and L-BFGS makes more of them.
    np.testing.assert_allclose(jaxnst.load_image("out.png"), expected, atol=3 / 255)


def test_other_pictures_and_params_do_not_go_on(run):
    assert run(*LBFGS)[0] == 0
    expected = Path("out.png").read_bytes()
    run(*LBFGS, stop=3)
    params = jaxnst.load_params()
    params["conv1_1"]["bias"] = params["conv1_1"]["bias"].at[0].add(1e-3)
    jaxnst.save_params("other.safetensors", params)
    before = files()
    out = ["-o", "out.png"]
    check_refused(run(*LBFGS, "--resume", inputs=[STYLE, STYLE, *out]), "other content")
    check_refused(run(*LBFGS, "--resume", inputs=[CONTENT, CONTENT, *out]), "other style")
    check_refused(run(*LBFGS, "--resume", inputs=[CONTENT, STYLE, STYLE, *out]), "other style")
    check_refused(run(*LBFGS, "--resume", "--params", "other.safetensors"), "other params")
    assert files() == before
    assert run(*LBFGS, "--resume")[0] == 0
    assert Path("out.png").read_bytes() == expected


def test_resume_without_a_state_is_refused(run):
    check_refused(run(*LBFGS, "--resume"), "holds no state of a run")
    assert names() == []


def test_an_unfinished_run_is_not_overwritten(run):
    assert run(*LBFGS)[0] == 0
    expected = Path("out.png").read_bytes()
    run(*LBFGS, stop=3)
    before = files()
    check_refused(run(*LBFGS), "out.png.run", "--resume", "--restart")
    check_refused(run(*LBFGS, "--resume", "--restart"), "--restart")
    assert files() == before
    assert run(*LBFGS, "--restart")[0] == 0
    assert Path("out.png").read_bytes() == expected
    assert names() == ["out.png"]


def test_a_damaged_state_is_refused(run):
    run(*LBFGS, stop=3)
    for path in Path("out.png.run").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    before = files()
    check_refused(run(*LBFGS, "--resume"), "out.png.run", "cannot be read")
    assert files() == before


def test_resumes_from_the_state_before_a_damaged_one(run, caplog):
    assert run(*LBFGS)[0] == 0
    expected = Path("out.png").read_bytes()
    run(*LBFGS, *EACH, stop=7)
    Path("out.png.run/state-7.safetensors").write_bytes(b"damaged")
    assert run(*LBFGS, "--resume", stop=8)[0] == 130
    assert "state 7" in caplog.text
    assert run(*LBFGS, "--resume")[0] == 0
    assert Path("out.png").read_bytes() == expected


# --- what goes wrong meanwhile -----------------------------------------------------------------


def no_space(*_, **__):
    raise OSError("No space left on device")


@pytest.mark.parametrize("module", [checkpoint, runs], ids=["state", "picture"])
def test_a_failed_save_does_not_end_the_run(run, monkeypatch, caplog, module):
    with monkeypatch.context() as patch:
        patch.setattr(module, "save" if module is checkpoint else "save_image", no_space)
        outcome = run(*LBFGS, *EACH, "--save-every", "2", stop=TOTAL - 1)
    assert outcome[0] == 130 and f"after {TOTAL - 1} evaluations" in outcome[1]
    assert "No space left on device" in caplog.text
    if module is checkpoint:  # there is the picture, but nothing to go on from
        assert names() == ["out.png", *(f"out_{i}.png" for i in (2, 4, 6, 8))]
        assert len(outcome[1].splitlines()) == 1 and "Go on" not in outcome[1]
    else:
        assert names() == ["out.png.run"]
        assert run(*LBFGS, "--resume")[0] == 0


def test_a_last_picture_that_cannot_be_saved_is_not_lost(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runs, "save_image", no_space)
        check_refused(run(*LBFGS, *EACH), "No space left")
    status, out, _ = run(*LBFGS, "--resume")
    assert status == 0 and f"after {TOTAL} evaluations" in out
    assert names() == ["out.png"]


def failing_with(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating"),
        jax.errors.JaxRuntimeError("INTERNAL: YNNPACK operation failed: error"),
        MemoryError(),
    ],
    ids=["device", "kernel", "host"],
)
def test_too_little_memory_is_one_line(run, monkeypatch, error):
    monkeypatch.setattr(cli, "run_scales", failing_with(error))
    check_refused(run(*LBFGS), "there is not enough memory for this; --size 16 may fit")
    monkeypatch.setattr(cli, "schedule", failing_with(error))
    check_refused(run(*LBFGS), "there is not enough memory for this; give a smaller --size")
    assert names() == []


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError("INTERNAL: bad luck")])
def test_other_faults_of_jax_are_not_hidden(run, monkeypatch, error):
    monkeypatch.setattr(cli, "run_scales", failing_with(error))
    with pytest.raises(jax.errors.JaxRuntimeError):
        run(*LBFGS)
    assert names() == []


def test_a_loss_that_is_not_finite_leaves_nothing(run):
    outcome = run(*LBFGS, *EACH, "--style-weight", "3e38", "--animation", "run.gif")
    check_refused(outcome, "not finite")
    assert names() == []


def test_other_files_in_the_folder_stay(run):
    Path("out.png.run").mkdir()
    Path("out.png.run/notes.txt").write_text("mine")
    assert run(*LBFGS, *EACH, "--animation", "run.gif")[0] == 0
    assert names() == ["out.png", "out.png.run", "run.gif"]
    assert names("out.png.run") == ["notes.txt"]


def test_only_files_are_replaced(run):
    os.mkfifo("pipe.png")
    Path("device.png").symlink_to("/dev/null")
    Path("kept.png").write_text("mine")
    Path("kept.png").chmod(0o444)
    for name, part in [("pipe", "pipe"), ("device", "device"), ("kept", "write-protected")]:
        check_refused(
            run(*LBFGS, inputs=[CONTENT, STYLE, "-o", f"{name}.png"]), f"{name}.png", part
        )
    assert names() == ["device.png", "kept.png", "pipe.png"]
    assert Path("kept.png").read_text() == "mine" and Path("pipe.png").is_fifo()


def test_a_refused_restart_keeps_the_unfinished_run(run):
    run(*LBFGS, stop=3)
    before = files()
    check_refused(run(*LBFGS, "--restart", "--size", "1"), "pixels")
    check_refused(run(*LBFGS, "--restart", "--style-weight", "3e38"), "not finite")
    check_refused(run(*LBFGS, "--restart", "--style-layers", "relu9_9"), "relu9_9")
    assert files() == before
    assert run(*LBFGS, "--resume")[0] == 0


def test_a_file_in_the_place_of_the_folder_is_refused(run):
    Path("out.png.run").write_text("mine")
    check_refused(run(*LBFGS), "out.png.run")
    assert names() == ["out.png.run"]


# --- what it leaves behind ---------------------------------------------------------------------


def test_the_loss_shown_is_that_of_the_last_scale(run, monkeypatch):
    losses = []

    def scales(*args, **options):
        for progress in at_each_evaluation(*args, **options):
            losses.append(progress.loss)
            yield progress

    monkeypatch.setattr(cli, "run_scales", scales)
    # Just after the image was enlarged, the loss is above what it was before.
    status, out, _ = run(*LBFGS, "--num-steps", "20", "4", stop=21)
    assert status == 130
    assert losses[-1] > min(losses)
    assert f"loss {losses[-1]:.4g} after 21 evaluations" in out


def test_pictures_are_kept(run):
    assert run(*LBFGS, "--save-every", "4")[0] == 0
    assert names() == ["out.png", "out_4.png", "out_8.png"]
    for name in names():
        with Image.open(name) as picture:
            assert picture.size == (48, 32)  # also at the first scale
    assert len(set(files().values())) == 3


def test_formats_and_transparency_are_kept(run):
    with Image.open(CONTENT) as picture:
        clear = picture.convert("RGBA").resize((48, 32))
    clear.paste((0, 0, 0, 0), (0, 0, 20, 32))
    clear.save("clear.png")
    for suffix in ("webp", "tiff"):
        inputs = ["clear.png", STYLE, "-o", f"out.{suffix}"]
        assert run(*LBFGS, "--save-every", "5", inputs=inputs)[0] == 0
        for name in (f"out.{suffix}", f"out_5.{suffix}"):
            with Image.open(name) as picture:
                np.testing.assert_array_equal(picture.getchannel("A"), clear.getchannel("A"))


def test_transparency_lost_to_jpeg_is_said_once(run):
    with Image.open(CONTENT) as picture:
        clear = picture.convert("RGBA").resize((48, 32))
    clear.putalpha(0)
    clear.save("clear.png")
    outcome = run(*LBFGS, "--save-every", "2", inputs=["clear.png", STYLE, "-o", "out.jpg"])
    assert outcome[0] == 0
    assert outcome[2] == "jaxnst: JPEG has no transparency: out.jpg is laid over white\n"
    for name in ("out.jpg", "out_2.jpg"):
        with Image.open(name) as picture:
            assert np.asarray(picture).min() > 250


def test_a_link_goes_on_pointing_at_the_picture(run):
    Path("elsewhere").mkdir()
    Path("elsewhere/real.png").write_text("old")
    Path("out.png").symlink_to("elsewhere/real.png")
    assert run(*LBFGS, *EACH)[0] == 0
    assert Path("out.png").is_symlink() and names("elsewhere") == ["real.png"]
    with Image.open("elsewhere/real.png") as picture:
        assert picture.size == (48, 32)


def test_animation_and_plot(run):
    status, out, err = run(*LBFGS, "--animation", "run.webp", "--plot", "losses.png")
    assert (status, err) == (0, "")
    assert names() == ["losses.png", "out.png", "run.webp"]
    with Image.open("run.webp") as moving, Image.open("out.png") as last:
        assert 2 <= moving.n_frames <= TOTAL + 1  # equal ones are joined
        assert moving.size == last.size
        moving.seek(moving.n_frames - 1)
        difference = np.asarray(moving.convert("RGB"), float) - np.asarray(last)
        # WebP keeps means of small blocks, but not every pixel of fine strokes.
        blocks = difference.reshape(8, 4, 12, 4, 3).mean((1, 3))
        assert np.abs(blocks).mean() < 4
    with Image.open("losses.png") as picture:
        assert picture.size == (1350, 600)


def test_an_animation_has_the_frames_from_before_the_interruption(run):
    assert run(*LBFGS, "--animation", "whole.gif")[0] == 0
    run(*LBFGS, "--animation", "run.gif", stop=6)
    assert names() == ["out.png", "out.png.run", "whole.gif"]
    assert run(*LBFGS, "--animation", "run.gif", "--resume")[0] == 0
    assert Path("run.gif").read_bytes() == Path("whole.gif").read_bytes()
    assert names() == ["out.png", "run.gif", "whole.gif"]


def test_an_animation_has_no_frames_of_another_run(run):
    assert run(*LBFGS, "--animation", "whole.gif")[0] == 0
    Path("out.png.run").mkdir()  # of a run that was killed before its first state
    Image.new("RGB", (30, 20)).save(f"out.png.run/frame-{500:09}.png")
    assert run(*LBFGS, "--animation", "run.gif")[0] == 0
    assert Path("run.gif").read_bytes() == Path("whole.gif").read_bytes()


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--checkpoint-seconds -1", "--checkpoint-seconds"),
        ("--checkpoint-seconds x", "--checkpoint-seconds"),
        ("--checkpoint-seconds nan", "--checkpoint-seconds"),
        ("--save-every 0", "--save-every"),
        ("--save-every 2.5", "--save-every"),
        ("--animation a.png", ".png"),
        ("--animation none/a.gif", "none"),
        ("--animation .", "folder"),
        ("--plot a.gif", ".gif"),
        ("--plot none/a.png", "none"),
        ("--min-size 0", "--min-size"),
        ("--min-size x", "--min-size"),
        ("--scale-factor 1", "scale_factor"),
        ("--scale-factor x", "--scale-factor"),
        ("--average 1 --optimizer adam", "average"),
        ("--average x", "--average"),
        ("--average 0.5", "--average goes with --optimizer adam"),
        ("--b2 1 --optimizer adam", "b2"),
        ("--b2 -1", "--b2"),
        ("--clamp", "--clamp goes with --optimizer adam"),
        ("--memory 3 --optimizer adam", "--memory goes with --optimizer lbfgs"),
        ("--num-steps 0 5", "--num-steps"),
        ("--first-steps 5", "--first-steps"),
        ("--res", "--res"),
    ],
)
def test_bad_values_are_refused(run, words, part):
    check_refused(run("--size", "48", *words.split()), part)
    assert names() == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("content.png style.png -o content.png", "content.png"),
        ("content.png style.png -o ./style.png", "style.png"),
        ("content.png style.png -o out.webp --animation out.webp", "out.webp"),
        ("content.png style.png -o out.png --plot out.png", "out.png"),
        ("content.png style.png -o out.png --plot style.png", "style.png"),
        ("content.png folder/../style.png -o link.png", "link.png"),
        ("content.png out_4.png -o out.png --save-every 2", "out_4.png"),
        ("out_9.png style.png -o out.png --save-every 9", "out_9.png"),
    ],
)
def test_nothing_is_overwritten_by_another_output(run, words, part):
    shutil.copy(CONTENT, "content.png")
    shutil.copy(STYLE, "style.png")
    Path("link.png").symlink_to("style.png")
    Path("folder").mkdir()
    for name in ("out_4.png", "out_9.png"):
        shutil.copy(STYLE, name)
    before = files()
    check_refused(run(*LBFGS, inputs=words.split()), part, "output")
    assert files() == before


# --- processes ---------------------------------------------------------------------------------


def start(folder, *words, cache=None):
    """`jaxnst transfer` as a process of its own."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(Path(jaxnst.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-m", "jaxnst", "transfer", CONTENT, STYLE, "-o", "out.png", *words],
        cwd=folder,
        env=environment | ({"JAXNST_CACHE": str(cache)} if cache else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Its standard output, of a process that does well and says nothing else."""
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    return out


def wait_for(condition, process):
    """Whether something is so before the process ends."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return False


def states(folder):
    return [int(path.stem.removeprefix("state-")) for path in folder.glob("state-*")]


def is_saving(folder):
    """Whether there is a state that is not whole yet."""
    return (folder / "unfinished.safetensors").exists()


@pytest.mark.slow
def test_a_real_process_is_interrupted_and_resumed(tmp_path):
    words = [*LBFGS, "--num-steps", "100000", "4", "--checkpoint-seconds", "0.1"]
    process = start(tmp_path, *words)
    assert wait_for(lambda: runs.is_unfinished(tmp_path / "out.png"), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    made = int(out.split(" evaluations")[0].split()[-1])
    assert out.splitlines()[1].startswith("jaxnst transfer --resume ")

    process = start(tmp_path, *words, "--resume")
    assert wait_for(lambda: max(states(tmp_path / "out.png.run")) > made, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "")
    assert int(out.split(" evaluations")[0].split()[-1]) > made


@pytest.mark.slow
def test_programs_are_compiled_once_and_damaged_ones_again(tmp_path):
    words = [*LAYERS, "--size", "32", "--num-steps", "2", "--memory", "3"]
    compiled = tmp_path / "cache/compiled"

    def run():
        finish(start(tmp_path / "here", *words, cache=tmp_path / "cache"))
        return {path: path.read_bytes() for path in compiled.iterdir()}

    first = run()
    assert first
    assert run() == first
    for path in first:  # as by a process that was killed
        path.write_bytes(first[path][: len(first[path]) // 2])
    again = run()
    assert again.keys() == first.keys()
    assert all(len(again[path]) > len(first[path]) // 2 for path in again)
    assert run() == again


@pytest.mark.slow
@pytest.mark.parametrize(("options", "kills"), [([], 10), (ADAM[len(SCALES) :], 4)])
def test_killed_again_and_again(tmp_path, options, kills):
    words = ["--size", "64", "--min-size", "32", "--num-steps", "30", "20"]
    words += ["--checkpoint-seconds", "0.2", "--save-every", "25", "--animation", "run.gif"]
    words += options
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    folder, out = killed / "out.png.run", killed / "out.png"
    finish(start(alone, *words))  # and what it compiles is kept
    whole = {path.name: path.read_bytes() for path in alone.iterdir()}
    assert whole.keys() == {"out.png", "out_25.png", "out_50.png", "run.gif"}

    # How long it is at work once its folder is there:
    process = start(alone, *words)
    assert wait_for((alone / "out.png.run").exists, process)
    begun = time.monotonic()
    finish(process)
    seconds = time.monotonic() - begun

    draw, resumed, within, ended = random.Random(0), 0, 0, 0
    while kills:
        resume = runs.is_unfinished(out)
        process = start(killed, *words, *(["--resume"] if resume else []))
        before = states(folder)
        moment, longest = [
            (folder.exists, 0.5 * seconds),
            (lambda: is_saving(folder), 0.03),
            (lambda before=before: set(states(folder)) - set(before), 0.2 * seconds),
        ][kills % 3]
        wait_for(moment, process)
        time.sleep(draw.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        resumed += resume
        within += is_saving(folder)
        if process.returncode == 0:  # faster than the kill
            ended += 1
        else:
            kills -= 1
    print(f"{resumed} went on from a state, {within} were killed within a save, {ended} ended")
    assert resumed
    finish(start(killed, *words, *(["--resume"] if runs.is_unfinished(out) else [])))
    made = {path.name: path.read_bytes() for path in killed.iterdir()}
    assert made.keys() == whole.keys()
    assert [name for name in whole if made[name] != whole[name]] == []
