"""Stored pictures to sRGB, opacity and luminance, and their resizing."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from jaxnst import decode
from jaxnst.decode import quantize, reason, white
from jaxnst.kinds import PathLike
from jaxnst.tiff import Floats, Stored

_BAND_PIXELS = 2**22
_HUGE = 2**27  # pixels above which a picture is reduced before it is resized

_log = logging.getLogger(__name__)


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
    """Return the picture. Drop a colour profile that is not valid, with a warning in the log."""
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
        return Image.fromarray(np.asarray(picture, np.float32) / np.float32(white(picture)))
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


def as_floats(picture: Image.Image) -> Floats:
    """Return a picture of mode RGB, L or F as float32 in [0, 1]."""
    values = np.asarray(picture, np.float32)
    return np.clip(values, 0, 1) if picture.mode == "F" else values / np.float32(255)


@dataclass(frozen=True)
class Resizer:
    """Resizes and crops by the options of `load_image`."""

    size: int | None = None
    fit: str = "long"
    crop: bool = False
    enlarge: bool = True
    multiple: int = 1

    def target(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the width and height to which a picture is resized."""
        side = (max if self.fit == "long" else min)(size)
        kept = self.size is None or (self.size > side and not self.enlarge)
        wanted = side if kept or self.size is None else self.size

        def resized(length: int) -> int:
            step = 1 if length == side else self.multiple
            return max(1, round(length * (wanted / side) / step)) * step

        width, height = map(resized, size)
        if width * height > decode.MAX_PIXELS:
            raise ValueError(
                f"size {self.size} makes a picture of {width} by {height} pixels, "
                f"more than {decode.MAX_PIXELS}: give a smaller size"
            )
        return width, height

    def factor(self, size: tuple[int, int]) -> int:
        """Return by which whole number a huge picture is reduced before it is resized."""
        if size[0] * size[1] <= _HUGE:
            return 1
        return max(
            1, min(now // (4 * then) for now, then in zip(size, self.target(size), strict=True))
        )

    def __call__(
        self,
        picture: Image.Image,
        size: tuple[int, int],
        resampling: Image.Resampling = Image.Resampling.LANCZOS,
    ) -> Floats:
        """Resize a picture of mode RGB, L or F, ``size`` in its file, to float32 in [0, 1]."""
        width, height = self.target(size)
        if (width, height) != picture.size:
            factor = self.factor(size)  # a last row or column may stand for fewer pixels
            box = (0, 0, size[0] / factor, size[1] / factor)
            picture = picture.resize((width, height), resampling, box)
        pixels = as_floats(picture)
        if self.crop:
            edge = min(height, width)
            top, left = (height - edge) // 2, (width - edge) // 2
            pixels = pixels[top : top + edge, left : left + edge]
        return pixels
