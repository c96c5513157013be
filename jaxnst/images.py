"""Pictures in files, images in arrays.

An *image* is an ``(H, W, 3)`` float32 array of sRGB values in [0, 1].
"""

import logging
from dataclasses import dataclass, field
from io import BytesIO
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from jaxnst import decode, pixels
from jaxnst.files import check_target, replacing
from jaxnst.kinds import PathLike, quoted
from jaxnst.tiff import Floats, Stored

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_FORMATS |= {".tif": "TIFF", ".tiff": "TIFF"}

_log = logging.getLogger(__name__)

Fit = Literal["long", "short"]


@dataclass(frozen=True)
class Geometry:
    """The size and shape at which pictures are loaded: three of the options of `load_image`.

    Raises:
        ValueError: a field has no valid value, or `crop` comes without a size and fit="short".
    """

    size: int | None = field(
        default=512, metadata={"help": "pixels of the long side, or of that which --fit names"}
    )
    fit: Fit = field(default="long", metadata={"help": "which side of a picture --size gives"})
    crop: bool = field(default=False, metadata={"help": "keep only the central square"})

    def __post_init__(self) -> None:
        if self.size is not None:
            check_positive_integer("size", self.size)
        if self.fit not in ("long", "short"):
            raise ValueError(f'fit must be "long" or "short", not {self.fit!r}')
        if self.crop and (self.size is None or self.fit != "short"):
            raise ValueError(
                f'crop needs a size and fit="short", not size={self.size} and fit="{self.fit}"'
            )


class Options(TypedDict, total=False):
    """The options of `load_image`, for the functions that take the same."""

    size: int | None
    fit: Fit
    crop: bool
    enlarge: bool
    multiple: int


