"""Torch files against files by the real torch, and against files that mean harm."""

import gc
import os
import pickletools
import random
import re
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from torch_writer import (
    OLD_MAGIC,
    Call,
    Global,
    Parameter,
    Persistent,
    Pickle,
    Raw,
    Tensor,
    Zeros,
    write_members,
    write_old,
    write_old_parts,
    write_zip,
)

from jaxnst import torch_file, torch_pickle
from jaxnst.torch_file import is_torch_file, read_tensors

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "assets" / "torch"
BOTH = pytest.mark.parametrize("suffix", [".pt", ".pth"], ids=["zip", "old"])
DTYPES = {
    name: np.dtype(getattr(np, name))
    for name in ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64")
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16), "bool": np.dtype(bool)}


def values(*shape, dtype="float32"):
    """The values in the golden files."""
    numbers = np.arange(np.prod(shape, dtype=int))
    numbers = numbers % 2 if dtype == "bool" else numbers % 7 - (0 if dtype == "uint8" else 2)
    return numbers.astype(DTYPES[dtype]).reshape(shape)


def simple():
    return OrderedDict(a=values(2, 3), b=values(4))


def module():
    state = OrderedDict()
    state["conv.weight"] = values(4, 3, 3, 3)
    for name in ("conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        state[name] = values(4)
    state["norm.num_batches_tracked"] = values(dtype="int64")
    state |= {"fc.weight": values(2, 5), "fc.bias": values(2)}
    versions = {"": 1, "conv": 1, "norm": 2, "fc": 1}
    state._metadata = OrderedDict((name, {"version": n}) for name, n in versions.items())
    return state


def tensors():
    """The tensors of the golden file, over the storages that they have there."""
    names = ("float16", "float32", "float64", "bfloat16", "uint8", "int8", "int16", "int32")
    result = {name: values(2, 3, dtype=name) for name in (*names, "int64", "bool")}
    shared = values(24)
    return result | {
        "scalar": np.array(2.5, np.float32),
        "empty": values(0),
        "empty3": Tensor(values(0), (2, 0, 3), (3, 3, 1)),
        "transposed": Tensor(values(24), (4, 2, 3), (1, 12, 4)),
        "strided": Tensor(values(40), (2, 2), (16, 3), 10),
        "expanded": Tensor(values(3), (3, 4), (1, 0)),
        "shared_head": Tensor(shared, (2, 3)),
        "shared_tail": Tensor(shared, (6,), (1,), 18),
        "shared_all": Tensor(shared, (24,)),
        "scalar_inside": Tensor(shared, (), (), 5),
    }


def tensors_expected():
    """The same by NumPy's own indexing, as the golden file was made by torch's."""
    shared = values(24)
    return {name: v for name, v in tensors().items() if isinstance(v, np.ndarray)} | {
        "empty3": values(2, 0, 3),
        "transposed": values(2, 3, 4).transpose(2, 0, 1),
        "strided": values(5, 8)[1::2, 2::3],
        "expanded": np.repeat(values(3)[:, None], 4, axis=1),
        "shared_head": shared[:6].reshape(2, 3),
        "shared_tail": shared[18:],
        "shared_all": shared,
        "scalar_inside": shared[5],
    }


def nested():
    return {"epoch": 3, "lr": 0.1, "arch": "vgg19", "state_dict": simple(), "best": None}


def vgg19_shapes():
    """Name -> shape of torchvision's VGG19."""
    layers = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
    widths = (64, 64, 128, 128, *[256] * 4, *[512] * 8)
    shapes = {}
    for layer, before, width in zip(layers, (3, *widths), widths, strict=False):
        shapes[f"features.{layer}.weight"] = (width, before, 3, 3)
        shapes[f"features.{layer}.bias"] = (width,)
    for layer, before, width in ((0, 25088, 4096), (3, 4096, 4096), (6, 4096, 1000)):
        shapes[f"classifier.{layer}.weight"] = (width, before)
        shapes[f"classifier.{layer}.bias"] = (width,)
    return shapes


def check(found, expected):
    """Same names in the same order, same values, and nothing can be written."""
    assert list(found) == list(expected)
    for name, array in found.items():
        assert array.shape == expected[name].shape, name
        assert array.dtype == expected[name].dtype, name
        assert not array.flags.writeable, name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


# --- Files that torch wrote -----------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("simple", simple),
        ("module", module),
        ("nested", simple),
        ("tensors", tensors_expected),
        ("protocol4", tensors_expected),
        ("parameters", lambda: {"trained": values(2, 3), "frozen": values(4)}),
    ],
)
def test_reads_what_torch_wrote(name, expected, suffix):
    path = GOLDEN / f"{name}{suffix}"
    assert is_torch_file(path)
    check(read_tensors(str(path)), expected())


