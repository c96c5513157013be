"""Which pictures a batch finds, and what their results are called."""

from pathlib import Path

import pytest

from jaxnst.app.batch import find_contents


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
    assert found("in/.git") == {"in/.git/b.png": "b.png"}  # named by the user
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
