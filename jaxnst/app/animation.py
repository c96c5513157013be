"""Animations of a run."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from numpy.typing import ArrayLike
from PIL import Image

from jaxnst.decode import quantize
from jaxnst.files import check_target, replacing
from jaxnst.images import check_image

_FORMATS = {".gif": "GIF", ".webp": "WEBP"}


def check_animation_output(path: str | PathLike[str]) -> None:
    """Check that `save_animation` can write to `path`.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as for `jaxnst.files.check_target`.
    """
    check_target(path, _FORMATS)


def save_animation(
    path: str | PathLike[str],
    frames: Iterable[ArrayLike],
    *,
    milliseconds: int = 80,
    hold: int = 2000,
) -> None:
    """Write images as an animated GIF or WebP that repeats forever.

    Args:
        path: the file to write, with the suffix .gif or .webp; replaced only on success.
        frames: one or more (H, W, 3) images of one shape, floats in [0, 1].
        milliseconds: how long each frame is shown.
        hold: how many milliseconds the last frame is shown.

    Raises:
        FileNotFoundError, PermissionError: as for `check_animation_output`.
        TypeError: a frame does not hold floats.
        ValueError: as for `check_animation_output`; or there are no frames, their shapes differ,
            or one has a wrong shape or values that are not finite.
    """
    check_animation_output(path)
    pictures = [
        Image.fromarray(quantize(check_image(f"frames[{i}]", frame)))
        for i, frame in enumerate(frames)
    ]
    sizes = {picture.size for picture in pictures}
    if len(sizes) != 1:
        raise ValueError(f"frames must be one or more of one shape, not of {len(sizes)} shapes")
    with replacing(path) as beside:
        pictures[0].save(
            beside,
            _FORMATS[Path(path).suffix.lower()],
            save_all=True,
            append_images=pictures[1:],
            duration=[milliseconds] * (len(pictures) - 1) + [hold],
            loop=0,
            quality=85,  # only WebP uses it
        )