@BOTH
def test_reads_a_vgg19(suffix):
    found = read_tensors(GOLDEN / f"vgg19{suffix}")
    assert {name: array.shape for name, array in found.items()} == vgg19_shapes()
    assert list(found) == list(vgg19_shapes())
    for i, array in enumerate(found.values()):
        assert array.dtype == np.float32
        assert array[(0,) * array.ndim] == array[(-1,) * array.ndim] == i + 1


@BOTH
def test_shared_storages_stay_shared(suffix):
    found = read_tensors(GOLDEN / f"tensors{suffix}")
    assert np.shares_memory(found["shared_head"], found["shared_all"])
    assert not np.shares_memory(found["shared_head"], found["shared_tail"])
    assert found["expanded"].strides == (4, 0)


@BOTH
def test_views_outlive_the_call_and_cannot_be_made_writeable(suffix):
    array = read_tensors(GOLDEN / f"simple{suffix}")["a"]
    gc.collect()
    np.testing.assert_array_equal(array, values(2, 3))
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


# --- The writer of the tests is faithful to torch -------------------------------------------------


def instructions(code):
    """For each of a row of pickles its (name, argument) pairs; storages numbered as they come."""
    stream, keys, pickles = BytesIO(code), {}, []
    while len(pickles) < 5 and stream.tell() < len(code):
        pickles.append([])
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "FRAME":
                argument = None  # a length, to which addresses add theirs
            elif isinstance(argument, str) and re.fullmatch(r"\d{9,}", argument):
                argument = keys.setdefault(argument, f"storage {len(keys)}")
            pickles[-1].append((opcode.name, argument))
    return pickles, code[stream.tell() :]


@pytest.mark.parametrize(
    ("name", "value", "protocol"),
    [
        ("simple", simple, 2),
        ("module", module, 2),
        ("nested", nested, 2),
        ("tensors", tensors, 2),
        ("protocol4", tensors, 4),
    ],
)
def test_writer_writes_what_torch_does(tmp_path, name, value, protocol):
    golden, written = GOLDEN / f"{name}.pt", tmp_path / f"{name}.pt"
    write_zip(written, value(), protocol=protocol)
    with zipfile.ZipFile(golden) as torchs, zipfile.ZipFile(written) as ours:
        assert ours.testzip() is None
        assert set(ours.namelist()) <= set(torchs.namelist())
        for member in ours.namelist():
            assert ours.read(member) == torchs.read(member), member

    golden, written = GOLDEN / f"{name}.pth", tmp_path / f"{name}.pth"
    write_old(written, value(), protocol=protocol)
    torchs, torch_data = instructions(golden.read_bytes())
    ours, our_data = instructions(written.read_bytes())
    assert ours[:4] == torchs[:4]
    # The fifth lists storages by address, and those are as chance has it.
    assert sorted(map(str, ours[4])) == sorted(map(str, torchs[4]))
    assert len(our_data) == len(torch_data)
    check(read_tensors(written), read_tensors(golden))


def test_writer_writes_parameters_as_torch_does(tmp_path):
    frozen = Parameter(values(4), requires_grad=False)
    write_zip(tmp_path / "parameters.pt", {"trained": Parameter(values(2, 3)), "frozen": frozen})
    ours, torchs = (
        zipfile.ZipFile(folder / "parameters.pt").read("parameters/data.pkl")
        for folder in (tmp_path, GOLDEN)
    )
    assert ours == torchs


# --- Other files that are well --------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_zip, write_old], ids=["zip", "old"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("rebuild", ["_rebuild_tensor", "_rebuild_tensor_v2"])
def test_reads_all_protocols_and_both_functions(tmp_path, write, protocol, rebuild):
    path = tmp_path / "weights"
    write(path, tensors(), protocol=protocol, rebuild=rebuild)
    assert is_torch_file(path)
    check(read_tensors(path), tensors_expected())


@pytest.mark.parametrize("order", ["little", "big", None])
def test_zip_says_its_byte_order(tmp_path, order):
    write_zip(tmp_path / "weights", tensors(), byteorder=order)
    for name, array in read_tensors(tmp_path / "weights").items():
        assert (array.dtype.newbyteorder("=") == array.dtype) == (
            order != "big" or array.dtype.itemsize == 1
        )
        np.testing.assert_array_equal(array, tensors_expected()[name])


