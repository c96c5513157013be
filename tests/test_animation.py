"""Animated pictures: frames, durations, colours."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxnst.app.animation import check_animation_output, save_animation

# Flat colours with a ramp, each different.
Y, X = np.mgrid[0:1:24j, 0:1:32j]
FRAMES = [np.stack([X, Y, np.full_like(X, i / 5)], -1) for i in range(5)]


def read(path):
    """Return the frames and their durations."""
    frames, durations = [], []
    with Image.open(path) as picture:
        for i in range(picture.n_frames):
            picture.seek(i)
            frames.append(np.asarray(picture.convert("RGB")) / 255)
            durations.append(picture.info.get("duration"))
    return frames, durations


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".GIF"])
@pytest.mark.parametrize(
    ("expected", "durations"),
    [
        (FRAMES, [90, 90, 90, 90, 1200]),
        ([jnp.asarray(frame, jnp.float32) for frame in FRAMES[:2]], [90, 1200]),
        ([np.full((8, 8, 3), 1.5), np.full((8, 8, 3), -0.5)], [90, 1200]),  # clipped
    ],
)
def test_frames_are_read_back(tmp_path, suffix, expected, durations):
    path = tmp_path / f"a{suffix}"
    save_animation(path, iter(expected), milliseconds=90, hold=1200)
    frames, found = read(path)
    assert found == durations
    for got, frame in zip(frames, expected, strict=True):
        assert np.abs(got - np.clip(frame, 0, 1)).mean() < 0.05
    with Image.open(path) as picture:
        assert picture.info["loop"] == 0  # for ever
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_one_frame_is_a_picture(tmp_path, suffix):
    save_animation(tmp_path / f"a{suffix}", FRAMES[:1])
    assert [frame.shape for frame in read(tmp_path / f"a{suffix}")[0]] == [(24, 32, 3)]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_equal_frames_take_their_time(tmp_path, suffix):
    first, last = FRAMES[0], FRAMES[-1]
    save_animation(tmp_path / f"a{suffix}", [first, first, last, last], milliseconds=50, hold=700)
    frames, durations = read(tmp_path / f"a{suffix}")
    assert sum(durations) == 3 * 50 + 700  # equal frames may be joined
    for found, frame in ((frames[0], first), (frames[-1], last)):
        assert np.abs(found - frame).mean() < 0.05


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        ([], ValueError, "frames must be one or more of one shape, not of 0 shapes"),
        ([FRAMES[0], FRAMES[0][1:]], ValueError, "one or more of one shape, not of 2 shapes"),
        ([FRAMES[0], FRAMES[0] + np.nan], ValueError, r"frames\[1\] must be finite"),
        ([FRAMES[0].astype(int)], TypeError, r"frames\[0\] must hold floats"),
    ],
)
def test_frames_that_make_no_animation_are_refused(tmp_path, frames, error, message):
    (tmp_path / "a.gif").write_text("old")
    with pytest.raises(error, match=message):
        save_animation(tmp_path / "a.gif", frames)
    assert (tmp_path / "a.gif").read_text() == "old"


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    def fail(self, path, *_, **__):
        Path(path).write_text("half")
        raise OSError("no space")

    target = tmp_path / f"a{suffix}"
    target.write_text("old")
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        save_animation(target, FRAMES)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("check", [check_animation_output, lambda p: save_animation(p, FRAMES)])
@pytest.mark.parametrize(
    ("name", "error"),
    [("a.png", ValueError), ("a", ValueError), ("none/a.gif", FileNotFoundError)],
)
def test_paths_that_cannot_be_written_are_refused(tmp_path, check, name, error):
    with pytest.raises(error) as refusal:
        check(tmp_path / name)
    assert "\n" not in str(refusal.value) and not list(tmp_path.iterdir())
