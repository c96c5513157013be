"""Files that are no pictures, or none that can be read: one clear line each."""

import os
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

import jaxnst
from jaxnst import decode
from jaxnst.decode import picture_size
from jaxnst.images import load_alpha, load_image, load_mask, read_picture
from jaxnst.kinds import is_picture_name, unread_reason

DEMO = Path(jaxnst.__file__).parent / "demo" / "content.jpg"
posix = pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX")


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def check_refusal(path, *parts):
    for load in (load_image, load_alpha, load_mask):
        with pytest.raises(ValueError, match="is not a readable picture .*: use a complete") as got:
            load(path)
        message = str(got.value)
        assert "\n" not in message and all(part in message for part in (path.suffix, *parts))


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (np.float32([[0, 3.5]]), ["3.5", "not in 0 to 1"]),
        (np.float32([[-0.1, 1]]), ["-0.1", "not in 0 to 1"]),
        (np.float32([[0, np.nan]]), ["nan", "not in 0 to 1"]),
        (np.int32([[0, 70000]]), ["70000", "not in 0 to 65535"]),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, values, parts):
    Image.fromarray(values).save(tmp_path / "a.tif")
    check_refusal(tmp_path / "a.tif", *parts)


@pytest.mark.parametrize("content", [b"", b"Dear reader,\nhello.\n", b"\xff\xd8\xff\xe0"])
def test_files_that_are_not_pictures_are_refused(tmp_path, content):
    (tmp_path / "a\nb.jpg").write_bytes(content)
    check_refusal(tmp_path / "a\nb.jpg", r"a\nb", "unknown file format")
    assert picture_size(tmp_path / "a\nb.jpg") is None