@pytest.mark.parametrize("little_endian", [True, False])
def test_old_format_is_little_endian_whatever_it_says(tmp_path, little_endian):
    # torch swaps these on big-endian machines, both when it writes and when it reads.
    write_old(tmp_path / "weights", tensors(), little_endian=little_endian)
    check(read_tensors(tmp_path / "weights"), tensors_expected())


def tensor(dtype="FloatStorage", key="0", count=6, rest=(), **changes):
    """The call that makes a (2, 3) tensor of storage 0, or something else."""
    name = changes.get("name", ("storage", Global("torch", dtype), key, "cpu", count, *rest))
    arguments = {"storage": Persistent(name), "offset": 0, "shape": (2, 3), "strides": (3, 1)}
    arguments |= {name: value for name, value in changes.items() if name in arguments}
    more = changes.get("more", (False, OrderedDict()))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (*arguments.values(), *more))


PARAMETER = Global("torch.nn.parameter", "Parameter")
HOOKS = OrderedDict()


@pytest.mark.parametrize(
    "parameter",
    [
        Call(PARAMETER, (tensor(),), (True, False, HOOKS)),
        Call(PARAMETER, (tensor(),), (True, False, HOOKS), b"\x81"),
        Call(PARAMETER, (), (tensor(), None, HOOKS, True, False), b"\x81"),
        Call(PARAMETER, (tensor(), True)),
    ],
    ids=["called", "made anew", "by its state", "called with requires_grad"],
)
def test_reads_parameters_of_before_torch_04(tmp_path, parameter):
    save(tmp_path / "weights", OrderedDict(a=parameter))
    check(read_tensors(tmp_path / "weights"), {"a": values(2, 3)})


def text2(text):
    """A text as Python 2 wrote it."""
    return Raw(b"U" + bytes([len(text)]) + text.encode())


def test_reads_what_python_2_wrote(tmp_path):
    name = (text2("storage"), Global("torch", "FloatStorage"), text2("0"), text2("cuda:0"), 6)
    weight = tensor(name=name, offset=Raw(b"\x8a\x00"))
    pairs = [[text2("a"), weight], [text2("b"), weight]]
    metadata = {text2("_metadata"): Call(Global("collections", "OrderedDict"), ([],))}
    state = Call(Global("collections", "OrderedDict"), (pairs,), metadata)
    save(tmp_path / "weights", state)
    check(read_tensors(tmp_path / "weights"), {"a": values(2, 3), "b": values(2, 3)})


def test_ignores_what_is_no_tensor(tmp_path):
    value = {"epoch": 3, 7: [1.5, None, (True, -(2**40))], "a": tensor(), "more": {"b": tensor()}}
    value["more"]["self"] = value
    save(tmp_path / "weights", value)
    check(read_tensors(tmp_path / "weights"), {"a": values(2, 3)})


def test_an_empty_tensor_may_lie_anywhere(tmp_path):
    save(tmp_path / "weights", {"a": tensor(shape=(0, 3), offset=7)})
    check(read_tensors(tmp_path / "weights"), {"a": values(0, 3)})


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"PK\3\4", b"\x80", b"\x80\x02", b"\x89HDF\r\n\x1a\n", bytes(4096)]
)
def test_other_files_are_no_torch_files(tmp_path, content):
    path = tmp_path / "weights"
    path.write_bytes(content)
    assert not is_torch_file(path)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_tensors(path)


def test_another_zip_is_no_torch_file(tmp_path):
    write_members(tmp_path / "a.npz", {"a.npy": b"", "deep/er/data.pkl": b"", "data.pkl": b""})
    assert not is_torch_file(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="a torch file's zip has one data.pkl, this one has 0"):
        read_tensors(tmp_path / "a.npz")


