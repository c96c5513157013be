"""Pictures in files and images in arrays.

An *image* is an ``(H, W, 3)`` float32 array of sRGB values in [0, 1].
"""

import contextlib
import logging
import math
import os
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from jaxnst.checks import check_positive_integer
from jaxnst.files import check_target, replacing

MAX_PIXELS = 500_000_000
"""Largest picture that is read, and largest that one is resized to, in pixels."""

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_FORMATS |= {".tif": "TIFF", ".tiff": "TIFF"}

_log = logging.getLogger(__name__)
_opening = threading.Lock()

Fit = Literal["long", "short"]
PathLike = str | os.PathLike[str]
Floats = NDArray[np.float32]


def load_image(
    path: PathLike,
    *,
    size: int | None = None,
    fit: Fit = "long",
    crop: bool = False,
    enlarge: bool = True,
    multiple: int = 1,
) -> jax.Array:
    """Read a picture as an ``(H, W, 3)`` float32 array of sRGB values in [0, 1].

    The picture is turned upright (EXIF), taken to sRGB (embedded ICC profile) and laid over white
    where it is transparent. Of an animation, this is the first frame. Grey of 16 bits keeps its
    precision unless it has an ICC profile; Pillow reads colour as 8 bits per channel.

    Args:
        path: the picture, in any format that Pillow reads.
        size: pixels of the side that ``fit`` names; None keeps the picture's own size.
        fit: which side becomes ``size``, the "long" or the "short" one. Proportions are kept.
        crop: keep only the central ``size`` by ``size`` square. Needs ``fit="short"``.
        enlarge: False leaves a picture that is smaller than ``size`` as it is (and then ``crop``
            keeps the largest central square).
        multiple: the side that ``fit`` does not name is rounded to a multiple of so many pixels, so
            that pictures of many proportions have few shapes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a readable picture, or the arguments make no sense.
    """
    _check_geometry(size, fit, crop, multiple)
    with _upright(Path(path)) as picture:
        colours, alpha = _colours(picture, path), _alpha(picture)
        if alpha is not None:  # before resizing, so that no hidden colour bleeds into an edge
            white = Image.new(colours.mode, colours.size, 1.0 if colours.mode == "F" else "white")
            colours = Image.composite(colours, white, alpha)
    pixels = _pixels(colours, size, fit, crop, enlarge, multiple)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return jnp.asarray(pixels)


def load_alpha(
    path: PathLike,
    *,
    size: int | None = None,
    fit: Fit = "long",
    crop: bool = False,
    enlarge: bool = True,
    multiple: int = 1,
) -> Floats | None:
    """Read a picture's opacity, ``(H, W)`` float32 in [0, 1], or None if all of it is opaque.

    Arguments, geometry and exceptions are those of `load_image`.
    """
    _check_geometry(size, fit, crop, multiple)
    with _upright(Path(path)) as picture:
        alpha = _alpha(picture)
    return None if alpha is None else _pixels(alpha, size, fit, crop, enlarge, multiple)


def save_image(
    path: PathLike, image: ArrayLike, *, alpha: ArrayLike | None = None, quality: int = 95
) -> None:
    """Write an image as PNG, JPEG, WebP or TIFF, as the suffix of ``path`` says.

    The target is replaced at once and only on success; a failure leaves the old file alone.

    Args:
        path: the target, in a folder that exists.
        image: ``(H, W, 3)`` floats in [0, 1]; values outside are clipped, the rest rounded to
            8 bits.
        alpha: ``(H, W)`` opacity in [0, 1]. JPEG has none: there the image is laid over white.
        quality: 1 (small) to 100 (good), for JPEG and WebP.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: unknown suffix, ``path`` is a folder, wrong shape or type, values that are not
            finite, wrong quality, or sides too long for the format.
        OSError: the file cannot be written (no permission, full disk).
    """
    check_output(path)
    if quality not in range(1, 101):
        raise ValueError(f"quality is {quality!r}: give a whole number from 1 to 100")
    colours = _checked("image", image)
    if colours.ndim != 3 or colours.shape[2] != 3 or colours.size == 0:
        raise ValueError(f"image has the shape {colours.shape}: it must be (height, width, 3)")
    form = _FORMATS[Path(path).suffix.lower()]
    if alpha is not None:
        opacity = _checked("alpha", alpha)[..., None]
        if opacity.shape[:-1] != colours.shape[:2]:
            raise ValueError(
                f"alpha has the shape {opacity.shape[:-1]}: "
                f"it must be that of the image, {colours.shape[:2]}"
            )
        if form == "JPEG":
            _log.warning("JPEG has no transparency: %s is laid over white", path)
            colours = colours * opacity + (1 - opacity)
        else:
            colours = np.concatenate([colours, opacity], axis=2)
    picture = Image.fromarray(np.floor(colours * 255 + 0.5).astype(np.uint8))
    options: dict[str, Any] = {"quality": quality, "subsampling": "4:4:4"}
    if form == "TIFF":
        options = {"compression": "tiff_deflate"}
    encoded = BytesIO()  # Pillow's failures happen here, those of the disk below
    try:
        picture.save(encoded, form, **options)
    except Exception as error:
        raise ValueError(
            f"{_quoted(path)} cannot be written as {form} ({_reason(error)}): "
            "choose another format or a smaller image"
        ) from error
    with replacing(path) as beside:
        beside.write_bytes(encoded.getbuffer())


def check_output(path: PathLike) -> None:
    """Check that `save_image` can write to ``path``, say before a long computation.

    Raises:
        FileNotFoundError: the folder does not exist.
        PermissionError: the folder cannot be written to.
        ValueError: the suffix is unknown, or ``path`` is a folder.
    """
    check_target(path, _FORMATS)


