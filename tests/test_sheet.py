"""Contact sheets pixel by pixel."""

import numpy as np
import pytest
from flat_pictures import COLOURS, GRID, IMAGE, plain
from PIL import ImageFont

from jaxnst.app.page import write_page
from jaxnst.app.sheet import _wrap, contact_sheet

NAMES = ["a", "b", "c", "d", "e", "f"]


def boxes(sheet, n):
    """Return (top, bottom, left, right) of each of the first `n` colours on a sheet."""
    found = []
    for colour in COLOURS[:n]:
        places = np.argwhere((np.abs(sheet - colour) < 1e-6).all(-1))
        (top, left), (bottom, right) = places.min(0), places.max(0) + 1
        assert len(places) == (bottom - top) * (right - left), "all of the image, nothing over it"
        found.append((int(top), int(bottom), int(left), int(right)))
    return found


def ink(sheet):
    """Return where there is text: grey that is darker than the ground."""
    return (np.ptp(sheet, axis=-1) == 0) & (sheet[..., 0] < 0.9)


def test_each_image_has_its_place_and_its_label_below_it():
    shapes = [(100, 150), (150, 100), (150, 150), (40, 30), (99, 151), (150, 149)]
    sheet = contact_sheet(plain(shapes), [f"label {i}" for i in range(6)], columns=3)
    assert sheet.dtype == np.float32 and sheet.ndim == 3 and sheet.shape[2] == 3
    assert sheet.min() >= 0 and sheet.max() == 1
    found = boxes(sheet, 6)
    assert [(bottom - top, right - left) for top, bottom, left, right in found] == shapes
    (foot,), (foot2,) = {box[1] for box in found[:3]}, {box[1] for box in found[3:]}
    middles = [(left + right) / 2 for _, _, left, right in found]
    np.testing.assert_allclose(middles[:3], middles[3:], atol=0.5)
    assert np.ptp(np.diff(middles[:3])) <= 1 and middles[0] < middles[1]
    for i, end in enumerate([foot2 - 150] * 3 + [len(sheet)] * 3):
        begin = (foot, foot2)[i // 3]
        below = ink(sheet)[begin:end, int(middles[i]) - 75 : int(middles[i]) + 75]
        rows, columns = np.nonzero(below)
        assert rows.min() >= 4 and below.shape[0] - rows.max() > 14  # nearer to its own image
        assert abs((columns.min() + columns.max()) / 2 - 75) < 2  # in the middle
    for edge in (sheet[:20], sheet[-20:], sheet[:, :20], sheet[:, -20:]):
        assert (edge == 1).all()


def test_small_images_keep_their_pixels(content):
    image = np.floor(np.asarray(content) * 255 + 0.5) / 255
    sheet = contact_sheet([image], ["as it is"], size=96)
    height, width = image.shape[:2]
    left = (sheet.shape[1] - width) // 2
    top = next(i for i, row in enumerate(sheet) if (row < 1).any())
    np.testing.assert_allclose(sheet[top : top + height, left : left + width], image, atol=1e-6)


def test_large_images_are_scaled_down():
    ramp = np.linspace(0, 1, 512, dtype=np.float32)[:, None, None]
    sheet = contact_sheet([ramp * COLOURS[1] * np.ones((1, 256, 1), np.float32)], [""], size=64)
    green = np.argwhere(sheet[..., 0] < 0.5)
    (top, left), (bottom, right) = green.min(0), green.max(0) + 1
    assert (bottom - top, right - left) == (64, 32)
    small = ramp.reshape(64, 8).mean(1)
    np.testing.assert_allclose(sheet[top:bottom, (left + right) // 2, 1], small, atol=0.02)


LOUD = np.where(np.arange(6400).reshape(80, 80, 1) % 2, 7.0, -7.0) * np.ones(3)


@pytest.mark.parametrize(
    ("images", "labels", "same_images", "same_labels"),
    [
        ([LOUD], ["x"], [np.clip(LOUD, 0, 1)], ["x"]),
        (iter([LOUD, LOUD]), ["x", "y"], [LOUD, LOUD], ["x", "y"]),
        (np.stack([LOUD, LOUD]), ["x", "y"], [LOUD, LOUD], ["x", "y"]),
        ([LOUD], ["Café Å"], [LOUD], ["Cafe A"]),  # the font has no accents
    ],
)
def test_sheets_that_are_the_same(images, labels, same_images, same_labels):
    expected = contact_sheet(same_images, same_labels)
    np.testing.assert_array_equal(contact_sheet(images, labels), expected)


@pytest.mark.parametrize(
    ("labels", "shape", "options", "expected"),
    [
        (NAMES[:1], (60, 90), {}, (1, 1)),
        (NAMES[:2], (60, 90), {}, (1, 2)),
        (NAMES, (150, 150), {}, (2, 3)),
        (NAMES[:5], (100, 150), {}, (2, 3)),
        (NAMES, (150, 150), {"columns": 4}, (2, 4)),
        (NAMES, (150, 150), {"columns": 1}, (6, 1)),
        (NAMES[:2], (60, 90), {"columns": 50}, (1, 2)),
        (GRID, (150, 150), {}, (3, 2)),  # a column for each value of the last setting
        (GRID[::-1], (150, 150), {}, (3, 2)),
        (GRID[::2] + GRID[1::2], (150, 150), {}, (2, 3)),
    ],
)
def test_columns(labels, shape, options, expected):
    sheet = contact_sheet(plain([shape] * len(labels)), labels, **options)
    places = [(top, left) for top, _, left, _ in boxes(sheet, len(labels))]
    assert tuple(len(set(axis)) for axis in zip(*places, strict=True)) == expected
    assert sorted(places) == places


@pytest.mark.parametrize(
    "text",
    [
        "style 1000, tv 0.1, content 5, seed 12, layer relu4_2, statistic gram",
        "/a/path/without/any/place/to/break/that/goes/on/and/on/" * 3,
        "word " * 40,
        "W" * 100,
    ],
)
def test_long_labels_are_wrapped_and_keep_all_their_text(text):
    sheet = contact_sheet(plain([(40, 200)]), [text])
    ((_, foot, left, right),) = boxes(sheet, 1)
    rows, columns = np.nonzero(ink(sheet))
    assert left - 2 <= columns.min() and columns.max() <= right + 2
    assert foot < rows.min() and rows.max() < len(sheet) - 20
    font = ImageFont.load_default(14)
    lines = _wrap(text.strip(), font, 200)
    assert len(lines) > 1 and max(map(font.getlength, lines)) <= 200
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_labels_are_broken_after_commas_rather_than_within_a_setting():
    lines = _wrap("style 1000, tv 0.1, content 5", ImageFont.load_default(14), 130)
    assert lines == ["style 1000, tv 0.1,", "content 5"]


@pytest.mark.parametrize(
    "text", ["日本語", "Стиль", "عربى", "👩‍🎨", "\x00\x1b", "\udc80", "a\nb\tc", "\u200f", "", " "]
)
def test_any_text_can_be_a_label(text):
    sheet = contact_sheet(plain([(50, 50)]), [text])
    assert np.isfinite(sheet).all()
    assert boxes(sheet, 1)


@pytest.mark.parametrize(
    ("images", "labels", "options", "error", "message"),
    [
        ([], [], {}, ValueError, "there are no images: give one or more"),
        ([IMAGE], [], {}, ValueError, "there are 1 images but 0 labels: give one for each"),
        ([IMAGE], ["a", "b"], {}, ValueError, "there are 1 images but 2 labels: give one for each"),
        ([IMAGE, IMAGE[0]], ["a", "b"], {}, ValueError, r"images\[1\] must .*, not \(8, 3\)"),
        ([IMAGE[..., :1]], ["a"], {}, ValueError, r"images\[0\] must .*, not \(8, 8, 1\)"),
        ([IMAGE[:0]], ["a"], {}, ValueError, r"images\[0\] must .*, not \(0, 8, 3\)"),
        ([IMAGE.astype(np.uint8)], ["a"], {}, TypeError, r"images\[0\] must .*, not uint8"),
        ([IMAGE + np.nan], ["a"], {}, ValueError, r"images\[0\] must be finite"),
        ([IMAGE], ["a"], {"size": 0}, ValueError, "size must be a positive integer, not 0"),
        ([IMAGE], ["a"], {"size": 1.5}, ValueError, "size must be a positive integer, not 1.5"),
    ],
)
def test_sheet_and_page_refuse_in_one_line(tmp_path, images, labels, options, error, message):
    with pytest.raises(error, match=message) as refusal:
        contact_sheet(images, labels, **options)
    with pytest.raises(error, match=message):
        write_page(tmp_path / "index.html", IMAGE, images, labels, **options)
    assert "\n" not in str(refusal.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("columns", [0, -1, 2.0, True])
def test_columns_must_be_positive(columns):
    with pytest.raises(ValueError, match=f"columns must be a positive integer, not {columns}"):
        contact_sheet([IMAGE], ["a"], columns=columns)
