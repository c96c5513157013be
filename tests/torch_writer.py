"""Write torch files without torch, well-formed and hostile, and check what their reader does.

`write_zip` and `write_old` write files that torch reads too (see test_real_torch.py);
`write_members` and `write_old_parts` also write what torch never would.
"""

import re
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnst import load_params
from jaxnst.formats.refusal import refusing
from jaxnst.formats.torch_file import read_tensors
from jaxnst.vgg import CONV_SHAPES

OLD_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    **{"float16": "Half", "float32": "Float", "float64": "Double", "bfloat16": "BFloat16"},
    **{"uint8": "Byte", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long"},
    "bool": "Bool",
}


class Zeros:
    """A storage of zeros, which the file system need not keep."""

    def __init__(self, size, dtype=np.float32):
        self.size, self.dtype = size, np.dtype(dtype)
        self.nbytes = size * self.dtype.itemsize


class Tensor(NamedTuple):
    """Elements of a storage (a flat array or `Zeros`); strides and offset count elements."""

    storage: np.ndarray | Zeros
    shape: tuple
    strides: tuple | None = None  #: None: contiguous
    offset: int = 0


class Global(NamedTuple):
    """A name that is looked up in a module."""

    module: str
    name: str


class Call(NamedTuple):
    """The value of a call, by REDUCE or NEWOBJ; then BUILD with the state, if there is one."""

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


ORDERED_DICT, PARAMETER = (
    Global("collections", "OrderedDict"),
    Global("torch.nn.parameter", "Parameter"),
)


class Pickle:
    """Pickle values by protocol 2 without a memo, and number the storages of tensors."""

    def __init__(self, old=False, rebuild="_rebuild_tensor_v2"):
        self.old, self.rebuild = old, rebuild
        self.storages = {}  # id -> (key, storage), which keeps the id from being used again

    def dumps(self, value):
        return b"\x80\x02" + self.save(value) + b"."

    def save(self, value):
        match value:
            case None | bool():
                return {None: b"N", True: b"\x88", False: b"\x89"}[value]
            case int():
                data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
                return b"\x8a" + bytes([len(data)]) + data
            case float():
                return b"G" + struct.pack(">d", value)
            case str():
                return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
            case Raw():
                return value.code
            case Global():
                return f"c{value.module}\n{value.name}\n".encode()
            case Call():
                state = b"" if value.state is None else self.save(value.state) + b"b"
                arguments = self.save(value.arguments)
                return self.save(value.function) + arguments + value.instruction + state
            case Persistent():
                return self.save(value.name) + b"Q"
            case np.ndarray():
                return self.save(Tensor(value.reshape(-1), value.shape))
            case Tensor():
                return self.save(self.describe(value))
            case tuple():
                return b"(" + b"".join(map(self.save, value)) + b"t"
            case list():
                return b"](" + b"".join(map(self.save, value)) + b"e"
            case dict():
                empty = self.save(Call(ORDERED_DICT, ())) if type(value) is OrderedDict else b"}"
                pairs = (self.save(x) for pair in value.items() for x in pair)
                return empty + b"(" + b"".join(pairs) + b"u"
        raise TypeError(f"cannot pickle {value!r}")

    def describe(self, tensor):
        """Return the call that makes a tensor."""
        storage, strides = tensor.storage, tensor.strides
        key, _ = self.storages.setdefault(id(storage), (str(len(self.storages)), storage))
        if strides is None:
            strides = [int(np.prod(tensor.shape[i + 1 :])) for i in range(len(tensor.shape))]
        kind = Global("torch", STORAGES[storage.dtype.name] + "Storage")
        name = ("storage", kind, key, "cpu", storage.size) + (None,) * self.old
        arguments = (Persistent(name), tensor.offset, tuple(tensor.shape), tuple(strides))
        if self.rebuild == "_rebuild_tensor_v2":
            arguments += (False, OrderedDict())
        return Call(Global("torch._utils", self.rebuild), arguments)


def write_zip(path, tensors, *, byteorder="little", **options):
    """Write a dict of arrays and `Tensor`s, or values around it, as torch 1.6 and later does."""
    pickle = Pickle(**options)
    members = {"data.pkl": pickle.dumps(tensors), "version": b"3\n"}
    if byteorder:
        members["byteorder"] = byteorder.encode()
    for key, storage in pickle.storages.values():
        members[f"data/{key}"] = in_order(storage, ">" if byteorder == "big" else "<")
    write_members(path, {f"weights/{name}": data for name, data in members.items()})


def write_old(path, tensors, *, little_endian=True, **options):
    """Write the format before torch 1.6; `little_endian` is what the file says."""
    pickle = Pickle(old=True, **options)
    code = pickle.dumps(tensors)
    write_old_parts(path, code, pickle.storages.values(), system={"little_endian": little_endian})