@pytest.mark.parametrize("function", [read_tensors, is_torch_file])
def test_missing_file(tmp_path, function):
    with pytest.raises(FileNotFoundError, match="nothing"):
        function(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        function(tmp_path)


# --- Files that mean harm -------------------------------------------------------------------------

STORAGE = values(6)


def save(path, value, *, end=b".", protocol=2, data=STORAGE, root="weights", **headers):
    """A zip with `value` pickled as it is, and `data` as storage 0."""
    code = value if isinstance(value, bytes) else Pickle(protocol).dumps(value, end)
    write_members(path, {f"{root}/data.pkl": code, f"{root}/data/0": data}, **headers)


def save_old(path, value, **lies):
    """The same in the old format, with `lies` about it."""
    storages = lies.pop("storages", [("0", STORAGE)])
    write_old_parts(path, Pickle().dumps(value), storages, **lies)


def by_protocol_4(path, value):
    save(path, value, protocol=4)


def payload(function, *arguments, instruction=b"R"):
    return {"a": tensor(), "b": Call(function, arguments, instruction=instruction)}


SYSTEM, POSIX, EVAL = Global("os", "system"), Global("posix", "system"), Global("builtins", "eval")
NESTED = Call(Global("builtins", "getattr"), (Call(Global("builtins", "__import__"), ("os",)), ""))


def wide(depth):
    """A tuple that has 2**depth leaves, written by few instructions."""
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def items(key, value):
    """A dict of a key that Python would take an age to hash."""
    return Call(Global("collections", "OrderedDict"), ([[key, value]],))


def itself():
    value = {}
    value["a"] = value
    value["state_dict"] = value
    return value


def looped_list():
    value = []
    value.append(value)
    return value


COMMAND = "COMMAND"  # stands for one that leaves a file

HOSTILE = {
    # What would run.
    "os.system": (save, payload(SYSTEM, COMMAND), "it asks for os.system"),
    "os.system in the old format": (
        save_old,
        payload(SYSTEM, COMMAND),
        "it asks for os.system, which no weights need",
    ),
    "posix.system by STACK_GLOBAL": (
        by_protocol_4,
        payload(POSIX, COMMAND),
        "it asks for posix.system",
    ),
    "eval": (save, payload(EVAL, "open('ran', 'w')"), "it asks for builtins.eval"),
    "nested reduce": (save, payload(NESTED, COMMAND), "it asks for builtins.getattr"),
    "NEWOBJ": (
        save,
        payload(Global("subprocess", "Popen"), COMMAND, instruction=b"\x81"),
        "it asks for subprocess.Popen",
    ),
    "NEWOBJ_EX": (
        save,
        {"a": Raw(b"c" + b"collections\nOrderedDict\n)}\x92")},
        "instruction NEWOBJ_EX",
    ),
    "INST": (save, {"a": Raw(b"(X\x02\0\0\0idios\nsystem\n")}, "instruction INST"),
    "OBJ": (save, {"a": Raw(b"(cos\nsystem\nX\x02\0\0\0ido")}, "it asks for os.system"),
    "OBJ of what is allowed": (save, {"a": Raw(b"(ccollections\nOrderedDict\no")}, "OBJ"),
    "EXT1": (save, {"a": Raw(b"\x82\x01")}, "instruction EXT1"),
    "a text to evaluate": (save, {"a": Raw(b"S'\\d'\n")}, "instruction STRING"),
    "a persistent id as text": (save, {"a": Raw(b"P0\n")}, "instruction PERSID"),
    "no such instruction": (save, {"a": Raw(b"\xff")}, "instruction 0xff"),
    "torch.load itself": (
        save,
        payload(Global("torch", "load"), COMMAND),
        "it asks for torch.load",
    ),
    "a name with lines": (
        by_protocol_4,
        payload(Global("os\nsystem", "x" * 200)),
        r"it asks for os\\nsystem\.x{50,70}, which",
    ),
    "a name that is a tensor": (
        save,
        {"a": Call(Raw(b"X\x02\0\0\0os]\x93"), ())},
        "it asks for a list in a str",
    ),
    "a call of a text": (save, payload("os.system", COMMAND), "calls a str with a tuple"),
    "a call of a dtype": (save, payload(Global("torch", "IntStorage")), "calls a Int.*DType"),
    "a call of a tensor": (save, payload(tensor(), COMMAND), "calls a Tensor"),
    "a call without a tuple": (save, {"a": Call(PARAMETER, ["a"])}, "calls a type with a list"),
    "a call with many values": (save, {"a": Call(PARAMETER, (0,) * 7)}, "Parameter with 7 values"),
    "a call with too many values": (save, {"a": Call(PARAMETER, (0,) * 4)}, "with 4 values"),
    "state of a tensor": (
        save,
        {"a": Call(tensor().function, tensor().arguments, {"__class__": 1})},
        "sets the state of a Tensor",
    ),
    "state of a dict": (save, {"a": Raw(b"}}b")}, "sets the state of a dict"),
    "append to a dict": (save, {"a": Raw(b"}Na")}, "appends to a dict"),
    "key of a list": (save, {"a": Raw(b"]NNs")}, "puts 2 keys and values into a list"),
    "half a pair": (save, {"a": Raw(b"}(NNNu")}, "puts 3 keys and values into a dict"),
    # Tensors that are not in their storage.
    "beyond the storage": (save, {"a": tensor(offset=1)}, "ends at element 6 of .* that has 6"),
    "scalar beyond": (
        save,
        {"a": tensor(shape=(), strides=(), offset=6)},
        "ends at element 6 of a storage that has 6",
    ),
    "strides beyond": (save, {"a": tensor(strides=(4, 1))}, "ends at element 6"),
    "negative stride": (save, {"a": tensor(strides=(-3, 1), offset=3)}, "in a sensible range"),
    "negative offset": (save, {"a": tensor(offset=-1)}, "in a sensible range"),
    "negative size": (save, {"a": tensor(shape=(-2, -3))}, "in a sensible range"),
    "sizes that overflow": (
        save,
        {"a": tensor(shape=(2**32, 2**32 + 1), strides=(0, 0))},
        "more than 17179869184 bytes",
    ),
    "a size beyond int64": (save, {"a": tensor(shape=(2**70,), strides=(0,))}, "sensible range"),
    "a stride beyond int64": (save, {"a": tensor(shape=(1, 0), strides=(2**70, 1))}, "sensible"),
    "a size that is True": (save, {"a": tensor(shape=(True, 3))}, "in a sensible range"),
    "a size that is a float": (save, {"a": tensor(shape=(2.0, 3))}, "in a sensible range"),
    "shape that is a list": (save, {"a": tensor(shape=[2, 3])}, "in a sensible range"),
    "an offset that is none": (save, {"a": tensor(offset=None)}, "in a sensible range"),
    "too few strides": (save, {"a": tensor(strides=(1,))}, r"shape \(2, 3\) has strides \(1,\)"),
    "many dimensions": (
        save,
        {"a": tensor(shape=(1,) * 33, strides=(1,) * 33)},
        "in a sensible range",
    ),
    "a tensor of no storage": (save, {"a": tensor(storage=(1, 2))}, "a tuple for its storage"),
    "metadata": (save, {"a": tensor(more=(False, HOOKS, {"conj": True}))}, "with 7 values"),
    "too few arguments": (save, {"a": tensor(more=()), "b": Call(tensor().function, ())}, "0 val"),
    "a storage beyond its member": (
        save,
        {"a": tensor(count=7)},
        "storage '0' of 7 elements has only 24 bytes",
    ),
    "a wider type": (save, {"a": tensor(dtype="DoubleStorage")}, "has only 24 bytes"),
    "an endless storage": (save, {"a": tensor(count=2**62)}, "storage '0' has 46116"),
    "a negative storage": (save, {"a": tensor(count=-6)}, "storage '0' has -6 elements"),
    "a storage of True": (save, {"a": tensor(count=True)}, "storage '0' has True elements"),
    "no such storage": (save, {"a": tensor(key="1")}, "storage '1' is missing"),
    "key with a path": (save, {"a": tensor(key="../x")}, "storage is called '../x' instead"),
    "key of another script": (save, {"a": tensor(key="\u0660")}, r"called '\\u0660' instead"),
    "key that is a number": (save, {"a": tensor(key=0)}, "not named as torch names"),
    "an id of another kind": (
        save,
        {"a": tensor(name=("module", Global("torch", "FloatStorage"), "0", "cpu", 6))},
        "not named as torch names",
    ),
    "an id that is text": (save, {"a": tensor(name="0")}, "not named as torch names"),
    "an id that is short": (save, {"a": tensor(name=("storage",))}, "not named as torch names"),
    "an id with a text for type": (
        save,
        {"a": tensor(name=("storage", "FloatStorage", "0", "cpu", 6))},
        "not named as torch names",
    ),
    "an id of seven": (save, {"a": tensor(rest=(None, None))}, "not named as torch names"),
    "a view in the old format": (
        save_old,
        {"a": tensor(rest=(("0", 0, 6),))},
        "a storage is a view of another one",
    ),
    "two types of a storage": (
        save,
        {"a": tensor(), "b": tensor(dtype="IntStorage")},
        "storage '0' has two types or two sizes",
    ),
    "two sizes of a storage": (save, {"a": tensor(), "b": tensor(count=5)}, "two types or two"),
    "a type unknown": (
        save,
        {"a": tensor(dtype="ComplexFloatStorage")},
        "it asks for torch.ComplexFloatStorage",
    ),
    # Shapes of the whole.
    "not a dict": (save, [tensor()], "it holds a list, not a dict of tensors"),
    "only a tensor": (save, tensor(), "it holds a Tensor, not a dict of tensors"),
    "no tensors": (save, {"epoch": 3}, "it holds no tensor under a name"),
    "a tensor under a number": (save, {3: tensor()}, "a tensor has the number 3 for a name"),
    "a tuple for a key": (save, {("a",): tensor()}, "a dict has a tuple for a key"),
    "a wide tuple for a key": (save, items(wide(200), 1), "a dict has a tuple for a key"),
    "a huge number for a key": (save, {2**61 - 1: tensor()}, "a dict has a int for a key"),
    "a wide shape": (save, {"a": tensor(shape=wide(200))}, "in a sensible range"),
    "a wide key": (save, {"a": tensor(key=wide(200))}, "not named as torch names"),
    "a wide name": (save, {"a": Call(Raw(b"]]\x93"), ())}, "asks for a list in a list"),
    "it holds itself": (save, itself(), "it holds no tensor under a name"),
    "a list in itself": (save, looped_list(), "it holds a list"),
    "pairs that are none": (
        save,
        Call(Global("collections", "OrderedDict"), (["ab"],)),
        "an OrderedDict is made of a str that is no pair",
    ),
    "pairs of a tensor": (
        save,
        Call(Global("collections", "OrderedDict"), (tensor(),)),
        "an OrderedDict is made of a Tensor",
    ),
    # Pickles that are broken.
    "no STOP": (lambda path, value: save(path, value, end=b""), {"a": tensor()}, "no end"),
    "empty pickle": (save, b"", "no end: it is cut off at byte 0"),
    "nothing to return": (save, b"\x80\x02.", "takes more from the stack"),
    "an empty stack": (save, b"\x80\x02R.", "takes more from the stack"),
    "no mark": (save, b"\x80\x02]e.", r"is damaged \(IndexError\)"),
    "no such memo": (save, b"\x80\x02h\x05.", r"is damaged \(KeyError\)"),
    "protocol 0": (save, b"\x80\x00}.", "has protocol 0, not 2 to 5"),
    "protocol 6": (save, b"\x80\x06}.", "has protocol 6, not 2 to 5"),
    "a text longer than the file": (save, b"\x80\x02X\xff\xff\xff\x7fa.", "cut off at byte 3"),
    "a text that is no text": (save, b"\x80\x02X\x01\0\0\0\xff.", "damaged or cut off at byte 3"),
    "a huge number": (save, b"\x80\x02\x8b\xff\xff\xff\x7fa.", "instruction LONG4"),
    "a huge memo": (save, b"\x80\x02}r\xff\xff\xff\xff.", "a value number 4294967295"),
    "a negative memo": (save, b"\x80\x02}p-1\n.", "instruction PUT"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses(tmp_path, monkeypatch, name):
    write, value, reason = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights"
    write(path, with_command(value, f"touch {tmp_path / 'ran'}"))
    refused(path, reason)
    assert os.listdir(tmp_path) == ["weights"]


def with_command(value, command):
    """`value`, in which COMMAND is a command."""
    match value:
        case {"a": a, "b": Call(function, arguments, state, instruction)}:
            arguments = tuple(command if item == COMMAND else item for item in arguments)
            return {"a": a, "b": Call(function, arguments, state, instruction)}
    return value


def refused(path, reason):
    """One line that names the file and the reason."""
    with pytest.raises(ValueError) as info:
        read_tensors(path)
    message = str(info.value)
    assert type(info.value) is ValueError
    assert message.isprintable() and message.isascii()
    assert message.startswith(f"{path} is ") and len(message) < len(str(path)) + 240
    assert re.search(reason, message), message


def test_the_payloads_would_run(tmp_path):
    """Python's own unpickler does what the files above ask for, so that something was refused."""
    import pickle

    code = Pickle().dumps(Call(SYSTEM, (f"touch {tmp_path / 'ran'}",)))
    assert pickle.loads(code) == 0
    assert (tmp_path / "ran").exists()


def test_refuses_a_huge_pickle(tmp_path):
    zeros = Zeros(torch_file.PICKLE_BYTES + 1, np.uint8)
    write_members(tmp_path / "weights", {"weights/data.pkl": zeros})
    refused(tmp_path / "weights", "data.pkl has 16777217 bytes")


@pytest.mark.parametrize("code", [b"}", b"(", b"}\x94", b"]\x94", b"N\x85", b"ccollections\nO\n)R"])
def test_refuses_endless_pickles(tmp_path, monkeypatch, code):
    monkeypatch.setattr(torch_pickle, "INSTRUCTIONS", 5000)
    code = code.replace(b"\nO\n", b"\nOrderedDict\n") * 6000
    save(tmp_path / "weights", b"\x80\x04" + code + b".")
    refused(tmp_path / "weights", "more than 5000 instructions")


@pytest.mark.parametrize(
    "code",
    [b"]" * 200_000 + b"a" * 199_999, b"N" + b"\x85" * 200_000],
    ids=["lists", "tuples"],
)
def test_deep_nesting_is_no_trouble(tmp_path, code):
    save(tmp_path / "weights", b"\x80\x02" + code + b".")
    refused(tmp_path / "weights", "it holds a (list|tuple), not a dict of tensors")


def test_deep_parameters_are_no_trouble(tmp_path):
    name = b"ctorch.nn.parameter\nParameter\nq\x00"
    code = name + b"h\x00" * 100_000 + b")R" + b"\x85R" * 100_000
    save(tmp_path / "weights", b"\x80\x02}X\x01\0\0\0a" + code + b"s.")
    refused(tmp_path / "weights", "it holds no tensor under a name")


def test_a_long_list_is_copied_once(tmp_path):
    # 20,000 pairs, and 20,000 calls that would each make a dict of them.
    pairs = b"](" + b"](K\x01K\x02e" * 20_000 + b"eq\x00"
    calls = b"ccollections\nOrderedDict\nq\x01" + b"h\x01h\x00\x85R" * 20_000
    save(tmp_path / "weights", b"\x80\x02" + pairs + calls + b".")
    refused(tmp_path / "weights", "it holds a OrderedDict|no tensor")


# --- Containers that are broken -------------------------------------------------------------------


def test_refuses_compressed_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", Pickle().dumps({"a": tensor()}))
        archive.writestr("weights/data/0", STORAGE.tobytes())
    refused(tmp_path / "weights", "member b'weights/data.pkl' is compressed")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [({"flags": 1}, "is encrypted"), ({"method": 8}, "is compressed"), ({"method": 99}, "compr")],
)
def test_refuses_members_that_are_not_as_they_are(tmp_path, headers, reason):
    save(tmp_path / "weights", {"a": tensor()}, **headers)
    refused(tmp_path / "weights", reason)


@pytest.mark.parametrize("order", [b"middle", b"", b"little\n", b"x" * 100])
def test_refuses_other_byte_orders(tmp_path, order):
    code = Pickle().dumps({"a": tensor()})
    members = {"w/data.pkl": code, "w/data/0": STORAGE, "w/byteorder": order}
    write_members(tmp_path / "weights", members)
    refused(tmp_path / "weights", "its byte order is b'.{0,8}', neither")


def test_refuses_two_pickles(tmp_path):
    code = Pickle().dumps({"a": tensor()})
    write_members(tmp_path / "weights", {"a/data.pkl": code, "b/data.pkl": code})
    refused(tmp_path / "weights", "has one data.pkl, this one has 2")


def patch(path, at, data):
    content = bytearray(path.read_bytes())
    at = at if isinstance(at, int) else content.rindex(at[0]) + at[1]
    content[at : at + len(data)] = data
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("at", "data", "reason"),
    [
        (0, b"PK\3\5", "starts like neither"),
        (26, b"\xff\xff", "the header of its member b'weights/data.pkl' is damaged"),
        (28, b"\xff\xff", "b'weights/data.pkl' ends behind the end of the file"),
        (30, b"../../", "the header of its member b'weights/data.pkl' is damaged"),
        ((b"PK\5\6", 0), b"QK", "the directory of its zip is missing"),
        ((b"PK\5\6", 10), b"\3\0", r"directory of its zip is damaged at|is damaged \(error\)"),
        ((b"PK\5\6", 12), b"\xff" * 4, "or that of a zip over 4 GB"),
        ((b"PK\5\6", 16), b"\xff" * 4, "or that of a zip over 4 GB"),
        ((b"PK\1\2", 0), b"QK", "the directory of its zip is damaged at b'weights/data/0'"),
        ((b"PK\1\2", 42), b"\xff" * 4, r"is damaged \(error\)"),
        ((b"PK\1\2", 24), b"\xff" * 4, "is compressed"),
        ((b"PK\1\2", 20), b"\xff" * 8, "b'weights/data/0' ends behind the end of the file"),
        ((b"data/0", 0), b"data/7", "storage '0' is missing"),
    ],
)
def test_refuses_damaged_zips(tmp_path, at, data, reason):
    path = tmp_path / "weights"
    save(path, {"a": tensor()})
    patch(path, at, data)
    refused(path, reason)


def test_refuses_two_members_of_one_name(tmp_path):
    path = tmp_path / "weights"
    members = {"w/data.pkl": Pickle().dumps({"a": tensor()}), "w/data/0": STORAGE, "w/data/1": b""}
    write_members(path, members)
    patch(path, (b"w/data/1", 0), b"w/data/0")
    refused(path, "the directory of its zip is damaged at b'w/data/0'")


@pytest.mark.parametrize(
    ("lies", "reason"),
    [
        ({"magic": OLD_MAGIC + 1}, "starts like neither of torch's formats"),
        ({"version": 1000}, "magic number and protocol are not 0x1950a86a20f9469cfc6c and 1001"),
        ({"version": wide(100)}, "magic number and protocol are not"),
        ({"counts": [5]}, "storage '0' has 5 elements, but 6 were told"),
        ({"counts": [-1]}, "storage '0' has 18446744073709551615 elements, but 6 were told"),
        ({"keys": []}, "it lists 0 storages, but not the 1 of its tensors"),
        ({"keys": ["1"]}, "it lists 1 storages, but not the 1 of its tensors"),
        ({"keys": ["0", "0"]}, "it lists 2 storages, but not the 1 of its tensors"),
        ({"keys": [0]}, "its list of storages is no list of names"),
        ({"keys": {"0": 1}}, "its list of storages is no list of names"),
        ({"keys": tensor()}, "its list of storages is no list of names"),
        ({"storages": []}, "it lists 0 storages"),
    ],
)
def test_refuses_lies_in_the_old_format(tmp_path, lies, reason):
    save_old(tmp_path / "weights", {"a": tensor()}, **lies)
    refused(tmp_path / "weights", reason)


def test_refuses_the_first_format(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(257) + b"ustar" + bytes(250))
    refused(tmp_path / "weights", "it is a tar, torch's first format")


@BOTH
def test_refuses_files_cut_off_anywhere(tmp_path, suffix):
    content, path = (GOLDEN / f"simple{suffix}").read_bytes(), tmp_path / "weights"
    for end in (*range(0, len(content) - 40, 11), *range(len(content) - 40, len(content))):
        path.write_bytes(content[:end])
        refused(path, "cut off|starts like neither|directory|damaged")


@BOTH
@pytest.mark.parametrize("name", ["simple", "protocol4", "parameters", "module"])
def test_any_damage_gives_tensors_or_a_refusal(tmp_path, name, suffix):
    content, path = (GOLDEN / f"{name}{suffix}").read_bytes(), tmp_path / "weights"
    draw = random.Random(f"{name}{suffix}")
    refusals = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 2, 8))):
            damaged[draw.randrange(len(damaged))] = draw.choice((0, 255, draw.randrange(256)))
        if draw.random() < 0.1:
            del damaged[draw.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        is_torch_file(path)
        try:
            for array in read_tensors(path).values():
                array.reshape(-1)[-1:].tobytes() if array.size < 10_000 else None
        except ValueError as error:
            refusals += 1
            assert type(error) is ValueError and str(error).isprintable()
            # No mistake of the reader itself hides behind a refusal.
            known = (IndexError, KeyError, struct.error, type(None))
            assert isinstance(error.__cause__, known), repr(error.__cause__)
    assert refusals > 20


# --- Memory ---------------------------------------------------------------------------------------

LOAD = """
import re, sys, threading
import jax
import jaxnst

def anonymous():
    with open("/proc/self/status") as file:
        return int(re.search(r"RssAnon:\\s+(\\d+) kB", file.read())[1]) / 1024

jax.numpy.zeros(1).block_until_ready()  # what JAX takes for itself is no part of the reading
done, peak, before = threading.Event(), [0.0], anonymous()

def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous())

thread = threading.Thread(target=watch)
thread.start()
params = jaxnst.load_params(sys.argv[1], input="torchvision")
jax.block_until_ready(params)
peak[0] = max(peak[0], anonymous())
done.set()
thread.join()
assert params["conv5_4"]["kernel"][-1, -1, -1, -1] == 3
print(peak[0] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("write", [write_zip, write_old], ids=["zip", "old"])
def test_classifier_costs_no_memory(tmp_path, write):
    path, state = tmp_path / "vgg19.pth", OrderedDict()
    for name, shape in vgg19_shapes().items():
        count = int(np.prod(shape))
        features = name.startswith("features.")
        state[name] = Tensor(np.full(count, 3, np.float32) if features else Zeros(count), shape)
    write(path, state)
    assert path.stat().st_size > 574_000_000 > 2 * 512 * path.stat().st_blocks
    done = subprocess.run(
        [sys.executable, "-c", LOAD, path],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    print(f"peak of anonymous memory above the start: {float(done.stdout):.0f} MB")
    assert 70 < float(done.stdout) < 250  # the params are 76 MB
