"""TIFF files of all kinds, to the colours and the opacity that are stored in them.

tifffile and imagecodecs give the samples as they are in the file; what they mean is read here
(TIFF 6.0, and Adobe's technical notes on it). What cannot be read rightly is refused by name.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from jaxnst.kinds import UnreadKind

Floats = NDArray[np.float32]

_GREY = {0: "white is 0", 1: "black is 0"}
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3}  # photometric -> samples that it needs
_JPEG = 7
_UNPREDICTED = {1, 2, 3, 4, _JPEG, 32773}
_COMPRESSIONS = {*_UNPREDICTED, 5, 8, 32946, 34925, 50000}  # and LZW, deflate, LZMA, Zstandard
_RAW = {32803, 34892}  # the photometric of a colour filter array, and linear raw
_MAX_SAMPLES = 8
_reading = threading.local()


class Stored(NamedTuple):
    """A picture as it is in its file, upright."""

    picture: Image.Image  #: in a mode of Pillow; grey of more than 8 bits in I, or F in [0, 1]
    alpha: Image.Image | None = None  #: the opacity as mode L, where ``picture`` has none itself
    profile: bytes = b""  #: ICC


def _is_ours(record: logging.LogRecord) -> bool:
    return not getattr(_reading, "now", False)


# tifffile logs what it finds odd; of the files read here, what matters ends as an exception.
logging.getLogger("tifffile").addFilter(_is_ours)


@contextlib.contextmanager
def opened(file: BinaryIO) -> Iterator[tifffile.TiffPage]:
    """Find the photograph in a TIFF file: the first page that is neither small nor a mask.

    Raises:
        UnreadKind: it is a camera's raw file, or its opacity is on a page of its own.
    """
    before, _reading.now = getattr(_reading, "now", False), True
    try:
        with tifffile.TiffFile(file) as tiff:
            pages: list[Any] = list(tiff.pages)
            pages += [page for parent in pages if parent.subifds for page in parent.pages]
            if any(page.photometric in _RAW or 50706 in page.tags for page in pages):
                raise UnreadKind(
                    "is a camera's raw file (DNG, NEF, …): develop it, and save it as JPEG or TIFF"
                )
            if any(page.photometric == 4 for page in pages):
                raise _unread("its opacity on a page of its own")
            whole = [page for page in pages if not page.is_reduced]
            yield whole[0] if whole else max(pages, key=lambda p: p.imagewidth * p.imagelength)
    finally:
        _reading.now = before


def size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return width and height as stored."""
    return page.imagewidth, page.imagelength


def orientation(page: tifffile.TiffPage) -> int:
    """Return which side is up, 1 to 8 as in EXIF."""
    found = page.tags.valueof(274, 1)
    return int(found) if found in range(1, 9) else 1


def stored(page: tifffile.TiffPage) -> Stored:
    """Decode a page from `opened`, not yet upright.

    Raises:
        UnreadKind: the kind of the picture is not read.
        ValueError: a value is out of range, or the file is damaged.
    """
    photometric, bits, extra = _check(page)
    samples, needed = _samples(page), _COLOURS[photometric]
    alpha = None
    # A fourth sample that nothing describes is an opacity by custom.
    extra = extra or ((2,) if samples.shape[2] - needed == 1 else ())
    for place, meaning in enumerate(extra, needed):
        if meaning in (1, 2) and alpha is None and place < samples.shape[2]:
            alpha = samples[..., place]
            if meaning == 1:
                samples = _unmultiplied(samples, alpha, photometric, bits)
    picture = _picture(page, samples[..., :needed], photometric, bits)
    profile = page.tags.valueof(34675) or b""
    if alpha is None:
        return Stored(picture, None, profile)
    return Stored(picture, Image.fromarray(_eight(alpha, bits)), profile)


def _unread(having: str) -> UnreadKind:
    return UnreadKind(f"is a TIFF with {having}, which is not read: save it as an ordinary one")


def _check(page: Any) -> tuple[int, int, tuple[int, ...]]:
    """Return a page's photometric, bits and meanings of further samples, if all can be read."""
    photometric, bits = page.photometric, page.bitspersample
    if page.compression not in _COMPRESSIONS:
        raise _unread(f"compression {int(page.compression)}")
    if photometric not in _COLOURS or page.tags.valueof(332, 1) != 1:  # inks other than CMYK
        raise _unread(f"colours of the kind {page.tags.valueof(262)}")
    if photometric == 6 and page.compression != _JPEG:
        raise _unread("YCbCr colours without JPEG")
    if page.predictor != 1 and page.compression in _UNPREDICTED:
        raise _unread(f"predictor {int(page.predictor)} where there is none")
    if page.samplesperpixel not in range(_COLOURS[photometric], _MAX_SAMPLES + 1):
        raise _unread(f"{page.samplesperpixel} samples per pixel")
    if page.imagedepth != 1 or not isinstance(bits, int) or not isinstance(page.sampleformat, int):
        raise _unread("unequal samples or a third dimension")
    if (
        page.dtype is None
        or (page.sampleformat == 2 and bits != 32)
        or page.sampleformat
        not in (
            1,
            2,
            3,
            4,
        )
    ):
        raise _unread(f"samples of {bits} bits and format {int(page.sampleformat)}")
    if photometric in (3, 8, 9) and (page.dtype.kind not in "bu" or bits > 16):
        raise _unread(f"palette or Lab of {bits} bits")
    return int(photometric), bits, tuple(page.extrasamples)


