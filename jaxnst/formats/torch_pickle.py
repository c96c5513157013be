"""Unpickle the pickles of torch files without running what they say.

Python's own unpickler is given nothing to call but the few names in `_NAMES` ("Restricting
Globals" in the manual of pickle), and builds only plain containers and descriptions of tensors.
What else a pickle could do to the process, such as taking an hour, is found before it runs, by
`_check`.
"""

import math
import pickle
import pickletools
import re
from collections import OrderedDict
from io import BytesIO
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnst.formats.refusal import quote, refuse

PICKLE_BYTES = 2**18
"""The longest pickle that is read. A VGG19's has 5 KB, with an optimiser's state 20 KB."""
TENSOR_BYTES = 2**34
"""The largest tensor. The file is no bound, because stride 0 makes any size of one element."""
OLD_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file in the format before torch 1.6."""


def kind(value: object) -> str:
    """Return the name of a value's type, for a message."""
    return type(value).__name__


class Storage(NamedTuple):
    """A row of values, somewhere in the file under `key`."""

    key: str
    dtype: np.dtype[Any]
    size: int

    @property
    def num_bytes(self) -> int:
        """The length of its values in the file."""
        return self.size * self.dtype.itemsize


class Tensor(NamedTuple):
    """Elements of a storage; `offset` and `strides` count elements, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Parameter:
    """A tensor that is trained. Before torch 0.4 it was also made empty, and the tensor set."""

    tensor: Any

    def __new__(cls, tensor: Any = None, requires_grad: Any = None, hooks: Any = None) -> Any:
        """Keep the tensor; not by `__init__`, which pickle's NEWOBJ does not call."""
        self = super().__new__(cls)
        self.tensor = tensor
        return self

    def __setstate__(self, state: Any) -> None:
        if len(state) == 5:  # tensor, gradient, hooks, requires_grad, volatile
            self.tensor = state[0]


class Ignored:
    """Stands for a value that is no weight, such as the best accuracy so far.

    It ignores what it is made of and what state it is given, so that nothing of it is run or kept.
    """

    def __new__(cls, *_arguments: Any) -> Any:
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, _state: Any) -> None:
        pass


def _default_dict(*_arguments: Any) -> dict[Any, Any]:
    """Return an empty dict, whatever else a missing key would have given."""
    return {}


def _ordered_dict(pairs: Any = None) -> OrderedDict[str, Any]:
    """Return an empty dict, or one of a list of pairs, which is how Python 2 pickled it."""
    result: OrderedDict[str, Any] = OrderedDict()
    for key, value in pairs or ():
        if not isinstance(key, str):
            refuse(f"the keys of an OrderedDict must be str, not {kind(key)}")
        result[key] = value
    if pairs:
        pairs.clear()  # or a short pickle could have one long list copied again and again
    return result


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any = False, _hooks: Any = None
) -> Tensor:
    """Describe a tensor, after checking that it lies within its storage.

    A seventh argument, which raises TypeError here, would say that the values are conjugate or
    negated.
    """
    if not isinstance(storage, Storage):
        refuse(f"the storage of a tensor must be a Storage, not {kind(storage)}")
    if not (_are_sizes((offset,)) and _are_sizes(shape) and _are_sizes(strides)):
        refuse("the offset, shape or strides of a tensor are not integers in a sensible range")
    if len(shape) != len(strides):
        refuse(f"a tensor of shape {quote(shape)} has strides {quote(strides)}")
    count = math.prod(shape)
    if count * storage.dtype.itemsize > TENSOR_BYTES:
        refuse(f"a tensor of shape {quote(shape)} has more than {TENSOR_BYTES} bytes")
    if count == 0:  # torch lets the offset of an empty tensor lie anywhere
        return Tensor(storage, 0, shape, (0,) * len(shape))
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= storage.size:
        refuse(f"a tensor ends at element {last} of a storage that has {storage.size}")
    return Tensor(storage, offset, shape, strides)


def _are_sizes(values: object) -> bool:
    """Return whether `values` is a tuple of at most 32 integers from 0 to `TENSOR_BYTES`."""
    return (
        isinstance(values, tuple)
        and len(values) <= 32
        and all(type(value) is int and 0 <= value <= TENSOR_BYTES for value in values)
    )


