"""What comes out of a sweep: a contact sheet, and a page with sliders."""

import html
import json
import math
import os
import re
import unicodedata
from base64 import b64encode
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from jaxnst.checks import check_positive_integer
from jaxnst.files import check_target, replacing
from jaxnst.labels import Label, describe, describe_constant, grid

_ASPECT = 1.7  # width by height that a sheet comes near to
_PAGE = Path(__file__).with_name("page.html")


def contact_sheet(
    images: Iterable[ArrayLike],
    labels: Sequence[Label],
    *,
    columns: int | None = None,
    size: int = 256,
) -> NDArray[np.float32]:
    """Lay out images on one white sheet, row by row, each with its label under it.

    Labels are wrapped, never cut. The built-in font has the plain Latin letters: accents are
    dropped, and what is not Latin shows as boxes.

    Args:
        images: one or more ``(H, W, 3)`` floats in [0, 1], whose shapes may differ; values
            outside are clipped. Of a generator's, no two are in memory at once.
        labels: one for each image, see `jaxnst.labels`.
        columns: images in a row. None chooses: one column for each value of the last setting
            where the labels are a grid of several, else a sheet that is wider than high.
        size: images of a longer side than this many pixels are scaled down to it.

    Returns:
        The sheet as an ``(H, W, 3)`` image in [0, 1], for `jaxnst.save_image`.

    Raises:
        TypeError: ``labels`` is no list of settings or texts.
        ValueError: there are no images, or not as many as labels; an image has a wrong shape or
            type or values that are not finite; ``columns`` or ``size`` is not positive.
    """
    texts = describe(labels)
    check_positive_integer("size", size)
    if columns is not None:
        check_positive_integer("columns", columns)
    thumbs = [_picture(f"images[{i}]", image, size) for i, image in enumerate(images)]
    _check_lengths(len(thumbs), len(texts))

    em = max(12, size // 18)
    font = ImageFont.load_default(size=em)
    leading, gap = round(1.35 * em), 2 * em
    width = max(9 * em, *(thumb.width for thumb in thumbs))
    captions = [_wrap(_printable(text), font, width) for text in texts]
    if columns is None:
        height = max(thumb.height for thumb in thumbs) + leading * max(map(len, captions))
        columns = _columns(labels, (width + gap) / (height + em // 2 + gap))
    columns = min(columns, len(thumbs))
    bands, bottom = [], gap  # for each row of the sheet: its cells, and where its images end
    for start in range(0, len(thumbs), columns):
        band = range(start, min(start + columns, len(thumbs)))
        foot = bottom + max(thumbs[i].height for i in band)
        bands.append((band, foot))
        bottom = foot + em // 2 + leading * max(len(captions[i]) for i in band) + gap

    sheet = Image.new("RGB", (columns * (width + gap) + gap, bottom), "white")
    draw = ImageDraw.Draw(sheet)
    for band, foot in bands:
        for column, i in enumerate(band):
            left, thumb = gap + column * (width + gap), thumbs[i]
            sheet.paste(thumb, (left + (width - thumb.width) // 2, foot - thumb.height))
            for n, line in enumerate(captions[i]):
                place = (left + width // 2, foot + em // 2 + n * leading)
                draw.text(place, line, "#333", font, anchor="ma")
    return np.asarray(sheet, np.float32) / np.float32(255)


def write_page(
    path: str | os.PathLike[str],
    content: ArrayLike,
    images: Iterable[ArrayLike],
    labels: Sequence[Label],
    *,
    title: str = "Sweep",
    size: int = 1024,
    quality: int = 90,
) -> None:
    """Write one HTML file to walk through images by sliders and compare them with the content.

    There is a slider for each setting that varies where the labels are a full grid of them, else
    one slider for all images. The file holds the images as JPEG and asks nothing of a network, so
    it can be mailed and opened anywhere.

    Args:
        path: the target, in a folder that exists. It is replaced at once and only on success.
        content: ``(H, W, 3)`` floats in [0, 1], what a click compares with.
        images: one or more such images, whose shapes may differ. Of a generator's, no two are in
            memory at once.
        labels: one for each image, see `jaxnst.labels`.
        title: heading of the page.
        size: images of a longer side than this many pixels are scaled down to it.
        quality: 1 (small) to 100 (good), of the JPEGs.

    Raises:
        FileNotFoundError: the folder does not exist.
        TypeError: ``labels`` is no list of settings or texts.
        ValueError: as for `contact_sheet`; ``path`` is a folder or not .html; ``quality`` is wrong.
        OSError: the file cannot be written (no permission, full disk).
    """
    check_target(path, (".html", ".htm"))
    texts = describe(labels)
    check_positive_integer("size", size)
    if quality not in range(1, 101):
        raise ValueError(f"quality is {quality!r}: give a whole number from 1 to 100")
    before = _image_tag(_picture("content", content, size), quality)
    tags = [_image_tag(_picture(f"images[{i}]", x, size), quality) for i, x in enumerate(images)]
    _check_lengths(len(tags), len(texts))

    axes, cells = grid(labels)
    data = {
        "labels": texts,
        "axes": [{"name": name, "values": values} for name, values in axes.items()],
        "cells": cells,
    }
    parts = {
        "title": html.escape(title),
        "constant": html.escape(describe_constant(labels)),
        "images": "\n".join(
            tag.format(html.escape(text))
            for tag, text in zip([before, *tags], ["content", *texts], strict=True)
        ),
        "data": json.dumps(data).replace("<", r"\u003c"),  # so that no text can end the script
    }
    page = _PAGE.read_text(encoding="utf-8")
    for name, part in parts.items():  # texts have their < escaped, so none can hold such a mark
        page = page.replace(f"<!--{name}-->", part)
    with replacing(path) as beside:
        beside.write_bytes(page.encode("utf-8", "replace"))  # names of files may be no Unicode


def _picture(name: str, image: ArrayLike, size: int) -> Image.Image:
    """An image in 8 bits, its long side at most `size`."""
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(f"{name} has the shape {array.shape}: it must be (height, width, 3)")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} has the type {array.dtype}: give floats from 0 to 1")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite: look for NaN or infinity")
    colours = np.clip(array.astype(np.float32), 0, 1)
    picture = Image.fromarray(np.floor(colours * 255 + 0.5).astype(np.uint8))
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    return picture


def _image_tag(picture: Image.Image, quality: int) -> str:
    """The picture as an element of HTML, with a gap for the text that stands for it."""
    encoded = BytesIO()
    # Full colour resolution: fine strokes of saturated colours are what a style is made of.
    picture.save(encoded, "JPEG", quality=quality, subsampling="4:4:4", optimize=True)
    return (
        f'<img alt="{{}}" width="{picture.width}" height="{picture.height}" decoding="sync" '
        f'hidden src="data:image/jpeg;base64,{b64encode(encoded.getvalue()).decode()}">'
    )


def _columns(labels: Sequence[Label], cell_aspect: float) -> int:
    """What a grid asks for, or else few empty cells on a sheet of about the wanted aspect."""
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
    """One line without accents, which the font does not have, nor what cannot be drawn."""
    words = unicodedata.normalize("NFKD", text).split()
    return " ".join(
        "".join(c for c in word if c.isprintable() and not unicodedata.combining(c))
        for word in words
    )


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines of at most `width` pixels: broken after commas, else between words, else anywhere."""
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


def _check_lengths(images: int, labels: int) -> None:
    if images != labels:
        raise ValueError(f"there are {images} images but {labels} labels: give one for each")
    if not images:
        raise ValueError("there are no images: give one or more")
