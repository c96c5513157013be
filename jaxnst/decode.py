"""Decode picture files: upright, in sRGB, with their opacity. Pillow reads all but TIFF."""

import importlib
import logging
import os
import stat
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    WebPImagePlugin,
)

from jaxnst import headers, tiff
from jaxnst.kinds import HEAD_BYTES, PathLike, UnreadKind, kind_of, quoted
from jaxnst.kinds import is_picture_name as is_picture_name
from jaxnst.tiff import Floats as Floats
from jaxnst.tiff import Stored

MAX_PIXELS = 500_000_000
"""Largest picture that is read, and largest that one is resized to, in pixels."""

MAX_BYTES = 2**31
"""Largest file that is read."""

_BAND_PIXELS = 2**22
_SIZE_BYTES = 2**20  # of a file, in which its size is looked for first

_log = logging.getLogger(__name__)

# Only these are ever opened, by the file's first bytes and whatever its name says: among the
# others that Pillow knows are some that start further programs.
_PLUGINS: dict[str, Callable[[BytesIO], Image.Image]] = {
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "AVIF": lambda file: importlib.import_module("PIL.AvifImagePlugin").AvifImageFile(file),
}
_HEADERS = {
    "AVIF": headers.read_avif,
    "JPEG": headers.read_jpeg,
    "PNG": headers.read_png,
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Opened(NamedTuple):
    """A picture whose pixels are not decoded yet."""

    picture: Any  #: with a size and, unless it is a page of a TIFF, all that Pillow's have
    orientation: int = 1
    profile: bytes = b""


def read_content(path: PathLike) -> bytes:
    """Read a picture's file, once and from its beginning to its end, so that it may be a pipe.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is a folder, is not of a kind that is read, or has no end.
    """
    if os.path.isdir(path):
        raise ValueError(f"{quoted(path)} is a folder: give a picture file in it")
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {quoted(path)}: check the path")
    with open(path, "rb") as file:
        pieces = [file.read(HEAD_BYTES)]
        left = MAX_BYTES - len(pieces[0])
        _kind(path, pieces[0])
        while piece := file.read(2**24):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                raise ValueError(
                    f"{quoted(path)} has more than {MAX_BYTES} bytes: give a smaller picture"
                )
    return b"".join(pieces)


def stored(path: PathLike, content: bytes | None = None) -> Stored:
    """Decode a picture and turn it upright.

    Args:
        path: the file, for `read_content` and for messages.
        content: the file's bytes, if they have been read already.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a readable picture.
    """
    content = read_content(path) if content is None else content
    kind = _kind(path, content[:HEAD_BYTES])
    try:
        read, turn = _read_tiff(content) if kind == "TIFF" else _read(kind, content, path)
        if turn in _TURNS:
            turned = None if read.alpha is None else read.alpha.transpose(_TURNS[turn])
            read = Stored(read.picture.transpose(_TURNS[turn]), turned, read.profile)
        return read
    except UnreadKind as error:
        raise ValueError(f"{quoted(path)} {error}") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise _unreadable(path, reason(error)) from error


def _read_tiff(content: bytes) -> tuple[Stored, int]:
    with tiff.opened(BytesIO(content)) as page:
        _check_size(*tiff.size(page))
        if page.nbytes > 8 * MAX_PIXELS:
            raise ValueError(f"it has more than {8 * MAX_PIXELS} bytes without compression")
        return tiff.stored(page), tiff.orientation(page)


def _read(kind: str, content: bytes, path: PathLike) -> tuple[Stored, int]:
    opened = _open(kind, content, path)
    _check_size(*opened.picture.size)
    picture = opened.picture.to_pillow() if kind == "HEIF" else opened.picture
    picture.load()
    alpha = None
    if content[24:26] == b"\x10\2" and kind == "PNG" and "transparency" in picture.info:
        del picture.info["transparency"]  # one colour of 16 bits, of which Pillow has 8
        deep = imagecodecs.png_decode(content)[..., 3]
        alpha = Image.fromarray((deep >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        top, values = _white(picture), np.asarray(picture)
        if not (values.min() >= 0 and values.max() <= top):  # false for NaN too
            raise ValueError(
                f"its values run from {values.min()} to {values.max()}, not in 0 to {top}"
            )
    return Stored(picture, alpha, opened.profile), opened.orientation


def _kind(path: PathLike, head: bytes) -> str:
    try:
        kind = kind_of(head)
    except UnreadKind as error:
        raise ValueError(f"{quoted(path)} {error}") from error
    if kind is None:
        raise _unreadable(path, "unknown file format")
    return kind


def _unreadable(path: PathLike, why: str) -> ValueError:
    return ValueError(
        f"{quoted(path)} is not a readable picture ({why}): "
        "use a complete PNG, JPEG, WebP or TIFF file"
    )


def _open(kind: str, content: bytes, path: PathLike | None = None) -> _Opened:
    """Read a picture's header; warn of an unreadable EXIF block if a path is given."""
    header = _HEADERS.get(kind, headers.Header)(content)
    if kind == "HEIF":  # an extra; its opener would become one of Pillow's for the whole process
        picture = importlib.import_module("pillow_heif").open_heif(BytesIO(content))[0]
        return _Opened(picture, 1, picture.info.get("icc_profile") or b"")
    try:
        picture = _PLUGINS[kind](BytesIO(header.content))
    except SyntaxError as error:
        raise ValueError("unknown file format") from error
    exif, xmp = header.exif or picture.info.get("exif", b""), header.xmp
    try:
        turn = headers.orientation(exif, xmp or picture.info.get("xmp", b""))
    except ValueError as error:
        turn = 1
        if path is not None:
            _log.warning("%s: broken EXIF data ignored (%s)", path, reason(error))
    return _Opened(picture, turn, header.profile or picture.info.get("icc_profile") or b"")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has more than {MAX_PIXELS} pixels")


def map_bands(
    read: Stored, function: Callable[[Stored], Sequence[Image.Image | None]], factor: int
) -> list[Image.Image | None]:
    """Apply a function of single pixels, and reduce what it returns by a whole factor.

    With a factor above 1 that happens band by band, so that memory holds the picture as it is
    stored and little else.

    Args:
        read: the picture.
        function: returns pictures of the size that it gets, or None in place of an opaque opacity.
        factor: how many pixels, in width and in height, are averaged to one.
    """
    if factor == 1:
        return list(function(read))
    (width, height), bands = read.picture.size, []
    rows = max(1, _BAND_PIXELS // (width * factor)) * factor
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        alpha = None if read.alpha is None else read.alpha.crop(box)
        parts = function(Stored(read.picture.crop(box), alpha, read.profile))
        bands.append([part and part.reduce(factor) for part in parts])
    return [_joined(parts, [band[0] for band in bands]) for parts in zip(*bands, strict=True)]


def _joined(parts: Sequence[Any], beside: Sequence[Any]) -> Image.Image | None:
    """Stack bands; where one is None, and others are not, it is as large as that ``beside`` it."""
    modes = {part.mode for part in parts if part is not None}
    if not modes:
        return None
    sizes = [band.size for band in beside]
    joined = Image.new(modes.pop(), (sizes[0][0], sum(height for _, height in sizes)), 255)
    top = 0
    for part, (_, height) in zip(parts, sizes, strict=True):
        if part is not None:
            joined.paste(part, (0, top))
        top += height
    return joined


def with_usable_profile(read: Stored, path: PathLike) -> Stored:
    """Return the picture, without its colour profile if that is none, of which a log warns."""
    if not read.profile or read.picture.mode == "LAB":
        return read._replace(profile=b"")
    try:
        srgb(read._replace(picture=read.picture.crop((0, 0, 1, 1))))
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        _log.warning("%s: unusable colour profile ignored (%s)", path, reason(error))
        return read._replace(profile=b"")
    return read


def _opaque(picture: Image.Image) -> Image.Image:
    """Return the opaque colours as stored: mode L, RGB, CMYK, or F in [0, 1] for deep grey."""
    if _is_deep(picture):
        return Image.fromarray(np.asarray(picture, np.float32) / np.float32(_white(picture)))
    if picture.mode in ("1", "L", "LA"):
        return picture if picture.mode == "L" else picture.convert("L")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")  # a palette's transparency would be lost on the way
    return picture if picture.mode in ("CMYK", "RGB") else picture.convert("RGB")


def srgb(read: Stored) -> Image.Image:
    """Return the opaque sRGB colours: mode RGB, L, or F in [0, 1] for grey of more than 8 bits."""
    picture = _opaque(read.picture)
    if read.profile:
        if picture.mode == "F":
            picture = Image.fromarray(quantize(as_floats(picture)))
        profile = ImageCms.ImageCmsProfile(BytesIO(read.profile))
        if picture.mode == "L" and profile.profile.xcolor_space.strip() == "RGB":
            picture = picture.convert("RGB")
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, profile, target, outputMode="RGB")
        assert converted is not None  # it is None only for a conversion in place
        return converted
    return picture.convert("RGB") if picture.mode == "CMYK" else picture


def luminance(read: Stored) -> Image.Image:
    """Return the luma of the stored values, mode F in [0, 1]; 0 where transparent."""
    picture, alpha = _opaque(read.picture), opacity(read)
    if picture.mode not in ("F", "L"):
        picture = (picture if picture.mode == "RGB" else picture.convert("RGB")).convert("L")
    luma = as_floats(picture)
    return Image.fromarray(luma if alpha is None else luma * as_floats(alpha))


def opacity(read: Stored) -> Image.Image | None:
    """Return the opacity as mode L, or None if all of the picture is opaque."""
    picture, alpha = read.picture, read.alpha
    if alpha is None and picture.has_transparency_data:
        if _is_deep(picture):  # one grey value stands for "transparent"
            opaque = np.asarray(picture) != picture.info["transparency"]
            alpha = Image.fromarray(opaque * np.uint8(255))
        else:
            alpha = picture.convert("RGBA").getchannel("A")
    return None if alpha is None or alpha.getextrema() == (255, 255) else alpha


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode == "F" or picture.mode.startswith("I")  # I, I;16, I;16B, ...


def _white(picture: Image.Image) -> int:
    return 1 if picture.mode == "F" else 65535


def as_floats(picture: Image.Image) -> Floats:
    """Return a picture of mode RGB, L or F as float32 in [0, 1]."""
    values = np.asarray(picture, np.float32)
    return np.clip(values, 0, 1) if picture.mode == "F" else values / np.float32(255)


def quantize(values: Floats) -> NDArray[np.uint8]:
    """Round floats in [0, 1] to 8 bits, halves up."""
    return np.floor(values * 255 + 0.5).astype(np.uint8)


def picture_size(path: PathLike) -> tuple[int, int] | None:
    """Return the upright picture's (width, height) by its file's header, or None.

    This is quick for many files, but does not notice damage in the rest of a file. A pipe is left
    alone, since it can be read only once.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open(path, "rb") as file:
            content = file.read(_SIZE_BYTES)
            kind = kind_of(content[:HEAD_BYTES])
            if kind == "TIFF":
                with tiff.opened(file) as page:
                    return _upright(tiff.size(page), tiff.orientation(page))
            try:
                opened = _open(str(kind), content)
            except Exception:
                opened = _open(str(kind), content + file.read(MAX_BYTES))
            return _upright(opened.picture.size, opened.orientation)
    except Exception:  # Pillow raises many kinds for damaged files
        return None


def _upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size[::-1] if orientation >= 5 else size


def reason(error: Exception) -> str:
    """Return an exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