def picture_size(path: PathLike) -> tuple[int, int] | None:
    """Width and height as a file's head tells them, or None if it does not.

    A quick look at many files; what is told here may be wrong where the rest of a file is damaged.
    """
    try:
        with open(path, "rb") as file:
            picture = _open(file)
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            # Pillow turns a TIFF by itself.
            return picture.size[::-1] if turned and picture.format != "TIFF" else picture.size
    except Exception:  # of many kinds
        return None


def is_picture_name(path: PathLike) -> bool:
    """Whether a file is called like one of a picture that Pillow reads."""
    suffix = Path(path).suffix.lower()
    return Image.registered_extensions().get(suffix) in Image.OPEN


def _open(file: BinaryIO) -> Image.Image:
    """Read a picture's head."""
    with _opening:  # Pillow's own limit is global: lift it to ours, then put it back
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _upright(path: Path) -> Iterator[Image.Image]:
    """Open and decode a picture; what goes wrong here or in the body becomes one ValueError."""
    if path.is_dir():
        raise ValueError(f"{_quoted(path)} is a folder: give a picture file in it")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {_quoted(path)}: check the path")
    with open(path, "rb") as file:
        try:
            picture = _open(file)
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            picture.load()
            try:
                picture = ImageOps.exif_transpose(picture)
            except Exception as error:
                _log.warning("%s: broken EXIF data ignored (%s)", path, _reason(error))
            yield picture
        except Exception as error:
            raise ValueError(
                f"{_quoted(path)} is not a readable picture ({_reason(error)}): "
                "use a complete PNG, JPEG, WebP or TIFF file"
            ) from error


def _colours(picture: Image.Image, path: PathLike) -> Image.Image:
    """The opaque sRGB colours: mode RGB, or mode F in [0, 1] for grey of more than 8 bits."""
    profile = picture.info.get("icc_profile")
    if _is_deep(picture):
        top = 1 if picture.mode == "F" else 65535
        grey = np.asarray(picture, np.float32)
        if not (grey.min() >= 0 and grey.max() <= top):  # nor NaN
            raise ValueError(f"its values run from {grey.min()} to {grey.max()}, not in 0 to {top}")
        grey = grey / np.float32(top)
        if not profile:
            return Image.fromarray(grey)
        picture = Image.fromarray(np.rint(grey * 255).astype(np.uint8))
    elif picture.mode in ("1", "L", "LA"):
        picture = picture.convert("L")
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA").convert("RGB")
    elif picture.mode == "LAB":
        return _to_srgb(picture, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    elif picture.mode != "CMYK":
        picture = picture.convert("RGB")
    if profile:
        try:
            return _to_srgb(picture, ImageCms.ImageCmsProfile(BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            _log.warning("%s: unusable colour profile ignored (%s)", path, _reason(error))
    return picture.convert("RGB")


def _to_srgb(picture: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    if picture.mode == "L" and profile.profile.xcolor_space.strip() == "RGB":
        picture = picture.convert("RGB")
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture, profile, srgb, outputMode="RGB")
    assert converted is not None  # it is None only for a conversion in place
    return converted


def _alpha(picture: Image.Image) -> Image.Image | None:
    """The opacity as mode L, or None if all of the picture is opaque."""
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


def _pixels(
    picture: Image.Image, size: int | None, fit: Fit, crop: bool, enlarge: bool, multiple: int
) -> Floats:
    """Resize and crop a picture of mode RGB, L or F; the result is float32 in [0, 1]."""
    shape = _resized_shape(picture.size, size, fit, enlarge, multiple)
    if math.prod(shape) > MAX_PIXELS:
        raise ValueError(
            f"size {size} makes a picture of {shape[0]} by {shape[1]} pixels, "
            f"more than {MAX_PIXELS}: give a smaller size"
        )
    if shape != picture.size:
        picture = picture.resize(shape, Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, np.float32)
    pixels = np.clip(pixels, 0, 1) if picture.mode == "F" else pixels / np.float32(255)
    if crop:
        height, width = pixels.shape[:2]
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        pixels = pixels[top : top + edge, left : left + edge]
    return pixels


def _resized_shape(
    shape: tuple[int, int], size: int | None, fit: Fit, enlarge: bool, multiple: int
) -> tuple[int, int]:
    """Both sides after resizing; that which `fit` names is just as asked for."""
    side = max(shape) if fit == "long" else min(shape)
    asked = size is not None and (size < side or (enlarge and size > side))
    ratio = size / side if size is not None and asked else 1.0

    def resized(length: int) -> int:
        step = 1 if length == side else multiple
        return max(1, round(length * ratio / step)) * step

    return resized(shape[0]), resized(shape[1])


def _checked(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} has the type {array.dtype}: give floats from 0 to 1")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite: look for NaN or infinity")
    return np.clip(array, 0, 1).astype(np.float32)


def _check_geometry(size: int | None, fit: Fit, crop: bool, multiple: int) -> None:
    check_positive_integer("multiple", multiple)
    if size is not None:
        check_positive_integer("size", size)
    if fit not in ("long", "short"):
        raise ValueError(f'fit is {fit!r}: use "long" or "short"')
    if crop and (size is None or fit != "short"):
        raise ValueError(f'crop does not go with size={size}, fit="{fit}": give a size and "short"')


def _quoted(path: PathLike) -> str:
    return repr(os.fspath(path))  # escapes line breaks


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unknown file format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it has more than {MAX_PIXELS} pixels"
    return " ".join(str(error).split()) or type(error).__name__
