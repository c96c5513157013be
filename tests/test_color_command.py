"""The option `--color` of the commands."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import call, check_refused
from PIL import Image

import jaxnst
from jaxnst import color

Array = np.ndarray[Any, Any]

LAYERS = ["--content-layers", "relu2_1", "--style-layers", "relu1_1"]
SMALL = ["--preset", "pastiche", *LAYERS, "--optimizer", "adam", "--size", "32", "--num-steps", "3"]
SMALL += ["--color"]
SOURCES = ["photo.png", "paint.png"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: jax.Array) -> None:
    """Work in a folder with a photograph and a painting of other colours."""
    monkeypatch.chdir(tmp_path)
    photo = jaxnst.resize(content, 24, 32)
    jaxnst.save_image("photo.png", photo)
    jaxnst.save_image("paint.png", 1 - photo[::-1] ** 2)


def chroma(image: Any) -> Array:
    return np.asarray(color.srgb_to_yiq(image))[..., 1:]


def saved(name: str) -> Array:
    return np.asarray(jaxnst.load_image(name))


@pytest.mark.usefixtures("folder")
def test_a_transfer_saves_all_its_pictures_in_the_colours_asked_for() -> None:
    for mode in color.COLORS:
        words = [*SMALL, mode, "--save-every", "2", "--animation", f"{mode}.gif"]
        assert call("transfer", *SOURCES, "-o", f"{mode}.png", *words).status == 0
    call("transfer", *SOURCES, "-o", "plain.png", *SMALL[:-1], "--save-every", "2")
    photo = saved("photo.png")
    for mode in color.COLORS:
        for name in (f"{mode}.png", f"{mode}_2.png"):
            far = np.abs(chroma(saved(name)) - chroma(photo)).max() > 0.01
            assert mode == "match" or far == (mode == "style"), name
        with Image.open(f"{mode}.gif") as animation:
            animation.seek(animation.n_frames - 1)
            frame = np.asarray(animation.convert("RGB"), np.float32) / 255
        assert np.abs(frame - saved(f"{mode}.png")).mean() < 0.02
    for name in ("", "_2"):
        assert Path(f"match{name}.png").read_bytes() != Path(f"style{name}.png").read_bytes()
        assert Path(f"plain{name}.png").read_bytes() == Path(f"style{name}.png").read_bytes()
        luma = color.luminance(saved(f"style{name}.png"))
        after = color.luminance(saved(f"content-after{name}.png"))
        assert np.median(np.abs(luma - after)) < 0.01


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("mode", ["content-luminance", "match"])
def test_a_sweep_and_a_batch_make_the_picture_of_a_transfer(mode: str) -> None:
    jaxnst.save_image("more.png", saved("photo.png")[:, ::-1])
    weight = ["--style-weights", "100000"]
    outcomes = [
        call("transfer", *SOURCES, "-o", "out.png", *SMALL, mode, "--style-weight", "100000"),
        call("sweep", *SOURCES, "-o", "sweep", *SMALL, mode, *weight),
        call("batch", "photo.png", "more.png", "--styles", "paint.png", "-o", "batch", *SMALL, mode,
             "--style-weight", "100000"),
    ]  # fmt: skip
    assert [outcome.status for outcome in outcomes] == [0, 0, 0]
    for name in ("sweep/001.png", "batch/photo.png"):
        np.testing.assert_allclose(saved(name), saved("out.png"), atol=1.1 / 255)
    other = call("batch", "photo.png", "--styles", "paint.png", "-o", "batch", *SMALL, "nonsense")
    check_refused(other, "--color", "nonsense", "content-luminance")
    again = call("sweep", *SOURCES, "-o", "sweep", *SMALL, "style", *weight)
    check_refused(again, "color")
