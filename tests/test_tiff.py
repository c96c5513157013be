"""TIFF files of every kind, written here byte by byte, against NumPy."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxnst.decode import picture_size
from jaxnst.images import load_alpha, load_image

RNG = np.random.default_rng(0)
HALF = 0.51 / 255  # colour is rounded to 8 bits


def packed(samples, bits, order):
    """Samples (rows, columns, samples) as bytes; each row begins a byte."""
    if bits % 8 == 0:
        return samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    rows = ["".join(f"{x:0{bits}b}" for x in row.ravel()) for row in samples]
    rows = [row + "0" * (-len(row) % 8) for row in rows]
    return b"".join(bytes(int(row[i : i + 8], 2) for i in range(0, len(row), 8)) for row in rows)


def lzw(data):
    """Literals of 9 bits, with a fresh table before it would need 10."""
    codes = [c for i in range(0, len(data), 200) for c in (256, *data[i : i + 200])] + [257]
    text = "".join(f"{code:09b}" for code in codes)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def packbits(data):
    parts = [data[i : i + 128] for i in range(0, len(data), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


CODECS = {1: bytes, 5: lzw, 8: zlib.compress, 32773: packbits, 32946: zlib.compress}


def differences(samples, predictor, order):
    """What predictors 2 (of integers) and 3 (of floats) leave to compress, per row."""
    if predictor == 2:
        return np.diff(samples, axis=1, prepend=np.zeros_like(samples[:, :1]))
    rows, columns, count = samples.shape
    parts = samples.astype(samples.dtype.newbyteorder(">")).view(np.uint8)
    parts = parts.reshape(rows, columns * count, -1).swapaxes(1, 2).reshape(rows, -1, count)
    return np.diff(parts, axis=1, prepend=np.zeros_like(parts[:, :1]))


def directory(entries, where, order, big):
    """An image file directory at an offset, and what its entries refer to after it."""
    count, entry, word = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    room = struct.calcsize(word)
    head = struct.calcsize(order + count) + len(entries) * (4 + 2 * room) + room
    out, more = struct.pack(order + count, len(entries)), b""
    for tag, (form, values) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(values)}{form}", *values)
        if len(data) > room:
            data, more = struct.pack(order + word, where + head + len(more)), more + data
        kind = {"B": 1, "H": 3, "I": 4, "Q": 16}[form]
        out += struct.pack(order + entry, tag, kind, len(values)) + data.ljust(room, b"\0")
    return out, more


def tiff(
    path, samples, bits, photometric, *, form=1, planar=1, tile=None, rows=None, order="<",
    big=False, compression=1, predictor=1, extra=(), tags=None,
):  # fmt: skip
    """Write samples (height, width, samples) as a TIFF file of one page."""
    height, width, count = samples.shape
    down, across = tile or (rows or height, width)
    segments = []
    for plane in [samples] if planar == 1 else np.split(samples, count, axis=2):
        for top in range(0, height, down):
            for left in range(0, width, across):
                part = plane[top : top + down, left : left + across]
                if tile:
                    short = (0, down - part.shape[0]), (0, across - part.shape[1]), (0, 0)
                    part = np.pad(part, short)
                if predictor > 1:
                    part = differences(part, predictor, order)
                width_in_bits = bits if predictor < 3 else 8
                segments.append(CODECS[compression](packed(part, width_in_bits, order)))
    start = 16 if big else 8
    offsets = [start + sum(map(len, segments[:i])) for i in range(len(segments))]
    entries = {
        256: ("H", [width]), 257: ("H", [height]), 258: ("H", [bits] * count),
        259: ("H", [compression]), 262: ("H", [photometric]), 277: ("H", [count]),
        284: ("H", [planar]), 317: ("H", [predictor]), 339: ("H", [form] * count),
        **({338: ("H", extra)} if extra else {}),
        **({322: ("H", [across]), 323: ("H", [down])} if tile else {278: ("H", [down])}),
        324 if tile else 273: ("I", offsets),
        325 if tile else 279: ("I", [len(segment) for segment in segments]),
        **(tags or {}),
    }  # fmt: skip
    data = b"".join(segments)
    out, more = directory(entries, start + len(data), order, big)
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, start + len(data)) if big else None
    head = head or struct.pack(f"{order}HI", 42, start + len(data))
    path.write_bytes(mark + head + data + out + bytes(8 if big else 4) + more)


def whole(bits, shape=(5, 7, 1)):
    kind = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    values = RNG.integers(0, 1 << bits, shape, dtype=np.uint64).astype(kind)
    values[0, :2] = [[0] * shape[2], [(1 << bits) - 1] * shape[2]]
    return values


def read(path):
    image = np.asarray(load_image(path))
    assert picture_size(path) == image.shape[1::-1]
    return image


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16, 32])
def test_grey_of_every_depth(path, bits, photometric, order):
    samples = whole(bits)
    tiff(path, samples, bits, photometric, order=order)
    grey = samples / (2.0**bits - 1)
    expected = np.repeat(1 - grey if photometric == 0 else grey, 3, axis=2)
    np.testing.assert_allclose(read(path), expected, atol=HALF if bits == 6 else 1e-6)


PARTS = [{}, {"tile": (16, 16)}, {"rows": 2}]
LAYOUTS = [part | {"planar": planar} for part in PARTS for planar in (1, 2)]
LAYOUTS += [{"big": True, "order": order} for order in "<>"]


@pytest.mark.parametrize("compression", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_colour_in_every_layout(path, bits, layout, compression):
    samples = whole(bits, (19, 23, 3))
    tiff(path, samples, bits, 2, compression=compression, **layout)
    expected = samples / (2.0**bits - 1)
    np.testing.assert_allclose(read(path), expected, atol=1e-6 if bits == 8 else HALF)


@pytest.mark.parametrize("compression", [5, 8])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("samples", [whole(8, (9, 8, 3)), whole(16, (9, 8, 3)), whole(32)])
def test_differences_of_integers_are_added_up(path, samples, layout, compression):
    bits = 8 * samples.itemsize
    colours = 2 if samples.shape[2] == 3 else 1
    tiff(path, samples, bits, colours, predictor=2, compression=compression, **layout)
    expected = np.broadcast_to(samples / (2.0**bits - 1), (*samples.shape[:2], 3))
    np.testing.assert_allclose(read(path), expected, atol=HALF)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("predictor", [1, 3])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 3])
def test_floats(path, count, kind, predictor, layout):
    samples = RNG.random((9, 8, count)).astype(kind)
    options = {"form": 3, "compression": 8, "predictor": predictor} | layout
    tiff(path, samples, 8 * samples.itemsize, {1: 1, 3: 2}[count], **options)
    expected = np.broadcast_to(samples.astype(np.float32), (9, 8, 3))
    np.testing.assert_allclose(read(path), expected, atol=1e-6 if count == 1 else HALF)


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("meaning", [0, 1, 2])
def test_a_further_sample_is_an_opacity_or_means_nothing(path, meaning, count, bits, planar):
    samples = whole(bits, (6, 5, count + 1)).astype(np.float64)
    colours, alpha = samples[..., :count] / (2**bits - 1), samples[..., -1] / (2**bits - 1)
    alpha[0, 0] = 0
    stored = np.dstack([colours * alpha[..., None] if meaning == 1 else colours, alpha])
    stored = np.round(stored * (2**bits - 1)).astype(f"u{bits // 8}")
    tiff(path, stored, bits, {1: 1, 3: 2}[count], extra=(meaning,), planar=planar)
    colours = np.broadcast_to(colours, (6, 5, 3))
    if meaning == 0:
        assert load_alpha(path) is None
        np.testing.assert_allclose(read(path), colours, atol=HALF)
    else:
        np.testing.assert_allclose(load_alpha(path), alpha, atol=HALF)
        over_white = colours * alpha[..., None] + 1 - alpha[..., None]
        np.testing.assert_allclose(read(path), over_white, atol=2.2 / 255)


@pytest.mark.parametrize("scale", [1, 256, 257])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes(path, bits, scale):
    table = RNG.integers(0, 256, (3, 1 << bits))
    table[0, 0] = 255
    samples = whole(bits)
    tiff(path, samples, bits, 3, tags={320: ("H", (table * scale).ravel().tolist())})
    np.testing.assert_allclose(read(path), table.T[samples[..., 0]] / 255, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_inks_of_print(path, bits):
    ink = np.eye(4)[None] * (2**bits - 1)
    tiff(path, ink.astype(f"u{bits // 8}"), bits, 5)
    expected = [[[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]]]
    np.testing.assert_allclose(read(path), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("photometric", "bits", "samples"),
    [  # white, black, and red, whose L*, a* and b* are 54, 81 and 70
        (8, 8, [[255, 0, 0], [0, 0, 0], [138, 81, 70]]),
        (8, 16, [[65535, 0, 0], [0, 0, 0], [35389, 81 * 256, 70 * 256]]),
        (9, 8, [[255, 128, 128], [0, 128, 128], [138, 209, 198]]),
        (9, 16, [[65280, 32768, 32768], [0, 32768, 32768], [35251, 209 * 256, 198 * 256]]),
    ],
)
def test_lab(path, photometric, bits, samples):
    tiff(path, np.array([samples], f"u{bits // 8}"), bits, photometric)
    np.testing.assert_allclose(read(path), [[[1, 1, 1], [0, 0, 0], [1, 0, 0]]], atol=6 / 255)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "packbits"])
def test_faxes(path, compression):
    page = RNG.random((20, 30)) < 0.5
    Image.fromarray(page).save(path, compression=compression)
    np.testing.assert_array_equal(read(path)[..., 0], page)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_within(path, mode):
    smooth = Image.linear_gradient("L").resize((40, 30)).convert(mode)
    smooth.save(path, compression="jpeg", quality=95)
    expected = np.asarray(smooth.convert("RGB")) / 255
    np.testing.assert_allclose(read(path), expected, atol=4 / 255)


@pytest.mark.parametrize(
    ("kinds", "wide"), [((1, 0), (8, 80)), ((0, 1), (80, 8)), ((1, 1), (8, 80)), ((2, 2), (80, 8))]
)
def test_the_photograph_is_the_first_page_that_is_no_thumbnail(path, kinds, wide):
    grey = [Image.new("L", (width, 6)) for width in wide]
    for image, kind in zip(grey, kinds, strict=True):
        image.encoderinfo = {"tiffinfo": {254: kind}}
    grey[0].save(path, save_all=True, append_images=grey[1:], tiffinfo={254: kinds[0]})
    assert read(path).shape[1] == 80


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"photometric": 32803}, "raw file"),
        ({"photometric": 34892}, "raw file"),
        ({"tags": {50706: ("B", [1, 4, 0, 0])}}, "raw file"),
        ({"photometric": 4}, "opacity on a page of its own"),
        ({"photometric": 10}, "colours of the kind 10"),
        ({"photometric": 6, "count": 3}, "YCbCr"),
        ({"photometric": 5, "count": 4, "tags": {332: ("H", [2])}}, "colours of the kind 5"),
        ({"form": 2, "bits": 16}, "samples of 16 bits and format 2"),
        ({"form": 2}, "samples of 8 bits and format 2"),
        ({"form": 6, "bits": 32}, "samples of 32 bits and format 6"),
        ({"tags": {259: ("H", [6])}}, "compression 6"),
        ({"tags": {259: ("H", [34712])}}, "compression 34712"),
        ({"tags": {317: ("H", [2])}}, "predictor 2"),
        ({"count": 9}, "9 samples per pixel"),
    ],
)
def test_what_cannot_be_read_rightly_is_refused_by_name(path, options, part, capfd):
    options = {"bits": 8, "photometric": 1, "count": 1} | options
    bits = options.pop("bits")
    tiff(path, whole(bits, (5, 7, options.pop("count"))), bits, **options)
    with pytest.raises(ValueError, match=f"'.*a.tif' is a .*{part}.*: .*save") as refusal:
        load_image(path)
    assert "\n" not in str(refusal.value) and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits"])
def test_damage_is_read_or_refused_without_a_further_word(path, compression, capfd, caplog):
    Image.fromarray(RNG.integers(0, 60, (32, 32, 3), np.uint8)).save(path, compression=compression)
    content = path.read_bytes()
    for cut in (0.3, 0.6, 0.99):
        path.write_bytes(content[: int(len(content) * cut)])
        with pytest.raises(ValueError, match="is not a readable picture"):
            load_image(path)
    for _ in range(60):
        damaged = bytearray(content)
        for place in RNG.integers(4, len(damaged), 5):
            damaged[place] = RNG.integers(256)
        path.write_bytes(damaged)
        try:
            load_image(path)
        except ValueError as error:
            assert "\n" not in str(error)
    assert capfd.readouterr() == ("", "") and {r.name for r in caplog.records} <= {"jaxnst.pixels"}
