"""Which files are pictures, by their names and by their first bytes."""

import importlib.util
import os
from pathlib import Path

from PIL import features

PathLike = str | os.PathLike[str]

HEAD_BYTES = 4096
"""How much of a file `kind_of` looks at."""

_READ = {
    "PNG": ".png .apng",
    "JPEG": ".jpg .jpeg .jpe .jfif .mpo",
    "WEBP": ".webp",
    "TIFF": ".tif .tiff .btf",
    "GIF": ".gif",
    "BMP": ".bmp",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "AVIF": ".avif .avifs",
    "HEIF": ".heic .heif .hif",
}
_UNREAD = {
    "RAW": ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf "
    ".pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f",
    "JXL": ".jxl",
    "PSD": ".psd .psb",
    "SVG": ".svg .svgz",
    "EXR": ".exr .hdr",
    "OTHER": ".dds .ico .jxr .pam .pcx .qoi .sgi .tga .xcf",
}
_KINDS = {suffix: kind for kind, row in (_READ | _UNREAD).items() for suffix in row.split()}
_REASONS = {
    "RAW": "is a camera's raw file: develop it, and save it as JPEG or TIFF",
    "HEIF": "is a HEIF picture: pip install 'jaxnst[heif]', or save it as JPEG",
    "AVIF": "is an AVIF picture, which Pillow reads from 11.3 on: update Pillow, or save it as PNG",
    "JXL": "is a JPEG XL picture, which is not read: save it as PNG, for example with djxl",
    "PSD": "is a Photoshop document, which is not read: save it as PNG or TIFF",
    "SVG": "is a drawing without pixels (SVG): save it as PNG",
    "EXR": "holds light of a high range, which is not read: tone-map it, and save it as TIFF",
    "OTHER": "is a picture of a kind that is not read: save it as PNG",
}
_SIGNATURES = [  # (where, what, kind)
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (0, b"BM", "BMP"),
    *[(0, b"P%c%c" % (digit, space), "PPM") for digit in b"123456f" for space in b" \t\r\n"],
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (4, b"jP  \r\n\x87\n", "JPEG2000"),
    (0, b"\xff\x0a", "JXL"),
    (4, b"JXL \r\n\x87\n", "JXL"),
    (0, b"8BPS", "PSD"),
    (0, b"<svg", "SVG"),
    (0, b"\x76\x2f\x31\x01", "EXR"),
    (0, b"#?RADIANCE", "EXR"),
    (0, b"qoif", "OTHER"),
    (0, b"gimp xcf", "OTHER"),
    (0, b"DDS ", "OTHER"),
    (8, b"CR", "RAW"),  # Canon's and Olympus' and Panasonic's raw files begin much as a TIFF does
    *[(0, start, "RAW") for start in (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILM", b"FOVb")],
    (6, b"HEAPCCDR", "RAW"),
    (0, b"\0MRM", "RAW"),
    *[(0, start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")],
]
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"crx ": "RAW"}
_BRANDS |= dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIF")


class UnreadKind(ValueError):
    """A picture of a kind that is not read; the message goes on where the file's name ends."""


def kind_of(head: bytes) -> str | None:
    """Return the kind of a picture by its file's first `HEAD_BYTES`, or None if unknown.

    Raises:
        UnreadKind: it is a picture of a kind that is not read.
    """
    kind = None
    if head[4:8] == b"ftyp":  # the brand, its version, then the brands that it is compatible with
        length = int.from_bytes(head[:4], "big")
        brands = {head[k : k + 4] for k in range(8, min(length, len(head)), 4)}
        kind = next((kind for brand, kind in _BRANDS.items() if brand in brands), None)
    for where, what, candidate in _SIGNATURES:
        if kind is None and head[where : where + len(what)] == what:
            kind = candidate
    if kind is not None and (reason := _reason(kind)):
        raise UnreadKind(reason)
    return kind


def is_picture_name(path: PathLike) -> bool:
    """Return whether a file name has the suffix of a kind of picture that is read."""
    return (kind := _named_kind(path)) is not None and _reason(kind) is None


def unread_reason(path: PathLike) -> str | None:
    """Return why a file, by its name a picture, is not read, as "'a.nef' is …: do …"; or None."""
    kind = _named_kind(path)
    return f"{quoted(path)} {reason}" if kind and (reason := _reason(kind)) else None


def quoted(path: PathLike) -> str:
    """Return a path in quotes, with line breaks escaped."""
    return repr(os.fspath(path))


def _named_kind(path: PathLike) -> str | None:
    return _KINDS.get(Path(path).suffix.lower())


def _reason(kind: str) -> str | None:
    if kind == "HEIF" and importlib.util.find_spec("pillow_heif"):
        return None
    if kind == "AVIF" and _pillow_has_avif():
        return None
    return _REASONS.get(kind)


def _pillow_has_avif() -> bool:
    return "avif" in features.modules and bool(features.check_module("avif"))
