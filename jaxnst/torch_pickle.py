"""The pickles of torch files, run without running anything that they say.

A pickle is a program for a small stack machine, and Python's own machine calls any function that
the program names. Here the machine is written anew: it knows the few instructions that torch
writes, names mean what a table in this file says, and all that it can build are plain containers
and descriptions of tensors.

What comes out of a file is not trusted to be small or flat either: no step takes more than its
share of time, so nothing is copied, hashed or printed but texts, numbers and bounded tuples.
"""

import math
import pickletools
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

INSTRUCTIONS = 1_000_000
"""Most instructions that a pickle may have; each costs some hundred bytes of memory at most."""
TENSOR_BYTES = 16 * 2**30
"""Largest tensor. The file does not bound it: stride 0 makes any size out of one element."""
DIMENSIONS = 32


class Refusal(Exception):
    """What is wrong with a file, in one line without the file's name."""


def refuse(reason: str) -> NoReturn:
    """Give up on a file."""
    raise Refusal(reason)


def quote(value: str | bytes | int | tuple[int, ...]) -> str:
    """Something out of the file, for a message: on one line, and short."""
    return ascii(value)[:80]


def kind(value: object) -> str:
    """What something out of the file is, for a message."""
    return type(value).__name__.strip("_")


# --- What a pickle may build, beside None, numbers, texts, tuples, lists and dicts ----------------


@dataclass(frozen=True)
class Storage:
    """A row of values, somewhere in the file under `key`."""

    key: str
    dtype: np.dtype[Any]
    count: int

    @property
    def nbytes(self) -> int:
        """What its values take in the file."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Tensor:
    """Elements of a storage; `offset` and `strides` count elements, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(eq=False)
class Parameter:
    """A tensor that is trained. State dicts of before torch 0.4 and those made by hand have them.

    The former are called with the tensor, or get it by their state. Whether it is one is for
    `torch_file` to look.
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
        refuse(f"an OrderedDict is made of a {kind(pairs)}")
    items = pairs.copy()
    pairs.clear()  # or a short pickle could have one long list copied again and again
    for pair in items:
        if not (isinstance(pair, list) and len(pair) == 2):
            refuse(f"an OrderedDict is made of a {kind(pair)} that is no pair")
        _update(result, pair)
    return result


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any = False, _hooks: Any = None
) -> Tensor:
    """A tensor that lies inside of its storage.

    A seventh argument, which this has not, would say that the values are conjugate or negated.
    """
    if not isinstance(storage, Storage):
        refuse(f"a tensor has a {kind(storage)} for its storage")
    if not (_are_sizes((offset,)) and _are_sizes(shape) and _are_sizes(strides)):
        refuse("the offset, shape or strides of a tensor are not numbers in a sensible range")
    if len(shape) != len(strides):
        refuse(f"a tensor of shape {quote(shape)} has strides {quote(strides)}")
    count = math.prod(shape)
    if count * storage.dtype.itemsize > TENSOR_BYTES:
        refuse(f"a tensor of shape {quote(shape)} has more than {TENSOR_BYTES} bytes")
    if count == 0:  # torch lets the offset of nothing lie anywhere
        return Tensor(storage, 0, shape, (0,) * len(shape))
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= storage.count:
        refuse(f"a tensor ends at element {last} of a storage that has {storage.count}")
    return Tensor(storage, offset, shape, strides)


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
    "torch._utils._rebuild_parameter": Parameter,
    "torch.nn.parameter.Parameter": Parameter,
} | {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()}


# --- The stack machine ----------------------------------------------------------------------------

_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


def run_pickle(stream: BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Run one pickle from the stream: the value that it leaves, and the storages it names."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}

    def pop(count: int) -> list[Any]:
        """The uppermost values, the last one being the uppermost."""
        if len(stack) < count:
            refuse("its pickle takes more from the stack than it put there")
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
                    refuse(f"its pickle has protocol {protocol}, not 2 to 5")
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
                    refuse(f"its pickle appends to a {kind(stack[-1])}")
                stack[-1].extend(values)
            case "SETITEM" | "SETITEMS":
                values = pop(2) if name == "SETITEM" else pop_to_mark()
                _update(stack[-1], values)
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                index = len(memo) if name == "MEMOIZE" else _argument(code, stream)
                if index >= INSTRUCTIONS:
                    refuse(f"its pickle has a value number {index}, but not so many values")
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
                    refuse(f"storage {quote(storage.key)} has two types or two sizes")
                stack.append(storage)
            case "0x":
                refuse(f"its pickle has no end: it is cut off at byte {at}")
            case _:  # and its argument, which may take a parser or an age, stays unread
                refuse(f"its pickle has the instruction {name}, which torch never writes")
    refuse(f"its pickle has more than {INSTRUCTIONS} instructions")


def _argument(code: bytes, stream: BytesIO) -> Any:
    """An instruction's argument. Lengths are not believed: the stream gives what it has."""
    at, argument = stream.tell(), _OPCODES[code].arg
    assert argument is not None
    try:
        return argument.reader(stream)
    except ValueError:
        refuse(f"its pickle is damaged or cut off at byte {at}")


def _update(target: object, values: list[Any]) -> None:
    """Put keys and values, one after another, into a dict."""
    if not isinstance(target, dict) or len(values) % 2:
        refuse(f"its pickle puts {len(values)} keys and values into a {kind(target)}")
    for key, value in zip(values[::2], values[1::2], strict=True):
        # Hashing a nested tuple can take an age, and so can numbers that all have the same hash.
        if not (isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**60)):
            refuse(f"a dict has a {kind(key)} for a key")
        target[key] = value


def _find(module: object, name: object) -> Any:
    if not (isinstance(module, str) and isinstance(name, str)):
        refuse(f"it asks for a {kind(name)} in a {kind(module)}, which no weights need")
    if (found := _GLOBALS.get(f"{module}.{name}")) is None:
        refuse(f"it asks for {quote(f'{module}.{name}')[1:-1]}, which no weights need")
    return found


def _call(function: Any, arguments: object) -> Any:
    if not (callable(function) and isinstance(arguments, tuple)):
        refuse(f"its pickle calls a {kind(function)} with a {kind(arguments)}")
    if len(arguments) <= 6:
        try:
            return function(*arguments)
        except TypeError:  # the wrong number of them
            pass
    refuse(f"its pickle calls {function.__name__.strip('_')} with {len(arguments)} values")


def _set_state(target: object, state: object) -> None:
    """What Python does by `__setstate__`, or by filling `__dict__`."""
    match target, state:
        case OrderedDict(), dict():
            pass  # {"_metadata": the versions of a network's modules}
        case Parameter(), (tensor, _grad, _hooks, _requires_grad, _volatile):
            target.tensor = tensor
        case Parameter(), (_requires_grad, _volatile, _hooks):
            pass
        case _:
            refuse(f"its pickle sets the state of a {kind(target)}")


def _named_storage(name: object) -> Storage:
    """The storage of a persistent id."""
    match name:
        case ("storage", np.dtype() as dtype, str(key), str(_location), int(count)):
            pass
        case ("storage", np.dtype() as dtype, str(key), str(_location), int(count), view):
            if view is not None:
                refuse("a storage is a view of another one, as in torch before 0.4: save it anew")
        case _:
            refuse("a storage is not named as torch names one")
    if not _are_sizes((count,)) or count * dtype.itemsize > TENSOR_BYTES:
        refuse(f"storage {quote(key)} has {quote(count)} elements")
    return Storage(key, dtype, count)
