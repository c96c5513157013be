"""Pickles that mean harm are refused quickly, in one line, and nothing in them runs."""

import argparse
import os
import pickle
from collections import defaultdict
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from torch_writer import (
    HOOKS,
    ORDERED_DICT,
    PARAMETER,
    STORAGE,
    Call,
    Global,
    Pickle,
    Raw,
    check,
    refused,
    save,
    tensor,
    values,
)

from jaxnst.formats import torch_pickle
from jaxnst.formats.torch_file import read_tensors

GOLDEN = Path(__file__).parent / "assets" / "torch" / "parameters.pt"
COMMAND = "touch ran"  # in the test's folder
SYSTEM, NEAR = Global("os", "system"), torch_pickle.PICKLE_BYTES - 200
OPEN = Call(Global("builtins", "getattr"), (Call(Global("builtins", "__import__"), ("os",)), "x"))
COLLIDING = b"".join(
    b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(1, NEAR // 13)
)
LOAD = b"ccollections\nOrderedDict\n"


def payload(function, *arguments, instruction=b"R"):
    return {"a": tensor(), "b": Call(function, arguments, instruction=instruction)}


def pickled(code):
    return b"\x80\x02" + code + b"."


HOSTILE = {
    # Calls and names that are not a tensor's.
    "os.system": (payload(SYSTEM, COMMAND), "it asks for 'os.system', which no weights need"),
    "posix.system by STACK_GLOBAL": (Raw(b"X\x05\0\0\0posixX\x06\0\0\0system\x93"), "posix.sys"),
    "eval": (payload(Global("builtins", "eval"), "open('ran', 'w')"), "asks for 'builtins.eval'"),
    "nested calls": (payload(OPEN, COMMAND), "calls an object with a tuple"),
    "getattr": (OPEN, "asks for 'builtins.getattr'"),
    "NEWOBJ": (payload(Global("subprocess", "Popen"), "a", instruction=b"\x81"), "subprocess.Pop"),
    "torch.load": (payload(Global("torch", "load"), COMMAND), "asks for 'torch.load'"),
    "a dotted name": (payload(Global("collections", "OrderedDict.fromkeys"), "a"), "it asks for"),
    "a name with lines": (Raw(b"X\x02\0\0\0o\nX\x02\0\0\0\nx\x93"), r"it asks for 'o\\n\.\\nx'"),
    "a name that is a list": (Raw(b"X\x02\0\0\0os]\x93"), "is a damaged"),
    "INST": (Raw(b"(X\x02\0\0\0idios\nsystem\n"), "instruction INST, which torch never writes"),
    "OBJ": (Raw(b"(ccollections\nOrderedDict\no"), "instruction OBJ"),
    "NEWOBJ_EX": (Raw(LOAD + b")}\x92"), "instruction NEWOBJ_EX"),
    "EXT1": (Raw(b"\x82\x01"), "instruction EXT1"),
    "a persistent id as text": (Raw(b"P0\n"), "instruction PERSID"),
    "an unknown instruction": (Raw(b"\xff"), "is a damaged"),
    "a call of a text": (payload("os.system", COMMAND), "calls an object with a tuple"),
    "a call of a dtype": (payload(Global("torch", "IntStorage")), r"file \(TypeError"),
    "a call of a tensor": (payload(tensor(), COMMAND), "calls an object"),
    "a call with a list": (Call(PARAMETER, ["a"]), "calls a name with an object"),
    "a call with too many values": (Call(PARAMETER, (0,) * 4), r"file \(TypeError"),
    "defaults of a function": (Raw(LOAD + b"N}\x86b"), "sets the state of a name"),
    "attributes of a class": (Raw(b"ctorch.nn.parameter\nParameter\n}b"), "state of a name"),
    "state of a tensor": (tensor()._replace(state={"storage": 1}), r"file \(AttributeError"),
    "attributes of a tensor": (tensor()._replace(state=(None, {"shape": (9,)})), "damaged"),
    "class of a dict": (Call(ORDERED_DICT, (), (None, {"__class__": PARAMETER})), "damaged"),
    "a method of a dict": (Call(ORDERED_DICT, (), {"items": "a"}), r"file \(TypeError"),
    "a dtype's state": (Raw(b"ctorch\nIntStorage\n}b"), "state of a name"),
    "an append to a dict": (Raw(b"}Na"), r"file \(AttributeError"),
    # Tensors that are not in their storage.
    "beyond the storage": ({"a": tensor(offset=1)}, "ends at element 6 of a storage that has 6"),
    "a scalar beyond": ({"a": tensor(shape=(), strides=(), offset=6)}, "ends at element 6"),
    "strides beyond": ({"a": tensor(strides=(4, 1))}, "ends at element 6"),
    "a negative stride": ({"a": tensor(strides=(-3, 1), offset=3)}, "in a sensible range"),
    "a negative offset": ({"a": tensor(offset=-1)}, "in a sensible range"),
    "negative sizes": ({"a": tensor(shape=(-2, -3))}, "in a sensible range"),
    "gigabytes by stride 0": ({"a": tensor(shape=(2**33,), strides=(0,))}, "more than 17179869184"),
    "sizes that overflow": ({"a": tensor(shape=(2**32, 2**32), strides=(0, 0))}, "more than 17179"),
    "a stride beyond int64": ({"a": tensor(shape=(1, 0), strides=(2**63, 1))}, "sensible range"),
    "a size that is True": ({"a": tensor(shape=(True, 3))}, "in a sensible range"),
    "a size that is a float": ({"a": tensor(shape=(2.0, 3))}, "in a sensible range"),
    "a shape that is a list": ({"a": tensor(shape=[2, 3])}, "in a sensible range"),
    "too few strides": ({"a": tensor(strides=(1,))}, r"shape \(2, 3\) has strides \(1,\)"),
    "33 dimensions": ({"a": tensor(shape=(1,) * 33, strides=(1,) * 33)}, "in a sensible range"),
    "a tuple for a storage": ({"a": tensor(storage=(1, 2))}, "must be a Storage, not tuple"),
    "conjugate values": ({"a": tensor(more=(False, HOOKS, {"conj": True}))}, r"\(TypeError"),
    "too large a storage": ({"a": tensor(count=7)}, "storage '0' of 7 elements is cut off"),
    "too wide a type": ({"a": tensor(dtype="DoubleStorage")}, "storage '0' of 6 elements is cut"),
    "an endless storage": ({"a": tensor(count=2**62)}, "storage '0' has 46116"),
    "a negative storage": ({"a": tensor(count=-6)}, "storage '0' has -6 elements"),
    "a storage of True": ({"a": tensor(count=True)}, "storage '0' has True elements"),
    "an absent storage": ({"a": tensor(key="1")}, "its member 'w/data/1' is missing"),
    "a storage outside": ({"a": tensor(key="../x")}, "its member 'w/data/../x' is missing"),
    "a key that is a number": ({"a": tensor(key=0)}, "not named as torch names"),
    "an id of another kind": ({"a": tensor(name=("module", "a", "0", "cpu", 6))}, "not named as"),
    "an id that is a text": ({"a": tensor(name="0")}, "not named as torch names"),
    "a view of a storage": ({"a": tensor(rest=(("0", 0, 6),))}, "a view of another, as in torch"),
    "two types of a storage": (
        {"a": tensor(), "b": tensor(dtype="IntStorage")},
        "storage '0' has two types or two sizes",
    ),
    "complex numbers": ({"a": tensor(dtype="ComplexFloatStorage")}, "for 'torch.ComplexFloatStor"),
    # Values that are not a state dict.
    "a list": ([tensor()], "must hold a dict of tensors, not list"),
    "a tensor alone": (tensor(), "must hold a dict of tensors, not Tensor"),
    "no tensors": ({"epoch": 3}, "it holds no tensor under a name"),
    "a tensor under a number": ({3: tensor()}, "it holds no tensor under a name"),
    "dicts in a circle": (pickled(b"}q\0X\1\0\0\0ah\0s"), "it holds no tensor under a name"),
    "dicts too deep": (pickled(b"}X\1\0\0\0a" * 20_000 + b"}" + b"s" * 20_000), "no tensor under"),
    "dicts that share dicts": (
        pickled(b"}q\0" + b"}(X\1\0\0\0ah\0X\1\0\0\0bh\0uq\0" * 90),
        "it holds no tensor under a name",
    ),
    "pairs that are not": (Call(ORDERED_DICT, (["abc"],)), r"file \(ValueError"),
    "a pair of a tuple": (Call(ORDERED_DICT, ([[("a",), 1]],)), "must be str, not tuple"),
    # Pickles that are damaged, or take time or memory without end.
    "empty": (b"", "is a damaged"),
    "no end": (b"\x80\x02}", "is a damaged"),
    "nothing on the stack": (pickled(b""), "more from the stack than it put there"),
    "no mark": (pickled(b"]e"), "is a damaged"),
    "an absent memo": (pickled(b"h\x05"), r"file \(KeyError"),
    "a text longer than the file": (pickled(b"X\xff\xff\xff\x7fa"), "is a damaged"),
    "a text that is not UTF-8": (pickled(b"X\x01\0\0\0\xff"), "is a damaged"),
    "an endless frame": (b"\x80\x04\x95" + b"\xff" * 8 + b"}.", "is a damaged"),
    "an endless number": (pickled(b"\x8b\xff\xff\xff\x7fa"), "is a damaged"),
    "gigabytes of memo": (pickled(b"}r\xff\xff\xff\x0f"), "a value number 268435455"),
    "a tuple that takes ages to hash": (
        pickled(b"})q\0" + b"h\0h\0\x86q\0" * 200 + b"Ns"),
        "keys of a dict must not be tuples",
    ),
    "a tuple too deep to hash": (pickled(b"}N" + b"\x85" * NEAR + b"Ns"), "must not be tuples"),
    "numbers of one hash": (pickled(b"}(" + COLLIDING + b"u"), "its pickle has the number"),
    "deep lists": (pickled(b"]" * (NEAR // 2) + b"a" * (NEAR // 2 - 1)), "not list"),
    "deep parameters": (
        pickled(
            b"ctorch.nn.parameter\nParameter\nq\0"
            + b"h\0" * 40_000 + b")R" + b"\x85R" * 39_999
        ),
        "not Parameter",
    ),
    "many dicts": (pickled(LOAD + b"q\0" + b"h\0)R" * (NEAR // 4)), "it holds no tensor"),
    "a list copied again and again": (
        pickled(
            b"](](X\1\0\0\0aNeq\1" + b"h\1" * (NEAR // 4) + b"eq\0"
            + LOAD + b"q\2" + b"h\2h\0\x85R" * (NEAR // 14)
        ),
        "it holds no tensor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses(tmp_path, monkeypatch, name):
    value, reason = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights"
    save(path, value)
    refused(path, reason)
    assert os.listdir(tmp_path) == ["weights"]
    check(read_tensors(GOLDEN), {"trained": values(2, 3), "frozen": values(4)})


BESIDE = {
    "best_acc": np.float64(0.75),
    "last": np.float32(0.5),
    "random": np.random.default_rng(0).integers(0, 9, 5),
    "args": argparse.Namespace(lr=0.1, seed=np.int64(3)),
    "counts": defaultdict(int, a=1),
    "classes": {"a", "b"},
    "out": PurePosixPath("a/b"),
}


@pytest.mark.parametrize(
    ("name", "protocol"),
    # Protocol 4 has instructions for sets, which torch never writes.
    [(name, 2) for name in BESIDE] + [(name, 4) for name in BESIDE if name != "classes"],
)
def test_what_stands_beside_weights_is_ignored(tmp_path, name, protocol):
    code = pickle.dumps(BESIDE[name], protocol)[2:-1]  # without PROTO and STOP
    save(tmp_path / "weights", {"beside": Raw(code), "epoch": 3, "state": {"a": tensor()}})
    check(read_tensors(tmp_path / "weights"), {"state.a": STORAGE.reshape(2, 3)})


@pytest.mark.parametrize("numpy", [b"numpy.core", b"numpy._core"])
def test_a_scalar_of_either_numpy_is_ignored_and_keeps_no_arguments(tmp_path, numpy):
    code = pickle.dumps(np.float64(0.75), 2)[2:-1].replace(b"numpy._core", numpy)
    assert numpy + b".multiarray" in code
    value, _ = torch_pickle.load_pickle(BytesIO(pickled(code)))
    assert type(value) is torch_pickle.Ignored and not vars(value)
    hostile = Call(Global(numpy.decode() + ".multiarray", "scalar"), ("O8", "x" * 9), {"a": 1})
    save(tmp_path / "weights", {"best": hostile, "a": tensor()})
    check(read_tensors(tmp_path / "weights"), {"a": STORAGE.reshape(2, 3)})


def test_the_payloads_would_run(tmp_path, monkeypatch):
    """Python's own unpickler obeys the files above, so they are refused for a reason."""
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(Pickle().dumps(Call(SYSTEM, (COMMAND,)))) == 0
    assert (tmp_path / "ran").exists()
