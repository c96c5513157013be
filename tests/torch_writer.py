"""Torch files without torch: an independent writer of both formats, for tests of what reads them.

`write_zip` and `write_old` write what `torch.save` would, instruction by instruction. The parts
below them (`Pickle`, `zip_bytes`, `old_bytes`) also write what torch never would.
"""

import struct
import sys
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np

OLD_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "float16": "HalfStorage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "bfloat16": "BFloat16Storage",
    "uint8": "ByteStorage",
    "int8": "CharStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}


class Zeros:
    """A storage of zeros, which the file system need not keep."""

    def __init__(self, count, dtype=np.float32):
        self.size, self.dtype = count, np.dtype(dtype)
        self.nbytes = count * self.dtype.itemsize


class Tensor(NamedTuple):
    """Elements of a storage (a flat array or `Zeros`); strides and offset count elements."""

    storage: np.ndarray | Zeros
    shape: tuple
    strides: tuple | None = None  #: None: one after another
    offset: int = 0


class Parameter(NamedTuple):
    """A `torch.nn.Parameter`."""

    tensor: object
    requires_grad: bool = True


class Global(NamedTuple):
    """A name that is looked up in a module."""

    module: str
    name: str


class Call(NamedTuple):
    """What a function returns, by REDUCE or NEWOBJ; then BUILD with the state, if there is one."""

    function: object
    arguments: object
    state: object = None
    instruction: bytes = b"R"


class Persistent(NamedTuple):
    """A persistent id."""

    name: object


class Raw(NamedTuple):
    """Instructions as they are."""

    code: bytes


class Pickle:
    """Pickles values as Python's own pickler does, down to what it memoises and when."""

    def __init__(self, protocol=2, tensor=None):
        self.protocol, self.tensor = protocol, tensor
        self.code = bytearray()
        self.memo = {}  # what is kept -> (its number, a reference that keeps its id from reuse)

    def dumps(self, value, end=b"."):
        self.save(value)
        code = bytes(self.code) + end
        if self.protocol >= 4 and len(code) >= 4:
            code = b"\x95" + struct.pack("<Q", len(code)) + code
        return bytes([0x80, self.protocol]) + code

    def save(self, value):
        key = ("global", *value) if isinstance(value, Global) else id(value)
        if key in self.memo:
            index = self.memo[key][0]
            self.code += b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)
            return
        match value:
            case None | bool():
                self.code += {None: b"N", True: b"\x88", False: b"\x89"}[value]
            case int():
                self.code += _integer(value)
            case float():
                self.code += b"G" + struct.pack(">d", value)
            case str():
                self._text(value)
                self._memoise(key, value)
            case Raw():
                self.code += value.code
            case Global():
                self._global(value)
                self._memoise(key, value)
            case Call():
                self.save(value.function)
                self.save(value.arguments)
                self.code += value.instruction
                self._memoise(key, value)
                self._state(value.state)
            case Persistent():
                self.save(value.name)
                self.code += b"Q"
            case np.ndarray() | Tensor():
                self.save(self.tensor(value))
            case Parameter():
                rebuild = Global("torch._utils", "_rebuild_parameter")
                self.save(Call(rebuild, (value.tensor, value.requires_grad, OrderedDict())))
            case tuple():
                self._tuple(value)
            case list():
                self.code += b"]"
                self._memoise(key, value)
                self._batches([(item,) for item in value], b"a", b"e")
            case OrderedDict():
                self.save(Global("collections", "OrderedDict"))
                self.code += b")R"
                self._memoise(key, value)
                self._batches(list(value.items()), b"s", b"u")
                self._state(vars(value) or None)
            case dict():
                self.code += b"}"
                self._memoise(key, value)
                self._batches(list(value.items()), b"s", b"u")
            case _:
                raise TypeError(f"cannot pickle {value!r}")

    def _memoise(self, key, value):
        index = len(self.memo)
        self.memo[key] = index, value
        if self.protocol >= 4:
            self.code += b"\x94"
        else:
            self.code += b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index)

    def _text(self, value):
        data = value.encode()
        if self.protocol >= 4 and len(data) < 256:
            self.code += b"\x8c" + bytes([len(data)]) + data
        else:
            self.code += b"X" + struct.pack("<I", len(data)) + data

    def _global(self, value):
        if self.protocol >= 4:
            # The names of modules are interned, so a second one is the first one.
            self.save(sys.intern(value.module))
            self.save(sys.intern(value.name))
            self.code += b"\x93"
        else:
            self.code += f"c{value.module}\n{value.name}\n".encode()

    def _tuple(self, value):
        if not value:
            self.code += b")"
            return
        if len(value) > 3:
            self.code += b"("
        for item in value:
            self.save(item)
        self.code += b"\x85\x86\x87"[len(value) - 1 :][:1] if len(value) <= 3 else b"t"
        self._memoise(id(value), value)

    def _batches(self, items, single, several):
        for start in range(0, len(items), 1000):
            batch = items[start : start + 1000]
            self.code += b"(" if len(batch) > 1 else b""
            for values in batch:
                for value in values:
                    self.save(value)
            self.code += several if len(batch) > 1 else single

    def _state(self, state):
        if state is not None:
            self.save(state)
            self.code += b"b"


def _integer(value):
    if 0 <= value < 2**8:
        return b"K" + bytes([value])
    if 0 <= value < 2**16:
        return b"M" + struct.pack("<H", value)
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