def _samples(page: Any) -> NDArray[Any]:
    """Return the samples (height, width, samples)."""
    end = page.parent.filehandle.size
    parts = zip(page.dataoffsets, page.databytecounts, strict=True)
    if not all(0 < count <= end - offset for offset, count in parts):
        raise ValueError("the file is truncated")
    planes = page.asarray().reshape(page.shaped)[:, 0]  # (planes, height, width, samples)
    planes = planes.astype(planes.dtype.newbyteorder("="), copy=False)
    return np.moveaxis(planes, 0, 2).reshape(*planes.shape[1:3], -1)


def _picture(page: Any, samples: NDArray[Any], photometric: int, bits: int) -> Image.Image:
    if photometric in _GREY:
        grey = samples[..., 0]
        if bits <= 8 and samples.dtype.kind in "bu":
            eight = _eight(grey, bits)
            return Image.fromarray(255 - eight if photometric == 0 else eight)
        unit = _unit(grey, bits)
        return Image.fromarray(1 - unit if photometric == 0 else unit)
    if photometric == 3:
        table = np.asarray(page.colormap)  # (3, 2^bits), of 16 bits, or of 8 by mistake
        table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
        return Image.fromarray(table.T[samples[..., 0].astype(np.intp)])
    if photometric in (8, 9):
        return _lab(samples, photometric == 8, bits)
    eight = _eight(samples, bits)
    if photometric == 5:
        return Image.frombytes("CMYK", eight.shape[1::-1], eight.tobytes())
    return Image.fromarray(eight)


def _lab(samples: NDArray[Any], signed: bool, bits: int) -> Image.Image:
    """Return Lab of 8 bits as Pillow has it, with a* and b* as in the file if they are signed."""
    if bits not in (8, 16):
        raise _unread(f"Lab of {bits} bits")
    eight = samples
    if bits == 16:  # in steps of 1/256, but for an L* whose white is 65535
        wide = samples.astype(np.int32)
        if signed:
            wide[..., 1:] = samples[..., 1:].astype(np.int16)
        wide = np.clip((wide + 128) >> 8, -128, np.array([255, 127, 127] if signed else 255))
        eight = wide.astype(np.uint8)
        if signed:
            eight[..., 0] = _eight(samples[..., 0], bits)
    if not signed:
        eight = eight.copy()
        eight[..., 1:] ^= 128
    return Image.frombytes("LAB", eight.shape[1::-1], eight.tobytes(), "raw", "LAB")


def _unmultiplied(
    samples: NDArray[Any], alpha: NDArray[Any], photometric: int, bits: int
) -> NDArray[Any]:
    """Divide by the opacity those samples that were multiplied by it."""
    if photometric not in (1, 2):
        raise _unread("premultiplied opacity beside these colours")
    opacity = np.maximum(alpha, np.finfo(np.float32).tiny)[..., None].astype(np.float32)
    ratio = np.clip(samples.astype(np.float32) / opacity, 0, 1)
    if samples.dtype.kind == "f":
        return ratio
    return (ratio * ((1 << bits) - 1) + 0.5).astype(samples.dtype)


def _unit(values: NDArray[Any], bits: int) -> Floats:
    """Return samples as float32 in [0, 1]."""
    # Signed integers have no white of their own; those of 32 bits hold 16 in Pillow's files.
    top = {"f": 1, "i": 65535}.get(values.dtype.kind, (1 << bits) - 1)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # false for NaN too
        raise ValueError(f"its values run from {low} to {high}, not in 0 to {top}")
    return (
        (values / np.float64(top)).astype(np.float32)
        if bits > 16
        else (values.astype(np.float32) / np.float32(top))
    )


def _eight(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return samples as 8 bits."""
    if values.dtype.kind in "bu" and bits <= 16:
        top = (1 << bits) - 1
        table = (np.arange(top + 1) * 255 * 2 + top) // (2 * top)
        return values if bits == 8 else table.astype(np.uint8)[values.astype(np.uint16)]
    return (_unit(values, bits) * 255 + 0.5).astype(np.uint8)
