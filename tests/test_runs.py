"""What a run leaves on disk, held against made-up records of progress."""

import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxnst
from jaxnst.app import checkpoint, runs
from jaxnst.app.inputs import Inputs
from jaxnst.app.options import Choice
from jaxnst.app.runs import Recorder, fingerprint_of, is_unfinished
from jaxnst.images import Geometry
from jaxnst.losses import half_squared_error
from jaxnst.minimize import Progress
from jaxnst.optimize import Status
from jaxnst.scales import TransferState
from jaxnst.sources import Picture

SHAPE = (24, 32)


def make_progress(evaluation, num_steps=200, shape=SHAPE, loss=1.0):
    image = jnp.full((*shape, 3), evaluation / num_steps)
    history = {"loss": np.full(evaluation, loss)}
    state = TransferState(0, 0, [image], history)
    return Progress(evaluation, num_steps, loss, {}, 1.0, image, history, Status.OK, False, state)


@pytest.fixture
def make(tmp_path):
    def make(**options):
        options = {"interval": 0} | options
        return Recorder(tmp_path / "out.png", SHAPE, {"content": "a"}, **options)

    return make


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- the fingerprint ---------------------------------------------------------------------------

CONFIG, WEIGHTS = jaxnst.preset("pastiche")
CHOICE = Choice(CONFIG, WEIGHTS, Geometry())
PARTS = {
    "content": np.zeros((4, 4, 3), np.float32),
    "style": np.zeros((4, 4, 3), np.float32),
    "params": {"conv1_1": {"bias": np.zeros(3, np.float32)}},
    "choice": CHOICE,
}


def fingerprint(content, style, params, choice):
    return fingerprint_of(Inputs(content, [Picture(style)]).fingerprint, params, choice)


def changed(**parts):
    one, other = fingerprint(**PARTS), fingerprint(**PARTS | parts)
    return {name for name in one | other if one.get(name) != other.get(name)}


def test_the_same_parts_have_the_same_fingerprint():
    copies = {"content": PARTS["content"].copy(), "style": jnp.asarray(PARTS["style"])}
    assert changed(**copies) == set()
    assert all(isinstance(value, str) for value in fingerprint(**PARTS).values())


def term(name, **fields):
    terms = CONFIG.objective.terms
    terms = {**terms, name: dataclasses.replace(terms[name], **fields)}
    return {"objective": dataclasses.replace(CONFIG.objective, terms=terms)}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"num_steps": (5, 6)}, {"num_steps"}),
        ({"seed": 3}, {"seed"}),
        ({"optimizer": jaxnst.Lbfgs(memory=100, learning_rate=0.5)}, {"learning_rate"}),
        ({"optimizer": jaxnst.Lbfgs(memory=7)}, {"memory"}),
        ({"objective": dataclasses.replace(CONFIG.objective, pooling="average")}, {"pooling"}),
        ({"objective": dataclasses.replace(CONFIG.objective, dtype="bfloat16")}, {"dtype"}),
        (term("content", distance=half_squared_error), {"content_distance"}),
        (term("style", statistic=jaxnst.raw_gram_matrix), {"style_statistic"}),
        (term("style", layers=["relu1_1"]), {"style_layers"}),
    ],
    ids=lambda names: "-".join(sorted(names)),
)
def test_the_fingerprint_names_the_option_that_changed(change, names):
    config = dataclasses.replace(CONFIG, **change)
    assert changed(choice=CHOICE._replace(config=config)) == names


def test_the_fingerprint_names_the_rest_that_changed():
    assert changed(content=PARTS["content"] + 1) == {"content"}
    assert changed(style=PARTS["style"] + 1) == {"style"}
    assert changed(params={"conv1_1": {"bias": np.ones(3, np.float32)}}) == {"params"}
    assert changed(choice=CHOICE._replace(weights=WEIGHTS.replace(style=3.0))) == {"style_weight"}
    weights = WEIGHTS.replace_layers(style={"relu1_1": 2.0})
    assert changed(choice=CHOICE._replace(weights=weights)) == {"layer_weights"}
    assert changed(choice=CHOICE._replace(geometry=Geometry(size=99))) == {"size"}
    assert changed(choice=CHOICE._replace(color="match")) == {"color"}
    adam = dataclasses.replace(CONFIG, optimizer=jaxnst.Adam())
    assert {"optimizer", "memory", "b2"} <= changed(choice=CHOICE._replace(config=adam))


