"""Read the layers of MatConvNet's networks from MATLAB 5 files, within bounds.

The format is described in "MAT-File Format" by The MathWorks. SciPy reads it too, but follows
nested cells until the process crashes.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxnst.formats.refusal import quote, refuse

ITEMS = 2**16
"""The most arrays that are read. MatConvNet's VGG19 has about 1,000."""
DEPTH = 8
"""The deepest nesting that is read. MatConvNet's is 3."""
UNPACKED_BYTES = 2**30
"""The longest variable after unpacking. A VGG19 with its dense layers has 575 MB."""
ARRAY_BYTES = 2**25
"""The largest array that is kept. A convolution's has 9 MB, or 19 in double precision."""

_MATRIX, _PACKED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
# Types of stored values, and the classes of arrays, whose values may be stored in a smaller type.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_STORED |= {13: "u8", 16: "u1", 17: "u2"}  # the last two are UTF-8 and UTF-16
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
_CLASSES |= {14: "i8", 15: "u8"}


def read_layers(path: str | PathLike[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a network as `layers/NAME/weights` and `layers/NAME/biases`.

    Raises:
        Refusal: the file is cut off or exceeds a bound; other exceptions if it is damaged.
    """
    with Path(path).open("rb") as file:
        mark = file.read(128)[126:]
        if mark not in (b"IM", b"MI"):
            refuse(f"its byte order is {quote(mark)}, neither IM nor MI")
        order = "<" if mark == b"IM" else ">"
        while file.peek(1):
            outer = _Elements(file.read, order)
            kind, size = outer.tag()
            start = file.tell()
            inner = _Elements(_unpacked(file, size), order) if kind == _PACKED else outer
            if kind == _PACKED:
                kind, _ = inner.tag()
            if kind == _MATRIX and (layers := inner.matrix(size, 0, b"layers")) is not None:
                return dict(_named(layers))
            file.seek(start + size)
    return {}


def _named(layers: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    structs = [x for cell in layers for x in (cell if isinstance(cell, list) else [cell])]
    for layer in structs:
        if isinstance(layer, dict) and isinstance(layer.get("name"), str):
            # MatConvNet has had "weights" since 1.0-beta16.
            pair = layer.get("weights", [layer.get("filters"), layer.get("biases")])
            if isinstance(pair, list) and len(pair) == 2:
                for leaf, array in zip(("weights", "biases"), pair, strict=True):
                    if isinstance(array, np.ndarray):
                        yield f"layers/{layer['name']}/{leaf}", array


def _unpacked(file: BinaryIO, size: int) -> Callable[[int], bytes]:
    """Return a function that reads from `size` packed bytes as from a file."""
    unpack = zlib.decompressobj()

    def read(count: int) -> bytes:
        nonlocal size
        out = bytearray()
        while len(out) < count and not unpack.eof:
            packed = unpack.unconsumed_tail or file.read(min(size, 2**16))
            size -= 0 if unpack.unconsumed_tail else len(packed)
            if not packed:
                break
            out += unpack.decompress(packed, count - len(out))
        return bytes(out)

    return read


class _Elements:
    """Elements in a row, each a tag and its bytes."""

    def __init__(self, read: Callable[[int], bytes], order: str) -> None:
        self.read, self.order = read, order
        self.at = self.items = 0

    def take(self, count: int, keep: bool = True) -> bytes:
        """Return the next bytes, or pass over them."""
        self.at += count
        if self.at > UNPACKED_BYTES:
            refuse(f"one of its variables has more than {UNPACKED_BYTES} bytes")
        piece = count if keep else 2**16
        data = b""
        for start in range(0, count, piece or 1):
            data = self.read(wanted := min(piece, count - start))
            if len(data) < wanted:
                refuse("it is cut off")
        return data

    def number(self) -> int:
        return int(np.frombuffer(self.take(4), self.order + "u4")[0])

    def tag(self) -> tuple[int, int]:
        return self.number(), self.number()

    def values(self, most: int = 2**16) -> np.ndarray[Any, Any]:
        """Return the next element, of numbers or characters; none of them if it is too long."""
        kind = self.number()
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            data = self.take(4)[:size]
        else:
            size = self.number()
            if size > most:
                self.take(size + -size % 8, keep=False)
                return np.empty(0)
            data = self.take(size + -size % 8)[:size]
        return np.frombuffer(data, self.order + _STORED[kind])

    def matrix(self, size: int, depth: int, wanted: bytes = b"") -> Any:
        """Return the value of a matrix of `size` bytes, whose tag is read.

        That is a list for a cell or struct array, a text, or an array; None for other classes, and
        for a name other than the `wanted` one.
        """
        end = self.at + size
        self.items += 1
        if self.items > ITEMS or depth > DEPTH:
            refuse(f"it has more than {ITEMS} arrays, or cells nested deeper than {DEPTH}")
        flags, shape = int(self.values()[0]), tuple(map(int, self.values()))
        name, count, kind = self.values().tobytes(), math.prod(shape), flags & 0xFF
        value: Any = None
        if wanted and name != wanted:
            return None
        if kind in (_CELL, _STRUCT) and not 0 <= count <= ITEMS:
            refuse(f"it has a cell or struct array of shape {quote(shape)}")
        if kind == _CELL:
            value = [self.child(depth) for _ in range(count)]
        elif kind == _STRUCT:
            length, names = int(self.values()[0]), self.values().tobytes()
            fields = [names[i : i + length] for i in range(0, len(names), length)]
            texts = [field.rstrip(b"\0").decode() for field in fields]
            value = [{text: self.child(depth) for text in texts} for _ in range(count)]
        elif kind == _CHAR:
            value = "".join(map(chr, self.values()))
        elif kind in _CLASSES and not flags & 0x800:  # not complex
            array = self.values(ARRAY_BYTES)
            if array.size == count:
                value = array.astype(_CLASSES[kind]).reshape(shape, order="F").squeeze()
        if depth:
            if self.at > end:
                refuse("the sizes of its arrays contradict each other")
            self.take(end - self.at, keep=False)
        return value

    def child(self, depth: int) -> Any:
        kind, size = self.tag()
        if kind != _MATRIX:
            refuse(f"a cell or struct holds an element of type {kind}")
        return self.matrix(size, depth + 1) if size else None
