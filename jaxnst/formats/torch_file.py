"""Read tensors from torch files, without torch.

A torch file is a pickle that describes tensors (see `torch_pickle`), followed by the raw values of
their storages. The file is mapped into memory, and each description is checked against it.
"""

import mmap
import re
import struct
import zipfile
from collections.abc import Iterator
from io import BytesIO, FileIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jaxnst.formats.refusal import quote, refuse
from jaxnst.formats.torch_pickle import (
    OLD_MAGIC,
    PICKLE_BYTES,
    Parameter,
    Tensor,
    kind,
    load_pickle,
)

DIRECTORY_BYTES = 2**20
"""The longest directory of a zip that is read. A VGG19's has 3 KB."""

_OLD_PROTOCOL = 1001
_OLD = b"\x8a\x0a" + OLD_MAGIC.to_bytes(10, "little") + b"."  # how the first pickle ends
_ZIP = b"PK\3\4"
_PREFIX = 200  # the longest names of dicts within dicts, in all

_Array = np.ndarray[Any, Any]


def read_tensors(path: str | PathLike[str]) -> dict[str, _Array]:
    """Return the tensors of a state dict in a torch file, as read-only views of the file.

    Both of torch's formats are read: the zip (torch 1.6 and later) and the five pickles before
    it. The file is mapped into memory, so values are read from disk when they are used. The file
    must not change while the arrays are in use.

    Args:
        path: what `torch.save` made of a dict of tensors, or of a dict that contains one. Entries
            that are neither tensors nor dicts are ignored.

    Returns:
        Name -> array of the tensor's shape, in the file's order; names within dicts are joined by
        dots. The dtype has the file's byte order, and the array need be neither contiguous nor
        aligned.

    Raises:
        FileNotFoundError: `path` is not a file.
        Refusal: the file asks for anything but tensors in plain containers. Whatever else the
            unpickler, zipfile and NumPy raise means that it is damaged.
    """
    start = _start(path)
    if start.startswith(_ZIP):
        return _read_zip(Path(path))
    if _OLD in start[:32]:
        return _read_old(Path(path))
    if start[257:] == b"ustar":
        refuse("it is a tar, torch's first format; load and save it with a newer torch")
    refuse("it starts like neither of torch's formats")


def is_torch_file(path: str | PathLike[str]) -> bool:
    """Return whether a file's content is in one of torch's two formats.

    Raises:
        FileNotFoundError: `path` is not a file.
    """
    start = _start(path)
    if not start.startswith(_ZIP):
        return _OLD in start[:32]
    try:
        with _BoundedFile(path) as file:
            return bool(_roots(zipfile.ZipFile(file)))
    except Exception:  # it begins like a zip, but is damaged
        return False


def _start(path: str | PathLike[str]) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(262)


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


# --- The two formats ------------------------------------------------------------------------------


class _BoundedFile(FileIO):
    """A file whose reader cannot be made to fill the memory by one huge read."""

    def read(self, size: int | None = -1, /) -> Any:
        if size is not None and size > DIRECTORY_BYTES:
            refuse(f"the directory of its zip has {size} bytes; at most {DIRECTORY_BYTES} are read")
        return super().read(size)


def _roots(archive: zipfile.ZipFile) -> list[str]:
    """Return the folders, each with its slash, that hold a data.pkl."""
    return [name[:-8] for name in archive.namelist() if re.fullmatch("[^/]+/data[.]pkl", name)]


