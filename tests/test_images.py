"""The geometry of loading, masks, and writing pictures."""

import logging
import os
import stat
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxnst.images import (
    Geometry,
    check_output,
    load_alpha,
    load_image,
    load_mask,
    read_picture,
    save_image,
)

LOADERS = (load_image, load_alpha, load_mask, read_picture)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
FORMATS |= {".tif": "TIFF", ".tiff": "TIFF"}
BLACK = np.zeros((4, 4, 3))
SHORT = {"fit": "short"}
SQUARE = {"fit": "short", "crop": True}
posix = pytest.mark.skipif(os.name != "posix", reason="permissions and links are POSIX")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height, width):
    """Return an (H, W, 3) float32 ramp, which a lossy format keeps."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([x, y, 1 - x], axis=2).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.png"


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
        ({"size": np.int64(10)}, (6, 10)),
        ({"size": 15, **SHORT}, (15, 25)),
        ({"size": 60, **SHORT}, (60, 100)),
        ({"size": 15, **SQUARE}, (15, 15)),
        ({"size": 60, **SQUARE}, (60, 60)),
        ({"size": 60, **SQUARE, "enlarge": False}, (30, 30)),
        ({"size": 96, "multiple": 16}, (64, 96)),
        ({"size": 90, "multiple": 16}, (48, 90)),  # the side that is named stays
        ({"size": 24, "multiple": 32}, (32, 24)),  # never 0
        ({"size": 48, **SHORT, "multiple": 32}, (48, 64)),
        ({"size": 48, **SQUARE, "multiple": 16}, (48, 48)),
        ({"size": 200, "enlarge": False, "multiple": 16}, (32, 50)),
    ],
)
@pytest.mark.parametrize("tall", [False, True])
def test_geometry_of_image_alpha_and_mask(path, options, shape, tall):
    Image.fromarray(noise(50, 30, 4) if tall else noise(30, 50, 4)).save(path)
    image, alpha, mask, decoded = (load(path, **options) for load in LOADERS)
    assert isinstance(image, jax.Array) and image.dtype == jnp.float32
    assert image.shape == (*(shape[::-1] if tall else shape), 3)
    assert alpha.shape == mask.shape == image.shape[:2] and alpha.dtype == mask.dtype == np.float32
    for values in (image, alpha, mask):
        assert values.min() >= 0 and values.max() <= 1
    np.testing.assert_array_equal(decoded.image, image)
    np.testing.assert_array_equal(decoded.alpha, alpha)


def test_resizing_and_cropping_equal_those_of_pillow(path):
    picture = Image.fromarray(noise(40, 70, 3))
    picture.save(path)
    small = np.asarray(picture.resize((35, 20), Image.Resampling.LANCZOS), np.float32) / 255
    np.testing.assert_allclose(load_image(path, size=35), small, atol=1e-6)
    np.testing.assert_allclose(load_image(path, size=20, **SQUARE), small[:, 7:27], atol=1e-6)


def test_shrinking_is_antialiased(path):
    Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)).save(path)
    for load in (load_image, load_mask):
        assert abs(np.asarray(load(path, size=8)) - 0.5).max() < 0.1


def test_deep_grey_keeps_its_precision_when_resized(path):
    ramp = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(path)
    means = (ramp / 65535).reshape(8, 8, 8, 8).mean((1, 3))[2:-2, 2:-2]
    for loaded in (load_image(path, size=8)[..., 0], load_mask(path, size=8)):
        np.testing.assert_allclose(loaded[2:-2, 2:-2], means, atol=2e-3)


def test_thin_pictures_keep_one_pixel(path):
    Image.fromarray(noise(1, 300, 3)).save(path)
    assert load_image(path, size=30).shape == (1, 30, 3)


def test_hidden_colours_do_not_bleed_when_resized(path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4], pixels[:, 4:] = (255, 255, 255, 255), (255, 0, 0, 0)  # transparent red
    Image.fromarray(pixels).save(path)
    np.testing.assert_allclose(load_image(path, size=5), np.ones((5, 5, 3)), atol=1e-6)


@pytest.mark.parametrize("size", [8, 23, 200])
def test_resized_masks_have_no_ripples_and_add_up_to_1(tmp_path, size):
    left = np.zeros((64, 64), np.uint8)
    left[:, :30] = 255
    Image.fromarray(left).save(tmp_path / "left.png")
    Image.fromarray(255 - left).save(tmp_path / "right.png")
    masks = [load_mask(tmp_path / f"{name}.png", size=size) for name in ("left", "right")]
    np.testing.assert_allclose(sum(masks), 1, atol=1e-6)
    assert (np.diff(masks[0]) <= 1e-6).all()
    assert masks[0][0, 0] == 1 and masks[0][0, -1] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"size": size}, f"size must be .* not {size!r}") for size in (0, -3, 2.5, "64", True)],
        *[({"multiple": n}, f"multiple must be .* not {n!r}") for n in (0, -16, 1.5, True, "16")],
        ({"size": 8, "fit": "wide"}, 'fit must be "long" or "short", not \'wide\''),
        ({"size": 8, "crop": True}, 'crop needs .* not size=8 and fit="long"'),
        (SQUARE, 'crop needs .* not size=None and fit="short"'),
    ],
)
def test_options_without_meaning_are_refused(path, options, message):
    for load in LOADERS:
        with pytest.raises(ValueError, match=message):
            load(path, **options)
    if "multiple" not in options:
        with pytest.raises(ValueError, match=message):
            Geometry(**{"size": None} | options)


def test_each_field_of_geometry_has_a_help_text():
    assert Geometry() == Geometry(512, "long", False)
    fields = Geometry.__dataclass_fields__
    assert [*fields] == ["size", "fit", "crop"] and all(f.metadata["help"] for f in fields.values())


# --- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*FORMATS, *map(str.upper, FORMATS)])
def test_every_suffix_is_written(tmp_path, suffix):
    path, image = tmp_path / f"a{suffix}", smooth(32, 24)
    check_output(path)
    assert os.listdir(tmp_path) == []  # the check writes nothing
    save_image(path, jnp.asarray(image))
    form = FORMATS[suffix.lower()]
    with Image.open(path) as picture:
        assert (picture.format, picture.mode, picture.size) == (form, "RGB", (24, 32))
    atol = 12 / 255 if form in ("JPEG", "WEBP") else 1 / 510 + 1e-6
    np.testing.assert_allclose(load_image(path), image, rtol=0, atol=atol)
    assert os.listdir(tmp_path) == [path.name]


def test_values_are_rounded_and_clipped(path):
    values = np.array([-3, 0, 0.4 / 255, 0.6 / 255, 127.4 / 255, 127.6 / 255, 1, 7], np.float32)
    save_image(path, np.broadcast_to(values[None, :, None], (1, 8, 3)))
    assert np.asarray(Image.open(path))[0, :, 0].tolist() == [0, 0, 0, 1, 127, 128, 255, 255]


@pytest.mark.parametrize("dtype", [np.float64, np.float16, jnp.bfloat16])
def test_every_type_of_float_is_written(path, dtype):
    save_image(path, np.ones((2, 2, 3), dtype))
    assert (load_image(path) == 1).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_opacity_is_written(tmp_path, suffix):
    path, image = tmp_path / f"a{suffix}", smooth(9, 7)
    alpha = np.random.default_rng(1).random((9, 7), np.float32)
    save_image(path, image, alpha=alpha)
    loaded, opacity = read_picture(path)
    np.testing.assert_allclose(opacity, alpha, atol=1 / 510 + 1e-6)
    if suffix != ".webp":  # lossy
        expected = image * alpha[..., None] + 1 - alpha[..., None]
        np.testing.assert_allclose(loaded, expected, atol=1.6 / 255)


def test_opacity_in_jpeg_becomes_white_with_a_warning(tmp_path, caplog):
    save_image(tmp_path / "a.jpg", np.zeros((8, 8, 3)), alpha=np.full((8, 8), 0.25))
    np.testing.assert_allclose(load_image(tmp_path / "a.jpg"), 0.75, atol=2 / 255)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "JPEG" in record.getMessage()


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_quality_decides_about_the_size(tmp_path, suffix):
    small, large = (tmp_path / f"{name}{suffix}" for name in ("small", "large"))
    for path, quality in ((small, 10), (large, 95)):
        save_image(path, noise(64, 64, 3) / 255, quality=quality)
    assert small.stat().st_size < large.stat().st_size / 2


def fail(*args, **options):
    raise OSError("disk full")


def write_half(path, data):
    with open(path, "wb") as file:
        file.write(data[: len(data) // 2])
    fail()


def interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("owner", "name", "failure"),
    [
        ("os", "replace", fail),
        ("os", "replace", interrupt),
        ("shutil", "copymode", fail),
        ("pathlib.Path", "write_bytes", write_half),
    ],
)
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(
    path, monkeypatch, owner, name, failure
):
    path.write_bytes(b"old")
    monkeypatch.setattr(f"{owner}.{name}", failure)
    with pytest.raises((OSError, KeyboardInterrupt)):
        save_image(path, BLACK)
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["a.png"]


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_open_or_of_the_old_file(path, umask):
    before = os.umask(umask)
    try:
        save_image(path, BLACK)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    path.chmod(0o640)
    save_image(path, BLACK + 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix
def test_symbolic_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "there" / "real.png")
    save_image(tmp_path / "link.png", BLACK + 1)
    assert (tmp_path / "link.png").is_symlink()
    assert (load_image(tmp_path / "there" / "real.png") == 1).all()
    assert os.listdir(tmp_path / "there") == ["real.png"]


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        *[
            (
                np.zeros(shape),
                {},
                ValueError,
                r"image must have the shape \(height, width, 3\), not",
            )
            for shape in ((4, 4), (4, 4, 4), (1, 4, 4, 3), (0, 4, 3))
        ],
        (BLACK.astype(np.uint8), {}, TypeError, "image must hold floats from 0 to 1, not uint8"),
        (BLACK + np.nan, {}, ValueError, "image must be finite"),
        (BLACK - np.inf, {}, ValueError, "image must be finite"),
        (BLACK, {"alpha": np.zeros((4, 5))}, ValueError, r"shape \(4, 4\), not \(4, 5\)"),
        (BLACK, {"alpha": np.zeros((4, 4, 1))}, ValueError, r"shape \(4, 4\), not \(4, 4, 1\)"),
        (BLACK, {"alpha": np.full((4, 4), np.nan)}, ValueError, "alpha must be finite"),
        (BLACK, {"alpha": np.full((4, 4), 255)}, TypeError, "alpha must hold floats .* not int64"),
        *[
            (BLACK, {"quality": quality}, ValueError, f"quality must be .* not {quality!r}")
            for quality in (0, 101, 50.5, "95")
        ],
        (np.zeros((1, 16384, 3)), {}, ValueError, "as WEBP .*: choose another format or a smaller"),
    ],
)
def test_images_that_cannot_be_written_are_refused(tmp_path, image, options, error, message):
    (tmp_path / "a.webp").write_bytes(b"old")
    with pytest.raises(error, match=message) as refusal:
        save_image(tmp_path / "a.webp", image, **options)
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "a.webp").read_bytes() == b"old" and os.listdir(tmp_path) == ["a.webp"]


@pytest.mark.parametrize("check", [check_output, lambda path: save_image(path, BLACK)])
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("a.xyz", ValueError, r"unknown suffix '.xyz': use one of .png .jpg .jpeg .webp .tif"),
        ("a", ValueError, "unknown suffix ''"),
        ("a.png.txt", ValueError, "unknown suffix '.txt'"),
        ("none/a.png", FileNotFoundError, "there is no folder '.*none': make it first"),
        ("folder.png", ValueError, "'.*folder.png' is a folder: give the name of a file in it"),
        ("locked/a.png", PermissionError, "folder '.*locked' cannot be written to"),
    ],
)
def test_paths_that_cannot_be_written_are_refused(
    tmp_path, monkeypatch, check, name, error, message
):
    for folder in ("folder.png", "locked"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    with pytest.raises(error, match=message) as refusal:
        check(tmp_path / name)
    assert "\n" not in str(refusal.value)
    assert sorted(os.listdir(tmp_path)) == ["folder.png", "locked"]
    assert os.listdir(tmp_path / "locked") == []
