"""A web page that shows a sweep's images by sliders."""

import html
import json
import os
from base64 import b64encode
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

from numpy.typing import ArrayLike
from PIL import Image

from jaxnst.app.labels import Label, describe, describe_constant, grid
from jaxnst.app.sheet import thumbnail, thumbnails
from jaxnst.files import check_target, replacing


def write_page(
    path: str | os.PathLike[str],
    content: ArrayLike,
    images: Iterable[ArrayLike],
    labels: Sequence[Label],
    *,
    title: str = "Sweep",
    size: int = 1024,
) -> None:
    """Write one HTML file that shows images by sliders and compares them with the content.

    If the labels form a full grid, each setting that varies has a slider; else one slider goes
    through all images. The file holds the images as JPEG and needs no network, so it can be mailed
    and opened anywhere.

    Args:
        path: the file to write, in a folder that exists. It is replaced only on success.
        content: ``(H, W, 3)`` floats in [0, 1], shown after a click for comparison.
        images: one or more like it, whose shapes may differ. A generator's images are taken one by
            one.
        labels: one for each image, see `jaxnst.app.labels`.
        title: heading of the page.
        size: images with a side longer than this many pixels are scaled down to it.

    Raises:
        FileNotFoundError: the folder does not exist.
        TypeError, ValueError: as for `contact_sheet`; or ``path`` is a folder or not .html.
        OSError: the file cannot be written (no permission, full disk).
    """
    check_target(path, (".html", ".htm"))
    texts, (axes, cells) = describe(labels), grid(labels)
    before = _attributes(thumbnail("content", content, size))
    after = [_attributes(picture) for picture in thumbnails(images, len(texts), size)]
    data = {
        "labels": texts,
        "axes": [{"name": name, "values": values} for name, values in axes.items()],
        "cells": cells,
    }
    parts = {
        "title": html.escape(title),
        "constant": html.escape(describe_constant(labels)),
        "images": "\n".join(
            f'<img alt="{html.escape(text)}" decoding="sync" hidden {attributes}>'
            for text, attributes in zip(["content", *texts], [before, *after], strict=True)
        ),
        "data": json.dumps(data).replace("<", r"\u003c"),  # so that no text can end the script
    }
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    for name, part in parts.items():  # no text can contain a placeholder: each < is escaped
        page = page.replace(f"<!--{name}-->", part)
    with replacing(path) as beside:
        beside.write_bytes(page.encode("utf-8", "replace"))  # a file's name may not be Unicode


def _attributes(picture: Image.Image) -> str:
    """Return the attributes of an <img> element that hold the picture as JPEG."""
    encoded = BytesIO()
    # Full colour resolution, since fine strokes of saturated colours make a style.
    picture.save(encoded, "JPEG", quality=90, subsampling="4:4:4", optimize=True)
    source = f"data:image/jpeg;base64,{b64encode(encoded.getvalue()).decode()}"
    return f'width="{picture.width}" height="{picture.height}" src="{source}"'
