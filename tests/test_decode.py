"""Every mode of picture file that is read, against NumPy and Pillow."""

import io
import logging
import struct
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxnst.decode import picture_size
from jaxnst.images import load_alpha, load_image, load_mask, read_picture

RAMP = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
EXACT, ROUNDED = 1e-6, 0.6 / 255
LOSSLESS = {".webp": {"lossless": True, "exact": True}}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def grey3(grey):
    return np.repeat(np.asarray(grey, np.float32)[:, :, None], 3, axis=2)


def over_white(colours, alpha):
    """Lay 8-bit colours (H, W, 3) of an opacity (H, W) over white."""
    opacity = alpha[:, :, None] / 255
    return colours / 255 * opacity + 1 - opacity


def picture(pixels, mode=None, palette=None):
    """Make a picture of an array; with a mode, of its bytes as they are."""
    if mode is None:
        return Image.fromarray(pixels)
    made = Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    if palette is not None:
        made.putpalette(palette.tobytes())
    return made


def check(path, image, alpha=None, atol=EXACT):
    """Check what all readers return for a file."""
    loaded, decoded = load_image(path), read_picture(path)
    assert loaded.dtype == decoded.image.dtype == np.float32 and loaded.shape == image.shape
    np.testing.assert_allclose(loaded, image, rtol=0, atol=atol)
    np.testing.assert_array_equal(loaded, decoded.image)
    for found in (decoded.alpha, load_alpha(str(path))):
        if alpha is None:
            assert found is None
        else:
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, alpha, rtol=0, atol=EXACT)


RGB, GREY, ALPHA = noise(6, 5, 3), noise(6, 5), noise(6, 5, seed=1)
PALETTE, TABLE = noise(256, 3, seed=1), noise(256, seed=2)
CUT = np.where(GREY[2, 2] == GREY, 0, 255)
INK = np.eye(4, dtype=np.uint8)[None] * 255
LAB = np.array([[[255, 0, 0], [0, 0, 0], [138, 81, 70]]], np.uint8)  # L* 54, a* 81, b* 70 is red
LAB_COLOURS = np.array([[[1, 1, 1], [0, 0, 0], [1, 0, 0]]])
COLOURS, OPAQUE = RGB / 255, np.dstack([RGB, np.full((6, 5), 255, np.uint8)])
TWO, FOUR = np.dstack([GREY, ALPHA]), np.dstack([RGB, ALPHA])
KEY = {"transparency": int(GREY[2, 2])}
INDEXED = picture(GREY, "P", PALETTE)
CYAN, INK_COLOURS = INK[:, :1].repeat(8, 0).repeat(8, 1), 1 - INK[..., :3] / 255
INK_COLOURS[0, 3] = 0  # black
DEEP = grey3(RAMP / np.float32(65535))


class File(NamedTuple):
    """A picture and how it is saved; the image, opacity and rounding error expected of it."""

    suffixes: str
    picture: Image.Image
    image: np.ndarray
    alpha: np.ndarray | None = None
    atol: float = EXACT
    options: dict = {}


FILES = {  # by the mode in which Pillow opens them
    "RGB": File(".png .tif .bmp", picture(RGB), COLOURS),
    "RGB, one pixel": File(".png", picture(RGB[:1, :1]), COLOURS[:1, :1]),
    "1": File(".png .tif", picture(GREY > 127), grey3(GREY > 127)),
    "L": File(".png .tif .bmp", picture(GREY), grey3(GREY / 255)),
    "L, cut": File(".png", picture(GREY), over_white(grey3(GREY), CUT), CUT / 255, EXACT, KEY),
    "LA": File(".png", picture(TWO), over_white(grey3(GREY), ALPHA), ALPHA / 255, ROUNDED),
    "RGBA": File(".png .tif .webp", picture(FOUR), over_white(RGB, ALPHA), ALPHA / 255, ROUNDED),
    "RGBA, opaque": File(".png", picture(OPAQUE), COLOURS),
    "P": File(".png .gif .tif", INDEXED, PALETTE[GREY] / 255),
    "P, cut": File(".png .gif", INDEXED, over_white(PALETTE[GREY], CUT), CUT / 255, EXACT, KEY),
    "P, table": File(
        ".png",
        INDEXED,
        over_white(PALETTE[GREY], TABLE[GREY]),
        TABLE[GREY] / 255,
        ROUNDED,
        {"transparency": TABLE.tobytes()},
    ),
    "CMYK": File(".tif", picture(INK, "CMYK"), INK_COLOURS),
    "CMYK, Adobe": File(".jpg", picture(CYAN, "CMYK"), np.ones((8, 8, 1)) * [0, 1, 1], atol=0.01),
    "LAB": File(".tif", picture(LAB, "LAB"), LAB_COLOURS, atol=6 / 255),
    "I;16": File(".png .tif", picture(RAMP), DEEP, atol=0),
    "I;16B": File(".tif", picture(RAMP.astype(">u2"), "I;16B"), DEEP, atol=0),
    "I": File(".tif", picture(RAMP.astype(np.int32)), DEEP, atol=0),
    "F": File(".tif", picture(RAMP / np.float32(65535)), DEEP, atol=0),
}


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(mode, suffix) for mode, row in FILES.items() for suffix in row.suffixes.split()],
)
def test_every_mode_is_read(tmp_path, mode, suffix):
    file, path = FILES[mode], tmp_path / f"a{suffix}"
    file.picture.save(path, **file.options, **LOSSLESS.get(suffix, {}))
    with Image.open(path) as opened:
        assert opened.mode == mode.partition(",")[0]
    check(path, file.image, file.alpha, file.atol)


