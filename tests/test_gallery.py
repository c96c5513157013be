"""The gallery's page is what its script writes, and has every picture with its command."""

import importlib.util
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from jaxnst.app.parser import make_parser

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_the_one_that_the_script_writes(gallery):
    assert (DOCS / "gallery.md").read_text(encoding="utf-8") == gallery.page()


def test_every_picture_is_there_and_small_and_no_other(gallery):
    files = {path.stem: path for path in (DOCS / "gallery").iterdir()}
    assert files.keys() == gallery.GALLERY.keys() and len(files) >= 16
    for path in files.values():
        with Image.open(path) as picture:
            assert max(picture.size) >= 256
        assert path.stat().st_size < 150_000


def test_every_command_is_understood(gallery):
    for shown in gallery.GALLERY.values():
        words = shlex.split(gallery.full(shown))
        options = make_parser().parse_args([*words, "-o", "made.png"])
        assert options.output == Path("made.png") and max(options.size, 256) <= 320
