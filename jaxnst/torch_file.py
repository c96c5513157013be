"""Tensors out of torch files, without torch and without running what the files say.

A torch file is a pickle that describes tensors, and beside it the raw values of their storages. A
pickle is a program for a small stack machine, and Python's own machine calls any function that the
program names. Here the machine is written anew: it knows the few instructions that torch writes,
names mean what a table in this file says, and all that it can build are plain containers and
descriptions of tensors. Each description is checked against the file before NumPy sees it.

What comes out of a file is not trusted to be small or flat either: no step takes more than its
share of time, so nothing is copied, hashed or printed but texts, numbers and bounded tuples.
"""

import math
import mmap
import pickletools
import struct
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import ml_dtypes
import numpy as np

PICKLE_BYTES = 16 * 2**20
"""Longest pickle that is read. A VGG19's takes 5 KB."""
INSTRUCTIONS = 1_000_000
"""Most instructions that a pickle may have; each costs some hundred bytes of memory at most."""
TENSOR_BYTES = 16 * 2**30
"""Largest tensor. The file does not bound it: stride 0 makes any size out of one element."""
DIMENSIONS = 32

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
            _refuse("it is a tar, torch's first format: load and save it with a newer torch")
        _refuse("it starts like neither of torch's formats")
    except _Refusal as refusal:
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
    except (_Refusal, struct.error):
        zipped = False
    return zipped or _starts_like_old_format(data)


def _map(path: str | PathLike[str]) -> _Data:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no torch file {Path(path)}")
    with Path(path).open("rb") as file:
        empty = file.seek(0, 2) == 0  # and cannot be mapped
        return b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Refusal(Exception):
    """What is wrong with a file, in one line without the file's name."""


def _refuse(reason: str) -> NoReturn:
    raise _Refusal(reason)


def _quote(value: str | bytes | int | tuple[int, ...]) -> str:
    """Something out of the file, for a message: on one line, and short."""
    return ascii(value)[:80]


def _kind(value: object) -> str:
    return type(value).__name__.strip("_")


# --- The two formats ------------------------------------------------------------------------------


def _read_zip(data: _Data) -> dict[str, _Array]:
    members = _zip_members(data)
    roots = _zip_roots(members)
    if len(roots) != 1:
        _refuse(f"a torch file's zip has one data.pkl, this one has {len(roots)}")
    root = roots[0]

    start, size = _stored(data, members[root + b"data.pkl"])
    if size > PICKLE_BYTES:
        _refuse(f"its data.pkl has {size} bytes, and more than {PICKLE_BYTES} are not read")
    value, storages = _run(BytesIO(data[start : start + size]))

    order = b"little"  # what torch takes where nothing is said
    if mark := members.get(root + b"byteorder"):
        start, size = _stored(data, mark)
        order = data[start : start + min(size, 8)]
    if order not in (b"little", b"big"):
        _refuse(f"its byte order is {_quote(order)}, neither little nor big")

    starts = {}
    for key, storage in storages.items():
        if not (key.isascii() and key.isdigit()):
            _refuse(f"a storage is called {_quote(key)} instead of by a number")
        member = members.get(root + b"data/" + key.encode())
        if member is None:
            _refuse(f"storage {_quote(key)} is missing")
        starts[key], size = _stored(data, member)
        if storage.nbytes > size:
            _refuse(f"storage {_quote(key)} of {storage.count} elements has only {size} bytes")
    return _views(data, value, starts, "<" if order == b"little" else ">")


