"""What stands beside the pixels of a PNG or JPEG file: which side is up, and the colour profile.

Pillow parses all of it, and one entry that it cannot parse costs the picture or its orientation.
So what is wanted is read here, and the rest is withheld from Pillow.
"""

import re
import struct
import zlib
from typing import NamedTuple

_MAX_TEXT = 2**24  # bytes of a profile or text, decompressed


class Header(NamedTuple):
    """A file as Pillow is to see it, and what was in it beside the pixels."""

    content: bytes
    exif: bytes = b""
    xmp: bytes = b""
    profile: bytes = b""


def orientation(exif: bytes, xmp: bytes) -> int:
    """Return which side is up, 1 to 8 as in EXIF, by an EXIF block or else by XMP.

    Raises:
        ValueError: the EXIF block cannot be read as far as to its orientation.
    """
    try:
        found = _exif_orientation(exif.removeprefix(b"Exif\0\0")) if exif else None
    except (KeyError, struct.error) as error:
        raise ValueError("no TIFF structure in it") from error
    if found is None:
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
        found = int(match[1]) if match else 1
    return found if 1 <= found <= 8 else 1


def _exif_orientation(exif: bytes) -> int | None:
    order = {b"II": "<", b"MM": ">"}[exif[:2]]
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", exif, place)
        if tag == 0x112 and kind in (1, 3, 4, 6, 8, 9):  # an integer of whatever size
            form = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}[kind]
            return int(struct.unpack_from(order + form, exif, place + 8)[0])
    return None


def read_jpeg(content: bytes) -> Header:
    """Find EXIF and XMP in a JPEG file; hide EXIF and the list of further pictures (MPF)."""
    exif, xmp, hidden, place = b"", b"", [], 2
    while content[place : place + 1] == b"\xff" and place + 4 <= len(content):
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xDA:  # the pixels begin
            break
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        body = content[place + 4 : place + 2 + length]
        if marker == 0xE1 and body.startswith(b"Exif\0"):
            exif = exif or body
            hidden.append(place + 4)
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = xmp or body
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            hidden.append(place + 4)
        place += 2 + length
    if hidden:
        shown = bytearray(content)
        for place in hidden:
            shown[place : place + 3] = b"---"
        content = bytes(shown)
    return Header(content, exif, xmp)


def read_avif(content: bytes) -> Header:
    """Hide EXIF in an AVIF file, whose orientation is a property of the picture itself."""
    head = re.sub(rb"(infe.{8})Exif", rb"\1exif", content[: 2**16], flags=re.DOTALL)
    return Header(head + content[2**16 :])


def read_png(content: bytes) -> Header:
    """Find EXIF, XMP and the profile in a PNG file; keep only the chunks that pixels need.

    A grey or colour that stands for "transparent" is scaled to the 8 bits that Pillow makes of
    fewer.
    """
    signature, bits, colour = content[:8], content[24:25], content[25:26]
    pieces, found, place = [memoryview(signature)], dict[str, bytes](), 8
    while place + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        chunk = memoryview(content)[place : place + 12 + length]
        data, place = chunk[8:-4], place + 12 + length
        whole = len(chunk) == 12 + length
        sound = whole and zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]
        if name == b"PLTE" and colour != b"\3":
            continue  # a hint
        if name == b"IEND" and not sound:
            chunk = _chunk(name, b"")
        if name == b"tRNS" and sound and colour in (b"\0", b"\2") and bits[0] <= 8:
            top = (1 << bits[0]) - 1
            keys = [key & top for key in struct.unpack(f">{length // 2}H", data)]
            chunk = _chunk(name, struct.pack(f">{len(keys)}H", *(k * (255 // top) for k in keys)))
        if name[:1].isupper() or name == b"tRNS":
            pieces.append(chunk)
        elif sound:
            found |= _metadata(name, bytes(data))
    return Header(b"".join(pieces), **found)


def _chunk(name: bytes, data: bytes) -> memoryview:
    body = name + data
    return memoryview(struct.pack(">I", len(data)) + body + zlib.crc32(body).to_bytes(4, "big"))


def _metadata(name: bytes, data: bytes) -> dict[str, bytes]:
    """Return what a chunk beside the pixels has to say, by the field of `Header`."""
    if name == b"eXIf":
        return {"exif": data}
    key, _, text = data.partition(b"\0")
    if name == b"iCCP":
        return {"profile": _inflated(text[1:])}
    if key == b"XML:com.adobe.xmp" and name == b"iTXt":
        body = text[2:].split(b"\0", 2)[-1]
        return {"xmp": _inflated(body) if text[:1] == b"\1" else body}
    if key == b"Raw profile type exif" and name in (b"tEXt", b"zTXt"):  # of ImageMagick
        lines = (_inflated(text[1:]) if name == b"zTXt" else text).split(b"\n")
        try:
            return {"exif": bytes.fromhex(b"".join(lines[3:]).decode("ascii", "replace"))}
        except ValueError:
            return {"exif": b"?"}
    return {}


def _inflated(data: bytes) -> bytes:
    """Return decompressed data, or what of it can be, which its reader may refuse."""
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT) or b"?"
    except zlib.error:
        return b"?"