def _read_zip(path: Path) -> dict[str, _Array]:
    data = _map(path)
    with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
        roots = _roots(archive)
        if len(roots) != 1:
            refuse(f"the zip of a torch file has one data.pkl, this one has {len(roots)}")
        pickled = _span(archive, data, roots[0] + "data.pkl")
        if len(pickled) > PICKLE_BYTES:
            refuse(f"its data.pkl has {len(pickled)} bytes; at most {PICKLE_BYTES} are read")
        value, storages = load_pickle(BytesIO(data[pickled.start : pickled.stop]))

        order = b"little"  # what torch assumes where the file does not say
        if roots[0] + "byteorder" in archive.namelist():
            mark = _span(archive, data, roots[0] + "byteorder")
            order = data[mark.start : mark.stop][:8]
        if order not in (b"little", b"big"):
            refuse(f"its byte order is {quote(order)}, neither little nor big")

        spans = {key: _span(archive, data, f"{roots[0]}data/{key}") for key in storages}
    for key, storage in storages.items():
        if storage.num_bytes > len(spans[key]):
            refuse(f"storage {quote(key)} of {storage.size} elements is cut off")
    starts = {key: span.start for key, span in spans.items()}
    return _views(data, value, starts, "<" if order == b"little" else ">")


def _span(archive: zipfile.ZipFile, data: mmap.mmap, name: str) -> range:
    """Return where a member's bytes lie in the file, which must hold them as they are."""
    if name not in archive.namelist():
        refuse(f"its member {quote(name)} is missing")
    archive.open(name).close()  # raises if it is encrypted, or its local header is damaged
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        refuse(f"its member {quote(name)} is compressed, which torch never does")
    # Only the local header says where the bytes start: torch pads it to align them.
    at = member.header_offset + 30 + sum(struct.unpack_from("<HH", data, member.header_offset + 26))
    if at + member.file_size > len(data):
        refuse(f"its member {quote(name)} ends beyond the end of the file")
    return range(at, at + member.file_size)


def _read_old(path: Path) -> dict[str, _Array]:
    data = _map(path)
    stream = BytesIO(data[: 2 * PICKLE_BYTES])
    magic, protocol, _system = (load_pickle(stream)[0] for _ in range(3))
    if magic != OLD_MAGIC or protocol != _OLD_PROTOCOL:
        refuse(f"its magic number and protocol are not {OLD_MAGIC:#x} and {_OLD_PROTOCOL}")
    value, storages = load_pickle(stream)
    keys, _ = load_pickle(stream)
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        refuse("its list of storages is not a list of names")
    if sorted(keys) != sorted(storages):
        refuse(f"it lists {len(keys)} storages, which are not the {len(storages)} of its tensors")

    starts, end = {}, stream.tell()
    for key in keys:
        count = int.from_bytes(data[end : end + 8], "little")
        starts[key] = end + 8
        end += 8 + storages[key].num_bytes
        if count != storages[key].size or end > len(data):
            refuse(f"storage {quote(key)} of {storages[key].size} elements is cut off or damaged")
    # The third pickle says the writer's byte order, but torch wrote these values as little-endian
    # on every machine.
    return _views(data, value, starts, "<")


# --- From descriptions to arrays ------------------------------------------------------------------


def _views(data: mmap.mmap, value: Any, starts: dict[str, int], order: str) -> dict[str, _Array]:
    """Return the tensors in `value` as arrays over `data`, storage `key` being at `starts[key]`."""
    if not isinstance(value, dict):
        refuse(f"it must hold a dict of tensors, not {kind(value)}")
    views = {}
    for name, tensor in _tensors(value, "", set()):
        dtype = tensor.storage.dtype
        views[name] = np.ndarray(
            tensor.shape,
            dtype.newbyteorder(order),  # type: ignore[arg-type]
            buffer=data,
            offset=starts[tensor.storage.key] + tensor.offset * dtype.itemsize,
            strides=[stride * dtype.itemsize for stride in tensor.strides],
        )
    if not views:
        refuse("it holds no tensor under a name")
    return views


def _tensors(value: dict[Any, Any], prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Walk the tensors under a text in a dict and in the dicts in it, each dict once."""
    seen.add(id(value))
    for name, entry in value.items():
        if not isinstance(name, str):
            continue
        entry = entry.tensor if isinstance(entry, Parameter) else entry
        if isinstance(entry, Tensor):
            yield prefix + name, entry
        elif isinstance(entry, dict) and id(entry) not in seen and len(prefix + name) < _PREFIX:
            yield from _tensors(entry, f"{prefix}{name}.", seen)