def _read_old(data: _Data) -> dict[str, _Array]:
    stream = BytesIO(data[:PICKLE_BYTES])
    magic, protocol, _system = (_run(stream)[0] for _ in range(3))
    if magic != _OLD_MAGIC or protocol != _OLD_PROTOCOL:
        _refuse(f"its magic number and protocol are not {_OLD_MAGIC:#x} and {_OLD_PROTOCOL}")
    value, storages = _run(stream)
    keys, _ = _run(stream)
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        _refuse("its list of storages is no list of names")
    if len(keys) != len(storages) or set(keys) != set(storages):
        _refuse(f"it lists {len(keys)} storages, but not the {len(storages)} of its tensors")

    starts, end = {}, stream.tell()
    for key in keys:
        storage, count = storages[key], int.from_bytes(data[end : end + 8], "little")
        starts[key] = end + 8
        end += 8 + storage.nbytes
        if end > len(data):
            _refuse(f"it is cut off at byte {len(data)}, for storage {_quote(key)} ends at {end}")
        if count != storage.count:
            _refuse(f"storage {_quote(key)} has {count} elements, but {storage.count} were told")
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
        _refuse("the directory of its zip is missing: it is cut off")
    count, size, at = struct.unpack_from("<HII", data, end + 10)
    if at + size > end or size > PICKLE_BYTES:
        _refuse("the directory of its zip is damaged, or that of a zip over 4 GB")
    members = {}
    for _ in range(count):
        mark, flags, method, packed, unpacked, name, extra, comment, header = struct.unpack_from(
            "<4s4xHH8xIIHHH8xI", data, at
        )
        member = _Member(data[at + 46 : at + 46 + name], flags, method, packed, unpacked, header)
        at += 46 + name + extra + comment
        if mark != b"PK\1\2" or at > end or member.name in members:
            _refuse(f"the directory of its zip is damaged at {_quote(member.name)}")
        members[member.name] = member
    return members


def _zip_roots(members: dict[bytes, _Member]) -> list[bytes]:
    """The folders, each with its slash, that hold a data.pkl."""
    parts = [name.partition(b"/") for name in members]
    return [root + slash for root, slash, name in parts if slash and name == b"data.pkl"]


def _stored(data: _Data, member: _Member) -> tuple[int, int]:
    """Start and size of a member's bytes, which have to lie in the file as they are."""
    name = _quote(member.name)
    if member.flags & 1:
        _refuse(f"its member {name} is encrypted")
    if member.method or member.packed != member.size:
        _refuse(f"its member {name} is compressed, as torch does not write it")
    # Only the local header tells where the bytes start: torch pads it to align them.
    at = member.header + 30
    mark, length, extra = struct.unpack_from("<4s22xHH", data, member.header)
    if mark != b"PK\3\4" or data[at : at + length] != member.name:
        _refuse(f"the header of its member {name} is damaged")
    start = at + length + extra
    if start + member.size > len(data):
        _refuse(f"its member {name} ends behind the end of the file")
    return start, member.size


# --- What a pickle may build, beside None, numbers, texts, tuples, lists and dicts ----------------