_DTYPES = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        **{"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": jnp.bfloat16, "Bool": "?"},
        **{"Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8"},
    }.items()
}
# A storage's class stands for itself as a text: a pickle could change the state of a real dtype.
_NAMES: dict[str, Any] = {name: name for name in _DTYPES} | {
    "collections.defaultdict": _default_dict,
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": Parameter,
    "torch.nn.parameter.Parameter": Parameter,
}
# What stands in checkpoints of training beside weights, by its names in all versions.
_IGNORED = {
    "_codecs": "encode",  # the bytes of a NumPy scalar in protocol 2
    "argparse": "Namespace",
    "numpy": "dtype ndarray",
    **dict.fromkeys(
        ("pathlib", "pathlib._local"),
        "Path PosixPath WindowsPath PurePosixPath PureWindowsPath",
    ),
    "torch": "Size device float16 bfloat16 float32 float64",
    **dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), "scalar _reconstruct"),
    **dict.fromkeys(("__builtin__", "builtins"), "bool dict float int list long set str"),
}
_NAMES |= {f"{module}.{name}": Ignored for module in _IGNORED for name in _IGNORED[module].split()}


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BytesIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _NAMES:
            refuse(f"it asks for {quote(full)}, which no weights need")
        return _NAMES[full]

    def persistent_load(self, name: Any) -> Storage:
        match name:
            case ("storage", str(dtype), str(key), str(), int(count), *view) if dtype in _DTYPES:
                pass
            case _:
                refuse("a storage is not named as torch names one")
        if view not in ([], [None]):
            refuse("a storage is a view of another, as in torch before 0.4; save it again")
        if not _are_sizes((count,)):
            refuse(f"storage {quote(key)} has {quote(count)} elements")
        storage = Storage(key, _DTYPES[dtype], count)
        if self.storages.setdefault(key, storage) != storage:
            refuse(f"storage {quote(key)} has two types or two sizes")
        return storage


# The instructions that torch writes (BINSTRING with Python 2, BINBYTES with protocol 4), by their
# names in pickletools.
_INSTRUCTIONS = re.compile(
    "PROTO|FRAME|STOP|MARK|NONE|NEWTRUE|NEWFALSE|BININT[12]?|LONG1|BINFLOAT|BINPERSID|"
    "(SHORT_)?BIN(UNICODE|STRING|BYTES)|(EMPTY_)?TUPLE[123]?|EMPTY_(LIST|DICT)|APPENDS?|SETITEMS?|"
    "(LONG_)?BIN(PUT|GET)|MEMOIZE|(STACK_)?GLOBAL|REDUCE|NEWOBJ|BUILD"
)


def _check(stream: BytesIO) -> None:
    """Refuse a pickle that could do harm when it runs, and leave the stream where it was.

    A pickle that calls nothing harmful can still use a nested tuple as the key of a dict, whose
    hash takes for ever or overflows the C stack, reserve gigabytes by one index into the memo, and
    set attributes of the functions in `_NAMES`. So its instructions are followed without being
    run: pickletools knows what each takes off the stack and puts there. Only the kind of each
    value is kept: "a tuple", "a name" (a value of `_NAMES`) or "an object" (anything else).
    """
    begin = stream.tell()
    stack: list[str] = []
    marks: list[int] = []
    memo: dict[int, str] = {}
    argument: Any
    for instruction, argument, _ in pickletools.genops(stream):
        name = instruction.name
        if not _INSTRUCTIONS.fullmatch(name):
            refuse(f"its pickle has the instruction {name}, which torch never writes")
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if argument is None else argument
            if index > PICKLE_BYTES:
                refuse(f"its pickle has a value number {index}, but not as many values")
            memo[index] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        else:
            count = len(instruction.stack_before)
            if pickletools.markobject in instruction.stack_before:  # and all that lies above it
                count += len(stack) - marks.pop() - 2
            first = len(stack) - count
            if first < 0:
                refuse("its pickle takes more from the stack than it put there")
            taken = stack[first:]
            del stack[first:]
            if name.startswith("SETITEM") and "a tuple" in taken[1::2]:
                refuse("the keys of a dict must not be tuples")
            if name in ("REDUCE", "NEWOBJ") and taken != ["a name", "a tuple"]:
                refuse(f"its pickle calls {taken[0]} with {taken[1]}")
            if name == "BUILD" and taken[0] != "an object":
                refuse(f"its pickle sets the state of {taken[0]}")
            if name == "LONG1" and argument.bit_length() > 64 and argument != OLD_MAGIC:
                refuse(f"its pickle has the number {quote(argument)}")  # hashes can collide
            made = "a tuple" if "TUPLE" in name else "a name" if "GLOBAL" in name else "an object"
            stack += [made] * len(instruction.stack_after)
    stream.seek(begin)


def load_pickle(stream: BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Run the next pickle of a stream: return its value, and the storages that it names."""
    _check(stream)
    unpickler = _Unpickler(stream)
    return unpickler.load(), unpickler.storages