def test_sixteen_bit_pgm(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes())
    check(tmp_path / "a.pgm", grey3(RAMP / 65535))


@pytest.mark.parametrize("suffix", [".gif", ".tif"])
def test_only_the_first_frame_is_read(tmp_path, suffix):
    red, blue = (Image.new("RGB", (3, 2), colour) for colour in ("red", "blue"))
    red.save(tmp_path / f"a{suffix}", save_all=True, append_images=[blue])
    check(tmp_path / f"a{suffix}", np.broadcast_to([1.0, 0, 0], (2, 3, 3)))


# --- masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "luma"),
    [
        ("1", GREY > 127),
        ("L", GREY / 255),
        ("RGB", COLOURS @ [0.299, 0.587, 0.114]),
        ("LA", GREY / 255 * ALPHA / 255),
        ("L, cut", GREY / 255 * (CUT > 0)),
        ("RGBA", COLOURS @ [0.299, 0.587, 0.114] * ALPHA / 255),
        ("P", PALETTE[GREY] / 255 @ [0.299, 0.587, 0.114]),
        ("CMYK", [[0.701, 0.413, 0.886, 0]]),
        ("I;16", RAMP / 65535),
    ],
)
def test_mask_is_the_luminance_and_0_where_transparent(tmp_path, mode, luma):
    path = tmp_path / f"a{FILES[mode].suffixes.split()[0]}"
    FILES[mode].picture.save(path, **FILES[mode].options)
    mask = load_mask(path)
    assert mask.dtype == np.float32
    np.testing.assert_allclose(mask, luma, rtol=0, atol=EXACT if "I" in mode else 1.1 / 255)


# --- orientation and colour --------------------------------------------------------------------


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright(tmp_path, orientation, suffix):
    path, exif = tmp_path / f"a{suffix}", Image.Exif()
    exif[0x0112] = orientation
    channels = 3 if suffix == ".jpg" else 4
    picture(noise(6, 8, channels)).save(path, exif=exif, **LOSSLESS.get(suffix, {}))
    if suffix == ".jpg":
        check(path, UPRIGHT[orientation](np.asarray(Image.open(path))) / 255)
    else:
        turned = UPRIGHT[orientation](noise(6, 8, 4))
        check(path, over_white(turned[..., :3], turned[..., 3]), turned[..., 3] / 255, ROUNDED)
    assert picture_size(path) == ((8, 6) if orientation < 5 else (6, 8))
    assert load_mask(path).shape == picture_size(path)[::-1]


def test_deep_grey_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(RAMP[:32]).save(tmp_path / "a.png", exif=exif)
    check(tmp_path / "a.png", grey3(np.rot90(RAMP[:32], -1) / 65535))


def s15(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def icc_profile(space, gamma):
    """Make a version 2 display profile: a gamma, with sRGB primaries if the space is b"RGB "."""
    white = s15(0.9642, 1.0, 0.8249)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + white
    if space == b"RGB ":
        tags[b"rXYZ"] = b"XYZ \0\0\0\0" + s15(0.4361, 0.2225, 0.0139)
        tags[b"gXYZ"] = b"XYZ \0\0\0\0" + s15(0.3851, 0.7169, 0.0971)
        tags[b"bXYZ"] = b"XYZ \0\0\0\0" + s15(0.1431, 0.0606, 0.7141)
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    else:
        tags[b"kTRC"] = curve
    offset = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", offset + len(data), len(content))
        data += content
    header = struct.pack(
        ">I4sI4s4s4s", offset + len(data), b"none", 0x02100000, b"mntr", space, b"XYZ "
    )
    return header + bytes(12) + b"acsp" + bytes(28) + white + bytes(48) + table + data


LINEAR = icc_profile(b"RGB ", 1.0)


def srgb_encode(linear):
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_colour_profile_is_converted_but_not_for_masks(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    picture(RGB).save(path, icc_profile=LINEAR)
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture(RGB), io.BytesIO(LINEAR), srgb)
    check(path, np.asarray(converted) / 255)
    check(path, srgb_encode(COLOURS), atol=2.5 / 255)
    np.testing.assert_allclose(load_mask(path), COLOURS @ [0.299, 0.587, 0.114], atol=1.1 / 255)


def test_colour_profile_keeps_the_opacity(tmp_path):
    picture(np.dstack([RGB, ALPHA])).save(tmp_path / "a.png", icc_profile=LINEAR)
    expected = over_white(srgb_encode(COLOURS) * 255, ALPHA)
    check(tmp_path / "a.png", expected, ALPHA / 255, 3 / 255)


def test_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture(RGB).save(tmp_path / "a.png", icc_profile=profile)
    check(tmp_path / "a.png", COLOURS)


@pytest.mark.parametrize("space", [b"GRAY", b"RGB "])
@pytest.mark.parametrize("deep", [False, True])
def test_colour_profile_of_grey(tmp_path, space, deep):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    stored = ramp.astype(np.uint16) * 257 if deep else ramp
    picture(stored).save(tmp_path / "a.png", icc_profile=icc_profile(space, 1.8))
    check(tmp_path / "a.png", grey3(srgb_encode((ramp / 255) ** 1.8)), atol=3 / 255)


@pytest.mark.parametrize(
    "options",
    [
        {"icc_profile": b"this is not a profile"},
        {"icc_profile": icc_profile(b"GRAY", 1.0)},
        {"exif": b"this is not an EXIF block"},
    ],
)
def test_unusable_metadata_is_ignored_with_a_warning(tmp_path, caplog, options):
    picture(RGB).save(tmp_path / "a.png", **options)
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), COLOURS, atol=EXACT)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "ignored" in record.getMessage()