def write_members(path, members, compression=zipfile.ZIP_STORED):
    """Write a zip of name -> bytes, array or `Zeros`."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            with archive.open(name, "w") as file:
                for chunk in chunks(data):
                    file.write(chunk)


def write_old_parts(
    path, code, storages, *, magic=OLD_MAGIC, version=1001, system=None, keys=None, counts=None
):
    """Write the five pickles, of which `code` is the fourth, and the (key, storage) pairs.

    `keys` and `counts` are what the file says instead of the truth.
    """
    storages = list(storages)
    keys = [key for key, _ in storages] if keys is None else keys
    with Path(path).open("wb") as file:
        for value in (magic, version, system or {}):
            file.write(Pickle().dumps(value))
        file.write(code + Pickle().dumps(keys))
        for (_, storage), count in zip(storages, counts or [None] * len(storages), strict=True):
            file.write(struct.pack("<q", storage.size if count is None else count))
            if isinstance(storage, Zeros):
                file.truncate(file.seek(storage.nbytes, 1))  # leaves a hole
            else:
                file.write(in_order(storage, "<").tobytes())


def in_order(storage, order):
    """Return a storage in the file's byte order."""
    if isinstance(storage, Zeros):
        return storage
    return np.ascontiguousarray(storage).astype(storage.dtype.newbyteorder(order))


def chunks(data):
    if isinstance(data, Zeros):
        for start in range(0, data.nbytes, 2**24):
            yield bytes(min(2**24, data.nbytes - start))
    else:
        yield data if isinstance(data, bytes) else data.tobytes()


# --- Whole networks ------------------------------------------------------------------------------

# Positions of the convolutions in torchvision's Sequential.
FEATURES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)


def as_oxford(params):
    """The bundled network as Oxford's: HWIO kernels for BGR in 0..255 less the mean."""
    raw = {
        layer: (np.array(params[layer]["kernel"]), np.array(params[layer]["bias"]))
        for layer in CONV_SHAPES
    }
    kernel, bias = raw["conv1_1"]
    raw["conv1_1"] = (np.ascontiguousarray(kernel[:, :, ::-1] / np.float32(255)), bias)
    return raw


def oihw(kernel):
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def torch_state(oxford, prefix="features.", positions=FEATURES, count=16):
    """OIHW kernels of `count` layers, named by `positions`, or by layers where there are none."""
    state = {}
    names = list(positions or CONV_SHAPES)[:count]
    for name, (kernel, bias) in zip(names, oxford.values(), strict=False):
        state |= {f"{prefix}{name}.weight": oihw(kernel), f"{prefix}{name}.bias": bias}
    return state


# --- Small files, and checks ----------------------------------------------------------------------


def values(*shape, dtype="float32"):
    """The values in the golden files."""
    numbers = np.arange(np.prod(shape, dtype=int))
    numbers = numbers % 2 if dtype == "bool" else numbers % 7 - (0 if dtype == "uint8" else 2)
    return numbers.astype(jnp.bfloat16 if dtype == "bfloat16" else dtype).reshape(shape)


STORAGE = values(6)
HOOKS = OrderedDict()


def tensor(dtype="FloatStorage", key="0", count=6, rest=(), **changes):
    """The call that makes a (2, 3) tensor of storage 0, or something else."""
    name = changes.get("name", ("storage", Global("torch", dtype), key, "cpu", count, *rest))
    arguments = {"storage": Persistent(name), "offset": 0, "shape": (2, 3), "strides": (3, 1)}
    arguments |= {name: value for name, value in changes.items() if name in arguments}
    more = changes.get("more", (False, HOOKS))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (*arguments.values(), *more))


def save(path, value):
    """A zip with `value` pickled as it is (or instructions), and `STORAGE` as storage 0."""
    code = value if isinstance(value, bytes) else Pickle().dumps(value)
    write_members(path, {"w/data.pkl": code, "w/data/0": STORAGE})


def check(found, expected, order="<"):
    """Names in the same order, same types and values, and nothing can be written."""
    assert list(found) == list(expected)
    for name, array in found.items():
        assert array.shape == expected[name].shape, name
        assert array.dtype == expected[name].dtype.newbyteorder(order), name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def refused(path, reason):
    """One line that names the file and the reason, within a few seconds."""
    start = time.monotonic()
    with pytest.raises(ValueError) as info, refusing(path, "torch"):
        read_tensors(path)
    message = str(info.value)
    assert type(info.value) is ValueError
    assert message.isprintable() and message.isascii()
    assert message.startswith(f"{path} is ") and len(message) < len(str(path)) + 240
    assert re.search(reason, message), message
    assert time.monotonic() - start < 10


def load_refused(path, *parts):
    """`load_params` refuses a file in one short line, which contains `parts`."""
    with pytest.raises(ValueError) as info:
        load_params(path)
    message = str(info.value)
    assert message.isprintable() and len(message) < len(str(path)) + 300
    for part in (str(path), *parts):
        assert part in message
