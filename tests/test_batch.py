"""Which pictures a batch finds, what their results are called, and which shapes they get."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxnst.batch import find_contents
from jaxnst.decode import is_picture_name, picture_size
from jaxnst.images import load_alpha, load_image


def paint(path: Path, sides: tuple[int, int]) -> None:
    """A smooth picture, clear at one side if it is called so."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    picture = Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC)
    if path.stem == "clear":
        picture.putalpha(Image.linear_gradient("L").rotate(90).resize(sides))
    picture.save(path)


# --- which pictures ----------------------------------------------------------------------------


def found(*paths: str, suffix: str = ".png") -> dict[str, str]:
    contents = find_contents([Path(path) for path in paths], suffix)
    return {content.path.as_posix(): content.output for content in contents}


def touch(*paths: str) -> None:
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_folders_are_searched_and_kept(empty: None) -> None:
    touch("in/b.jpg", "in/a.png", "in/sub/c.JPEG", "in/sub/a.webp", "other/d.tiff", "e.png")
    touch("in/notes.txt", "in/.a.png", "in/.git/b.png", "in/a.png.txt", "in/png", "in/x.mp4")
    Path("in/folder.png").mkdir()
    of_in = {"in/a.png": "a.png", "in/b.jpg": "b.png"}
    of_in |= {"in/sub/a.webp": "sub/a.png", "in/sub/c.JPEG": "sub/c.png"}
    assert found("in") == found("in", "in") == found("in/b.jpg", "in") == of_in
    rest = {"other/d.tiff": "d.png", "e.png": "e.png"}
    assert list(found("in", "other", "e.png").items()) == [*of_in.items(), *rest.items()]
    assert found("e.png", suffix=".webp") == {"e.png": "e.webp"}
    assert found("in/.git") == {"in/.git/b.png": "b.png"}  # one's own wish
    assert found("in/notes.txt") == {"in/notes.txt": "notes.png"}


def test_names_that_would_be_the_same_keep_their_suffixes(empty: None) -> None:
    touch("in/a.jpg", "in/a.png", "in/b.png", "in/sub/a.jpg", "in/C.webp", "in/c.tif")
    assert found("in") == {
        "in/a.jpg": "a.jpg.png",
        "in/a.png": "a.png.png",
        "in/b.png": "b.png",
        "in/sub/a.jpg": "sub/a.png",
        "in/C.webp": "C.webp.png",
        "in/c.tif": "c.tif.png",
    }
    touch("one/a.jpg", "two/a.png")
    assert found("one", "two/a.png") == {"one/a.jpg": "a.jpg.png", "two/a.png": "a.png.png"}


@pytest.mark.parametrize("second", ["two/a.jpg", "two/A.JPG"])
def test_names_that_are_the_same_are_refused(empty: None, second: str) -> None:
    touch("one/a.jpg", second)
    with pytest.raises(ValueError, match=rf"one.a\.jpg and {second}".replace("/", ".")):
        found("one", "two")


def test_no_pictures_are_refused(empty: None) -> None:
    touch("in/notes.txt", "in/.a.png")
    with pytest.raises(ValueError, match="no pictures in in"):
        found("in")
    touch("in/a.png")
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        found("in", "none.png")


# --- their shapes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "options", "shape"),
    [
        ((100, 60), {"multiple": 16}, (64, 96)),  # 3.75 times 16
        ((60, 100), {"multiple": 16}, (96, 64)),
        ((100, 55), {"multiple": 16}, (48, 96)),  # 3.4
        ((100, 60), {"multiple": 1}, (58, 96)),
        ((100, 3), {"multiple": 16}, (16, 96)),
        ((96, 96), {"multiple": 16, "size": 90}, (90, 90)),  # the side that is named stays
        ((100, 60), {"multiple": 16, "fit": "short", "size": 48}, (48, 80)),
        ((60, 100), {"multiple": 32, "fit": "short", "size": 48}, (64, 48)),
        ((100, 60), {"multiple": 16, "fit": "short", "size": 48, "crop": True}, (48, 48)),
        ((100, 60), {"multiple": 16, "enlarge": False, "size": 200}, (64, 100)),
    ],
)
def test_a_side_is_rounded_to_a_multiple(
    tmp_path: Path, sides: tuple[int, int], options: dict[str, Any], shape: tuple[int, int]
) -> None:
    path = tmp_path / "clear.png"
    paint(path, sides)
    options = {"size": 96} | options
    alpha = load_alpha(path, **options)
    assert alpha is not None
    assert load_image(path, **options).shape[:2] == alpha.shape == shape


@pytest.mark.parametrize("multiple", [0, -16, 1.5, True, "16"])
def test_a_multiple_that_is_none_is_refused(tmp_path: Path, multiple: Any) -> None:
    paint(tmp_path / "a.png", (40, 30))
    with pytest.raises(ValueError, match="multiple"):
        load_image(tmp_path / "a.png", size=32, multiple=multiple)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_the_size_of_a_picture_is_that_of_the_upright_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    for orientation in range(9):  # 0 is none
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (40, 30)).save(path, exif=exif)
        width, height = (30, 40) if orientation > 4 else (40, 30)
        assert picture_size(path) == (width, height)
        assert load_image(path).shape == (height, width, 3)


def test_what_is_no_picture_has_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("This is no picture.\n")
    for path in (tmp_path, tmp_path / "text.png", tmp_path / "none.png"):
        assert picture_size(path) is None
    # As large as `load_image` reads, without a warning from Pillow's own limit.
    paint(tmp_path / "a.png", (40, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert picture_size(tmp_path / "a.png") == (40, 30)


def test_names_of_pictures() -> None:
    for name in ("a.png", "a.JPG", "b/a.jpeg", "a.webp", "a.tiff", "a.b.gif", "a.bmp"):
        assert is_picture_name(name)
    for name in ("a.txt", "png", ".png", "a.png.txt", "a", "a.mp4", "a.pdf"):
        assert not is_picture_name(name)