def test_missing_files_and_folders_are_refused(tmp_path):
    for load in (load_image, load_alpha, load_mask):
        with pytest.raises(FileNotFoundError, match="there is no file .*none.png'"):
            load(tmp_path / "none.png")
        with pytest.raises(ValueError, match="is a folder: give a picture file in it"):
            load(tmp_path)
    assert picture_size(tmp_path / "none.png") is picture_size(tmp_path) is None


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif", ".bmp"])
def test_truncated_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    check_refusal(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp"])
def test_damage_anywhere_is_read_or_refused(tmp_path, suffix):
    rng, path = np.random.default_rng(0), tmp_path / f"a{suffix}"
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


@pytest.mark.parametrize("side", [23_000, 40_000])
def test_decompression_bombs_are_refused(tmp_path, side):
    path = tmp_path / "a.png"
    Image.new("1", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    before = Image.MAX_IMAGE_PIXELS
    check_refusal(path, "more than 500000000 pixels")
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_limit_on_pixels_is_ours_and_not_that_of_pillow(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(noise(10, 10, 3)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    assert load_image(path).shape == (10, 10, 3) and picture_size(path) == (10, 10)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(ValueError, match="size 11 makes a picture of 11 by 11 pixels.*smaller"):
        load_image(path, size=11)
    monkeypatch.setattr(decode, "MAX_PIXELS", 99)
    check_refusal(path, "more than 99 pixels")


def test_names_of_pictures():
    for name in ("a.png", "a.JPG", "b/a.jpeg", "a.webp", "a.tiff", "a.b.gif", "a.bmp", "a.pgm"):
        assert is_picture_name(name) and unread_reason(name) is None
    for name in ("a.txt", "png", ".png", "a.png.txt", "a", "a.pdf", "a.mp4", "a.mpg", "a.h5"):
        assert not is_picture_name(name) and unread_reason(name) is None
    for name in ("a.fits", "a.eps", "a.ps", "a.hdf", "a.grib", "a.emf", "a.npy"):
        assert not is_picture_name(name) and unread_reason(name) is None
    for name in ("a.dng", "a.NEF", "a.cr2", "a.cr3", "a.jxl", "a.psd", "a.svg", "a.exr", "a.tga"):
        reason = unread_reason(name)
        assert not is_picture_name(name) and reason.startswith(f"{name!r} ") and ": " in reason
    assert is_picture_name("a.avif") is ("avif" in features.modules)


def test_heif_is_read_with_an_extra_and_refused_without(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(struct.pack(">I4s4sI4s", 24, b"ftyp", b"heic", 0, b"mif1") + bytes(50))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not is_picture_name("a.heic") and "jaxnst[heif]" in unread_reason("a.heic")
    with pytest.raises(ValueError, match=r"'.*a.jpg' is a HEIF picture: pip install .*\[heif\]"):
        load_image(path)
    monkeypatch.undo()
    if is_picture_name("a.heic"):
        pillow_heif = pytest.importorskip("pillow_heif")
        smooth = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
        pillow_heif.from_pillow(smooth).save(path, quality=100)
        np.testing.assert_allclose(load_image(path), np.asarray(smooth) / 255, atol=4 / 255)
        assert picture_size(path) == (64, 48)


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"\xff\x0a", "is a JPEG XL picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is a JPEG XL picture"),
        (b"II*\0\x10\0\0\0CR\2\0", "is a camera's raw file"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "is a camera's raw file"),
        (b"FUJIFILMCCD-RAW", "is a camera's raw file"),
        (b"IIU\0\x18\0\0\0", "is a camera's raw file"),
        (b"8BPS\0\1", "is a Photoshop document"),
        (b"<svg xmlns=''/>", "is a drawing without pixels"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp41", "unknown file format"),
        (b"%PDF-1.7", "unknown file format"),
        (b"\x89HDF\r\n\x1a\n", "unknown file format"),
    ],
)
def test_kinds_are_known_by_their_first_bytes(tmp_path, head, part):
    (tmp_path / "a.jpg").write_bytes(head + bytes(100))
    with pytest.raises(ValueError, match=f"'.*a.jpg' .*{part}.*: ") as refusal:
        load_image(tmp_path / "a.jpg")
    assert "\n" not in str(refusal.value) and picture_size(tmp_path / "a.jpg") is None


def test_no_other_program_is_started_for_a_picture(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    shutil.copy(tmp_path / "a.eps", tmp_path / "photo.jpg")

    def start(*words, **options):
        raise AssertionError(f"{words} was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(ValueError, match="unknown file format"):
        load_image(tmp_path / "photo.jpg")


@posix
@pytest.mark.parametrize("load", [load_image, load_mask, read_picture])
def test_a_pipe_is_read_once(tmp_path, load):
    pipe, content = tmp_path / "pipe", DEMO.read_bytes()
    os.mkfifo(pipe)
    assert picture_size(pipe) is None
    writer = threading.Thread(target=lambda: pipe.write_bytes(content))
    writer.start()
    read = load(pipe, size=32)
    writer.join(10)
    expected = load(DEMO, size=32)
    for one, other in zip([read], [expected], strict=True):
        values = zip(one, other, strict=True) if load is read_picture else [(one, other)]
        for a, b in values:
            np.testing.assert_equal(np.asarray(a), np.asarray(b))


def test_bytes_that_were_read_already_are_not_read_again(tmp_path):
    content = decode.read_content(DEMO)
    assert content == DEMO.read_bytes()
    read = read_picture(tmp_path / "none", content=content, size=32)
    np.testing.assert_array_equal(read.image, load_image(DEMO, size=32))


@posix
def test_files_without_an_end_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'/dev/zero' is not a readable picture .unknown file"):
        load_image("/dev/zero")
    monkeypatch.setattr(decode, "MAX_BYTES", 5000)
    with pytest.raises(ValueError, match=".*content.jpg' has more than 5000 bytes: give a small"):
        load_image(DEMO)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_huge_pictures_are_reduced_band_by_band(tmp_path, monkeypatch, mode):
    ramp = Image.linear_gradient("L").resize((203, 307))
    whole = ramp.convert("1" if mode == "1" else "L").convert("RGB" if mode == "P" else "L")
    if mode == "RGBA":
        opaque = ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        opaque.paste(255, (0, 150, 203, 307))
        whole = Image.merge("RGBA", [ramp, ramp, ramp, opaque])
    elif mode == "I;16":
        whole = Image.fromarray(np.asarray(ramp).astype(np.uint16) * 257)
    whole.convert(mode).save(tmp_path / "a.png")
    directly = read_picture(tmp_path / "a.png", size=15), load_mask(tmp_path / "a.png", size=15)
    monkeypatch.setattr("jaxnst.pixels._HUGE", 1000)
    monkeypatch.setattr("jaxnst.pixels._BAND_PIXELS", 203 * 20)
    reduced = read_picture(tmp_path / "a.png", size=15), load_mask(tmp_path / "a.png", size=15)
    atol = 0.05 if mode == "1" else 0.015
    np.testing.assert_allclose(reduced[0].image, directly[0].image, atol=atol)
    np.testing.assert_allclose(reduced[1], directly[1], atol=atol)
    assert (directly[0].alpha is None) is (reduced[0].alpha is None) is (mode != "RGBA")
    if mode == "RGBA":
        np.testing.assert_allclose(reduced[0].alpha, directly[0].alpha, atol=atol)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8\xff\xe1\0\x20Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(16),
        b"II*\0\x08\0\0\0\1\0\0\1\3\0\1\0\0\0",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    ],
)
def test_nothing_but_the_one_line_appears(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    code = "import jaxnst, sys\ntry: jaxnst.load_image(sys.argv[1])\nexcept ValueError: pass"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.jpg")], capture_output=True, check=True
    )
    assert done.stdout == b"" and len(done.stderr.splitlines()) <= 1
