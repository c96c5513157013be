"""Decode picture files: upright, in sRGB, with their opacity. Pillow reads all but TIFF."""

import importlib
import logging
import os
import stat
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
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
        FileNotFoundError: the file does not exist.
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
        FileNotFoundError: the file does not exist.
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
        top, values = white(picture), np.asarray(picture)
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


def white(picture: Image.Image) -> int:
    """Return the value of white in grey of more than 8 bits."""
    return 1 if picture.mode == "F" else 65535


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
                file.seek(0)
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