class Decoded(NamedTuple):
    """A picture as arrays on the host."""

    image: Floats  #: (H, W, 3) in [0, 1], laid over white where the picture is transparent
    alpha: Floats | None  #: (H, W) opacity in [0, 1]; None for an opaque picture


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

    The picture is turned upright (EXIF), converted to sRGB (embedded ICC profile) and laid over
    white where it is transparent. Of an animation, the first frame is read. Grey of more than 8
    bits keeps its precision unless it has an ICC profile; colour is read with 8 bits per channel.

    >>> from pathlib import Path
    >>> import jaxnst
    >>> path = Path(jaxnst.__file__).parent / "demo" / "content.jpg"
    >>> jaxnst.load_image(path, size=64).shape
    (43, 64, 3)

    Args:
        path: the picture: PNG, JPEG, WebP, TIFF, GIF, BMP, JPEG 2000, PNM, AVIF (Pillow 11.3 or
            later) or HEIF (``pip install 'jaxnst[heif]'``), of at most 500 megapixels.
        size: length in pixels of the side that ``fit`` names; None keeps the picture's own size.
        fit: which side gets ``size``, the "long" or the "short" one. Proportions are kept.
        crop: keep only the central ``size`` by ``size`` square. Needs ``fit="short"``.
        enlarge: False leaves a picture smaller than ``size`` as it is (``crop`` then keeps its
            largest central square).
        multiple: round the other side to a multiple of this many pixels, so that pictures of
            many proportions have few shapes.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a readable picture, or an option has no valid value.
    """
    decoded = read_picture(path, size=size, fit=fit, crop=crop, enlarge=enlarge, multiple=multiple)
    return jnp.asarray(decoded.image)


def load_alpha(path: PathLike, **options: Unpack[Options]) -> Floats | None:
    """Read a picture's opacity, ``(H, W)`` float32 in [0, 1], or None if all of it is opaque.

    Options and exceptions are those of `load_image`; with the same ones, both have one shape.

    >>> from pathlib import Path
    >>> import jaxnst
    >>> jaxnst.load_alpha(Path(jaxnst.__file__).parent / "demo" / "content.jpg") is None
    True
    """
    return read_picture(path, **options).alpha


def load_mask(path: PathLike, **options: Unpack[Options]) -> Floats:
    """Read a picture as a mask, ``(H, W)`` float32 in [0, 1]: white is 1, black is 0.

    The mask is the luminance (ITU-R BT.601 luma) of the values in the file, whatever its colour
    profile, and 0 where the picture is transparent. Options and exceptions are those of
    `load_image`; the mask fits an image of the same proportions. Masks that add up to 1 before
    they are resized add up to 1 afterwards.

    >>> from pathlib import Path
    >>> import jaxnst
    >>> jaxnst.load_mask(Path(jaxnst.__file__).parent / "demo" / "content.jpg", size=64).shape
    (43, 64)
    """
    resize = _resizer(**options)
    read = decode.stored(path)
    factor = resize.factor(read.picture.size)
    (mask,) = pixels.map_bands(read, lambda part: [pixels.luminance(part)], factor)
    assert mask is not None
    # A triangle filter, since Lanczos' negative lobes would leave ripples beside edges.
    return resize(mask, read.picture.size, Image.Resampling.BILINEAR)


def read_picture(
    path: PathLike, *, content: bytes | None = None, **options: Unpack[Options]
) -> Decoded:
    """Decode a picture once, for what `load_image` and `load_alpha` return.

    Args:
        path: the picture.
        content: the file's bytes, if `decode.read_content` has read them already.
        **options: those of `load_image`, with the same exceptions.
    """
    resize = _resizer(**options)
    read = pixels.with_usable_profile(decode.stored(path, content), path)
    factor = resize.factor(read.picture.size)
    colours, alpha = pixels.map_bands(read, _over_white, factor)
    assert colours is not None
    image = resize(colours, read.picture.size)
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    return Decoded(image, None if alpha is None else resize(alpha, read.picture.size))


def _over_white(read: Stored) -> tuple[Image.Image, Image.Image | None]:
    colours, alpha = pixels.srgb(read), pixels.opacity(read)
    if alpha is not None:  # before resizing, so that no hidden colour bleeds into an edge
        if colours.mode == "F":  # which Pillow blends byte by byte
            share = pixels.as_floats(alpha)
            colours = Image.fromarray(pixels.as_floats(colours) * share + 1 - share)
        else:
            white = Image.new(colours.mode, colours.size, "white")
            colours = Image.composite(colours, white, alpha)
    return colours, alpha


def save_image(
    path: PathLike, image: ArrayLike, *, alpha: ArrayLike | None = None, quality: int = 95
) -> None:
    """Write an image as PNG, JPEG, WebP or TIFF, by the suffix of ``path``.

    The file is written whole and then put in its place; a failure leaves the old file alone.

    >>> import tempfile, jax.numpy as jnp, jaxnst
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jaxnst.save_image(f"{folder}/red.png", jnp.zeros((2, 3, 3)).at[..., 0].set(1))
    ...     print(jaxnst.load_image(f"{folder}/red.png")[0, 0])
    [1. 0. 0.]

    Args:
        path: the file to write, in a folder that exists.
        image: ``(H, W, 3)`` floats in [0, 1]; values outside are clipped, the rest rounded to
            8 bits.
        alpha: ``(H, W)`` opacity in [0, 1]. JPEG has none: there the image is laid over white.
        quality: 1 (small) to 100 (good), for JPEG and WebP.

    Raises:
        FileNotFoundError: the folder does not exist.
        TypeError: ``image`` or ``alpha`` holds no floats.
        ValueError: the suffix is unknown, ``path`` is a folder, a shape is wrong, a value is not
            finite, ``quality`` is out of range, or a side is too long for the format.
        OSError: the file cannot be written (no permission, full disk).
    """
    check_output(path)
    if quality not in range(1, 101):
        raise ValueError(f"quality must be a whole number from 1 to 100, not {quality!r}")
    colours = check_image("image", image)
    form = _FORMATS[Path(path).suffix.lower()]
    if alpha is not None:
        opacity = _check_floats("alpha", alpha)[..., None]
        if opacity.shape[:-1] != colours.shape[:2]:
            raise ValueError(
                f"alpha must have the image's shape {colours.shape[:2]}, not {opacity.shape[:-1]}"
            )
        if not keeps_opacity(path):
            _log.warning("JPEG has no transparency: %s is laid over white", path)
            colours = colours * opacity + (1 - opacity)
        else:
            colours = np.concatenate([colours, opacity], axis=2)
    options: dict[str, Any] = {"quality": quality, "subsampling": "4:4:4"}
    if form == "TIFF":
        options = {"compression": "tiff_deflate"}
    encoded = BytesIO()  # encode in memory, to tell Pillow's failures from those of the disk
    try:
        Image.fromarray(decode.quantize(colours)).save(encoded, form, **options)
    except Exception as error:
        raise ValueError(
            f"{quoted(path)} cannot be written as {form} ({decode.reason(error)}): "
            "choose another format or a smaller image"
        ) from error
    with replacing(path) as beside:
        beside.write_bytes(encoded.getvalue())


def keeps_opacity(path: PathLike) -> bool:
    """Return whether the format that the suffix names has transparency."""
    return _FORMATS[Path(path).suffix.lower()] != "JPEG"


def check_output(path: PathLike) -> None:
    """Check that `save_image` can write to ``path``, for example before a long computation.

    Raises:
        FileNotFoundError: the folder does not exist.
        PermissionError: the folder is not writable.
        ValueError: the suffix is unknown, or ``path`` is a folder.
    """
    check_target(path, _FORMATS)


def check_image(name: str, image: ArrayLike) -> Floats:
    """Return an image as ``(H, W, 3)`` float32, clipped to [0, 1].

    Raises:
        TypeError: ``image``, which the message calls ``name``, holds no floats.
        ValueError: its shape is wrong, or a value is not finite.
    """
    colours = _check_floats(name, image)
    if colours.ndim != 3 or colours.shape[2] != 3 or colours.size == 0:
        raise ValueError(f"{name} must have the shape (height, width, 3), not {colours.shape}")
    return colours


def check_positive_integer(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is an integer above 0."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r}")


def _resizer(
    size: int | None = None,
    fit: Fit = "long",
    crop: bool = False,
    enlarge: bool = True,
    multiple: int = 1,
) -> pixels.Resizer:
    """Check the options of `load_image`."""
    Geometry(size, fit, crop)
    check_positive_integer("multiple", multiple)
    return pixels.Resizer(size, fit, crop, enlarge, multiple)


def _check_floats(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must hold floats from 0 to 1, not {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; look for the NaN or infinity in it")
    return np.clip(array, 0, 1).astype(np.float32)
