"""A run as a moving picture."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from jaxnst.files import check_target, replacing

_FORMATS = {".gif": "GIF", ".webp": "WEBP"}


def check_animation_output(path: str | PathLike[str]) -> None:
    """Check that `save_animation` can write to `path`.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as `jaxnst.files.check_target`.
    """
    check_target(path, _FORMATS)


def save_animation(
    path: str | PathLike[str],
    frames: Iterable[ArrayLike],
    *,
    milliseconds: int = 80,
    hold: int = 2000,
) -> None:
    """Write images as an animated GIF or WebP that repeats.

    Args:
        path: the target, with the suffix .gif or .webp; replaced only on success.
        frames: (H, W, 3) images in [0, 1], all of one shape, at least one.
        milliseconds: how long a frame is shown.
        hold: how long the last one is.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as `check_animation_output`; or there is no
            frame, or one of another shape.
    """
    check_animation_output(path)
    pictures = [
        Image.fromarray(np.rint(np.clip(np.asarray(frame), 0, 1) * 255).astype(np.uint8))
        for frame in frames
    ]
    if not pictures:
        raise ValueError("an animation needs at least one frame")
    if len({picture.size for picture in pictures}) > 1:
        raise ValueError("the frames of an animation must have one shape")
    with replacing(path) as beside:
        pictures[0].save(
            beside,
            _FORMATS[Path(path).suffix.lower()],
            save_all=True,
            append_images=pictures[1:],
            duration=[milliseconds] * (len(pictures) - 1) + [hold],
            loop=0,
            quality=85,  # of WebP; GIF has none
        )
