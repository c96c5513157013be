"""Decode picture files with Pillow: upright, in sRGB, with their opacity."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

MAX_PIXELS = 500_000_000
"""Largest picture that is read, and largest that one is resized to, in pixels."""

_log = logging.getLogger(__name__)
_opening = threading.Lock()

PathLike = str | os.PathLike[str]
Floats = NDArray[np.float32]


def _open(file: BinaryIO) -> Image.Image:
    """Read a picture's header."""
    with _opening:  # Pillow's own limit is global: raise it to ours, then put it back
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[Image.Image]:
    """Decode a picture and turn it upright; a failure here or in the body becomes ValueError."""
    if os.path.isdir(path):
        raise ValueError(f"{quoted(path)} is a folder: give a picture file in it")
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {quoted(path)}: check the path")
    with open(path, "rb") as file:
        try:
            picture = _open(file)
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            picture.load()
            try:
                picture = ImageOps.exif_transpose(picture)
            except Exception as error:
                _log.warning("%s: broken EXIF data ignored (%s)", path, reason(error))
            yield picture
        except Exception as error:
            raise ValueError(
                f"{quoted(path)} is not a readable picture ({reason(error)}): "
                "use a complete PNG, JPEG, WebP or TIFF file"
            ) from error


def _stored(picture: Image.Image) -> Image.Image:
    """Return the opaque colours as stored: mode L, RGB, CMYK, or F in [0, 1] for deep grey."""
    if _is_deep(picture):
        top = 1 if picture.mode == "F" else 65535
        grey = np.asarray(picture, np.float32)
        if not (grey.min() >= 0 and grey.max() <= top):  # false for NaN too
            raise ValueError(f"its values run from {grey.min()} to {grey.max()}, not in 0 to {top}")
        return Image.fromarray(grey / np.float32(top))
    if picture.mode in ("1", "L", "LA"):
        return picture.convert("L")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")  # a palette's transparency would be lost on the way
    return picture if picture.mode == "CMYK" else picture.convert("RGB")


def srgb(picture: Image.Image, path: PathLike) -> Image.Image:
    """Return the opaque sRGB colours: mode RGB, or F in [0, 1] for grey of more than 8 bits."""
    stored, profile = _stored(picture), picture.info.get("icc_profile")
    if profile and picture.mode != "LAB":
        eight_bit = Image.fromarray(quantize(as_floats(stored))) if stored.mode == "F" else stored
        try:
            return _to_srgb(eight_bit, ImageCms.ImageCmsProfile(BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            _log.warning("%s: unusable colour profile ignored (%s)", path, reason(error))
    return stored if stored.mode == "F" else stored.convert("RGB")


def luminance(picture: Image.Image) -> Floats:
    """Return the luma of the stored values, (H, W) float32 in [0, 1]; 0 where transparent."""
    stored, alpha = _stored(picture), opacity(picture)
    luma = as_floats(stored if stored.mode == "F" else stored.convert("RGB").convert("L"))
    return luma if alpha is None else luma * as_floats(alpha)


def _to_srgb(picture: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    if picture.mode == "L" and profile.profile.xcolor_space.strip() == "RGB":
        picture = picture.convert("RGB")
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture, profile, srgb, outputMode="RGB")
    assert converted is not None  # it is None only for a conversion in place
    return converted


def opacity(picture: Image.Image) -> Image.Image | None:
    """Return the opacity as mode L, or None if all of the picture is opaque."""
    if not picture.has_transparency_data:
        return None
    if _is_deep(picture):  # one grey value stands for "transparent"
        opaque = np.asarray(picture) != picture.info["transparency"]
        alpha = Image.fromarray(opaque * np.uint8(255))
    else:
        alpha = picture.convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode == "F" or picture.mode.startswith("I")  # I, I;16, I;16B, ...


def as_floats(picture: Image.Image) -> Floats:
    """Return a picture of mode RGB, L or F as float32 in [0, 1]."""
    values = np.asarray(picture, np.float32)
    return np.clip(values, 0, 1) if picture.mode == "F" else values / np.float32(255)


def quantize(values: Floats) -> NDArray[np.uint8]:
    """Round floats in [0, 1] to 8 bits, halves up."""
    return np.floor(values * 255 + 0.5).astype(np.uint8)


def picture_size(path: PathLike) -> tuple[int, int] | None:
    """Return the upright picture's (width, height) by its file's header, or None.

    This is quick for many files, but does not notice damage in the rest of a file.
    """
    try:
        with open(path, "rb") as file:
            picture = _open(file)
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            # Pillow turns a TIFF by itself.
            return picture.size[::-1] if turned and picture.format != "TIFF" else picture.size
    except Exception:  # Pillow raises many kinds for damaged files
        return None


def is_picture_name(path: PathLike) -> bool:
    """Return whether a file name has the suffix of a format that Pillow reads."""
    suffix = Path(path).suffix.lower()
    return Image.registered_extensions().get(suffix) in Image.OPEN


def quoted(path: PathLike) -> str:
    """Return a path in quotes, with line breaks escaped."""
    return repr(os.fspath(path))


def reason(error: Exception) -> str:
    """Return an exception's message on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "unknown file format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it has more than {MAX_PIXELS} pixels"
    return " ".join(str(error).split()) or type(error).__name__
