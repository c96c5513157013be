"""The page of a sweep: its text, and its behaviour in a browser."""

import io
import json
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest
from flat_pictures import GRID, IMAGE, NASTY, plain
from PIL import Image

from jaxnst.app.page import write_page

GRID = [label | {"seed": 3} for label in GRID]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("old.html", IMAGE[0], ValueError, r"content must .*, not \(8, 3\)"),
        ("", IMAGE, ValueError, "is a folder: give the name of a file in it"),
        ("a.txt", IMAGE, ValueError, "unknown suffix '.txt': use one of .html .htm"),
        ("none/a.html", IMAGE, FileNotFoundError, "there is no folder .*: make it first"),
    ],
)
def test_content_or_path_that_does_not_work_is_refused(tmp_path, name, content, error, message):
    (tmp_path / "old.html").write_text("old")
    with pytest.raises(error, match=message):
        write_page(tmp_path / name, content, [IMAGE], ["a"])
    assert (tmp_path / "old.html").read_text() == "old" and len([*tmp_path.iterdir()]) == 1


class Page(HTMLParser):
    """A page's elements, the texts in them, and the data."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts = [], {}
        self.feed(path.read_text(encoding="utf-8"))
        self.data = json.loads(self.texts["script data"])
        self.images = [attributes for tag, attributes in self.elements if tag == "img"]

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, text):
        tag, attributes = (self.elements or [("", {})])[-1]
        name = f"{tag} {attributes.get('id', '')}".strip()
        self.texts[name] = self.texts.get(name, "") + text.strip()


def decode(source):
    kind, _, encoded = source.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(b64decode(encoded, validate=True))), np.float32) / 255


def test_page_holds_content_and_images_in_order(tmp_path, content):
    images = [np.asarray(content) * factor for factor in np.linspace(1, 0.1, 6)]
    write_page(tmp_path / "index.html", content, images, GRID, title="Six")
    page = Page(tmp_path / "index.html")
    labels = [f"style {w}, tv {t}" for w in ("10", "1000", "100000") for t in ("0", "1e-5")]
    assert [image["alt"] for image in page.images] == ["content", *labels]
    for image, expected in zip(page.images, [content, *images], strict=True):
        pixels = decode(image["src"])
        assert pixels.shape == expected.shape == (int(image["height"]), int(image["width"]), 3)
        assert np.abs(pixels - expected).mean() < 0.02
    assert page.data == {
        "labels": labels,
        "axes": [
            {"name": "style", "values": ["10", "1000", "100000"]},
            {"name": "tv", "values": ["0", "1e-5"]},
        ],
        "cells": [0, 1, 2, 3, 4, 5],
    }
    assert page.texts["title"] == page.texts["h1"] == "Six"
    assert page.texts["p"] == "seed 3"


def test_page_needs_no_other_file(tmp_path):
    write_page(tmp_path / "index.html", IMAGE, [IMAGE], ["a"])
    page = Page(tmp_path / "index.html")
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "//" not in page.texts["style"] and "url(" not in page.texts["style"]


def test_page_scales_large_images_down_and_none_up(tmp_path):
    images = plain([(300, 150), (20, 30)])
    write_page(tmp_path / "index.html", images[0], images, ["a", "b"], size=100)
    sizes = [decode(image["src"]).shape[:2] for image in Page(tmp_path / "index.html").images]
    assert sizes == [(100, 50), (100, 50), (20, 30)]


def test_page_escapes_all_texts(tmp_path):
    path, calm = tmp_path / "index.html", tmp_path / "calm.html"
    labels = [{NASTY: NASTY, "kept": NASTY}, {NASTY: "\udc80 {} ünï", "kept": NASTY}]
    write_page(path, IMAGE, [IMAGE, IMAGE], labels, title=NASTY)
    write_page(calm, IMAGE, [IMAGE, IMAGE], ["a", "b"])
    page = Page(path)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in Page(calm).elements]
    assert page.texts["title"] == page.texts["h1"] == NASTY
    assert page.texts["p"] == f"kept {NASTY}"
    assert page.data["labels"][0] == page.images[1]["alt"] == f"{NASTY} {NASTY}".replace("_", " ")
    assert page.data["axes"][0]["values"][0] == NASTY
    assert page.images[2]["alt"].endswith("? {} ünï")


def test_page_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "index.html"
    path.write_text("old")
    write_page(str(path), IMAGE, (IMAGE for _ in "ab"), ["a", "b"])
    assert path.read_text().startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [path]