def test_settings_are_the_same_in_two_processes():
    code = (
        "import jaxnst; from jaxnst.app import runs, options, parser;"
        "words = 'transfer c s -o o --style-layers relu1_1 --optimizer adam'.split();"
        "parsers = ((name, parser.make_parser(name)) for name in jaxnst.PRESETS);"
        "print([runs.settings_of(options.choose(p.parse_args([*words, '--preset', name])))"
        " for name, p in parsers])"
    )
    path = {"PYTHONPATH": str(Path(jaxnst.__file__).parents[1])}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | path | {"PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    )
    assert first == second and " at 0x" not in first and "raw_gram_matrix" in first


def test_a_state_of_another_version_is_refused(make, monkeypatch):
    record = make()
    record(make_progress(7))
    record.save()
    monkeypatch.setattr(runs.jaxnst, "__version__", "0.0.0")
    with pytest.raises(ValueError, match="a run with other jaxnst: .*--restart"):
        make().resume()


# --- pictures and frames -----------------------------------------------------------------------


def test_pictures_are_numbered_and_have_the_final_shape(make, tmp_path):
    record = make(save_every=50)
    for evaluation in (1, 49, 50, 51, 150):
        record(make_progress(evaluation, shape=(12, 16)))
    record(make_progress(200))
    assert names(tmp_path) == ["out.png.run", "out_050.png", "out_150.png", "out_200.png"]
    for name in ("out_050.png", "out_150.png", "out_200.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (32, 24)
            value = int(name[4:7]) / 200 * 255
            assert np.abs(np.asarray(picture) - value).max() <= 1


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((24, 32), (24, 32)), ((400, 2000), (102, 512)), ((1, 4000), (1, 512)), ((512, 9), (512, 9))],
)
def test_frames_of_large_pictures_are_small(make, shape, expected):
    record = make(frame_every=10)
    record.shape = shape
    for evaluation in (5, 10, 100):
        record(make_progress(evaluation, shape=(12, 16)))
    frames = list(record.frames())
    assert [frame.shape for frame in frames] == [(*expected, 3)] * 2
    assert frames[0].mean() < frames[1].mean()  # in their order


# --- states ------------------------------------------------------------------------------------


def test_states_are_saved_at_intervals(make, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "save", lambda _, step, *__: saved.append(step))
    record = make(interval=10, saved=0.0)
    for i in range(1, 8):
        now[0] += 4
        record(make_progress(i))
    assert saved == [3, 6]
    record = make(interval=0)
    now[0] += 1000
    record(make_progress(9))
    assert saved == [3, 6]
    record.save()
    assert saved == [3, 6, 9]


def test_a_state_that_is_there_is_not_saved_again(make, monkeypatch, caplog):
    saved = []
    monkeypatch.setattr(checkpoint, "save", lambda _, step, *__: saved.append(step))
    record = make(interval=1e-9)
    for evaluation in (1, 2):
        record(make_progress(evaluation))
    record.save()  # at Ctrl-C
    assert saved == [1, 2]

    def fail(*_):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", fail)
        record(make_progress(3))
    record.save()
    assert saved == [1, 2, 3] and "no space" in caplog.text


def test_nothing_is_saved_before_a_loss_was_finite(make, tmp_path):
    record = make(interval=1e-9, save_every=1, frame_every=1)
    record(make_progress(1, loss=float("nan")))
    record.save()
    assert names(tmp_path) == []


def test_a_state_comes_back(make):
    record = make()
    progress = make_progress(7)
    record(progress)
    record.save()
    assert is_unfinished(record.output)
    state = make().resume()
    np.testing.assert_array_equal(state.leaves[0], progress.state.leaves[0])
    np.testing.assert_array_equal(state.history["loss"], progress.history["loss"])
    assert (int(state.scale), int(state.evaluations_before)) == (0, 0)
    other = make()
    other.fingerprint = {"content": "b"}
    with pytest.raises(ValueError, match="other content"):
        other.resume()


