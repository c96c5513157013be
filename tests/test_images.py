"""Pictures in, pictures out: every mode and every refusal, against NumPy and Pillow."""

import io
import logging
import os
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxnst import images
from jaxnst.images import check_output, load_alpha, load_image, save_image

pytestmark = pytest.mark.filterwarnings("error")

SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Colours that a lossy format keeps: an (H, W, 3) float32 ramp."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([x, y, 1 - x], axis=2).astype(np.float32)


def grey3(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey, np.float32)[:, :, None], 3, axis=2)


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Of 8-bit colours (H, W, 3) and opacity (H, W)."""
    opacity = alpha[:, :, None] / 255
    return colours / 255 * opacity + 1 - opacity


def check_one_line(caught: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    message = str(caught.value)
    assert "\n" not in message and message
    for part in parts:
        assert part in message


def assert_picture(array: jax.Array, expected: np.ndarray, atol: float = 1e-6) -> None:
    assert isinstance(array, jax.Array)
    assert array.dtype == jnp.float32
    assert array.shape == expected.shape
    np.testing.assert_allclose(array, expected, rtol=0, atol=atol)


# --- modes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_rgb_is_exact(tmp_path: Path, suffix: str) -> None:
    pixels = noise(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    loaded = load_image(tmp_path / f"a{suffix}")
    assert_picture(loaded, pixels / 255)
    assert load_alpha(tmp_path / f"a{suffix}") is None
    assert_picture(load_image(str(tmp_path / f"a{suffix}")), pixels / 255)


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    Image.fromarray(noise(9, 6, 3)).save(tmp_path / "a.jpg")
    assert_picture(load_image(tmp_path / "a.jpg"), np.asarray(Image.open(tmp_path / "a.jpg")) / 255)


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (255, 0, 51)).save(tmp_path / "a.png")
    assert_picture(load_image(tmp_path / "a.png"), np.array([[[1, 0, 0.2]]]))


def test_bilevel(tmp_path: Path) -> None:
    bits = noise(4, 11) > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "1"
    assert_picture(load_image(tmp_path / "a.png"), grey3(bits))


def test_grey(tmp_path: Path) -> None:
    pixels = noise(4, 5)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert_picture(load_image(tmp_path / "a.png"), grey3(pixels / 255))


def test_grey_with_alpha(tmp_path: Path) -> None:
    pixels, alpha = noise(4, 5), noise(4, 5, seed=1)
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "a.png")
    expected = over_white(pixels[:, :, None].repeat(3, 2), alpha)
    assert_picture(load_image(tmp_path / "a.png"), expected, 0.6 / 255)
    np.testing.assert_allclose(load_alpha(tmp_path / "a.png"), alpha / 255, atol=1e-6)


def test_grey_with_transparent_value(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 100, 200]], np.uint8)).save(tmp_path / "a.png", transparency=100)
    assert_picture(load_image(tmp_path / "a.png"), grey3(np.array([[0, 1, 200 / 255]])))
    np.testing.assert_array_equal(load_alpha(tmp_path / "a.png"), [[1, 0, 1]])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_rgba_lies_over_white(tmp_path: Path, suffix: str) -> None:
    pixels, alpha = noise(6, 5, 3), noise(6, 5, seed=1)
    alpha[0] = 0
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / f"a{suffix}", **options)
    loaded = load_image(tmp_path / f"a{suffix}")
    assert_picture(loaded, over_white(pixels, alpha), 0.6 / 255)
    assert (loaded[0] == 1).all()
    opacity = load_alpha(tmp_path / f"a{suffix}")
    assert opacity is not None and opacity.dtype == np.float32
    np.testing.assert_allclose(opacity, alpha / 255, atol=1e-6)


def test_opaque_alpha_is_none(tmp_path: Path) -> None:
    pixels = noise(4, 5, 3)
    Image.fromarray(np.dstack([pixels, np.full((4, 5), 255, np.uint8)])).save(tmp_path / "a.png")
    assert load_alpha(tmp_path / "a.png") is None
    assert_picture(load_image(tmp_path / "a.png"), pixels / 255)


def test_hidden_colours_do_not_bleed_when_resized(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (255, 255, 255, 255)
    pixels[:, 4:] = (255, 0, 0, 0)  # transparent red
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert_picture(load_image(tmp_path / "a.png", size=5), np.ones((5, 5, 3)))


def paletted(pixels: np.ndarray, palette: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels).convert("L").copy()
    picture.putpalette(palette.tobytes())
    assert picture.mode == "P"
    return picture


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif"])
def test_palette(tmp_path: Path, suffix: str) -> None:
    pixels, palette = noise(5, 6), noise(256, 3, seed=1)
    paletted(pixels, palette).save(tmp_path / f"a{suffix}")
    assert_picture(load_image(tmp_path / f"a{suffix}"), palette[pixels] / 255)
    assert load_alpha(tmp_path / f"a{suffix}") is None


def test_palette_with_one_transparent_entry(tmp_path: Path) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    palette = noise(256, 3, seed=1)
    for name in ("a.png", "a.gif"):
        paletted(pixels, palette).save(tmp_path / name, transparency=4)
        alpha = np.where(pixels == 4, 0, 255)
        assert_picture(load_image(tmp_path / name), over_white(palette[pixels], alpha))
        np.testing.assert_array_equal(load_alpha(tmp_path / name), alpha / 255)


def test_palette_with_transparency_table(tmp_path: Path) -> None:
    pixels, palette, table = noise(5, 6), noise(256, 3, seed=1), noise(256, seed=2)
    paletted(pixels, palette).save(tmp_path / "a.png", transparency=table.tobytes())
    expected = over_white(palette[pixels], table[pixels])
    assert_picture(load_image(tmp_path / "a.png"), expected, 0.6 / 255)
    np.testing.assert_allclose(load_alpha(tmp_path / "a.png"), table[pixels] / 255, atol=1e-6)


def test_cmyk_tiff(tmp_path: Path) -> None:
    ink = np.zeros((1, 4, 4), np.uint8)
    ink[0, 0, 0] = ink[0, 1, 1] = ink[0, 2, 2] = ink[0, 3, 3] = 255
    Image.frombytes("CMYK", ink.shape[1::-1], ink.tobytes()).save(tmp_path / "a.tif")
    expected = np.array([[[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]]])  # cyan, magenta, ...
    assert_picture(load_image(tmp_path / "a.tif"), expected)


def test_cmyk_jpeg_with_adobe_marker(tmp_path: Path) -> None:
    ink = np.broadcast_to(np.array([255, 0, 0, 0], np.uint8), (8, 8, 4)).copy()
    Image.frombytes("CMYK", ink.shape[1::-1], ink.tobytes()).save(tmp_path / "a.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    expected = np.broadcast_to([0.0, 1.0, 1.0], (8, 8, 3))
    assert_picture(load_image(tmp_path / "a.jpg"), expected, 3 / 255)


def test_lab_tiff(tmp_path: Path) -> None:
    lab = np.array([[[255, 128, 128], [0, 128, 128], [138, 209, 198]]], np.uint8)
    lab[0, :, 1:] ^= 128  # Pillow holds a* and b* as two's complement
    Image.frombytes("LAB", lab.shape[1::-1], lab.tobytes()).save(tmp_path / "a.tif")
    expected = np.array([[[1, 1, 1], [0, 0, 0], [1, 0, 0]]])  # L* 54, a* 81, b* 70 is red
    assert_picture(load_image(tmp_path / "a.tif"), expected, 6 / 255)


def test_first_frame_only(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    for suffix in (".gif", ".tif"):
        frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
        expected = np.broadcast_to([1.0, 0, 0], (2, 3, 3))
        assert_picture(load_image(tmp_path / f"a{suffix}"), expected)


# --- more than 8 bits --------------------------------------------------------------------------


RAMP = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)


def save_deep(path: Path, kind: str) -> str:
    """Write RAMP; the answer is the mode in which Pillow opens it."""
    if kind == "I":
        Image.fromarray(RAMP.astype(np.int32)).save(path)
    elif kind == "I;16B":
        Image.frombytes("I;16B", RAMP.shape, RAMP.astype(">u2").tobytes()).save(path)
    elif kind == "F":
        Image.fromarray(RAMP.astype(np.float32) / np.float32(65535)).save(path)
    else:
        Image.fromarray(RAMP).save(path)
    with Image.open(path) as picture:
        return picture.mode


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("I;16", ".png"), ("I;16", ".tif"), ("I;16B", ".tif"), ("I", ".tif"), ("F", ".tif")],
)
def test_deep_grey_is_exact(tmp_path: Path, kind: str, suffix: str) -> None:
    assert save_deep(tmp_path / f"a{suffix}", kind) == kind
    loaded = load_image(tmp_path / f"a{suffix}")
    assert (np.asarray(loaded) == grey3(RAMP.astype(np.float32) / np.float32(65535))).all()


def test_sixteen_bit_pgm(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 64 64 65535\n" + RAMP.astype(">u2").tobytes())
    assert_picture(load_image(tmp_path / "a.pgm"), grey3(RAMP / 65535))


def test_deep_grey_resized(tmp_path: Path) -> None:
    save_deep(tmp_path / "a.png", "I;16")
    loaded = np.asarray(load_image(tmp_path / "a.png", size=8))
    block_means = (RAMP / 65535).reshape(8, 8, 8, 8).mean((1, 3))
    np.testing.assert_allclose(loaded[2:-2, 2:-2, 0], block_means[2:-2, 2:-2], atol=2e-3)
    assert loaded.min() >= 0 and loaded.max() <= 1


def test_deep_grey_with_transparent_value(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 1, 16, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", 1000))
        + chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", 0, 1000, 1001)))
        + chunk(b"IEND", b"")
    )
    assert_picture(load_image(tmp_path / "a.png"), grey3(np.array([[0, 1, 1001 / 65535]])))
    np.testing.assert_array_equal(load_alpha(tmp_path / "a.png"), [[1, 0, 1]])


@pytest.mark.parametrize(
    "values", [np.float32([[0, 3.5]]), np.float32([[-0.1, 1]]), np.float32([[0, np.nan]])]
)
def test_floats_out_of_range_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError) as caught:
        load_image(tmp_path / "a.tif")
    check_one_line(caught, "a.tif", "is not a readable picture", "not in 0 to 1")


def test_integers_out_of_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.int32([[0, 70000]])).save(tmp_path / "a.tif")
    with pytest.raises(ValueError) as caught:
        load_image(tmp_path / "a.tif")
    check_one_line(caught, "70000", "65535")


# --- orientation and colour --------------------------------------------------------------------


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    pixels = noise(4, 6, 4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, **options)
    expected = UPRIGHT[orientation](pixels)
    assert_picture(load_image(path), over_white(expected[..., :3], expected[..., 3]), 0.6 / 255)
    np.testing.assert_allclose(load_alpha(path), expected[..., 3] / 255, atol=1e-6)


def test_exif_orientation_of_deep_grey_and_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP[:32]).save(tmp_path / "a.png", exif=exif)
    assert_picture(load_image(tmp_path / "a.png"), grey3(np.rot90(RAMP[:32], -1) / 65535))
    Image.fromarray(noise(8, 16, 3)).save(tmp_path / "a.jpg", exif=exif)
    stored = np.asarray(Image.open(tmp_path / "a.jpg"))
    assert_picture(load_image(tmp_path / "a.jpg"), np.rot90(stored, -1) / 255)


def test_broken_exif_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = noise(8, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=b"this is no EXIF block")
    assert_picture(load_image(tmp_path / "a.png"), pixels / 255)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def s15(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def icc_profile(space: bytes, gamma: float) -> bytes:
    """A version 2 display profile: gamma, with sRGB primaries if the space is b"RGB "."""
    white = b"XYZ \0\0\0\0" + s15(0.9642) + s15(1.0) + s15(0.8249)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": white}
    if space == b"RGB ":
        primaries = {
            b"rXYZ": (0.4361, 0.2225, 0.0139),
            b"gXYZ": (0.3851, 0.7169, 0.0971),
            b"bXYZ": (0.1431, 0.0606, 0.7141),
        }
        for name, xyz in primaries.items():
            tags[name] = b"XYZ \0\0\0\0" + b"".join(map(s15, xyz))
        tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
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
    header += bytes(12) + b"acsp" + bytes(28) + s15(0.9642) + s15(1.0) + s15(0.8249) + bytes(48)
    return header + table + data


def srgb_encode(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_icc_profile_is_converted(tmp_path: Path, suffix: str) -> None:
    pixels, profile = noise(16, 16, 3), icc_profile(b"RGB ", 1.0)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", icc_profile=profile)
    loaded = load_image(tmp_path / f"a{suffix}")
    converted = ImageCms.profileToProfile(
        Image.fromarray(pixels), io.BytesIO(profile), ImageCms.createProfile("sRGB")
    )
    assert_picture(loaded, np.asarray(converted) / 255)
    assert_picture(loaded, srgb_encode(pixels / 255), 2.5 / 255)  # the profile is linear light
    assert abs(np.asarray(loaded) - pixels / 255).max() > 0.2


def test_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = noise(16, 16, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    assert_picture(load_image(tmp_path / "a.png"), pixels / 255)


def test_icc_profile_keeps_alpha(tmp_path: Path) -> None:
    pixels, alpha = noise(8, 8, 3), noise(8, 8, seed=1)
    profile = icc_profile(b"RGB ", 1.0)
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "a.png", icc_profile=profile)
    expected = over_white(srgb_encode(pixels / 255) * 255, alpha)
    assert_picture(load_image(tmp_path / "a.png"), expected, 3 / 255)
    np.testing.assert_allclose(load_alpha(tmp_path / "a.png"), alpha / 255, atol=1e-6)


@pytest.mark.parametrize("space", [b"GRAY", b"RGB "])
@pytest.mark.parametrize("deep", [False, True])
def test_icc_profile_of_grey(tmp_path: Path, space: bytes, deep: bool) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    stored = ramp.astype(np.uint16) * 257 if deep else ramp
    Image.fromarray(stored).save(tmp_path / "a.png", icc_profile=icc_profile(space, 1.8))
    loaded = load_image(tmp_path / "a.png")
    assert_picture(loaded, grey3(srgb_encode((ramp / 255) ** 1.8)), 3 / 255)
    assert abs(np.asarray(loaded) - grey3(ramp / 255)).max() > 0.05


@pytest.mark.parametrize("profile", [b"no profile at all", icc_profile(b"GRAY", 1.0)])
def test_unusable_icc_profile_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, profile: bytes
) -> None:
    pixels = noise(5, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "a.tif", icc_profile=profile)
    assert_picture(load_image(tmp_path / "a.tif"), pixels / 255)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "profile" in record.getMessage()
    assert record.name == "jaxnst.images"


# --- geometry ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (30, 50)),
        ({"size": 50}, (30, 50)),
        ({"size": 25}, (15, 25)),
        ({"size": 100}, (60, 100)),
        ({"size": 100, "enlarge": False}, (30, 50)),
        ({"size": 25, "enlarge": False}, (15, 25)),
        ({"size": 1}, (1, 1)),
        ({"size": 15, "fit": "short"}, (15, 25)),
        ({"size": 60, "fit": "short"}, (60, 100)),
        ({"size": 15, "fit": "short", "crop": True}, (15, 15)),
        ({"size": 30, "fit": "short", "crop": True}, (30, 30)),
        ({"size": 60, "fit": "short", "crop": True}, (60, 60)),
        ({"size": 60, "fit": "short", "crop": True, "enlarge": False}, (30, 30)),
        ({"size": np.int64(10)}, (6, 10)),
    ],
)
@pytest.mark.parametrize("tall", [False, True])
def test_geometry_of_image_and_alpha(
    tmp_path: Path, options: dict, shape: tuple[int, int], tall: bool
) -> None:
    pixels = noise(50, 30, 4) if tall else noise(30, 50, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    alpha = load_alpha(tmp_path / "a.png", **options)
    assert alpha is not None
    assert alpha.shape == (shape[::-1] if tall else shape)
    assert load_image(tmp_path / "a.png", **options).shape == (*alpha.shape, 3)
    assert alpha.min() >= 0 and alpha.max() <= 1


def test_resizing_and_centre_crop_against_pillow(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(40, 70, 3))
    picture.save(tmp_path / "a.png")
    small = np.asarray(picture.resize((35, 20), Image.Resampling.LANCZOS)) / 255
    assert_picture(load_image(tmp_path / "a.png", size=35), small)
    cropped = load_image(tmp_path / "a.png", size=20, fit="short", crop=True)
    assert_picture(cropped, small[:, 7:27])


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    checks = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    Image.fromarray(checks.astype(np.uint8)).save(tmp_path / "a.png")
    loaded = np.asarray(load_image(tmp_path / "a.png", size=8))
    assert abs(loaded - 0.5).max() < 0.1


def test_thin_picture_keeps_one_pixel(tmp_path: Path) -> None:
    Image.fromarray(noise(1, 300, 3)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", size=30).shape == (1, 30, 3)


@pytest.mark.parametrize("size", [0, -3, 2.5, 64.0, "64", True])
def test_bad_size(tmp_path: Path, size: object) -> None:
    for load in (load_image, load_alpha):
        with pytest.raises(ValueError) as caught:
            load(tmp_path / "a.png", size=size)  # type: ignore[arg-type]
        check_one_line(caught, repr(size), "positive integer")


def test_bad_fit_and_crop(tmp_path: Path) -> None:
    for load in (load_image, load_alpha):
        with pytest.raises(ValueError) as caught:
            load(tmp_path / "a.png", size=8, fit="wide")  # type: ignore[arg-type]
        check_one_line(caught, "'wide'", "long", "short")
        for options in ({"size": 8}, {"fit": "short"}, {}):
            with pytest.raises(ValueError) as caught:
                load(tmp_path / "a.png", crop=True, **options)
            check_one_line(caught, "crop", "short")


# --- what is not a picture ---------------------------------------------------------------------


def refusal(path: Path) -> pytest.ExceptionInfo[ValueError]:
    for load in (load_alpha, load_image):
        with pytest.raises(ValueError) as caught:
            load(path)
        check_one_line(caught, path.name, "is not a readable picture", "use a complete PNG")
    return caught


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for load in (load_image, load_alpha):
        with pytest.raises(FileNotFoundError) as missing:
            load(tmp_path / "none.png")
        check_one_line(missing, "none.png", "no file")
        with pytest.raises(ValueError) as folder:
            load(tmp_path)
        check_one_line(folder, str(tmp_path), "is a folder")


@pytest.mark.parametrize(
    "content", [b"", b"Dear reader,\nthis is a letter.\n", b"\xff\xd8\xff\xe0"]
)
def test_not_a_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    check_one_line(refusal(tmp_path / "a.jpg"), "unknown file format")


def test_line_break_in_a_name(tmp_path: Path) -> None:
    (tmp_path / "a\nb.jpg").write_text("no picture")
    with pytest.raises(ValueError) as caught:
        load_image(tmp_path / "a\nb.jpg")
    check_one_line(caught, r"a\nb.jpg")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif", ".bmp"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refusal(path)


def test_damaged_anywhere_never_raises_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for suffix in (".png", ".jpg", ".gif", ".webp"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(noise(8, 8, 3)).save(path)
        content = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 3):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                load_image(path, size=4)
            except ValueError as error:
                assert "\n" not in str(error) and "is not a readable picture" in str(error)


def huge_png(path: Path, side: int) -> None:
    Image.new("1", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


@pytest.mark.parametrize("side", [23_000, 40_000])
def test_decompression_bomb(tmp_path: Path, side: int) -> None:
    huge_png(tmp_path / "a.png", side)
    before = Image.MAX_IMAGE_PIXELS
    check_one_line(refusal(tmp_path / "a.png"), "pixels", "500000000")
    assert before == Image.MAX_IMAGE_PIXELS


def test_pillows_own_limit_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(10, 10, 3)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert load_image(tmp_path / "a.png").shape == (10, 10, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_limit_on_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(10, 10, 3)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert load_image(tmp_path / "a.png").shape == (10, 10, 3)
    with pytest.raises(ValueError) as caught:
        load_image(tmp_path / "a.png", size=11)
    check_one_line(caught, "size 11", "11 by 11", "smaller")
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    check_one_line(refusal(tmp_path / "a.png"), "99")


# --- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".PNG"])
def test_lossless_round_trip(tmp_path: Path, suffix: str) -> None:
    image = np.random.default_rng(0).random((9, 7, 3), np.float32)
    save_image(tmp_path / f"a{suffix}", jnp.asarray(image))
    assert_picture(load_image(tmp_path / f"a{suffix}"), image, 1 / 510 + 1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES + [suffix.upper() for suffix in SUFFIXES])
def test_every_suffix(tmp_path: Path, suffix: str) -> None:
    path, image = tmp_path / f"a{suffix}", smooth(32, 24)
    check_output(path)
    save_image(path, image)
    form = {"j": "JPEG", "p": "PNG", "w": "WEBP", "t": "TIFF"}[suffix[1].lower()]
    with Image.open(path) as picture:
        assert (picture.format, picture.mode, picture.size) == (form, "RGB", (24, 32))
    assert_picture(load_image(path), image, 12 / 255 if form in ("JPEG", "WEBP") else 1 / 255)
    assert os.listdir(tmp_path) == [path.name]


def test_rounding_and_clipping(tmp_path: Path) -> None:
    values = np.array([-3, 0, 0.4 / 255, 0.6 / 255, 127.4 / 255, 127.6 / 255, 1, 7], np.float32)
    save_image(tmp_path / "a.png", grey3(values[None]))
    stored = np.asarray(Image.open(tmp_path / "a.png"))[0, :, 0]
    assert stored.tolist() == [0, 0, 0, 1, 127, 128, 255, 255]


@pytest.mark.parametrize("image", [np.full((2, 2, 3), 1e300), np.ones((2, 2, 3), np.float16)])
def test_accepts_other_floats(tmp_path: Path, image: np.ndarray) -> None:
    save_image(tmp_path / "a.png", image)
    assert (load_image(tmp_path / "a.png") == 1).all()


def test_accepts_bfloat16(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", jnp.asarray(np.ones((2, 2, 3)), jnp.bfloat16))
    assert (load_image(tmp_path / "a.png") == 1).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_round_trip(tmp_path: Path, suffix: str) -> None:
    alpha = np.random.default_rng(1).random((9, 7), np.float32)
    image = smooth(9, 7)
    save_image(tmp_path / f"a{suffix}", image, alpha=alpha)
    loaded = load_alpha(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(loaded, alpha, atol=1 / 510 + 1e-6)
    if suffix != ".webp":  # lossy
        expected = image * alpha[..., None] + 1 - alpha[..., None]
        assert_picture(load_image(tmp_path / f"a{suffix}"), expected, 1.6 / 255)


def test_alpha_in_jpeg_lies_over_white(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_image(tmp_path / "a.jpg", np.zeros((8, 8, 3)), alpha=np.full((8, 8), 0.25))
    assert_picture(load_image(tmp_path / "a.jpg"), np.full((8, 8, 3), 0.75), 2 / 255)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "JPEG" in record.getMessage()


def test_quality(tmp_path: Path) -> None:
    image = noise(64, 64, 3) / 255
    for suffix in (".jpg", ".webp"):
        sizes = []
        for quality in (10, 95):
            save_image(tmp_path / f"a{suffix}", image, quality=quality)
            sizes.append((tmp_path / f"a{suffix}").stat().st_size)
        assert sizes[0] < sizes[1] / 2
    for quality in (0, 101, 50.5, "95"):
        with pytest.raises(ValueError) as caught:
            save_image(tmp_path / "b.jpg", image, quality=quality)  # type: ignore[arg-type]
        check_one_line(caught, str(quality), "1 to 100")


@pytest.mark.parametrize("failing", ["replace", "copymode", "write"])
def test_failure_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(*args: object, **options: object) -> None:
        raise OSError("disk full")

    if failing == "replace":
        monkeypatch.setattr(os, "replace", fail)
    elif failing == "copymode":
        monkeypatch.setattr("shutil.copymode", fail)
    else:

        def write_half(path: Path, data: memoryview) -> None:
            with open(path, "wb") as file:
                file.write(data[: len(data) // 2])
            raise OSError("disk full")

        monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="disk full"):
        save_image(path, np.zeros((2, 2, 3)))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.png"]


def test_interrupt_removes_the_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_image(tmp_path / "a.png", np.zeros((2, 2, 3)))
    assert os.listdir(tmp_path) == []


def test_too_large_for_the_format(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(b"old")
    with pytest.raises(ValueError) as caught:
        save_image(tmp_path / "a.webp", np.zeros((1, 16384, 3)))
    check_one_line(caught, "a.webp", "WEBP", "choose another format")
    assert (tmp_path / "a.webp").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.webp"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_open(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_image(tmp_path / "a.png", np.zeros((2, 2, 3)))
        (tmp_path / "plain").write_bytes(b"")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.png", "plain")]
    assert modes[0] == modes[1] == 0o666 & ~umask
    os.chmod(tmp_path / "a.png", 0o640)  # an old file keeps its permissions
    save_image(tmp_path / "a.png", np.ones((2, 2, 3)))
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name != "posix", reason="symbolic links are POSIX")
def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "there" / "real.png")
    save_image(tmp_path / "link.png", np.ones((2, 2, 3)))
    assert (tmp_path / "link.png").is_symlink()
    assert (load_image(tmp_path / "there" / "real.png") == 1).all()
    assert os.listdir(tmp_path / "there") == ["real.png"]


@pytest.mark.parametrize(
    ("image", "part"),
    [
        (np.zeros((4, 4)), "(4, 4)"),
        (np.zeros((4, 4, 4)), "(4, 4, 4)"),
        (np.zeros((1, 4, 4, 3)), "(1, 4, 4, 3)"),
        (np.zeros((0, 4, 3)), "(0, 4, 3)"),
        (np.zeros((4, 4, 3), np.uint8), "uint8"),
        (np.full((4, 4, 3), np.nan), "not finite"),
        (np.full((4, 4, 3), -np.inf), "not finite"),
    ],
)
def test_bad_image(tmp_path: Path, image: np.ndarray, part: str) -> None:
    with pytest.raises(ValueError) as caught:
        save_image(tmp_path / "a.png", image)
    check_one_line(caught, "image has", part)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("alpha", "part"),
    [
        (np.zeros((4, 5)), "(4, 5)"),
        (np.zeros((4, 4, 1)), "(4, 4, 1)"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.full((4, 4), 255), "int"),
    ],
)
def test_bad_alpha(tmp_path: Path, alpha: np.ndarray, part: str) -> None:
    with pytest.raises(ValueError) as caught:
        save_image(tmp_path / "a.png", np.zeros((4, 4, 3)), alpha=alpha)
    check_one_line(caught, "alpha has", part)
    assert os.listdir(tmp_path) == []


def write(path: Path) -> None:
    save_image(path, np.zeros((2, 2, 3)))


@pytest.mark.parametrize("check", [check_output, write])
def test_bad_output(
    tmp_path: Path, check: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.xyz", "a", "a.png.txt"):
        with pytest.raises(ValueError) as unknown:
            check(tmp_path / name)
        check_one_line(unknown, name, *SUFFIXES)
    with pytest.raises(FileNotFoundError) as missing:
        check(tmp_path / "none" / "a.png")
    check_one_line(missing, "none", "no folder")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError) as folder:
        check(tmp_path / "folder.png")
    check_one_line(folder, "folder.png", "is a folder")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError) as locked:
        check(tmp_path / "a.png")
    check_one_line(locked, "cannot be written to")
    assert os.listdir(tmp_path) == ["folder.png"]


def test_check_output_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_output("a.JPG")
    check_output(tmp_path / "a.tiff")
    assert os.listdir(tmp_path) == []
