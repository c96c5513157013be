"""Contact sheets: images in rows on one picture, each with its label below."""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from jaxnst.app.labels import Label, describe, grid
from jaxnst.decode import Floats, quantize
from jaxnst.images import check_image, check_positive_integer

_ASPECT = 1.7  # preferred ratio of a sheet's width to its height


def contact_sheet(
    images: Iterable[ArrayLike],
    labels: Sequence[Label],
    *,
    columns: int | None = None,
    size: int = 256,
) -> Floats:
    """Lay out images on one white sheet, row by row, each with its label below.

    Labels are wrapped, never cut. The built-in font has only plain Latin letters: accents are
    dropped, and other letters appear as boxes.

    >>> contact_sheet([np.zeros((60, 80, 3))] * 3, ["one", "two", "three"], columns=3).shape
    (142, 490, 3)

    Args:
        images: one or more ``(H, W, 3)`` floats in [0, 1], whose shapes may differ; values
            outside are clipped. A generator's images are taken one by one.
        labels: one for each image, see `jaxnst.app.labels`.
        columns: images per row. By default, one for each value of the last setting if the labels
            form a grid of several settings, else as many as make the sheet wider than high.
        size: images with a side longer than this many pixels are scaled down to it.

    Returns:
        The sheet as an ``(H, W, 3)`` image in [0, 1], for `jaxnst.save_image`.

    Raises:
        TypeError: an image does not hold floats.
        ValueError: there are no images, or not as many as labels; an image has a wrong shape or
            values that are not finite; or ``columns`` or ``size`` is not positive.
    """
    if columns is not None:
        check_positive_integer("columns", columns)
    thumbs = list(thumbnails(images, len(labels), size))
    em = max(12, size // 18)
    font = ImageFont.load_default(size=em)
    leading, gap = round(1.35 * em), 2 * em
    width = max(9 * em, *(thumb.width for thumb in thumbs))
    captions = [_wrap(_printable(text), font, width) for text in describe(labels)]
    if columns is None:
        height = max(thumb.height for thumb in thumbs) + leading * max(map(len, captions))
        columns = _columns(labels, (width + gap) / (height + em // 2 + gap))
    columns = min(columns, len(thumbs))
    rows, bottom = [], gap  # for each row of the sheet: its images, and where they end
    for start in range(0, len(thumbs), columns):
        row = range(start, min(start + columns, len(thumbs)))
        foot = bottom + max(thumbs[i].height for i in row)
        rows.append((row, foot))
        bottom = foot + em // 2 + leading * max(len(captions[i]) for i in row) + gap

    sheet = Image.new("RGB", (columns * (width + gap) + gap, bottom), "white")
    draw = ImageDraw.Draw(sheet)
    for row, foot in rows:
        for column, i in enumerate(row):
            left, thumb = gap + column * (width + gap), thumbs[i]
            sheet.paste(thumb, (left + (width - thumb.width) // 2, foot - thumb.height))
            for n, line in enumerate(captions[i]):
                place = (left + width // 2, foot + em // 2 + n * leading)
                draw.text(place, line, "#333", font, anchor="ma")
    return np.asarray(sheet, np.float32) / np.float32(255)


def thumbnails(images: Iterable[ArrayLike], count: int, size: int) -> Iterator[Image.Image]:
    """Yield the `thumbnail` of each image; raise ValueError unless there are ``count`` images."""
    found = 0
    for found, image in enumerate(images, 1):
        yield thumbnail(f"images[{found - 1}]", image, size)
    if found != count:
        raise ValueError(f"there are {found} images but {count} labels: give one for each")
    if not found:
        raise ValueError("there are no images: give one or more")


def thumbnail(name: str, image: ArrayLike, size: int) -> Image.Image:
    """Return an image in 8 bits, scaled down if its long side exceeds ``size`` pixels."""
    check_positive_integer("size", size)
    picture = Image.fromarray(quantize(check_image(name, image)))
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    return picture


def _columns(labels: Sequence[Label], cell_aspect: float) -> int:
    """Return a grid's number of columns, or one for a wide sheet with few empty cells."""
    count, (axes, cells) = len(labels), grid(labels)
    if len(axes) > 1:
        last = len(list(axes.values())[-1])
        order = [point % last for point in np.argsort(cells)]
        if order == order[:last] * (count // last):
            return last

    def badness(columns: int) -> float:
        rows = math.ceil(count / columns)
        aspect = cell_aspect * columns / rows
        return abs(math.log(aspect / _ASPECT)) + 3 * (columns * rows - count) / count

    return min(range(1, count + 1), key=badness)


def _printable(text: str) -> str:
    """Return a text on one line, without accents and characters that cannot be drawn."""
    words = unicodedata.normalize("NFKD", text).split()
    return " ".join(
        "".join(c for c in word if c.isprintable() and not unicodedata.combining(c))
        for word in words
    )


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a text into lines of `width` pixels: at commas, else at spaces, else anywhere."""
    if font.getlength(text) <= width or len(text) < 2:
        return [text]
    breaks = [(re.split("(?<=,) ", text), " "), (text.split(" "), " "), (list(text), "")]
    parts, joint = next((parts, joint) for parts, joint in breaks if len(parts) > 1)
    lines: list[str] = []
    for part in parts:
        if lines and font.getlength(lines[-1] + joint + part) <= width:
            lines[-1] += joint + part
        else:
            lines += _wrap(part, font, width)
    return lines
