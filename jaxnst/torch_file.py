"""Tensors out of torch files, without torch and without running what the files say.

A torch file is a pickle that describes tensors (see `torch_pickle`), and beside it the raw values
of their storages. Each description is checked against the file before NumPy sees it.
"""

import mmap
import struct
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxnst.torch_pickle import Parameter, Refusal, Tensor, kind, quote, refuse, run_pickle

PICKLE_BYTES = 16 * 2**20
"""Longest pickle that is read. A VGG19's takes 5 KB."""

_OLD_MAGIC = 0x1950A86A20F9469CFC6C
_OLD_PROTOCOL = 1001

_Data = mmap.mmap | bytes
_Array = np.ndarray[Any, Any]


def read_tensors(path: str | PathLike[str]) -> dict[str, _Array]:
    """The tensors of a state dict in a torch file, as read-only views of the file.

    Both of torch's formats are read: the zip (torch 1.6 and later) and the five pickles before
    it. The file is mapped into memory, so values are read from disk when they are used, and the
    mapping lives as long as the views. The file must not be changed in that time.

    Args:
        path: what `torch.save` made of a dict of tensors, or of a dict that has such a dict under
            "state_dict". Entries that are no tensors are ignored.

    Returns:
        Name -> array of the tensor's shape, in the file's order. The dtype has the file's byte
        order, and the memory need be neither contiguous nor aligned.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or asks for anything but tensors in plain containers.
    """
    data = _map(path)
    try:
        if data[:4] == b"PK\3\4":
            return _read_zip(data)
        if _starts_like_old_format(data):
            return _read_old(data)
        if data[257:262] == b"ustar":
            refuse("it is a tar, torch's first format: load and save it with a newer torch")
        refuse("it starts like neither of torch's formats")
    except Refusal as refusal:
        raise ValueError(f"{Path(path)} is refused: {refusal}") from None
    except Exception as error:  # an index, a count or a header that damage has made senseless
        raise ValueError(f"{Path(path)} is damaged ({type(error).__name__})") from error


def is_torch_file(path: str | PathLike[str]) -> bool:
    """Whether the file is in one of torch's two formats, by its content.

    Raises:
        FileNotFoundError: there is no such file.
    """
    data = _map(path)
    try:
        zipped = data[:4] == b"PK\3\4" and bool(_zip_roots(_zip_members(data)))
    except (Refusal, struct.error):
        zipped = False
    return zipped or _starts_like_old_format(data)


def _map(path: str | PathLike[str]) -> _Data:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no torch file {Path(path)}")
    with Path(path).open("rb") as file:
        empty = file.seek(0, 2) == 0  # and cannot be mapped
        return b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


# --- The two formats ------------------------------------------------------------------------------


def _read_zip(data: _Data) -> dict[str, _Array]:
    members = _zip_members(data)
    roots = _zip_roots(members)
    if len(roots) != 1:
        refuse(f"a torch file's zip has one data.pkl, this one has {len(roots)}")
    root = roots[0]

    start, size = _stored(data, members[root + b"data.pkl"])
    if size > PICKLE_BYTES:
        refuse(f"its data.pkl has {size} bytes, and more than {PICKLE_BYTES} are not read")
    value, storages = run_pickle(BytesIO(data[start : start + size]))

    order = b"little"  # what torch takes where nothing is said
    if mark := members.get(root + b"byteorder"):
        start, size = _stored(data, mark)
        order = data[start : start + min(size, 8)]
    if order not in (b"little", b"big"):
        refuse(f"its byte order is {quote(order)}, neither little nor big")

    starts = {}
    for key, storage in storages.items():
        if not (key.isascii() and key.isdigit()):
            refuse(f"a storage is called {quote(key)} instead of by a number")
        member = members.get(root + b"data/" + key.encode())
        if member is None:
            refuse(f"storage {quote(key)} is missing")
        starts[key], size = _stored(data, member)
        if storage.nbytes > size:
            refuse(f"storage {quote(key)} of {storage.count} elements has only {size} bytes")
    return _views(data, value, starts, "<" if order == b"little" else ">")