def test_the_folder_stays_only_with_a_state(make, tmp_path):
    record = make(frame_every=1, save_every=1)
    with record.working():
        assert record.folder.is_dir()
        record(make_progress(1))
    assert names(tmp_path) == ["out_001.png"]
    with pytest.raises(KeyboardInterrupt), record.working():
        record(make_progress(1))
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out_001.png"]
    with record.working():
        record(make_progress(1))
        record.save()
    assert names(record.folder) == ["frame-000000001.png", "state-1.safetensors"]
    record.remove()
    assert names(record.folder) == []


def test_files_of_the_user_stay(make):
    record = make(frame_every=1, interval=1e-9)
    mine = ["new/a.png", "frames/000000001.png", "state/1/a", "frame-1.png", "notes.txt"]
    for name in mine:
        (record.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (record.folder / name).write_text("mine")
    with record.working():
        record(make_progress(1))
        record.remove()
    there = [path.relative_to(record.folder) for path in record.folder.rglob("*")]
    assert {path.as_posix() for path in there if (record.folder / path).is_file()} == set(mine)


def test_two_runs_at_one_picture(make):
    with make().working():
        with pytest.raises(BlockingIOError, match="another jaxnst"), make().working():
            raise AssertionError
        assert make().folder.is_dir()
    with make().working():
        pass


def test_an_earlier_run_goes_only_when_the_new_one_works(make):
    first = make()
    first(make_progress(7))
    first.save()
    second = make()
    with second.working():
        second(make_progress(1, loss=float("nan")))
        assert names(second.folder) == ["state-7.safetensors"]
        second(make_progress(1))
        assert names(second.folder) == []
        second.save()
    assert names(second.folder) == ["state-1.safetensors"]


def test_the_last_picture_is_saved_elsewhere_when_its_own_place_fails(make, tmp_path, monkeypatch):
    record = make()
    record(make_progress(9))
    monkeypatch.setattr(runs, "move_into_place", no_space)
    with pytest.raises(OSError, match="finished picture is") as caught:
        record.save_last_picture(jnp.full((*SHAPE, 3), 0.5))
    message = str(caught.value)
    assert str(tmp_path / "out.png") in message and "No space" in message
    with Image.open(message.split("picture is ")[1].strip("'")) as picture:
        assert picture.size == (32, 24)
    assert is_unfinished(record.output)


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [OSError("no\nspace"), ValueError("no space")], ids=repr)
def test_a_failed_save_is_logged(make, tmp_path, monkeypatch, caplog, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(runs, "save_image", fail)
    record = make(interval=1e-9, save_every=1, frame_every=1)
    record(make_progress(1))
    assert len(caplog.messages) == 3
    for message in caplog.messages:
        assert message.startswith("not saved: ") and message.endswith("no space")
    assert names(tmp_path) == ["out.png.run"] and is_unfinished(record.output)


def test_a_file_appears_only_when_it_is_whole(make, tmp_path):
    record = make()
    (tmp_path / "a.txt").write_text("old")

    def write(path: Path):
        path.write_text("new")
        assert path.parent == record.folder and path.suffix == ".txt"
        assert (tmp_path / "a.txt").read_text() == "old"
        assert names(tmp_path) == ["a.txt", "out.png.run"]

    record.put(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(record.folder) == []


def test_a_kill_leaves_no_half_of_a_file_in_the_users_folder(make, tmp_path, monkeypatch):
    """A kill can come before or after each step; nothing but whole files is ever to be seen."""
    record, seen = make(interval=1e-9, save_every=1, frame_every=1), set()
    for name in ("replace", "rename", "unlink"):
        step = getattr(os, name)

        def watched(*args, step=step, **options):
            seen.update(names(tmp_path))
            outcome = step(*args, **options)
            seen.update(names(tmp_path))
            return outcome

        monkeypatch.setattr(os, name, watched)
    record(make_progress(1))
    record(make_progress(2))
    assert seen == {"out.png", "out.png.run", "out_001.png", "out_002.png"}


def test_a_link_to_another_disk_is_written_through(make, tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    (there / "real.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to(there / "real.txt")
    replace, refused = os.replace, []

    def across(source, target):
        if Path(source).parent != Path(target).parent:
            refused.append(target)
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", across)
    record = make()
    record.put(tmp_path / "a.txt", lambda path: path.write_text("new"))
    assert refused and (tmp_path / "a.txt").is_symlink()
    assert (there / "real.txt").read_text() == "new"
    assert names(there) == ["real.txt"] and names(record.folder) == []