class Storages:
    """Hands out the keys of storages, in both formats, and describes tensors by them."""

    def __init__(self, old, rebuild="_rebuild_tensor_v2"):
        self.old, self.rebuild = old, rebuild
        self.found = {}  # id of a storage -> (its key, the storage)

    def describe(self, value):
        """The call that makes a tensor of an array or a `Tensor`."""
        if not isinstance(value, Tensor):
            value = Tensor(value.reshape(-1), value.shape)
        storage = value.storage
        if self.old:
            # An address as text, and a new text each time.
            number = str(94_000_000_000_000 + 64 * len(self.found))
            key = str(int(self.found.setdefault(id(storage), (number, storage))[0]))
        else:
            key = self.found.setdefault(id(storage), (str(len(self.found)), storage))[0]
        kind = Global("torch", STORAGES[storage.dtype.name])
        name = ("storage", kind, key, "cpu", storage.size, *([None] if self.old else []))
        strides = contiguous(value.shape) if value.strides is None else value.strides
        # New tuples each time, as torch makes them: the same one again would not be written again.
        arguments = (Persistent(name), value.offset, (*value.shape,), (*strides,))
        if self.rebuild == "_rebuild_tensor_v2":
            arguments += (False, OrderedDict())
        return Call(Global("torch._utils", self.rebuild), arguments)

    def items(self):
        return list(self.found.values())


def contiguous(shape):
    """Strides in elements."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(size, 1))
    return tuple(strides) if shape else ()


def write_zip(path, tensors, *, protocol=2, rebuild="_rebuild_tensor_v2", byteorder="little"):
    """Write `tensors` in the format of torch 1.6 and later.

    `tensors` is a dict name -> array, `Tensor` or `Parameter`, or anything around such dicts. An
    OrderedDict may have a `_metadata`, as a module's state dict has.
    """
    storages = Storages(old=False, rebuild=rebuild)
    code = Pickle(protocol, storages.describe).dumps(tensors)
    members = {"data.pkl": code}
    if byteorder is not None:
        members["byteorder"] = byteorder.encode()
    for key, storage in storages.items():
        members[f"data/{key}"] = in_order(storage, byteorder or "little")
    members["version"] = b"3\n"
    write_members(path, {f"{Path(path).stem}/{name}": data for name, data in members.items()})


def write_old(path, tensors, *, protocol=2, rebuild="_rebuild_tensor_v2", little_endian=True):
    """Write `tensors` in the format before torch 1.6; `little_endian` is what the file says."""
    storages = Storages(old=True, rebuild=rebuild)
    code = Pickle(protocol, storages.describe).dumps(tensors)
    write_old_parts(path, code, storages.items(), protocol=protocol, little_endian=little_endian)


def in_order(storage, byteorder):
    if isinstance(storage, Zeros):
        return storage
    dtype = storage.dtype.newbyteorder("<" if byteorder == "little" else ">")
    return np.ascontiguousarray(storage).astype(dtype)


def write_members(path, members, *, method=0, flags=0, align=64):
    """Write a zip of name -> bytes, array or `Zeros`, where arrays start at multiples of `align`.

    `method` and `flags` are what the headers say of each member.
    """
    directory = b""
    with Path(path).open("wb") as file:
        for name, data in members.items():
            at, name = file.tell(), name.encode()
            padding = -(at + 30 + len(name) + 4) % align
            extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            size = len(data) if isinstance(data, bytes) else data.nbytes
            common = struct.pack("<HHHHIII", flags, method, 0, 33, _crc(data), size, size)
            file.write(b"PK\3\4" + struct.pack("<H", 20) + common)
            file.write(struct.pack("<HH", len(name), len(extra)) + name + extra)
            _write(file, data)
            directory += b"PK\1\2" + struct.pack("<HH", 20, 20) + common
            directory += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, at) + name
        start = file.tell()
        end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), start, 0)
        file.write(directory + b"PK\5\6" + end)


def write_old_parts(
    path,
    code,
    storages,
    *,
    protocol=2,
    little_endian=True,
    magic=OLD_MAGIC,
    version=1001,
    keys=None,
    counts=None,
):
    """Write the five pickles, `code` being the fourth, and the (key, storage) pairs behind them.

    `keys` and `counts` are what the file says instead of the truth.
    """
    storages = sorted(storages, key=lambda pair: pair[0])
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": sizes}
    with Path(path).open("wb") as file:
        for value in (magic, version, system):
            file.write(Pickle(protocol).dumps(value))
        file.write(code)
        names = [key for key, _ in storages] if keys is None else keys
        file.write(Pickle(protocol).dumps(names))
        for (_, storage), count in zip(storages, counts or [None] * len(storages), strict=True):
            file.write(struct.pack("<q", storage.size if count is None else count))
            _write(file, in_order(storage, "little"))


def _write(file, data):
    if isinstance(data, Zeros):
        if data.nbytes:
            file.seek(data.nbytes - 1, 1)  # leaves a hole
            file.write(b"\0")
    else:
        file.write(data if isinstance(data, bytes) else data.tobytes())


def _crc(data):
    if not isinstance(data, Zeros):
        return zlib.crc32(data if isinstance(data, bytes) else data.tobytes())
    crc, chunk = 0, bytes(2**20)
    for start in range(0, data.nbytes, len(chunk)):
        crc = zlib.crc32(chunk[: data.nbytes - start], crc)
    return crc