def _read_old(data: _Data) -> dict[str, _Array]:
    stream = BytesIO(data[:PICKLE_BYTES])
    magic, protocol, _system = (run_pickle(stream)[0] for _ in range(3))
    if magic != _OLD_MAGIC or protocol != _OLD_PROTOCOL:
        refuse(f"its magic number and protocol are not {_OLD_MAGIC:#x} and {_OLD_PROTOCOL}")
    value, storages = run_pickle(stream)
    keys, _ = run_pickle(stream)
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        refuse("its list of storages is no list of names")
    if len(keys) != len(storages) or set(keys) != set(storages):
        refuse(f"it lists {len(keys)} storages, but not the {len(storages)} of its tensors")

    starts, end = {}, stream.tell()
    for key in keys:
        storage, count = storages[key], int.from_bytes(data[end : end + 8], "little")
        starts[key] = end + 8
        end += 8 + storage.nbytes
        if end > len(data):
            refuse(f"it is cut off at byte {len(data)}, for storage {quote(key)} ends at {end}")
        if count != storage.count:
            refuse(f"storage {quote(key)} has {count} elements, but {storage.count} were told")
    # The system info has the writer's byte order, but means nothing here: torch wrote these values
    # as little-endian on every machine.
    return _views(data, value, starts, "<")


def _starts_like_old_format(data: _Data) -> bool:
    return data[:1] == b"\x80" and _OLD_MAGIC.to_bytes(10, "little") + b"." in data[:32]


class _Member(NamedTuple):
    """A line of a zip's directory."""

    name: bytes
    flags: int
    method: int
    packed: int
    size: int
    header: int  #: where its local header starts


def _zip_members(data: _Data) -> dict[bytes, _Member]:
    """The zip's directory. `zipfile` takes one of any size, and does not tell where data starts."""
    end = data.rfind(b"PK\5\6", max(0, len(data) - 2**16 - 22))
    if end < 0 or end + 22 > len(data):
        refuse("the directory of its zip is missing: it is cut off")
    count, size, at = struct.unpack_from("<HII", data, end + 10)
    if at + size > end or size > PICKLE_BYTES:
        refuse("the directory of its zip is damaged, or that of a zip over 4 GB")
    members = {}
    for _ in range(count):
        mark, flags, method, packed, unpacked, name, extra, comment, header = struct.unpack_from(
            "<4s4xHH8xIIHHH8xI", data, at
        )
        member = _Member(data[at + 46 : at + 46 + name], flags, method, packed, unpacked, header)
        at += 46 + name + extra + comment
        if mark != b"PK\1\2" or at > end or member.name in members:
            refuse(f"the directory of its zip is damaged at {quote(member.name)}")
        members[member.name] = member
    return members


def _zip_roots(members: dict[bytes, _Member]) -> list[bytes]:
    """The folders, each with its slash, that hold a data.pkl."""
    parts = [name.partition(b"/") for name in members]
    return [root + slash for root, slash, name in parts if slash and name == b"data.pkl"]


def _stored(data: _Data, member: _Member) -> tuple[int, int]:
    """Start and size of a member's bytes, which have to lie in the file as they are."""
    name = quote(member.name)
    if member.flags & 1:
        refuse(f"its member {name} is encrypted")
    if member.method or member.packed != member.size:
        refuse(f"its member {name} is compressed, as torch does not write it")
    # Only the local header tells where the bytes start: torch pads it to align them.
    at = member.header + 30
    mark, length, extra = struct.unpack_from("<4s22xHH", data, member.header)
    if mark != b"PK\3\4" or data[at : at + length] != member.name:
        refuse(f"the header of its member {name} is damaged")
    start = at + length + extra
    if start + member.size > len(data):
        refuse(f"its member {name} ends behind the end of the file")
    return start, member.size


# --- From descriptions to arrays ------------------------------------------------------------------


def _views(
    data: _Data, value: object, starts: dict[str, int], order: Literal["<", ">"]
) -> dict[str, _Array]:
    """The tensors in `value` as arrays over `data`, where each storage starts at `starts[key]`."""
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict):
        refuse(f"it holds a {kind(value)}, not a dict of tensors")
    views = {}
    for name, entry in value.items():
        tensor = entry.tensor if isinstance(entry, Parameter) else entry
        if not isinstance(tensor, Tensor):
            continue
        if not isinstance(name, str):
            refuse(f"a tensor has the number {quote(name)} for a name")
        dtype = tensor.storage.dtype
        views[name] = np.ndarray(
            tensor.shape,
            dtype.newbyteorder(order),
            buffer=data,
            offset=starts[tensor.storage.key] + tensor.offset * dtype.itemsize,
            strides=[stride * dtype.itemsize for stride in tensor.strides],
        )
    if not views:
        refuse("it holds no tensor under a name")
    return views
