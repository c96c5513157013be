"""What stands beside the pixels of a file decides no more than it should."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxnst import headers
from jaxnst.decode import picture_size
from jaxnst.images import load_alpha, load_image, load_mask
from jaxnst.kinds import is_picture_name

RED = b"\xff\0\0"


def chunk(name, data, spoiled=False):
    checksum = zlib.crc32(name + data) ^ spoiled
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png(bits, colour, row, width, before=b"", after=b"", end=None):
    """Make a PNG file of one row, with chunks before and after the pixels."""
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)),
            before,
            chunk(b"IDAT", zlib.compress(b"\0" + row)),
            after,
            chunk(b"IEND", b"") if end is None else end,
        ]
    )


def exif(orientation, *others, order="<", kind=3):
    """Make an EXIF block: entries of a tag, a kind, a count and 4 bytes, and the orientation."""
    form = {1: "B3x", 3: "H2x", 4: "I"}[kind]
    turn = struct.pack(f"{order}HHI{form}", 0x112, kind, 1, orientation)
    entries = [struct.pack(f"{order}HHI", *other[:3]) + other[3] for other in others]
    mark = b"II" if order == "<" else b"MM"
    body = struct.pack(f"{order}HIH", 42, 8, len(entries) + 1) + b"".join([*entries, turn])
    place = struct.pack(f"{order}HHHIII", 1, 2, 5, 3, 56, 0) + bytes(24)
    return b"Exif\0\0" + mark + body + bytes(4) + place


@pytest.mark.parametrize(
    ("bits", "row", "key"),
    [
        (1, b"\x40", 1),
        (2, b"\x10", 1),
        (2, b"\x30", 3),
        (4, b"\x07", 7),
        (4, b"\x0f", 15),
        (4, b"\x0f", 0xFF0F),  # only the low bits count
        (8, b"\0\x80", 128),
        (16, struct.pack(">2H", 1, 1000), 1000),
    ],
)
def test_a_grey_that_is_transparent(tmp_path, bits, row, key):
    content = png(bits, 0, row, 2, chunk(b"tRNS", struct.pack(">H", key)))
    (tmp_path / "a.png").write_bytes(content)
    black = 1 / 65535 if bits == 16 else 0
    np.testing.assert_array_equal(load_alpha(tmp_path / "a.png"), [[1, 0]])
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), [[[black] * 3, [1] * 3]], atol=1e-7)
    np.testing.assert_allclose(load_mask(tmp_path / "a.png"), [[black, 0]], atol=1e-7)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("turn", [1, 3])
def test_a_colour_that_is_transparent(tmp_path, bits, turn):
    key, near = (4660, 22136, 39612), (4660, 22136, 39613)
    form = ">6H" if bits == 16 else ">6B"
    low = [[x & ((1 << bits) - 1) for x in colour] for colour in (key, near)]
    before = chunk(b"tRNS", struct.pack(">3H", *key)) + chunk(b"eXIf", exif(turn)[6:])
    (tmp_path / "a.png").write_bytes(png(bits, 2, struct.pack(form, *low[0], *low[1]), 2, before))
    np.testing.assert_array_equal(load_alpha(tmp_path / "a.png"), [[0, 1] if turn == 1 else [1, 0]])


TEXT = zlib.compress(b"x" * 2_000_000)
BESIDE = {
    "2 MB of text": chunk(b"zTXt", b"k\0\0" + TEXT),
    "2 MB of text in Unicode": chunk(b"iTXt", b"k\0\1\0\0\0" + TEXT),
    "a profile of 2 MB": chunk(b"iCCP", b"k\0\0" + TEXT),
    "an invalid profile": chunk(b"iCCP", b"k\0\0abc"),
    "100 MB of text": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20))) * 100,
    "a wrong checksum of a text": chunk(b"tEXt", b"k\0v", True),
    "a wrong checksum of the time": chunk(b"tIME", bytes(7), True),
    "a wrong checksum of a profile": chunk(b"iCCP", b"k\0\0" + TEXT, True),
    "a wrong checksum of EXIF": chunk(b"eXIf", exif(6), True),
    "a wrong checksum of a suggested palette": chunk(b"PLTE", bytes(6), True),
    "a size that is too short": chunk(b"pHYs", b"\0"),
    "a part of an animation": chunk(b"acTL", b"\0") + chunk(b"fcTL", b"\0"),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_a_chunk_that_no_pixel_needs_costs_nothing(tmp_path, beside):
    places = [{"before": BESIDE[beside]}, {"after": BESIDE[beside]}]
    for place in places:
        (tmp_path / "a.png").write_bytes(png(8, 2, RED, 1, **place))
        np.testing.assert_array_equal(load_image(tmp_path / "a.png"), [[[1, 0, 0]]])


@pytest.mark.parametrize("end", [b"", chunk(b"IEND", b"", True), b"\0\0", b"\0\0\0\0IEND"])
def test_the_end_of_a_png_may_be_damaged(tmp_path, end):
    (tmp_path / "a.png").write_bytes(png(8, 2, RED, 1, end=end))
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), [[[1, 0, 0]]])


@pytest.mark.parametrize("name", [b"tRNS", b"PLTE", b"IHDR"])
def test_a_wrong_checksum_of_what_pixels_need_is_refused(tmp_path, name):
    content = png(8, 3, b"\0", 1, chunk(b"PLTE", RED) + chunk(b"tRNS", b"\x7f"))
    place = content.index(name) + 4 + int.from_bytes(content[content.index(name) - 4 :][:4], "big")
    (tmp_path / "a.png").write_bytes(content[:place] + b"0000" + content[place + 4 :])
    with pytest.raises(ValueError, match="is not a readable picture"):
        load_image(tmp_path / "a.png")


ODD = {
    "nothing odd": [],
    "a unit that is no integer": [(0x128, 1, 1, b"\2\0\0\0")],
    "a place of 0/0": [(0x8825, 4, 1, b"\x26\0\0\0")],  # it stands behind two entries
    "a place beyond the block": [(0x8825, 4, 1, b"\xf0\0\0\0")],
    "an unknown kind": [(0x10F, 77, 1, b"\0\0\0\0")],
    "a value beyond the block": [(0x10F, 2, 1000, b"\0\xff\0\0")],
    "a resolution of 0/0": [(0x11A, 5, 1, b"\x08\0\0\0")],
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize(("order", "kind"), [("<", 3), (">", 3), ("<", 4), ("<", 1)])
def test_the_orientation_stands_whatever_else_exif_holds(
    tmp_path, caplog, capfd, odd, suffix, order, kind
):
    block, path = exif(6, *ODD[odd] if order == "<" else (), order=order, kind=kind), tmp_path / "a"
    Image.new("RGB", (8, 4)).save(path, {".jpg": "JPEG"}.get(suffix, suffix[1:]), exif=block)
    assert load_image(path).shape == (8, 4, 3) and picture_size(path) == (4, 8)
    assert not caplog.records and capfd.readouterr() == ("", "")


@pytest.mark.skipif(not is_picture_name("a.avif"), reason="Pillow has AVIF from 11.3 on")
def test_avif_is_turned_by_its_own_orientation(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (64, 32), "red").save(file, "AVIF", exif=exif(6))
    (tmp_path / "a.avif").write_bytes(file.getvalue())
    assert load_image(tmp_path / "a.avif").shape == (64, 32, 3)
    assert picture_size(tmp_path / "a.avif") == (32, 64)


@pytest.mark.parametrize(
    ("block", "xmp", "turn"),
    [
        (exif(6), b"", 6),
        (exif(6), b'tiff:Orientation="3"', 6),
        (b"", b'tiff:Orientation="3"', 3),
        (b"", b"<tiff:Orientation>8</tiff:Orientation>", 8),
        (exif(0), b"", 1),
        (exif(9), b"", 1),
        (b"", b"", 1),
    ],
)
def test_orientation_by_exif_or_else_by_xmp(block, xmp, turn):
    assert headers.orientation(block, xmp) == turn


@pytest.mark.parametrize("compressed", [False, True])
def test_orientation_in_the_text_of_a_png(tmp_path, compressed):
    xmp = b'<x tiff:Orientation="6"/>'
    body = b"\1\0\0\0" + zlib.compress(xmp) if compressed else b"\0\0\0\0" + xmp
    raw = b"\nexif\n 1\n" + exif(6).hex().encode()
    raw = b"\0" + zlib.compress(raw) if compressed else raw
    for text in (
        chunk(b"iTXt", b"XML:com.adobe.xmp\0" + body),
        chunk(b"zTXt" if compressed else b"tEXt", b"Raw profile type exif\0" + raw),
    ):
        (tmp_path / "a.png").write_bytes(png(8, 2, RED * 2, 2, text))
        assert load_image(tmp_path / "a.png").shape == (2, 1, 3)


def test_further_pictures_in_a_jpeg_are_left_alone(tmp_path):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (16, 16))
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second])
    with Image.open(tmp_path / "a.mpo") as opened:
        expected = np.asarray(opened, np.float32) / 255
    np.testing.assert_array_equal(load_image(tmp_path / "a.mpo"), expected)
