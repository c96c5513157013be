"""Moving pictures: frames, durations, colours."""

import numpy as np
import pytest
from PIL import Image

from jaxnst.animation import check_animation_output, save_animation

SUFFIXES = pytest.mark.parametrize("suffix", [".gif", ".webp", ".GIF"])


def make_frames(count):
    """Flat colours with a ramp, none like another."""
    y, x = np.mgrid[0:1:24j, 0:1:32j]
    return [np.stack([x, y, np.full_like(x, i / count)], -1) for i in range(count)]


def read(path):
    frames, durations = [], []
    with Image.open(path) as picture:
        loop = picture.info.get("loop")
        for i in range(picture.n_frames):
            picture.seek(i)
            frames.append(np.asarray(picture.convert("RGB")) / 255)
            durations.append(picture.info["duration"])
    return frames, durations, loop


@SUFFIXES
def test_frames_come_back(tmp_path, suffix):
    expected = make_frames(5)
    save_animation(tmp_path / f"a{suffix}", iter(expected), milliseconds=90, hold=1200)
    frames, durations, loop = read(tmp_path / f"a{suffix}")
    assert durations == [90, 90, 90, 90, 1200]
    assert loop == 0  # for ever
    for found, frame in zip(frames, expected, strict=True):
        assert np.abs(found - frame).mean() < 0.05
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@SUFFIXES
def test_one_frame(tmp_path, suffix):
    save_animation(tmp_path / f"a{suffix}", make_frames(1))
    with Image.open(tmp_path / f"a{suffix}") as picture:
        assert picture.size == (32, 24)


def test_values_outside_are_clipped(tmp_path):
    save_animation(tmp_path / "a.webp", [np.full((8, 8, 3), 1.5), np.full((8, 8, 3), -0.5)])
    light, dark = read(tmp_path / "a.webp")[0]
    assert light.min() > 0.98 and dark.max() < 0.02


@pytest.mark.parametrize(
    ("frames", "part"),
    [([], "at least one frame"), ([np.zeros((4, 4, 3)), np.zeros((4, 5, 3))], "one shape")],
)
def test_frames_that_do_not_serve_leave_the_old_file(tmp_path, frames, part):
    (tmp_path / "a.gif").write_text("old")
    with pytest.raises(ValueError, match=part):
        save_animation(tmp_path / "a.gif", frames)
    assert (tmp_path / "a.gif").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "error"),
    [("a.png", ValueError), ("a", ValueError), ("none/a.gif", FileNotFoundError)],
)
def test_paths_that_do_not_serve(tmp_path, name, error):
    with pytest.raises(error):
        check_animation_output(tmp_path / name)
    with pytest.raises(error):
        save_animation(tmp_path / name, make_frames(1))