@dataclass(frozen=True)
class _Storage:
    """A row of values, somewhere in the file under `key`."""

    key: str
    dtype: np.dtype[Any]
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class _Tensor:
    """Elements of a storage; `offset` and `strides` count elements, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(eq=False)
class _Parameter:
    """A tensor that is trained. State dicts of before torch 0.4 and those made by hand have them.

    The former are called with the tensor, or get it by their state. `_views` looks what it is.
    """

    tensor: Any = None
    requires_grad: Any = None
    hooks: Any = None


def _ordered_dict(pairs: Any = None) -> OrderedDict[Any, Any]:
    """An empty one, or one of a list of pairs, as Python 2 wrote it."""
    result: OrderedDict[Any, Any] = OrderedDict()
    if pairs is None:
        return result
    if not isinstance(pairs, list):
        _refuse(f"an OrderedDict is made of a {_kind(pairs)}")
    items = pairs.copy()
    pairs.clear()  # or a short pickle could have one long list copied again and again
    for pair in items:
        if not (isinstance(pair, list) and len(pair) == 2):
            _refuse(f"an OrderedDict is made of a {_kind(pair)} that is no pair")
        _update(result, pair)
    return result


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any = False, _hooks: Any = None
) -> _Tensor:
    """A tensor that lies inside of its storage.

    A seventh argument, which this has not, would say that the values are conjugate or negated.
    """
    if not isinstance(storage, _Storage):
        _refuse(f"a tensor has a {_kind(storage)} for its storage")
    if not (_are_sizes((offset,)) and _are_sizes(shape) and _are_sizes(strides)):
        _refuse("the offset, shape or strides of a tensor are not numbers in a sensible range")
    if len(shape) != len(strides):
        _refuse(f"a tensor of shape {_quote(shape)} has strides {_quote(strides)}")
    count = math.prod(shape)
    if count * storage.dtype.itemsize > TENSOR_BYTES:
        _refuse(f"a tensor of shape {_quote(shape)} has more than {TENSOR_BYTES} bytes")
    if count == 0:  # torch lets the offset of nothing lie anywhere
        return _Tensor(storage, 0, shape, (0,) * len(shape))
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= storage.count:
        _refuse(f"a tensor ends at element {last} of a storage that has {storage.count}")
    return _Tensor(storage, offset, shape, strides)


def _are_sizes(values: object) -> bool:
    """Whether this is a tuple of few integers ≥ 0, of which none is absurd."""
    return (
        isinstance(values, tuple)
        and len(values) <= DIMENSIONS
        and all(type(value) is int and 0 <= value <= TENSOR_BYTES for value in values)
    )


_DTYPES = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Byte": np.uint8,
    "Char": np.int8,
    "Short": np.int16,
    "Int": np.int32,
    "Long": np.int64,
    "Bool": np.bool_,
}
_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _Parameter,
    "torch.nn.parameter.Parameter": _Parameter,
} | {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()}


# --- The stack machine ----------------------------------------------------------------------------

_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


def _run(stream: BytesIO) -> tuple[Any, dict[str, _Storage]]:
    """Run one pickle from the stream: the value that it leaves, and the storages it names."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: dict[str, _Storage] = {}

    def pop(count: int) -> list[Any]:
        """The uppermost values, the last one being the uppermost."""
        if len(stack) < count:
            _refuse("its pickle takes more from the stack than it put there")
        values = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return values

    def pop_to_mark() -> list[Any]:
        return pop(max(0, len(stack) - marks.pop()))

    for _ in range(INSTRUCTIONS):
        at, code = stream.tell(), stream.read(1)
        name = _OPCODES[code].name if code in _OPCODES else f"0x{code.hex()}"
        match name:
            case "PROTO":
                if (protocol := _argument(code, stream)) not in (2, 3, 4, 5):
                    _refuse(f"its pickle has protocol {protocol}, not 2 to 5")
            case "FRAME":
                _argument(code, stream)
            case "STOP":
                return pop(1)[0], storages
            case "MARK":
                marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(_LITERALS[name])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(_argument(code, stream))
            case "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":  # STRING: of Python 2
                stack.append(_argument(code, stream))
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(int(name[-1]))))
            case "APPEND" | "APPENDS":
                values = pop(1) if name == "APPEND" else pop_to_mark()
                if not isinstance(stack[-1], list):
                    _refuse(f"its pickle appends to a {_kind(stack[-1])}")
                stack[-1].extend(values)
            case "SETITEM" | "SETITEMS":
                values = pop(2) if name == "SETITEM" else pop_to_mark()
                _update(stack[-1], values)
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                index = len(memo) if name == "MEMOIZE" else _argument(code, stream)
                if index >= INSTRUCTIONS:
                    _refuse(f"its pickle has a value number {index}, but not so many values")
                memo[index] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[_argument(code, stream)])
            case "GLOBAL":
                stack.append(_find(*_argument(code, stream).split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(_find(*pop(2)))
            case "REDUCE" | "NEWOBJ":  # NEWOBJ: of a class, which for ours is the same
                stack.append(_call(*pop(2)))
            case "BUILD":
                (state,) = pop(1)
                _set_state(stack[-1], state)
            case "BINPERSID":
                storage = _named_storage(pop(1)[0])
                if storages.setdefault(storage.key, storage) != storage:
                    _refuse(f"storage {_quote(storage.key)} has two types or two sizes")
                stack.append(storage)
            case "0x":
                _refuse(f"its pickle has no end: it is cut off at byte {at}")
            case _:  # and its argument, which may take a parser or an age, stays unread
                _refuse(f"its pickle has the instruction {name}, which torch never writes")
    _refuse(f"its pickle has more than {INSTRUCTIONS} instructions")


def _argument(code: bytes, stream: BytesIO) -> Any:
    """An instruction's argument. Lengths are not believed: the stream gives what it has."""
    at, argument = stream.tell(), _OPCODES[code].arg
    assert argument is not None
    try:
        return argument.reader(stream)
    except ValueError:
        _refuse(f"its pickle is damaged or cut off at byte {at}")


def _update(target: object, values: list[Any]) -> None:
    """Put keys and values, one after another, into a dict."""
    if not isinstance(target, dict) or len(values) % 2:
        _refuse(f"its pickle puts {len(values)} keys and values into a {_kind(target)}")
    for key, value in zip(values[::2], values[1::2], strict=True):
        # Hashing a nested tuple can take an age, and so can numbers that all have the same hash.
        if not (isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**60)):
            _refuse(f"a dict has a {_kind(key)} for a key")
        target[key] = value


def _find(module: object, name: object) -> Any:
    if not (isinstance(module, str) and isinstance(name, str)):
        _refuse(f"it asks for a {_kind(name)} in a {_kind(module)}, which no weights need")
    if (found := _GLOBALS.get(f"{module}.{name}")) is None:
        _refuse(f"it asks for {_quote(f'{module}.{name}')[1:-1]}, which no weights need")
    return found


def _call(function: Any, arguments: object) -> Any:
    if not (callable(function) and isinstance(arguments, tuple)):
        _refuse(f"its pickle calls a {_kind(function)} with a {_kind(arguments)}")
    if len(arguments) <= 6:
        try:
            return function(*arguments)
        except TypeError:  # the wrong number of them
            pass
    _refuse(f"its pickle calls {function.__name__.strip('_')} with {len(arguments)} values")


def _set_state(target: object, state: object) -> None:
    """What Python does by `__setstate__`, or by filling `__dict__`."""
    match target, state:
        case OrderedDict(), dict():
            pass  # {"_metadata": the versions of a network's modules}
        case _Parameter(), (tensor, _grad, _hooks, _requires_grad, _volatile):
            target.tensor = tensor
        case _Parameter(), (_requires_grad, _volatile, _hooks):
            pass
        case _:
            _refuse(f"its pickle sets the state of a {_kind(target)}")


def _named_storage(name: object) -> _Storage:
    """The storage of a persistent id."""
    match name:
        case ("storage", np.dtype() as dtype, str(key), str(_location), int(count)):
            pass
        case ("storage", np.dtype() as dtype, str(key), str(_location), int(count), view):
            if view is not None:
                _refuse("a storage is a view of another one, as in torch before 0.4: save it anew")
        case _:
            _refuse("a storage is not named as torch names one")
    if not _are_sizes((count,)) or count * dtype.itemsize > TENSOR_BYTES:
        _refuse(f"storage {_quote(key)} has {_quote(count)} elements")
    return _Storage(key, dtype, count)


# --- From descriptions to arrays ------------------------------------------------------------------


def _views(
    data: _Data, value: object, starts: dict[str, int], order: Literal["<", ">"]
) -> dict[str, _Array]:
    """The tensors in `value` as arrays over `data`, where each storage starts at `starts[key]`."""
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict):
        _refuse(f"it holds a {_kind(value)}, not a dict of tensors")
    views = {}
    for name, entry in value.items():
        tensor = entry.tensor if isinstance(entry, _Parameter) else entry
        if not isinstance(tensor, _Tensor):
            continue
        if not isinstance(name, str):
            _refuse(f"a tensor has the number {_quote(name)} for a name")
        dtype = tensor.storage.dtype
        views[name] = np.ndarray(
            tensor.shape,
            dtype.newbyteorder(order),
            buffer=data,
            offset=starts[tensor.storage.key] + tensor.offset * dtype.itemsize,
            strides=[stride * dtype.itemsize for stride in tensor.strides],
        )
    if not views:
        _refuse("it holds no tensor under a name")
    return views
